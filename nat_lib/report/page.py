"""An executed notebook as one HTML file that can be mailed: prose, tables that sort, figures
inside, no code."""

import html
import re

import nbformat
from nbconvert import HTMLExporter

from nat_lib import files

STYLE = """
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; color: #222; }
img { max-width: 100%; height: auto; }
h1, h2, h3 { line-height: 1.25; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
nav ol { columns: 2; padding-left: 1.4rem; }
pre { white-space: pre-wrap; } .table, .jp-OutputArea-output { overflow-x: auto; }
table { border-collapse: collapse; margin: .7rem 0; font-variant-numeric: tabular-nums; }
td, th { padding: .15rem .5rem; } tbody tr:nth-child(even) { background: #f5f5f5; }
caption { caption-side: top; text-align: left; }
th.sorts { cursor: pointer; } th.sorts:hover, th.sorts:focus { background: #e8eef5; }
th[aria-sort=ascending]::after { content: " \\25B4"; } th[aria-sort=descending]::after { content: " \\25BE"; }
@media print { nav { display: none; } }
"""
# Tables whose body is a plain grid: a click (or Enter) on a heading sorts by that column, numbers
# as numbers.
SORTING = """
const key = cell => { const text = cell.innerText.trim().split("\\n")[0];
  const number = parseFloat(text.replace("\\u2212", "-")); return [isNaN(number), isNaN(number) ? text : number]; };
const order = (a, b) => a[0] !== b[0] ? a[0] - b[0] : a[1] < b[1] ? -1 : a[1] > b[1] ? 1 : 0;
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], head = table.tHead && table.tHead.rows[table.tHead.rows.length - 1];
  if (!body || !head || body.rows.length < 3 || body.querySelector("[rowspan], [colspan]")
      || head.cells.length !== body.rows[0].cells.length) continue;
  [...head.cells].forEach((th, i) => {
    th.classList.add("sorts"); th.tabIndex = 0; th.title = "sort by this column";
    const sort = () => {
      const up = th.getAttribute("aria-sort") !== "ascending";
      [...head.cells].forEach(other => other.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map(row => [key(row.cells[i]), row]);
      rows.sort((a, b) => (up ? 1 : -1) * order(a[0], b[0]));
      body.append(...rows.map(row => row[1]));
    };
    th.onclick = sort; th.onkeydown = event => { if (event.key === "Enter") sort(); };
  });
}
"""


def write(notebook, path):
    """Write the page of an executed notebook (file) to `path`; returns the path. Nothing in it
    points elsewhere."""
    source = nbformat.read(notebook, as_version=4)
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        sanitize_html=False,
    )
    body, _ = exporter.from_notebook_node(source)
    body = re.sub(r'<a class="anchor-link".*?</a>', "", body, flags=re.S)
    title = re.search(r"<h1[^>]*>(.*?)</h1>", body, re.S)
    headings = re.findall(r'<h2 id="([^"]+)"[^>]*>(.*?)</h2>', body, re.S)
    contents = "".join(
        f'<li><a href="#{at}">{re.sub(r"^[0-9]+[.] ", "", text)}</a></li>' for at, text in headings
    )
    nav = f"<nav><ol>{contents}</ol></nav>"
    body = re.sub(r"(</h1>)", lambda m: m[1] + nav, body, count=1)
    files.write_text(
        path,
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title[1] if title else html.escape(path.stem)}</title>\n<style>{STYLE}</style>\n</head>\n"
            f"<body>\n{body}\n<script>{SORTING}</script>\n</body>\n</html>\n"
        ),
    )
    return path
