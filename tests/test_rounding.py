"""A row is the same to the bit, alone or beside others: through a product, and through a slice with its gradient."""

import pytest
import torch
from toys import KINDS, alone, kind, part_and_space

from discover.model.rounding import FEWEST, row_products
from discover.perturb.spaces import drawn
from discover.perturb.sphere import random_rows

ROWS = 8
pytestmark = pytest.mark.usefixtures("alike_rows")


@pytest.mark.parametrize("width,others", [(32, 48), (96, 1), (384, 96), (70, 33)])
def test_products_of_few_rows_are_those_of_many(width, others):
    rows, reading = random_rows(40, width, "rows").float(), random_rows(others, width, "others").float()
    whole = row_products(rows, reading)
    torch.testing.assert_close(whole.double(), rows.double() @ reading.double().T, rtol=0, atol=1e-6 * width)
    for count in (1, 2, 3, FEWEST, 7):
        assert torch.equal(row_products(rows[:count], reading), whole[:count])


@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_a_perturbation_alone_is_the_same_to_the_bit(loaded, batch, name, prompts):
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
        assert torch.equal(few, whole[rows]) and torch.equal(own, slopes[rows])
