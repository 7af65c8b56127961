"""The wandb run beside the run folder; whatever wandb does, the run folder stays complete."""

import logging
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from discover.bank import VectorBank
from discover.choices import TrackingMode
from discover.config import Config, TrackingConfig
from discover.contrast.outcomes import ADDED, UNSTEERED
from discover.report import evidence, tables
from discover.report.contrasted import ContrastRecord
from discover.report.record import Record
from discover.report.text import one_line, visible
from discover.schema import config_from

TABLES: dict[str, Callable[[Record], tables.Table]] = {
    "vectors": tables.vectors,
    "completions": tables.completions,
    "modes": evidence.modes,
    "findings": evidence.findings,
    "hints": tables.hints,
    "decodings": tables.decodings,
    "doses": tables.doses,
    "uses": evidence.uses,
    "known": evidence.known,
}
"""Of a search; the map is another, since it is drawn."""
FOUND, FINISHED = 30.0, 300.0
"""Seconds that a server is waited for, and that it may take for what it is sent; what is left can be sent with `wandb sync`."""


def track(record: Record, folder: Path) -> bool:
    """Log a search to wandb, so that it can be read there: tables, map, curves, spreads, report and bank; return if it worked.

    Nothing that wandb raises reaches the caller: one line on standard error tells it, and the run folder has everything.
    """

    def log(wandb: Any, run: Any) -> None:
        run.define_metric("search/*", step_metric="search/round")
        for entry in record.curve:
            way = f"way {entry['way']}/" if "way" in entry else ""
            reached = {f"search/{way}{name}": entry[name] for name in ("mean", "least", "greatest")}
            run.log({"search/round": entry["round"], **reached})
        shown = _tables(wandb, {name: rows(record) for name, rows in TABLES.items()})
        if record.mapped:
            spots = _tables(wandb, {"map": tables.mapped(record)})["map"]
            shown["map"] = wandb.plot.scatter(spots, "x", "y", title="Vectors by their effect")
        for spread in tables.spreads(record):
            shown.update(_spread(wandb, spread))
        run.log(shown)
        run.summary.update(summary(record))

    return _tracked("discover", record.about, record.bank, {"prompts": list(record.prompts)}, folder, log)


def track_contrast(record: ContrastRecord, folder: Path) -> bool:
    """Log a contrast to wandb: table of outcomes, answers, report and bank, as `track` does a search."""

    def log(wandb: Any, run: Any) -> None:
        run.log(_tables(wandb, {"outcomes": evidence.outcomes(record), "answers": evidence.answers(record)}))
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
    config = config_from(about["config"], Config)
    if config.tracking.mode is TrackingMode.disabled:
        return False
    # Artifacts would be staged in the home directory, and be missing when the folder is moved to be synced.
    os.environ.update(dict.fromkeys(("WANDB_DATA_DIR", "WANDB_CACHE_DIR"), str(folder / "wandb")), WANDB_SILENT="true")
    # Where there is no room left, every line that wandb cannot note in its own logs would be told with a traceback.
    told_before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        import wandb

        try:
            if config.tracking.mode is TrackingMode.online and not wandb.login(prompt=False, verify=False):
                raise RuntimeError("there is no key; `wandb login` keeps one")
            # As a context it would print a traceback of what goes wrong in it.
            run = _opened(wandb, job, about, config.tracking, folder)
            log(wandb, run)
            page = (folder / "report.html").read_text(encoding="utf-8")
            run.log({"report": wandb.Html(page, data_is_not_path=True, inject=False)})
            run.log_artifact(_artifact(wandb, about, bank, told, folder), aliases=_aliases(bank, folder))
            run.finish()
        finally:
            # The next run of this process gets a service of its own, and none is left to fail at the end of the process.
            with suppress(Exception):
                wandb.teardown(exit_code=1)
    except Exception as error:
        sentence = f"wandb failed ({type(error).__name__}: {one_line(str(error), 200)}); the run folder is complete without it."
        logging.warning(sentence)
        print(f"discover: {sentence}", file=sys.stderr)
        return False
    finally:
        logging.raiseExceptions = told_before
    return True


