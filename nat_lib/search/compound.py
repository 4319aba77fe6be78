"""The family of uniformly scaled subnets: what a person picks of a supernet without searching.

Source: compound scaling of EfficientNet, arXiv:1905.11946, inside one space.
"""

import numpy as np

from nat_lib.cost import count
from nat_lib.subnet import Arch


def diagonal(space) -> list[Arch]:
    """Uniform subnets from the smallest to the largest: resolution, depth, expansion and width grow
    together; kernels are the middle ones."""
    axes = space.resolutions, space.depths, space.expands, space.widths
    kernel = space.kernels[(len(space.kernels) - 1) // 2]
    steps = 4 * max(map(len, axes))
    found = []
    for t in np.linspace(0, 1, steps):
        r, d, e, w = (values[round(t * (len(values) - 1))] for values in axes)
        found.append(space.arch(resolution=r, depth=d, expand=e, width=w, kernel=kernel))
    return list(dict.fromkeys(found))


def family(space, n_classes: int) -> list[Arch]:
    """Of the diagonal, the subnets nearest to 1, 2, 4, ... times the MACs of its smallest; MACs
    ascend strictly."""
    archs = diagonal(space)
    macs = count(archs, space, n_classes).macs.to_numpy(float)
    targets = 2.0 ** np.arange(np.ceil(np.log2(macs.max() / macs.min())) + 1) * macs.min()
    nearest = {int(np.argmin(np.abs(np.log(macs / target)))) for target in targets}
    return [archs[i] for i in sorted(nearest, key=lambda i: macs[i])]
