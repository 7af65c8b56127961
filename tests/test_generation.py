"""A row of steered generation is what that vector alone would make the model say."""

import pytest
import torch
from conftest import BLOCKS, WIDTH
from toys import after, alone

from discover.model.hooks import edited_output, hidden
from discover.model.slice import residual_after
from discover.perturb.sphere import random_directions
from discover.steer.generation import replies, reply
from discover.steer.interventions import added, intervened

TOKENS = 8


def speak(loaded, batch, perturbations, rows=100):
    return replies(loaded, batch, [added(perturbations)] if perturbations is not None else (), TOKENS, rows, lambda _: None)


def strong_vectors(loaded, batch, layer, count):
    norm = residual_after(loaded, batch, layer)[batch.attention_mask.bool()].norm(dim=-1).median()
    return 3 * norm * random_directions(count, WIDTH, "generation")


def greedy_by_hand(loaded, ids, layer, vector):
    """Token after token without a cache, with a hook written here."""

    def add(_module, _inputs, output):
        changed = hidden(output) + vector
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    said = []
    handle = loaded.anatomy.blocks[layer].register_forward_hook(add)
    try:
        with torch.no_grad():
            for _ in range(TOKENS):
                token = int(loaded.model(input_ids=torch.tensor([ids + said]), use_cache=False).logits[0, -1].argmax())
                if token in loaded.end_ids:
                    break
                said.append(token)
    finally:
        handle.remove()
    return tuple(said)


def test_every_row_says_what_its_vector_says_alone(loaded, batch):
    rows = batch.repeated(3)
    vectors = strong_vectors(loaded, batch, 1, 6)
    together = speak(loaded, rows, after(1, vectors))
    assert together == [speak(loaded, alone(rows, row), after(1, vectors[row, None]))[0] for row in range(6)]
    assert len({one.tokens for one in together[::2]}) == 3, "three vectors on one prompt must not say the same"


def test_pieces_change_nothing_and_are_told(loaded, batch):
    rows, vectors, told = batch.repeated(3), strong_vectors(loaded, batch, 1, 6), []
    whole = speak(loaded, rows, after(1, vectors))
    assert replies(loaded, rows, [added(after(1, vectors))], TOKENS, 4, told.append) == whole
    assert told == [4, 2]


def test_equals_an_uncached_loop_with_a_hook_of_its_own(loaded, batch):
    vectors = strong_vectors(loaded, batch, 2, 2)
    for index, said in enumerate(speak(loaded, batch, after(2, vectors))):
        ids = batch.input_ids[index][batch.attention_mask[index].bool()].tolist()
        assert said.tokens == greedy_by_hand(loaded, ids, 2, vectors[index])
        assert said.text == loaded.tokenizer.decode(said.tokens)


def test_zero_vectors_change_no_bit(loaded, batch):
    zeros = torch.zeros(2, WIDTH)
    plain = loaded.forward(batch)
    for layer in range(BLOCKS):
        with intervened(loaded, [added(after(layer, zeros))], None):
            assert torch.equal(loaded.forward(batch), plain)
    assert speak(loaded, batch, after(1, zeros)) == speak(loaded, batch, None)
    assert speak(loaded, batch, after(1, strong_vectors(loaded, batch, 1, 2))) != speak(loaded, batch, None)


def test_another_number_of_rows_is_refused(llama, batch):
    with (
        pytest.raises(ValueError, match="3 perturbations met a batch of 2 rows"),
        intervened(llama, [added(after(1, torch.zeros(3, WIDTH)))], None),
    ):
        llama.forward(batch)
    # One vector would spread over both rows without a word.
    with (
        pytest.raises(ValueError, match="1 perturbations met a batch of 2 rows"),
        intervened(llama, [added(after(1, torch.zeros(1, WIDTH)))], None),
    ):
        llama.forward(batch)


def test_a_hook_that_never_fires_is_an_error(llama, batch):
    with pytest.raises(RuntimeError, match="a hook on Linear never fired"), edited_output(torch.nn.Linear(2, 2), lambda _, x: x):
        llama.forward(batch)
    with intervened(llama, [added(after(0, torch.zeros(2, WIDTH)))], None) as counts:
        llama.forward(batch)
    assert [count.calls for count in counts] == [1]


def test_nested_contexts_add_up_and_restore(llama, batch):
    first, second = strong_vectors(llama, batch, 1, 2), strong_vectors(llama, batch, 1, 4)[2:]
    plain = residual_after(llama, batch, 1)
    with intervened(llama, [added(after(1, first))], None):
        outer = residual_after(llama, batch, 1)
        with intervened(llama, [added(after(1, second))], None):
            torch.testing.assert_close(residual_after(llama, batch, 1), plain + (first + second)[:, None])
        assert torch.equal(residual_after(llama, batch, 1), outer)
    torch.testing.assert_close(outer, plain + first[:, None])
    assert torch.equal(residual_after(llama, batch, 1), plain)


def test_a_reply_is_cut_where_it_ends(llama):
    end = llama.end_ids[0]
    said = reply(llama, [40, 41, end, 42])
    assert (said.tokens, said.ended, said.text) == ((40, 41), True, llama.tokenizer.decode([40, 41]))
    assert not reply(llama, [40, 41]).ended
    assert reply(llama, [end]).tokens == ()


def test_a_model_driven_to_its_end_token_stops(llama, batch):
    """Adding the end token's own unembedding after the last block makes every logit race end there."""
    toward = llama.model.lm_head.weight[llama.end_ids[0]] / llama.model.model.norm.weight
    said = speak(llama, batch, after(BLOCKS - 1, 1e3 * toward.expand(2, -1)))
    assert [(one.tokens, one.text, one.ended) for one in said] == [((), "", True)] * 2
