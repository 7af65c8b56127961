"""The verbs of `discover bench`: a folder of rows, each computed once, and the tables over them."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from discover.bench import tables
from discover.bench.generate import GenerateRow, generate_row, settings
from discover.bench.machine import machine
from discover.bench.memory import MemoryRow, memory_row_apart
from discover.bench.methods import Method, chosen, curves
from discover.bench.options import BenchConfig, Part
from discover.bench.plot import plot_budgets
from discover.bench.search import SearchRow, given, search_row
from discover.bench.speed import SpeedRow, sizes, speed_row
from discover.bench.stages import StageRow, stage_rows
from discover.bench.triage import SEARCHES, TriageRow, triage_given, triage_row
from discover.errors import UsageError
from discover.folder import locked, nothing_left_of_a_mistake
from discover.model.loading import load
from discover.organisms.commands import named
from discover.report.progress import bar
from discover.schema import plain
from discover.storage import read_json, write_json, write_text

Row = TypeVar("Row", SearchRow, SpeedRow, MemoryRow, TriageRow, GenerateRow)


def bench(options: BenchConfig) -> None:
    """Answer the questions that `options` name and leave every row, the tables and the picture in its folder.

    Raises:
        UsageError: something asked for cannot be done, or the folder holds rows of another bench.
    """
    folder = Path(options.folder)
    asked = chosen(options.methods, options.vectors, options.steps) if Part.methods in options.parts else []
    others = curves(options.methods, options.vectors) if Part.budgets in options.parts else []
    if options.parts != [Part.run]:
        named(options.model.path)
    about = {"command": sys.argv[1:], "options": plain_options(options), "machine": machine()}
    with nothing_left_of_a_mistake(folder), locked(folder):
        (folder / "rows").mkdir(exist_ok=True)
        compared, tried = _searches(options, asked, "methods"), _searches(options, others, "budgets")
        timed = _speeds(options) if Part.speed in options.parts else []
        held = _memories(options) if Part.memory in options.parts else []
        spared = _triages(options) if Part.triage in options.parts else []
        spoke = _speaking(options) if Part.generate in options.parts else []
        staged = _stages(options) if Part.run in options.parts else []
        found: dict[str, Sequence[SearchRow | SpeedRow | MemoryRow | TriageRow | GenerateRow | StageRow]] = {
            "methods": compared,
            "budgets": tried,
            "speed": timed,
            "memory": held,
            "triage": spared,
            "generate": spoke,
            "run": staged,
        }
        write_json(folder / "bench.json", {**about, **{name: [asdict(row) for row in rows] for name, rows in found.items()}})
        text = _markdown(about, compared, tried, timed, held, spared, spoke, staged)
        write_text(folder / "bench.md", text)
        if tried:
            plot_budgets(tried, folder / "budgets.png")
    print(text)
    print(f"bench       {folder / 'bench.md'}")


def plain_options(options: BenchConfig) -> dict[str, Any]:
    """Return the options as plain dictionaries, lists and words."""
    return {**plain(options), "parts": [part.value for part in options.parts]}


def _searches(options: BenchConfig, methods: Sequence[Method], told: str) -> list[SearchRow]:
    if not methods:
        return []
    organism = named(options.model.path)
    loaded = load(options.model, organism.folder)
    found: list[list[SearchRow]] = [[] for _ in methods]
    # Seed by seed, so that a bench that is cut short has compared all methods on the seeds that it has come to.
    with bar(told, options.seeds * len(methods)) as progress:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for place, method in enumerate(methods):
                name = f"{method.name}-{method.passes:g}-{options.vectors}-{seed}.json"
                compute = partial(search_row, method, seed, options.model, loaded, organism)
                fits = partial(_was_given, given(method, seed, loaded))
                found[place].append(_kept(_rows(options) / name, SearchRow, compute, fits))
                progress.update()
    return [row for rows in found for row in rows]


def _speeds(options: BenchConfig) -> list[SpeedRow]:
    device = "cuda" if torch.cuda.is_available() and options.model.device.value != "cpu" else "cpu"
    return [
        _kept(
            _rows(options) / f"speed-{size.told(options.model).replace(' ', '_')}-{size.vectors}.json",
            SpeedRow,
            partial(speed_row, size, options.model, options.repeats),
            lambda row: row.repeats == options.repeats,
        )
        for size in sizes(options.quick, device)
    ]


def _memories(options: BenchConfig) -> list[MemoryRow]:
    path = _rows(options) / f"memory-{options.memory_vectors}.json"
    return [_kept(path, MemoryRow, partial(memory_row_apart, options), lambda row: row.model == options.model.path)]


def _triages(options: BenchConfig) -> list[TriageRow]:
    organism = named(options.model.path)
    loaded = load(options.model, organism.folder)
    found: list[list[TriageRow]] = [[] for _ in SEARCHES]
    with bar("triage", options.seeds * len(SEARCHES)) as progress:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for place, search in enumerate(SEARCHES):
                name = f"triage-{search.replace(' ', '_')}-{options.vectors}-{seed}.json"
                compute = partial(triage_row, search, seed, options.vectors, options.model, loaded, organism)
                fits = partial(_was_given, triage_given(search, seed, options.vectors, loaded))
                found[place].append(_kept(_rows(options) / name, TriageRow, compute, fits))
                progress.update()
    return [row for rows in found for row in rows]


def _speaking(options: BenchConfig) -> list[GenerateRow]:
    vectors, rows = options.speaking_vectors, []
    for size, stops in settings():
        name = f"generate-{size.told(options.model).replace(' ', '_')}-{'stops' if stops else 'endless'}-{vectors}.json"
        compute = partial(generate_row, size, stops, options.model, vectors, options.repeats)
        rows.append(_kept(_rows(options) / name, GenerateRow, compute, lambda row: len(row.rates) == options.repeats))
    return rows


def _stages(options: BenchConfig) -> list[StageRow]:
    rows = stage_rows(options.model, options.speaking_vectors, options.repeats)
    for row in rows:
        write_json(_rows(options) / f"run-{row.model.replace(' ', '_')}-{row.stage}-{options.speaking_vectors}.json", asdict(row))
    return rows


def _was_given(wanted: dict[str, Any], row: SearchRow | TriageRow) -> bool:
    return row.given == wanted


def _rows(options: BenchConfig) -> Path:
    return Path(options.folder) / "rows"


def _kept(path: Path, kind: type[Row], compute: Callable[[], Row], fits: Callable[[Row], bool]) -> Row:
    """Return the row that stands at `path`, or compute it and write it whole.

    Raises:
        UsageError: the row there is not what is asked for.
    """
    if path.exists():
        row = kind(**read_json(path))
        if not fits(row):
            raise UsageError(f"{path} was computed with other options or weights; choose another folder=PATH.")
        return row
    row = compute()
    write_json(path, asdict(row))
    return row


def _markdown(
    about: dict[str, Any],
    compared: Sequence[SearchRow],
    tried: Sequence[SearchRow],
    timed: Sequence[SpeedRow],
    held: Sequence[MemoryRow],
    spared: Sequence[TriageRow],
    spoke: Sequence[GenerateRow],
    staged: Sequence[StageRow],
) -> str:
    """Return every table, with what it ran on."""
    on = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in about["machine"].items() if value is not None)
    lines = ["# Bench", "", f"    discover {' '.join(about['command'])}", "", f"Machine: {on}.", ""]
    if compared:
        lines += ["## Methods at one budget", "", tables.search_table(compared), ""]
    if tried:
        lines += ["## Budgets", "", tables.search_table(tried), "", "![hits against budget](budgets.png)", ""]
    if compared or tried:
        lines += [tables.METHODS, ""]
        lines += [told, ""] if (told := tables.differences(compared)) else []
    if timed:
        lines += ["## Speed", "", tables.speed_table(timed), "", tables.SPEED, ""]
    if held:
        lines += ["## Memory", "", tables.memory_table(held), "", "A search alone, in a process of its own.", ""]
    if spared:
        lines += ["## Triage", "", tables.triage_table(spared), "", tables.TRIAGE, ""]
    if spoke:
        lines += ["## Generation", "", tables.generate_table(spoke), "", tables.GENERATE, ""]
    if staged:
        lines += ["## Stages of a run", "", tables.stage_table(staged), "", tables.STAGES, ""]
    return "\n".join(lines)
