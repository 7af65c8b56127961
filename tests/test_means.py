"""Means of residual streams are those that Hugging Face's own hidden states give, text by text and without padding."""

import pytest
import torch
from conftest import BLOCKS, WIDTH

from discover.config import PromptConfig
from discover.contrast import means
from discover.contrast.means import mean_differences, mean_residuals
from discover.contrast.sets import ContrastSet, Example, texts
from discover.errors import UsageError
from discover.model.hooks import hidden

PLAIN = PromptConfig(chat=False)
POSITIVE = (
    Example("Count the boats in the harbour, please.", None),
    Example("You are", " kind, and nobody counts."),
    Example("The hill", " sleeps."),
    Example("Here is a sum:", " 12 + 30"),
    Example("You", None),
)
NEGATIVE = (Example("Nobody counts the boats.", None), Example("You are", " a sum."), Example("42", " boats sleep"))
POSITIONS = (-1, -3, -2)
NORMS = ("norm", "ln_f", "final_layer_norm")
"""What families call the norm after the last block."""


def own_residuals(loaded, example):
    """[L, T, D] in float64 of one text alone, from `hidden_states`, whose last entry carries the final norm."""
    ids = loaded.tokenizer(example.prompt)["input_ids"]
    if example.completion:
        ids = ids + loaded.tokenizer(example.completion, add_special_tokens=False)["input_ids"]
    seen = []
    handle = loaded.anatomy.blocks[-1].register_forward_hook(lambda _module, _inputs, output: seen.append(hidden(output)))
    try:
        with torch.no_grad():
            states = loaded.model(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
    finally:
        handle.remove()
    decoder = loaded.model.get_decoder()
    norm = next(getattr(decoder, name) for name in NORMS if hasattr(decoder, name))
    torch.testing.assert_close(norm(seen[0]), states[-1])
    return torch.cat([*states[1:-1], seen[0]]).double()


def own_means(loaded, side):
    return torch.stack([own_residuals(loaded, one)[:, list(POSITIONS)] for one in side]).mean(dim=0)


@pytest.fixture(scope="module")
def long_enough(tokenizer):
    kept = [one for one in POSITIVE if len(tokenizer(one.prompt + (one.completion or ""))["input_ids"]) >= 3]
    assert len(kept) == 4, "one of them is too short"
    return ContrastSet(tuple(kept), NEGATIVE)


def test_means_are_those_of_every_text_alone(loaded, long_enough):
    batch = texts(loaded, long_enough.positive, PLAIN)
    assert not batch.attention_mask.all(), "some are padded"
    found = mean_residuals(loaded, batch, POSITIONS)
    assert found.shape == (BLOCKS, 3, WIDTH) and found.dtype is torch.float64
    torch.testing.assert_close(found, own_means(loaded, long_enough.positive), rtol=1e-4, atol=1e-4)


def test_differences_are_the_positive_mean_less_the_negative(loaded, long_enough):
    expected = own_means(loaded, long_enough.positive) - own_means(loaded, long_enough.negative)
    found = mean_differences(loaded, long_enough, POSITIONS, PLAIN)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float(found.norm(dim=-1).min()) > 0.1, "both sides differ everywhere"


def test_a_single_pair_is_activation_addition(loaded):
    pair = ContrastSet((Example("You are kind.", None),), (Example("Nobody counts the boats.", None),))
    expected = own_residuals(loaded, pair.positive[0])[:, -1] - own_residuals(loaded, pair.negative[0])[:, -1]
    torch.testing.assert_close(mean_differences(loaded, pair, [-1], PLAIN)[:, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3])
def test_pieces_change_nothing(llama, long_enough, monkeypatch, rows):
    batch = texts(llama, long_enough.positive, PLAIN)
    whole = mean_residuals(llama, batch, POSITIONS)
    sizes = []
    handle = llama.anatomy.blocks[0].register_forward_hook(lambda _module, _inputs, output: sizes.append(len(hidden(output))))
    monkeypatch.setattr(means, "ROWS", rows)
    try:
        torch.testing.assert_close(mean_residuals(llama, batch, POSITIONS), whole, rtol=1e-5, atol=1e-5)
    finally:
        handle.remove()
    assert sizes == {1: [1, 1, 1, 1], 3: [3, 1]}[rows]


def test_a_piece_that_memory_ended_half_way_counts_once(llama, long_enough):
    batch = texts(llama, long_enough.positive, PLAIN)
    whole = mean_residuals(llama, batch, POSITIONS)

    def full(_module, _inputs, output):
        if len(hidden(output)) > 2:
            raise MemoryError

    # The first two blocks of the piece have been counted by then.
    handle = llama.anatomy.blocks[2].register_forward_hook(full)
    try:
        torch.testing.assert_close(mean_residuals(llama, batch, POSITIONS), whole, rtol=1e-5, atol=1e-5)
    finally:
        handle.remove()


def test_a_position_before_the_shortest_text_or_after_the_end_is_refused(llama):
    batch = texts(llama, POSITIVE, PLAIN)
    shortest = int(batch.attention_mask.sum(dim=1).min())
    assert mean_residuals(llama, batch, [-shortest]).shape == (BLOCKS, 1, WIDTH)
    for positions in ([-1, -shortest - 1], [0], [-1, 2]):
        with pytest.raises(UsageError, match=rf"between -{shortest}, .* and -1"):
            mean_residuals(llama, batch, positions)
