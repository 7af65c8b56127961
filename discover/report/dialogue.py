"""Replies as they come, one after the other in blocks or beside one another in columns; hostile text is made visible."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from discover.report.text import one_line, visible

Voice = tuple[str, Iterator[str]]
"""Who speaks, and the pieces of what is said."""
BETWEEN = " │ "


def in_blocks(voices: Sequence[Voice], write: Callable[[str], None]) -> list[str]:
    """Write one reply after the other below its label, piece by piece, and return them as they were said."""
    texts = []
    for label, pieces in voices:
        write(f"{label}\n")
        said = []
        for piece in pieces:
            said.append(piece)
            write(visible(piece))
        write("\n\n")
        texts.append("".join(said))
    return texts


def in_columns(voices: Sequence[Voice], width: int, write: Callable[[str], None]) -> list[str]:
    """Write replies side by side, a piece of each in turn, and return them as they were said.

    Only the line that a reply may still change is written again, so that no text scrolls out of reach.

    Args:
        voices: who speaks.
        width: columns of the terminal.
        write: takes text and shows it at once.
    """
    # One column stays free: a full line would be broken by some terminals, and the return would lead to the wrong one.
    wide = (width - 1 - len(BETWEEN) * (len(voices) - 1)) // len(voices)
    texts, lines = ["" for _ in voices], [[""] for _ in voices]
    speaking = dict(enumerate(pieces for _, pieces in voices))
    write(_row([[one_line(label, wide)] for label, _ in voices], 0, wide) + "\n")
    write("─┼─".join("─" * wide for _ in voices) + "\n")
    shown = 0
    while speaking:
        for place, pieces in list(speaking.items()):
            piece = next(pieces, None)
            if piece is None:
                del speaking[place]
            else:
                texts[place] += piece
                lines[place] = wrapped(visible(texts[place]), wide)
        # A reply that is being said changes its last line alone; what has ended changes nothing.
        settled = min(len(lines[place]) - 1 for place in speaking) if speaking else max(map(len, lines))
        for number in range(shown, settled):
            write(f"\r{_row(lines, number, wide)}\n")
        shown = max(shown, settled)
        if speaking:
            write(f"\r{_row(lines, shown, wide)}")
    write("\n")
    return texts


def _row(columns: Sequence[Sequence[str]], number: int, wide: int) -> str:
    """Return one line of every column, each filled up to its width."""
    parts = [lines[number] if number < len(lines) else "" for lines in columns]
    return BETWEEN.join(part + " " * (wide - columns_of(part)) for part in parts)


def wrapped(text: str, wide: int) -> list[str]:
    """Return text in lines of at most so many columns, broken between words where that can be.

    Text that is added at the end changes the last line alone, and may add lines.
    """
    lines = []
    for paragraph in text.replace("\t", " ").split("\n"):
        line = ""
        for word in re.findall(r" *[^ ]+| +$", paragraph):
            if columns_of(line) + columns_of(word) <= wide:
                line += word
                continue
            if line:
                lines.append(line)
            line = word.lstrip(" ")
            while columns_of(line) > wide:
                first = _fitting(line, wide)
                lines.append(line[:first])
                line = line[first:]
        lines.append(line)
    return lines


def _fitting(text: str, wide: int) -> int:
    """Return how many letters of a text, one at least, fit into so many columns."""
    used = 0
    for number, letter in enumerate(text):
        used += _size(letter)
        if used > wide and number:
            return number
    return len(text)


def columns_of(text: str) -> int:
    """Return how many columns of a terminal a text of one line takes."""
    return len(text) if text.isascii() else sum(map(_size, text))


@cache
def _size(letter: str) -> int:
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
