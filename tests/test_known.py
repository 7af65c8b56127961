"""A discovered vector is held against known directions, as it is added and by what it does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import BLOCKS, WIDTH
from toys import after

from discover.audit import known
from discover.audit.known import Likeness, known_directions, likenesses, load_likenesses, save_likenesses
from discover.bank import VectorBank
from discover.errors import UsageError
from discover.model.anatomy import Place, Site
from discover.model.change import biases
from discover.model.hooks import hidden
from discover.perturb.sphere import random_directions

RADIUS, TARGET = 6.0, 3


def bank(perturbations, source=1) -> VectorBank:
    return VectorBank(
        perturbations=perturbations,
        objective=torch.zeros(len(perturbations)),
        radius=RADIUS,
        residual_norm=1.0,
        source_layer=source,
        target_layer=TARGET,
        origin={"perturbation": "vector"},
    )


def directions(count: int) -> torch.Tensor:
    """Orthonormal ones."""
    return torch.linalg.qr(random_directions(WIDTH, WIDTH, "known").T)[0].T[:count].contiguous()


@pytest.fixture(scope="module")
def vectors() -> torch.Tensor:
    return RADIUS * directions(3)


def own_effects(loaded, ids, layer, vectors):
    """Mean over prompts of the change of unit residuals after the target block at the last token, each text alone."""
    found = []
    for row in ids:
        read = []
        for vector in [torch.zeros(WIDTH), *vectors]:

            def add(_module, _inputs, output, vector=vector):
                changed = hidden(output) + vector
                return (changed, *output[1:]) if isinstance(output, tuple) else changed

            seen = []
            handles = [
                loaded.anatomy.blocks[layer].register_forward_hook(add),
                loaded.anatomy.blocks[TARGET].register_forward_hook(
                    lambda _m, _i, output, seen=seen: seen.append(hidden(output))
                ),
            ]
            with torch.no_grad():
                loaded.model(torch.tensor([row]), use_cache=False)
            for handle in handles:
                handle.remove()
            last = seen[0][0, -1].double()
            read.append(last / last.norm())
        found.append(torch.stack([steered - read[0] for steered in read[1:]]))
    return torch.stack(found).mean(dim=0)


def test_itself_is_one_its_opposite_minus_one_and_what_is_orthogonal_nought(loaded, batch, vectors):
    own = bank(after(1, torch.cat([vectors, -vectors[:1]])))
    (found,) = likenesses(loaded, batch, own, [("itself", bank(after(1, vectors[:1])))])
    assert (found.name, found.layer) == ("itself", 1)
    assert found.source == pytest.approx([1, 0, 0, -1], abs=1e-5)
    assert found.effect[0] == pytest.approx(1, abs=1e-4)
    assert all(abs(one) < 0.999 for one in found.effect[1:])


def test_the_source_cosine_forgets_lengths_and_the_layer_is_that_of_the_known(llama, batch, vectors):
    (found,) = likenesses(
        llama, batch, bank(after(1, vectors)), [("other", bank(after(2, 0.1 * vectors[1:2] + 0.1 * vectors[0]), 2))]
    )
    assert found.source == pytest.approx([0.5**0.5, 0.5**0.5, 0], abs=1e-5) and found.layer == 2


def test_the_effect_is_a_cosine_of_mean_effects_by_hand(loaded, batch, vectors):
    other = RADIUS * random_directions(1, WIDTH, "other")
    (found,) = likenesses(loaded, batch, bank(after(1, vectors)), [("other", bank(after(0, other), 0))])
    ids = [row[mask.bool()].tolist() for row, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
    mine, theirs = own_effects(loaded, ids, 1, vectors), own_effects(loaded, ids, 0, other)
    expected = torch.nn.functional.cosine_similarity(mine, theirs)
    assert found.effect == pytest.approx(expected.tolist(), abs=2e-3)


def test_small_vectors_of_opposite_sign_have_opposite_effects(llama, batch, vectors):
    (found,) = likenesses(llama, batch, bank(after(1, -0.01 * vectors[:1])), [("it", bank(after(1, 0.01 * vectors[:1])))])
    assert found.source == pytest.approx([-1], abs=1e-5) and found.effect == pytest.approx([-1], abs=1e-2)


def test_what_is_no_vector_of_the_residual_stream_is_compared_by_its_effect_alone(llama, batch, vectors):
    heads = bank(biases(Place(1, Site.attention), vectors[:1]))
    (one,) = likenesses(llama, batch, bank(after(1, vectors)), [("head", heads)])
    assert one.source is None and len(one.effect) == 3
    (other,) = likenesses(llama, batch, heads, [("vector", bank(after(1, vectors[:1])))])
    # Without a norm behind the projection, what attention writes in a block and what is added after it differ by its MLP alone.
    assert other.source is None and len(other.effect) == 1 and 0.2 < other.effect[0] < 0.9999


def test_pieces_change_nothing(llama, batch, vectors, monkeypatch):
    own, one = bank(after(1, vectors)), [("it", bank(after(1, vectors[1:2])))]
    (whole,) = likenesses(llama, batch, own, one)
    monkeypatch.setattr(known, "ROWS", 1)
    (pieces,) = likenesses(llama, batch, own, one)
    assert pieces.effect == pytest.approx(whole.effect, abs=1e-4) and pieces.source == whole.source


def test_a_direction_that_acts_after_the_target_is_compared_where_it_has_an_effect(llama, batch, vectors):
    early = replace(bank(after(0, vectors), 0), target_layer=1)
    late = bank(after(3, vectors[:1]), 3)
    (found,) = likenesses(llama, batch, early, [("late", late)])
    assert all(abs(one) > 1e-3 for one in found.effect)
    # All are then read after the block in which the last of them acts.
    assert found.effect == likenesses(llama, batch, replace(early, target_layer=3), [("late", late)])[0].effect


def test_nothing_known_is_nothing_to_compare(llama, batch, vectors):
    assert likenesses(llama, batch, bank(after(1, vectors)), []) == []


def test_known_directions_are_the_first_entries_of_banks_by_the_names_of_their_folders(llama, vectors, tmp_path: Path):
    (tmp_path / "refusal").mkdir()
    bank(after(1, vectors)).save(tmp_path / "refusal" / "bank.safetensors")
    bank(after(2, vectors[1:]), 2).save(tmp_path / "other.safetensors")
    (name, first), (file, second) = known_directions([str(tmp_path / "refusal"), str(tmp_path / "other.safetensors")], llama)
    assert (name, file) == ("refusal", "other.safetensors")
    torch.testing.assert_close(first.vectors, vectors[:1])
    torch.testing.assert_close(second.vectors, vectors[1:2])


def test_directions_of_another_model_are_refused(llama, tmp_path: Path):
    bank(after(1, torch.ones(1, WIDTH + 1))).save(tmp_path / "wide.safetensors")
    with pytest.raises(UsageError, match=f"width {WIDTH + 1} and this model {WIDTH}"):
        known_directions([str(tmp_path / "wide.safetensors")], llama)
    bank(after(BLOCKS, torch.ones(1, WIDTH)), BLOCKS).save(tmp_path / "deep.safetensors")
    with pytest.raises(UsageError, match=f"acts in block {BLOCKS} and this model has {BLOCKS}"):
        known_directions([str(tmp_path / "deep.safetensors")], llama)
    with pytest.raises(UsageError):
        known_directions([str(tmp_path / "missing.safetensors")], llama)


def test_likenesses_survive_their_file(tmp_path: Path) -> None:
    found = [Likeness("one", 1, [0.5, -1.0], [1.0, 0.25]), Likeness("two", 2, None, [0.0, 0.1])]
    save_likenesses(tmp_path / "known.json", found)
    assert load_likenesses(tmp_path / "known.json") == found
    assert replace(found[0], source=None) != found[0]
