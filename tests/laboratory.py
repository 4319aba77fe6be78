"""Searches written without a network, and a notebook opened in JupyterLab by a real browser without
a window."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import nbformat
import numpy as np
import pandas as pd

from nat_lib import files
from nat_lib.arch import Space
from nat_lib.cells import open_cell
from nat_lib.cost import count
from nat_lib.search.objectives import OBJECTIVES, Subject

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
REMEDY = (
    "needs Chromium, its driver and selenium: apt-get install chromium chromium-driver; "
    "pip install selenium jupyterlab"
)


# ----------------------------------------------------------------------------------------- searches


def lay_search(
    out,
    rng,
    supernet="EE_D",
    phase=4,
    objectives="acc+macs",
    seed=0,
    archive=12,
    iterations=2,
    dataset="digits_turned",
):
    """The files of a finished search whose errors come from a formula; returns its folder.

    Every iteration replaces a quarter of the archive by new subnets and measures all of it again.
    """
    space = Space(supernet, (28, 32, 36, 40, 44), (1.0, 1.2), (8, 8, 16, 24, 32, 40))
    names = objectives.split("+")[1:]
    fresh = max(1, archive // 4)
    n = archive + iterations * fresh
    X = rng.permutation(
        np.unique(space.active(space.sample_genotypes(2 * n, rng, "architecture")), axis=0)
    )[:n]
    costs = count(X, space, 5)
    subject = Subject(space, 5, latency=lambda X: 1 + count(X, space, 5).macs_tp.to_numpy() / 1e6)
    cost = {name: OBJECTIVES[name].function(subject, X) for name in names}
    codes = np.array([" ".join(map(str, x)) for x in X])
    start, rows, proposed = (
        75 - 12 * np.log10(costs.macs_tp / 2e5) + rng.normal(0, 4, len(X)),
        [],
        [],
    )
    for k in range(iterations + 1):
        at = np.arange(k * fresh, k * fresh + archive)
        error = np.round(start[at] - k + rng.normal(0, 0.5, archive), 2)
        rows.append(
            pd.DataFrame(
                {
                    "iteration": k,
                    "code": codes[at],
                    "error": error,
                    **{n: cost[n][at] for n in names},
                    "born": np.maximum(0, (at - archive) // fresh + 1),
                }
            )
        )
        new = rows[-1][rows[-1].born == k] if k else rows[-1][:0]
        proposed.append(
            new.assign(predicted=new.error + rng.normal(0, 3, len(new))).drop(columns="born")
        )
    last = rows[-1]
    cell = open_cell(
        out,
        "natv2_phases",
        f"{dataset}/{supernet}_p{phase}_{objectives}_s{seed}",
        {
            "supernet": supernet,
            "phase": phase,
            "objectives": objectives,
            "dataset": dataset,
            "seed": seed,
            "profile": "smoke",
            "space": space,
            "n_classes": 5,
            "data": {"sizes": {"val": 108, "test": 181}},
            "tradeoff_reduce": "min",
            "tradeoff_normalise": True,
            "latency": "table",
        },
    )
    files.write_csv(cell.path("archive.csv"), pd.concat(rows))
    columns = ["iteration", "code", "predicted", "error", *names]
    files.write_csv(cell.path("candidates.csv"), pd.concat(proposed)[columns])
    files.write_csv(
        cell.path("subnets.csv"),
        pd.DataFrame(
            {
                "code": last.code,
                "test_top1": 99 - last.error,
                "latency_ms": 2.0,
                "latency_iqr": 0.25,
            }
        )[: archive // 2],
    )
    cell.finish(
        {
            "hypervolume": [0.1] * (iterations + 1),
            "front": 3,
            "seconds": 1.0,
            "n_test": 181,
            "latency": None,
            "reference": (1.01 * rows[0][["error", *names]].max()).tolist(),
        },
        seconds=1.0,
    )
    return cell.folder


# -------------------------------------------------------------------------------------- the browser


def tools():
    """(Chromium, its driver) on this machine; None if one of them, or selenium, is missing."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return None
    browser, driver = (
        next(filter(None, map(shutil.which, CHROMIUM)), None),
        shutil.which("chromedriver"),
    )
    return (browser, driver) if browser and driver else None


