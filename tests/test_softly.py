"""Soft diversity is its formula, drives near duplicates apart, and takes what does the same for the same."""

import pytest
import torch
from toys import linear_slice, reading

from discover.choices import Similarity
from discover.config import SearchConfig
from discover.model.anatomy import Place, Site
from discover.perturb.spaces import LowRankSpace, VectorSpace, drawn, held
from discover.perturb.sphere import random_rows, unit
from discover.search.effects import EffectReader
from discover.search.solvers import PUSHES, Softly, cpe

VECTORS = VectorSpace(Place(0, Site.residual), 32)
FACTORS = LowRankSpace(
    (Place(0, Site.mlp), Place(1, Site.mlp)),
    tuple(random_rows(5, size, "inputs").float() for size in (16, 12)),
    10,
    1,
    False,
    False,
)
TEMPERATURE = 0.3


def parts_of(space, row):
    return row.split(list(space.lengths))


def cosine(one, other):
    return float(one @ other / one.norm() / other.norm())


def changed_weights(space, row):
    """What a row stands for as one long vector: itself, or the rank-one changes of each place."""
    if isinstance(space, VectorSpace):
        return row
    parts = parts_of(space, row)
    return torch.cat([torch.outer(write, read).flatten() for read, write in zip(parts[::2], parts[1::2], strict=True)])


def turned(space, row, other):
    """Another row with both vectors of a place turned round where they point away from the row's."""
    if isinstance(space, VectorSpace):
        return other
    own, theirs = parts_of(space, row), list(parts_of(space, other))
    for at in range(0, len(theirs), 2):
        if float(own[at] @ theirs[at] + own[at + 1] @ theirs[at + 1]) < 0:
            theirs[at], theirs[at + 1] = -theirs[at], -theirs[at + 1]
    return torch.cat(theirs)


def normalised(space, row):
    return torch.cat([part / part.norm() for part in parts_of(space, row)])


def pushed(space, similarity, rows, strengths):
    """The published loop, over i and j in float64; where signs cancel a push goes half as far."""
    step = 0.5 if similarity is Similarity.update else 1.0
    rows = [row.double() for row in rows]
    for _ in range(10):
        found = []
        for i, row in enumerate(rows):
            exponents = {}
            for j, other in enumerate(rows):
                if j == i:
                    continue
                match similarity:
                    case Similarity.weights:
                        alike = cosine(row, other)
                    case Similarity.parts:
                        alike = sum(map(cosine, parts_of(space, row), parts_of(space, other)))
                    case Similarity.update:
                        alike = cosine(changed_weights(space, row), changed_weights(space, other))
                exponents[j] = alike / TEMPERATURE + float(torch.log(strengths[j].double() + 1e-8))
            highest = max(exponents.values())
            shares = {j: torch.tensor(exponent - highest).exp() for j, exponent in exponents.items()}
            total = sum(shares.values())
            moved = row.clone()
            for j, share in shares.items():
                moved -= step * share / total * (turned(space, row, rows[j]) if similarity is Similarity.update else rows[j])
            found.append(moved / moved.norm() if similarity is Similarity.weights else normalised(space, moved))
        # For `weights` all parameters are one vector, of norm one.
        rows = found
    return torch.stack([normalised(space, row) for row in rows])


@pytest.mark.parametrize("space", [VECTORS, FACTORS], ids=["vectors", "factors"])
@pytest.mark.parametrize("similarity", list(Similarity))
def test_it_is_its_formula(space, similarity):
    assert PUSHES == 10
    rows = drawn(space, 7, "softly").double()  # Rounding grows with every push.
    rows[3] = held(space, rows[:1] + 0.2 * rows[3])[0]
    strengths = torch.tensor([1.0, 0.1, 3.0, 0.7, 0.0, 2.0, 1.0])
    found = Softly(space, similarity, TEMPERATURE)(rows, strengths)
    reference = pushed(space, similarity, rows, strengths)
    assert (reference - rows).norm(dim=1).min() > 0.1, "every row has moved"
    torch.testing.assert_close(found, reference, atol=1e-4, rtol=0)


@pytest.mark.parametrize("space", [VECTORS, FACTORS], ids=["vectors", "factors"])
@pytest.mark.parametrize("similarity", list(Similarity))
def test_near_duplicates_are_driven_apart(space, similarity):
    rows = drawn(space, 12, "near")
    rows[1] = held(space, rows[:1] + 0.05 * rows[1])[0]
    found = Softly(space, similarity, 0.3)(rows, torch.ones(12))
    before, after = space.likeness(rows), space.likeness(found)
    assert before[0, 1] > 0.9 and after[0, 1] < 0.5
    for part in found.split(list(space.lengths), dim=1):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(12))


def test_every_row_keeps_a_direction():
    for seed in range(20):
        found = Softly(VECTORS, Similarity.update, 0.1)(drawn(VECTORS, 4, "few", seed), torch.ones(4))
        torch.testing.assert_close(found.norm(dim=1), torch.ones(4))


def with_a_copy(count, seed):
    """Rows of which the second does nearly what the first does, both vectors of one place turned round."""
    rows = drawn(FACTORS, count, "signs", seed)
    copy = rows[0] + 0.05 * rows[1]
    copy[: sum(FACTORS.lengths[:2])] *= -1
    rows[1] = held(FACTORS, copy[None])[0]
    assert FACTORS.likeness(rows)[0, 1] > 0.95 and abs(cosine(rows[0], rows[1])) < 0.1
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_copies_by_signs_that_cancel_are_seen_by_what_they_do(seed):
    rows = with_a_copy(12, seed)
    update, weights = (
        FACTORS.likeness(Softly(FACTORS, similarity, 0.3)(rows, torch.ones(12)))[0, 1]
        for similarity in (Similarity.update, Similarity.weights)
    )
    assert update < 0.2 < 0.6 < weights


@pytest.mark.parametrize("count", [12, 32])
def test_copies_are_driven_apart_at_the_default_temperature(count):
    softly = Softly(FACTORS, Similarity.update, SearchConfig().temperature)
    for seed in range(3):
        assert FACTORS.likeness(softly(with_a_copy(count, seed), torch.ones(count)))[0, 1] < 0.5


def test_the_strongly_pulled_one_pushes_harder():
    """Of two near copies it is the weaker that gives way."""
    rows = drawn(VECTORS, 3, "strong")
    rows[1] = unit(rows[0] + 0.3 * rows[1])
    found = Softly(VECTORS, Similarity.update, 0.3)(rows, torch.tensor([100.0, 0.01, 0.01]))
    kept = (found * rows).sum(dim=1)
    assert kept[0] > kept[1]


def test_a_single_row_is_left_alone():
    rows = drawn(FACTORS, 1, "one")
    assert torch.equal(Softly(FACTORS, Similarity.parts, 0.1)(rows, torch.ones(1)), rows)


def test_with_it_cpe_finds_more_than_the_first_singular_vector():
    part = linear_slice(torch.diag(torch.tensor([4.0, 2.5, 1.5, 1.0])), 1, 1)
    read = reading(EffectReader(part, 0, 1, False), 1.0)
    begun = drawn(read.space, 3, "start", 0)
    plain = cpe(begun, 20, 0, lambda directions, _: directions, read, lambda *_: None)
    soft = cpe(begun, 20, 0, Softly(read.space, Similarity.update, 0.1), read, lambda *_: None)
    assert plain[:, 0].abs().min() > 0.99
    assert torch.linalg.svdvals(plain)[1] < 0.2 < 0.7 < torch.linalg.svdvals(soft)[1]
