"""`discover report`: the report of a run anew, byte for byte and without its model, and runs beside each other."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from discover.cli import main
from discover.storage import read_json, write_json

SMALL = ("search.vectors=8", "search.rounds=1", "search.relative_radius=1", "audit.null_vectors=8", "audit.forced_tokens=4")
MORE = (
    "speech.tokens=12",
    "tracking.mode=disabled",
    "prompts.neutral=0",
    "audit.samples=8",
    'prompts.texts=["Count the boats.","You are"]',
)


@pytest.fixture(scope="module")
def made(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep of two seeds, a run on another model, and an atlas."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["discover"])
        main(["-m", f"model.path={checkpoint('llama')}", *SMALL, *MORE, "seed=0,1", f"folder={folder / 'sweep'}"])
        main([f"model.path={checkpoint('gpt2')}", *SMALL, *MORE, f"folder={folder / 'other'}"])
        main(["atlas", f"model.path={checkpoint('llama')}", *MORE, f"folder={folder / 'atlas'}"])
    return folder


@pytest.fixture
def own(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may change; no test here may load a model."""

    def refused(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", refused)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one sentence that the command has for a mistake."""
    with pytest.raises(SystemExit) as left:
        main(words)
    told = capsys.readouterr().err
    assert left.value.code == 2 and len(told.splitlines()) == 1 and told.startswith("discover: "), told
    return told


def test_a_report_anew_is_the_report_byte_for_byte(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = own / "sweep" / "0"
    before = {name: (run / name).read_bytes() for name in ("report.html", "report.md", "run.json", "status.json")}
    for name in ("report.html", "report.md"):
        (run / name).unlink()
    main(["report", str(run)])
    assert {name: (run / name).read_bytes() for name in before} == before
    assert capsys.readouterr().out.endswith(f"report      {run / 'report.html'}\n")


@pytest.mark.parametrize("file", ["findings.json", "completions.jsonl", "bank.safetensors", "clusters.json", "uses.json"])
def test_a_missing_stage_is_named(file: str, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = own / "sweep" / "0"
    (run / file).unlink()
    assert f"holds no {file}; `discover resume {run}`" in refusal(["report", str(run)], capsys)


def test_what_another_version_left_is_named(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = own / "sweep" / "0"
    (run / "findings.json").write_text('[{"colour": "green"}]')
    assert "findings.json cannot be read as what this version writes" in refusal(["report", str(run)], capsys)
    main(["report", str(own)])
    assert "left out" in capsys.readouterr().out, "a comparison goes on with the others"


def test_seeds_are_compared(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(own / "sweep"), "--folder", "seeds"])
    assert "2 runs compared. They differ in their seed alone." in capsys.readouterr().out
    held = read_json(Path("seeds/comparison.json"))
    assert held["axes"] == [] and [run["options"]["seed"] for run in held["runs"]] == ["0", "1"]
    assert {run["vectors"] for run in held["runs"]} == {8} and all(held["modes"])
    for name in ("comparison.html", "comparison.md"):
        assert "2 runs compared" in Path("seeds", name).read_text()


def test_a_comparison_across_models_names_them_and_what_it_left_out(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = read_json(own / "sweep" / "1" / "run.json")
    write_json(own / "sweep" / "1" / "run.json", {name: value for name, value in about.items() if name != "exit"})
    main(["report", str(own / "sweep"), str(own / "other")])
    told = capsys.readouterr().out
    assert "They differ in model.path." in told
    assert f"left out    {own / 'sweep' / '1'} is not finished; `discover resume" in told
    (folder,) = Path("outputs/comparison").iterdir()
    assert {path.name for path in folder.iterdir()} == {"comparison.html", "comparison.md", "comparison.json"}


def test_only_a_comparison_of_the_same_runs_is_replaced(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["report", str(own), "--folder", "all"]
    main(words)
    first = Path("all/comparison.html").read_bytes()
    main(words)
    assert Path("all/comparison.html").read_bytes() == first
    capsys.readouterr()
    assert "comparison.html is there and of something else" in refusal(["report", str(own / "sweep"), "--folder", "all"], capsys)
    Path("theirs").mkdir()
    Path("theirs/comparison.md").write_text("mine")
    assert "comparison.md is there" in refusal(["report", str(own), "--folder", "theirs"], capsys)
    assert Path("theirs/comparison.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "runs"),
        (["nowhere"], "nowhere holds no run"),
        (["made/other", "--folder", "x"], "--folder is for a comparison"),
        (["made/other", "made/other"], "there is 1"),
        (["made/other", "--depth", "3"], "--depth"),
    ],
)
def test_one_sentence_for_a_mistake(words: list[str], told: str, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told in refusal(["report", *words], capsys)


def test_an_atlas_has_its_page_anew_and_is_not_compared(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = own / "atlas"
    page = (run / "atlas.html").read_bytes()
    (run / "atlas.html").unlink()
    main(["report", str(run)])
    assert (run / "atlas.html").read_bytes() == page
    assert "what `discover atlas` made" in refusal(["report", str(run), str(own / "other")], capsys)


def test_a_contrast_without_its_outcomes_is_told_so(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = own / "other"
    write_json(run / "run.json", {**read_json(run / "run.json"), "verb": "contrast"})
    assert "bank.safetensors cannot be read" in refusal(["report", str(run)], capsys), "a search's bank has no scores beside it"


def test_the_help_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", "--help"])
    assert "compare runs" in capsys.readouterr().out
