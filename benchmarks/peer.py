"""The peer: package `ofa` (Once-for-All, its authors' code) on the CPU, with our weights and our
subnets."""

import random
import sys

import torch

from nat_lib.arch import Arch
from nat_lib.starts import ofa_name

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
        {ofa_name(name, 5, 4): tensor.contiguous() for name, tensor in net.state_dict().items()}
    )
    return peer


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