def with_parameters(source, copy, /, **values):
    """A copy of a notebook whose parameters cell holds other values."""
    notebook = nbformat.read(source, as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    for name, value in values.items():
        cell.source, found = re.subn(
            rf"^{name} = .*$", f"{name} = {value!r}", cell.source, flags=re.M
        )
        assert found == 1, name
    nbformat.write(notebook, copy)


@contextmanager
def opened(notebook, folder, size=(1400, 900), scale=1.0):
    """A selenium driver that has a notebook open in JupyterLab, alone in its window; both are
    stopped at the end.

    folder : for all that Lab, the kernel and the browser write
    """
    from selenium import webdriver

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, place = (
        secrets.token_hex(16),
        {f"JUPYTER_{k}_DIR": str(folder / k) for k in ("CONFIG", "DATA", "RUNTIME")},
    )
    quiet = (
        folder
        / "CONFIG/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    )
    files.write_text(quiet, '{"fetchNews": "false", "checkForUpdates": false}')
    environment = (
        os.environ
        | place
        | {
            "IPYTHONDIR": str(folder / "ipython"),
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(files.ROOT), os.environ.get("PYTHONPATH")])
            ),
        }
    )
    environment.pop("NAT_BATCH", None)
    with open(folder / "lab.log", "w") as log:
        lab = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                "--no-browser",
                "--allow-root",
                f"--ServerApp.port={port}",
                "--ServerApp.port_retries=0",
                "--ServerApp.terminals_enabled=False",
                f"--IdentityProvider.token={token}",
                f"--ServerApp.root_dir={notebook.parent}",
            ],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    driver = None
    try:
        wait(
            lambda: _answers(f"http://127.0.0.1:{port}/api?token={token}"),
            90,
            f"JupyterLab, see {folder}/lab.log",
        )
        options = webdriver.ChromeOptions()
        options.binary_location, path = tools()
        for argument in (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--no-first-run",
            "--enable-unsafe-swiftshader",
            f"--user-data-dir={folder / 'chromium'}",
            f"--window-size={size[0]},{size[1]}",
            f"--force-device-scale-factor={scale}",
        ):
            options.add_argument(argument)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(path))
        driver.get(f"http://127.0.0.1:{port}/doc/tree/{notebook.name}?token={token}&reset")
        wait(
            lambda: driver.find_elements("css selector", ".jp-Notebook .jp-Cell"),
            120,
            "the notebook",
        )
        wait(
            lambda: "Idle" in driver.find_element("css selector", "#jp-main-statusbar").text,
            120,
            "the kernel",
        )
        yield driver
    finally:
        if driver:
            driver.quit()
        os.killpg(lab.pid, signal.SIGTERM)
        try:
            lab.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(lab.pid, signal.SIGKILL)
            lab.wait()


def _answers(url):
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except OSError:
        return False


def wait(condition, seconds, what, every=0.2):
    """The first true value of condition(); an AssertionError that names what did not come."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(every)
    raise AssertionError(f"waited {seconds} s in vain for {what}")


def run_all(driver, seconds=300):
    """Run > Run All Cells, until the last cell has its number; fails with the text of an error."""
    menu(driver, "Run", "Run All Cells")
    prompts = (
        "return [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
        ".map(e => e.textContent)"
    )
    wait(
        lambda: (
            all(re.search(r"\[\d+\]", p) for p in driver.execute_script(prompts)) or errors(driver)
        ),
        seconds,
        "the last cell",
    )
    assert not errors(driver), errors(driver)


def errors(driver):
    return driver.execute_script(
        "return [...document.querySelectorAll('.jp-OutputArea-output[data-mime-type=\""
        "application/vnd.jupyter.error\"]')].map(e => e.textContent.slice(-2000))"
    )


def menu(driver, name, entry):
    next(
        e
        for e in driver.find_elements("css selector", ".lm-MenuBar-item")
        if e.text.strip() == name
    ).click()
    wait(lambda: driver.find_elements("css selector", ".lm-Menu-item"), 10, f"the menu {name}")
    next(
        e
        for e in driver.find_elements("css selector", ".lm-Menu-item")
        if e.text.strip().startswith(entry)
    ).click()


def slider(driver, label):
    """The handle of the slider with this description, to which keys can be sent."""
    row = next(
        e
        for e in driver.find_elements("css selector", ".nat-browser .widget-slider")
        if e.find_element("css selector", "label").text.strip() == label
    )
    return row.find_element("css selector", ".noUi-handle")


def button(driver, label):
    return next(
        e
        for e in driver.find_elements("css selector", ".nat-browser button")
        if e.text.strip() == label
    )


# Functions of the page: the large figure, its traces by name, and where on the screen a point of
# one lies.
PAGE = """
window.nat = {
  figure: () => document.querySelector('.nat-browser .js-plotly-plot'),
  trace: name => nat.figure()._fullData.find(t => t.name === name),
  xs: name => Array.from(nat.trace(name).x || []).filter(x => x !== null),
  at: (name, i) => {
    const layout = nat.figure()._fullLayout, box = nat.figure().getBoundingClientRect();
    const t = nat.trace(name);
    return [box.left + layout.xaxis._offset + layout.xaxis.d2p(t.x[i]),
            box.top + layout.yaxis._offset + layout.yaxis.d2p(t.y[i])];
  },
  marked: symbol => {
    const t = nat.figure()._fullData.find(t => t.marker && t.marker.symbol === symbol);
    return Array.from(t.x || []).filter(x => x !== null);
  },
  text: selector => [...document.querySelectorAll('.nat-browser ' + selector)]
    .map(e => e.textContent).join('\\n'),
};
"""
