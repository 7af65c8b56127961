"""Hostile text made safe to show: what cannot be seen is named, and nothing can steer the reader's machine."""

import unicodedata

CARRIED = "\n\t"
"""Control characters that are kept where a text may have several lines."""


def visible(text: str) -> str:
    """Return `text` with control, format, private and surrogate characters written as ⟨U+…⟩; line breaks and tabs stay."""
    return "".join(one if one in CARRIED or unicodedata.category(one)[0] != "C" else f"⟨U+{ord(one):04X}⟩" for one in text)


def one_line(text: str, length: int) -> str:
    """Return `text` on one line, at most `length` characters long."""
    flat = visible(text).replace("\n", "⏎").replace("\t", " ")
    return flat if len(flat) <= length else flat[: length - 1] + "…"
