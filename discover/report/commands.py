"""What `discover report` does: the report of one run anew, or a comparison of several."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from discover.audit.across import compared
from discover.audit.finished import Finished, finished, run_folders
from discover.errors import UsageError
from discover.folder import left_by, locked, saved_config
from discover.report.across_page import html_comparison
from discover.report.across_text import markdown_comparison, terminal_comparison
from discover.report.contrast_page import html_contrast
from discover.report.html import html_atlas, html_report
from discover.report.markdown import markdown_contrast, markdown_report
from discover.report.redacted import masked, redacted, redacted_comparison, redacted_contrast
from discover.report.saved import saved_contrast, saved_record
from discover.report.terminal import terminal_atlas, terminal_contrast, terminal_report
from discover.search.atlas import load_atlas
from discover.storage import read_json, write_json, write_text

FILES = ("comparison.html", "comparison.md", "comparison.json")


def renew(folder: Path) -> None:
    """Write the report of the run in `folder` anew, from what its stages left.

    Raises:
        UsageError: it is no run, a stage's file is missing, or another process holds it.
    """
    redact = saved_config(folder).report.redact
    with locked(folder):
        about = read_json(folder / "run.json")
        match about.get("verb"):
            case "atlas":
                charted = left_by(folder, "atlas.json", load_atlas)
                prompts = [masked(prompt) for prompt in about["prompts"]] if redact else about["prompts"]
                write_text(folder / "atlas.html", html_atlas(charted, about["model"]["path"], prompts))
                told = terminal_atlas(charted, folder)
            case "contrast":
                outcome = redacted_contrast(saved_contrast(folder)) if redact else saved_contrast(folder)
                write_text(folder / "report.md", markdown_contrast(outcome))
                write_text(folder / "report.html", html_contrast(outcome))
                told = terminal_contrast(outcome, folder)
            case _:
                record = redacted(saved_record(folder)) if redact else saved_record(folder)
                write_text(folder / "report.md", markdown_report(record))
                write_text(folder / "report.html", html_report(record))
                told = terminal_report(record, folder)
    print(told, flush=True)


def compare(paths: Sequence[Path], chosen: Path | None) -> None:
    """Compare the runs named, and all below the folders named.

    Raises:
        UsageError: there are no two finished searches among them, or another comparison stands where this one should.
    """
    runs: list[Finished] = []
    left_out = []
    for path in run_folders(paths):
        try:
            runs.append(finished(path))
        except UsageError as why:
            left_out.append(str(why))
    found = compared(runs, left_out)
    if any(saved_config(Path(run.name)).report.redact for run in runs):
        found = redacted_comparison(found)
    folder = chosen or Path("outputs") / "comparison" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    held = {"schema": 1, "compared": [str(Path(run.name).resolve()) for run in runs], **asdict(found)}
    _check_free(folder, held["compared"])
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", held)
    write_text(folder / "comparison.md", markdown_comparison(found))
    write_text(folder / "comparison.html", html_comparison(found))
    print(terminal_comparison(found, folder), flush=True)


def _check_free(folder: Path, names: Sequence[str]) -> None:
    """Refuse to write over anything but a comparison of the same runs."""
    there = [name for name in FILES if (folder / name).exists()]
    if not there:
        return
    try:
        same = read_json(folder / "comparison.json")["compared"] == names
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise UsageError(f"{folder / there[0]} is there and of something else; choose another place with --folder.")
