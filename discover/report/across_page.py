"""The page of a comparison of runs: which behaviours recur where, and how many vectors it takes to meet them."""

from collections.abc import Sequence
from dataclasses import dataclass

from discover.audit.across import Comparison, Recall
from discover.audit.findings import LEVELS
from discover.report.charts import Cell, Curve, Heat, heat
from discover.report.compared import (
    ABOUT_LIKENESS,
    ABOUT_MERGED,
    ABOUT_RECALL,
    COLUMNS,
    NO_CLAIM,
    alike,
    called,
    differing,
    entry,
    first_seen,
    likeness_rows,
    of_random,
    placed,
    recall_heads,
    recall_rows,
    run_cells,
    short,
    verdicts,
    where,
)
from discover.report.page import rendered
from discover.statistics import Average, share

MAPPED = 40
"""Modes on the map of modes and runs."""


@dataclass(frozen=True)
class Drawn:
    """A recall curve and what it is called."""

    name: str
    curve: Curve
    told: str
    """Its end, in words."""


def html_comparison(comparison: Comparison) -> str:
    """Return the page; equal comparisons give equal pages, and every page can be encoded as UTF-8."""
    heads, places = placed(comparison)
    numbered = list(enumerate(comparison.modes, 1))
    shown = {
        "comparison": comparison,
        "heads": heads,
        "places": places,
        "claimed": [(number, mode) for number, mode in numbered if mode.strongest in LEVELS],
        "others": [(number, mode) for number, mode in numbered if mode.strongest not in LEVELS],
        "differing": differing(comparison),
        "figures_shown": _figures(comparison),
        "columns": numbered[:COLUMNS],
        "entry": lambda mode, place: entry(comparison, mode, place),
        "where": lambda mode: where(comparison, mode),
        "verdicts": verdicts,
        "in_runs": lambda mode: share(len(mode.seen), len(comparison.runs)),
        "of_vectors": lambda mode: share(mode.vectors, sum(run.vectors for run in comparison.runs)),
        "of_random": lambda mode: of_random(comparison, mode),
        "first": lambda mode: first_seen(comparison, mode),
        "map": _map(comparison),
        "curves": [*_curves(comparison, "claimed"), *_curves(comparison, "coherent")],
        "recall": (recall_heads(comparison), recall_rows(comparison)),
        "likeness": _likeness(comparison) if len(comparison.cells) > 1 else None,
        "likenesses": likeness_rows(comparison),
        "alike": alike(comparison),
        "runs": [(number, run, run_cells(comparison, number - 1)) for number, run in enumerate(comparison.runs, 1)],
        "about": {"merged": ABOUT_MERGED, "recall": ABOUT_RECALL, "likeness": ABOUT_LIKENESS},
        "no_claim": NO_CLAIM,
    }
    return rendered("across.html.jinja", ["page.css"], [], shown)


def _figures(comparison: Comparison) -> list[dict[str, object]]:
    claimed = [mode for mode in comparison.modes if mode.strongest in LEVELS]
    again = sum(len(mode.seen) > 1 for mode in claimed)
    vectors = sum(run.vectors for run in comparison.runs)
    return [
        {"value": len(comparison.runs), "name": "runs", "about": f"in {_cells(comparison)}"},
        {"value": len(claimed), "name": "findings, fragments and anomalies", "about": "different ones, over all runs"},
        {"value": again, "name": "of them recur", "about": "in two runs or more"},
        {"value": vectors, "name": "vectors", "about": "learned in all"},
    ]


def _map(comparison: Comparison) -> Heat:
    shown = [mode for mode in comparison.modes if mode.state != "unchanged"][:MAPPED]
    order = [run for cell in comparison.cells for run in cell.runs]
    cells = []
    for row, mode in enumerate(shown):
        for one in mode.seen:
            run = comparison.runs[one.run]
            told = f"mode {comparison.modes.index(mode) + 1}, run {one.run + 1} ({run.name}): "
            told += f"{share(len(one.vectors), run.vectors)} vectors, {one.verdict}"
            mark = {"finding": "best", "fragment": "kept", "anomaly": "kept"}.get(one.verdict, "")
            cells.append(Cell(row, order.index(one.run), len(one.vectors) / run.vectors, told, mark))
    caption = (
        "Rows: modes, by their numbers below. Columns: runs, by their numbers, cell by cell. The fuller the colour, the larger "
        "the share of the run's vectors that reach the mode. Full outline: a finding there. Dashed: a fragment or anomaly. "
        "Empty: not seen."
    )
    rows = [str(comparison.modes.index(mode) + 1) for mode in shown]
    return heat("Modes and the runs that reach them", rows, [str(run + 1) for run in order], cells, 1, caption)


def _likeness(comparison: Comparison) -> Heat:
    names = [called(comparison.axes, tuple(map(short, cell.values))) for cell in comparison.cells]
    cells = [
        Cell(row, column, value, f"{names[row]} and {names[column]}: {value:.2f}", "kept" if row == column else "")
        for row, values in enumerate(comparison.likeness)
        for column, value in enumerate(values)
        if value is not None
    ]
    numbers = [str(number) for number in range(1, len(names) + 1)]
    caption = "Rows and columns: cells, in the order of the table above. Dashed: runs of one cell, which differ in their seed."
    return heat("Likeness of cells", numbers, numbers, cells, 1, caption)


def _curves(comparison: Comparison, kind: str) -> list[Drawn]:
    """Return a curve per cell and one more of its runs pooled, all to one height."""
    names = [called(comparison.axes, tuple(map(short, cell.values))) for cell in comparison.cells]
    what = {"claimed": "findings, fragments and anomalies", "coherent": "coherent modes"}[kind]
    pairs = list(zip(names, comparison.recall, strict=True))
    pairs += [
        (f"{name}, pooled".lstrip(", "), one)
        for name, one, cell in zip(names, comparison.union, comparison.cells, strict=True)
        if len(cell.runs) > 1
    ]
    top = max(_ends(one)[1] for _, recall in pairs for one in getattr(recall, kind)) or 1.0
    return [
        Drawn(f"{what}{', ' if name else ''}{name}", _curve(recall, getattr(recall, kind), top), str(getattr(recall, kind)[-1]))
        for name, recall in pairs
    ]


def _curve(recall: Recall, averages: Sequence[Average], top: float) -> Curve:
    def points(values: Sequence[float]) -> list[str]:
        return [f"{100 * n / recall.vectors[-1]:.2f},{100 - 100 * value / top:.2f}" for n, value in zip(recall.vectors, values)]

    low, high = zip(*map(_ends, averages), strict=True)
    band = " ".join([*points(high), *reversed(points(low))])
    return Curve(" ".join(points([one.mean for one in averages])), band, 0.0, top, 0, recall.vectors[-1])


def _ends(one: Average) -> tuple[float, float]:
    """Return the interval of a count, which is never below 0."""
    return max(0.0, one.mean - (one.half or 0.0)), one.mean + (one.half or 0.0)


def _cells(comparison: Comparison) -> str:
    return "1 cell" if len(comparison.cells) == 1 else f"{len(comparison.cells)} cells"
