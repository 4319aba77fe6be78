"""Starts: the weights that a supernet begins its training with.  A new one is a function and a row.

A start is written as its row, those that need a file or folder as `row:PATH`.  The table imports
no torch.
Source of "ofa": Once-for-All, arXiv:1908.09791, and the state dicts that its authors publish.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

from nat_lib.errors import Refusal
from nat_lib.files import ROOT, read_json, sha256_of
from nat_lib.machine import note
from nat_lib.plans import NETWORKS
from nat_lib.pretrained import PRETRAINED, Pretrained

# layers of an inverted residual block, ours and the published code's
BLOCK = {
    "expand": "inverted_bottleneck.conv.conv",
    "bn1": "inverted_bottleneck.bn.bn",
    "depthwise": "depth_conv.conv.conv",
    "bn2": "depth_conv.bn.bn",
    "se.reduce": "depth_conv.se.fc.reduce",
    "se.expand": "depth_conv.se.fc.expand",
    "project": "point_linear.conv.conv",
    "bn3": "point_linear.bn.bn",
}
STEM = {
    "conv": "first_conv.conv",
    "bn": "first_conv.bn",
    "block.depthwise": "blocks.0.conv.depth_conv.conv",
    "block.bn2": "blocks.0.conv.depth_conv.bn",
    "block.project": "blocks.0.conv.point_linear.conv",
    "block.bn3": "blocks.0.conv.point_linear.bn",
}
TAIL = {
    "conv1": "final_expand_layer.conv",
    "bn": "final_expand_layer.bn",
    "conv2": "feature_mix_layer.conv",
    "linear": "classifier.linear",
}


def ofa_name(ours: str, n_stages: int, slots: int) -> str | None:
    """The published name of a tensor of a `Supernet`; None: it has no counterpart there (other
    exits than the last, branches beside the inverted residual)."""
    part, _, rest = ours.removeprefix("body.").partition(".")
    layer, _, tensor = rest.rpartition(".")
    if part == "transforms":
        slot, size = rest.split(".")
        step = {"5": "7to5", "3": "5to3"}[size]
        return f"blocks.{int(slot) + 1}.conv.depth_conv.conv.{step}_matrix"
    if part == "stem":
        return f"{STEM[layer]}.{tensor}"
    if part == "exits":
        position, _, layer = layer.partition(".")
        return f"{TAIL[layer]}.{tensor}" if int(position) == n_stages else None
    stage, _, level, branch, layer = layer.split(".", 4)
    if branch != "irb":
        return None
    return f"blocks.{slots * int(stage) + int(level) + 1}.conv.{BLOCK[layer]}.{tensor}"


def from_ofa(state: dict[str, Any], space, width: float, n_classes=None, seed=0, dropout=0.0):
    """A `Supernet` with the weights of a published OFA MobileNetV3 (kernels 3, 5, 7; expansions 3,
    4, 6; depths 2, 3, 4), whose subnets then compute the same.

    state     : its state dict, with or without classifier
    n_classes : None: those of its classifier; the classifier is taken where the numbers agree,
                otherwise it is fresh, like exits before the last.  Dense skips, where the space has
                them, change what the blocks compute together
    """
    from nat_lib.supernet import Supernet

    theirs = state.get(f"{TAIL['linear']}.bias")
    if n_classes is None and theirs is None:
        raise Refusal("this OFA state dict has no classifier: say for how many classes it is")
    net = Supernet(space, width, n_classes or len(theirs), seed, dropout)
    fits = theirs is not None and len(theirs) == net.n_classes
    pairs = {
        name: published
        for name in net.state_dict()
        if (published := ofa_name(name, space.n_stages, space.slots))
        and (fits or TAIL["linear"] not in published)
    }
    unused = set(state) - set(pairs.values())
    unused = {name for name in unused if TAIL["linear"] not in name}
    if missing := sorted({*pairs.values()} - {*state}) + sorted(unused):
        raise Refusal(
            f"no state dict of OFA's MobileNetV3, or of another space (first: {missing[0]}): use "
            "one of ofa_mbv3_d234_e346_k357 with plan=thesis and base_channels=null"
        )
    _take(net, {ours: state[published] for ours, published in pairs.items()})
    return net


def _take(net, tensors: dict[str, Any]) -> None:
    """Replace these tensors of a supernet; refuses other shapes before anything is replaced."""
    mine = net.state_dict()
    for name, tensor in tensors.items():
        if mine[name].shape != tensor.shape:
            raise Refusal(
                f"{name} has shape {tuple(mine[name].shape)} here and {tuple(tensor.shape)} in the "
                "weights to start from: give their plan, base_channels and width"
            )
    net.load_state_dict(mine | tensors)


# --------------------------------------------------------------------------------------- functions


def scratch(path, space, width, n_classes, seed, dropout):
    """Random weights."""
    from nat_lib.supernet import Supernet

    return Supernet(space, width, n_classes, seed, dropout)


def ofa(path, space, width, n_classes, seed, dropout):
    """See `from_ofa`; path: a file of torch."""
    return from_ofa(_read(path), space, width, n_classes, seed, dropout)


def _read(path) -> dict[str, Any]:
    """The state dict in a file of torch."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, UnpicklingError) as error:
        raise Refusal(f"{path} is no file of torch weights ({type(error).__name__})") from None
    if not isinstance(state, dict):
        raise Refusal(f"{path} holds a {type(state).__name__}, not a state dict of weights")
    return state.get("state_dict", state)


