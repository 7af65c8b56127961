"""What a finished run shows, read from what its stages left; no model is loaded."""

from pathlib import Path

from discover.audit.findings import load_findings
from discover.audit.known import load_likenesses
from discover.audit.uses import load_uses
from discover.contrast.study import load_learned
from discover.contrast.trial import load_outcomes
from discover.folder import left_by, saved_config
from discover.read.decoders import load_decodings
from discover.read.effects import load_map
from discover.read.hints import load_hints
from discover.read.modes import load_modes
from discover.read.signals import load_completions
from discover.read.triage import load_glances
from discover.read.trials import load_trials
from discover.report.contrasted import ContrastRecord
from discover.report.record import Record
from discover.search.atlas import load_atlas
from discover.search.learning import load_search
from discover.storage import read_json


def saved_record(folder: Path) -> Record:
    """Return the record of the search in `folder`.

    Raises:
        UsageError: it holds no run, or a stage's file is missing or of another version; the sentence names it.
    """
    saved_config(folder)
    about = read_json(folder / "run.json")
    search = left_by(folder, "bank.safetensors", load_search)
    return Record(
        about=about,
        prompts=tuple(about["prompts"]),
        bank=search.bank,
        curve=search.curve,
        completions=left_by(folder, "completions.jsonl", load_completions),
        modes=left_by(folder, "clusters.json", load_modes),
        findings=left_by(folder, "findings.json", load_findings),
        charted=left_by(folder, "atlas.json", load_atlas) if (folder / "atlas.json").exists() else None,
        uses=left_by(folder, "uses.json", load_uses),
        likenesses=left_by(folder, "known.json", load_likenesses),
        glances=left_by(folder, "triage.jsonl", load_glances),
        mapped=left_by(folder, "map.json", load_map),
        decodings=left_by(folder, "decodings.jsonl", load_decodings),
        hints=left_by(folder, "hints.json", load_hints),
        trials=left_by(folder, "pilot.json", load_trials),
    )


def saved_contrast(folder: Path) -> ContrastRecord:
    """Return the record of the contrast in `folder`.

    Raises:
        UsageError: a stage's file is missing or of another version; the sentence names it.
    """
    about = read_json(folder / "run.json")
    found = left_by(folder, "bank.safetensors", load_learned)
    return ContrastRecord(about, found, left_by(folder, "outcomes.json", load_outcomes), left_by(folder, "open.json", read_json))
