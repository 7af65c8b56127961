"""The tests and intervals are the textbook's."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import binom, fisher_exact, hypergeom

from discover import statistics
from discover.statistics import holm, more_often, random_cosine, share


def test_p_is_fishers_exact_test():
    for count, n, null_count, null_n in product((0, 1, 5, 12), (12, 30), (0, 1, 7, 12), (12, 40)):
        table = [[count, n - count], [null_count, null_n - null_count]]
        expected = fisher_exact(table, alternative="greater").pvalue
        assert more_often(count, n, null_count, null_n) == pytest.approx(expected, rel=1e-9)


def test_p_by_hand():
    """All three of three against none of three: one arrangement in twenty."""
    assert more_often(3, 3, 0, 3) == pytest.approx(1 / 20)
    assert more_often(0, 3, 3, 3) == 1.0


def test_holm_by_hand():
    """Four p values: 0.01 * 4, 0.02 * 3, then 0.03 * 2 and 0.04 * 1, which may not fall below the one before."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9, 0.001]) == pytest.approx([1.0, 1.0, 0.003])
    assert holm([]) == [] and holm([0.2]) == [0.2]


def able(least, level):
    """Tarone's definition, word for word: K is the least number of tests such that no more than K can pass level / K."""
    sizes = [size for size in range(1, len(least) + 2) if sum(p <= level / size for p in least) <= size]
    return [p <= level / min(sizes) for p in least]


def test_those_that_can_be_decided_are_tarones():
    random = np.random.default_rng(0)
    for _ in range(300):
        size, level = random.integers(0, 30), random.choice([0.01, 0.05, 0.2])
        least = [float(value) for value in 10.0 ** -random.uniform(0, 5, size)]
        assert statistics.testable(least, level) == able(least, level)


def test_those_that_can_be_decided_by_hand():
    assert statistics.testable([], 0.05) == []
    assert statistics.testable([0.05], 0.05) == [True] and statistics.testable([0.051], 0.05) == [False]
    # 0.02 alone passes 0.05; of two at 0.02 both pass 0.025; of three none passes 0.05 / 3, and two pass 0.025.
    assert statistics.testable([0.02, 0.5, 0.5], 0.05) == [True, False, False]
    assert statistics.testable([0.02, 0.02], 0.05) == [True, True]
    assert statistics.testable([0.02, 0.02, 0.02], 0.05) == [False, False, False]


def test_leaving_out_what_cannot_be_decided_keeps_the_error_rate_and_has_more_power():
    """Of two banks of 40 and 80, under the null; many modes are so small that no outcome could pass."""
    n, null, level, draws = 40, 80, 0.05, 4000
    sizes = [25, 18, 12, 9, *[1] * 30, *[2] * 20]
    least = [float(hypergeom.pmf(min(n, size), n + null, size, n)) for size in sizes]
    decided = statistics.testable(least, level)
    assert 4 <= sum(decided) < 10 and decided == able(least, level)
    random, wrong, uncorrected = np.random.default_rng(0), 0, 0
    counts = np.stack([random.hypergeometric(size, n + null - size, n, draws) for size in sizes], axis=1)
    values = np.stack([hypergeom.sf(counts[:, place] - 1, n + null, size, n) for place, size in enumerate(sizes)], axis=1)
    for row in values:
        wrong += min(holm([p for p, one in zip(row, decided, strict=True) if one])) < level
        uncorrected += min(row[np.array(decided)]) < level
    assert wrong <= binom.ppf(0.999, draws, level) < uncorrected
    # Power: eight of eight vectors, where all tests had to be paid for and where those that can be decided are.
    p = more_often(8, n, 0, null)
    assert holm([p, *[1.0] * (len(sizes) - 1)])[0] > holm([p, *[1.0] * (sum(decided) - 1)])[0]
    assert sum(decided) * p < level


@pytest.mark.parametrize("count,n", [(0, 10), (3, 10), (10, 10), (12, 128), (1, 1)])
def test_the_interval_is_wilsons(count, n):
    z = 1.959963984540054
    centre = (count / n + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (count / n * (1 - count / n) / n + z**2 / (4 * n**2)) ** 0.5
    found = share(count, n)
    assert (found.count, found.n) == (count, n)
    assert found.low == pytest.approx(max(0, centre - half), abs=1e-12) and found.high == pytest.approx(min(1, centre + half))
    assert found.low <= count / n <= found.high


def test_a_share_is_told_with_its_interval():
    assert str(share(12, 128)) == "12/128 (5-16 %)"


@pytest.mark.parametrize("width,count", [(2, 1), (16, 1), (64, 128)])
def test_the_largest_cosine_of_random_directions_is_what_draws_give(width, count):
    drawn = np.random.default_rng(0).standard_normal((2000, count, width))
    cosines = np.abs(drawn[..., 0]) / np.linalg.norm(drawn, axis=-1)
    assert np.median(cosines.max(axis=1)) == pytest.approx(random_cosine(width, count), rel=0.05)
