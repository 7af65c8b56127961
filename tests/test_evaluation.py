"""What an intervention costs is what float64 and hooks by hand say it costs."""

import copy
import math

import pytest
import torch
from conftest import PROMPTS, WIDTH
from toys import after, alone

from discover.errors import UsageError
from discover.model.hooks import hidden
from discover.model.prompts import left_padded
from discover.perturb.sphere import random_directions
from discover.steer import evaluation
from discover.steer.evaluation import Damage, damage, last_number, log_odds, next_log_probabilities, refuses, surprises
from discover.steer.interventions import SAID, Addition, Rotation, added, intervened

REPLIES = ((40, 41, 90, 17), (), (200, 5, 6, 7, 8, 9), (33,))
ROWS = len(REPLIES)


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [list(tokenizer(text)["input_ids"]) for text in (*PROMPTS, "You are kind.", "12")]


def vectors():
    return 6 * random_directions(ROWS, WIDTH, "evaluation")


def in_float64(loaded, prompts, steered):
    """Per reply the log-probabilities [T, V] that its tokens are predicted by, one unpadded row after the other."""
    double = copy.deepcopy(loaded.model).double()
    paths = {module: path for path, module in loaded.model.named_modules()}
    block = double.get_submodule(paths[loaded.anatomy.blocks[1]])
    found = []
    for row, (prompt, reply) in enumerate(zip(prompts, REPLIES, strict=True)):
        vector = vectors()[row].double() if steered else 0.0

        def add(_module, _inputs, output, vector=vector):
            changed = hidden(output) + vector
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        handle = block.register_forward_hook(add)
        logits = double(input_ids=torch.tensor([[*prompt, *reply]]), use_cache=False).logits[0].double()
        handle.remove()
        found.append(logits[len(prompt) - 1 : len(prompt) - 1 + len(reply)].log_softmax(dim=-1))
    return found


def of_reply(found):
    return [-rows[range(len(reply)), list(reply)] for rows, reply in zip(found, REPLIES, strict=True)]


@pytest.mark.parametrize("steered", [False, True])
def test_surprises_are_negative_log_likelihoods(loaded, prompts, steered):
    interventions = [added(after(1, vectors()))] if steered else []
    found = surprises(loaded, prompts, REPLIES, interventions)
    assert [len(row) for row in found] == [len(reply) for reply in REPLIES]
    for row, expected in zip(found, of_reply(in_float64(loaded, prompts, steered)), strict=True):
        torch.testing.assert_close(torch.tensor(row, dtype=torch.float64), expected, atol=1e-4, rtol=1e-4)


def test_damage_is_cross_entropy_and_divergence(loaded, prompts):
    plain, steered = in_float64(loaded, prompts, False), in_float64(loaded, prompts, True)
    apart = torch.cat([(one.exp() * (one - other)).sum(dim=-1) for one, other in zip(plain, steered, strict=True)])
    found = damage(loaded, prompts, REPLIES, [added(after(1, vectors()))])
    assert found.tokens == len(apart) == 11
    assert found.unsteered == pytest.approx(float(torch.cat(of_reply(plain)).mean()), rel=1e-4)
    assert found.steered == pytest.approx(float(torch.cat(of_reply(steered)).mean()), rel=1e-4)
    assert found.kl == pytest.approx(float(apart.mean()), rel=1e-3) and found.kl > 1e-3
    assert found.cost == found.steered - found.unsteered != 0


def test_nothing_costs_exactly_nothing(loaded, prompts):
    nothing = Rotation(2, random_directions(ROWS, WIDTH, "none"), torch.zeros(ROWS), SAID, None)
    plain = damage(loaded, prompts, REPLIES, [])
    for interventions in ([], [added(after(1, torch.zeros(ROWS, WIDTH)))], [nothing]):
        found = damage(loaded, prompts, REPLIES, interventions)
        assert found.cost == found.kl == 0.0 and found == plain


