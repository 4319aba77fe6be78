"""Which profile is the cheapest that can test a claim.

A profile covers a value if a run of it, on the data set that the value names, would measure it.
What a claim asks for is read off its rule; a claim that quotes the thesis's numbers needs the
thesis's sizes as well.
"""

from nat_lib.results import claims
from nat_lib.results.chapter6 import name_of
from nat_lib.results.claims import printed
from nat_lib.run import params
from nat_lib.search.predictors import PREDICTORS

SIZES = ("smoke", "laptop", "paper")  # cheapest first
COMPARABLE = "paper"  # the one at the sizes of the thesis
EVERYWHERE = (
    "eps.subnets_tested",
    "nat.depth_share",
)  # from the code's structures, in every profile
ITS_OWN = "a run of its own"


def cheapest(rows=None):
    """{id of a claim: "smoke" | "laptop" | "paper", with the number of data sets if there are
    several; or why none}.

    rows : of reference/claims.csv; default all
    """
    profiles, rows = (
        {name: params.load_profile(name) for name in SIZES},
        printed("claims") if rows is None else rows,
    )
    return {claim.id: _cheapest(claim, profiles) for claim in rows.itertuples()}


def _cheapest(claim, profiles):
    if not claim.rule:
        return ""
    tree = claims.parse(claim.rule)
    _, wanted = claims.asked(tree, claims.Store())
    if all(metric in EVERYWHERE for metric, _ in wanted):
        return SIZES[0]
    names = [COMPARABLE] if claims.quotes(claim, tree) else SIZES
    fits = [name for name in names if all(covers(profiles[name], *value) for value in wanted)]
    sets = {
        dims["dataset"]
        for metric, dims in wanted
        if "dataset" in dims and not metric.startswith("aep.")
    }
    return (fits[0] + (f", {len(sets)} data sets" if len(sets) > 1 else "")) if fits else ITS_OWN


def covers(profile, metric, dims):
    """Would a run of this profile, on the data set that `dims` may name, measure this value?"""
    return metric in EVERYWHERE or FAMILIES[metric.split(".")[0]](profile, metric, dims)


def _aep(profile, metric, dims):
    scenarios = (
        dims["comparison"].split(" vs ")
        if "comparison" in dims
        else [s for s in [dims.get("scenario")] if s]
    )
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
    post = dims.get("post", "none") != "none" or metric in ("nat.post_gain", "nat.ens_win_share")
    searches = profile["post_searches" if post else "searches"]
    phases = (
        [dims["phase"]]
        if "phase" in dims
        else [phase for phase, wanted in searches.items() if wanted]
    )
    if metric == "nat.phase_gain":  # against the phase before
        phases = [str(int(dims["phase"]) - 1), dims["phase"]]
    return bool(phases) and all(
        searches.get(phase)
        and profile["nat_supernets"].get(phase)
        and dims.get("objectives") in (None, *searches[phase])
        and dims.get("supernet") in (None, *profile["nat_supernets"][phase])
        for phase in phases
    )


def _post(profile, metric, dims):
    phases = [phase for phase, wanted in profile["post_searches"].items() if wanted]
    families = {
        "EE" if name.startswith("EE") else "SE"
        for p in phases
        for name in profile["nat_supernets"][p]
    }
    studied = (
        bool(profile["post_searches"].get("1")) or metric != "post.mean_top1"
    )  # strategies: phase 1
    return studied and bool(phases) and dims.get("family") in (None, *families)


def _pred(profile, metric, dims):
    names = [PREDICTORS[key].label for key in profile["predictors"]]
    return (
        dims.get("supernet") in (None, *profile["predictor_supernets"])
        and dims.get("predictor") in (None, *names)
        and dims.get("n_train") in (None, *map(str, profile["predictor_sizes"]))
    )


FAMILIES = {"aep": _aep, "eps": _eps, "nat": _nat, "post": _post, "pred": _pred}
