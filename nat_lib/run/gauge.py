"""How large the library is: syntax-tree nodes, the measure of how much there is to understand."""

import ast
from pathlib import Path
from typing import NamedTuple

LIBRARY = Path(__file__).resolve().parents[1]


class Size(NamedTuple):
    """nodes of the syntax trees, lines that are not empty, lines of the longest file."""

    nodes: int
    lines: int
    longest: int


def measured(folder: Path = LIBRARY) -> Size:
    """Size of all Python files under a folder."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))]
    nodes = sum(sum(1 for _ in ast.walk(ast.parse(text))) for text in texts)
    lines = sum(1 for text in texts for line in text.splitlines() if line.strip())
    return Size(nodes, lines, max(len(text.splitlines()) for text in texts))


def main(argv: list[str] | None = None) -> int:
    """Print the size of the library, by folder and in all."""
    for folder in [*sorted(path for path in LIBRARY.iterdir() if path.is_dir()), LIBRARY]:
        if any(folder.rglob("*.py")):
            size = measured(folder)
            name = "nat_lib" if folder == LIBRARY else folder.name
            print(f"{name:12} {size.nodes:7} nodes {size.lines:6} lines {size.longest:5} at most")
    return 0
