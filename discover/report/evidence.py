"""The tables of evidence of a tracked run: modes, findings, what vectors do elsewhere, and the outcomes of a contrast."""

from collections.abc import Iterable
from typing import Any

from discover.audit.findings import Finding
from discover.read.modes import Mode
from discover.read.signals import Completion
from discover.read.triage import Glance
from discover.report.contrasted import ContrastRecord
from discover.report.record import QUESTIONS, Record
from discover.report.tables import PARTS, Table, boosted, fields, glances, shares, table


def modes(record: Record) -> Table:
    """Return one row per mode: its medoid, two members that were drawn, its words, and the finding that it is."""
    columns = {
        **{"mode": int, "label": str, "named": str, "state": str, "completions": int, "verdict": str, "level": str},
        **{"medoid": str, "second": str, "third": str, "terms": str, "boosted": str},
        **shares("vectors", "random", "forced"),
        **{"p": float, "adjusted_p": float},
    }
    by_mode, seen = {finding.mode: finding for finding in record.findings}, glances(record)
    rows = []
    for index, mode in enumerate(record.modes):
        found = by_mode.get(index)
        shown = [record.completions[member].text for member in mode.shown[:3]]
        counted = (found.bank, found.null, found.forced) if found else (None, None, None)
        rows.append(
            [
                *(index, mode.label, mode.named, mode.state, len(mode.members)),
                *((found.verdict, found.level) if found else (None, None)),
                *(*shown, *[None] * (3 - len(shown))),
                *(", ".join(mode.terms), boosted(_speaks_for(record, mode, seen))),
                *(part for share in counted for part in fields(share, PARTS)),
                *((found.p, found.adjusted_p) if found else (None, None)),
            ]
        )
    return table(columns, rows)


def findings(record: Record) -> Table:
    """Return one row per finding, in the order of the report."""
    columns = {
        **{"place": int, "verdict": str, "level": str, "mode": int, "opens": str},
        **shares("vectors", "random", "forced"),
        **{"p": float, "adjusted_p": float, "terms": str, "which": str, "example": str},
    }

    def row(place: int, one: Finding) -> list[Any]:
        counted = [part for share in (one.bank, one.null, one.forced) for part in fields(share, PARTS)]
        said = record.completions[one.examples[0]].text
        which = ", ".join(map(str, one.vectors))
        opens = [place, one.verdict, one.level, one.mode, one.label]
        return [*opens, *counted, one.p, one.adjusted_p, ", ".join(one.terms), which, said]

    return table(columns, (row(*each) for each in enumerate(record.findings, 1)))


def uses(record: Record) -> Table:
    """Return one row per vector and multiplier of what was used on other prompts."""
    columns = {"finding": int, "who": str, "vector": int, "multiplier": float, **shares(*QUESTIONS)}
    return table(
        columns,
        (
            [
                *(one.place, one.who(row), row.vector, row.multiplier),
                *(part for name in QUESTIONS for part in fields(getattr(row, name), PARTS)),
            ]
            for one in record.used
            for row in one.rows
        ),
    )


def known(record: Record) -> Table:
    """Return one row per known direction and vector."""
    return table(
        {"known": str, "layer": int, "vector": int, "effect": float, "source": float},
        (
            [one.name, one.layer, vector, effect, one.source and one.source[vector]]
            for one in record.likenesses
            for vector, effect in enumerate(one.effect)
        ),
    )


def outcomes(record: ContrastRecord) -> Table:
    """Return one row per intervention."""
    odds = {f"log-odds {name}": float for name in record.odds}
    columns = {
        **{"intervention": str, "multiplier": float, **shares(*record.questions), **odds},
        **{"cost": float, "kl": float, **shares("agrees")},
    }
    return table(
        columns,
        (
            [
                *(one.what, one.multiplier),
                *(part for name in record.questions for part in fields(one.shares[name], PARTS)),
                *(one.log_odds[name] for name in record.odds),
                *fields(one.damage, ("cost", "kl")),
                *fields(one.agrees, PARTS),
            ]
            for one in record.outcomes
        ),
    )


def answers(record: ContrastRecord) -> Table:
    """Return one row per open prompt."""
    sides = {"prompt": str, "unsteered": str, "steered": str}
    return table(sides, ([one[side] for side in sides] for one in record.said))


def _speaks_for(record: Record, mode: Mode, seen: dict[tuple[str, int | None], Glance]) -> Glance | None:
    """Return the glance of the first of the mode's members that is a vector, the medoid before all others."""
    members: Iterable[Completion] = (record.completions[member] for member in (*mode.shown, *mode.members))
    return next((seen[said.bank, said.vector] for said in members if (said.bank, said.vector) in seen), None)
