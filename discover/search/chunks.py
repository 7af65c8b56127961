"""Work on many vectors in pieces that fit into memory; the pieces never change the result."""

from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from discover.errors import UsageError
from discover.model.slice import ModelSlice
from discover.search.effects import Objective

SHARE = 0.5
"""Share of the free memory that one piece may take."""
COPIES = 24
"""Residual-sized tensors that one replayed block keeps for its gradient (measured: 15 to 22 over the tested families)."""


@dataclass
class Chunks:
    """How many vectors are computed at once; shrinks, and stays shrunk, when memory runs out."""

    size: int

    def gradients(self, objective: Objective, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the objective [N] and its gradient [N, D] at `vectors` [N, D], both on the CPU in float32.

        Raises:
            FloatingPointError: a value or gradient is not finite.
        """

        def piece(rows: Tensor) -> Tensor:
            held = rows.requires_grad_(True)
            values = objective(held)
            (gradient,) = torch.autograd.grad(values.sum(), held)
            return torch.cat([values.detach()[:, None], gradient], dim=1)

        both = self.over(piece, vectors)
        if not torch.isfinite(both).all():
            row = int((~torch.isfinite(both).all(dim=1)).nonzero()[0])
            raise FloatingPointError(f"the objective or its gradient is not finite for vector {row}")
        return both[:, 0], both[:, 1:]

    def over(self, function: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
        """Return `function` over the rows of `vectors` piece by piece, joined on the CPU; halves the piece if need be.

        Raises:
            UsageError: memory does not suffice for a single vector.
        """
        done: list[Tensor] = []
        start = 0
        while start < len(vectors):
            try:
                done.append(function(vectors[start : start + self.size].detach().clone()).cpu())
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                self.halve()
                continue
            start += self.size
        return torch.cat(done)

    def halve(self) -> None:
        """Go on with half the size.

        Raises:
            UsageError: the size is one already.
        """
        if self.size == 1:
            raise UsageError(
                f"There is not enough memory for a single vector ({free_memory('cpu') / 2**30:.1f} GiB free on the CPU); "
                "give fewer or shorter prompts, layers closer together, or model.dtype=bfloat16."
            )
        self.size = max(1, self.size // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def chunks(part: ModelSlice, wanted: int | None) -> Chunks:
    """Return the chunk size `wanted`, or one that an estimate of the memory for a gradient allows."""
    if wanted is not None:
        return Chunks(wanted)
    rows, tokens, width = part.source.shape
    one = rows * tokens * width * len(part.blocks) * COPIES * 4
    return Chunks(max(1, min(4096, int(SHARE * free_memory(part.source.device.type) / one))))


def free_memory(device: str) -> int:
    """Return the bytes free on the device."""
    return int(torch.cuda.mem_get_info()[0]) if device == "cuda" else int(psutil.virtual_memory().available)


def _out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says so; on a CPU torch reports a failed allocation as a plain RuntimeError."""
    told = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in told or "not enough memory" in told
    )
