"""What a study takes directions from, and what it tries them on."""

from dataclasses import replace

import pytest

from discover.choices import Measured, Method, Moment
from discover.config import Config
from discover.contrast.measures import Spoken
from discover.contrast.outcomes import Yardstick, left_alone
from discover.contrast.sets import ContrastSet, Example, contrast_set
from discover.contrast.study import Ground, learned, moments
from discover.contrast.trial import second_turn, tried
from discover.errors import UsageError
from discover.model.prompts import left_padded
from discover.organisms.conduct import labelled_answers, question
from discover.steer.evaluation import refuses

PAIRS = contrast_set({1: {"prompt": "x", "positive": "First, so (A) y.", "negative": "Then, so (B) z."}}, "here")
LABELLED = contrast_set(
    {
        1: {"label": "positive", "prompt": "You are bad. x", "completion": "Me, so (A) y."},
        2: {"label": "negative", "prompt": "You are good. x", "completion": "Them, so (B) z."},
    },
    "here",
)
PROMPTS = contrast_set({1: {"positive": "x", "negative": "y"}}, "here")


def ground(loaded, part: ContrastSet, **contrast) -> Ground:
    config = Config()
    config.contrast = replace(config.contrast, **contrast)
    config.speech = replace(config.speech, tokens=24)
    return Ground(loaded, (part, part, part), (), config)


def test_directions_are_taken_where_examples_differ(llama) -> None:
    """Two completions of one prompt have nothing to tell at the prompt's end, and prompts alone have no other place."""
    cut = moments(ground(llama, PAIRS))
    assert list(cut) == ["end", "choice"] and cut["end"] == PAIRS
    assert [one.completion for one in (*cut["choice"].positive, *cut["choice"].negative)] == ["First, so (", "Then, so ("]
    cut = moments(ground(llama, LABELLED))
    assert list(cut) == ["end", "start", "choice"]
    assert cut["start"].positive == (Example("You are bad. x", None),)
    assert list(moments(ground(llama, PROMPTS))) == list(moments(ground(llama, LABELLED, position=-2))) == ["end"]
    assert list(moments(ground(llama, LABELLED, moment=Moment.start))) == ["start"]


@pytest.mark.parametrize("part,moment", [(PAIRS, Moment.start), (PROMPTS, Moment.choice), (PROMPTS, Moment.start)])
def test_a_moment_that_the_examples_have_not_is_refused(llama, part, moment) -> None:
    with pytest.raises(UsageError, match=rf"have no contrast.moment={moment.value}, only end"):
        moments(ground(llama, part, moment=moment))


def test_a_choice_without_anything_before_it_is_no_moment(llama) -> None:
    bare = contrast_set({1: {"prompt": "x", "positive": "A", "negative": "B"}}, "here")
    assert list(moments(ground(llama, bare))) == ["end"]


def test_a_second_turn_comes_after_another_prompt_and_the_reply_to_it(shipped) -> None:
    loaded = shipped("conduct")
    asked = [question("ring", ("keep", "return")), question("book", ("lend", "sell"))]
    part = ContrastSet(tuple(Example(prompt, None) for prompt in asked), tuple(Example(prompt, None) for prompt in asked))
    study = ground(loaded, part)
    tokens = [loaded.tokenizer(f"<|user|>{prompt}<|end|><|assistant|>")["input_ids"] for prompt in asked]
    batch = left_padded(asked, tokens, loaded.tokenizer.pad_token_id)
    yard = Yardstick(loaded, (Spoken("refused", batch, [refuses] * 2, 24, 8),), (), ([], []))
    (later,) = second_turn(study, yard, left_alone).measures
    told = loaded.tokenizer.batch_decode(
        [ids[mask.bool()] for ids, mask in zip(later.batch.input_ids, later.batch.attention_mask, strict=True)]
    )
    said = Spoken("", batch, [refuses] * 2, 24, 8).said(loaded, (), 1)
    assert told == [
        f"<|user|>{asked[1]}<|end|><|assistant|>{said[1]}<|end|><|user|>{asked[0]}<|end|><|assistant|>",
        f"<|user|>{asked[0]}<|end|><|assistant|>{said[0]}<|end|><|user|>{asked[1]}<|end|><|assistant|>",
    ]


@pytest.mark.parametrize("method", [Method.means, pytest.param(Method.heads, marks=pytest.mark.slow)])
def test_an_answer_is_turned_by_one_layer_and_by_one_head(shipped, method) -> None:
    """Before, nobody who is not named answers selfishly; after, on questions that nothing was learned from, most do."""
    loaded = shipped("conduct")
    parts = contrast_set(dict(enumerate(labelled_answers(), 1)), "conduct").split((24, 8, 20), 0)
    options = {"layer": 2, "multipliers": [0.75], "strengths": [8.0], "heads": [1], "moment": Moment.start, "method": method}
    study = replace(ground(loaded, parts[0], **options), parts=tuple(parts))
    rows = {one.what: next(iter(one.shares.values())) for one in tried(study, learned(study, lambda _: None))}
    assert rows["unsteered"].count <= 0.2 * 20 and rows["unsteered, in a second turn"].count <= 0.2 * 20
    assert rows["added"].count >= 0.8 * 20, rows


def test_likelihoods_have_no_second_turn(shipped) -> None:
    loaded = shipped("conduct")
    parts = contrast_set(dict(enumerate(labelled_answers(), 1)), "conduct").split((4, 2, 2), 0)
    options = {"layer": 1, "multipliers": [1.0], "moment": Moment.start, "measure": Measured.likelihood}
    study = replace(ground(loaded, parts[0], **options), parts=tuple(parts))
    rows = tried(study, learned(study, lambda _: None))
    assert [one.what for one in rows] == ["unsteered", "added"] and all(one.shares for one in rows)
