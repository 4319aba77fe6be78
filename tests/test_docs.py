"""The pages of docs/: their Python examples run as they stand, and what they point at exists.

Those of extending.md are appended to files and run by test_extending.py.
"""

import os
import re
import subprocess
import sys

import pytest

from nat_lib.files import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
EXAMPLES = {
    page.stem: "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M))
    for page in [*PAGES, ROOT / "README.md"]
    if page.stem != "extending"
}


@pytest.mark.parametrize("page", [name for name, code in EXAMPLES.items() if code])
def test_the_examples_of_a_page_run(page, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLES[page]],
        text=True,
        timeout=300,
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda p: p.stem)
def test_what_a_page_points_at_exists(page):
    text = page.read_text()
    links = re.findall(r"\]\(([^)#]+)\)", text)
    named = re.findall(r"`((?:nat_lib|docs|tests|params|benchmarks|notebooks)/[\w./-]+)`", text)
    files = [page.parent / link for link in links if not link.startswith("http")] + [
        ROOT / name for name in named
    ]
    assert not [str(f) for f in files if not f.exists()]
