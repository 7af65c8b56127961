"""What a held sentence has and a paraphrase has not, in closed form."""

from dataclasses import replace
from math import exp

import pytest
from toys import LIMITS

from discover.read.novelty import ordinary_of, pairs_of
from discover.read.signals import completion
from discover.steer.generation import Reply

BASE = completion("learned", 0, 0, Reply((1,), "", True, ()), None, Reply((), "x", True, ()), LIMITS, [1.0], None)
KNOWN = ordinary_of(["one two three four", "Four, five: SIX 7!"])


def said(text, state="coherent", settled=0.0):
    return replace(BASE, text=text, state=state, settled_surprise=settled)


def test_pairs_are_of_neighbouring_words_and_no_order_else():
    assert pairs_of("One, two; two THREE 4") == {("one", "two"), ("two", "two"), ("two", "three")}
    assert pairs_of("one") == pairs_of("") == pairs_of("12 + 3 = 15") == frozenset()
    assert pairs_of("東京 is") == {("東", "京"), ("京", "is")}


@pytest.mark.parametrize(
    "text,novelty",
    [
        ("one two three", 0.0),
        ("two three, FOUR", 0.0),
        ("five six", 0.0),
        ("four one", 1.0),
        ("three two one", 1.0),
        ("one two four", 1 / 2),
        ("one two x y", 2 / 3),
        ("x y x y x y", 1.0),
        ("x y x y one two", 3 / 4),
        ("", 0.0),
        ("entirely", 0.0),
        ("1 2 3", 0.0),
    ],
)
def test_novelty_is_the_share_of_pairs_that_nothing_ordinary_holds(text, novelty):
    assert KNOWN.novelty(text) == pytest.approx(novelty)


def test_two_texts_make_no_pair_where_they_meet():
    assert ordinary_of(["one two", "three four"]).novelty("two three") == 1.0


def test_where_nothing_is_ordinary_everything_is_new():
    assert ordinary_of([]).novelty("one two") == 1.0 and ordinary_of([]).novelty("one") == 0.0


def test_worth_is_novelty_times_how_surely_the_model_goes_on():
    for settled in (0.0, 0.3, 2.0):
        assert KNOWN.worth(said("one two four", settled=settled)) == pytest.approx(0.5 * exp(-settled))
    assert KNOWN.worth(said("four one", settled=None)) == 1.0, "too short for anything but the leap into it"
    assert KNOWN.worth(said("one two three", settled=0.0)) == 0.0


@pytest.mark.parametrize("state", ["unchanged", "empty", "degenerate"])
def test_what_is_not_coherent_promises_nothing(state):
    assert KNOWN.worth(said("four one", state)) == 0.0


def test_a_held_sentence_is_worth_more_than_a_paraphrase_and_than_word_salad():
    """Before, by frequency alone, the paraphrase that most vectors say stood first."""
    held, paraphrase, salad = said("a b c d", settled=0.1), said("one two three d", settled=0.1), said("d b a c", settled=4.0)
    assert KNOWN.worth(held) > 2 * KNOWN.worth(paraphrase) and KNOWN.worth(held) > 10 * KNOWN.worth(salad)


def test_what_is_said_once_is_ordinary_from_there_on():
    more = KNOWN.and_also("a b c")
    assert KNOWN.novelty("a b c") == 1.0 and more.novelty("a b c") == 0.0
    assert more.novelty("b c d") == 1 / 2 and more.novelty("one two") == 0.0
    assert more.pairs == KNOWN.pairs | pairs_of("a b c")
    assert more == KNOWN.and_also("a b c").and_also("b c")
