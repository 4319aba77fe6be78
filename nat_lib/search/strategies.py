"""How a space is searched: one generator of iterations and one row for each strategy.

Every strategy is called alike:

    strategy(task, start=None)

task   : a `task.Task`: space, measurement, predictor, costs, sizes, seed
start  : an Iteration to go on after, with the weights as they were then: the run ends like one
         never stopped
yields : Iteration 0, the first archive, then one after each of `budget.iterations`. What a strategy
         has no use for (a predictor, an adaptation, a crossover) it ignores. Most are the loop
         `task.steps` with a function that proposes
"""

from collections.abc import Callable
from typing import NamedTuple

from nat_lib.search import evolution, fidelity, gradient, growing, guided, policies


class Strategy(NamedTuple):
    """One row of the table.

    function : see the head of this file
    label    : in tables and figures
    colour   : in figures
    adapts   : whether the supernet is trained during the search, so that scores become stale
    fits     : whether a predictor guides it
    network  : whether it needs the supernet itself, so that no table can stand for it
    """

    function: Callable
    label: str
    colour: str
    adapts: bool = False
    fits: bool = False
    network: bool = False


DEFAULT = "nat"
STRATEGIES = {
    "nat": Strategy(guided.nat, "NAT", "#3377BB", adapts=True, fits=True),
    "nsganet": Strategy(guided.nsganet, "NSGANetV2", "#1B3A6B", fits=True),
    "ofa": Strategy(guided.ofa, "OFA's evolution", "#88CCEE", fits=True),
    "pnas": Strategy(growing.pnas, "PNAS", "#117733", fits=True),
    "nsga2": Strategy(evolution.nsga2, "NSGA-II", "#CC3311"),
    "nsga3": Strategy(evolution.nsga3, "NSGA-III", "#EE99AA"),
    "halving": Strategy(fidelity.halving, "NSGA-II, halving", "#661100"),
    "motifs": Strategy(evolution.motifs, "motif mutation", "#882255"),
    "regularised_evolution": Strategy(
        evolution.regularised_evolution, "regularised evolution", "#EE7733"
    ),
    "binned_elites": Strategy(evolution.binned_elites, "elites per bin", "#DDAA33"),
    "ga": Strategy(evolution.ga, "GA", "#997700"),
    "reinforce": Strategy(policies.reinforce, "REINFORCE", "#44AA99"),
    "q_learning": Strategy(policies.q_learning, "Q-learning", "#99CC99"),
    "fbnet": Strategy(gradient.fbnet, "FBNet", "#225522", network=True),
    "proxyless": Strategy(gradient.proxyless, "ProxylessNAS", "#55AA55", network=True),
    "darts": Strategy(gradient.darts, "DARTS, dropping", "#AADDAA", network=True),
    "greedy_exits": Strategy(growing.greedy_exits, "greedy exits", "#6E2A8C"),
    "compound": Strategy(growing.compound, "compound scaling", "#888888"),
    "random": Strategy(evolution.random_search, "random search", "#AA4499"),
}


def tabular() -> list[str]:
    """The rows that an exact table can judge."""
    return [name for name, row in STRATEGIES.items() if not row.network]
