"""Small graphs: boxes and arrows."""

import numpy as np
import pandas as pd

from nat_lib.report.schematics.canvas import arrow, box, canvas
from nat_lib.report.style import thesis_style

# name: (title, {node: (x, y, text)}, [(from, to, label)])
FLOWS = {
    "outline": (
        "What builds on what (thesis Figure 1.1)",
        {
            "aep": (2.3, 3.5, "AEP\nensembles of early exits,\npruned"),
            "ofa": (2.3, 1.6, "OFA\none supernet,\nmany subnets"),
            "ofav2": (7.7, 2.6, "OFAv2\nexits, dense, parallel,\nprogressive teacher"),
            "nat": (7.7, 0.8, "NAT\nsearch that adapts\nthe supernet"),
            "natv2": (13.2, 1.7, "NATv2\nfour phases, exits as a\nvariable, post-processing"),
        },
        [
            ("aep", "ofav2", "joint loss"),
            ("ofa", "ofav2", ""),
            ("ofav2", "natv2", "supernets"),
            ("nat", "natv2", ""),
        ],
    ),
    "genetic": (
        "A genetic algorithm (thesis Figure 2.1)",
        {
            "first": (2.2, 2.6, "first population,\nat random"),
            "score": (7.3, 2.6, "score\nthe newcomers"),
            "keep": (12.4, 2.6, "keep the best\nof old and new"),
            "end": (17.5, 2.6, "the best\nof the last population"),
            "select": (12.4, 0.7, "select parents:\nthe better of two"),
            "cross": (7.3, 0.7, "cross over:\nmix two parents"),
            "mutate": (2.2, 0.7, "mutate:\nchange a few genes"),
        },
        [
            ("first", "score", ""),
            ("score", "keep", ""),
            ("keep", "end", "stop"),
            ("keep", "select", ""),
            ("select", "cross", ""),
            ("cross", "mutate", ""),
            ("mutate", "score", ""),
        ],
    ),
    "nat": (
        "One iteration of NAT (thesis Figure 3.3)",
        {
            "archive": (2.2, 2.6, "archive of\nevaluated subnets"),
            "fit": (7.7, 2.6, "fit the\nerror predictor"),
            "search": (13.2, 2.6, "evolve candidates,\nkeep a diverse few"),
            "evaluate": (13.2, 0.7, "score them with\nthe supernet's weights"),
            "adapt": (7.7, 0.7, "train the supernet on\nsubnets like the best"),
            "rescore": (2.2, 0.7, "score the\narchive again"),
        },
        [
            ("archive", "fit", ""),
            ("fit", "search", ""),
            ("search", "evaluate", ""),
            ("evaluate", "adapt", ""),
            ("adapt", "rescore", ""),
            ("rescore", "archive", ""),
        ],
    ),
    "aep": (
        "Early exits: trained together, answering together (thesis Figure 4.1)",
        {
            "x": (1.3, 0.6, "images"),
            "s1": (4.4, 0.6, "stage 1"),
            "s2": (7.5, 0.6, "stage 2"),
            "s3": (10.6, 0.6, "stage n"),
            "e1": (4.4, 2.2, "exit 1"),
            "e2": (7.5, 2.2, "exit 2"),
            "e3": (10.6, 2.2, "exit n"),
            "loss": (4.4, 3.9, "loss: weighted sum\nof cross-entropies"),
            "vote": (10.6, 3.9, "answer: weighted sum of\nlogits, each exit on or off"),
        },
        [
            ("x", "s1", ""),
            ("s1", "s2", ""),
            ("s2", "s3", ""),
            ("s1", "e1", ""),
            ("s2", "e2", ""),
            ("s3", "e3", ""),
            *((e, to, "") for e in ("e1", "e2", "e3") for to in ("loss", "vote")),
        ],
    ),
}


@thesis_style
def draw_flow(name):
    """A small graph of FLOWS: boxes and arrows."""
    title, nodes, edges = FLOWS[name]
    half = {
        n: np.array(
            [0.35 + 0.062 * max(map(len, text.split("\n"))), 0.2 + 0.2 * text.count("\n") + 0.15]
        )
        for n, (_, _, text) in nodes.items()
    }
    fig, ax = canvas(
        max(x + half[n][0] for n, (x, _, _) in nodes.items()) + 0.3,
        max(y + half[n][1] for n, (_, y, _) in nodes.items()) + 0.5,
        title,
    )
    for a, b, label in edges:
        start, end = (np.add(nodes[n][:2], [0, 0.2]) for n in (a, b))
        way = end - start
        with np.errstate(
            divide="ignore"
        ):  # a box is left through the side that the arrow meets first
            leave, meet = ((half[n] / abs(way)).min() * way for n in (a, b))
        arrow(ax, tuple(start + leave), tuple(end - meet), label=label)
    for n, (x, y, text) in nodes.items():
        box(ax, x, y + 0.2, *(2 * half[n]), text, size=7)
    fig.rows = pd.DataFrame(edges, columns=["from", "to", "label"])
    return fig
