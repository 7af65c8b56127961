"""The calibrated radius is where the effect has bent as far as asked."""

from dataclasses import replace

import pytest
import torch
from conftest import MORE_FAMILIES, WIDTH
from torch import nn
from toys import GENEROUS, entering, kind, last_positions, linear_slice, part_and_space, reading, slice_between, slice_through

from discover.choices import Calibration, Target
from discover.config import SearchConfig
from discover.errors import UsageError
from discover.perturb.sphere import random_directions
from discover.search.effects import EffectReader
from discover.search.learning import learn
from discover.search.radius import calibrated_radius, departure, turn
from discover.search.readings import Readings
from discover.steer.selftest import self_test


class Bent(nn.Module):
    """x + bend ||x - s||^2 u for the source s and a unit vector u: departs from its linearisation by bend * R exactly."""

    def __init__(self, source, bend):
        super().__init__()
        self.source, self.bend = source, bend
        self.aside = random_directions(1, source.shape[-1], "aside")[0]

    def forward(self, residual):
        away = (residual - self.source.repeat(len(residual) // len(self.source), 1, 1)).square().sum(dim=-1, keepdim=True)
        return residual + self.bend * away * self.aside


def bent_reader(relative_radius, curvature):
    """A reader whose effect departs by `curvature` at `relative_radius` residual norms."""
    source = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 3, dtype=torch.long)
    norm = float(source.norm(dim=-1).median())
    return last_positions(slice_through(Bent(source, curvature / (relative_radius * norm)), source, mask), 0, False), norm


def departed(reader):
    return departure(reading(reader, 1.0), 0)


def departing(reader, curvature):
    return calibrated_radius(departed(reader), reader.slice.residual_norm, curvature, "search.departure")


def turned(reader, seed):
    return turn(reading(reader, 1.0), seed)


@pytest.mark.parametrize("curvature", [0.3, 0.5])
@pytest.mark.parametrize("relative_radius", [0.05, 0.4, 1.0, 3.0, 7.5])
def test_a_departure_equals_the_closed_form(relative_radius, curvature):
    reader, norm = bent_reader(relative_radius, curvature)
    assert reader.slice.residual_norm == pytest.approx(norm)
    radius = departing(reader, curvature)
    assert radius == pytest.approx(relative_radius * norm, rel=0.02)
    assert departed(reader)(0.5 * radius) == pytest.approx(0.5 * curvature, rel=0.02)


def residual_reader(scale, positions=0):
    """A reader of a slice that adds nothing to the residual stream and scales it."""
    part = linear_slice(scale * torch.eye(WIDTH), 2, 3)
    part.blocks[0].bias.data.zero_()
    return last_positions(replace(part, target=scale * part.source), positions, False)


@pytest.mark.parametrize("relative_radius", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("scale", [0.5, 30.0])
def test_a_turn_is_the_angle_in_float64(relative_radius, scale):
    reader = residual_reader(scale)
    radius = relative_radius * reader.slice.residual_norm
    source = reader.slice.source.double()[None]
    steered = source + radius * random_directions(30, WIDTH, "calibration", 7).double()[:, None, None]
    angles = torch.rad2deg(torch.arccos(torch.cosine_similarity(steered, source, dim=-1)))
    assert turned(reader, 7)(radius) == pytest.approx(float(angles.mean()), rel=1e-4)


def test_what_weighs_as_much_as_what_was_there_turns_it_by_45_degrees():
    """Exactly so for vectors at right angles to a residual stream of one norm; about so in a plain stream."""
    reader = residual_reader(3.0)
    radius = calibrated_radius(turned(reader, 0), reader.slice.residual_norm, 45.0, "search.turn")
    assert radius / reader.slice.residual_norm == pytest.approx(1.0, abs=0.1)
    assert turned(reader, 0)(radius) == pytest.approx(45, rel=0.01)


def test_padding_does_not_turn():
    part = linear_slice(torch.eye(WIDTH), 2, 3)
    mask = torch.tensor([[1, 1, 1], [0, 0, 1]])
    added = entering(part, random_directions(4, WIDTH, "x"))

    def turns(some):
        return last_positions(some, 0, False).turns(added)

    def cut(row, keep):
        return slice_through(part.blocks[0], part.source[row : row + 1, keep], mask[row : row + 1, keep])

    first, second = turns(cut(0, slice(0, 3))), turns(cut(1, slice(2, 3)))
    torch.testing.assert_close(turns(replace(part, mask=mask)), (3 * first + second) / 4)


@pytest.mark.parametrize("calibration", list(Calibration))
def test_the_search_uses_it(calibration):
    reader, norm = bent_reader(1.0, 0.5)
    config = SearchConfig(vectors=2, rounds=1, normalised=False, positions=0, calibration=calibration, turn=30.0)
    found = learn(config, reader.slice, reading(reader, 1.0).space, 0, (0, 1), 0, {}, lambda _: None).bank.radius
    # Where nobody has listened, speech decides nothing, and the angle does.
    if calibration in (Calibration.turn, Calibration.speech):
        assert turned(reader, 0)(found) == pytest.approx(30, rel=0.02)
    else:
        assert found == pytest.approx(norm, rel=0.02)


@pytest.mark.parametrize("calibration", list(Calibration))
def test_an_adapter_has_the_radius_of_vectors_in_its_place(llama, batch, calibration):
    """To the bit; where weights are held at it, and for factors, it is calibrated by their own kind."""

    def found(name, **options):
        config = kind(name, vectors=2, rounds=1, reply_positions=0, calibration=calibration, departure=0.1, **options)
        part, space = part_and_space(llama, batch, config, 1, 3)
        return learn(config, part, space, 0, (1, 3), 5, {}, lambda _: None).bank.radius

    radius = found("bias")
    assert found("adapter of rank 1") == found("adapter of rank 3") == radius
    assert radius not in (found("adapter of rank 3", weighed=True), found("factor on mlp"), found("head"))


@pytest.mark.parametrize(
    "reader,told",
    [
        (last_positions(linear_slice(torch.eye(WIDTH), 1, 2), 1, False), "No radius up to 16 residual norms"),
        (bent_reader(17.0, 0.5)[0], "No radius up to 16 residual norms"),
        (bent_reader(0.01, 0.5)[0], "within 0.02 residual norms already"),
    ],
)
def test_says_so_where_there_is_none(reader, told):
    with pytest.raises(UsageError, match=rf"({told}.*search.departure|search.departure.*{told}).*search.relative_radius"):
        departing(reader, 0.5)


@pytest.mark.parametrize("matrix", [torch.zeros(WIDTH, WIDTH), torch.full((WIDTH, WIDTH), torch.nan)])
def test_no_effect_and_no_number_stop_with_their_place(matrix):
    """Once this halved the radius until it was zero, and went on with it."""
    with pytest.raises(FloatingPointError, match="random directions at radius"):
        departing(last_positions(linear_slice(matrix, 1, 2), 1, False), 0.5)


@pytest.mark.parametrize("layers", [(0, 1), (0, 3), (1, 3)])
def test_every_family_has_one(loaded, batch, layers):
    reader = last_positions(slice_between(loaded, batch, *layers), 1, True)
    measure = turned(reader, 0)
    radius = calibrated_radius(measure, reader.slice.residual_norm, 45.0, "search.turn")
    assert measure(radius) == pytest.approx(45, rel=0.03)
    assert measure(0.5 * radius) < 45


@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_more_families_have_one_for_every_kind(loaded_family, batch, family):
    """And pass the self-test: nothing in the slice or the calibration was made for one of them."""
    loaded = loaded_family(family)
    for name in ("vector", "head", "factor on attention"):
        part, space = part_and_space(loaded, batch, kind(name), 1, 3)
        checks = self_test(loaded, batch, batch, part, space, 3, Target.residual)
        assert max(checks.zero, checks.slice, checks.row, checks.cache) < 1e-3
        last = part.target.shape[1]
        read = Readings(space, 1.0, (EffectReader(part, last - 1, last, True),), GENEROUS)
        radius = calibrated_radius(turn(read, 0), part.residual_norm, 40.0, "search.turn")
        assert turn(read, 0)(radius) == pytest.approx(40, rel=0.05)
        assert 0.02 < radius / part.residual_norm < 16
