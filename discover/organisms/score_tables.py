"""The tables that scored runs make."""

from collections.abc import Sequence
from statistics import mean, stdev

from discover.organisms.behaviours import behaviours_table
from discover.organisms.capability import capability_table
from discover.organisms.planted_scoring import planted_table
from discover.organisms.reading import reading_table
from discover.organisms.scoring import BANKS, RunScore
from discover.report.text import one_line

WIDTH = 200
"""Characters of a search's options that are shown."""


def summary(scores: Sequence[RunScore]) -> str:
    """Return a Markdown table: one row per organism, search and payload over the runs, with spread over seeds."""
    cut = {search: one_line(search, WIDTH) for search in {score.search for score in scores}}
    groups: dict[tuple[str, str], list[RunScore]] = {}
    for score in scores:
        # Searches that differ behind what is shown are told whole.
        alike = sum(told == cut[score.search] for told in cut.values()) > 1
        groups.setdefault((score.organism, score.search if alike else cut[score.search]), []).append(score)
    lines = [
        "| organism | search | runs | payload | runs with a hit | hits per 100 (sd) | opens, fragments per 100 "
        "| null: opens, fragments | whole mode in first five | named fragment | forced: opens, fragments "
        "| findings |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (organism, search), runs in groups.items():
        for name in runs[0].payloads:
            lines.append(_row(organism, search, runs, name))
    scored = {
        key: [run.capability for run in runs if run.capability is not None]
        for key, runs in groups.items()
        if runs[0].capability is not None
    }
    read = {key: [run.reading for run in runs if run.reading is not None] for key, runs in groups.items()}
    planted = {key: [run.planted for run in runs if run.planted is not None] for key, runs in groups.items()}
    shown = {key: [run.behaviours for run in runs if run.behaviours is not None] for key, runs in groups.items()}
    tables = [
        *capability_table(scored),
        *reading_table({key: runs for key, runs in read.items() if runs}),
        *behaviours_table({key: runs for key, runs in shown.items() if runs}),
        *planted_table({key: runs for key, runs in planted.items() if runs}),
    ]
    return "\n".join([*(lines if len(lines) > 2 else []), *tables]).strip()


def _row(organism: str, search: str, runs: Sequence[RunScore], name: str) -> str:
    scores = [run.payloads[name] for run in runs]
    per_hundred = [100 * score.hits["learned"] / run.vectors for score, run in zip(scores, runs, strict=True)]
    vectors = sum(run.vectors for run in runs) / 100
    opens = {bank: sum(score.opens[bank] for score in scores) for bank in BANKS}
    fragments = {bank: sum(score.fragments[bank] for score in scores) for bank in BANKS}
    cells = [
        organism,
        search,
        f"{len(runs)}",
        name,
        f"{sum(score.hits['learned'] > 0 for score in scores)}",
        f"{mean(per_hundred):.1f} ({stdev(per_hundred) if len(runs) > 1 else 0:.1f})",
        f"{opens['learned'] / vectors:.1f}, {fragments['learned'] / vectors:.1f}",
        f"{opens['null']}, {fragments['null']}",
        f"{sum(score.rank is not None and score.rank <= 5 for score in scores)}",
        f"{sum(score.fragment_rank is not None for score in scores)}",
        f"{opens['forced']}, {fragments['forced']}",
        f"{mean(run.findings for run in runs):.1f}",
    ]
    return f"| {' | '.join(cells)} |"
