"""The measured values that the claims of thesis chapter 4 ask for: a `claims.Store` from finished
cells.

Metrics, dimensions and labels are those of reference/metrics.csv; see `results4.values` for the
averages, their noise and when they are comparable. Left out, so that its claims show as not run, is
an average over part of what was run elsewhere (it would be compared with averages over all of it),
and one whose noise nothing tells.
"""

from nat_lib.results import chapter4
from nat_lib.results.claims import Store, printed


def chapter_claims():
    """The claims of chapter 4, of the abstract and of the summary that these values can settle:
    rows of claims.csv."""
    claims = printed("claims")
    return claims[claims.id.str.startswith("A") | claims.metric.str.contains(r"\baep\.")]


def store4(out, datasets=None):
    """Store of aep.* from the finished cells under `out`, for `claims.judge`; datasets: see
    `results4.runs4`."""
    store, values = Store(), chapter4.values(chapter4.runs4(out, datasets))
    for row in values[values.whole & values.noise.notna()].to_dict("records"):
        dims = {name: row[name] for name in chapter4.DIMENSIONS[row["metric"]]}
        store.add(
            row["metric"],
            dims,
            row["ours"],
            row["noise"],
            int(row["seeds"]),
            bool(row["comparable"]),
            row["by_seed"],
        )
    return store
