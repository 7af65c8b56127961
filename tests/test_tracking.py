"""A real offline wandb run reads back; a broken wandb costs a run nothing."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_html import HOSTILE, used_record

from discover.cli import main
from discover.config import Config, plain
from discover.report.tracking import track

SMALL = ("search.vectors=3", "search.rounds=2", "search.relative_radius=1", "speech.tokens=4", "audit.forced_tokens=2")


@pytest.fixture
def words(checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["discover"])
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    return [f"model.path={checkpoint('llama')}", 'prompts.texts=["Count the boats."]', *SMALL]


def records(folder: Path) -> Iterator[dict[str, object]]:
    """Yield every record of the offline run below `folder`, read by wandb's own inspector."""
    (run,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    told = subprocess.run(
        [str(Path(sys.executable).with_name("wandb")), "beta", "leet", "inspect", str(run), "--json"],
        capture_output=True,
        text=True,
    )
    if told.returncode:
        told = subprocess.run(
            [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", str(run), "--json"], capture_output=True, text=True
        )
    assert told.returncode == 0, told.stderr
    for line in told.stdout.splitlines():
        yield json.loads(line)


def test_an_offline_run_reads_back(words: list[str], tmp_path: Path) -> None:
    main([*words, "folder=run", "tracking.tags=[mine]"])
    seen = json.dumps(list(records(tmp_path / "run")))
    for key in ("search/mean", "completions", "modes", "report", "summary/findings", "summary/relative_radius", "source_layer"):
        assert key in seen, key
    assert "mine" in seen
    assert "steering-vectors" in seen
    tables = list((tmp_path / "run").rglob("completions_*.table.json"))
    assert tables
    table = json.loads(tables[0].read_text())
    said = (tmp_path / "run" / "completions.jsonl").read_text().splitlines()
    assert len(table["data"]) == len(said)
    assert {"completion", "mode", "state", "surprise", "distance"} <= set(table["columns"])


def test_a_run_that_is_tracked_is_not_tracked_again(words: list[str], tmp_path: Path) -> None:
    main([*words, "folder=run"])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["tracked"] is True
    main(["resume", "run"])
    assert len(list(tmp_path.glob("run/wandb/offline-run-*"))) == 1


def test_two_runs_of_a_sweep_are_two_wandb_runs(words: list[str], tmp_path: Path) -> None:
    main(["-m", *words, "seed=0,1", "folder=sweep"])
    assert len(list(tmp_path.glob("sweep/*/wandb/offline-run-*"))) == 2


def test_a_broken_wandb_loses_nothing(words: list[str], tmp_path: Path) -> None:
    # A file where wandb wants its folder: what it meets on a disk that will not take it.
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "wandb").write_text("in the way")
    main([*words, "folder=run"])
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "done"
    assert (tmp_path / "run" / "report.html").exists()
    assert "wandb failed" in (tmp_path / "run" / "discover.log").read_text()


def test_the_run_does_without_wandb_at_all(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    main([*words, "folder=run"])
    assert (tmp_path / "run" / "findings.json").exists()
    assert "wandb failed" in (tmp_path / "run" / "discover.log").read_text()


def test_uses_and_likeness_are_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    bare = used_record()
    made = replace(bare, about={**bare.about, "config": plain(Config()), "versions": {}})
    made.bank.save(tmp_path / "bank.safetensors")
    (tmp_path / "report.html").write_text("<p>page</p>")
    assert track(made, tmp_path)
    (uses,), (known,) = (list(tmp_path.rglob(f"{name}_*.table.json")) for name in ("uses", "known"))
    uses, known = json.loads(uses.read_text()), json.loads(known.read_text())
    assert len(uses["data"]) == len(bare.uses) and len(known["data"]) == 2 * len(bare.bank)
    best = max(uses["data"], key=lambda row: row[uses["columns"].index("clean count")])
    assert dict(zip(uses["columns"], best, strict=True))["who"] == "vector 2"
    assert known["data"][0][0] == HOSTILE[0] and known["data"][-1][-1] is None
