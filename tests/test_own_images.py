"""From a folder of JPEGs to a network in ONNX Runtime, by the one command of docs/own_images.md."""

import os
import subprocess
import sys

import numpy as np
import onnxruntime
from PIL import Image
from tiny import write_profile

from nat_lib import files
from nat_lib.files import ROOT

CLASSES = ["amber", "blue", "grey"]


def draw(folder, n=40, seed=0):
    """Three colours with noise, JPEGs of different sizes."""
    rng = np.random.default_rng(seed)
    for name, colour in zip(CLASSES, ((220, 160, 40), (40, 80, 200), (128, 128, 128)), strict=True):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            side = tuple(rng.integers(40, 80, 2))
            pixels = np.clip(np.array(colour) + rng.normal(0, 40, (*side, 3)), 0, 255).astype(
                np.uint8
            )
            Image.fromarray(pixels).save(folder / name / f"{i}.jpg")


def test_a_folder_goes_in_and_a_network_comes_out(tmp_path):
    draw(tmp_path / "pictures")
    small = {
        "supernets": {"1.0": ["EE_D"], "1.2": []},
        "nat_supernets": {"1": [], "2": [], "3": [], "4": ["EE_D"]},
        "searches": {"1": [], "2": [], "3": [], "4": ["acc+macs"]},
        "post_searches": {"1": [], "4": ["acc+macs"]},
        "min_full_epochs": 4,
    }
    write_profile(tmp_path / "tiny.yaml", **small)
    done = subprocess.run(
        [
            ROOT / "run_all.sh",
            "--profile",
            tmp_path / "tiny.yaml",
            "--dataset",
            "folder",
            "--data-dir",
            tmp_path / "pictures",
            "--only",
            "02,04,05,06,10",
            "--out",
            tmp_path / "out",
        ],
        text=True,
        timeout=900,
        check=False,
        capture_output=True,
        env=os.environ | {"NAT_PYTHON": sys.executable, "XDG_CACHE_HOME": str(tmp_path / "c")},
    )
    assert done.returncode == 0, done.stdout + done.stderr

    folder = tmp_path / "out" / "06_pareto_browser" / "recommended"
    card = files.read_json(folder / "subnet.json")
    assert card["worth"].startswith("The search ")
    told = files.read_json(tmp_path / "out/notebooks/06_pareto_browser/report.json")["metrics"]
    tuned = card["origin"]["study"] == "post_processing"
    assert told["taken"] == ("fine-tuned" if tuned else "as the search left it")
    assert card["classes"] == CLASSES
    assert {"subnet.onnx", "subnet.pt2", "subnet.safetensors", "README.md"} <= {
        p.name for p in folder.iterdir()
    }
    network, side = onnxruntime.InferenceSession(folder / "subnet.onnx"), card["input"]["size"]
    images = np.random.default_rng(0).normal(size=(5, 3, side, side)).astype(np.float32)
    logits = network.run(None, {network.get_inputs()[0].name: images})[0]
    assert logits.shape == (5, 3) and np.isfinite(logits).all()
