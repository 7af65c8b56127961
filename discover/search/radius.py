"""Choose the radius without a person."""

import math

import torch
from torch import Tensor

from discover.errors import UsageError
from discover.perturb.sphere import random_directions
from discover.search.chunks import Chunks
from discover.search.effects import EffectReader

PROBES = 30
"""Random directions in a calibration, as published."""
SMALL = 0.02
"""Step of the central difference that stands for the derivative, in residual norms."""
LARGEST = 8.0
"""Relative radius beyond which no radius is looked for."""


def departure(reader: EffectReader, chunks: Chunks, seed: int, radius: float) -> float:
    """Return how far the effects of random directions at `radius` have left their linearisation.

    It is sqrt(mean ||effect(R v) - R J v||^2 / ||R J v||^2) over 30 directions v. Source: the calibration of deep causal
    transcoding (Mack & Turner, 2024, as coded), here on effects as the search reads them.
    """
    directions = random_directions(PROBES, reader.slice.width, "calibration", seed)
    slope = _slopes(reader, chunks, directions)
    return _departure(reader, chunks, directions, slope, radius)


def calibrated_radius(reader: EffectReader, chunks: Chunks, seed: int, curvature: float) -> float:
    """Return the radius at which `departure` first reaches `curvature`, to one part in a hundred.

    Raises:
        UsageError: it is above at the step of the derivative already, or stays below up to eight residual norms.
        FloatingPointError: the effect of a random direction is not finite, or has no slope.
    """
    directions = random_directions(PROBES, reader.slice.width, "calibration", seed)
    slope = _slopes(reader, chunks, directions)
    norm = reader.slice.residual_norm

    def bent(radius: float) -> bool:
        return _departure(reader, chunks, directions, slope, radius) >= curvature

    low, high = SMALL * norm, 0.125 * norm
    if bent(low):
        raise UsageError(
            f"The effect bends by search.curvature={curvature} within {SMALL:g} residual norms already; "
            "give search.relative_radius, for example 1."
        )
    # Upwards in steps of a half, so that the first crossing is found and not a later one.
    while not bent(high):
        if high >= LARGEST * norm:
            raise UsageError(
                f"No radius up to {LARGEST:g} residual norms bends the effect by search.curvature={curvature}; "
                "give search.relative_radius, for example 1."
            )
        low, high = high, min(1.5 * high, LARGEST * norm)
    # Bisection, for the departure has no derivative that is cheaper than itself; a hundredth is far below the width of any band.
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if bent(middle) else (middle, high)
    return high


def _slopes(reader: EffectReader, chunks: Chunks, directions: Tensor) -> Tensor:
    """Return J v [30, K * D], the change of the mean effect per residual unit, by a central difference."""
    step = SMALL * reader.slice.residual_norm
    return (_means(reader, chunks, step * directions) - _means(reader, chunks, -step * directions)) / (2 * step)


def _departure(reader: EffectReader, chunks: Chunks, directions: Tensor, slope: Tensor, radius: float) -> float:
    linear = radius * slope
    left = (_means(reader, chunks, radius * directions) - linear).square().sum(dim=-1)
    ratio = float((left / linear.square().sum(dim=-1)).mean().sqrt())
    if not math.isfinite(ratio):
        raise FloatingPointError(f"the effect of random directions at radius {radius:.3g} is not finite, or has no slope")
    return ratio


def _means(reader: EffectReader, chunks: Chunks, vectors: Tensor) -> Tensor:
    with torch.no_grad():
        return chunks.over(reader.mean_effects, vectors)
