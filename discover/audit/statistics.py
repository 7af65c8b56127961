"""Exact tests and intervals; a number never travels alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest, hypergeom


@dataclass(frozen=True)
class Share:
    """A count out of n with its 95 % Wilson interval."""

    count: int
    n: int
    low: float
    high: float

    def __str__(self) -> str:
        """Return for example `12/128 (5-16 %)`."""
        return f"{self.count}/{self.n} ({100 * self.low:.0f}-{100 * self.high:.0f} %)"


def share(count: int, n: int) -> Share:
    """Return `count` out of `n` > 0 with its 95 % Wilson interval."""
    interval = binomtest(count, n).proportion_ci(confidence_level=0.95, method="wilson")
    return Share(count, n, float(interval.low), float(interval.high))


def more_often(count: int, n: int, null_count: int, null_n: int) -> float:
    """Return Fisher's exact one-sided p that a mode is no more frequent in the bank (count of n) than in the null."""
    return float(hypergeom.sf(count - 1, n + null_n, count + null_count, n))


def holm(values: Sequence[float]) -> list[float]:
    """Return the p values adjusted by Holm's step-down for the family-wise error rate."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    adjusted = [0.0] * len(values)
    floor = 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = floor
    return adjusted
