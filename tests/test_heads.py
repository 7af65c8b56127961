"""Head directions against what the output projections are given, and steering a head against a change of its own slice."""

from dataclasses import replace
from random import Random

import pytest
import torch
from conftest import BLOCKS, HEADS, WIDTH
from transformers.pytorch_utils import Conv1D

from discover.choices import Measured
from discover.config import PromptConfig, SpeechConfig
from discover.contrast.heads import (
    HeadDirections,
    HeadScore,
    best,
    best_first,
    head_directions,
    joint_scores,
    swept_heads,
    together,
)
from discover.contrast.measures import Likelier, measure
from discover.contrast.sets import ContrastSet, Example
from discover.errors import UsageError
from discover.model.anatomy import Site
from discover.statistics import share
from discover.steer.interventions import EVERYWHERE, PROMPT, Addition, intervened

PLAIN = PromptConfig(chat=False)
LINES = ("Count the boats", "You are kind.", "The hill sleeps below", "Here is a sum", "Nobody", "12 + 30 = 42.")
EXAMPLES = ContrastSet(
    tuple(Example(line, end) for line, end in zip(LINES, (" kind", " boats", " harbour", " hill", " sum", " you"), strict=True)),
    tuple(Example(line, end) for line, end in zip(LINES, (" not", " 30", " kind", " the", " boats", " 42"), strict=True)),
)
PROJECTIONS = {"gpt2": "attn.c_proj", "gpt_neox": "attention.dense"}
"""Where a family keeps what attention writes through; elsewhere self_attn.o_proj."""


def projections(loaded):
    name = PROJECTIONS.get(loaded.model.config.model_type, "self_attn.o_proj")
    return [block.get_submodule(name) for block in loaded.anatomy.blocks]


def own_inputs(loaded, side):
    """[B, L, H, d] in float64: what every projection is given at the last token of each text alone."""
    rows = []
    for one in side:
        ids = [loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (one.prompt, one.completion)]
        seen = []
        handles = [
            module.register_forward_pre_hook(lambda _module, given, seen=seen: seen.append(given[0][0, -1].double()))
            for module in projections(loaded)
        ]
        with torch.no_grad():
            loaded.model(torch.tensor([ids[0] + ids[1]]), use_cache=False)
        for handle in handles:
            handle.remove()
        rows.append(torch.stack(seen))
    return torch.stack(rows).unflatten(-1, (HEADS, -1))


def own_steps(loaded):
    """[L, H, d]: difference in means at norm one, times the standard deviation of projections, as a head puts it out."""
    positive, negative = own_inputs(loaded, EXAMPLES.positive), own_inputs(loaded, EXAMPLES.negative)
    difference = positive.mean(dim=0) - negative.mean(dim=0)
    direction = difference / difference.norm(dim=-1, keepdim=True)
    along = (torch.cat([positive, negative]) * direction).sum(dim=-1)
    apart = along - along.mean(dim=0)
    return direction * (apart.square().sum(dim=0) / (len(along) - 1)).sqrt()[..., None]


