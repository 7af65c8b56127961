"""Real slices through blocks whose mathematics is known, so that results have closed forms."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from discover.model.slice import ModelSlice


def slice_through(block: nn.Module, source: Tensor, mask: Tensor) -> ModelSlice:
    """Return the slice [B, T, D] -> [B, T, D] through one block that takes nothing but the residual stream."""
    nothing = (SimpleNamespace(args=(), kwargs={}),)
    block.requires_grad_(False)
    return ModelSlice(
        blocks=(block,), calls=nothing, doubled_calls=nothing, source=source, target=block(source).float(), mask=mask
    )


def linear_slice(jacobian: Tensor, rows: int, tokens: int) -> ModelSlice:
    """Return a slice whose Jacobian is `jacobian` [D, D] at every token, without padding."""
    width = len(jacobian)
    block = nn.Linear(width, width)
    generator = torch.Generator().manual_seed(0)
    block.weight.data = jacobian.clone()
    block.bias.data = torch.randn(width, generator=generator)
    return slice_through(block, torch.randn(rows, tokens, width, generator=generator), torch.ones(rows, tokens, dtype=torch.long))


def with_singular_values(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a matrix with these singular values, its left and its right singular vectors as rows."""
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.linalg.qr(torch.randn(len(values), len(values), generator=generator))[0] for _ in range(2))
    return left @ torch.diag(values) @ right.T, left.T.contiguous(), right.T.contiguous()
