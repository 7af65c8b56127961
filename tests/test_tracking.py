"""A real offline wandb run reads back; a broken wandb costs a run nothing."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_html import HOSTILE, completion, used_record

from discover.bank import VectorBank
from discover.cli import main
from discover.config import Config, SearchConfig
from discover.errors import UsageError
from discover.read.decoders import Decoding
from discover.read.effects import EffectMap, Spot
from discover.read.hints import Branch, Hint
from discover.read.triage import Boost, Glance
from discover.report import evidence, tables, tracking
from discover.report.html import html_report
from discover.report.record import Record
from discover.report.text import INVISIBLE
from discover.schema import plain

SMALL = (
    *("search.vectors=3", "search.rounds=2", "search.relative_radius=1", "speech.tokens=4", "audit.forced_tokens=2"),
    *("prompts.neutral=0", "audit.samples=4"),
)
STAGES = {
    "bank.safetensors",
    "null.safetensors",
    "completions.jsonl",
    "clusters.json",
    "findings.json",
    "report.html",
    "report.md",
}


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def words(checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["discover"])
    return [f"model.path={checkpoint('llama')}", 'prompts.texts=["Count the boats."]', *SMALL]


def inspected(folder: Path, *flags: str) -> str:
    """Return what wandb's own inspector says of the offline run below `folder`."""
    (run,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", str(run), *flags, "--json"]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return told.stdout


def full_record() -> Record:
    """With everything that a run can hold, both signs, and hostile text wherever a model can put it."""
    bare = used_record()
    spoken = [
        completion(HOSTILE[vector], vector=vector, surprise=float("nan") if vector == 3 else None, script=None, meaning=None)
        for vector in range(8)
    ]
    said = [*bare.completions[:1], *spoken, *bare.completions[6:]]
    glances = [
        Glance(
            bank, vector, 0.5 * vector, 1.0, 1.0, 0.5, 2.0, None, None, (Boost(HOSTILE[4], 7, 0, 0.25),), ((0.5, 0.1), (1.0, 0.4))
        )
        for bank in ("learned", "null")
        for vector in range(8)
    ]
    mapped = EffectMap(tuple(Spot(one.bank, one.vector, 0.5, 0.25, None) for one in glances), 0.5, None)
    hints = [
        Hint("learned", 2, 1, (Branch(HOSTILE[3], HOSTILE[5], 0.9, None),), 0.5, HOSTILE[6]),
        Hint("forced", 0, None, (), None, None),
    ]
    decodings = [Decoding("learned", 2, 0, ((3, (HOSTILE[4], "b")), (4, ("c",))), (), None, ((HOSTILE[0], 1.5),))]
    modes = [replace(bare.modes[0], members=(0,)), replace(bare.modes[1], members=tuple(range(1, 9)), named=HOSTILE[5])]
    modes += [replace(bare.modes[3], members=(9,)), replace(bare.modes[4], members=(10,))]
    found = [replace(bare.findings[0], examples=(1,))]
    about = {**bare.about, "config": plain(Config(search=SearchConfig(both_signs=True))), "versions": {}}
    return replace(
        bare,
        about=about,
        completions=said,
        modes=modes,
        findings=found,
        glances=glances,
        mapped=mapped,
        hints=hints,
        decodings=decodings,
    )


def logged(made: Record, folder: Path) -> dict[str, Any]:
    """Log a record to an offline run, and return its summary as it reads back."""
    made.bank.save(folder / "bank.safetensors")
    (folder / "report.html").write_text("<p>page</p>")
    with tracking.tracked("discover", made.about, folder) as tracker:
        tracker.curve(made.curve)
        assert tracker.found(made)
    return json.loads(inspected(folder, "--summary"))["summary"]


def stored(folder: Path, seen: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the rows of a table of the offline run, by column."""
    (file,) = folder.glob(f"wandb/offline-run-*/files/{seen[name]['path']}")
    held = json.loads(file.read_text())
    return [dict(zip(held["columns"], row, strict=True)) for row in held["data"]]


def test_every_table_and_number_reads_back(tmp_path: Path) -> None:
    made = full_record()
    seen = logged(made, tmp_path)
    made_tables = {name: rows(made) for name, rows in tracking.TABLES.items()} | {"map_table": tables.mapped(made)}
    for name, table in made_tables.items():
        assert seen[name]["nrows"] == len(table.rows) > 0, name
        held = stored(tmp_path, seen, name)
        assert [tuple(row.values()) for row in held] == list(table.rows)
        assert not INVISIBLE.search("".join(str(cell) for row in held for cell in row.values()))
    for name, value in tracking.summary(made).items():
        assert seen[name] == pytest.approx(value), name
    assert seen["report"]["_type"] == "html-file"
    for signal in ("kl", "norm", "distance"):
        assert seen[f"{signal}/both_table"]["nrows"] == 2 * tables.BINS
        assert sum(seen[f"{signal}/learned"]["values"]) == pytest.approx(1)
        assert seen[f"{signal}/null"]["bins"] == seen[f"{signal}/learned"]["bins"]
    assert "surprise/both_table" not in seen, "no learned vector was scored"


def test_every_way_of_a_mixture_has_a_curve(tmp_path: Path) -> None:
    made = full_record()
    whole = replace(made.bank, origin={**made.bank.origin, "solver": "fixed_point", "seed": 0})
    ways = [whole.subset(range(3)), replace(whole.subset(range(3, 8)), radius=25.0)]
    entries = [{"way": way, "round": at, "mean": way + at / 4, "least": 0.0, "greatest": 2.0} for way in (0, 1) for at in (0, 1)]
    one = replace(made, bank=VectorBank.together(ways), curve=entries)
    seen = logged(one, tmp_path)
    assert [seen[f"search/way {way}/mean"] for way in (0, 1)] == [0.25, 1.25] and "search/mean" not in seen
    page = html_report(one)
    for name in ("Vectors 0 to 2", "Vectors 3 to 7"):
        assert page.count(f"<p>{name}</p>") == 1 and page.count("Mean objective from round 0 to round 1") == 2
    assert "5 vectors of norm 25 (2.50 of the residual stream&#39;s) after block 3" in page


@pytest.mark.parametrize("redact", [False, True])
def test_a_masked_run_tells_wandb_no_prompt_of_its_command(redact: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = full_record()
    config = {**made.about["config"], "report": {"redact": redact}}
    monkeypatch.setattr(sys, "argv", ["discover", 'prompts.texts=["A wholly secret question"]'])
    logged(replace(made, about={**made.about, "config": config}), tmp_path)
    held = b"".join(file.read_bytes() for file in tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert held and (b"wholly secret" in held) is not redact


def test_a_vector_stands_beside_its_opposite_and_its_mode(tmp_path: Path) -> None:
    made = full_record()
    rows = [dict(zip(tables.vectors(made).columns, row, strict=True)) for row in tables.vectors(made).rows]
    assert [row["opposite"] for row in rows] == [4, 5, 6, 7, 0, 1, 2, 3]
    for row in rows:
        assert row["opposite_completion"] == rows[row["opposite"]]["completion"]
        assert (row["mode"], row["verdict"], row["opposite_verdict"]) == (1, "finding", "finding")
        assert row["kl"] == 0.5 * row["vector"] and row["surprise"] is None
    one_sign = replace(made, about={**made.about, "config": plain(Config())})
    assert all(row[tables_column(one_sign, "opposite")] is None for row in tables.vectors(one_sign).rows)
    (mode,) = [row for row in evidence.modes(made).rows if "finding" in row]
    assert "zero⟨U+200B⟩width⟨U+FEFF⟩ and tag ⟨U+E0041⟩" in mode, "what its vector boosts"


def tables_column(made: Record, name: str) -> int:
    return list(tables.vectors(made).columns).index(name)


def test_columns_keep_their_type_where_the_first_cells_are_empty() -> None:
    made = full_record()
    for rows in tracking.TABLES.values():
        table = rows(made)
        for name, kind in table.columns.items():
            held = {type(row[list(table.columns).index(name)]) for row in table.rows} - {type(None)}
            assert held <= ({int, float} if kind is float else {kind}), (rows.__name__, name)


def test_an_offline_run_reads_back(words: list[str], tmp_path: Path) -> None:
    main([*words, "folder=sweep/run", "seed=3", "tracking.tags=[mine,second]", "tracking.notes=a note, of (mine): 5 %"])
    folder = tmp_path / "sweep" / "run"
    about = json.loads(inspected(folder, "--summary"))
    assert (about["project"], about["name"], about["notes"]) == ("discover", "run", "a note, of (mine): 5 %")
    assert about["state"] == "finished" and about["config"]["search"]["vectors"] == 3
    keys = {"completions", "vectors", "modes", "findings", "report", "search/mean", "summary/findings", "summary/relative_radius"}
    assert keys <= about["summary"].keys()
    said = (folder / "completions.jsonl").read_text().splitlines()
    assert len(stored(folder, about["summary"], "completions")) == len(said)
    seen = inspected(folder)
    for told in (
        '"mine"',
        '"second"',
        '"sweep"',
        "steering-vectors",
        '"latest"',
        '"seed-3"',
        '"solver-fixed_point"',
        '"sweep-run"',
    ):
        assert told in seen, told


def test_a_run_that_is_tracked_is_not_tracked_again(words: list[str], tmp_path: Path) -> None:
    main([*words, "folder=run"])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["tracked"] is True
    main(["resume", "run"])
    assert len(list(tmp_path.glob("run/wandb/offline-run-*"))) == 1


def test_a_run_that_is_killed_leaves_what_it_had_so_far(words: list[str], tmp_path: Path) -> None:
    """Before, wandb was told at the end alone."""
    slow = [*words, "folder=run", "search.vectors=64", "speech.rows=1", "speech.tokens=40"]
    running = subprocess.Popen([sys.executable, "-m", "discover", *slow], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (tmp_path / "run" / "triage.jsonl").exists():
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    # What is logged is written by another process, once a second.
    time.sleep(2.5)
    assert running.poll() is None, "it had ended"
    running.kill()
    running.communicate()
    left = json.loads(inspected(tmp_path / "run", "--summary"))
    assert {"seconds/unsteered", "seconds/search", "search/mean"} <= left["summary"].keys()
    assert left["config"]["search"]["vectors"] == 64 and "findings" not in left["summary"]


def test_a_run_that_ends_early_is_one_that_failed(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("discover.pipeline.findings", lambda *_: pytest.fail("here"))
    with pytest.raises(pytest.fail.Exception):
        main([*words, "folder=run"])
    about = json.loads(inspected(tmp_path / "run", "--summary"))
    assert about["exit_code"] == 1 and not wandb_services()
    assert sum(value for name, value in about["summary"].items() if name.startswith("speech/null/")) == 6


def test_a_mistake_that_shows_in_the_first_stage_leaves_nothing(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once wandb was opened before the first stage, its folder kept the run's from being removed."""

    def refused(*_: object) -> None:
        assert (tmp_path / "run" / "wandb").is_dir()
        raise UsageError("There is not enough memory.")

    monkeypatch.setattr("discover.pipeline._reference", refused)
    with pytest.raises(SystemExit):
        main([*words, "folder=run"])
    assert "not enough memory" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_two_runs_of_a_sweep_are_two_wandb_runs(words: list[str], tmp_path: Path) -> None:
    main(["-m", *words, "seed=0,1", "folder=sweep"])
    runs = list(tmp_path.glob("sweep/*/wandb/offline-run-*"))
    assert len({run.name.split("-")[-1] for run in runs}) == 2
    for seed in (0, 1):
        about = json.loads(inspected(tmp_path / "sweep" / str(seed), "--summary"))
        assert (about["config"]["seed"], about["name"], about["exit_code"]) == (seed, str(seed), 0)
    assert not wandb_services(), "none is left behind"


def wandb_services() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "wandb" in child.name()]


def lost_nothing(folder: Path, error: str) -> None:
    """Assert that the run is complete, and that one line says what came of wandb."""
    assert json.loads((folder / "status.json").read_text())["state"] == "done"
    assert {path.name for path in folder.iterdir()} >= STAGES
    assert json.loads((folder / "run.json").read_text())["tracked"] is False
    told = [line for line in error.splitlines() if "|" not in line and line.strip() and not re.match(r"\w+: [\d,]+ of ", line)]
    assert len(told) == 1 and told[0].startswith("discover: wandb failed ("), error
    assert "wandb failed" in (folder / "discover.log").read_text()


def test_a_file_in_the_way_of_wandb_loses_nothing(words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "wandb").write_text("in the way")
    main([*words, "folder=run"])
    lost_nothing(tmp_path / "run", capfd.readouterr().err)


def test_the_run_does_without_wandb_at_all(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    main([*words, "folder=run"])
    lost_nothing(tmp_path / "run", capfd.readouterr().err)


def test_a_service_that_is_killed_in_mid_run_loses_nothing_and_not_the_next_run(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    counted = tracking.summary

    def killing(record: Record) -> dict[str, float]:
        (service,) = wandb_services()
        service.kill()
        service.wait()
        monkeypatch.setattr(tracking, "summary", counted)
        return counted(record)

    monkeypatch.setattr(tracking, "summary", killing)
    main(["-m", *words, "seed=0,1", "folder=sweep"])
    lost_nothing(tmp_path / "sweep" / "0", capfd.readouterr().err)
    assert "summary/findings" in json.loads(inspected(tmp_path / "sweep" / "1", "--summary"))["summary"]


@pytest.mark.parametrize("key", ["", "0123456789" * 4], ids=["no key", "no network"])
def test_no_network_is_no_wait_and_no_question(
    key: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setattr(tracking, "FOUND", 1.0)
    main([*words, "folder=run", "tracking.mode=online"])
    error = capfd.readouterr().err
    lost_nothing(tmp_path / "run", error)
    assert ("connection refused" if key else "there is no key") in error


FULL = """
import resource, sys
from discover.cli import main
from discover.report.tracking import Tracker

def found(*given):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        return wandb(*given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

wandb, Tracker.found = Tracker.found, found
main(sys.argv[1:])
"""
"""A run whose wandb, and nothing else of it, finds no room for more than 2,000 bytes a file."""


@pytest.mark.slow
def test_a_full_disk_loses_nothing(words: list[str], tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", FULL, *words, "folder=run"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    lost_nothing(tmp_path / "run", ran.stderr)
    assert "File too large" in ran.stderr


def test_uses_and_likeness_are_tables() -> None:
    bare = used_record()
    uses, known = evidence.uses(bare), evidence.known(bare)
    assert len(uses.rows) == len(bare.uses) and len(known.rows) == 2 * len(bare.bank)
    best = max(uses.rows, key=lambda row: row[list(uses.columns).index("clean count")])
    assert dict(zip(uses.columns, best, strict=True))["who"] == "vector 2"
    assert known.rows[0][0] == HOSTILE[0] and known.rows[-1][-1] is None
