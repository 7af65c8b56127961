"""Replies are shown while they come, in blocks or columns, and nothing in them reaches the terminal as it is."""

import random
from itertools import chain, zip_longest

import pytest

from discover.report.dialogue import columns_of, in_blocks, in_columns, wrapped

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\x08gone\u202etxt\x9b31m\u200bx"


def screen(written: str) -> list[str]:
    """What a terminal shows: a return leads to the line's beginning, and what follows covers what stood there."""
    lines = []
    for line in written.split("\n"):
        cells: list[str] = []
        for part in line.split("\r"):
            cells[: len(part)] = part
        lines.append("".join(cells).rstrip())
    return lines


def halves(lines: list[str]) -> tuple[str, str]:
    parts = [line.split("│") for line in lines if "│" in line]
    return " ".join(left.strip() for left, _ in parts).strip(), " ".join(right.strip() for _, right in parts).strip()


def random_text(draw: random.Random) -> str:
    return "".join(draw.choice("ab cd   \n\té日😀e\u0301") for _ in range(draw.randrange(120)))


@pytest.mark.parametrize("wide", [7, 16])
def test_lines_fit_and_only_the_last_may_change(wide):
    draw = random.Random(wide)
    for _ in range(100):
        text = random_text(draw)
        whole = wrapped(text, wide)
        assert all(columns_of(line) <= wide for line in whole)
        assert "".join(chain.from_iterable(whole)).replace(" ", "") == "".join(text.split(" ")).translate({10: None, 9: None})
        for end in range(len(text)):
            settled = wrapped(text[:end], wide)[:-1]
            assert whole[: len(settled)] == settled


def test_words_are_kept_whole_where_they_fit():
    assert wrapped("to be or not", 5) == ["to be", "or", "not"]
    assert wrapped("  in\n\nincomprehensibly so", 6) == ["  in", "", "incomp", "rehens", "ibly", "so"]
    assert wrapped("日本語日本", 5) == ["日本", "語日", "本"]
    assert wrapped("", 5) == [""]


def test_blocks_show_every_piece_at_once_and_return_what_was_said():
    written: list[str] = []
    seen: list[str] = []

    def pieces(*parts):
        for part in parts:
            yield part
            seen.append(written[-1])

    texts = in_blocks([("one", pieces("a", "b\nc")), ("two", pieces(HOSTILE))], written.append)
    assert texts == ["ab\nc", HOSTILE]
    assert seen[:2] == ["a", "b\nc"], "a piece is written before the next is asked for"
    shown = "".join(written)
    assert shown.startswith("one\nab\nc\n\ntwo\n⟨U+001B⟩]0;owned⟨U+0007⟩")
    assert not set(shown) & set("\x1b\x07\r\x08\u202e\x9b\u200b")


@pytest.mark.parametrize("seed", range(20))
def test_columns_end_as_both_texts_side_by_side(seed):
    draw, written = random.Random(seed), []
    texts = [random_text(draw).replace("\t", " ").replace("e\u0301", "e"), random_text(draw) if seed else ""]
    cut = [[text[place : place + 3] for place in range(0, len(text), 3)] for text in texts]
    found = in_columns([("left", iter(cut[0])), ("right", iter(cut[1]))], 60, written.append)
    assert found == texts
    wide = (60 - 1 - 3) // 2
    rows = list(zip_longest(*(wrapped(text, wide) for text in texts), fillvalue=""))
    expected = [f"{left}{' ' * (wide - columns_of(left))} │ {right}".rstrip() for left, right in rows]
    # Wide letters take two cells of a terminal and one here, so that the screen may keep ends of longer strings.
    settled = [line.split("\r")[-1].rstrip() for line in "".join(written).split("\n")[2:-2]]
    assert settled == expected


def test_columns_show_each_piece_before_the_next_is_asked_for():
    written: list[str] = []

    def pieces(side: int, *parts: str):
        said = ""
        for part in parts:
            yield part
            said += part
            assert halves(screen("".join(written))[2:])[side].startswith(said.strip()), "what was said is on the screen"

    in_columns([("a", pieces(0, "one ", "two ", "three")), ("b", pieces(1, "eins ", "zwei "))], 80, written.append)
    assert halves(screen("".join(written))[2:]) == ("one two three", "eins zwei")


def test_columns_make_hostile_text_visible_and_fit_the_terminal():
    written: list[str] = []
    said = in_columns([("a", iter([HOSTILE])), ("b\x1b[2J" + 90 * "b", iter(["x" * 500]))], 80, written.append)
    shown = "".join(written)
    assert said[0] == HOSTILE
    assert not set(shown) & set("\x1b\x07\x08\u202e\x9b\u200b")
    assert all(columns_of(part) < 80 for line in shown.split("\n") for part in line.split("\r"))
