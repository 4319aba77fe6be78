"""The report as one file: everything inside, nothing outside, tables that a browser can sort."""

import base64
import re
from html.parser import HTMLParser

import nbformat
from nbformat import v4

from nat_lib.report import page

PIXEL = base64.b64encode(b"not really a picture").decode()
TABLE = (
    "<table><thead><tr><th>name</th><th>value</th></tr></thead><tbody><tr><td>a</td><td>10.5</td></tr>"
    "<tr><td>b</td><td>9.2</td></tr><tr><td>c</td><td>-3</td></tr></tbody></table>"
)


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def executed():
    return v4.new_notebook(
        cells=[
            v4.new_markdown_cell("# A report\n\nIts first words."),
            v4.new_markdown_cell("## 1. Numbers & more"),
            v4.new_code_cell(
                "secret_code()",
                execution_count=1,
                outputs=[
                    v4.new_output(
                        "execute_result",
                        {"text/html": TABLE, "text/plain": "a table"},
                        execution_count=1,
                    )
                ],
            ),
            v4.new_markdown_cell("## 2. Pictures"),
            v4.new_code_cell(
                "plot()",
                execution_count=2,
                outputs=[
                    v4.new_output("display_data", {"image/png": PIXEL, "text/plain": "a figure"})
                ],
            ),
        ]
    )


def test_everything_is_inside_and_nothing_outside(tmp_path):
    nbformat.write(executed(), tmp_path / "r.ipynb")
    text = page.write(tmp_path / "r.ipynb", tmp_path / "r.html").read_text()
    tags = Tags(text).found
    assert "Its first words." in text and TABLE in text and PIXEL in text
    assert "secret_code" not in text and "plot()" not in text
    assert re.search("<title>(.*?)</title>", text)[1] == "A report"
    outside = [
        a
        for _, a in tags
        for key in ("src", "href")
        if key in a and not a[key].startswith(("data:", "#"))
    ]
    assert not outside and "@import" not in text and "url(http" not in text
    assert not [a for tag, a in tags if tag == "link"]


def test_the_contents_lead_to_the_headings(tmp_path):
    nbformat.write(executed(), tmp_path / "r.ipynb")
    tags = Tags(page.write(tmp_path / "r.ipynb", tmp_path / "r.html").read_text()).found
    anchors = [a for tag, a in tags if tag == "a" and a.get("class") != "anchor-link"]
    links = [a["href"][1:] for a in anchors]
    assert len(links) == 2 and links == [a["id"] for tag, a in tags if tag == "h2"]


def test_equal_notebooks_give_equal_bytes(tmp_path):
    nbformat.write(executed(), tmp_path / "r.ipynb")
    one, two = (
        page.write(tmp_path / "r.ipynb", tmp_path / name).read_bytes()
        for name in ("a.html", "b.html")
    )
    assert one == two
