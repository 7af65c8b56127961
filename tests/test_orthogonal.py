"""Weights that cannot write along directions make the model that ablation makes, and are put back to the bit."""

import pytest
import torch
from conftest import BLOCKS, WIDTH
from toys import after, hooks_on

from discover.choices import Device, Dtype
from discover.config import ModelConfig
from discover.errors import UsageError
from discover.model.loading import load
from discover.model.slice import residual_after
from discover.perturb.sphere import orthonormalised, random_rows
from discover.steer.generation import replies
from discover.steer.interventions import EVERYWHERE, Ablation, added, intervened
from discover.steer.orthogonal import AGREES, orthogonalised

FAMILIES = ("llama", "qwen3", "mistral", "gpt2", "gpt_neox")
"""In which everything that is written to the residual stream is written by a projection or an embedding."""


@pytest.fixture(params=FAMILIES)
def plain_family(request, loaded_family):
    return loaded_family(request.param)


def two():
    return orthonormalised(random_rows(2, WIDTH, "orthogonal")).float()


def ablation(directions):
    return Ablation(directions.expand(2, -1, -1), EVERYWHERE, None)


def ablated(loaded, batch, directions):
    with torch.no_grad(), intervened(loaded, [ablation(directions)], None):
        return loaded.forward(batch)


def speak(loaded, batch, interventions):
    return replies(loaded, batch, interventions, 8, 100, lambda _: None)


def snapshot(loaded):
    """Every parameter by every name it has: which object it is, and a copy of its numbers."""
    return {name: (one, one.clone()) for name, one in loaded.model.named_parameters(remove_duplicate=False)}


def same(loaded, before):
    now = dict(loaded.model.named_parameters(remove_duplicate=False))
    assert list(now) == list(before)
    return all(now[name] is one and torch.equal(now[name], numbers) for name, (one, numbers) in before.items())


def test_it_is_ablation_without_a_hook(plain_family, batch):
    plain, said = plain_family.forward(batch), speak(plain_family, batch, ())
    for directions in (two(), two()[:1]):
        expected = ablated(plain_family, batch, directions)
        expected_said = speak(plain_family, batch, [ablation(directions)])
        with orthogonalised(plain_family, directions):
            assert hooks_on(plain_family.model) == 0
            found, found_said = plain_family.forward(batch), speak(plain_family, batch, ())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        assert found_said == expected_said != said
        assert (found - plain).abs().max() > 0.1 * plain.std(), "nothing was ablated"
    assert torch.equal(plain_family.forward(batch), plain) and speak(plain_family, batch, ()) == said


def test_weights_lose_what_they_write_and_nothing_else(plain_family):
    directions, before = two(), snapshot(plain_family)
    projector = torch.eye(WIDTH, dtype=torch.float64) - directions.double().T @ directions.double()
    with orthogonalised(plain_family, directions):
        after_it = dict(plain_family.model.named_parameters(remove_duplicate=False))
        changed = {name for name, (one, _) in before.items() if after_it[name] is not one}
        for name in changed:
            weight, found = before[name][1].double(), after_it[name].double()
            # Rows are written by embeddings and by GPT-2's transposed projections, and columns by all others.
            rows = weight.dim() == 1 or any(part in name for part in ("embed", "wte", "wpe", "c_proj"))
            torch.testing.assert_close(found, weight @ projector if rows else projector @ weight, atol=1e-6, rtol=0)
    writers = {"embed_tokens", "embed_in", "wte", "wpe", "o_proj", "down_proj", "c_proj", "dense", "dense_4h_to_h"}
    expected = {name for name in before if name.split(".")[-2] in writers}
    assert changed == expected and len(changed) >= 2 * BLOCKS + 1
    assert same(plain_family, before)


def test_a_tied_output_stays_whole(loaded_family, batch):
    loaded = loaded_family("gpt2")
    embedding, head = loaded.model.get_input_embeddings(), loaded.model.get_output_embeddings()
    before, tied = snapshot(loaded), embedding.weight
    assert head.weight is tied, "this checkpoint ties them"
    numbers = tied.clone()
    with orthogonalised(loaded, two()):
        assert head.weight is tied and torch.equal(head.weight, numbers)
        assert embedding.weight is not tied and (embedding.weight @ two().T).abs().max() < 1e-6
    assert embedding.weight is tied is head.weight and same(loaded, before)


