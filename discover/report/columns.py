"""What the script of the page draws from: columns of numbers, and every text once."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from discover.audit.findings import Finding
from discover.read.decoders import Decoding
from discover.read.hints import Hint
from discover.read.signals import Completion
from discover.read.triage import Glance
from discover.report.page import MARK
from discover.report.record import Record
from discover.report.text import visible

BANKS = ("learned", "null", "forced", "followed", "unsteered")
"""In the order in which they are shown; the columns hold their places."""
KEPT = ("unsteered", "learned", "forced", "followed", "null")
"""The order in which completions are kept where there is no room for all."""
ROOM = 5_000_000
"""Bytes for completions on a page."""
ROW = 30
"""Bytes of a completion whose text stands there already."""
BESIDE = 10
"""Random vectors that stand beside a learned one with all that is known of them."""
SAID = ("state", "tokens", "ended", "script", "refusal")
SCORES = ("surprise", "onward_surprise", "repetition", "distance", "meaning")
"""Signals of a completion, as they are and rounded."""
GLANCED = ("kl", "shifted", "norm", "agreement", "presence")
"""Signals of a vector."""

Place = Callable[[str | None], int | None]
"""From a text to its place among the texts of the page; None of None."""


def page_data(record: Record) -> dict[str, Any]:
    """Return what the script draws from; no text in it holds an invisible character that is not named."""
    texts: dict[str, int] = {}

    def place(text: str | None) -> int | None:
        return None if text is None else texts.setdefault(visible(text, MARK, MARK), len(texts))

    columns = {
        "banks": BANKS,
        "prompts": [place(prompt) for prompt in record.prompts],
        "own": [place(record.unsteered(prompt).text) for prompt in range(len(record.prompts))],
        "masked": record.masked,
        "modes": _modes(record, place),
        **_completions(record, place),
        "vectors": _vectors(record, place),
        "known": [place(one.name) for one in record.likenesses],
        "decodings": [_decoding(one, place) for one in record.decodings],
        "hints": [_hint(one, place) for one in record.hints],
    }
    return {**columns, "texts": list(texts)}


def listed(completions: Sequence[Completion]) -> list[int]:
    """Return the completions that the page holds: greedy ones before drawn ones, those of the null last, while there is room."""
    order = sorted(range(len(completions)), key=lambda index: _rank(completions[index]))
    kept, seen, room = [], set[str](), ROOM
    for index in order:
        text = completions[index].text
        room_taken = ROW + (0 if text in seen else len(text.encode(errors="replace")))
        if room_taken <= room:
            kept.append(index)
            seen.add(text)
            room -= room_taken
    return sorted(kept)


def _rank(said: Completion) -> tuple[bool, int]:
    return said.sample > 0, KEPT.index(said.bank)


def _completions(record: Record, place: Place) -> dict[str, dict[str, list[Any]]]:
    """Return `completions`, who spoke, and `said`, every distinct thing that was said with its signals."""
    modes = {member: index for index, mode in enumerate(record.modes) for member in mode.members}
    names = ("mode", "text", "opening", *SAID, *SCORES)
    distinct: dict[tuple[Any, ...], int] = {}
    rows = []
    for index in listed(record.completions):
        one = record.completions[index]
        told = (modes.get(index), place(one.text), place(one.opening), *(getattr(one, name) for name in SAID))
        said = (*told, *(rounded(getattr(one, name), 3) for name in SCORES))
        said_place = distinct.setdefault(said, len(distinct))
        steered = rounded(one.steered_surprise, 3)
        rows.append((BANKS.index(one.bank), one.vector, one.prompt, one.sample, steered, said_place))
    return {
        "completions": _columned(("bank", "vector", "prompt", "sample", "steered_surprise", "said"), rows),
        "said": _columned(names, list(distinct)),
    }


def _modes(record: Record, place: Place) -> dict[str, list[Any]]:
    by_mode = {found.mode: found for found in record.findings}
    found: list[Finding | None] = [by_mode.get(index) for index in range(len(record.modes))]
    shares = {
        name: [None if one is None or getattr(one, name) is None else str(getattr(one, name)) for one in found]
        for name in ("bank", "null", "forced")
    }
    return {
        "label": [place(mode.label) for mode in record.modes],
        "named": [place(mode.named) for mode in record.modes],
        "terms": [place(", ".join(mode.terms)) for mode in record.modes],
        "members": [len(mode.members) for mode in record.modes],
        "verdict": [one and one.verdict for one in found],
        "level": [one and one.level for one in found],
        "p": [one and one.adjusted_p for one in found],
        "vectors": [one and one.vectors for one in found],
        **shares,
    }


def _vectors(record: Record, place: Place) -> dict[str, list[Any]]:
    """Return one row per vector of both banks, with what is known of it beside what it says."""
    glances = {(one.bank, one.vector): one for one in record.glances}
    spots = {(one.bank, one.vector): one for one in (record.mapped.spots if record.mapped else ())}
    spoke = {(said.bank, said.vector) for said in record.completions if said.bank in BANKS[:2] and said.vector is not None}
    every = sorted({*glances, *spots, *spoke}, key=lambda one: (BANKS.index(one[0]), one[1]))
    modes, whole = modes_of_vectors(record), _beside(record)
    objective = record.bank.objective.tolist()
    rows = []
    for one in every:
        glance, spot = glances.get(one), spots.get(one)
        detailed = glance if glance is not None and (one[0] == "learned" or one[1] in whole) else None
        rows.append(
            (
                BANKS.index(one[0]),
                one[1],
                modes.get(one),
                rounded(objective[one[1]], 4) if one[0] == "learned" else None,
                *((rounded(spot.x, 4), rounded(spot.y, 4), spot.group) if spot else (None, None, None)),
                *(rounded(getattr(glance, name), 4) if glance else None for name in GLANCED),
                *_at_length(detailed, place),
                [rounded(known.effect[one[1]], 3) for known in record.likenesses] if one[0] == "learned" else None,
            )
        )
    names = ("bank", "vector", "mode", "objective", "x", "y", "group", *GLANCED, "boosted", "doses", "known")
    return _columned(names, rows)


def modes_of_vectors(record: Record) -> dict[tuple[str, int], int]:
    """Return the mode that stands for each vector: the strongest that counts it, of a random one its first changed reply's."""
    found: dict[tuple[str, int], int] = {}
    for one in record.findings:
        for vector in one.vectors:
            found.setdefault(("learned", vector), one.mode)
    for state in (False, True):
        for index, mode in enumerate(record.modes):
            for member in mode.members if (mode.state == "unchanged") == state else ():
                said = record.completions[member]
                if said.bank in BANKS[:2] and said.vector is not None:
                    found.setdefault((said.bank, said.vector), index)
    return found


