"""The vector bank: the frozen result of a search, with where it came from."""

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import reduce
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from discover.errors import UsageError
from discover.model.anatomy import Place, Site
from discover.model.change import Change, Perturbations, check_entries, joined
from discover.storage import write_tensors

FORMAT = "discover.bank/3"
"""Marks a file as a bank, and says which fields it holds."""
PARTS = ("bias", "down", "up")
"""Tensors of a change."""
OF_ROWS = ("count", "places", "ranks")
"""What a share says of its rows; the rest is what a bank says of itself."""


@dataclass(frozen=True)
class Share:
    """Consecutive vectors of a bank that were learned in one way."""

    count: int
    """How many."""
    places: tuple[Place, ...]
    """Where they act, in the model's order."""
    radius: float
    residual_norm: float
    source_layer: int
    target_layer: int
    origin: dict[str, Any]
    """These as in the bank."""
    ranks: tuple[int, ...]
    """Terms of their changes at each place; beside another way's there may stand more, of nothing."""


@dataclass(frozen=True)
class VectorBank:
    """N perturbations of one kind and size for one model, or of a mixture of such."""

    perturbations: Perturbations
    """N of them, float32, CPU."""
    objective: Tensor
    """[N] the objective that the search reached; NaN where nothing was maximised."""
    radius: float
    """Norm of what each adds to a block's or projection's output, in residual units (of an adapter at the loudest token, of a
    factor at nine tokens in ten at most); of a mixture the median over its vectors."""
    residual_norm: float
    """Median norm of the unsteered residual stream at the source, in the same units; of a mixture the median over its vectors."""
    source_layer: int
    """First block that is changed; a vector is added after it."""
    target_layer: int
    """Block after which their effect was read; of a mixture the last such."""
    origin: dict[str, Any]
    """Kind, model, solver, seed and prompts, as far as all have them in common; JSON values only."""
    shares: tuple[Share, ...] = ()
    """The ways in which the vectors of a mixture were learned, in their order; empty where there was one."""

    def __len__(self) -> int:
        """N."""
        return len(self.perturbations)

    @property
    def vectors(self) -> Tensor:
        """[N, D] what each adds to the output of one module.

        Raises:
            UsageError: they are no vectors but low-rank changes, whose work depends on what the module is given.
        """
        (first, *others) = self.perturbations.changes
        if others or first.down.shape[1]:
            kind = "a mixture of ways to learn" if self.shares else f"perturbations of kind {self.origin.get('perturbation')}"
            raise UsageError(f"This bank holds {kind}, not vectors.")
        return first.bias

    @property
    def relative_radius(self) -> float:
        """Radius in median residual norms at the source; of a mixture the median over its vectors."""
        return median(way.radius / way.residual_norm for way in self.ways for _ in range(len(way)))

    @property
    def ways(self) -> tuple["VectorBank", ...]:
        """A bank for every way in which vectors were learned, in their order; this one alone where it is no mixture."""
        if not self.shares:
            return (self,)
        ends = list(accumulate(share.count for share in self.shares))
        return tuple(self._way(share, slice(end - share.count, end)) for share, end in zip(self.shares, ends, strict=True))

    def way_of(self, row: int) -> int:
        """Return the number of the way in which a vector was learned."""
        return bisect_right(list(accumulate(map(len, self.ways))), row)

    def rows_of(self, number: int) -> range:
        """Return the vectors that were learned in way `number`."""
        begin = sum(map(len, self.ways[:number]))
        return range(begin, begin + len(self.ways[number]))

    def entry(self, row: int) -> "VectorBank":
        """Return one vector as a bank of the way in which it was learned: its place, layers and radius are that way's."""
        check_entries([row], len(self))
        number = self.way_of(row)
        return self.ways[number].subset([row - self.rows_of(number).start])

    def some(self, count: int) -> list[int]:
        """Return the first `count` vectors; of a mixture the first of every way, in proportion to their numbers."""
        sizes = [min(len(way), -(-count * len(way) // len(self))) for way in self.ways]
        return [row for number, size in enumerate(sizes) for row in self.rows_of(number)[:size]]

    def _way(self, share: Share, rows: slice) -> "VectorBank":
        own = []
        for place, rank in zip(share.places, share.ranks, strict=True):
            change = next(change for change in self.perturbations.changes if change.place == place).mapped(
                lambda part: part[rows]
            )
            down = change.down[:, :rank] if rank else change.down.new_zeros(share.count, 0, 0)
            own.append(replace(change, down=down, up=change.up[:, :, :rank]))
        about = {entry.name: getattr(share, entry.name) for entry in fields(share) if entry.name not in OF_ROWS}
        return VectorBank(perturbations=replace(self.perturbations, changes=tuple(own)), objective=self.objective[rows], **about)

    @staticmethod
    def together(banks: Sequence["VectorBank"]) -> "VectorBank":
        """Return the mixture of banks, the vectors of one after those of another; of one alone that bank."""
        if len(banks) == 1:
            return banks[0]
        rows = [bank for bank in banks for _ in range(len(bank))]
        common = banks[0].origin.items()
        return VectorBank(
            perturbations=reduce(joined, (bank.perturbations for bank in banks)),
            objective=torch.cat([bank.objective for bank in banks]),
            radius=median(bank.radius for bank in rows),
            residual_norm=median(bank.residual_norm for bank in rows),
            source_layer=min(bank.source_layer for bank in banks),
            target_layer=max(bank.target_layer for bank in banks),
            origin={name: value for name, value in common if all(bank.origin.get(name) == value for bank in banks)},
            shares=tuple(bank._share() for bank in banks),
        )

    def _share(self) -> Share:
        about = {entry.name: getattr(self, entry.name) for entry in fields(Share) if entry.name not in OF_ROWS}
        changes = self.perturbations.changes
        places, ranks = tuple(change.place for change in changes), tuple(change.down.shape[1] for change in changes)
        return Share(count=len(self), places=places, ranks=ranks, **about)

    def subset(self, indices: Sequence[int]) -> "VectorBank":
        """Return the bank of the named rows, which no longer says which of them were learned in which way."""
        chosen = list(indices)
        check_entries(chosen, len(self))
        return replace(self, perturbations=self.perturbations.rows(chosen), objective=self.objective[chosen], shares=())

    def void(self, perturbations: Perturbations, seed: int) -> "VectorBank":
        """Return other perturbations, that nothing was maximised for, in the place of this bank of one way and at its radius."""
        return replace(
            self,
            perturbations=replace(perturbations, last=self.perturbations.last),
            objective=torch.full((len(perturbations),), torch.nan),
            origin={**self.origin, "solver": "null", "seed": seed},
        )

    @staticmethod
    def save_as(path: Path, bank: "VectorBank") -> None:
        """Write `bank`; the order of arguments that a stage of a run expects."""
        bank.save(path)

    def save(self, path: Path) -> None:
        """Write the bank as safetensors; equal banks give equal bytes."""
        changes = self.perturbations.changes
        about = {
            "format": FORMAT,
            "places": _told(change.place for change in changes),
            "last": self.perturbations.last,
            "radius": self.radius,
            "residual_norm": self.residual_norm,
            "source_layer": self.source_layer,
            "target_layer": self.target_layer,
            "origin": self.origin,
            "shares": [{**asdict(share), "places": _told(share.places)} for share in self.shares],
        }
        tensors = {
            f"{number}.{part}": getattr(change, part).contiguous() for number, change in enumerate(changes) for part in PARTS
        }
        write_tensors(path, {**tensors, "objective": self.objective}, about)

    @classmethod
    def load(cls, path: str | Path) -> "VectorBank":
        """Read a bank from its file, or from the folder of the run that made it.

        Raises:
            UsageError: there is no such file, or it holds no bank.
        """
        file = Path(path) / "bank.safetensors" if Path(path).is_dir() else Path(path)
        try:
            with safe_open(file, framework="pt") as held:
                about = json.loads((held.metadata() or {})["about"])
                if about.pop("format") != FORMAT:
                    raise ValueError(f"its format is not {FORMAT}")
                changes = tuple(
                    Change(place, *(held.get_tensor(f"{number}.{part}") for part in PARTS))
                    for number, place in enumerate(_places(about.pop("places")))
                )
                last, objective = about.pop("last"), held.get_tensor("objective")
                about["shares"] = tuple(_share(told) for told in about["shares"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UsageError(f"{file} holds no vector bank ({error}); give a run's folder or its bank.safetensors.") from error
        return cls(perturbations=Perturbations(changes, last), objective=objective, **about)


def _told(places: Iterable[Place]) -> list[list[Any]]:
    return [[place.block, place.site.value] for place in places]


def _places(told: Iterable[Sequence[Any]]) -> tuple[Place, ...]:
    return tuple(Place(block, Site(site)) for block, site in told)


def _share(told: dict[str, Any]) -> Share:
    return Share(**{**told, "places": _places(told["places"]), "ranks": tuple(told["ranks"])})
