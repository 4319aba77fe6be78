"""The house: imports point one way, tables are light, files and expressions stay small."""

import ast
import subprocess
import sys

import pytest

from nat_lib.files import ROOT

LIBRARY = ROOT / "nat_lib"
MODULES = {
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
    for p in sorted(LIBRARY.rglob("*.py"))
}
# A module may import what stands before it, never what stands behind it (docs/ARCHITECTURE.md).
ORDER = (
    "errors",
    "files",
    ("ledger", "science"),
    ("cells", "machine"),
    ("blocks", "exit_weights"),
    "plans",
    "codes",
    ("genotypes", "subnet"),
    "arch",
    ("cost", "elastic"),
    "modules",
    "supernet",
    "growth",
    "pretrained",
    "starts",
    "kit",
    "backbone_table",
    "imagenet",
    "backbones",
    ("early", "precision"),
    "exits",
    "attentive",
    ("distill", "samplers"),
    ("curricula", "arms"),
    "recipes",
    "distributed",
    ("optimizers", "schedules"),
    "train",
    "residual",
    ("baselines", "latency", "latency_table"),
    "evaluate",
    ("data", "search", "stopping"),
    "relaxed",
    "studies",
    "results",
    "report",
    ("export", "browser"),
    "run",
)
RANK = {
    name: rank
    for rank, names in enumerate(ORDER)
    for name in ((names,) if isinstance(names, str) else names)
}
# What the library is now: it may shrink. 115 000 is the goal (docs/DECISIONS.md, The gauge).
NODES, NODES_PER_LINE, LINES = 235_500, 10, 400


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_at_the_top(path):
    """Names of the modules of the library that a file imports when it is imported itself."""
    for node in parsed(path).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nat_lib"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def room(module):
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) in RANK])
def test_imports_point_one_way(module):
    behind = [
        other
        for other in imports_at_the_top(MODULES[module])
        if RANK.get(room(other), -1) > RANK[room(module)]
    ]
    assert not behind, f"{module} imports {behind}, which stand behind it"


def test_every_file_has_its_place_in_the_order():
    """But for the command lines: __main__ and the names of old that call them."""
    placed = {room(m) for m in MODULES} - {"", "__main__", "nbrun", "shrink", "nat"}
    assert placed == set(RANK)


@pytest.mark.parametrize("module", MODULES)
def test_no_module_uses_a_private_name_of_another(module):
    tree = parsed(MODULES[module])
    modules, taken = set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nat_lib"):
            names = {alias.asname or alias.name: alias.name for alias in node.names}
            taken += [name for name in names.values() if name.startswith("_")]
            modules |= {a for a, name in names.items() if f"{node.module}.{name}" in MODULES}
    taken += [
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in modules
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
    ]
    assert not taken, f"{module} uses {taken}"


@pytest.mark.parametrize("folder", ["search", "results"])
def test_search_and_results_do_without_torch(folder):
    names = [m for m in MODULES if m.startswith(f"nat_lib.{folder}")]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_parameters_and_tables_import_without_torch():
    names = ("run.params", "run.jobs", "run.drive", "studies", "samplers", "distill", "curricula")
    listed = ", ".join(f"nat_lib.{name}" for name in names)
    code = f"import sys, {listed}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_long(module):
    lines = MODULES[module].read_text(encoding="utf-8").count("\n")
    assert lines <= LINES, f"{MODULES[module]}: {lines} lines, split it where its subject changes"


def test_the_gauge(capsys):
    """Syntax-tree nodes of the library, and per line that is not blank."""
    nodes = sum(sum(1 for _ in ast.walk(parsed(path))) for path in MODULES.values())
    lines = sum(
        bool(line.strip())
        for path in MODULES.values()
        for line in path.read_text(encoding="utf-8").splitlines()
    )
    with capsys.disabled():
        print(f"\ngauge: {nodes} syntax-tree nodes, {nodes / lines:.1f} per non-blank line")
    assert nodes <= NODES
    assert nodes / lines <= NODES_PER_LINE
