"""Tables of the thesis that say what networks and data sets are, from the code's own structures.

Every function returns DataFrames of text with the columns of the printed table, for
`tables.side_by_side`.
"""

import numpy as np
import pandas as pd

from nat_lib.blocks import ACTS
from nat_lib.data.catalogue import BY_THESIS
from nat_lib.exit_weights import exit_weights
from nat_lib.results.names import MISSING
from nat_lib.results.printed import printed


def table_2_1(network):
    """Table 2.1 from a torchvision MobileNetV3Large for 224-pixel images, all as text."""
    rows, size = [], 224
    for m in network.features:
        block = getattr(m, "block", None)
        convs = [c for c in m.modules() if type(c).__name__ == "Conv2d"]
        acts = [type(a).__name__ for a in m.modules() if type(a).__name__ in ("Hardswish", "ReLU")]
        spatial = [c for c in convs if c.kernel_size[0] > 1] or convs[:1]
        stride = max(c.stride[0] for c in convs)
        rows.append(
            [
                size,
                convs[0].in_channels,
                "bneck" if block else "conv2d",
                spatial[0].kernel_size[0],
                spatial[0].in_channels if block else "",
                convs[-1].out_channels,
                int(any("SqueezeExcitation" in type(c).__name__ for c in m.modules())),
                {"Hardswish": "Hswish", "ReLU": "ReLU"}[acts[0]],
                stride,
                1,
            ]
        )
        size = -(-size // stride)
    hidden, last = network.classifier[0], network.classifier[-1]
    rows += [
        [size, convs[-1].out_channels, "pool", size, "", "", 0, "", 1, 0],
        [1, hidden.in_features, "conv2d", 1, "", hidden.out_features, 0, "Hswish", 1, 0],
        [1, last.in_features, "conv2d", 1, "", "k", 0, "", 1, 0],
    ]
    frame = pd.DataFrame(rows, columns=printed("table_2_1").columns[1:])
    frame.insert(0, "row", range(1, len(rows) + 1))
    return frame.astype(str)


def table_3_1(space, width=1.0):
    """Table 3.1 from the channel plan of a space: stem, five stages of four blocks, tail; all
    as text."""
    layout, names = space.layout(width), {name: act.label for name, act in ACTS.items()}
    head = layout.head
    rows = [
        ["Head", 1, "conv3x3", head.conv, head.strides[0], names[head.acts[0]], 1, 0],
        ["Head", 2, "IRB", head.out, head.strides[1], names[head.acts[1]], 1, int(bool(head.gate))],
    ]
    for s, stage in enumerate(layout.stages, 1):
        rows += [
            [
                f"Stage {s}",
                b + 1,
                "IRB" if b else "IB",
                stage.c_out,
                1 if b else stage.stride,
                names[stage.act],
                1,
                int(bool(stage.gate)),
            ]
            for b in range(space.slots)
        ]
    (wide, *mixed), act, _ = layout.stages[-1].tail
    tail = [
        ["conv1x1", wide, 1, names[act], 1, 0],
        ["GAP", wide, "", "", "", ""],
        *(["conv1x1", width, 1, names[act], 0, 0] for width in mixed),
        ["Linear", "n_classes", "", "", "", ""],
    ]
    rows += [["Tail", i, *row] for i, row in enumerate(tail, 1)]
    frame = pd.DataFrame(rows, columns=printed("table_3_1").columns[1:])
    frame.insert(0, "row", range(1, len(rows) + 1))
    return frame.astype(str)


def table_4_2():
    """Table 4.2 from the formulas of the exit weights: (ours, printed)."""
    names = {(1.0,): "increasing", (-1.0,): "decreasing", (0.0,): "uniform"}
    paper = printed("table_4_2")
    rows = []
    for mode in paper["mode"]:
        steps = [tuple(set(np.sign(np.diff(weights)))) for weights in exit_weights(mode, 4)]
        rows.append([mode, *(names[step] for step in steps)])
    return pd.DataFrame(rows, columns=paper.columns), paper


def table_5_1(networks):
    """Table 5.1 from the table of flags of the code (arch.NETWORKS), all as text."""
    rows = [
        [n.thesis_name, name, *(int(f) for f in (n.modular, n.early_exits, n.dense, n.parallel))]
        for name, n in networks.items()
    ]
    return pd.DataFrame(rows, columns=printed("table_5_1").columns).astype(str)


MISPRINTS = {
    ("3.2", "ImageNet", "train"): "not part of the kit",
    ("3.2", "CINIC-10", "test"): "its test part has 90 000 images, as Table 6.1 says",
    ("3.2", "Oxford-IIIT Pets", "test"): "3 669, as Table 6.1 says",
    ("6.1", "Food-101", "train"): "75 750 - 11 362 = 64 388",
    (
        "4.1",
        "GTSRB",
        "train",
    ): "torchvision's training archive has 26 640 images; published class weights fit 20 640",
}


def table_splits(official, official_aep):
    """Tables 3.2, 6.1 and 4.1: sizes of the splits, (ours, printed) as text, and the remarks for
    `side_by_side`.

    official, official_aep : {name of a data set: (train, val, test)} for chapters 3, 5, 6 and for
                             chapter 4
    """
    ours, paper = [], []
    for number, sizes in (("3.2", official), ("6.1", official), ("4.1", official_aep)):
        for row in printed(f"table_{number.replace('.', '_')}").to_dict("records"):
            train, val, test = sizes.get(BY_THESIS.get(row["dataset"]), (MISSING,) * 3)
            if number == "3.2" and train != MISSING:  # this table has no validation part
                train, val = train + val, ""
            ours.append([number, row["dataset"], train, val, test])
            paper.append(
                [
                    number,
                    row["dataset"],
                    row["train_images"],
                    row.get("validation_images", val),
                    row["test_images"],
                ]
            )
    ours, paper = (
        pd.DataFrame(r, columns=["table", "data set", "train", "validation", "test"]).astype(str)
        for r in (ours, paper)
    )
    remarks = {
        (i, column): why
        for i, row in enumerate(ours.itertuples(index=False))
        for (number, name, column), why in MISPRINTS.items()
        if (row[0], row[1]) == (number, name)
    }
    return ours, paper, remarks
