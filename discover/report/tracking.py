"""The wandb run beside the run folder; whatever wandb does, the run folder stays complete."""

import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from discover.bank import VectorBank
from discover.choices import TrackingMode
from discover.config import Config, TrackingConfig
from discover.contrast.outcomes import ADDED, UNSTEERED
from discover.read.signals import Completion
from discover.read.trials import Trial
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
FLUSHED = 1.0
"""Seconds after which what was logged is on disk."""
FOUND, FINISHED = 30.0, 300.0
"""Seconds that a server is waited for, and that it may take for what it is sent; what is left can be sent with `wandb sync`."""


class Tracker:
    """The wandb run of a run folder: told what each stage gave, so that a run that dies leaves its trace.

    Nothing that wandb raises reaches the caller: one line on standard error tells it, and the run goes on without.
    """

    def __init__(self, job: str, about: dict[str, Any], folder: Path) -> None:
        """Open the run of wandb, if one is asked for and the folder has not been tracked to its end already.

        Args:
            job: kind of run.
            about: run.json, with the model in it.
            folder: the run folder.
        """
        self._about, self._folder = about, folder
        options = config_from(about["config"], Config).tracking
        self._active = options.mode is not TrackingMode.disabled and not about.get("tracked")
        self._wandb: Any = None
        self._run: Any = None
        # Artifacts would be staged in the home directory, and be missing when the folder is moved to be synced.
        places = dict.fromkeys(("WANDB_DATA_DIR", "WANDB_CACHE_DIR"), str(folder / "wandb"))
        if self._active:
            os.environ.update(places, WANDB_SILENT="true")
        self._tried(lambda: self._open(job, options))

    def _open(self, job: str, options: TrackingConfig) -> None:
        import wandb

        self._wandb = wandb
        if options.mode is TrackingMode.online and not wandb.login(prompt=False, verify=False):
            raise RuntimeError("there is no key; `wandb login` keeps one")
        # As a context it would print a traceback of what goes wrong in it.
        self._run = _opened(wandb, job, self._about, options, self._folder)
        self._run.define_metric("search/*", step_metric="search/round")

    def stage(self, name: str, seconds: float) -> None:
        """Log what a stage took."""
        self._tried(lambda: self._run.log({f"seconds/{name}": seconds}))

    def pilot(self, trials: Sequence[Trial]) -> None:
        """Log what each arm is worth, the radius it can bear, and how many vectors it is given."""
        found = {
            f"pilot/{one.name}/{name}": value
            for one in trials
            for name, value in (("worth", one.worth), ("radius", one.kept_radius), ("vectors", one.vectors))
        }
        self._tried(lambda: self._run.log(found))

    def curve(self, curve: Sequence[dict[str, float]]) -> None:
        """Log the objective round by round."""

        def log() -> None:
            for entry in curve:
                way = f"way {entry['way']}/" if "way" in entry else ""
                reached = {f"search/{way}{name}": entry[name] for name in ("mean", "least", "greatest")}
                self._run.log({"search/round": entry["round"], **reached})

        self._tried(log)

    def said(self, completions: Sequence[Completion]) -> None:
        """Log how many replies of each bank are in each state."""
        counts = Counter(f"speech/{one.bank}/{one.state}" for one in completions)
        self._tried(lambda: self._run.log(dict(counts)))

    def found(self, record: Record) -> bool:
        """Log a finished search, so that it can be read there: tables, map, spreads, report, bank; return if all went well."""

        def log() -> None:
            shown = _tables(self._wandb, {name: rows(record) for name, rows in TABLES.items()})
            if record.mapped:
                spots = _tables(self._wandb, {"map": tables.mapped(record)})["map"]
                shown["map"] = self._wandb.plot.scatter(spots, "x", "y", title="Vectors by their effect")
            for spread in tables.spreads(record):
                shown.update(_spread(self._wandb, spread))
            self._run.log(shown)
            self._run.summary.update(summary(record))
            self._end(record.bank, {"prompts": list(record.prompts)})

        return self._tried(log)

    def contrasted(self, record: ContrastRecord) -> bool:
        """Log a finished contrast: table of outcomes, answers, report and bank; return if all was logged."""

        def log() -> None:
            self._run.log(_tables(self._wandb, {"outcomes": evidence.outcomes(record), "answers": evidence.answers(record)}))
            self._run.summary.update(contrast_summary(record))
            self._end(record.found.bank, {"contrast": record.method})

        return self._tried(log)

    def _end(self, bank: VectorBank, told: dict[str, Any]) -> None:
        page = (self._folder / "report.html").read_text(encoding="utf-8")
        self._run.log({"report": self._wandb.Html(page, data_is_not_path=True, inject=False)})
        artifact = _artifact(self._wandb, self._about, bank, told, self._folder)
        self._run.log_artifact(artifact, aliases=_aliases(bank, self._folder))
        self._run.finish()
        self._run = None

    def close(self) -> None:
        """Leave wandb; a run that was not finished is marked as failed."""
        if self._wandb is not None:
            if self._run is not None:
                self._tried(lambda: self._run.finish(exit_code=1))
            # The next run of this process gets a service of its own, and none is left to fail at the end of the process.
            with suppress(Exception):
                self._wandb.teardown(exit_code=1)

    def _tried(self, work: Callable[[], None]) -> bool:
        """Do something with wandb, and return whether that went well; after a failure it is left alone."""
        if not self._active:
            return False
        # Where there is no room left, every line that wandb cannot note in its own logs would be told with a traceback.
        before, logging.raiseExceptions = logging.raiseExceptions, False
        try:
            work()
        except Exception as error:
            self._active = False
            sentence = (
                f"wandb failed ({type(error).__name__}: {one_line(str(error), 200)}); the run folder is complete without it."
            )
            logging.warning(sentence)
            print(f"discover: {sentence}", file=sys.stderr)
        finally:
            logging.raiseExceptions = before
        return self._active


@contextmanager
def tracked(job: str, about: dict[str, Any], folder: Path) -> Iterator[Tracker]:
    """Follow a run with wandb; arguments as for `Tracker`."""
    tracker = Tracker(job, about, folder)
    try:
        yield tracker
    finally:
        tracker.close()


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
            # What is not on disk yet is lost where the run is killed.
            x_transaction_log_flush_interval=FLUSHED,
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
