"""One self-contained page: what came out, a card per mode, a map and a table of the vectors, and a page for each of them.

Completions are hostile text. The templates escape all of it, the data is JSON that no parser takes for markup, a policy
lets nothing run but the one script whose hash it names, and no character stays invisible.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from discover.audit.findings import LEVELS
from discover.read.signals import Completion
from discover.report.cards import CARDS, cards
from discover.report.charts import Curve, Dose, atlas_heat, curve, dose
from discover.report.columns import BANKS, listed, page_data
from discover.report.notices import TRIAL_HEADS, notices, summary, trial_rows
from discover.report.page import rendered, told
from discover.report.record import ABOUT_USES, QUESTIONS, Record, Used, acting, read_at
from discover.search.atlas import Atlas
from discover.statistics import Share, share

STATES = ("coherent", "degenerate", "empty", "unchanged")
STYLES = ("page.css", "reading.css")
SCRIPTS = (
    "text.js",
    "rows.js",
    "table.js",
    "kinds.js",
    "plane.js",
    "drawing.js",
    "map.js",
    "decoders.js",
    "vector.js",
    "page.js",
)
"""In the order in which they stand on the page; each uses only what those before it define."""
FIRST = 5
"""Findings, fragments and anomalies named in the overview."""


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
        "summary": summary(record),
        "notices": notices(record),
        "trial_heads": TRIAL_HEADS,
        "trials": trial_rows(record.trials),
        "bank": record.bank,
        "model": record.about["model"]["path"],
        "cards": cards(record, tuple(LEVELS)),
        "others": cards(record, ("steerable",))[:CARDS],
        "first": [one for one in record.findings if one.level][:FIRST],
        "levels": Counter(one.level for one in record.findings),
        "verdicts": Counter(one.verdict for one in record.findings),
        "closest_null": max((one.null for one in record.findings if one.level), key=lambda one: one.count, default=None),
        "denied": _denied(record),
        "null_vectors": sum(one.bank == "null" for one in record.glances),
        "spoken": _spoken(record.completions),
        "curves": _curves(record),
        "acting": acting,
        "read_at": read_at,
        "heat": None if record.charted is None else atlas_heat(record.charted),
        "used": [(one, _doses(one)) for one in record.used],
        "about_uses": ABOUT_USES,
        "questions": QUESTIONS,
        "told": told(record.about),
        "kept": len(listed(record.completions)),
        "data": page_data(record),
    }
    return rendered("page.html.jinja", STYLES, SCRIPTS, shown)


def html_atlas(charted: Atlas, model: str, prompts: Sequence[str]) -> str:
    """Return the page of an atlas alone."""
    return rendered("atlas.html.jinja", ["page.css"], [], {"heat": atlas_heat(charted), "model": model, "prompts": prompts})


def _denied(record: Record) -> int:
    """Return how many modes are no finding only because random vectors reach them as well, if rarely."""
    significance = record.about["config"].get("audit", {}).get("significance", 0.0)
    steerable = [one.adjusted_p for one in record.findings if one.verdict == "steerable"]
    return sum(p is not None and p < significance for p in steerable)


def _curves(record: Record) -> list[tuple[str, Curve]]:
    """Return the objective's curve of every way in which vectors were learned, with its name where there are several."""
    rounds: dict[int, list[dict[str, float]]] = {}
    for entry in record.curve:
        rounds.setdefault(int(entry.get("way", 0)), []).append(entry)
    names = [way.split(":")[0] for way in record.ways] or [""]
    drawn = [(names[number], curve(entries)) for number, entries in rounds.items()]
    return [(f"Vectors {name}" if name else "", one) for name, one in drawn if one is not None]


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