def cell(path, space, width, n_classes, seed, dropout):
    """The supernet of a finished phase of chapter 5: whatever of it this space has, too; its
    classifiers where they are for as many classes.  A narrower one grows (`growth`); residual
    blocks that it had not begin as identities."""
    from nat_lib.cells import read_report
    from nat_lib.files import load_weights
    from nat_lib.growth import NOISE, identities, widened
    from nat_lib.supernet import Supernet

    params = read_report(Path(path))["params"]
    if "space" not in params or not float(params["width"]) <= width:
        raise Refusal(f"{path} is no supernet of width {width} or less: name a phase of one")
    if float(params["width"]) < width:
        narrow = cell(path, space, float(params["width"]), n_classes, seed, dropout)
        return widened(narrow, width, seed, NOISE)
    weights = load_weights(Path(path) / "best.safetensors")
    if not any(name.startswith("transforms.") for name in weights):  # of the maximal network
        weights = {f"body.{name}": tensor for name, tensor in weights.items()}
    net = Supernet(space, width, n_classes, seed, dropout)
    mine = net.state_dict()
    fresh = {n for n in mine if ".linear." in n} if params["n_classes"] != n_classes else set()
    shared = {n: t for n, t in weights.items() if n in mine and n not in fresh}
    if not any(n.startswith("body.stages") for n in shared):
        raise Refusal(f"{path} has no stage in common with {space.name}")
    _take(net, shared)
    identities(net, shared)
    return net


def plain(depths, path, space, width, n_classes, seed, dropout):
    """See `pretrained.from_plain`; path: a file of torch."""
    from nat_lib.pretrained import from_plain

    return from_plain(_read(path), depths, space, width, n_classes, seed, dropout)


# --------------------------------------------------------------------------------------- the table

PLAN = "thesis"  # of starts that come with none of their own
KITS = Path(__file__).parent / "kits"  # supernets that ship, a folder each
PLAN_FILE = "plan.yaml"  # in such a folder
PHOTOGRAPHS = 48  # pixels that a kit must have been trained at for `auto` to take it


class Start(NamedTuple):
    """function : (path, space, width, n_classes, seed, dropout) -> `Supernet`
    words    : what it is
    file     : what its path names, in words; None: it has none
    weights  : (path) -> the file whose content decides
    found    : () -> the path where none is given; None: it must be given
    here     : () -> the path if it is on this machine: what `auto` asks
    plan     : (path) -> the plan, as in `plans.named`, that goes with it
    place    : (what is written behind the colon) -> the path
    """

    function: Callable[..., Any]
    words: str
    file: str | None = None
    weights: Callable[[Path], Path] = Path
    found: Callable[[], Path] | None = None
    here: Callable[[], Path | None] = lambda: None
    plan: Callable[[Path | None], str] = lambda path: PLAN
    place: Callable[[str], Path] = lambda text: ROOT / Path(text).expanduser()


