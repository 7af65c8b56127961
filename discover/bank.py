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
from discover.perturb.sphere import random_directions
from discover.storage import write_tensors

FORMAT = "discover.bank/1"
"""Marks a file as a bank, and says which fields it holds."""


@dataclass(frozen=True)
class VectorBank:
    """N steering vectors of one norm for one place in one model."""

    directions: Tensor
    """[N, D] unit directions, float32, CPU."""
    objective: Tensor
    """[N] the objective that the search reached; NaN where nothing was maximised."""
    radius: float
    """Norm of every vector, in residual units."""
    residual_norm: float
    """Median norm of the unsteered residual stream at the source, in the same units."""
    source_layer: int
    """Block after which a vector is added."""
    target_layer: int
    """Block after which its effect was read."""
    origin: dict[str, Any]
    """Model, solver, seed and prompts; JSON values only."""

    def __len__(self) -> int:
        """N."""
        return len(self.directions)

    @property
    def vectors(self) -> Tensor:
        """[N, D] radius times direction."""
        return self.radius * self.directions

    @property
    def relative_radius(self) -> float:
        """Radius in median residual norms at the source."""
        return self.radius / self.residual_norm

    def subset(self, indices: Sequence[int]) -> "VectorBank":
        """Return the bank of the named rows."""
        chosen = list(indices)
        if out := [index for index in chosen if not 0 <= index < len(self)]:
            raise UsageError(f"There is no vector {out[0]} in this bank; it holds vectors 0 to {len(self) - 1}.")
        return replace(self, directions=self.directions[chosen], objective=self.objective[chosen])

    def null(self, count: int, seed: int) -> "VectorBank":
        """Return `count` random directions in this bank's place and at its radius."""
        return replace(
            self,
            # Another name than the search's start: a null that shared its draws would be what the search began with.
            directions=random_directions(count, self.directions.shape[1], "null", seed),
            objective=torch.full((count,), torch.nan),
            origin={**self.origin, "solver": "null", "seed": seed},
        )

    @staticmethod
    def save_as(path: Path, bank: "VectorBank") -> None:
        """Write `bank`; the order of arguments that a stage of a run expects."""
        bank.save(path)

    def save(self, path: Path) -> None:
        """Write the bank as safetensors; equal banks give equal bytes."""
        about = {
            "format": FORMAT,
            "radius": self.radius,
            "residual_norm": self.residual_norm,
            "source_layer": self.source_layer,
            "target_layer": self.target_layer,
            "origin": self.origin,
        }
        write_tensors(path, {"directions": self.directions, "objective": self.objective}, about)

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
                tensors = {name: held.get_tensor(name) for name in ("directions", "objective")}
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UsageError(f"{file} holds no vector bank ({error}); give a run's folder or its bank.safetensors.") from error
        return cls(**tensors, **about)