def _beside(record: Record) -> set[int]:
    """Return the random vectors that stand beside learned ones: those that were decoded, else the first."""
    decoded = {one.vector for one in record.decodings if one.bank == "null"}
    return decoded or set(sorted(one.vector for one in record.glances if one.bank == "null")[:BESIDE])


def _at_length(glance: Glance | None, place: Place) -> tuple[list[Any] | None, list[Any] | None]:
    """Return the boosted tokens (text, position, gain, …) and the curve (multiplier, divergence, …) of a vector."""
    if glance is None:
        return None, None
    boosted = [part for one in glance.boosted for part in (token(one.token, place), one.position, rounded(one.gain, 3))]
    return boosted, [part for multiplier, kl in glance.doses for part in (rounded(multiplier, 3), rounded(kl, 4))]


def _decoding(one: Decoding, place: Place) -> dict[str, Any]:
    return {
        "bank": BANKS.index(one.bank),
        "vector": one.vector,
        "lens": [[block, [token(text, place) for text in tokens]] for block, tokens in one.lens],
        "nearest": [token(text, place) for text in one.nearest],
        "described": place(one.described),
        "heat": [[token(text, place), rounded(norm, 3)] for text, norm in one.heat],
    }


def _hint(one: Hint, place: Place) -> dict[str, Any]:
    return {
        "bank": BANKS.index(one.bank),
        "vector": one.vector,
        "mode": one.mode,
        "branches": [
            [token(branch.opening, place), place(branch.text), rounded(branch.novelty, 2), rounded(branch.surprise, 2)]
            for branch in one.branches
        ],
        "least": one.least,
        "least_text": place(one.least_text),
    }


def token(text: str, place: Place) -> int | None:
    """Return the place of a token, of which line breaks and tabs can be seen."""
    return place(text.replace("\n", "⏎").replace("\t", "⇥"))


def rounded(value: float | None, digits: int) -> float | None:
    """Return `value` with so many digits behind the point; None where there is no number."""
    return None if value is None or not math.isfinite(value) else round(value, digits)


def _columned(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    """Return rows as one list per name."""
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}