def _of_cell(path: Path) -> Path:
    return path / "best.safetensors"


def _kit(name: str) -> Path:
    """The folder of a kit: beside those that ship, or anywhere."""
    folder = KITS / name
    return folder if folder.is_dir() else ROOT / Path(name).expanduser()


def _of_pretrained(name: str, row: Pretrained) -> Start:
    return Start(
        partial(plain, row.depths),
        row.words,
        "their file",
        found=partial(row.file, name),
        here=partial(row.here, name),
        plan=lambda path: name,
    )


STARTS = {
    "scratch": Start(scratch, "random weights", plan=lambda path: "slim"),
    "ofa": Start(ofa, "a published supernet", "a published OFA MobileNetV3 state dict"),
    "cell": Start(cell, "a supernet of ours", "the folder of a finished phase", _of_cell),
    "kit": Start(
        cell,
        "a supernet of ours that was made to start from",
        "the name of one that ships, or a folder that nat_lib.kit has made",
        _of_cell,
        plan=lambda path: str(Path(path or "") / PLAN_FILE),
        place=_kit,
    ),
    **{name: _of_pretrained(name, row) for name, row in PRETRAINED.items()},
}
AUTO = "auto"  # ImageNet weights that are on this machine, otherwise a kit that ships, or scratch


def best() -> str:
    """The start that `auto` stands for on this machine."""
    here = (name for name, row in STARTS.items() if row.here())
    shipped = (
        (max(read_json(path)["params"]["space"]["resolutions"]), path.parent.name)
        for path in KITS.glob("*/report.json")
    )
    size, kit = max(shipped, default=(0, None))
    return next(here, f"kit:{kit}" if size >= PHOTOGRAPHS else "scratch")


def settled(text: str) -> str:
    """A start as it is written; `auto` is the best one here."""
    return best() if text == AUTO else text


def parsed(text: str) -> tuple[Start, Path | None]:
    """(row, path) of a start as it is written; a Refusal says how they are written."""
    name, colon, path = text.partition(":")
    row = STARTS.get(name)
    complete = row and (bool(path) == bool(row.file) or row.found)
    if not complete or bool(colon) != bool(path):
        raise Refusal(f"start: {text!r} is not one of {AUTO}, {', '.join(_written())}")
    return row, row.place(path) if path else None


def located(text: str) -> tuple[Start, Path | None]:
    """(row, path) of a start, its path found where none is given."""
    row, path = parsed(text)
    return row, path or (row.found() if row.found else None)


def plan_of(text: str) -> str:
    """The plan that goes with a start, as in `plans.named`."""
    row, path = parsed(text)
    return row.plan(path)


def told(text: str) -> str:
    """A start in words."""
    return f"{text} ({parsed(text)[0].words})"


def _written() -> Iterator[str]:
    for name, row in STARTS.items():
        path = f":PATH ({row.file})" if row.file else ""
        yield f"{name} or {name}{path}" if row.found else f"{name}{path}"


def identity(text: str) -> dict[str, str]:
    """What the numbers of a supernet that starts so depend on, wherever the file lies: {} for
    random weights."""
    row, path = located(text)
    name = text.partition(":")[0]
    if path is None:
        return {} if name == "scratch" else {"start": name}
    file = row.weights(path)
    if not file.is_file():
        raise Refusal(f"start: there is no file {file}: name {row.file}")
    return {"start": name, "sha256": sha256_of(file)}


def start(text: str, space, width: float, n_classes: int, seed: int, dropout: float):
    """The `Supernet` of a space with the weights of a start; a note where it cannot compute what
    they did."""
    row, path = located(text)
    kind = NETWORKS[space.name]
    if text.partition(":")[0] in ("ofa", *PRETRAINED) and (kind.dense or kind.parallel):
        note(
            f"start {text}: the dense skips or parallel branches of {space.name} change what these "
            "weights compute; EE_B and BASE keep it"
        )
    return row.function(path, space, width, n_classes, seed, dropout)
