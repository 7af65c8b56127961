"""The slice is the model: the same numbers, the same gradients, at every pair of layers, and nothing left behind."""

import copy
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from conftest import BLOCKS, WIDTH
from toys import after, hooks_on, slice_between

from discover.errors import UsageError
from discover.model.anatomy import anatomy
from discover.model.hooks import hidden
from discover.model.prompts import left_padded
from discover.model.slice import residual_after, residual_slices
from discover.perturb.sphere import random_directions
from discover.steer.interventions import added, intervened

PAIRS = list(combinations(range(BLOCKS), 2))


def residual_by_hand(loaded, batch, layer, vectors=None, source=None):
    """The residual stream after `layer` with hooks written here, vectors [rows, D] added after `source`."""
    seen = {}

    def keep(_module, _inputs, output):
        seen["residual"] = hidden(output)

    def add(_module, _inputs, output):
        changed = hidden(output) + vectors[:, None]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handles = [loaded.anatomy.blocks[source].register_forward_hook(add)] if vectors is not None else []
    handles.append(loaded.anatomy.blocks[layer].register_forward_hook(keep))
    try:
        with torch.no_grad():
            loaded.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids)
    finally:
        for handle in handles:
            handle.remove()
    return seen["residual"]


def test_slices_made_together_are_those_made_one_by_one(loaded, batch):
    between, tokens = residual_slices(loaded, batch), batch.input_ids.shape[1]
    for source, target in PAIRS:
        apart, together = slice_between(loaded, batch, source, target), between(source, target)
        assert together.residual_norm == apart.residual_norm and torch.equal(together.target, apart.target)
        vectors = after(source, apart.residual_norm * random_directions(3, WIDTH, "test"))
        for start in (0, tokens - 1):
            with torch.no_grad():
                assert torch.equal(together.steered(vectors, start, tokens), apart.steered(vectors, start, tokens))
    assert hooks_on(loaded.model) == 0


@pytest.mark.parametrize("source,target", PAIRS)
def test_equals_the_whole_model(loaded, batch, source, target):
    part = slice_between(loaded, batch, source, target)
    vectors = 2 * part.residual_norm * random_directions(3, WIDTH, "test")
    keep, tokens = batch.attention_mask.bool(), batch.input_ids.shape[1]
    with torch.no_grad():
        sliced = part.steered(after(source, vectors), 0, tokens)
        zero = part.steered(after(source, torch.zeros(1, WIDTH)), 0, tokens)[0]
    each = vectors.repeat_interleave(2, dim=0)
    with intervened(loaded, [added(after(source, each))], None):
        whole = residual_after(loaded, batch.repeated(3), target).unflatten(0, (3, 2))
    by_hand = residual_by_hand(loaded, batch.repeated(3), target, each, source).unflatten(0, (3, 2))
    unsteered = residual_by_hand(loaded, batch, target)
    scale = float(unsteered[keep].abs().max())
    for other in (whole, by_hand):
        torch.testing.assert_close(sliced[:, keep], other[:, keep], atol=1e-4 * scale, rtol=1e-4)
    for other in (unsteered, part.target):
        torch.testing.assert_close(zero[keep], other[keep], atol=1e-4 * scale, rtol=1e-4)
    # Were the vectors not to arrive, everything above would hold all the same.
    assert ((sliced - part.target)[:, keep].norm(dim=-1) > 0.05 * part.target[keep].norm(dim=-1)).float().mean() > 0.5


def test_the_target_of_the_last_block_comes_before_the_final_norm(loaded, batch):
    part = slice_between(loaded, batch, 0, BLOCKS - 1)
    with torch.no_grad():
        output = loaded.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            output_hidden_states=True,
        )
    keep = batch.attention_mask.bool()
    torch.testing.assert_close(part.target[keep], residual_by_hand(loaded, batch, BLOCKS - 1)[keep])
    assert not torch.allclose(part.target[keep], output.hidden_states[-1][keep], atol=0.1)


def test_a_vector_changes_the_source_by_exactly_its_norm_at_every_token(loaded, batch):
    radius = 3.0
    for source in range(BLOCKS):
        before = residual_after(loaded, batch, source)
        with intervened(loaded, [added(after(source, radius * random_directions(2, WIDTH, "norm")))], None):
            change = residual_after(loaded, batch, source) - before
        torch.testing.assert_close(change.norm(dim=-1), torch.full(change.shape[:2], radius), atol=1e-4, rtol=0)
        assert torch.allclose(before, residual_after(loaded, batch, source), atol=0)


def test_gradients_equal_central_differences_in_float64(loaded, family, batch):
    model = copy.deepcopy(loaded.model).double()
    if family == "gemma2":  # Its eager attention takes a softmax of float64 masks in float32: padded rows are not numbers.
        batch = left_padded(batch.prompts[:1] * 2, [batch.input_ids[0].tolist()] * 2, 0)
    double = replace(loaded, model=model, anatomy=anatomy(model, None))
    part, tokens = slice_between(double, batch, 1, 3), batch.input_ids.shape[1]
    vectors = (part.residual_norm * random_directions(2, WIDTH, "gradient")).double()
    mask = batch.attention_mask[None, :, :, None]
    weights = torch.randn(2, 2, tokens, WIDTH, generator=torch.Generator().manual_seed(0)).double() * mask
    held = vectors.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad((part.steered(after(1, held), 0, tokens) * weights).sum(), held)

    def through_the_model(moved):
        residual = residual_by_hand(double, batch.repeated(2), 3, moved.repeat_interleave(2, dim=0), 1)
        return (residual.unflatten(0, (2, 2)) * weights).sum(dim=(1, 2, 3))

    step = 0.01
    for direction in random_directions(4, WIDTH, "difference").double():
        difference = (through_the_model(vectors + step * direction) - through_the_model(vectors - step * direction)) / (2 * step)
        # Several families compute their norms in float32 whatever they are given; that bounds the agreement.
        torch.testing.assert_close(gradient @ direction, difference, rtol=2e-3, atol=2e-3 * float(gradient.norm(dim=1).max()))


@pytest.mark.parametrize("source,target", [(-1, 2), (2, 2), (3, 1), (0, BLOCKS), (7, 9)])
def test_refuses_layers_that_do_not_fit(llama, batch, source, target):
    with pytest.raises(UsageError, match=rf"source layer {source} and target layer {target} .* blocks 0 to {BLOCKS - 1}"):
        slice_between(llama, batch, source, target)


def test_leaves_no_hook_behind(loaded, batch):
    loaded.forward(batch)
    before = hooks_on(loaded.model)
    part = slice_between(loaded, batch, 0, 2)
    part.steered(after(0, torch.zeros(1, WIDTH)), 0, 1)
    residual_after(loaded, batch, 1)
    assert hooks_on(loaded.model) == before


def test_leaves_no_hook_behind_after_an_exception(llama, batch):
    before = hooks_on(llama.model)
    broken = llama.anatomy.blocks[1].mlp.register_forward_hook(lambda *_: (_ for _ in ()).throw(FloatingPointError("broken")))
    try:
        for run in (lambda: slice_between(llama, batch, 0, 2), lambda: residual_after(llama, batch, 3)):
            with pytest.raises(FloatingPointError, match="broken"):
                run()
        with pytest.raises(FloatingPointError), intervened(llama, [added(after(0, torch.zeros(2, WIDTH)))], None):
            llama.forward(batch)
    finally:
        broken.remove()
    assert hooks_on(llama.model) == before
