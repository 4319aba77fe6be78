"""Schematic figures, drawn from the structures that compute: Space, Plan, Arch, the phases,
survival, the dense rule.

Nothing here is a picture of a picture: change the code and the drawing changes. Every figure
carries the numbers it shows as `figure.rows`, so that `style.save` keeps them too.
"""

from nat_lib.report.schematics.blocks import draw_block, draw_block_v2, draw_gate
from nat_lib.report.schematics.convolutions import draw_activations, draw_convolution
from nat_lib.report.schematics.flows import FLOWS, draw_flow
from nat_lib.report.schematics.networks import draw_networks, draw_supernet
from nat_lib.report.schematics.searching import draw_encoding, draw_evolution
from nat_lib.report.schematics.stages import draw_parallel_level, draw_stages
from nat_lib.report.schematics.subnets import draw_costs, draw_ofa, draw_subnet
from nat_lib.report.schematics.survival import draw_nsga2, draw_nsga3
from nat_lib.report.schematics.training import draw_phases, draw_teachers

__all__ = [
    "FLOWS",
    "draw_activations",
    "draw_block",
    "draw_block_v2",
    "draw_convolution",
    "draw_costs",
    "draw_encoding",
    "draw_evolution",
    "draw_flow",
    "draw_gate",
    "draw_networks",
    "draw_nsga2",
    "draw_nsga3",
    "draw_ofa",
    "draw_parallel_level",
    "draw_phases",
    "draw_stages",
    "draw_subnet",
    "draw_supernet",
    "draw_teachers",
]
