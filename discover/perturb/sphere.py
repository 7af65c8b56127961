"""Directions on the unit sphere: every one drawn from its own seed, on the CPU, so that no batching can change it."""

import hashlib

import torch
from torch import Tensor, nn

from discover.errors import UsageError


def seed_of(*names: object) -> int:
    """Return a 63-bit seed derived from `names`; different names give unrelated seeds."""
    text = "/".join(map(str, names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def random_directions(count: int, width: int, *names: object) -> Tensor:
    """Return [count, width] uniform unit directions in float32; row i depends on `names` and i alone."""
    return unit(random_rows(count, width, *names)).float()


def random_rows(count: int, width: int, *names: object) -> Tensor:
    """Return [count, width] normal draws in float64; row i depends on `names` and i alone."""
    return torch.stack([random_row(width, *names, index) for index in range(count)])


def random_row(width: int, *names: object) -> Tensor:
    """Return [width] normal draws in float64 that depend on `names` alone."""
    return torch.randn(width, generator=torch.Generator().manual_seed(seed_of(*names)), dtype=torch.float64)


def unit(vectors: Tensor) -> Tensor:
    """Return `vectors` [..., D] at norm one."""
    return nn.functional.normalize(vectors, dim=-1, eps=1e-12)


def refuse_beyond_width(count: int, width: int) -> None:
    """Refuse more orthogonal directions than there are dimensions."""
    if count > width:
        raise UsageError(
            f"search.vectors={count} orthogonal directions do not exist in a residual stream of width {width}; "
            f"ask for at most {width}, or for search.diversity=none."
        )


def orthonormalised(vectors: Tensor) -> Tensor:
    """Return the Gram-Schmidt basis of the rows [..., N, D] in their order, each on the side of the row it came from.

    Raises:
        UsageError: N > D, which no orthogonal set can have.
    """
    refuse_beyond_width(*vectors.shape[-2:])
    q, r = torch.linalg.qr(vectors.double().mT)
    # Not `torch.sign`, whose 0 at a row that depends on those before it would leave no direction at all.
    signs = torch.where(torch.diagonal(r, dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    return (q * signs[..., None, :]).mT.to(vectors.dtype)
