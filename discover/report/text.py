"""Hostile text made safe to show: what cannot be seen is named, and nothing can steer the reader's machine."""

import re

INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ufff9-\ufffb\ufffe\uffff"  # controls, annotation anchors, noncharacters
    "\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"  # bidi marks and overrides, zero width, line separators
    "\xad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f"  # fillers, joiners, variation selectors
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # format controls and tags of other planes
    "\ud800-\udfff\ue000-\uf8ff\U000f0000-\U0010ffff]"  # lone surrogates, private use
)

MARKS = "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
STACKED = re.compile(f"(?<=[{MARKS}]{{4}})[{MARKS}]+")
"""Combining marks on a letter that has four; no script needs as many, and a heap of them hides the lines around it."""


def visible(text: str, left: str = "⟨", right: str = "⟩") -> str:
    """Return `text` with every invisible character but newline and tab named, such as ⟨U+202E⟩, and heaps of marks counted."""
    named = INVISIBLE.sub(lambda found: f"{left}U+{ord(found[0]):04X}{right}", text)
    return STACKED.sub(lambda found: f"{left}{len(found[0])} more marks{right}", named)


def one_line(text: str, length: int) -> str:
    """Return `text` on one line, at most `length` characters long."""
    flat = visible(text).replace("\n", "⏎").replace("\t", " ")
    return flat if len(flat) <= length else flat[: length - 1] + "…"
