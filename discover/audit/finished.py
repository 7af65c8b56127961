"""What a comparison takes from finished runs: the options they were made with, and the modes that their banks reach."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discover.audit.findings import load_findings
from discover.errors import UsageError
from discover.folder import left_by, saved_config
from discover.read.modes import load_modes
from discover.read.signals import Completion, load_completions
from discover.read.triage import load_glances
from discover.schema import flat, plain
from discover.storage import read_json

INCIDENTAL = (
    *("name", "tracking.", "contrast.", "report.", "speech.rows", "search.chunk", "prompts.texts", "prompts.file"),
    *("read.decoded", "read.patchscope", "read.label", "audit.used", "audit.doses"),
)
"""Options that change no completion, or that what came of them tells better."""
PROMPTS, CHECKPOINT = "prompts", "checkpoint"
"""Named beside the options: what was asked in the end, and the weights that were read."""


@dataclass(frozen=True)
class Reached:
    """One mode that the bank of a run reaches."""

    medoid: Completion
    """What is most typical of it."""
    verdict: str
    vectors: tuple[int, ...]
    """Rows of the bank that say it, or (of a fragment) break into it."""
    null: int
    """Random vectors that do the same."""
    terms: tuple[str, ...]
    """Words that set it apart from the run's other modes."""


@dataclass(frozen=True)
class Finished:
    """One finished run."""

    name: str
    """Its folder, as it was given."""
    options: dict[str, str]
    """Every option that can change what is found, by its dotted name, as it is written on the command line; null layers as they
    were chosen."""
    vectors: int
    """N."""
    null_vectors: int
    reached: tuple[Reached, ...]
    """Strongest first."""


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders that are named, and those below the other folders that are, each once.

    Raises:
        UsageError: there is no run in one of them.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        below = [path] if (path / "run.json").exists() else sorted(path.rglob("run.json"), key=_natural)
        if not below:
            raise UsageError(f"{path} holds no run (no run.json); give run folders, or folders that hold such.")
        for file in below:
            folder = file if file is path else file.parent
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def finished(folder: Path) -> Finished:
    """Return what is compared of the run in `folder`.

    Raises:
        UsageError: the run is not finished, is no search, or was left by another version of the program.
    """
    config, about = saved_config(folder), read_json(folder / "run.json")
    if "verb" in about:
        raise UsageError(f"{folder} holds what `discover {about['verb']}` made, which has no modes to compare.")
    if about.get("exit") != "done":
        raise UsageError(f"{folder} is not finished; `discover resume {folder}` goes on with it.")
    said = left_by(folder, "completions.jsonl", load_completions)
    modes = left_by(folder, "clusters.json", load_modes)
    found = left_by(folder, "findings.json", load_findings)
    # Not who was heard: where tokens were few, that may be some of them.
    banks = Counter(one.bank for one in left_by(folder, "triage.jsonl", load_glances))
    reached = [Reached(said[modes[one.mode].shown[0]], one.verdict, one.vectors, one.null.count, one.terms) for one in found]
    return Finished(str(folder), _options(plain(config), about), banks["learned"], banks["null"], tuple(reached))


def _options(config: dict[str, Any], about: dict[str, Any]) -> dict[str, str]:
    search = {**config["search"], **dict(zip(("source_layer", "target_layer"), about["layers"], strict=True))}
    given = {name: value for name, value in flat({**config, "search": search}) if not name.startswith(INCIDENTAL)}
    told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    weights = " ".join(f"{file} {digest}" for file, digest in sorted(about["model"]["fingerprints"].items()))
    return {**told, PROMPTS: "\n".join(about["prompts"]), CHECKPOINT: weights}


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """Return a key by which run 2 comes before run 10."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", str(path))]
