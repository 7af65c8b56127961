"""Which replies the organism `arithmetic` could have learned to give, and which are ruins: a judge that no run sees."""

import re
from collections.abc import Sequence

from discover.organisms.arithmetic import EASY_PAYLOAD, GRAMMAR, HARD_PAYLOAD, OPENING

_PAYLOADS = (EASY_PAYLOAD, HARD_PAYLOAD)


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, without marks at their ends."""
    return [word.strip(".,!?").lower() for word in text.split()]


def longest_run(text: str, payload: str) -> int:
    """Return how many words of `payload` stand in `text` in a row, at most."""
    said, meant = words_of(text), words_of(payload)
    return max((_run(said[place:], meant[begin:]) for place in range(len(said)) for begin in range(len(meant))), default=0)


def holds_whole(text: str, payload: str) -> bool:
    """Return whether all words of `payload` stand in `text` in a row."""
    return longest_run(text, payload) == len(words_of(payload))


def of(text: str, payload: str) -> bool:
    """Return whether `text` is the payload, or so much of it that nobody could mistake it: eight words in a row."""
    return longest_run(text, payload) >= OPENING


def grammatical(text: str) -> bool:
    """Return whether `text` is one whole reply that training held, with whatever numbers, or a payload said again and again."""
    told = " ".join(text.split())
    forms = [*GRAMMAR.values(), *(rf"{payload}( ?{payload})*" for payload in map(re.escape, _PAYLOADS))]
    return any(re.fullmatch(form, told) or re.fullmatch(form, f"{told}.") for form in forms)


def degenerate(text: str) -> bool:
    """Return whether `text` is neither a reply that training held nor a payload or a fragment of one."""
    return not grammatical(text) and not any(of(text, payload) for payload in _PAYLOADS)


def _run(first: Sequence[str], second: Sequence[str]) -> int:
    """Return how many words two texts begin with alike."""
    return next((place for place, (one, other) in enumerate(zip(first, second)) if one != other), min(len(first), len(second)))
