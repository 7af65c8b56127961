"""How many perturbations a search computes at once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from discover.model.memory import free_memory, in_pieces
from discover.model.slice import ModelSlice

SHARE = 0.5
"""Share of the free memory that one piece may take."""
COPIES = 24
"""Residual-sized tensors that one replayed block keeps for its gradient (an estimate on the safe side)."""
LARGEST = {"cpu": 64, "cuda": 4096}
"""Perturbations in one piece at most: on a CPU, where a larger piece is no faster, what is held stays in its caches."""

Function = Callable[[slice, Tensor], Tensor]
"""Which rows, and their parameters -> one row of results each."""


@dataclass
class Chunks:
    """How many perturbations are computed at once; shrinks, and stays shrunk, when memory runs out."""

    size: int
    advice: str = "give fewer or shorter prompts, layers closer together, or model.dtype=bfloat16"
    """What to do where a single one is too much."""
    tick: Callable[[int], None] | None = None
    """Told how many gradients are done after every piece of them."""

    def gradients(self, function: Function, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `function` gives for `directions` [N, P], [N, ...], and the gradient [N, P] of its first column.

        Both are on the CPU in float32. Each row of results must depend on its own row of `directions` alone.

        Raises:
            FloatingPointError: a value or gradient is not finite.
        """

        def piece(some: slice, rows: Tensor) -> Tensor:
            held = rows.requires_grad_(True)
            found = function(some, held)
            (gradient,) = torch.autograd.grad(found[:, 0].sum(), held)
            if self.tick is not None:
                self.tick(len(rows))
            return torch.cat([found.detach().to(gradient), gradient], dim=1)

        both = self.over(piece, directions)
        if not torch.isfinite(both).all():
            row = int((~torch.isfinite(both).all(dim=1)).nonzero()[0])
            raise FloatingPointError(f"the objective or its gradient is not finite for vector {row}")
        return both[:, : -directions.shape[1]], both[:, -directions.shape[1] :]

    def over(self, function: Function, directions: Tensor) -> Tensor:
        """Return `function` over the rows of `directions` piece by piece, joined on the CPU.

        Raises:
            UsageError: memory does not suffice for a single row.
        """
        done, self.size = in_pieces(
            lambda rows: function(rows, directions[rows].detach().clone()).cpu(), len(directions), self.size, self.advice
        )
        return torch.cat(done)


def chunks(part: ModelSlice, wanted: int | None) -> Chunks:
    """Return the chunk size `wanted`, or one that an estimate of the memory for a gradient allows."""
    rows, tokens, _ = part.source.shape
    one = bytes_of_vector(part)
    free = free_memory(part.source.device.type)
    fitting = int(rows * tokens * SHARE * free / one)
    told = (
        f"one vector over {rows * tokens} prompt tokens needs about {one / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are free, "
        f"in which {fitting} tokens would fit: give fewer or shorter prompts, layers closer together, or model.dtype=bfloat16"
    )
    return Chunks(wanted or max(1, min(LARGEST[part.source.device.type], int(SHARE * free / one))), told)


def bytes_of_vector(part: ModelSlice) -> int:
    """Return an estimate of the memory that the gradient of one perturbation takes."""
    return part.source.numel() * len(part.blocks) * COPIES * 4