def steered(loaded, ids, edits):
    """Logits with (block, head, step [d]) added to a head's slice of what its projection is given, at every position."""

    def moved(block, _module, given):
        changed = given[0].unflatten(-1, (HEADS, -1)).clone()
        for there, head, step in edits:
            if there == block:
                changed[:, :, head] += step.to(changed)
        return (changed.flatten(2), *given[1:])

    handles = [
        module.register_forward_pre_hook(lambda module, given, block=block: moved(block, module, given))
        for block, module in enumerate(projections(loaded))
    ]
    try:
        with torch.no_grad():
            return loaded.model(torch.tensor(ids), use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()


def added_to(loaded, ids, perturbations):
    with torch.no_grad(), intervened(loaded, [Addition(perturbations, EVERYWHERE, None)], None):
        return loaded.model(torch.tensor(ids), use_cache=False).logits


@pytest.fixture(scope="module")
def directions(loaded):
    return head_directions(loaded, EXAMPLES, -1, PLAIN)


def test_a_direction_is_the_difference_in_means_times_its_spread_through_the_heads_columns(loaded, directions):
    steps = own_steps(loaded)
    assert directions.blocks == tuple(range(BLOCKS)) and directions.vectors.shape == (BLOCKS, HEADS, WIDTH)
    for block, module in enumerate(projections(loaded)):
        weight = module.weight.double() if isinstance(module, Conv1D) else module.weight.double().T  # [F, D]
        for head in range(HEADS):
            size = steps.shape[-1]
            expected = steps[block, head] @ weight[head * size : (head + 1) * size]
            torch.testing.assert_close(directions.vectors[block, head], expected.float(), rtol=1e-3, atol=1e-4)


def test_adding_it_after_the_projection_is_moving_the_heads_slice_before_it(loaded, directions, tokenizer):
    ids = [tokenizer("Count the boats in the harbour")["input_ids"]]
    steps, plain = own_steps(loaded), steered(loaded, ids, [])
    for block, head in ((0, 1), (2, 3)):
        found = added_to(loaded, ids, together(directions, [[(block, head)]], 4.0))
        torch.testing.assert_close(found, steered(loaded, ids, [(block, head, 4.0 * steps[block, head])]), rtol=1e-3, atol=2e-3)
        assert float((found - plain).abs().max()) > 0.05


def test_several_heads_together_are_moved_at_once_each_entry_by_its_own(loaded, directions, tokenizer):
    ids = [tokenizer("Count the boats in the harbour")["input_ids"]] * 3
    entries = [[(0, 1), (2, 0), (0, 3)], [(1, 2)], [(2, 1), (1, 0)]]
    steps, found = own_steps(loaded), added_to(loaded, ids, together(directions, entries, 3.0))
    for row, heads in enumerate(entries):
        alone = steered(loaded, ids[:1], [(block, head, 3.0 * steps[block, head]) for block, head in heads])
        torch.testing.assert_close(found[row], alone[0], rtol=1e-3, atol=2e-3)


def test_together_is_the_sum_of_the_heads_directions(llama):
    directions = head_directions(llama, EXAMPLES, -1, PLAIN)
    changes = together(directions, [[(0, 1), (2, 0), (0, 3)], [(0, 2)]], 2.0).changes
    assert [(change.place.block, change.place.site) for change in changes] == [(0, Site.attention), (2, Site.attention)]
    torch.testing.assert_close(changes[0].bias[0], 2 * (directions.vectors[0, 1] + directions.vectors[0, 3]))
    torch.testing.assert_close(changes[0].bias[1], 2 * directions.vectors[0, 2])
    torch.testing.assert_close(changes[1].bias, torch.stack([2 * directions.vectors[2, 0], torch.zeros(WIDTH)]))


def own_outcomes(loaded, ids, completions, edits, prompt_alone):
    """Which of two completions is likelier per token, one pass a text, with the head moved by hand."""
    found = []
    for prompt, *pair in zip(ids, *completions, strict=True):
        losses = []
        for said in pair:
            moved = edits
            if prompt_alone:
                # Nothing is added at what is said, so each position needs a step of its own.
                mask = torch.zeros(1, len(prompt) + len(said), 1)
                mask[:, : len(prompt)] = 1
                moved = [(block, head, step * mask) for block, head, step in edits]
            logs = steered(loaded, [prompt + said], moved)[0].double().log_softmax(dim=-1)
            losses.append(-sum(float(logs[len(prompt) + k - 1, token]) for k, token in enumerate(said)) / len(said))
        found.append(losses[0] < losses[1])
    return found


@pytest.mark.parametrize("window", [EVERYWHERE, PROMPT], ids=["everywhere", "prompt"])
def test_a_sweep_scores_every_head_as_a_run_of_its_own_does(llama, window):
    directions, steps = head_directions(llama, EXAMPLES, -1, PLAIN), own_steps(llama)
    judge = measure(llama, EXAMPLES, Measured.likelihood, PLAIN, SpeechConfig())
    assert isinstance(judge, Likelier)
    ids = [llama.tokenizer(line)["input_ids"] for line in LINES]
    strengths, told = (4.0, 32.0), []
    found = swept_heads(llama, directions, strengths, judge, window, told.append)
    assert [(one.heads, one.strength) for one in found] == [
        (((block, head),), strength) for block in range(BLOCKS) for head in range(HEADS) for strength in strengths
    ]
    assert sum(told) == len(found)
    for one in Random(0).sample(found, 12):
        ((block, head),) = one.heads
        edits = [(block, head, one.strength * steps[block, head])]
        own = own_outcomes(llama, ids, judge.completions, edits, window is PROMPT)
        assert one.behaving == share(sum(own), len(LINES)), (block, head, one.strength)
    assert len({one.behaving.count for one in found}) > 1, "no head changes anything"


def test_the_first_heads_of_an_order_are_scored_together(llama):
    directions, steps = head_directions(llama, EXAMPLES, -1, PLAIN), own_steps(llama)
    judge = measure(llama, EXAMPLES, Measured.likelihood, PLAIN, SpeechConfig())
    order = [(2, 1), (0, 3), (2, 0)]
    found = joint_scores(llama, directions, order, [1, 3], [8.0, 32.0], judge, EVERYWHERE)
    assert [(one.heads, one.strength) for one in found] == [
        (heads, strength) for heads in (((2, 1),), tuple(order)) for strength in (8.0, 32.0)
    ]
    ids = [llama.tokenizer(line)["input_ids"] for line in LINES]
    for one in found:
        edits = [(block, head, one.strength * steps[block, head]) for block, head in one.heads]
        assert one.behaving.count == sum(own_outcomes(llama, ids, judge.completions, edits, prompt_alone=False))


def score(count: int, strength: float, *heads: tuple[int, int]) -> HeadScore:
    return HeadScore(heads, strength, share(count, 10))


def test_heads_are_ordered_by_their_best_strength_and_among_equals_by_the_weaker() -> None:
    found = [score(3, 8, (0, 0)), score(9, 16, (0, 1)), score(2, 4, (0, 1)), score(9, 8, (1, 0)), score(3, 8, (0, 2))]
    assert best_first(found) == [(1, 0), (0, 1), (0, 0), (0, 2)]


def test_the_best_score_is_the_highest_then_that_of_fewest_heads_then_the_weakest() -> None:
    many, weak, strong = score(9, 2, (0, 0), (0, 1)), score(9, 4, (0, 0)), score(9, 8, (0, 1))
    assert best([many, strong, weak, score(8, 1, (1, 1))]) is weak
    assert best([many, score(8, 1, (1, 1))]) is many


def test_heads_of_every_block_are_kept_apart() -> None:
    vectors = torch.eye(4)[:, None] * torch.ones(1, 2, 1)
    changes = together(HeadDirections((1, 2, 5, 7), vectors), [[(7, 0), (2, 1)]], 1.0).changes
    assert {change.place.block: int(change.bias[0].argmax()) for change in changes} == {2: 1, 7: 3}


def test_a_model_without_attention_has_no_heads(llama):
    without = replace(llama, anatomy=replace(llama.anatomy, attentions=[None] * BLOCKS))
    with pytest.raises(UsageError, match="No block of this model has an attention output projection"):
        head_directions(without, EXAMPLES, -1, PLAIN)
