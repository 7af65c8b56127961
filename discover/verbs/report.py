"""`discover report`: what its words mean."""

from pathlib import Path

from discover.errors import UsageError
from discover.verbs.words import Words

USAGE = """discover report RUN                           write report.html and report.md of a run anew, from what its stages left
discover report RUN RUN … [--folder PATH]     compare runs: which modes are in which cell, which recur, and how many vectors
discover report FOLDER … [--folder PATH]      it takes to meet them; a folder stands for all runs below it, such as a sweep's

A comparison is comparison.html, comparison.md and comparison.json, in a folder below outputs/comparison/ unless told otherwise.
Neither loads a model.
"""


def report(words: list[str]) -> None:
    """Write the report of one run anew, or compare several.

    Raises:
        UsageError: the words ask for something else, or for what cannot be done.
    """
    parser = Words(prog="discover report", add_help=False)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args(words)
    from discover.report import commands

    if len(asked.runs) > 1 or not (asked.runs[0] / "run.json").exists():
        commands.compare(asked.runs, asked.folder)
    elif asked.folder is None:
        commands.renew(asked.runs[0])
    else:
        raise UsageError("The report of one run stands in its own folder; --folder is for a comparison of several.")
