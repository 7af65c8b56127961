"""A row is the same alone or beside others, through a product and through a slice with its gradient.

To the bit where the machine's own products round rows alike, and everywhere within a margin.
"""

import pytest
import torch
from toys import KINDS, alone, kind, part_and_space

from discover.model.rounding import FEWEST, row_products
from discover.perturb.spaces import drawn
from discover.perturb.sphere import random_rows

ROWS = 8
MARGIN = 1e-5
"""What rounding may come to, of the largest number in a row."""


def same(found, wanted, to_the_bit):
    apart = (found - wanted).flatten(1).abs().amax(dim=1)
    return torch.equal(found, wanted) if to_the_bit else bool((apart <= MARGIN * wanted.flatten(1).abs().amax(dim=1)).all())


@pytest.mark.parametrize("width,others", [(32, 48), (96, 1), (384, 96), (70, 33)])
def test_products_of_few_rows_are_those_of_many(width, others, rounds_rows_alike):
    rows, reading = random_rows(40, width, "rows").float(), random_rows(others, width, "others").float()
    whole = row_products(rows, reading)
    torch.testing.assert_close(whole.double(), rows.double() @ reading.double().T, rtol=0, atol=1e-6 * width)
    for count in (1, 2, 3, FEWEST, 7):
        assert same(row_products(rows[:count], reading), whole[:count], rounds_rows_alike)


@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_a_perturbation_alone_is_the_same(loaded, batch, name, prompts, rounds_rows_alike):
    batch = batch if prompts == 2 else alone(batch, 0)
    part, space = part_and_space(loaded, batch, kind(name, vectors=ROWS), 1, 3)
    begun, last = drawn(space, ROWS, "rounding"), batch.input_ids.shape[1] - 1

    def effects(rows):
        moving = begun[rows].requires_grad_(True)
        read = part.steered(space.rows(rows).perturbations(moving, part.residual_norm), last, last + 1)
        return read.detach(), torch.autograd.grad(read.square().sum(), moving)[0]

    whole, slopes = effects(torch.arange(ROWS))
    for rows in ([5], [7, 0], [1, 2, 4]):
        few, own = effects(torch.tensor(rows))
        assert same(few, whole[rows], rounds_rows_alike) and same(own, slopes[rows], rounds_rows_alike)
