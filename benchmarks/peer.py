"""The peer: package `ofa` (Once-for-All, its authors' code) on the CPU, with our weights and our
subnets."""

import random
import sys

import torch

from nat_lib.arch import Arch

try:
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3
    from ofa.imagenet_classification.elastic_nn.utils import set_running_statistics
    from torchprofile import profile_macs
except ImportError as error:
    print(
        f"skipped: {error.name} is missing; install the peer with "
        f"'python -m pip install --no-deps -r benchmarks/requirements-peers.txt'"
    )
    sys.exit(0)

CLASSES, SIDE = 200, 64
LAYERS = {
    "expand": "inverted_bottleneck.conv.conv",
    "bn1": "inverted_bottleneck.bn.bn",
    "depthwise": "depth_conv.conv.conv",
    "bn2": "depth_conv.bn.bn",
    "se.reduce": "depth_conv.se.fc.reduce",
    "se.expand": "depth_conv.se.fc.expand",
    "project": "point_linear.conv.conv",
    "bn3": "point_linear.bn.bn",
}
ENDS = {
    "stem.conv": "first_conv.conv",
    "stem.bn": "first_conv.bn",
    "stem.block.depthwise": "blocks.0.conv.depth_conv.conv",
    "stem.block.bn2": "blocks.0.conv.depth_conv.bn",
    "stem.block.project": "blocks.0.conv.point_linear.conv",
    "stem.block.bn3": "blocks.0.conv.point_linear.bn",
    "exits.5.conv1": "final_expand_layer.conv",
    "exits.5.bn": "final_expand_layer.bn",
    "exits.5.conv2": "feature_mix_layer.conv",
    "exits.5.linear": "classifier.linear",
}


def supernet(net, dropout=0.1):
    """The peer's elastic network with the weights of ours, a `Supernet` of space BASE at width
    1.0."""
    peer = OFAMobileNetV3(
        n_classes=net.n_classes,
        dropout_rate=dropout,
        width_mult=1.0,
        ks_list=[3, 5, 7],
        expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4],
    )
    peer.load_state_dict(
        {_name(name): tensor.contiguous() for name, tensor in net.state_dict().items()}
    )
    return peer


def _name(ours):
    """The peer's name of a tensor of ours."""
    root, _, rest = ours.partition(".")
    if root == "transforms":
        slot, size = rest.split(".")
        step = {"5": "7to5", "3": "5to3"}[size]
        return f"blocks.{int(slot) + 1}.conv.depth_conv.conv.{step}_matrix"
    layer, _, tensor = rest.rpartition(".")
    if layer in ENDS:
        return f"{ENDS[layer]}.{tensor}"
    _, stage, _, level, _, layer = layer.split(".", 5)
    return f"blocks.{4 * int(stage) + int(level) + 1}.conv.{LAYERS[layer]}.{tensor}"


def activate(peer, arch):
    """Make `arch` the peer's active subnet."""
    peer.set_active_subnet(ks=list(arch.kernel), e=list(arch.expand), d=list(arch.depth))


def quadruple(peer, i):
    """The four subnets that the authors' code draws in training step i."""
    archs = []
    for j in range(4):
        random.seed(int(f"{i}{j:03d}000"))
        drawn = peer.sample_active_subnet()
        archs.append(
            Arch(
                resolution=SIDE,
                width=1.0,
                exit=5,
                depth=tuple(drawn["d"]),
                kernel=tuple(drawn["ks"]),
                expand=tuple(drawn["e"]),
                level=(4,) * 20,
            )
        )
    return archs


def extract(peer, arch):
    activate(peer, arch)
    return peer.get_active_subnet(preserve_weight=True)


def cost(peer, arch):
    """(params, MACs) of a subnet as the search of the published code counts them: by building and
    tracing it."""
    subnet = extract(peer, arch).eval()
    macs = profile_macs(subnet, torch.randn(1, 3, arch.resolution, arch.resolution))
    return sum(p.numel() for p in subnet.parameters()), macs


@torch.no_grad()
def score(peer, arch, calibration, validation):
    """(extracted subnet, its percent correct): BN statistics from batches of (images, labels), then
    all batches."""
    subnet = extract(peer, arch)
    set_running_statistics(subnet, calibration)
    subnet.eval()
    correct = sum((subnet(x).argmax(1) == y).sum().item() for x, y in validation)
    return subnet, 100 * correct / sum(len(y) for _, y in validation)
