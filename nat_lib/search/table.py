"""An exact table: what every network of a tied space scores and costs, so that a search can be
judged against the truth.

    table = load("cifar10_ee_d")
    table.query(X)               # errors and costs of genotypes, a million in a second
    table.front("acc+macs")      # the true front

A table is a file of a few hundred kB: one number per network and column, and a digest of the logits
of every backbone.  `studies.tabling` makes one from a trained supernet.
"""

import io
import json
import sys
from argparse import ArgumentParser
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from nat_lib.arch import Space
from nat_lib.errors import Refusal
from nat_lib.files import hash_of, write_bytes
from nat_lib.search import objectives, pareto
from nat_lib.search.objectives import ERROR, OBJECTIVES
from nat_lib.search.tied import Tied

FOLDER = Path(__file__).with_name("tables")  # of those that ship with the kit
ERRORS = ("val_error", "test_error")  # percent
COLUMNS = {**dict.fromkeys(ERRORS, np.float32), **dict.fromkeys(("params", "macs_tp"), np.int64)}
CHEAP = {1 / 9: "val_error_9", 1 / 3: "val_error_3"}  # on that share of the validation images
EXAMPLE = "acc+macs"


class Table:
    """Scores and costs of all networks of a `Tied` space.

    columns : {name: (size,)}: ERRORS, params, macs_tp, and, where they were measured, latency_ms
              and the errors of CHEAP
    digests : (backbones,) the beginning of a hash of every backbone's logits on validation
    about   : what it is of: name, space, dataset, data, weights, images, machine
    """

    def __init__(self, columns: dict, digests, about: dict):
        self.space = Tied(Space.from_dict(about["space"]))
        self.columns, self.digests, self.about = columns, digests, about
        for name in COLUMNS:
            if name not in columns or columns[name].shape != (self.space.size,):
                raise Refusal(f"the table has no {self.space.size} values of {name}: make it anew")

    @property
    def hash(self) -> str:
        """Of all that it holds but latencies, which belong to a machine."""
        exact = {name: v.tolist() for name, v in self.columns.items() if name in COLUMNS}
        told = {k: v for k, v in self.about.items() if k not in ("machine", "name")}
        return hash_of({**exact, "digests": self.digests.tolist(), "about": told})

    def query(self, X, text: str = EXAMPLE, split: str = "val"):
        """Objective values (n, M) of genotypes (n, V): the error on a split, then the costs that
        `text` names, such as "acc+macs"."""
        return self.values(text, split)[self.space.index(X)]

    def values(self, text: str = EXAMPLE, split: str = "val"):
        """Objective values of all networks, (size, M), as `query` gives them."""
        key = text, split
        if key not in self._values:
            self._values[key] = np.column_stack(
                [self._column(name, split) for name in objectives.names(text)]
            )
        return self._values[key]

    @cached_property
    def _values(self):
        return {}

    def cheap(self, X, share: float, text: str = EXAMPLE):
        """As `query`, the error on a share of the validation images, a key of CHEAP."""
        F = self.query(X, text)
        F[:, 0] = self.columns[CHEAP[share]][self.space.index(X)]
        return F

    def _column(self, name, split):
        if name == ERROR:
            return self.columns[f"{split}_error"].astype(float)
        column = objectives.column(name)
        if column not in self.columns:
            raise Refusal(f"table {self.about['name']} holds no {name}: choose other objectives")
        return self.columns[column] / OBJECTIVES[name].scale

    def front(self, text: str = EXAMPLE, split: str = "val"):
        """Genotypes (k, V) of the true front, the least error first."""
        F = self.values(text, split)
        members = np.flatnonzero(pareto.front(F))
        return self.space.every()[members[np.argsort(F[members, 0], kind="stable")]]

    def reference(self, text: str = EXAMPLE, split: str = "val"):
        """Reference point of hypervolumes: as of an archive that held all networks."""
        return pareto.reference(self.values(text, split))

    def hypervolume(self, X, text: str = EXAMPLE, split: str = "val") -> float:
        """Hypervolume of genotypes as a share of the true front's, 0 .. 1."""
        if not len(X):
            return 0.0
        point = self.reference(text, split)
        return pareto.hypervolume(self.query(X, text, split), point) / self._whole(text, split)

    def _whole(self, text, split):
        key = "whole", text, split
        if key not in self._values:
            F = self.query(self.front(text, split), text, split)
            self._values[key] = pareto.hypervolume(F, self.reference(text, split))
        return self._values[key]

    def regret(self, X, text: str = EXAMPLE, limit: float = 1.0, split: str = "val") -> float:
        """Points of error that the best of genotypes X lacks behind the best network there is, both
        at most `limit` times the largest first cost; inf where none is cheap enough."""
        every, found = self.values(text, split), self.query(X, text, split)
        most = limit * every[:, 1].max() if every.shape[1] > 1 else np.inf

        def best(F):
            cheap = F[F[:, 1] <= most] if F.shape[1] > 1 else F
            return cheap[:, 0].min(initial=np.inf)

        return float(best(found) - best(every))

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        held = io.BytesIO()
        told = json.dumps(self.about, sort_keys=True)
        np.savez_compressed(held, about=told, digests=self.digests, **self.columns)
        write_bytes(path, held.getbuffer())


def load(name: str) -> Table:
    """A table that ships with the kit, by name, or of a file."""
    path = FOLDER / f"{name}.npz" if name in shipped() else Path(name)
    if not path.is_file():
        raise Refusal(f"table {name!r}: give one of {', '.join(shipped())}, or a file")
    try:
        with np.load(path, allow_pickle=False) as found:
            held = {key: found[key] for key in found.files}
            about = json.loads(str(held.pop("about")))
        return Table(held, held.pop("digests"), about)
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise Refusal(f"{path} is no table ({type(error).__name__}): make it anew") from None


def shipped() -> list[str]:
    """Names of the tables that ship with the kit."""
    return sorted(path.stem for path in FOLDER.glob("*.npz"))


def ship(path: Path, name: str) -> Path:
    """Put a table among those that ship, under a name of its own; returns its file."""
    place = FOLDER / f"{name}.npz"
    if place.exists():
        raise Refusal(f"{place} is there already: delete it, or give the table another name")
    table = load(str(path))
    Table(table.columns, table.digests, table.about | {"name": name}).save(place)
    return place


def main(argv: list[str] | None = None) -> int:
    """Let a table ship with the kit: notebook 09 has made it in a cell of search_strategies."""
    parser = ArgumentParser(prog="python -m nat_lib.search.table", description=main.__doc__)
    parser.add_argument("file", type=Path, help="table.npz of a finished cell")
    parser.add_argument("name", help="by which it is loaded")
    given = parser.parse_args(argv)
    try:
        print(ship(given.file, given.name))
    except Refusal as refusal:
        print(f"nat_lib.search.table: {refusal}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
