"""The objectives are the formulas: value and gradient against float64 loops over prompts and positions."""

import pytest
import torch
from conftest import WIDTH
from torch import nn
from toys import alone, entering, last_positions, linear_slice, slice_between, slice_through, with_singular_values

from discover.perturb.sphere import random_directions, unit
from discover.search.effects import mean_norm, melbo, norm_sum, unclaimed_norm

LENGTHS, TOKENS, D = (2, 5, 4), 5, 6
RADIUS = 1.5


class Curved(nn.Module):
    """x + 2 tanh(W x), position by position."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(D, D, bias=False)
        self.inner.weight.data = torch.randn(D, D, generator=torch.Generator().manual_seed(3))

    def forward(self, residual):
        return residual + 2 * torch.tanh(self.inner(residual))


@pytest.fixture
def part():
    """Three prompts of different length behind a curved block; the padding holds large numbers that nothing may read."""
    source = torch.randn(len(LENGTHS), TOKENS, D, generator=torch.Generator().manual_seed(4))
    mask = torch.tensor([[0] * (TOKENS - length) + [1] * length for length in LENGTHS])
    return slice_through(Curved(), source.where(mask[..., None].bool(), torch.tensor(100.0)), mask)


def effect_in_float64(part, vector, prompt, position, normalised):
    weight = part.blocks[0].inner.weight.double()
    source = part.source[prompt, position].double()

    def target(residual):
        out = residual + 2 * torch.tanh(weight @ residual)
        return out / out.norm() if normalised else out

    return target(source + vector) - target(source)


def read_positions(positions, length):
    """Columns that are read: the last `positions` (all for 0), those that hold a token."""
    return [column for column in range(TOKENS - (positions or TOKENS), TOKENS) if column >= TOKENS - length]


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("positions", [0, 1, 3])
@pytest.mark.parametrize("power,q", [(1.0, 1.0), (2.0, 1.0), (2.0, 2.0), (4.0, 1.0), (4.0, 4.0)])
def test_melbo_is_its_formula(part, power, q, positions, normalised):
    vectors = RADIUS * random_directions(4, D, "melbo")
    held = vectors.clone().requires_grad_(True)
    values = melbo(last_positions(part, positions, normalised), power, q)(entering(part, held))
    (gradients,) = torch.autograd.grad(values.sum(), held)
    for vector, value, gradient in zip(vectors, values, gradients, strict=True):
        exact = vector.double().requires_grad_(True)
        total = torch.zeros((), dtype=torch.float64)
        for prompt, length in enumerate(LENGTHS):
            inner = torch.zeros((), dtype=torch.float64)
            for position in read_positions(positions, length):
                inner = inner + effect_in_float64(part, exact, prompt, position, normalised).norm() ** power
            total = total + inner ** (1 / q)
        (reference,) = torch.autograd.grad(total, exact)
        torch.testing.assert_close(value.double(), total, rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient.double(), reference, rtol=1e-4, atol=1e-5 * float(reference.norm()))


@pytest.mark.parametrize("power,q", [(1.0, 1.0), (2.0, 2.0), (4.0, 4.0)])
def test_melbo_has_a_gradient_where_there_is_no_effect(part, power, q):
    nothing = torch.zeros(1, D, requires_grad=True)
    value = melbo(last_positions(part, 0, False), power, q)(entering(part, nothing)).sum()
    (gradient,) = torch.autograd.grad(value, nothing)
    assert float(value.detach()) < 1e-8 and torch.isfinite(gradient).all()


@pytest.mark.parametrize("positions", [0, 1, 3])
def test_mean_effects_average_over_the_prompts_that_have_the_position(part, positions):
    vectors = RADIUS * random_directions(2, D, "mean")
    columns = positions or TOKENS
    means = last_positions(part, positions, False).mean_effects(entering(part, vectors)).unflatten(1, (columns, D))
    for vector, mean in zip(vectors.double(), means, strict=True):
        for column in range(columns):
            place = TOKENS - columns + column
            there = [prompt for prompt, length in enumerate(LENGTHS) if place >= TOKENS - length]
            expected = sum(effect_in_float64(part, vector, prompt, place, False) for prompt in there) / len(there)
            torch.testing.assert_close(mean[column].double(), expected, rtol=1e-4, atol=1e-5)


def test_effects_on_padding_are_zero(part):
    effects = last_positions(part, 0, False).effects(entering(part, torch.ones(2, D)))
    padding = part.mask == 0
    assert padding.sum() == 4 and effects[:, padding].abs().max() == 0
    assert effects[:, ~padding].abs().sum(dim=-1).min() > 0


def test_padding_does_not_enter_through_a_real_model(llama, batch):
    """The objective over two prompts is the sum over each alone, whatever the padding."""
    vectors = random_directions(3, WIDTH, "padding")

    def value(rows):
        part = slice_between(llama, rows, 0, 2)
        return melbo(last_positions(part, 0, True), 2.0, 2.0)(entering(part, vectors))

    torch.testing.assert_close(value(batch), value(alone(batch, 0)) + value(alone(batch, 1)), rtol=1e-4, atol=0)


def test_mean_norm_of_a_linear_map():
    matrix, _, _ = with_singular_values(torch.tensor([3.0, 2.0, 1.0, 0.5]))
    vectors = RADIUS * random_directions(5, 4, "linear")
    part = linear_slice(matrix, rows=3, tokens=2)
    one, both, added = last_positions(part, 1, False), last_positions(part, 0, False), entering(part, vectors)
    torch.testing.assert_close(mean_norm(one)(added), (vectors @ matrix.T).norm(dim=1), rtol=1e-4, atol=0)
    torch.testing.assert_close(mean_norm(both)(added), 2**0.5 * (vectors @ matrix.T).norm(dim=1), rtol=1e-4, atol=0)


def test_unclaimed_norm_leaves_out_the_claimed_span():
    matrix, left, right = with_singular_values(torch.tensor([3.0, 2.0, 1.0, 0.5]))
    part = linear_slice(matrix, 2, 1)
    objective = unclaimed_norm(last_positions(part, 1, False), left[:2])
    vectors = RADIUS * random_directions(5, 4, "claimed")
    expected = ((vectors @ right[2]).square() + (0.5 * vectors @ right[3]).square()).sqrt()
    torch.testing.assert_close(objective(entering(part, vectors)), expected, rtol=1e-4, atol=1e-5)
    assert objective(entering(part, right[:2])).max() < 1e-4 < 0.9 < objective(entering(part, right[2:3]))[0]


def test_a_normalised_effect_sees_no_growth():
    """Doubling a residual changes nothing that a later norm would let through."""
    part = linear_slice(torch.eye(4), 1, 1)
    vector = part.target[:, 0]
    assert last_positions(part, 1, True).effects(entering(part, vector)).norm() < 1e-6
    torch.testing.assert_close(last_positions(part, 1, False).effects(entering(part, vector))[0, 0], vector)
    turned = last_positions(part, 1, True).effects(entering(part, -2 * vector))[0, 0, 0]
    torch.testing.assert_close(turned, -2 * unit(vector)[0])


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("normalised", [False, True])
def test_norm_sum_adds_the_norms_of_the_prompts(part, positions, normalised):
    vectors = RADIUS * random_directions(3, D, "sum")
    values = norm_sum(last_positions(part, positions, normalised))(entering(part, vectors))
    for vector, value in zip(vectors.double(), values, strict=True):
        total = 0.0
        for prompt, length in enumerate(LENGTHS):
            effects = [effect_in_float64(part, vector, prompt, place, normalised) for place in read_positions(positions, length)]
            total += float(torch.cat(effects).norm())
        assert float(value) == pytest.approx(total, rel=1e-5)
