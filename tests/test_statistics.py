"""The tests and intervals are the textbook's."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import fisher_exact

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
