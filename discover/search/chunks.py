"""How many vectors a search computes at once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from discover.model.memory import free_memory, in_pieces
from discover.model.slice import ModelSlice
from discover.search.effects import Objective

SHARE = 0.5
"""Share of the free memory that one piece may take."""
COPIES = 24
"""Residual-sized tensors that one replayed block keeps for its gradient (an estimate on the safe side)."""


@dataclass
class Chunks:
    """How many vectors are computed at once; shrinks, and stays shrunk, when memory runs out."""

    size: int
    advice: str = "give fewer or shorter prompts, layers closer together, or model.dtype=bfloat16"
    """What to do where a single vector is too much."""

    def gradients(self, objective: Objective, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the objective [N] and its gradient [N, D] at `vectors` [N, D], both on the CPU in float32.

        Raises:
            FloatingPointError: a value or gradient is not finite.
        """

        def piece(rows: Tensor) -> Tensor:
            held = rows.requires_grad_(True)
            values = objective(held)
            # Each value depends on its own row alone, so the gradient of the sum holds every row's gradient.
            (gradient,) = torch.autograd.grad(values.sum(), held)
            return torch.cat([values.detach()[:, None], gradient], dim=1)

        both = self.over(piece, vectors)
        if not torch.isfinite(both).all():
            row = int((~torch.isfinite(both).all(dim=1)).nonzero()[0])
            raise FloatingPointError(f"the objective or its gradient is not finite for vector {row}")
        return both[:, 0], both[:, 1:]

    def over(self, function: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
        """Return `function` over the rows of `vectors` piece by piece, joined on the CPU.

        Raises:
            UsageError: memory does not suffice for a single vector.
        """
        done, self.size = in_pieces(
            lambda rows: function(vectors[rows].detach().clone()).cpu(), len(vectors), self.size, self.advice
        )
        return torch.cat(done)


def chunks(part: ModelSlice, wanted: int | None) -> Chunks:
    """Return the chunk size `wanted`, or one that an estimate of the memory for a gradient allows."""
    rows, tokens, width = part.source.shape
    one = rows * tokens * width * len(part.blocks) * COPIES * 4
    free = free_memory(part.source.device.type)
    fitting = int(rows * tokens * SHARE * free / one)
    told = (
        f"one vector over {rows * tokens} prompt tokens needs about {one / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are free, "
        f"in which {fitting} tokens would fit: give fewer or shorter prompts, layers closer together, or model.dtype=bfloat16"
    )
    return Chunks(wanted or max(1, min(4096, int(SHARE * free / one))), told)
