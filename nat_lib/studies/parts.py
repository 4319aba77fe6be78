"""How the cells of a study are cut into jobs: parts that share no cell and may run side by side."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nat_lib.backbone_table import baseline_of
from nat_lib.plans import NETWORKS


class Part(NamedTuple):
    """A share of a study's cells: which parameters to change to do these alone.

    label    : unique within the study, ends the job's name
    supernet : whose cells it makes, for the jobs that read them; None: of several
    changes  : {parameter: value} that replaces the study's own
    weight   : expected work, in units of some 10 s of smoke: for the order and the estimate
    """

    label: str
    supernet: str | None
    changes: dict[str, Any]
    weight: float


# Rough work of all phases of one supernet at width 1.0, both teachers, in units of the baseline's.
WORK = {
    "EE_DP": 9.0,
    "EE_P": 8.8,
    "EE_D": 4.2,
    "EE_B": 4.0,
    "SE_DP": 3.4,
    "SE_P": 3.2,
    "SE_D": 1.1,
    "SE_B": 1.05,
    "BASE": 1.0,
}
# Of one cell of the AEP study, in the same units.
AEP_WORK = {
    "MobileNetV3Small": 0.3,
    "ResNet50": 2.5,
    "EfficientNetB5": 3.0,
    "DenseNet169": 3.5,
    "VGG16": 6.0,
}
UNKNOWN = 1.0  # work of a network without a row above
# thesis 6.3.1 and 6.3.2: studies on one of the data sets of chapter 6
RUN_ON = {"predictors": "cifar10", "strategies": "cifar100"}
MADE = "made"  # the table of the supernets at hand, among those of notebook 09
STRATEGIES = "1"  # version of the searches whose subnets the strategies are compared on
# Data sets of chapter 6 beside CIFAR-10, CIFAR-100 and Tiny ImageNet; thesis section 6.2.
FIRST_VERSION_ONLY = (
    "cinic10",
    "stl10",
    "food101",
    "cars",
    "aircraft",
    "dtd",
    "pets",
    "flowers102",
)


def whole(params: dict[str, Any]) -> Iterator[Part]:
    """No parts: the notebook itself does all there is."""
    return iter(())


def aep(params: dict[str, Any]) -> Iterator[Part]:
    """One part per data set, networks with a common baseline, and seed."""
    families: dict[str, list[str]] = {}
    for name in params["aep_networks"]:
        families.setdefault(baseline_of(name), []).append(name)
    for dataset in params["aep_datasets"]:
        for family, names in families.items():
            cells = len(params["aep_scenarios"]) * (1 + 4 * len(names))
            for seed in params["seeds"]:
                yield Part(
                    f"{dataset}_{family}_s{seed}",
                    None,
                    {"aep_datasets": [dataset], "aep_networks": names, "seeds": [seed]},
                    AEP_WORK.get(family, UNKNOWN) * cells,
                )


def eps(params: dict[str, Any]) -> Iterator[Part]:
    """One part per supernet, width and seed; both teachers share phases, so they stay together."""
    for width, names in params["supernets"].items():
        if float(width) not in params["widths"]:
            continue
        for name in names:
            for seed in params["seeds"]:
                yield Part(
                    f"{name}_w{width}_s{seed}",
                    name,
                    {"supernets": {width: [name]}, "widths": [float(width)], "seeds": [seed]},
                    4 + WORK.get(name, UNKNOWN) * float(width) / 2,
                )


def arms(params: dict[str, Any]) -> Iterator[Part]:
    """One part per arm and seed; the notebook trains what stands alone."""
    for arm in params["arms"]:
        for seed in params["seeds"]:
            yield Part(f"{arm}_s{seed}", None, {"arms": [arm], "seeds": [seed], "alone": 0}, 1.0)


def tables(params: dict[str, Any]) -> Iterator[Part]:
    """One part for the table that is made, with all its strategies; one per strategy of a table
    that is there."""
    for table in params["tables"]:
        alone = {"tables": [table]}
        if table == MADE:
            yield Part(table, params["table_supernet"], alone, 6.0)
            continue
        for strategy in params["table_strategies"]:
            label = f"{Path(table).stem}_{strategy}"
            yield Part(label, None, alone | {"table_strategies": [strategy]}, 1.0)


def predictors(params: dict[str, Any]) -> Iterator[Part]:
    """One part per supernet and seed."""
    for name in params["predictor_supernets"]:
        for seed in params["seeds"]:
            changes = {"predictor_supernets": [name], "seeds": [seed]}
            yield Part(f"{name}_s{seed}", name, changes, 6 + WORK.get(name, UNKNOWN))


def targets_of(params: dict[str, Any]) -> list[str]:
    """The data sets on which searches run, the main one first."""
    return list(dict.fromkeys([params["target"], *(params["targets"] or ())]))


def chosen_by_thesis(params: dict[str, Any], study: str) -> str:
    """The data set of chapter 6 on which the thesis ran a study, if it is here; else the main."""
    name = RUN_ON[study]
    return name if name in targets_of(params) else params["target"]


def on_target(params: dict[str, Any], target: str) -> dict[str, Any]:
    """The parameters of chapter 6 for one of its data sets.

    On eight of its eleven the thesis ran version 1 alone, without the parallel supernets (section
    6.2), and it compared strategies of post-processing on one; every other data set gets all that
    the profile asks for.
    """
    changes: dict[str, Any] = {"target": target, "targets": None}
    if target in FIRST_VERSION_ONLY:
        named = params["nat_supernets"]
        narrow = [name for name in named.get("1", ()) if not NETWORKS[name].parallel]
        changes["nat_supernets"] = {v: narrow if v == "1" else [] for v in named}
    if "post_searches" in params and target != chosen_by_thesis(params, "strategies"):
        changes["post_searches"] = params["post_searches"] | {STRATEGIES: []}
    return params | changes


def searches(params: dict[str, Any]) -> Iterator[Part]:
    """One part per data set, supernet and seed."""
    several = len(targets_of(params)) > 1
    for target in targets_of(params):
        versions = on_target(params, target)["nat_supernets"]
        for name in dict.fromkeys(name for names in versions.values() for name in names):
            alone = {
                version: [other for other in names if other == name]
                for version, names in versions.items()
            }
            changes = {"nat_supernets": alone, "target": target, "targets": None}
            label = f"{target}_{name}" if several else name
            for seed in params["seeds"]:
                yield Part(f"{label}_s{seed}", name, changes | {"seeds": [seed]}, 15.0)


def posts(params: dict[str, Any]) -> Iterator[Part]:
    """As the searches whose subnets they train on."""
    for part in searches(params):
        here = on_target(params, part.changes["target"])
        yield part._replace(
            changes=part.changes | {"post_searches": here["post_searches"]},
            weight=0.5 + 3.3 * WORK.get(part.supernet or "", UNKNOWN),
        )
