"""An exported network, loaded: a plain module beside what `subnet.json` says of it.

Nothing here knows searches, data sets or the weights of a supernet.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, Field, ValidationError
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nat_lib import files
from nat_lib.early import AGGREGATORS, POLICIES
from nat_lib.errors import Refusal

FORMAT = 2  # of subnet.json


class Subnet(nn.Module):
    """A network with stem, stages and exits, and its card: images (B, C, R, R), normalised ->
    logits (B, K).

    The answer of several exits is the weighted sum of their logits, thesis eq. 4.3.

    network : `supernet.Network` or `backbones.Network`;  card : what subnet.json holds
    """

    def __init__(self, network: nn.Module, card: dict[str, Any]):
        super().__init__()
        self.network, self.card = network, card
        self.positions = tuple(e["position"] for e in card["exits"])
        self.votes = tuple(e["weight"] for e in card["exits"])

    def exit_logits(
        self, x: Float[torch.Tensor, "b c r r"]
    ) -> Iterator[tuple[int, Float[torch.Tensor, "b k"]]]:
        """(position, logits) of every exit, shallow to deep. Whoever stops asking stops the
        network: no later stage is computed."""
        h = self.network.stem(x)
        for position, stage in enumerate(self.network.stages, 1):
            h = stage(h)
            if position in self.positions:
                yield position, self.network.exits[str(position)](h)

    def forward(self, x: Float[torch.Tensor, "b c r r"]) -> Float[torch.Tensor, "b k"]:
        logits = [z for _, z in self.exit_logits(x)]
        if len(logits) == 1:
            return logits[0]
        return sum(w * z for w, z in zip(self.votes, logits, strict=True))

    @torch.no_grad()
    def macs_until(self, channels: int, size: int) -> list[int]:
        """Multiply-accumulates of one image of `size` pixels that leaves at each exit."""
        with FlopCounterMode(display=False) as counter:  # counts two for one
            image = torch.zeros(1, channels, size, size)
            return [counter.get_total_flops() // 2 for _ in self.exit_logits(image)]


# ---------------------------------------------------------------------------------- what is stored


class Input(BaseModel):
    """What the network takes; means and deviations are those of the channels, of pixels 0..1."""

    channels: int = Field(gt=0)
    size: int = Field(gt=0, le=4096)
    mean: list[float]
    std: list[float]
    resize: str
    n_classes: int = Field(gt=0)


class Exit(BaseModel):
    position: int = Field(gt=0)
    weight: float = Field(ge=0, le=1)


class Stopping(BaseModel):
    threshold: float
    policy: Literal[tuple(POLICIES)]
    aggregator: Literal[tuple(AGGREGATORS)]


class Card(BaseModel):
    """The keys of subnet.json that a network is made from; more are for readers."""

    network: dict
    input: Input
    exits: list[Exit] = Field(min_length=1)
    early: Stopping | None
    classes: list[str]


def subnet_of_space(space, arch, n_classes, exits):
    """The plain network of a subnet: `Space` and `Arch` as dicts; exits: None or positions."""
    from nat_lib.arch import Arch, Space
    from nat_lib.supernet import Network

    space = Space.from_dict(space)
    return Network(space, space.check(Arch.from_dict(arch)), n_classes, exits)


def backbone(name, n_classes, channels, hidden, single, kept):
    """A network of torchvision with the exits `kept` (positions)."""
    from nat_lib import backbones

    network = backbones.build(name, n_classes, single, channels, hidden=hidden)
    return network if tuple(kept) == network.positions else backbones.extract(network, kept)


NETWORKS = {"subnet": subnet_of_space, "backbone": backbone}  # kind of network: how it is made


def load_subnet(folder: str | Path) -> Subnet:
    """The network of an export as an ordinary module in evaluation mode, on the CPU; `.card` is its
    subnet.json."""
    card = read_card(folder)
    weights = files.load_weights(Path(folder) / "subnet.safetensors")
    how = dict(card["network"])
    try:
        with torch.device("meta"):  # no numbers yet: sizes that are wrong cost nothing
            network = NETWORKS[how.pop("kind")](**how)
        network.load_state_dict(weights, assign=True)
        subnet = Subnet(network, card)
        whole = set(subnet.positions) <= set(map(int, network.exits))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError):
        whole = False
    if not whole:
        raise Refusal(
            f"description and weights in {folder} do not fit together: export the network again"
        )
    return subnet.to(memory_format=torch.channels_last).eval()


def read_card(folder: str | Path) -> dict[str, Any]:
    """What subnet.json of an export says; a Refusal if it is none, old or damaged."""
    path = Path(folder) / "subnet.json"
    if not path.exists():
        raise Refusal(
            f"{folder} is no export, it has no subnet.json: give a folder that nat_lib.export wrote"
        )
    card = files.read_json(path)
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise Refusal(
            f"{path} is damaged or of another version of the kit: export the network again"
        )
    try:
        Card.model_validate(card)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise Refusal(
            f"{path} is damaged ({where}: {first['msg']}): export the network again"
        ) from None
    return card
