"""An executed notebook as one HTML file that can be mailed: prose, tables that sort, figures
inside, no code.

What the page is made of lies in `template/`: its frame, its style sheet, its script.
"""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import jinja2
import nbformat
from nbconvert import HTMLExporter

from nat_lib import files

TEMPLATE = Path(__file__).parent / "template"


class Heading(NamedTuple):
    """A heading of the page, and where a link finds it."""

    level: int
    id: str
    text: str


class _Headings(HTMLParser):
    """Collects the headings of some HTML, as `found`."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if re.fullmatch("h[1-6]", tag):
            self.open = True
            self.found.append(Heading(int(tag[1]), dict(attributes).get("id", ""), ""))

    def handle_endtag(self, tag):
        if re.fullmatch("h[1-6]", tag):
            self.open = False

    def handle_data(self, data):
        if self.open:
            last = self.found.pop()
            self.found.append(last._replace(text=last.text + data))


def write(notebook, path):
    """Write the page of an executed notebook (file) to `path`; returns the path. Nothing in it
    points elsewhere. The contents stand below the first cell, which holds the title."""
    source = nbformat.read(notebook, as_version=4)
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        anchor_link_text="",
        sanitize_html=False,
    )
    opening, body = (
        exporter.from_notebook_node(nbformat.from_dict({**source, "cells": cells}))[0]
        for cells in (source.cells[:1], source.cells[1:])
    )
    headings = _Headings(opening + body).found
    titles = [heading.text for heading in headings if heading.level == 1]
    sections = [heading for heading in headings if heading.level == 2]
    contents = [h._replace(text=re.sub(r"^\d+\.\s+", "", h.text)) for h in sections]
    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE, encoding="utf-8"),
        autoescape=True,
        keep_trailing_newline=True,
    ).get_template("page.html.j2")
    title = titles[0] if titles else Path(path).stem
    parts = {"title": title, "contents": contents, "opening": opening, "body": body}
    files.write_text(path, page.render(parts))
    return path
