"""The Pareto browser with 10 000 archived subnets on the screen: milliseconds from an event to the
changed page.

Four searches of 2 500 archived subnets over four iterations are written into a temporary outputs
folder; notebook 06 shows them in JupyterLab, in Chromium without a window.  Timed in the page, from
the key press until the page has changed and been painted.  A picked subnet shows its numbers, its
drawing and the ring around it: all are timed.

    python benchmarks/bench_browser.py [--turns 20] [--json PATH]
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from nat_lib import files, machine

sys.path.append(str(files.ROOT / "tests"))
from laboratory import (
    PAGE,
    REMEDY,
    lay_search,
    opened,
    run_all,
    slider,
    tools,
    wait,
    with_parameters,
)

TARGET = 200.0  # ms
TIMER = """
const [element, key, signs, done] = arguments, began = performance.now(), marks = {};
const before = Object.fromEntries(Object.entries(signs).map(([name, code]) => [name, eval(code)]));
const look = () => {
  for (const [name, code] of Object.entries(signs))
    if (!(name in marks) && eval(code) !== before[name]) marks[name] = performance.now();
  if (performance.now() - began > 10000) return done(null);
  if (Object.keys(marks).length < Object.keys(signs).length) return setTimeout(look, 1);
  requestAnimationFrame(() => requestAnimationFrame(() => {
    const painted = performance.now() - Math.max(...Object.values(marks));
    const passed = Object.entries(marks).map(([name, at]) => [name, at - began + painted]);
    done(Object.fromEntries(passed));
  }));
};
element.focus();
element.dispatchEvent(new KeyboardEvent('keydown', {key: key, bubbles: true}));
look();
"""
POINTS = (
    "nat.figure()._fullData.map(t => t.x ? t.x.length + ':' + t.x[0] + ':' + t.y[0] : '').join()"
)
SIGNS = {
    "iteration": {"iteration slider": POINTS},
    "MACs ≤": {"limit slider": "nat.text('.nat-status')"},
    "front point": {
        "next front point: numbers": "nat.text('.nat-table')",
        "next front point: drawing": "document.querySelector('.nat-browser .nat-subnet').outerHTML",
        "next front point: ring": "nat.marked('circle-open').join()",
    },
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--turns", type=int, default=20, help="timed events of each kind (default 20)"
    )
    parser.add_argument("--json", metavar="PATH", help="also write the rows and the machine there")
    chosen = parser.parse_args()
    if not tools():
        sys.exit(f"bench_browser.py {REMEDY}")
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), np.random.default_rng(0)
        for supernet, phase in (("BASE", 1), ("EE_D", 1), ("BASE", 4), ("EE_D", 4)):
            lay_search(folder / "outputs", rng, supernet, phase, archive=2500, iterations=3)
        with_parameters(
            files.ROOT / "notebooks/06_pareto_browser.ipynb",
            folder / "browser.ipynb",
            out=str(folder / "outputs"),
            figures=str(folder / "figures"),
            export_recommended=False,
        )
        with opened(folder / "browser.ipynb", folder) as page:
            run_all(page)
            page.execute_script(PAGE)
            wait(
                lambda: page.execute_script("return !!(nat.figure() && nat.figure()._fullData)"),
                60,
                "the figure",
            )
            page.set_script_timeout(30)
            page.execute_script("document.querySelector('.nat-browser').scrollIntoView()")
            times = timed(page, chosen.turns)
    rows = [
        {
            "what": name,
            "median ms": np.median(t),
            "90 % below": np.quantile(t, 0.9),
            "target": TARGET,
            "met": bool(np.median(t) < TARGET),
        }
        for name, t in times.items()
    ]
    print(pd.DataFrame(rows).round(0).to_string(index=False))
    if chosen.json:
        files.write_json(chosen.json, {"rows": rows, "environment": machine.environment()})


def timed(page, turns):
    """{what: [ms]} of key presses on the sliders, one after the other."""
    from selenium.webdriver.common.keys import Keys

    times = {}
    for label, signs in SIGNS.items():
        handle = slider(page, label)
        if label == "front point":
            press(page, handle, "Home", signs)
        elif label == "MACs ≤":  # to where each step hides some
            handle.send_keys(Keys.PAGE_DOWN * 15)
            wait(
                lambda: (
                    page.execute_script("return nat.text('.nat-status')")
                    == (time.sleep(2) or page.execute_script("return nat.text('.nat-status')"))
                ),
                60,
                "the limit to be reached",
            )
        for k in range(turns + 1):
            key = "ArrowRight" if label == "front point" else ("ArrowLeft", "ArrowRight")[k % 2]
            found = press(page, handle, key, signs)
            for name, ms in (found or {}).items():
                times.setdefault(name, []).append(ms)
            if not found:
                sys.exit(
                    "bench_browser.py: the page did not change within 10 s of a key on the slider "
                    f"{label!r}"
                )
    return {name: t[1:] for name, t in times.items()}  # the first one warms up


def press(page, handle, key, signs):
    return page.execute_async_script(TIMER, handle, key, signs)


if __name__ == "__main__":
    main()
