"""What the tables of a tracked run hold: rows of typed cells, in which no text hides a character."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from discover.read.triage import Glance
from discover.report.record import Record
from discover.report.text import visible

Cell = str | float | bool | None
SIGNALS: dict[str, type] = {
    **{"state": str, "distance": float, "meaning": float, "surprise": float, "onward_surprise": float},
    **{"steered_surprise": float, "repetition": float, "script": str, "refusal": bool, "tokens": int, "ended": bool},
}
"""Fields of a completion."""
TRIAGE: dict[str, type] = {"kl": float, "shifted": float, "norm": float, "agreement": float, "presence": float}
"""Fields of a glance."""
PARTS: dict[str, type] = {"count": int, "n": int, "low": float, "high": float}
"""Fields of a share."""
AGAINST = ("kl", "norm", "distance", "surprise")
"""Signals whose spread over the bank is held against the null."""
BINS = 32


@dataclass(frozen=True)
class Table:
    """Rows under typed columns; any cell may be None."""

    columns: Mapping[str, type]
    """`str`, `int`, `float` or `bool` per column."""
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Spread:
    """How one signal spreads over the bank and over its null, in bins that both share."""

    signal: str
    edges: tuple[float, ...]
    learned: tuple[float, ...]
    """Share of the bank in every bin."""
    null: tuple[float, ...]


def vectors(record: Record) -> Table:
    """Return one row per learned vector, prompt and sample; beside it what the opposite vector says, where the bank has it."""
    columns = {
        **{"vector": int, "prompt": str, "sample": int, "verdict": str, "mode": int, "label": str, "completion": str},
        **{"opposite": int, "opposite_verdict": str, "opposite_completion": str},
        **SIGNALS,
        "objective": float,
        **TRIAGE,
        "boosted": str,
    }
    learned = [(index, said) for index, said in enumerate(record.completions) if said.bank == "learned"]
    places = {(said.vector, said.prompt, said.sample): index for index, said in learned}
    seen, told = glances(record), _told(record)
    rows = []
    for index, said in learned:
        opposite = _opposite(record, said.vector)
        other = None if opposite is None else places.get((opposite, said.prompt, said.sample))
        beside = [opposite, None, None] if other is None else [opposite, told[other][0], record.completions[other].text]
        place = [said.vector, record.prompts[said.prompt], said.sample, *told[index]]
        glance = seen.get(("learned", said.vector))
        objective = None if said.vector is None else float(record.bank.objective[said.vector])
        rows.append([*place, said.text, *beside, *fields(said, SIGNALS), objective, *fields(glance, TRIAGE), boosted(glance)])
    return table(columns, rows)


def mapped(record: Record) -> Table:
    """Return one row per vector on the map of effects, with what it first says."""
    columns = {
        **{"x": float, "y": float, "bank": str, "vector": int, "group": int},
        **{"verdict": str, "mode": int, "label": str, "completion": str},
    }
    told = _told(record)
    first: dict[tuple[str, int | None], list[Any]] = {}
    for index, said in enumerate(record.completions):
        first.setdefault((said.bank, said.vector), [*told[index], said.text])
    spots = record.mapped.spots if record.mapped else ()
    nothing = [None] * 4
    return table(
        columns,
        ([spot.x, spot.y, spot.bank, spot.vector, spot.group, *first.get((spot.bank, spot.vector), nothing)] for spot in spots),
    )


def spreads(record: Record) -> list[Spread]:
    """Return how the signals of AGAINST spread; one that was not scored for both banks is left out."""
    found = []
    for signal in AGAINST:
        sources: Sequence[Any] = record.glances if signal in TRIAGE else record.completions
        values = {
            bank: [value for one in sources if one.bank == bank and (value := _finite(getattr(one, signal))) is not None]
            for bank in ("learned", "null")
        }
        if all(values.values()):
            edges = np.histogram_bin_edges([*values["learned"], *values["null"]], BINS)
            shares = {bank: np.histogram(values[bank], edges)[0] / len(values[bank]) for bank in values}
            found.append(Spread(signal, *(tuple(part.tolist()) for part in (edges, shares["learned"], shares["null"]))))
    return found


def completions(record: Record) -> Table:
    """Return one row per completion of every bank."""
    columns = {
        **{"bank": str, "vector": int, "prompt": str, "sample": int, "opening": str},
        **{"verdict": str, "mode": int, "label": str, "completion": str},
        **SIGNALS,
    }
    told = _told(record)
    return table(
        columns,
        (
            [
                *(said.bank, said.vector, record.prompts[said.prompt], said.sample, said.opening),
                *told[index],
                said.text,
                *fields(said, SIGNALS),
            ]
            for index, said in enumerate(record.completions)
        ),
    )


def hints(record: Record) -> Table:
    """Return one row per branch that the unsteered model took; a vector without one has a row as well."""
    columns = {
        **{"bank": str, "vector": int, "mode": int, "least": float, "least_text": str},
        **{"opening": str, "text": str, "novelty": float, "surprise": float},
    }
    branch = ("opening", "text", "novelty", "surprise")
    return table(
        columns,
        (
            [one.bank, one.vector, one.mode, one.least, one.least_text, *fields(taken, branch)]
            for one in record.hints
            for taken in one.branches or (None,)
        ),
    )


def decodings(record: Record) -> Table:
    """Return one row per decoded vector."""
    columns = {"bank": str, "vector": int, "lens": str, "nearest": str, "described": str, "heat": str}
    return table(
        columns,
        (
            [
                *(one.bank, one.vector, "\n".join(f"block {block}: {', '.join(tokens)}" for block, tokens in one.lens)),
                *(", ".join(one.nearest), one.described, " ".join(f"{token}({norm:.2g})" for token, norm in one.heat)),
            ]
            for one in record.decodings
        ),
    )


def doses(record: Record) -> Table:
    """Return one row per learned vector and multiplier."""
    rows = ([one.vector, *dose] for one in record.glances if one.bank == "learned" for dose in one.doses)
    return table({"vector": int, "multiplier": float, "kl": float}, rows)


def table(columns: Mapping[str, type], rows: Iterable[Sequence[Any]]) -> Table:
    """Return the table: every text with its invisible characters named, every number that is not finite as None."""
    return Table(columns, tuple(tuple(map(_cell, row)) for row in rows))


def fields(one: Any, names: Iterable[str]) -> list[Any]:
    """Return the named fields of `one`; of nothing, as many times None."""
    return [None if one is None else getattr(one, name) for name in names]


def shares(*names: str) -> dict[str, type]:
    """Return the columns of shares, each as its count, n, and the ends of its interval."""
    return {f"{name} {part}": kind for name in names for part, kind in PARTS.items()}


def glances(record: Record) -> dict[tuple[str, int | None], Glance]:
    """Return what every vector does before it speaks, by bank and vector."""
    return {(one.bank, one.vector): one for one in record.glances}


def boosted(glance: Glance | None) -> str | None:
    """Return the tokens that gain most."""
    return None if glance is None else ", ".join(boost.token for boost in glance.boosted)


def _told(record: Record) -> list[tuple[str | None, int | None, str | None]]:
    """Return verdict, mode and name of the mode of every completion."""
    verdicts = {finding.mode: finding.verdict for finding in record.findings}
    found: list[tuple[str | None, int | None, str | None]] = [(None, None, None)] * len(record.completions)
    for index, mode in enumerate(record.modes):
        for member in mode.members:
            found[member] = (verdicts.get(index), index, mode.named or mode.label)
    return found


def _opposite(record: Record, vector: int | None) -> int | None:
    """Return the row of the bank that holds the opposite of `vector`; None where it holds one sign alone."""
    if vector is None or not record.about["config"]["search"]["both_signs"]:
        return None
    return (vector + len(record.bank) // 2) % len(record.bank)


def _cell(value: Any) -> Cell:
    return visible(value) if isinstance(value, str) else _finite(value)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
