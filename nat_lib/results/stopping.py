"""Which stop rule would have saved what: every rule of `stopping.STOP_RULES` replayed on the stored
curves of finished trainings."""

from pathlib import Path

import numpy as np
import pandas as pd

from nat_lib.stopping import STOP_RULES

COLUMNS = ["rule", "label", "trainings", "stopped", "saved", "lost", "best_kept"]


def curves(out, study="aep_study") -> dict[str, np.ndarray]:
    """{cell: validation top-1 per epoch} of the finished trainings of a study, by name."""
    found = {}
    for path in sorted((Path(out) / study).glob("**/history.csv")):
        if (path.parent / "report.json").is_file():
            history = pd.read_csv(path)
            if "val_top1" in history and len(history):
                found[path.parent.relative_to(out).as_posix()] = history.val_top1.to_numpy(float)
    return found


def replayed(found: dict[str, np.ndarray]) -> pd.DataFrame:
    """One row per rule: trainings, how many it stops, epochs saved (share), points of best top-1
    lost on average, and whether the best training of all is kept whole.

    Trainings are taken in the order of their names; a rule sees those before, whole.
    """
    rows = []
    for name, rule in STOP_RULES.items():
        saved, stopped, best = 0, 0, True
        lost: list[float] = []
        before: list[np.ndarray] = []
        top = max((c.max() for c in found.values()), default=np.nan)
        for curve in found.values():
            at = stop_at(rule.function, curve, before)
            saved += len(curve) - at
            stopped += at < len(curve)
            lost.append(curve.max() - curve[:at].max())
            best = best and not (curve.max() == top and lost[-1] > 0)
            before.append(curve)
        epochs = sum(map(len, found.values()))
        told = {"rule": name, "label": rule.label, "trainings": len(found), "stopped": stopped}
        told |= {"saved": saved / epochs if epochs else np.nan}
        rows.append(told | {"lost": np.mean(lost) if lost else np.nan, "best_kept": best})
    return pd.DataFrame(rows, columns=COLUMNS)


def stop_at(rule, curve, others) -> int:
    """After how many epochs a rule stops a training; all of them if it does not."""
    for t in range(1, len(curve)):
        if rule(curve[:t], len(curve), others):
            return t
    return len(curve)
