"""Input pipeline: batches from the decoded store against torchvision's ImageFolder and PIL with 2
workers.

5 000 synthetic 64 x 64 JPEGs in 20 classes, batches of 100 at 64 pixels.  Training: random resized
crop (area 0.85 to 1), flip, normalisation.  Validation: resize to 74, central 64, normalisation.
Prints images per second of both and the median of the ratios of paired rounds.  Timing is gated and
interleaved: a matrix product before and after each call tells whether the machine is disturbed.

    python benchmarks/bench_input.py [--rounds 5] [--threads 2]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from nat_lib.data import load

SIZE, BATCH, IMAGES, CLASSES = 64, 100, 5000, 20


def write_images(root):
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        folder = root / f"class{i % CLASSES:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(
            folder / f"{i:05d}.jpg", quality=90
        )


def probe(side=1024):
    """Seconds of one matrix product."""
    a = torch.ones(side, side)
    began = time.perf_counter()
    a @ a
    return time.perf_counter() - began


def gated(call, best):
    """Seconds of one call, started when the machine is quiet and repeated (at most 3 times) if it
    was disturbed."""
    for _ in range(3):
        waiting = time.perf_counter()
        while probe() > 1.3 * best and time.perf_counter() - waiting < 3:
            pass
        began = time.perf_counter()
        call()
        seconds = time.perf_counter() - began
        if probe() <= 1.6 * best:
            break
    return seconds


def variants(root, cache):
    """{name: (images, call)}: one epoch of each pipeline."""
    ours = load("folder", root, cache=cache, valid=1, test=1)
    normalise = [transforms.ToTensor(), transforms.Normalize(ours.mean, ours.std)]
    training = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, (0.85, 1.0)),
            transforms.RandomHorizontalFlip(),
            *normalise,
        ]
    )
    validation = transforms.Compose(
        [transforms.Resize(74), transforms.CenterCrop(SIZE), *normalise]
    )

    def peer(transform, shuffle):
        folder = datasets.ImageFolder(root, transform)
        return lambda: [
            len(y) for _, y in DataLoader(folder, BATCH, shuffle=shuffle, num_workers=2)
        ]

    epochs = iter(range(10**9))
    n = len(ours.train)
    list(ours.eval_batches("train", SIZE, BATCH))  # resized once, then read
    return {
        "train, peer": (IMAGES, peer(training, True)),
        "train, ours": (
            n,
            lambda: [len(y) for _, y in ours.train_batches(next(epochs), BATCH, (SIZE,))],
        ),
        "validation, peer": (IMAGES, peer(validation, False)),
        "validation, ours": (
            n,
            lambda: [len(y) for _, y in ours.eval_batches("train", SIZE, BATCH)],
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "images")
        calls = variants(Path(folder) / "images", Path(folder) / "cache")
        for _, call in calls.values():
            call()
        best = min(probe() for _ in range(20))
        speed = {name: [] for name in calls}
        for i in range(arguments.rounds):
            for name in list(calls)[:: -1 if i % 2 else 1]:
                images, call = calls[name]
                speed[name].append(images / gated(call, best))
    for what in ("train", "validation"):
        ours, peer = speed[f"{what}, ours"], speed[f"{what}, peer"]
        ratio = np.median(np.divide(ours, peer))
        print(
            f"{what:10}  ours {np.median(ours):8,.0f} img/s (best {max(ours):8,.0f})   "
            f"peer {np.median(peer):6,.0f} img/s (best {max(peer):6,.0f})   ratio {ratio:.1f}"
        )


if __name__ == "__main__":
    main()
