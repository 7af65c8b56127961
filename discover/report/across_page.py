"""The page of a comparison of runs: which behaviours recur where, and how many vectors it takes to meet them."""

from collections.abc import Sequence
from dataclasses import dataclass

from discover.audit.across import Comparison, Merged, Presence, Recall
from discover.audit.findings import LEVELS, VERDICTS
from discover.report.charts import Cell, Curve, Heat, heat
from discover.report.page import rendered
from discover.report.text import one_line
from discover.statistics import Average, Share, share

MAPPED = 40
"""Modes on the map of modes and runs."""
COLUMNS = 8
"""Modes that have a column in the table of places."""
SHORT = 40
"""Characters of an option's value."""
QUARTERS = (8, 4, 2, 1)
"""Recall is told at these parts of a bank."""
ABOUT_MERGED = (
    "The same behaviour in two runs is one mode here: modes whose medoids have much the same words, numbers left out; what one "
    "run holds apart stays apart. A mode is in a run if a vector of its bank says it, or (of a fragment) breaks into it."
)
ABOUT_RECALL = (
    "How many different modes the first n vectors of a bank reach, on average over all orders of its vectors, in closed form. "
    "Between runs of one cell: mean and 95 % interval by Student's t. Pooled: the vectors of all runs of a cell as one bank."
)
ABOUT_LIKENESS = (
    "Of what the vectors of two runs say coherently, the share that they have in common: the smaller over the larger share of "
    "vectors, summed over the modes; mean over pairs of runs, one of either cell."
)
NO_CLAIM = (
    "A mode that is missing in a run was not reached by that many vectors; it may still be in the model.",
    "The verdicts are those of each run by itself, against its own random vectors; nothing is tested anew over the runs.",
    "Runs that were asked different prompts, or on different models, differ for that as well as for their options.",
)


@dataclass(frozen=True)
class Place:
    """Where modes are looked for: a cell, or where there is only one, a run of it."""

    values: tuple[str, ...]
    """One per head."""
    runs: tuple[int, ...]


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


def placed(comparison: Comparison) -> tuple[tuple[str, ...], list[Place]]:
    """Return the heads and places by which modes are told: cells, or where there is only one, its runs by their seeds."""
    if len(comparison.cells) > 1:
        return comparison.axes, [Place(tuple(map(_short, cell.values)), cell.runs) for cell in comparison.cells]
    seeds = [run.options["seed"] for run in comparison.runs]
    apart = len(set(seeds)) == len(seeds)
    values = seeds if apart else [str(number) for number in range(1, len(seeds) + 1)]
    return ("seed" if apart else "run",), [Place((value,), (index,)) for index, value in enumerate(values)]


def entry(comparison: Comparison, mode: Merged, place: Place) -> str:
    """Return in how many runs of a place a mode was seen, and with how many of their vectors; nothing where it was not."""
    seen = _seen(mode, place)
    if not seen:
        return ""
    vectors = sum(len(one.vectors) for one in seen)
    of = sum(comparison.runs[run].vectors for run in place.runs)
    return f"{vectors}/{of}" if len(place.runs) == 1 else f"{vectors}/{of} in {len(seen)} of {len(place.runs)}"


def where(comparison: Comparison, mode: Merged) -> list[tuple[str, str]]:
    """Return every place in which a mode was seen, in words, with how often."""
    heads, places = placed(comparison)
    return [(_called(heads, place.values), told) for place in places if (told := entry(comparison, mode, place))]


def verdicts(mode: Merged) -> str:
    """Return in how many runs a mode has which verdict, for example `finding in 3, fragment in 1`."""
    return ", ".join(f"{verdict} in {mode.verdicts[verdict]}" for verdict in VERDICTS if mode.verdicts[verdict])


def of_random(comparison: Comparison, mode: Merged) -> Share:
    """Return how many random vectors do what a mode is, in the runs in which it was seen."""
    return share(sum(one.null for one in mode.seen), sum(comparison.runs[one.run].null_vectors for one in mode.seen))


def first_seen(comparison: Comparison, mode: Merged) -> str:
    """Return the first run, and the first vector of it, that reaches a mode."""
    one = mode.seen[0]
    return f"run {one.run + 1} ({comparison.runs[one.run].name}), vector {min(one.vectors)}"


