"""A comparison of runs as Markdown, and as what the command prints."""

from pathlib import Path

from discover.audit.across import Comparison, Merged
from discover.audit.findings import LEVELS
from discover.report.compared import (
    ABOUT_LIKENESS,
    ABOUT_MERGED,
    ABOUT_RECALL,
    COLUMNS,
    NO_CLAIM,
    alike,
    differing,
    entry,
    first_seen,
    likeness_rows,
    of_random,
    placed,
    recall_heads,
    recall_rows,
    run_cells,
    verdicts,
    where,
)
from discover.report.markdown import inline, quoted, table
from discover.report.text import one_line
from discover.statistics import share

SHOWN = 8
"""Modes printed; the page has them all."""
WIDTH = 100
"""Characters of a reply that are printed."""


def markdown_comparison(comparison: Comparison) -> str:
    """Return the comparison as Markdown."""
    numbered = list(enumerate(comparison.modes, 1))
    heads, places = placed(comparison)
    columns = numbered[:COLUMNS]
    cells = [
        [*map(inline, place.values), str(len(place.runs)), *(entry(comparison, mode, place) for _, mode in columns)]
        for place in places
    ]
    return "\n".join(
        [
            f"# {len(comparison.runs)} runs compared",
            "",
            f"{differing(comparison)} {alike(comparison)}".strip(),
            "",
            ABOUT_MERGED,
            "",
            *(f"- Left out: {inline(why)}" for why in comparison.left_out),
            "",
            "## Which modes where",
            "",
            *table([*map(inline, heads), "runs", *(f"mode {number}" for number, _ in columns)], cells),
            "",
            *(line for number, mode in numbered if mode.strongest in LEVELS for line in _section(comparison, number, mode)),
            "## Modes against vectors spent",
            "",
            ABOUT_RECALL,
            "",
            *table(recall_heads(comparison), [list(map(_plain, row)) for row in recall_rows(comparison)]),
            "",
            *_likeness(comparison),
            "## Other modes",
            "",
            *table(
                ["mode", "verdicts", "runs", "vectors", "example"],
                [
                    [str(number), verdicts(mode), str(len(mode.seen)), str(mode.vectors), inline(mode.example)]
                    for number, mode in numbered
                    if mode.strongest not in LEVELS
                ],
            ),
            "",
            "## Runs",
            "",
            *table(
                ["run", *comparison.axes, "seed", "vectors", "random", "folder"],
                [
                    [
                        *(str(index + 1), *map(inline, run_cells(comparison, index))),
                        *(str(run.vectors), str(run.null_vectors), inline(run.name)),
                    ]
                    for index, run in enumerate(comparison.runs)
                ],
            ),
            "",
            "## What this does not mean",
            "",
            *(f"- {line}" for line in NO_CLAIM),
            "",
        ]
    )


def terminal_comparison(comparison: Comparison, folder: Path) -> str:
    """Return the comparison's summary as plain text, free of control characters."""
    claimed = [mode for mode in comparison.modes if mode.strongest in LEVELS]
    again = sum(len(mode.seen) > 1 for mode in claimed)
    lines = [
        "",
        f"{len(comparison.runs)} runs compared. {differing(comparison)} {alike(comparison)}".strip(),
    ]
    lines += [f"left out    {one_line(why, 2 * WIDTH)}" for why in comparison.left_out]
    lines += [
        "",
        f"{len(claimed)} different findings, fragments and anomalies, {again} of them in two runs or more. Steered, the model "
        "says:",
    ]
    for number, mode in enumerate(comparison.modes[:SHOWN], 1):
        vectors = share(mode.vectors, sum(run.vectors for run in comparison.runs))
        seen = f"{len(mode.seen)} of {len(comparison.runs)} runs ({verdicts(mode)}), {vectors} vectors"
        text = mode.label if mode.state == "unchanged" else mode.example
        lines += [f"{number:>2} {mode.strongest:9} {one_line(text, WIDTH)}", f"             {seen}"]
    if len(comparison.modes) > SHOWN:
        lines.append(f"… and {len(comparison.modes) - SHOWN} more modes in the comparison.")
    return "\n".join([*lines, "", f"comparison  {folder / 'comparison.html'}"])


def _section(comparison: Comparison, number: int, mode: Merged) -> list[str]:
    """Return a merged mode that is a finding, fragment or anomaly in some run."""
    vectors = share(mode.vectors, sum(run.vectors for run in comparison.runs))
    return [
        f"### Mode {number}: {verdicts(mode)}",
        "",
        f"In {share(len(mode.seen), len(comparison.runs))} runs, {vectors} vectors, {of_random(comparison, mode)} random ones; "
        f"first seen in {inline(first_seen(comparison, mode))}.",
        "",
        quoted(mode.example),
        "",
        *(f"- {inline(place)}: {told}" for place, told in where(comparison, mode)),
        "",
    ]


def _likeness(comparison: Comparison) -> list[str]:
    if len(comparison.cells) < 2:
        return []
    heads = ["cell", *(str(number) for number in range(1, len(comparison.cells) + 1))]
    return ["## Likeness of cells", "", ABOUT_LIKENESS, "", *table(heads, likeness_rows(comparison)), ""]


def _plain(value: str) -> str:
    return value.replace("|", "¦").replace("`", "ˋ")