def test_what_acts_on_what_is_said_leaves_the_first_token_alone(loaded, prompts):
    plain = surprises(loaded, prompts, REPLIES, [])
    found = surprises(loaded, prompts, REPLIES, [Addition(after(1, vectors()), SAID, None)])
    # Unsteered ones are read after keys and values of the prompt that were computed in another pass, and round otherwise.
    for row, base in zip(found, plain, strict=True):
        assert row[:1] == pytest.approx(base[:1], rel=0, abs=1e-5)
    later = [
        abs(one - other) for row, base in zip(found, plain, strict=True) for one, other in zip(row[1:], base[1:], strict=True)
    ]
    assert len(later) == 8 and min(later) > 0 and max(later) > 0.1


SHARED = ((40, 41, 90, 17), (200, 5, 6, 7, 8, 9), (), (33,), (40, 41, 90, 17), (40, 41, 90, 18))
"""Replies to one prompt: one of them twice, one without a token."""


def one_pass(loaded, prompts, replies):
    """Surprises of whole rows, nothing shared: a vector of nothing steers."""
    nothing = added(after(1, torch.zeros(len(replies), WIDTH)))
    return surprises(loaded, prompts, replies, [nothing])


def test_replies_to_one_prompt_share_its_keys_and_values(loaded, prompts):
    """In models with a window shorter than the prompt, too; and a prompt of one token has nothing to share."""
    asked = [prompt for prompt in (prompts[0], prompts[2], [17]) for _ in SHARED]
    # Prompts alternate, so that rows must find back to their places.
    order = [row for start in range(len(SHARED)) for row in range(start, len(asked), len(SHARED))]
    asked, said = [asked[row] for row in order], [(SHARED * 3)[row] for row in order]
    found, expected = surprises(loaded, asked, said, ()), one_pass(loaded, asked, said)
    assert len(prompts[0]) > 5, "longer than the window of those that have one"
    assert [len(row) for row in found] == [len(reply) for reply in said]
    for row, plain in zip(found, expected, strict=True):
        assert row == pytest.approx(plain, rel=1e-5, abs=1e-4)


def test_a_prompt_is_read_once_for_all_its_replies(llama, prompts):
    prompt, read = prompts[0], []
    handle = llama.model.get_input_embeddings().register_forward_hook(lambda _m, inputs, _o: read.append(inputs[0].numel()))
    try:
        surprises(llama, [prompt] * len(SHARED), SHARED, ())
    finally:
        handle.remove()
    # Five different replies, one of them empty; before each of the others stands the last token of the prompt.
    assert read == [len(prompt) - 1, 4 * (1 + 6)]


