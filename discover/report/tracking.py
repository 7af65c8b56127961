"""The wandb run beside the run folder; whatever wandb does, the run folder stays complete."""

import logging
import os
from pathlib import Path
from typing import Any

from discover.choices import TrackingMode
from discover.config import config_from
from discover.report.record import Record
from discover.report.text import visible

COLUMNS = (
    *("bank", "vector", "prompt", "verdict", "mode", "completion", "state", "distance"),
    *("surprise", "steered_surprise", "repetition", "tokens", "objective"),
)


def track(record: Record, folder: Path) -> bool:
    """Log config, curve, table of completions, report and bank to wandb; return whether that worked.

    Nothing that wandb raises reaches the caller: it is noted in the log, and the run folder has everything.
    """
    config = config_from(record.about["config"])
    if config.tracking.mode is TrackingMode.disabled:
        return False
    # Artifacts would be staged in the home directory, and be missing when the folder is moved to be synced.
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        os.environ[name] = str(folder / "wandb")
    try:
        _log(record, folder, config.tracking.mode.value, config.tracking.project, config.tracking.tags, config.tracking.notes)
    except Exception as error:
        logging.warning("wandb failed (%s: %s); the run folder is complete without it", type(error).__name__, error)
        return False
    return True


def _log(record: Record, folder: Path, mode: Any, project: str, tags: list[str], notes: str | None) -> None:
    import wandb

    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True, disable_git=True, save_code=False)
    with wandb.init(
        dir=folder,
        mode=mode,
        project=project,
        tags=tags,
        notes=notes,
        name=folder.name,
        group=folder.parent.name,
        job_type="discover",
        config={**record.about["config"], "model_identity": record.about["model"], "versions": record.about["versions"]},
        reinit="finish_previous",
        settings=settings,
    ) as run:
        run.define_metric("search/*", step_metric="search/round")
        for entry in record.curve:
            run.log({f"search/{name}": value for name, value in entry.items()})
        run.log({"completions": _table(wandb, record), "modes": _modes(wandb, record)})
        page = wandb.Html((folder / "report.html").read_text(encoding="utf-8"), data_is_not_path=True, inject=False)
        run.log({"report": page})
        run.summary.update(summary(record))
        artifact = wandb.Artifact(
            f"bank-{run.id}",
            type="steering-vectors",
            metadata={
                "model": record.about["model"]["path"],
                "source_layer": record.bank.source_layer,
                "target_layer": record.bank.target_layer,
                "radius": record.bank.radius,
                "prompts": list(record.prompts),
            },
        )
        artifact.add_file(str(folder / "bank.safetensors"))
        run.log_artifact(artifact)


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


def _table(wandb: Any, record: Record) -> Any:
    """Return one row per completion: text, mode and signals."""
    table = wandb.Table(columns=list(COLUMNS))
    mode_of = {member: index for index, mode in enumerate(record.modes) for member in mode.members}
    verdict_of = {finding.mode: finding.verdict for finding in record.findings}
    for index, said in enumerate(record.completions):
        mode = mode_of[index]
        objective = float(record.bank.objective[said.vector]) if said.bank == "learned" and said.vector is not None else None
        table.add_data(
            *(
                said.bank,
                said.vector,
                visible(record.prompts[said.prompt]),
                verdict_of.get(mode),
                visible(record.modes[mode].label),
            ),
            *(visible(said.text), said.state, said.distance),
            *(said.surprise, said.steered_surprise, said.repetition, said.tokens, objective),
        )
    return table


def _modes(wandb: Any, record: Record) -> Any:
    """Return one row per finding."""
    table = wandb.Table(columns=["verdict", "level", "opens", "vectors", "of", "random", "p", "adjusted_p", "forced", "terms"])
    for finding in record.findings:
        table.add_data(
            *(finding.verdict, finding.level, visible(finding.label), finding.bank.count, finding.bank.n, finding.null.count),
            *(finding.p, finding.adjusted_p, finding.forced.count if finding.forced else None, ", ".join(finding.terms)),
        )
    return table
