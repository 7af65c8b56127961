"""Choose the radius without a person."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from discover.errors import UsageError
from discover.perturb.spaces import drawn
from discover.search.readings import Readings

PROBES = 30
"""Random directions in a calibration, as published."""
SMALL = 0.02
"""Relative radius below which no radius is looked for."""
LARGEST = 16.0
"""Relative radius beyond which no radius is looked for."""


Measure = Callable[[float], float]
"""What random directions do at a radius; grows with it."""


def turn(read: Readings, seed: int) -> Measure:
    """Return by how many degrees 30 random directions of a radius turn the target residual, on average.

    A random vector that is long enough buries the residual stream it is added to, and stands nearly at right angles to it:
    unlike a departure, an angle of 45 degrees is reached in every model. There, what was added weighs as much as what was.
    """
    probing, directions = _probing(read, seed)

    def measured(radius: float) -> float:
        return float(probing(radius).each(lambda reader: reader.turns, directions).mean())

    return measured


def departure(read: Readings, seed: int) -> Measure:
    """Return how far the effects of 30 random directions of a radius have left their linearisation.

    It is sqrt(mean ||effect(R v) - R J v||^2 / ||R J v||^2) over directions v. Source: the calibration of deep causal
    transcoding (Mack & Turner, 2024, as coded), here on effects as the search reads them.
    """
    probing, directions = _probing(read, seed)
    every, slope = torch.arange(PROBES), probing(1.0).slopes(directions)

    def measured(radius: float) -> float:
        linear = radius * slope
        left = (probing(radius).mean_effects(directions, every) - linear).square().sum(dim=-1)
        return float((left / linear.square().sum(dim=-1)).mean().sqrt())

    return measured


def _probing(read: Readings, seed: int) -> tuple[Callable[[float], Readings], Tensor]:
    """Return the function from a radius to what reads 30 random directions at the end of the prompt, and these directions."""
    space = read.space.calibrating.sized(PROBES)
    return (
        lambda radius: replace(read, space=space, radius=radius, readers=read.readers[:1]),
        drawn(space, PROBES, "calibration", seed),
    )


def calibrated_radius(measure: Measure, norm: float, enough: float, told: str) -> float:
    """Return the radius at which `measure` first reaches `enough`, to one part in a hundred.

    Args:
        measure: what random directions do at a radius.
        norm: the median residual norm at the source, in residual units.
        enough: what the measure has to reach.
        told: the option that says so, for the error.

    Raises:
        UsageError: it is above at the smallest step already, or stays below up to sixteen residual norms.
        FloatingPointError: what random directions do is no finite number.
    """

    def reached(radius: float) -> bool:
        value = measure(radius)
        if not math.isfinite(value):
            raise FloatingPointError(f"the effect of random directions at radius {radius:.3g} is not finite, or has no slope")
        return value >= enough

    low, high = SMALL * norm, 0.125 * norm
    if reached(low):
        raise UsageError(
            f"Random directions reach {told} within {SMALL:g} residual norms already; give search.relative_radius, for example 1."
        )
    # Upwards in steps of a half, so that the first crossing is found and not a later one.
    while not reached(high):
        if high >= LARGEST * norm:
            raise UsageError(
                f"No radius up to {LARGEST:g} residual norms makes random directions reach {told}; "
                "give search.relative_radius, for example 1."
            )
        low, high = high, min(1.5 * high, LARGEST * norm)
    # A hundredth is far below the width of any usable band.
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
