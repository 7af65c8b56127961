"""Pieces change nothing, shrink when memory runs out, and name the row whose value is no number."""

import pytest
import torch
from toys import slice_between

from discover.errors import UsageError
from discover.perturb.sphere import random_directions
from discover.search.chunks import Chunks, chunks


def roots(_some, rows):
    return rows.sum(dim=1, keepdim=True).sqrt()


def test_a_value_that_is_not_finite_stops_with_its_vector():
    vectors = torch.ones(5, 3)
    vectors[3] = -1.0
    with pytest.raises(FloatingPointError, match="not finite for vector 3"):
        Chunks(2).gradients(roots, vectors)
    vectors[3] = 0.0  # The value exists here, its gradient does not.
    with pytest.raises(FloatingPointError, match="not finite for vector 3"):
        Chunks(2).gradients(roots, vectors)


def test_gradients_of_pieces_are_those_of_the_whole():
    """The gradient is that of the first column; the others are carried along, and every piece is told its rows."""
    vectors, told = random_directions(7, 3, "gradients"), []

    def function(some, rows):
        told.append(some)
        return torch.stack([rows.pow(3).sum(dim=1), rows.sum(dim=1)], dim=1)

    found, gradients = Chunks(3).gradients(function, vectors)
    torch.testing.assert_close(found, torch.stack([vectors.pow(3).sum(dim=1), vectors.sum(dim=1)], dim=1))
    torch.testing.assert_close(gradients, 3 * vectors.square())
    assert torch.cat([torch.arange(7)[some] for some in told]).tolist() == list(range(7)) and len(told) == 3


def allocates_beyond_the_machine(_rows):
    """A petabyte, which no machine has: torch raises here as it does on a machine that is full."""
    return torch.empty(2**50, dtype=torch.uint8)


def out_of_memory(_rows):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("fail", [out_of_memory, allocates_beyond_the_machine])
def test_a_piece_too_large_is_halved_and_stays_so(fail):
    sizes = []

    def function(_some, rows):
        sizes.append(len(rows))
        return fail(rows) if len(rows) > 3 else 2 * rows

    vectors, pieces = random_directions(11, 4, "memory"), Chunks(8)
    assert torch.equal(pieces.over(function, vectors), 2 * vectors)
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 1] and pieces.size == 2
    with pytest.raises(UsageError, match="not enough memory for a single row; give fewer"):
        pieces.over(lambda _some, rows: fail(rows), vectors)


def test_another_error_is_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        Chunks(4).over(lambda _some, rows: rows @ rows, torch.zeros(4, 3))


def test_the_estimate_respects_a_wish_and_is_never_below_one(llama, batch):
    part = slice_between(llama, batch, 1, 3)
    assert chunks(part, 5).size == 5
    assert 1 <= chunks(part, None).size <= 4096
