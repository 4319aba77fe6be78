"""Which profile is the cheapest that can test a claim.

A profile covers a value if a run of it would measure it, on the data sets that it runs. What a
claim asks for is read off its rule; a claim that quotes the thesis's numbers needs the thesis's
sizes as well.
"""

from nat_lib.results.advantages import FEWEST_DATASETS
from nat_lib.results.claims import quotes
from nat_lib.results.comparable import PROFILE
from nat_lib.results.names import NAT_SUPERNETS, name_of
from nat_lib.results.printed import printed
from nat_lib.results.rules import evaluate
from nat_lib.results.stores import STRUCTURE
from nat_lib.results.values import Store
from nat_lib.search.predictors import PREDICTORS

SIZES = ("smoke", "laptop", "paper")  # the shipped profiles that run studies, cheapest first
ITS_OWN = "a run of its own"


def cheapest(profiles: dict, rows=None) -> dict[str, str]:
    """{id of a claim: name of the cheapest profile that can test it, ITS_OWN, or "" for a claim
    without a rule}.

    profiles : {name: parameters}, cheapest first, such as `run.params.load_profile` of SIZES
    rows     : of reference/claims.csv; default all
    """
    rows = printed("claims") if rows is None else rows
    return {claim.id: _cheapest(claim, profiles) for claim in rows.itertuples()}


def _cheapest(claim, profiles):
    if not claim.rule:
        return ""
    outcome = evaluate(claim.rule, Store())
    if all(metric in STRUCTURE for metric, _ in outcome.missing):
        return next(iter(profiles))
    names = [PROFILE] if quotes(claim, outcome) else list(profiles)
    for name in names:
        if all(covers(profiles[name], *value) for value in outcome.missing):
            return name
    return ITS_OWN


def covers(profile, metric, dims) -> bool:
    """Would a run of this profile measure this value?"""
    return metric in STRUCTURE or FAMILIES[metric.split(".")[0]](profile, metric, dims)


def targets(profile) -> list[str]:
    """The data sets of chapter 6 that a profile runs, as the thesis writes them."""
    found = profile.get("targets") or [profile["target"]]
    return [name_of(name) for name in found]


def _aep(profile, metric, dims):
    scenarios = dims.get("comparison", dims.get("scenario"))
    scenarios = scenarios.split(" vs ") if scenarios else []
    sets = map(name_of, profile["aep_datasets"])
    return (
        set(scenarios) <= set(profile["aep_scenarios"])
        and dims.get("network") in (None, *profile["aep_networks"])
        and dims.get("dataset") in (None, *sets)
    )


def _eps(profile, metric, dims):
    return metric == "eps.top1" and dims["supernet"] in profile["supernets"].get(dims["wm"], ())


def _nat(profile, metric, dims):
    if metric == "nat.duration_ratio":
        return any(profile["searches"].values()) and profile["adaptation_epochs"] > 1
    if dims.get("dataset") not in (None, *targets(profile)):
        return False
    if metric == "nat.gain_vs_classes_spearman" and len(targets(profile)) < FEWEST_DATASETS:
        return False
    post = dims.get("post", "none") != "none" or metric in ("nat.post_gain", "nat.ens_win_share")
    searches = profile["post_searches" if post else "searches"]
    phases = [phase for phase, wanted in searches.items() if wanted]
    if "phase" in dims:
        phases = [dims["phase"]]
    if metric == "nat.phase_gain":  # against the phase before, over all of NAT_SUPERNETS
        phases = [str(int(dims["phase"]) - 1), dims["phase"]]
        if not all(set(NAT_SUPERNETS) <= set(profile["nat_supernets"][p]) for p in phases):
            return False
    return bool(phases) and all(
        searches.get(phase)
        and profile["nat_supernets"].get(phase)
        and dims.get("objectives") in (None, *searches[phase])
        and dims.get("supernet") in (None, *profile["nat_supernets"][phase])
        for phase in phases
    )


def _post(profile, metric, dims):
    if dims.get("dataset") not in (None, *targets(profile)):
        return False
    phases = [phase for phase, wanted in profile["post_searches"].items() if wanted]
    families = {
        "EE" if name.startswith("EE") else "SE"
        for phase in phases
        for name in profile["nat_supernets"][phase]
    }
    grid = bool(profile["post_searches"].get("1"))  # strategies are compared on phase 1
    studied = grid or metric != "post.mean_top1"
    return studied and bool(phases) and dims.get("family") in (None, *families)


def _pred(profile, metric, dims):
    names = [PREDICTORS[key].label for key in profile["predictors"]]
    return (
        dims.get("supernet") in (None, *profile["predictor_supernets"])
        and dims.get("predictor") in (None, *names)
        and dims.get("n_train") in (None, *map(str, profile["predictor_sizes"]))
    )


FAMILIES = {"aep": _aep, "eps": _eps, "nat": _nat, "post": _post, "pred": _pred}