def test_an_error_inside_restores_every_weight(plain_family, batch):
    before, plain = snapshot(plain_family), plain_family.forward(batch)
    with pytest.raises(FloatingPointError), orthogonalised(plain_family, two()):
        assert not same(plain_family, before)
        raise FloatingPointError
    assert same(plain_family, before) and torch.equal(plain_family.forward(batch), plain)


@pytest.mark.parametrize("family", ["gemma2", "olmo2"])
def test_norms_behind_projections_are_refused_and_the_weights_restored(loaded_family, batch, family):
    loaded = loaded_family(family)
    before, plain = snapshot(loaded), loaded.forward(batch)
    with (
        pytest.raises(UsageError, match=f"This {family} model writes .* behind a norm .*; ablate instead"),
        orthogonalised(loaded, two()),
    ):
        pytest.fail("a model in which this is not ablation was let in")
    assert same(loaded, before) and torch.equal(loaded.forward(batch), plain)


def test_what_a_module_of_its_own_writes_is_refused(loaded_family):
    """Experts hold their weights in one tensor, which is no projection."""
    loaded = loaded_family("mixtral")
    before = snapshot(loaded)
    with pytest.raises(UsageError, match="by a module of its own"), orthogonalised(loaded, two()):
        pytest.fail("a model in which this is not ablation was let in")
    assert same(loaded, before)


def test_ablation_of_what_nothing_writes_changes_no_bit(loaded, batch):
    """An axis, along which weights can lose all to the bit; norms keep its zeros."""
    axis = torch.eye(WIDTH)[3, None]
    before = snapshot(loaded)
    with orthogonalised(loaded, axis):
        plain, said = loaded.forward(batch), speak(loaded, batch, ())
        assert torch.equal(ablated(loaded, batch, axis), plain)
        assert speak(loaded, batch, [ablation(axis)]) == said
    assert not torch.equal(loaded.forward(batch), plain) and same(loaded, before)


def test_contexts_nest_and_restore_the_outer(plain_family, batch):
    directions, before = two(), snapshot(plain_family)
    with orthogonalised(plain_family, directions[:1]):
        outer = plain_family.forward(batch)
        with orthogonalised(plain_family, directions[1:]):
            both = plain_family.forward(batch)
        assert torch.equal(plain_family.forward(batch), outer)
    expected = ablated(plain_family, batch, directions)
    torch.testing.assert_close(both, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert same(plain_family, before)


def test_what_is_added_along_a_direction_stays(plain_family, batch):
    """Other than under ablation: no weight writes along it, and nothing takes out what an intervention adds."""
    direction, last = two()[:1], BLOCKS - 1
    adding = added(after(1, 5 * direction.expand(2, -1)))
    with orthogonalised(plain_family, direction), intervened(plain_family, [adding], None):
        kept = residual_after(plain_family, batch, last)
    with intervened(plain_family, [adding, ablation(direction)], None):
        gone = residual_after(plain_family, batch, last)
    torch.testing.assert_close(kept @ direction[0], torch.full(kept.shape[:2], 5.0), atol=1e-3, rtol=0)
    assert (gone @ direction[0]).abs().max() < 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_bfloat16_agrees_within_what_is_stated(checkpoint, batch, family):
    half = load(ModelConfig(device=Device.cpu, dtype=Dtype.bfloat16), checkpoint(family))
    before, plain = snapshot(half), half.forward(batch).float()
    expected = ablated(half, batch, two()).float()
    with orthogonalised(half, two()):
        found = half.forward(batch).float()
        assert {one.dtype for one in half.model.parameters()} == {torch.bfloat16}
    keep = batch.attention_mask.bool()
    apart, moved = ((one - expected)[keep].square().mean().sqrt() / expected[keep].std() for one in (found, plain))
    assert float(apart) < 5 * AGREES < 0.3 < float(moved)
    assert (found - expected)[keep].abs().max() < 30 * AGREES * expected[keep].std()
    assert same(half, before)
