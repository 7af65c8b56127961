"""The calibrated radius is where the effect has bent as far as asked."""

import pytest
import torch
from conftest import WIDTH
from torch import nn
from toys import linear_slice, slice_through

from discover.config import SearchConfig
from discover.errors import UsageError
from discover.model.slice import model_slice
from discover.perturb.sphere import random_directions
from discover.search.chunks import Chunks
from discover.search.effects import EffectReader
from discover.search.learning import learn
from discover.search.radius import calibrated_radius, departure

PIECES = Chunks(100)


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
    return EffectReader(slice_through(Bent(source, curvature / (relative_radius * norm)), source, mask), 0, False), norm


@pytest.mark.parametrize("curvature", [0.3, 0.5])
@pytest.mark.parametrize("relative_radius", [0.05, 0.4, 1.0, 3.0, 7.5])
def test_equals_the_closed_form(relative_radius, curvature):
    reader, norm = bent_reader(relative_radius, curvature)
    assert reader.slice.residual_norm == pytest.approx(norm)
    radius = calibrated_radius(reader, PIECES, 0, curvature)
    assert radius == pytest.approx(relative_radius * norm, rel=0.02)
    assert departure(reader, PIECES, 0, 0.5 * radius) == pytest.approx(0.5 * curvature, rel=0.02)


def test_the_search_uses_it():
    reader, _ = bent_reader(1.0, 0.5)
    config = SearchConfig(vectors=2, rounds=1, normalised=False, positions=0, curvature=0.5)
    assert learn(config, reader.slice, (0, 1), 0, {}, lambda: None).bank.relative_radius == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(
    "reader,told",
    [
        (EffectReader(linear_slice(torch.eye(WIDTH), 1, 2), 1, False), "No radius up to 8 residual norms"),
        (bent_reader(9.0, 0.5)[0], "No radius up to 8 residual norms"),
        (bent_reader(0.01, 0.5)[0], "within 0.02 residual norms already"),
    ],
)
def test_says_so_where_there_is_none(reader, told):
    with pytest.raises(UsageError, match=f"{told}.*search.relative_radius"):
        calibrated_radius(reader, PIECES, 0, 0.5)


@pytest.mark.parametrize("matrix", [torch.zeros(WIDTH, WIDTH), torch.full((WIDTH, WIDTH), torch.nan)])
def test_no_effect_and_no_number_stop_with_their_place(matrix):
    """Once this halved the radius until it was zero, and went on with it."""
    with pytest.raises(FloatingPointError, match="random directions at radius"):
        calibrated_radius(EffectReader(linear_slice(matrix, 1, 2), 1, False), PIECES, 0, 0.5)


def test_every_family_has_one(loaded, batch):
    reader = EffectReader(model_slice(loaded, batch, 1, 3), 1, True)
    radius = calibrated_radius(reader, PIECES, 0, 0.5)
    assert 0.02 < radius / reader.slice.residual_norm <= 8
    assert departure(reader, PIECES, 0, radius) == pytest.approx(0.5, rel=0.03)
    assert departure(reader, PIECES, 0, 0.5 * radius) < 0.5
