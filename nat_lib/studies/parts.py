"""How the cells of a study are cut into jobs: parts that share no cell and may run side by side."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from nat_lib.backbone_table import baseline_of


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


def predictors(params: dict[str, Any]) -> Iterator[Part]:
    """One part per supernet and seed."""
    for name in params["predictor_supernets"]:
        for seed in params["seeds"]:
            changes = {"predictor_supernets": [name], "seeds": [seed]}
            yield Part(f"{name}_s{seed}", name, changes, 6 + WORK.get(name, UNKNOWN))


def searches(params: dict[str, Any]) -> Iterator[Part]:
    """One part per supernet and seed; `nat_supernets` says in which versions it takes part."""
    versions = params["nat_supernets"]
    for name in dict.fromkeys(name for names in versions.values() for name in names):
        alone = {
            version: [other for other in names if other == name]
            for version, names in versions.items()
        }
        for seed in params["seeds"]:
            yield Part(f"{name}_s{seed}", name, {"nat_supernets": alone, "seeds": [seed]}, 15.0)


def posts(params: dict[str, Any]) -> Iterator[Part]:
    """As the searches whose subnets they train on."""
    for part in searches(params):
        yield part._replace(weight=0.5 + 3.3 * WORK.get(part.supernet or "", UNKNOWN))
