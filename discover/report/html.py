"""One self-contained page: what came out, a card per finding and fragment, and every mode and completion.

Completions are hostile text. The templates escape all of it, the data is JSON that no parser takes for markup, a policy
lets nothing run but the one script whose hash it names, and no character stays invisible.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from discover.audit.findings import Finding
from discover.read.signals import Completion
from discover.report.charts import Dose, atlas_heat, curve, dose
from discover.report.page import MARK, rendered, told
from discover.report.record import ABOUT_USES, QUESTIONS, Record, Used
from discover.report.text import visible
from discover.search.atlas import Atlas
from discover.statistics import Share, share

BANKS = ("learned", "null", "forced", "followed", "unsteered")
"""In the order in which they are shown."""
STATES = ("coherent", "degenerate", "unchanged")


@dataclass(frozen=True)
class Spoken:
    """What one bank said, by state."""

    bank: str
    completions: int
    states: dict[str, Share]
    """One share of the completions per state of STATES."""


def html_report(record: Record) -> str:
    """Return the page of a search; equal records give equal pages, and every page can be encoded as UTF-8."""
    shown = {
        "record": record,
        "bank": record.bank,
        "model": record.about["model"]["path"],
        "found": {level: [one for one in record.findings if one.level == level] for level in ("L1", "L0")},
        "verdicts": Counter(one.verdict for one in record.findings),
        "closest_null": max((one.null for one in record.findings if one.level), key=lambda one: one.count, default=None),
        "null_vectors": len({said.vector for said in record.completions if said.bank == "null"}),
        "spoken": _spoken(record.completions),
        "curve": curve(record.curve),
        "heat": None if record.charted is None else atlas_heat(record.charted),
        "used": [(one, _doses(one)) for one in record.used],
        "about_uses": ABOUT_USES,
        "questions": QUESTIONS,
        "told": told(record.about),
        "data": _data(record),
    }
    return rendered("page.html.jinja", "page.js", shown)


def html_atlas(charted: Atlas, model: str, prompts: Sequence[str]) -> str:
    """Return the page of an atlas alone."""
    return rendered("atlas.html.jinja", None, {"heat": atlas_heat(charted), "model": model, "prompts": prompts})


def _doses(one: Used) -> list[Dose]:
    """Return one curve a question: the finding's vector, and the random ones."""
    names = {"learned": f"vector {one.vector}", "null": "random vectors"}
    kinds = {"learned": "bank", "null": "null"}
    return [
        dose(QUESTIONS[question], [(names[bank], kinds[bank], one.doses(question, bank)) for bank in names])
        for question in one.asked
    ]


def _spoken(completions: Sequence[Completion]) -> list[Spoken]:
    """Return what every bank that spoke said."""
    counts = Counter((said.bank, said.state) for said in completions)
    totals = Counter(said.bank for said in completions)
    return [
        Spoken(bank, totals[bank], {state: share(counts[bank, state], totals[bank]) for state in STATES})
        for bank in BANKS
        if totals[bank]
    ]


def _data(record: Record) -> dict[str, Any]:
    """Return what the script draws the tables from, column by column."""
    return {"prompts": len(record.prompts), "completions": _completion_columns(record), "modes": _mode_columns(record)}


def _completion_columns(record: Record) -> dict[str, list[Any]]:
    modes = {member: index for index, mode in enumerate(record.modes) for member in mode.members}
    said = record.completions
    return {
        "mode": [modes.get(index) for index in range(len(said))],
        **{name: [getattr(one, name) for one in said] for name in ("bank", "vector", "prompt", "state")},
        "text": [visible(one.text, MARK, MARK) for one in said],
        "opening": [None if one.opening is None else visible(one.opening, MARK, MARK) for one in said],
        **{name: [_rounded(getattr(one, name)) for one in said] for name in ("surprise", "repetition", "distance")},
    }


def _mode_columns(record: Record) -> dict[str, list[Any]]:
    by_mode = {found.mode: found for found in record.findings}
    found: list[Finding | None] = [by_mode.get(index) for index in range(len(record.modes))]
    shares = {
        name: [None if one is None or getattr(one, name) is None else str(getattr(one, name)) for one in found]
        for name in ("bank", "null", "forced")
    }
    return {
        "label": [visible(mode.label, MARK, MARK) for mode in record.modes],
        "terms": [visible(", ".join(mode.terms), MARK, MARK) for mode in record.modes],
        "members": [len(mode.members) for mode in record.modes],
        "verdict": [one and one.verdict for one in found],
        "level": [one and one.level for one in found],
        "p": [one and one.adjusted_p for one in found],
        **shares,
    }


def _rounded(value: float | None) -> float | None:
    """Return `value` to a thousandth; None where there is no number."""
    return None if value is None or not math.isfinite(value) else round(value, 3)