def _opened(wandb: Any, job: str, about: dict[str, Any], options: TrackingConfig, folder: Path) -> Any:
    """Return a new run of wandb."""
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
        settings=wandb.Settings(
            console="off",
            silent=True,
            x_disable_stats=True,
            disable_git=True,
            save_code=False,
            # What wandb notes of the machine holds the command line, and with it the prompts.
            x_disable_meta=bool(about["config"].get("report", {}).get("redact")),
            init_timeout=FOUND,
            finish_timeout=FINISHED,
            finish_timeout_raises=True,
        ),
    )


def _artifact(wandb: Any, about: dict[str, Any], bank: VectorBank, told: dict[str, Any], folder: Path) -> Any:
    """Return the bank as a version of what this model's banks are called."""
    path = visible(about["model"]["path"])
    place = {"source_layer": bank.source_layer, "target_layer": bank.target_layer, "radius": bank.radius}
    artifact = wandb.Artifact(f"bank-{_named(Path(path).name)}", "steering-vectors", metadata={"model": path, **place, **told})
    artifact.add_file(str(folder / "bank.safetensors"))
    return artifact


def _aliases(bank: VectorBank, folder: Path) -> list[str]:
    """Return by what a bank is called up: the newest, the newest of this seed or solver, and this very run."""
    origin = bank.origin
    parts = [f"{name}-{origin[name]}" for name in ("seed", "solver") if name in origin]
    return list(map(_named, ["latest", *parts, f"{folder.parent.name}-{folder.name}"]))


def _named(text: str) -> str:
    """Return a name that wandb takes."""
    return re.sub(r"[^\w.-]+", "-", text)[:100] or "unnamed"


def _tables(wandb: Any, made: dict[str, tables.Table]) -> dict[str, Any]:
    """Return those that have rows as wandb's own."""
    return {
        name: wandb.Table(columns=list(one.columns), data=list(map(list, one.rows)), dtype=list(one.columns.values()))
        for name, one in made.items()
        if one.rows
    }


def _spread(wandb: Any, spread: tables.Spread) -> dict[str, Any]:
    """Return a histogram each of the bank and of its null, and both in one chart."""
    banks = {"learned": spread.learned, "null": spread.null}
    middles = [(low + high) / 2 for low, high in pairwise(spread.edges)]
    both = wandb.plot.line_series([middles] * 2, list(banks.values()), list(banks), title=f"{spread.signal}: bank and null")
    each = {f"{spread.signal}/{bank}": wandb.Histogram(np_histogram=(shares, spread.edges)) for bank, shares in banks.items()}
    return {f"{spread.signal}/both": both, **each}


def summary(record: Record) -> dict[str, float]:
    """Return the handful of numbers that a table of a sweep is sorted by, and that a sweep can aim at."""
    verdicts = [finding.verdict for finding in record.findings]
    reaching = {vector for finding in record.findings if finding.verdict == "finding" for vector in finding.vectors}
    learned = [said for said in record.completions if said.bank == "learned"]
    null = [said for said in record.completions if said.bank == "null"]
    return {
        "summary/findings": verdicts.count("finding"),
        "summary/ordinary": verdicts.count("ordinary"),
        "summary/fragments": verdicts.count("fragment"),
        "summary/anomalies": verdicts.count("anomaly"),
        "summary/steerable": verdicts.count("steerable"),
        "summary/reaching": len(reaching) / len(record.bank),
        "summary/heard": len({said.vector for said in learned}) / len(record.bank),
        "summary/changed": sum(said.state != "unchanged" for said in learned) / max(1, len(learned)),
        "summary/coherent": sum(said.state == "coherent" for said in learned) / max(1, len(learned)),
        **({"summary/null_changed": sum(said.state != "unchanged" for said in null) / len(null)} if null else {}),
        "summary/kl": mean(one.kl for one in record.glances if one.bank == "learned"),
        "summary/null_kl": mean(one.kl for one in record.glances if one.bank == "null"),
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