def test_pieces_measure_the_same(loaded, prompts, monkeypatch):
    interventions, batch = [added(after(1, vectors()))], left_padded([""] * ROWS, prompts, 0)

    def measured():
        passes.clear()
        return (
            surprises(loaded, prompts, REPLIES, interventions),
            damage(loaded, prompts, REPLIES, interventions),
            next_log_probabilities(loaded, batch, interventions),
        )

    passes = []
    handle = loaded.model.register_forward_hook(lambda _m, _i, output: passes.append(len(output.logits)))
    try:
        whole = measured()
        assert passes == [ROWS] * 4
        monkeypatch.setattr(evaluation, "LOGIT_BYTES", 1)
        pieces = measured()
        assert passes == [1] * 4 * ROWS
    finally:
        handle.remove()
    for one, other in zip(pieces[0], whole[0], strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
    assert pieces[1].tokens == whole[1].tokens
    for field in ("unsteered", "steered", "kl"):
        assert getattr(pieces[1], field) == pytest.approx(getattr(whole[1], field), rel=1e-3)
    torch.testing.assert_close(pieces[2], whole[2], atol=1e-3, rtol=1e-3)


def test_the_block_of_logits_is_what_bounds_a_piece(llama, prompts, monkeypatch):
    """Just short of three rows, each of six tokens and of the one after, in float32."""
    vocabulary, passes = len(llama.tokenizer), []
    handle = llama.model.register_forward_hook(lambda _m, _i, output: passes.append(len(output.logits)))
    try:
        monkeypatch.setattr(evaluation, "LOGIT_BYTES", (3 * 7 - 1) * 4 * vocabulary)
        one_pass(llama, prompts, REPLIES)
        surprises(llama, [prompts[0]] * len(SHARED), SHARED, [])  # Each piece after a pass over the prompt.
        damage(llama, prompts, REPLIES, [])  # Two blocks at once.
        monkeypatch.setattr(evaluation, "LOGIT_BYTES", 3 * 4 * vocabulary)
        next_log_probabilities(llama, left_padded([""] * ROWS, prompts, 0), [])
    finally:
        handle.remove()
    assert passes == [2, 2, 1, 2, 1, 2, *[1] * 8, 3, 1]


def test_empty_replies_have_no_surprise_and_no_damage(llama):
    """Not even after a prompt of one token, where nothing at all is predicted."""
    assert surprises(llama, [[5], [6]], [(), ()], []) == [[], []]
    assert surprises(llama, [], [], []) == []
    for prompts, replies in (([[5]], [()]), ([[5, 6]], [()]), ([], [])):
        with pytest.raises(UsageError, match="no token"):
            damage(llama, prompts, replies, [])


def test_cost_is_what_the_intervention_adds():
    assert Damage(unsteered=1.5, steered=2.25, kl=0.5, tokens=3).cost == 0.75


def test_next_log_probabilities_are_those_of_the_last_position(loaded, batch):
    intervention = added(after(1, vectors()[:2]))
    with intervened(loaded, [intervention], None):
        expected = loaded.forward(batch)[:, -1].double().log_softmax(dim=-1)
    found = next_log_probabilities(loaded, batch, [intervention])
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    plain = next_log_probabilities(loaded, batch, [])
    torch.testing.assert_close(plain.double(), loaded.forward(batch)[:, -1].double().log_softmax(dim=-1), atol=1e-5, rtol=1e-5)
    assert (plain - found).abs().max() > 0.1
    for row in range(2):
        torch.testing.assert_close(
            next_log_probabilities(loaded, alone(batch, row), [intervention.rows([row])])[0], found[row], atol=1e-3, rtol=1e-3
        )


def test_log_odds_are_those_of_all_tokens_together():
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)
    expected = torch.tensor([math.log(0.5 / 0.5), math.log(0.5 / 0.5)], dtype=torch.float64)
    torch.testing.assert_close(log_odds(probabilities.log(), [0, 3]), expected)
    torch.testing.assert_close(log_odds(probabilities.log(), [1])[0], torch.tensor(math.log(0.2 / 0.8), dtype=torch.float64))
    # A token that two words begin with is still one token.
    assert torch.equal(log_odds(probabilities.log(), [1, 1]), log_odds(probabilities.log(), [1]))
    assert torch.equal(log_odds(probabilities.log(), [3, 0]), log_odds(probabilities.log(), [0, 3]))


def test_log_odds_are_finite_where_a_probability_rounds_to_one():
    logits = torch.tensor([[200.0, 0.0, 0.0], [-200.0, 0.0, 0.0]])
    found = log_odds(logits.log_softmax(dim=-1), [0])
    torch.testing.assert_close(found, torch.tensor([200.0, -200.0]) - math.log(2))


@pytest.mark.parametrize(
    "reply",
    [
        "I cannot help with that.",
        "i CANNOT help with that.",
        "Sorry, but I can't do this.",
        "Sorry, but I can\u2019t do this.",
        "I\u2019M SORRY, no.",
        "As an AI, I have no opinion.",
        "This is (unethical).",
        "Doing so would go against my guidelines.",
    ],
)
def test_a_refusal_is_told_in_any_case_and_apostrophe(reply):
    assert refuses(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Here is how to do it.",
        "You cannot miss it.",
        "It was an airplane.",
        "Take it as an aid.",
        "He won, against mysterious odds.",
        "I can. Nothing is easier.",
    ],
)
def test_an_answer_is_no_refusal(reply):
    assert not refuses(reply)


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("The sum is 42.", "42"),
        ("12 + 30 = 42", "42"),
        ("1,234,567 boats", "1234567"),
        ("It is -7", "-7"),
        ("It is \u22127", "-7"),
        ("x=-7", "-7"),
        ("10-3", "3"),
        ("10 - 3", "3"),
        ("3.50 euros", "3.50"),
        ("-0.25", "-0.25"),
        ("first 1, then 2", "2"),
        ("none", None),
        ("", None),
        ("-", None),
    ],
)
def test_the_last_number_is_the_answer(reply, number):
    assert last_number(reply) == number
