"""What is told of a comparison of runs, on the page as in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from discover.audit.across import Comparison, Merged, Presence, Recall
from discover.audit.findings import VERDICTS
from discover.report.text import one_line
from discover.statistics import Average, Share, share

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


def placed(comparison: Comparison) -> tuple[tuple[str, ...], list[Place]]:
    """Return the heads and places by which modes are told: cells, or where there is only one, its runs by their seeds."""
    if len(comparison.cells) > 1:
        return comparison.axes, [Place(tuple(map(short, cell.values)), cell.runs) for cell in comparison.cells]
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
    return [(called(heads, place.values), told) for place in places if (told := entry(comparison, mode, place))]


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
        values = list(map(short, cell.values)) if len(comparison.cells) > 1 else []
        kinds = [(f"mean of {len(cell.runs)} runs" if len(cell.runs) > 1 else "one run", single)]
        kinds += [("pooled", pooled)] if len(cell.runs) > 1 else []
        for name, recall in kinds:
            for what, averages in (("findings, fragments and anomalies", recall.claimed), ("coherent", recall.coherent)):
                rows.append([*values, name, what, *(_at(recall, averages, part) for part in QUARTERS)])
    return rows


def likeness_rows(comparison: Comparison) -> list[list[str]]:
    """Return a row per cell: its number, and its likeness to every cell."""
    return [
        [str(number), *("" if value is None else f"{value:.2f}" for value in row)]
        for number, row in enumerate(comparison.likeness, 1)
    ]


def differing(comparison: Comparison) -> str:
    """Return in which options the runs differ, in words."""
    seeds = {run.options["seed"] for run in comparison.runs}
    return f"They differ in {', '.join(comparison.axes) or ('their seed alone' if len(seeds) > 1 else 'no option')}."


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
    return [short(options[axis]) for axis in (*comparison.axes, "seed")]


def called(heads: Sequence[str], values: Sequence[str]) -> str:
    """Return a cell by its values in words."""
    return ", ".join(f"{head}={value}" for head, value in zip(heads, values, strict=True))


def short(value: str) -> str:
    """Return the value of an option on one short line."""
    return one_line(value, SHORT)


def _at(recall: Recall, averages: Sequence[Average], part: int) -> str:
    wanted = recall.vectors[-1] / part
    nearest = min(range(len(averages)), key=lambda place: abs(recall.vectors[place] - wanted))
    return str(averages[nearest])


def _seen(mode: Merged, place: Place) -> list[Presence]:
    return [one for one in mode.seen if one.run in place.runs]
