"""Which variables of a genotype move together: from the whole network to single blocks.

Source: hierarchical representations, arXiv:1711.00436.
"""

import numpy as np


def levels(space) -> list[list[np.ndarray]]:
    """Per level, coarse to fine, the groups of variables (indices) that take one value at once.

    0: every variable before the blocks, all blocks, and the last slots of all stages (a depth);
    1: the blocks of a stage, and its last slots;  2: single blocks.  Levels that add nothing are
    left out: of a tied space only single variables remain.
    """
    head = [np.array([v]) for v in range(space.first)]
    slots = np.arange(space.first, space.n_var)
    if not len(slots):
        return [head]
    by_stage = slots.reshape(space.n_stages, space.slots)
    whole = head + _nested(by_stage, space.depths)
    stages = [group for row in by_stage for group in _nested(row[None], space.depths)]
    return [whole, stages, [np.array([v]) for v in slots]]


def _nested(by_stage, depths):
    """All slots of these stages, and those behind each smaller depth."""
    return [by_stage[:, cut:].ravel() for cut in (0, *depths[:-1])]
