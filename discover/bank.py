"""The vector bank: the frozen result of a search, with where it came from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from discover.errors import UsageError
from discover.model.anatomy import Place, Site
from discover.model.change import Change, Perturbations, check_entries
from discover.storage import write_tensors

FORMAT = "discover.bank/2"
"""Marks a file as a bank, and says which fields it holds."""
PARTS = ("bias", "down", "up")
"""Tensors of a change."""


@dataclass(frozen=True)
class VectorBank:
    """N perturbations of one kind and size for one model."""

    perturbations: Perturbations
    """N of them, float32, CPU."""
    objective: Tensor
    """[N] the objective that the search reached; NaN where nothing was maximised."""
    radius: float
    """Norm of what each adds to a block's or projection's output, in residual units (for a low-rank change, at nine tokens in
    ten at most)."""
    residual_norm: float
    """Median norm of the unsteered residual stream at the source, in the same units."""
    source_layer: int
    """First block that is changed; a vector is added after it."""
    target_layer: int
    """Block after which their effect was read."""
    origin: dict[str, Any]
    """Kind, model, solver, seed and prompts; JSON values only."""

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
            raise UsageError(f"This bank holds perturbations of kind {self.origin.get('perturbation')}, not vectors.")
        return first.bias

    @property
    def relative_radius(self) -> float:
        """Radius in median residual norms at the source."""
        return self.radius / self.residual_norm

    def subset(self, indices: Sequence[int]) -> "VectorBank":
        """Return the bank of the named rows."""
        chosen = list(indices)
        check_entries(chosen, len(self))
        return replace(self, perturbations=self.perturbations.rows(chosen), objective=self.objective[chosen])

    def void(self, perturbations: Perturbations, seed: int) -> "VectorBank":
        """Return other perturbations, that nothing was maximised for, in this bank's place and at its radius."""
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
            "places": [[change.place.block, change.place.site.value] for change in changes],
            "last": self.perturbations.last,
            "radius": self.radius,
            "residual_norm": self.residual_norm,
            "source_layer": self.source_layer,
            "target_layer": self.target_layer,
            "origin": self.origin,
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
                    Change(Place(block, Site(site)), *(held.get_tensor(f"{number}.{part}") for part in PARTS))
                    for number, (block, site) in enumerate(about.pop("places"))
                )
                last, objective = about.pop("last"), held.get_tensor("objective")
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UsageError(f"{file} holds no vector bank ({error}); give a run's folder or its bank.safetensors.") from error
        return cls(perturbations=Perturbations(changes, last), objective=objective, **about)
