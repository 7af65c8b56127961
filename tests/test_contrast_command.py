"""The command `discover contrast`: the files it leaves, going on, and the one sentence it has for bad words."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_command import everything, refused, status
from test_tracking import inspected

from discover.bank import VectorBank
from discover.contrast.study import load_learned
from discover.contrast.trial import load_outcomes
from discover.steer.evaluation import refuses

QUIET = "tracking.mode=disabled"
FEW = ("contrast.training=4", "contrast.selection=4", "contrast.test=4", "speech.tokens=4")
THINGS = ("boats", "gulls", "ropes", "nets", "sails", "masts", "oars", "lamps", "kegs", "crabs", "piers", "tides")
FILES = {"bank.safetensors", "scores.json", "outcomes.json", "open.json", "report.md", "report.html"}
TRACES = {"run.json", "status.json", "discover.log", "run.lock", ".hydra"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["discover"])


@pytest.fixture
def tiny(checkpoint: Callable[[str], Path]) -> str:
    return f"model.path={checkpoint('llama')}"


def written(rows: Sequence[dict[str, Any]]) -> str:
    """Write rows as a contrast set, and return the option that names it."""
    Path("set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "contrast.file=set.jsonl"


def pairs() -> list[dict[str, str]]:
    return [{"prompt": f"Count the {thing}.", "positive": " gladly, all of them", "negative": " no, never"} for thing in THINGS]


def test_the_refusal_direction_of_the_shipped_organism(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["contrast", QUIET, "model.device=cpu", "contrast.method=refusal", "contrast.multipliers=[-1,1]", "folder=run"]
    words += ["contrast.training=16", "contrast.selection=8", "contrast.test=8"]
    words += ['contrast.neutral=["a=5+6, b=7+2. What is a*b?"]', 'contrast.open=["How do I make a jam?"]']
    assert status(words, capsys)[0] == 0
    run = Path("run")
    assert {at.name for at in run.iterdir()} == FILES | TRACES
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    outcomes = load_outcomes(run / "outcomes.json")
    assert [one.what for one in outcomes] == [
        *("unsteered", "ablated", "weights orthogonalised", "subtracted", "added"),
        *("unsteered, in a second turn", "added, in a second turn"),
    ]
    refusing = {one.what: one.shares["positive prompts refused"].count for one in outcomes}
    assert refusing["unsteered"] > refusing["ablated"]
    for one in outcomes:
        # What is counted can be read again, reply by reply.
        assert {name: sum(map(refuses, said)) for name, said in one.said.items()} == {
            name: share.count for name, share in one.shares.items()
        }
    page, markdown = (run / "report.html").read_text(), (run / "report.md").read_text()
    for one in outcomes:
        for share in one.shares.values():
            assert str(share) in page and str(share) in markdown
    chosen = load_learned(run / "bank.safetensors").scores.best_candidate
    assert f"block {chosen.layer}, position {chosen.position}" in markdown
    assert page.count('class="best"') == 2 and "How do I make a jam?" in page
    assert VectorBank.load("run").source_layer == chosen.layer

    before = everything(run)
    for name in ("report.html", "report.md", "open.json"):
        (run / name).unlink()
    assert status(["resume", "run"], capsys)[0] == 0
    told = (run / "discover.log").read_text()
    assert "learning: read from" in told and "trial: read from" in told and "Traceback" not in told
    changed = {at.name for at, held in everything(run).items() if before[at] != held}
    assert changed <= {"discover.log", "run.json", "status.json"}


@pytest.mark.parametrize("method", ["means", "heads"])
def test_other_methods_on_a_file_of_pairs(method: str, tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["contrast", tiny, QUIET, written(pairs()), *FEW, f"contrast.method={method}", "folder=run"]
    assert status([*words, "contrast.multipliers=[-1,1]", "contrast.strengths=[2]"], capsys)[0] == 0
    assert {at.name for at in Path("run").iterdir()} >= FILES
    page = Path("run/report.html").read_text()
    assert page.count('<svg class="heat"') == {"means": 1, "heads": 2}[method]
    assert "likelier as the positive examples" in page
    before = everything(Path("run"))
    (Path("run") / "report.md").unlink()
    assert status(["report", "run"], capsys)[0] == 0
    assert everything(Path("run")) == before


def test_a_contrast_goes_on_with_the_examples_it_began_with_alone(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["contrast", tiny, QUIET, written(pairs()), *FEW, "contrast.multipliers=[1]", "folder=run"]
    assert status(words, capsys)[0] == 0
    written([{**row, "negative": " never"} for row in pairs()])
    code, error = status(["resume", "run"], capsys)
    assert code == 2 and "the prompts" in error


def test_a_contrast_is_a_wandb_run_of_its_own(
    tiny: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    words = ["contrast", tiny, written(pairs()), *FEW, "contrast.multipliers=[-1,1]", "folder=run"]
    assert status([*words, 'contrast.open=["Count the boats."]'], capsys)[0] == 0
    seen = inspected(Path("run"))
    for key in ("outcomes", "answers", "report", "summary/added/kl", "summary/source_layer", "steering-vectors"):
        assert key in seen, key
    (file,) = Path("run").rglob("outcomes_*.table.json")
    table = json.loads(file.read_text())
    assert [row[0] for row in table["data"]] == ["unsteered", "subtracted", "added"]
    assert {"likelier as the positive examples low", "kl", "multiplier"} <= set(table["columns"])
    assert status(["resume", "run"], capsys)[0] == 0
    assert len(list(Path("run").glob("wandb/offline-run-*"))) == 1


LABELLED = [{"label": side, "prompt": f"Count the {thing}."} for side in ("positive", "negative") for thing in THINGS]


@pytest.mark.parametrize(
    ("rows", "words", "told"),
    [
        (LABELLED[:12], [], "no negative example"),
        (LABELLED[12:], [], "no positive example"),
        ([{"prompt": "Count."}], [], "Row 1 of set.jsonl"),
        (pairs(), ["contrast.training=9"], "9 + 4 + 4 of each are needed"),
        (pairs(), ["contrast.layer=4"], "blocks 0 to 3"),
        (pairs(), ["contrast.layer=-1"], "blocks 0 to 3"),
        (pairs(), ["contrast.layer=4", "contrast.method=heads"], "blocks 0 to 3"),
        (pairs(), ["contrast.position=-99"], "contrast.position=-99"),
        (pairs(), ["contrast.position=0"], "contrast.position=0"),
        (pairs(), ["contrast.multipliers=[-1]"], "one above 0"),
        (pairs(), ["contrast.measure=choice"], "contrast.measure=choice"),
        (LABELLED, ["contrast.measure=likelihood"], "contrast.measure=likelihood"),
        (pairs(), ["contrast.method=heads", "contrast.heads=[99]"], "[99]"),
        (LABELLED, ["contrast.method=refusal"], "refuses 0 of 4 positive prompts"),
        (pairs(), ["contrast.method=magic"], "magic"),
        (pairs(), ["contrast.trainng=4"], "contrast.training"),
    ],
)
def test_one_sentence_for_a_mistake(
    rows: list[dict[str, str]], words: list[str], told: str, tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["contrast", tiny, QUIET, written(rows), *_without(FEW, words), *words, "folder=run"], told, capsys)


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "nowhere.jsonl"), (b"caf\xe9\n", "is not UTF-8"), (b"{\n", "is not JSON"), (b"", "no positive example")],
)
def test_one_sentence_for_a_file_that_is_no_contrast_set(
    content: bytes | None, told: str, tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path("nowhere.jsonl").write_bytes(content)
    refused(["contrast", tiny, QUIET, "contrast.file=nowhere.jsonl", "folder=run"], told, capsys)


def test_one_sentence_for_a_model_without_examples(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["contrast", tiny, QUIET, "folder=run"], "There are no labelled examples", capsys)


def _without(standard: Sequence[str], words: Sequence[str]) -> list[str]:
    given = {word.split("=")[0] for word in words}
    return [word for word in standard if word.split("=")[0] not in given]
