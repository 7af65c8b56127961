"""Exact tests and intervals; a number never travels alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, median, stdev

from scipy.stats import beta, binomtest, hypergeom, t


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


@dataclass(frozen=True)
class Average:
    """A mean over n independent runs with its 95 % interval by Student's t; a single run has none."""

    mean: float
    n: int
    half: float | None
    """Half of the interval's width."""

    def __str__(self) -> str:
        """Return for example `12.5 ± 3.1`."""
        return f"{self.mean:.3g}" if self.half is None else f"{self.mean:.3g} ± {self.half:.2g}"


def average(values: Sequence[float]) -> Average:
    """Return the mean of at least one value with its interval."""
    n = len(values)
    half = float(t.ppf(0.975, n - 1)) * stdev(values) / sqrt(n) if n > 1 else None
    return Average(mean(values), n, half)


@dataclass(frozen=True)
class Spread:
    """Repeats of one measurement: their median, least and greatest."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        """Return for example `12.5 (11 to 14)`."""
        return f"{self.median:.3g} ({self.least:.3g} to {self.greatest:.3g})"


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of at least one value."""
    return Spread(median(values), min(values), max(values))


def more_often(count: int, n: int, null_count: int, null_n: int) -> float:
    """Return Fisher's exact one-sided p that a mode is no more frequent in the bank (count of n) than in the null."""
    return float(hypergeom.sf(count - 1, n + null_n, count + null_count, n))


def reached(counts: Sequence[int], n: int, drawn: int) -> float:
    """Return how many kinds the first `drawn` of n things show, on average over all their orders.

    Args:
        counts: how many of the n things are of each kind; one thing may be of several.
        n: things.
        drawn: how many of them are looked at, at most n.
    """
    return float(hypergeom.sf(0, n, list(counts), drawn).sum()) if counts else 0.0


def holm(values: Sequence[float]) -> list[float]:
    """Return the p values adjusted by Holm's step-down for the family-wise error rate."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    adjusted = [0.0] * len(values)
    floor = 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = floor
    return adjusted


def testable(least: Sequence[float], level: float) -> list[bool]:
    """Return which of several discrete tests can take part in a family at an error rate of `level`.

    A test whose smallest attainable p cannot pass the correction counts for nothing in it. Source: Tarone, "A modified
    Bonferroni method for discrete data", Biometrics 46, 1990.

    Args:
        least: the smallest p that each test could have reached.
        level: family-wise error rate.
    """
    size = next((size for size in range(1, len(least)) if sum(p <= level / size for p in least) <= size), max(1, len(least)))
    return [p <= level / size for p in least]


def random_cosine(width: int, count: int) -> float:
    """Return the median of the largest |cosine| that `count` random directions in `width` > 1 dimensions have with a fixed one.

    The square of one such cosine follows a beta distribution with parameters 1/2 and (width - 1)/2.
    """
    return sqrt(float(beta.ppf(0.5 ** (1 / count), 0.5, (width - 1) / 2)))
