"""The map of effects: what is read, where vectors lie, which groups they form, and how these agree with what was said."""

import numpy as np
import pytest
import torch
from sklearn.manifold import trustworthiness
from toys import GENEROUS, KINDS, LIMITS, after, kind, part_and_space, slice_between

from discover.bank import VectorBank
from discover.perturb.spaces import drawn
from discover.perturb.sphere import random_directions, unit
from discover.read import effects as reading
from discover.read.effects import EffectMap, agreement, effect_map, grouped, load_map, mean_effects, plane_of, save_map
from discover.read.modes import Mode
from discover.read.signals import completion
from discover.search.chunks import Chunks
from discover.search.effects import EffectReader
from discover.search.readings import whole_reader
from discover.steer.generation import Reply


def bank_of(perturbations):
    return VectorBank(perturbations, torch.zeros(len(perturbations)), 1.0, 1.0, 1, 3, {})


def said(bank, vector, text="words"):
    return completion(bank, vector, 0, Reply((1,), text, True, ()), None, Reply((), "", True, ()), LIMITS, [1.0], None)


def clouds(generator, centres, each, spread):
    return np.concatenate([centre + spread * generator.standard_normal((each, len(centre))) for centre in centres])


@pytest.fixture(scope="module")
def part(llama, batch):
    return slice_between(llama, batch, 1, 3)


@pytest.mark.parametrize("name", KINDS)
def test_effects_of_every_kind_stand_side_by_side(llama, batch, name):
    part, space = part_and_space(llama, batch, kind(name), 1, 3)
    perturbations = space.sized(5).perturbations(drawn(space.sized(5), 5, "map"), 2.0)
    reader = whole_reader(part, 2)
    assert (reader.start, reader.end, reader.normalised) == (part.target.shape[1] - 3, part.target.shape[1], True)
    told: list[int] = []
    found = mean_effects(reader, Chunks(2), bank_of(perturbations), told.append)
    assert told == [2, 2, 1]
    for row in range(5):
        steered = part.steered(perturbations.rows([row]), reader.start, reader.end)[0]
        one = (unit(steered) - unit(part.target[:, reader.start :])) * part.mask[:, reader.start :, None]
        expected = one.sum(dim=0) / part.mask[:, reader.start :].sum(dim=0).clamp(min=1)[:, None]
        assert found[row] == pytest.approx(expected.flatten().numpy(), abs=1e-5)


def test_wide_effects_are_projected_and_keep_their_distances(part, monkeypatch):
    reader, bank = whole_reader(part, 2), bank_of(after(1, 3 * random_directions(12, part.width, "wide")))
    whole = mean_effects(reader, GENEROUS, bank, lambda _: None)
    monkeypatch.setattr(reading, "WIDEST", 64)
    less = mean_effects(reader, GENEROUS, bank, lambda _: None)
    assert less.shape == (12, 64) and (less == mean_effects(reader, Chunks(5), bank, lambda _: None)).all()
    first, second = (np.linalg.norm(one[:, None] - one[None], axis=-1)[np.triu_indices(12, 1)] for one in (whole, less))
    assert np.abs(second / first - 1).max() < 0.5 and abs((second / first).mean() - 1) < 0.1


def test_groups_are_by_angle_the_largest_first_and_loners_are_noise():
    generator = np.random.default_rng(0)
    rows = clouds(generator, 3 * np.eye(40)[:2], 6, 0.05)
    rows = np.concatenate([rows, 9 * rows[6:9], np.eye(40)[[20, 30]], np.zeros((1, 40))])
    assert grouped(rows) == [*[1] * 6, *[0] * 6, *[0] * 3, None, None, None]


def test_neighbours_among_effects_are_neighbours_on_the_map():
    generator = np.random.default_rng(1)
    rows = clouds(generator, 4 * np.eye(60)[:5], 30, 0.3)
    places = plane_of(rows)
    assert places.shape == (150, 2) and places.min() >= 0 and places.max() <= 1
    assert np.ptp(places, axis=0).max() == pytest.approx(1.0)
    assert trustworthiness(rows, places, n_neighbors=5) > 0.9
    shuffled = generator.permutation(places)
    assert trustworthiness(rows, shuffled, n_neighbors=5) < 0.7, "chance is far from that"
    centres = places.reshape(5, 30, 2).mean(axis=1)
    inside = np.linalg.norm(places.reshape(5, 30, 2) - centres[:, None], axis=-1).max()
    assert inside < np.linalg.norm(centres[:, None] - centres[None], axis=-1)[np.triu_indices(5, 1)].min()
    assert (plane_of(rows) == places).all()


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 11, 20])
def test_few_effects_have_places_too(count):
    rows = np.random.default_rng(2).standard_normal((count, 7))
    places = plane_of(rows)
    assert places.shape == (count, 2) and np.isfinite(places).all() and places.min() >= 0 and places.max() <= 1
    assert (plane_of(np.ones((count, 7))) == 0.5).all() and plane_of(rows[:, :1]).shape == (count, 2)


def test_groups_agree_with_modes_where_they_are_the_same():
    spoken = [said("learned", row) for row in range(6) for _ in range(2)] + [said("null", row) for row in range(6)]
    modes = [
        Mode("a", "coherent", (), tuple(range(6)), (), None),
        Mode("b", "coherent", (), tuple(range(6, 18)), (), None),
    ]
    assert agreement([0, 0, 0, 1, 1, 1], spoken, modes) == 1.0
    assert agreement([None, None, None, 0, 0, 0], spoken, modes) == 1.0
    assert agreement([0, 1, 2, 0, 1, 2], spoken, modes) <= 0
    assert agreement([0], spoken[:2], [Mode("a", "coherent", (), (0, 1), (), None)]) is None


def test_most_replies_of_a_vector_say_its_mode():
    spoken = [said("learned", row) for row in (0, 0, 0, 1, 1, 1)]
    modes = [Mode("a", "coherent", (), (0, 1, 3), (), None), Mode("b", "coherent", (), (2, 4, 5), (), None)]
    assert agreement([0, 1], spoken, modes) == 1.0 and agreement([0, 0], spoken, modes) == 0.0


def test_a_map_has_every_vector_and_part_of_the_null(part, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "RANDOM", 3)
    banks = tuple(bank_of(after(1, 3 * random_directions(count, part.width, "map", count))) for count in (12, 7))
    spoken = [said("learned", row) for row in range(12)]
    modes = [Mode("a", "coherent", (), tuple(range(12)), (0,), None)]
    found = effect_map([(whole_reader(part, 1), GENEROUS)], banks, spoken, modes, 0.5, lambda _: None)
    assert [(spot.bank, spot.vector) for spot in found.spots] == [
        *(("learned", row) for row in range(12)),
        *(("null", row) for row in range(3)),
    ]
    assert found.stability == 0.5 and -1 <= found.agreement <= 1
    assert effect_map([(whole_reader(part, 1), Chunks(4))], banks, spoken, modes, 0.5, lambda _: None).spots == found.spots
    save_map(tmp_path / "map.json", found)
    assert load_map(tmp_path / "map.json") == found and isinstance(found, EffectMap)


def test_what_is_steered_late_is_read_no_earlier(llama, batch):
    part, _ = part_and_space(llama, batch, kind("vector", steered_positions=1), 1, 3)
    assert whole_reader(part, part.target.shape[1]) == EffectReader(part, part.first, part.target.shape[1], True)
