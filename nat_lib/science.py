"""The code that a number came from: the definitions of all modules that a study imports.

Compared are syntax trees, so comments, docstrings, annotations, formatting and the texts of errors
do not count. Neither do additions: a new function, class, constant, import or row of a table
leaves finished work as it was made; a change of a definition that was there makes it stale.
Modules that move files and cells about (`PLUMBING`) are no science, and what only reports is
imported by no study.
"""

import ast
import hashlib
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from nat_lib.files import ROOT, hash_of

PLUMBING = (
    "nat_lib.errors",
    "nat_lib.files",
    "nat_lib.cells",
    "nat_lib.machine",
    "nat_lib.science",
    "nat_lib.run.",
)
WITHOUT_MEANING = ("annotation", "returns", "type_comment", "type_params", "ctx", "kind")
DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
Definitions = dict[str, dict[str, str]]


def science(module: str) -> str:
    """12 hex characters of all code that the numbers of a module depend on, such as
    "nat_lib.studies.eps"."""
    return hash_of(definitions(module))


@lru_cache
def definitions(module: str) -> Definitions:
    """{module: {definition: 8 hex characters}} of a module and of all that it imports, directly or
    not. Read once a process: what is imported does not change while it runs."""
    if module == "__main__":
        module = sys.modules["__main__"].__spec__.name  # type: ignore[union-attr]
    found: Definitions = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name.startswith(PLUMBING) or not _file(name).exists():
            continue
        found[name], imported = _module(name)
        waiting += imported
    return dict(sorted(found.items()))


def changes(then: Definitions, module: str) -> list[str]:
    """What has changed of the code `then` ("train.py: fit, sgd", ...); empty if nothing that was
    there has."""
    now = definitions(module)
    told = []
    for name, parts in then.items():
        present = now.get(name, {})
        changed = [part for part, value in parts.items() if present.get(part) != value]
        if changed:
            told.append(f"{_file(name).relative_to(ROOT / 'nat_lib')}: {', '.join(changed)}")
    return told


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@lru_cache
def _module(name: str) -> tuple[dict[str, str], list[str]]:
    """({definition: hash}, names of the modules it may import) of one module of the library."""
    tree = ast.parse(_file(name).read_bytes())
    parts = {
        key: hashlib.sha256(_meaning(value)).hexdigest()[:8]
        for statement in tree.body
        for key, value in _parts(statement)
    }
    imported = [
        module
        for node in ast.walk(tree)
        for module in _imported(node)
        if module.startswith("nat_lib.")
    ]
    return parts, imported


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        inner = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name if _file(name).exists() else node.module for name in inner]
    return []


def _parts(node: ast.stmt) -> list[tuple[str, ast.AST]]:
    """(name, tree) of what a statement of a module defines; a table is defined row by row."""
    if isinstance(node, DOCUMENTED):
        return [] if node.name == "main" else [(node.name, node)]
    if isinstance(node, ast.Import | ast.ImportFrom):
        where = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        return [
            (f"import {alias.asname or alias.name}", ast.Name(f"{where}{alias.name}"))
            for alias in node.names
        ]
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        name = ast.unparse(targets[0])
        if isinstance(node.value, ast.Dict) and all(
            isinstance(key, ast.Constant) for key in node.value.keys
        ):
            rows = zip(node.value.keys, node.value.values, strict=True)
            return [(f"{name}[{ast.unparse(key)}]", value) for key, value in rows if key]
        return [(name, node.value)]
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return []  # a docstring
    told = ast.unparse(node)
    return [] if told.startswith("if __name__ ==") else [(told.partition("\n")[0], node)]


def _meaning(tree: object) -> bytes:
    """A syntax tree as text, without what does not change what it computes."""
    words: list[str] = []
    _spell(tree, words.append)
    return "\n".join(words).encode()


def _spell(value: object, say: Callable[[str], None]) -> None:
    if isinstance(value, list):
        say("[")
        for item in value:
            _spell(item, say)
        say("]")
    elif isinstance(value, ast.Raise) and isinstance(value.exc, ast.Call):
        _spell(value.exc.func, say)  # not the text of the error
    elif isinstance(value, ast.AST):
        kind = type(value)
        say(kind.__name__)
        for name in _telling_fields(kind):  # type: ignore[arg-type]
            item = getattr(value, name, None)
            if name == "body" and isinstance(value, DOCUMENTED):
                item = _without_docstring(value.body)
            if item is not None and item != []:
                say(name)
                _spell(item, say)
    else:
        say(repr(value))


@lru_cache
def _telling_fields(kind: type[ast.AST]) -> list[str]:
    return [name for name in kind._fields if name not in WITHOUT_MEANING]


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return body[1:] if documented else body
