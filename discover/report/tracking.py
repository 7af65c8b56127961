"""The wandb run beside the run folder; whatever wandb does, the run folder stays complete."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from discover.bank import VectorBank
from discover.choices import TrackingMode
from discover.config import TrackingConfig, config_from
from discover.contrast.outcomes import ADDED, UNSTEERED
from discover.report.contrasted import ContrastRecord
from discover.report.record import QUESTIONS, Record
from discover.report.text import visible
from discover.statistics import Share

COLUMNS = (
    *("bank", "vector", "prompt", "verdict", "mode", "completion", "state", "distance"),
    *("surprise", "steered_surprise", "repetition", "tokens", "objective"),
)
PARTS = ("count", "n", "low", "high")
"""Of a share."""
Rows = list[list[Any]]
"""A table, its heads first."""


def track(record: Record, folder: Path) -> bool:
    """Log config, curve, tables of completions, modes and uses, report and bank of a search to wandb; return whether that worked.

    Nothing that wandb raises reaches the caller: it is noted in the log, and the run folder has everything.
    """

    def log(wandb: Any, run: Any) -> None:
        run.define_metric("search/*", step_metric="search/round")
        for entry in record.curve:
            run.log({f"search/{name}": value for name, value in entry.items()})
        tables = {"completions": _completions(record), "modes": _modes(record), "uses": _uses(record), "known": _known(record)}
        run.log({name: wandb.Table(columns=rows[0], data=rows[1:]) for name, rows in tables.items() if len(rows) > 1})
        run.summary.update(summary(record))

    return _tracked("discover", record.about, record.bank, {"prompts": list(record.prompts)}, folder, log)


def track_contrast(record: ContrastRecord, folder: Path) -> bool:
    """Log config, table of outcomes, answers, report and bank of a contrast to wandb, as `track` does for a search."""

    def log(wandb: Any, run: Any) -> None:
        tables = {"outcomes": _outcomes(record), "answers": _answers(record)}
        run.log({name: wandb.Table(columns=rows[0], data=rows[1:]) for name, rows in tables.items() if len(rows) > 1})
        run.summary.update(contrast_summary(record))

    return _tracked("contrast", record.about, record.found.bank, {"contrast": record.method}, folder, log)


def _tracked(
    job: str,
    about: dict[str, Any],
    bank: VectorBank,
    told: dict[str, Any],
    folder: Path,
    log: Callable[[Any, Any], None],
) -> bool:
    """Log a finished run as a run of wandb, and return whether that worked.

    Args:
        job: kind of run.
        about: run.json.
        bank: what was learned.
        told: what the artifact of the bank says beside its layers and radius.
        folder: the run folder, with bank.safetensors and report.html in it.
        log: given wandb and its run, logs what this kind of run has.
    """
    config = config_from(about["config"])
    if config.tracking.mode is TrackingMode.disabled:
        return False
    # Artifacts would be staged in the home directory, and be missing when the folder is moved to be synced.
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        os.environ[name] = str(folder / "wandb")
    try:
        import wandb

        with _opened(wandb, job, about, config.tracking, folder) as run:
            log(wandb, run)
            page = (folder / "report.html").read_text(encoding="utf-8")
            run.log({"report": wandb.Html(page, data_is_not_path=True, inject=False)})
            layers = {"source_layer": bank.source_layer, "target_layer": bank.target_layer}
            metadata = {"model": about["model"]["path"], **layers, "radius": bank.radius, **told}
            artifact = wandb.Artifact(f"bank-{run.id}", type="steering-vectors", metadata=metadata)
            artifact.add_file(str(folder / "bank.safetensors"))
            run.log_artifact(artifact)
    except Exception as error:
        logging.warning("wandb failed (%s: %s); the run folder is complete without it", type(error).__name__, error)
        return False
    return True


def _opened(wandb: Any, job: str, about: dict[str, Any], options: TrackingConfig, folder: Path) -> Any:
    """Return a new run of wandb, which ends as a context."""
    return wandb.init(
        dir=folder,
        mode=options.mode.value,
        project=options.project,
        tags=options.tags,
        notes=options.notes,
        name=folder.name,
        group=folder.parent.name,
        job_type=job,
        config={**about["config"], "model_identity": about["model"], "versions": about["versions"]},
        reinit="finish_previous",
        settings=wandb.Settings(console="off", silent=True, x_disable_stats=True, disable_git=True, save_code=False),
    )


def summary(record: Record) -> dict[str, float]:
    """Return the handful of numbers that a table of a sweep is sorted by."""
    verdicts = [finding.verdict for finding in record.findings]
    learned = [said for said in record.completions if said.bank == "learned"]
    null = [said for said in record.completions if said.bank == "null"]
    return {
        "summary/findings": verdicts.count("finding"),
        "summary/fragments": verdicts.count("fragment"),
        "summary/changed": sum(said.state != "unchanged" for said in learned) / len(learned),
        "summary/coherent": sum(said.state == "coherent" for said in learned) / len(learned),
        "summary/null_changed": sum(said.state != "unchanged" for said in null) / len(null),
        "summary/radius": record.bank.radius,
        "summary/relative_radius": record.bank.relative_radius,
        "summary/objective": float(record.bank.objective.mean()),
    }


def contrast_summary(record: ContrastRecord) -> dict[str, float]:
    """Return the shares unsteered, ablated and under what was chosen, and what that costs."""
    bank, found = record.found.bank, {}
    for one in record.outcomes:
        if one.what in (UNSTEERED, "ablated", ADDED[1.0]):
            found.update({f"summary/{one.what}/{name}": share.count / share.n for name, share in one.shares.items()})
            if one.damage:
                found.update({f"summary/{one.what}/cost": one.damage.cost, f"summary/{one.what}/kl": one.damage.kl})
    place = {"summary/source_layer": bank.source_layer, "summary/radius": bank.radius}
    return {**place, "summary/relative_radius": bank.relative_radius, **found}


def _completions(record: Record) -> Rows:
    """Return one row per completion: text, mode and signals."""
    rows: Rows = [list(COLUMNS)]
    mode_of = {member: index for index, mode in enumerate(record.modes) for member in mode.members}
    verdict_of = {finding.mode: finding.verdict for finding in record.findings}
    for index, said in enumerate(record.completions):
        mode = mode_of[index]
        objective = float(record.bank.objective[said.vector]) if said.bank == "learned" and said.vector is not None else None
        place = [said.bank, said.vector, visible(record.prompts[said.prompt]), verdict_of.get(mode)]
        text = [visible(record.modes[mode].label), visible(said.text), said.state, said.distance]
        rows.append([*place, *text, said.surprise, said.steered_surprise, said.repetition, said.tokens, objective])
    return rows


def _modes(record: Record) -> Rows:
    """Return one row per finding."""
    rows: Rows = [["verdict", "level", "opens", "vectors", "of", "random", "p", "adjusted_p", "forced", "terms"]]
    for finding in record.findings:
        counts = [finding.bank.count, finding.bank.n, finding.null.count, finding.p, finding.adjusted_p]
        forced = finding.forced.count if finding.forced else None
        rows.append([finding.verdict, finding.level, visible(finding.label), *counts, forced, visible(", ".join(finding.terms))])
    return rows


def _uses(record: Record) -> Rows:
    """Return one row per vector and multiplier, every share as its count, n, and the ends of its interval."""
    shares = [f"{name} {part}" for name in QUESTIONS for part in PARTS]
    return [
        ["finding", "who", "vector", "multiplier", *shares],
        *(
            [
                one.place,
                one.who(row),
                row.vector,
                row.multiplier,
                *(part for name in QUESTIONS for part in _parts(getattr(row, name))),
            ]
            for one in record.used
            for row in one.rows
        ),
    ]


def _known(record: Record) -> Rows:
    """Return one row per known direction and vector."""
    return [
        ["known", "layer", "vector", "effect", "source"],
        *(
            [visible(one.name), one.layer, vector, effect, one.source and one.source[vector]]
            for one in record.likenesses
            for vector, effect in enumerate(one.effect)
        ),
    ]


def _outcomes(record: ContrastRecord) -> Rows:
    """Return one row per intervention, every share as its count, n, and the ends of its interval."""
    shares = [f"{name} {part}" for name in record.questions for part in PARTS]
    odds = [f"log-odds {name}" for name in record.odds]
    return [
        ["intervention", "multiplier", *shares, *odds, "cost", "kl", *(f"agrees {part}" for part in PARTS)],
        *(
            [
                *(one.what, one.multiplier, *(part for name in record.questions for part in _parts(one.shares[name]))),
                *(one.log_odds[name] for name in record.odds),
                *((one.damage.cost, one.damage.kl) if one.damage else (None, None)),
                *_parts(one.agrees),
            ]
            for one in record.outcomes
        ),
    ]


def _answers(record: ContrastRecord) -> Rows:
    """Return one row per open prompt."""
    sides = ("prompt", "unsteered", "steered")
    return [list(sides), *([visible(one[side]) for side in sides] for one in record.said)]


def _parts(share: Share | None) -> list[float | None]:
    return [None] * len(PARTS) if share is None else [getattr(share, part) for part in PARTS]