def recall_heads(comparison: Comparison) -> list[str]:
    """Return the heads of the table of recall."""
    heads = [*(comparison.axes if len(comparison.cells) > 1 else ()), "", "modes"]
    return [*heads, *(f"1/{part} of the vectors" if part > 1 else "all vectors" for part in QUARTERS)]


def recall_rows(comparison: Comparison) -> list[list[str]]:
    """Return a row per cell, kind of bank and kind of mode."""
    rows = []
    for cell, single, pooled in zip(comparison.cells, comparison.recall, comparison.union, strict=True):
        values = list(map(_short, cell.values)) if len(comparison.cells) > 1 else []
        kinds = [(f"mean of {len(cell.runs)} runs" if len(cell.runs) > 1 else "one run", single)]
        kinds += [("pooled", pooled)] if len(cell.runs) > 1 else []
        for name, recall in kinds:
            for what, averages in (("findings and fragments", recall.claimed), ("coherent", recall.coherent)):
                rows.append([*values, name, what, *(_at(recall, averages, part) for part in QUARTERS)])
    return rows


def likeness_rows(comparison: Comparison) -> list[list[str]]:
    """Return a row per cell: its number, and its likeness to every cell."""
    return [
        [str(number), *("" if value is None else f"{value:.2f}" for value in row)]
        for number, row in enumerate(comparison.likeness, 1)
    ]


def alike(comparison: Comparison) -> str:
    """Return how much runs that differ in their seed alone have in common, in words; nothing where there are none."""
    within = [value for index, row in enumerate(comparison.likeness) if (value := row[index]) is not None]
    if not within:
        return ""
    least, most = min(within), max(within)
    told = f"{least:.2f}" if len(within) == 1 else f"{least:.2f} to {most:.2f}, by cell"
    return f"Runs that differ in their seed alone have a likeness of {told}."


def run_cells(comparison: Comparison, index: int) -> list[str]:
    """Return what sets a run apart: its value on every axis, and its seed."""
    options = comparison.runs[index].options
    return [_short(options[axis]) for axis in (*comparison.axes, "seed")]


def _figures(comparison: Comparison) -> list[dict[str, object]]:
    claimed = [mode for mode in comparison.modes if mode.strongest in LEVELS]
    again = sum(len(mode.seen) > 1 for mode in claimed)
    vectors = sum(run.vectors for run in comparison.runs)
    cells = len(comparison.cells)
    return [
        {"value": len(comparison.runs), "name": "runs", "about": f"in {cells} cell{'' if cells == 1 else 's'}"},
        {"value": len(claimed), "name": "findings and fragments", "about": "different ones, over all runs"},
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
            mark = {"finding": "best", "fragment": "kept"}.get(one.verdict, "")
            cells.append(Cell(row, order.index(one.run), len(one.vectors) / run.vectors, told, mark))
    caption = (
        "Rows: modes, by their numbers below. Columns: runs, by their numbers, cell by cell. The fuller the colour, the larger "
        "the share of the run's vectors that reach the mode. Full outline: a finding there. Dashed: a fragment. Empty: not seen."
    )
    rows = [str(comparison.modes.index(mode) + 1) for mode in shown]
    return heat("Modes and the runs that reach them", rows, [str(run + 1) for run in order], cells, 1, caption)


def _likeness(comparison: Comparison) -> Heat:
    names = [_called(comparison.axes, tuple(map(_short, cell.values))) for cell in comparison.cells]
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
    names = [_called(comparison.axes, tuple(map(_short, cell.values))) for cell in comparison.cells]
    what = {"claimed": "findings and fragments", "coherent": "coherent modes"}[kind]
    pairs = [(name, recall) for name, recall in zip(names, comparison.recall, strict=True)]
    several = [len(cell.runs) > 1 for cell in comparison.cells]
    pairs += [(f"{name}, pooled".lstrip(", "), one) for name, one, more in zip(names, comparison.union, several) if more]
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


def _at(recall: Recall, averages: Sequence[Average], part: int) -> str:
    wanted = recall.vectors[-1] / part
    nearest = min(range(len(averages)), key=lambda place: abs(recall.vectors[place] - wanted))
    return str(averages[nearest])


def _seen(mode: Merged, place: Place) -> list[Presence]:
    return [one for one in mode.seen if one.run in place.runs]


def _called(heads: Sequence[str], values: Sequence[str]) -> str:
    return ", ".join(f"{head}={value}" for head, value in zip(heads, values, strict=True))


def _short(value: str) -> str:
    return one_line(value, SHORT)
