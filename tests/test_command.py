"""The command line: what it does with good words, and the one sentence it has for bad ones."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from discover.bank import VectorBank
from discover.cli import main

SMALL = (
    *("search.vectors=3", "search.rounds=2", "search.relative_radius=1", "speech.tokens=4", "audit.forced_tokens=2"),
    *("prompts.neutral=0", "audit.samples=4"),
)
"""With a radius given by hand, so without a pilot."""
PILOTED = (
    *("search.vectors=3", "search.rounds=1", "speech.tokens=8", "audit.forced_tokens=2", "prompts.neutral=1", "audit.samples=4"),
    *("pilot.vectors=1", "pilot.tokens=8", "audit.null_vectors=2"),
)
"""By the defaults, but few of everything."""
QUIET = "tracking.mode=disabled"
PROMPT = 'prompts.texts=["Count the boats."]'


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["discover"])


@pytest.fixture
def tiny(checkpoint: Callable[[str], Path]) -> str:
    return f"model.path={checkpoint('llama')}"


def status(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit status of the command and what it wrote to standard error."""
    try:
        main(words)
    except SystemExit as stop:
        return int(stop.code or 0), capsys.readouterr().err
    return 0, capsys.readouterr().err


def refused(words: Sequence[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Assert one sentence with `told` in it, status 2, and nothing left behind."""
    before = sorted(Path.cwd().rglob("*"))
    code, error = status(words, capsys)
    sentences = [line for line in error.splitlines() if line.startswith("discover: ")]
    assert (code, len(sentences)) == (2, 1), error
    assert told in sentences[0]
    assert not re.search("Traceback|usage:|Error executing", error)
    assert sorted(Path.cwd().rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["search.vectrs=3"], "search.vectors"),
        (["vectors=3"], "search.vectors"),
        (["search.vectors=many"], "many"),
        (["search.solver=magic"], "magic"),
        (["search.radius=0"], "search.radius=0"),
        (["search.radius=-1"], "search.radius=-1"),
        (["search.radius=nan"], "nan"),
        (["search.radius=1", "search.relative_radius=1"], "give one of them"),
        (["search.q=3"], "search.q=3"),
        (["model.path=./nowhere"], "./nowhere"),
        (["model.path=/no/where/at/all"], "/no/where/at/all"),
        (["model.device=cuda"], "no GPU is visible"),
        (["resume", "nowhere"], "no run"),
        (["resume"], "one run folder"),
        (["organism", "check", "nobody"], "arithmetic"),
        (["organism", "score", "nowhere"], "nowhere"),
        (["organism", "dance"], "dance"),
        (["organism"], "score RUN"),
        (["organism", "score"], "runs"),
        (["organism", "--foo"], "verb"),
        (["--foo"], "--foo"),
        (["--cfg", "everything"], "everything"),
        (["search.radius"], "search.radius=VALUE"),
        (["prompts.texts=hello"], """'prompts.texts=["hello"]'"""),
        (["prompts.texts=[a: b (1)]"], """'prompts.texts=["…"]'"""),
        (['prompts.texts=["cost ${x} now"]'], r"write \${…}"),
        (['prompts.texts=["cost ${x now"]'], r"write \${…}"),
        (["folder="], "folder=PATH"),
        (["model.path=~/nowhere (1)"], f"{Path.home()}/nowhere (1)"),
        (["sweep"], "radius"),
        (["sweep", "nothing"], "radius"),
    ],
)
def test_one_sentence_for_a_mistake(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "model.device=cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    refused(words, told, capsys)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["search.source_layer=3", "search.target_layer=2"], "0 to 3"),
        (["search.source_layer=2", "search.target_layer=2"], "0 to 3"),
        (["search.target_layer=4"], "0 to 3"),
        (["search.source_layer=-1"], "0 to 3"),
        (["search.vectors=33", "search.diversity=orthogonal"], "at most 32"),
        (["prompts.texts=[]"], "There is no prompt"),
        (["prompts.texts=['  ']"], "empty"),
        (["prompts.file=nowhere.txt"], "nowhere.txt"),
        (["prompts.chat=true"], "no chat template"),
        (["speech.tokens=500"], "at most 128"),
        (["model.blocks_path=nowhere"], "model.layers"),
        (["folder=/proc/x/y"], "/proc/x/y cannot be written"),
    ],
)
def test_one_sentence_for_what_does_not_fit_the_model(
    words: list[str], told: str, tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if words[0].startswith("prompts.texts") else [PROMPT]
    rest = [word for word in SMALL if word.split("=")[0] not in {given.split("=")[0] for given in words}]
    refused([tiny, QUIET, *given, *rest, *words], told, capsys)


def test_one_sentence_for_a_radius_that_only_the_search_can_refuse(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What the unsteered model says was heard by then and stays; nothing is learned, and the next attempt begins there."""
    rest = [word for word in SMALL if not word.startswith("search.relative_radius")]
    code, error = status([tiny, QUIET, PROMPT, *rest, "search.radius=1e30", "search.normalised=false", "folder=run"], capsys)
    (told,) = [line for line in error.splitlines() if line.startswith("discover: ")]
    assert code == 2 and "not finite" in told and not re.search("Traceback|usage:|Error executing", error)
    assert json.loads(Path("run/status.json").read_text())["state"] == "failed"
    assert Path("run/unsteered.json").exists() and not list(Path("run").glob("*.safetensors"))


def test_one_sentence_for_a_prompt_file_that_is_not_text(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_bytes(b"caf\xe9\n")
    refused([tiny, "prompts.file=prompts.txt"], "not UTF-8", capsys)


def test_one_sentence_for_an_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20)
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    refused([f"model.path={tmp_path / 'bert'}", PROMPT], "no causal language model", capsys)


def test_one_sentence_for_a_folder_that_cannot_be_written(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    refused([tiny, PROMPT, QUIET, f"folder={tmp_path / 'file' / 'run'}"], "cannot be written", capsys)


def test_a_run_in_a_chosen_folder_and_again(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [tiny, PROMPT, QUIET, *SMALL, "folder=a run"]
    assert status(words, capsys)[0] == 0
    files = {
        "bank.safetensors",
        "null.safetensors",
        "completions.jsonl",
        "clusters.json",
        "findings.json",
        "report.md",
        "report.html",
    }
    assert files | {"run.json", "status.json", "metrics.jsonl", "discover.log"} <= {at.name for at in Path("a run").iterdir()}
    assert json.loads(Path("a run/status.json").read_text())["state"] == "done"
    held = {name: (Path("a run") / name).read_bytes() for name in files}
    code, error = status([*words, "seed=1"], capsys)
    assert code == 2
    assert "seed: 0 there, 1 here" in error
    assert status(["resume", "a run"], capsys)[0] == 0
    assert {name: (Path("a run") / name).read_bytes() for name in files} == held


def everything(folder: Path) -> dict[Path, bytes | None]:
    """Return what stands below `folder`: every path, with the content of the files."""
    return {at: at.read_bytes() if at.is_file() else None for at in folder.rglob("*")}


def without_stages(folder: Path) -> None:
    """Make a finished run one that was killed before its first stage was done."""
    for at in folder.iterdir():
        if at.name not in {".hydra", "run.json", "status.json", "discover.log", "run.lock"}:
            at.unlink()


@pytest.mark.parametrize("again", ["resume", "folder"])
def test_a_mistake_removes_nothing_of_an_interrupted_run(
    again: str, checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(checkpoint("llama"), tmp_path / "here" / "model")
    words = ["model.path=./model", PROMPT, QUIET, *SMALL, f"folder={tmp_path / 'run'}"]
    os.chdir(tmp_path / "here")
    assert status(words, capsys)[0] == 0
    without_stages(tmp_path / "run")
    (tmp_path / "run" / ".hydra" / "config.yaml").write_text("as it was")
    before = {at: held for at, held in everything(tmp_path / "run").items() if at.name not in ("discover.log", "status.json")}
    os.chdir(tmp_path)
    code, error = status(["resume", "run"] if again == "resume" else words, capsys)
    assert code == 2 and "./model" in error
    after = everything(tmp_path / "run")
    about = tmp_path / "run" / "run.json"
    assert after.keys() >= before.keys()
    assert all(after[at] == held for at, held in before.items() if at != about)
    assert json.loads(about.read_text())["config"] == json.loads(before[about] or b"")["config"]


def test_a_mistake_removes_no_folder_and_no_file_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a/b/c").mkdir(parents=True)
    Path("sweep/1/.hydra").mkdir(parents=True)
    Path("sweep/1/notes.txt").write_text("mine")
    Path("outputs/run").mkdir(parents=True)
    refused(["model.path=/nowhere", PROMPT, "folder=a/b/c"], "/nowhere", capsys)
    refused(["model.path=/nowhere", PROMPT, "folder=a/b/c/d/e"], "/nowhere", capsys)
    refused(["-m", "model.path=/nowhere", PROMPT, "seed=0,1,2", "folder=sweep"], "/nowhere", capsys)
    refused(["model.path=/nowhere", PROMPT], "/nowhere", capsys)
    refused(["-m", "model.path=/nowhere", PROMPT, "seed=0,1"], "/nowhere", capsys)
    refused(["model.path=/nowhere", PROMPT, "hydra.run.dir=a"], "folder=PATH", capsys)


@pytest.mark.parametrize("name", ["a (1)", "it's", "x = 1, y: [2]", "back\\slash \\' {q}", "~"])
def test_a_path_is_taken_as_it_stands(
    name: str, checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, prompts, run = (tmp_path / f"{kind} {name}" for kind in ("model", "prompts", "run"))
    shutil.copytree(checkpoint("llama"), model)
    prompts.write_text("Count the boats.\n")
    words = [f"model.path={model}", f"prompts.file={prompts}", QUIET, *SMALL, f"folder={run}"]
    assert status(words, capsys)[0] == 0
    about = json.loads((run / "run.json").read_text())
    assert about["config"]["model"]["path"] == str(model)
    # Before, Hydra's own words for a folder that is gone stood in it, and quotes were lost.
    verb, *given = shlex.split(about["command"])
    assert (verb, given) == ("discover", words)


def test_a_sweep_over_models_goes_over_home_and_commas(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(checkpoint("llama"), tmp_path / "one (1)")
    words = ["-m", f"model.path=~/one (1),{checkpoint('gpt2')}", "prompts.file=null", PROMPT, QUIET, *SMALL, "folder=~/sweep"]
    assert status(words, capsys)[0] == 0
    paths = [json.loads((tmp_path / "sweep" / name / "run.json").read_text())["config"]["model"]["path"] for name in "01"]
    assert paths == [str(tmp_path / "one (1)"), str(checkpoint("gpt2"))]


def test_the_config_as_hydra_wrote_it_stays_with_its_run(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [tiny, PROMPT, QUIET, *SMALL, "folder=run"]
    assert status(words, capsys)[0] == 0
    held = {at.name: at.read_bytes() for at in Path("run/.hydra").iterdir()}
    assert held.keys() == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    assert status([*words, "seed=1"], capsys)[0] == 2
    assert {at.name: at.read_bytes() for at in Path("run/.hydra").iterdir()} == held


@pytest.mark.parametrize(("changes", "told"), [("model", "the model's fingerprints"), ("prompts", "the prompts")])
def test_a_run_goes_on_with_the_inputs_it_began_with_alone(
    changes: str, told: str, checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(checkpoint("llama"), "model")
    Path("prompts.txt").write_text("Count the boats.\n")
    assert status(["model.path=model", "prompts.file=prompts.txt", QUIET, *SMALL, "folder=run"], capsys)[0] == 0
    assert json.loads(Path("run/run.json").read_text())["prompts"] == ["Count the boats."]
    Path("run/completions.jsonl").unlink()
    if changes == "model":
        weights = bytearray(Path("model/model.safetensors").read_bytes())
        weights[-1] ^= 1
        Path("model/model.safetensors").write_bytes(weights)
    else:
        Path("prompts.txt").write_text("Count the ships.\n")
    before = {at: held for at, held in everything(Path("run")).items() if at.name != "discover.log"}
    code, error = status(["resume", "run"], capsys)
    assert code == 2 and told in error and error.count("discover: ") == 1, error
    assert {at: held for at, held in everything(Path("run")).items() if at.name != "discover.log"} == before


def test_a_bank_tells_its_prompts_wherever_they_came_from(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("same.txt").write_text("Count the boats.\n")
    Path("other.txt").write_text("Count the ships.\n")
    origins = []
    for number, prompts in enumerate([PROMPT, "prompts.file=same.txt", "prompts.file=other.txt"]):
        assert status([tiny, prompts, QUIET, *SMALL, f"folder={number}"], capsys)[0] == 0
        origins.append(VectorBank.load(str(number)).origin["prompts"])
    assert origins[0] == origins[1] != origins[2]


def test_a_stage_that_is_there_is_read(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status([tiny, PROMPT, QUIET, *SMALL, "folder=run"], capsys)[0] == 0
    marked = VectorBank.load("run")
    bank = VectorBank(**{**vars(marked), "radius": 2 * marked.radius})
    bank.save(Path("run/bank.safetensors"))
    Path("run/null.safetensors").unlink()
    assert status(["resume", "run"], capsys)[0] == 0
    # The null is made again, and from the bank that was there, not from one that was computed anew.
    assert VectorBank.load("run/null.safetensors").radius == 2 * marked.radius


def test_a_sweep_leaves_one_folder_a_run_and_survives_a_bad_one(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "-m",
        tiny,
        PROMPT,
        QUIET,
        *SMALL[1:],
        "search.vectors=2,40",
        "search.diversity=orthogonal",
        "folder=sweep",
        "seed=0,1",
    ]
    code, error = status(words, capsys)
    assert code == 2
    assert "at most 32" in error
    done = sorted(at.parent.name for at in Path("sweep").rglob("findings.json"))
    assert done == ["0", "1"]


@pytest.mark.slow
def test_two_runs_started_at_once_keep_separate_folders(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    words = [f"model.path={checkpoint('llama')}", PROMPT, QUIET, *SMALL]
    started = [subprocess.Popen([sys.executable, "-m", "discover", *words], cwd=tmp_path) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]
    assert len(list((tmp_path / "outputs" / "run").glob("*/bank.safetensors"))) == 2


def test_a_folder_in_use_is_refused(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holder = "import fcntl, os, sys, time; fcntl.flock(os.open(sys.argv[1], os.O_CREAT | os.O_RDWR), 2); "
    holder += "print(flush=True); time.sleep(60)"
    Path("run").mkdir()
    with subprocess.Popen([sys.executable, "-c", holder, "run/run.lock"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        code, error = status([tiny, PROMPT, QUIET, *SMALL, "folder=run"], capsys)
        process.kill()
    assert code == 2
    assert "Another process" in error


@pytest.mark.slow
def test_a_full_disk_leaves_whole_files_and_the_run_goes_on_later(
    checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on file size stands for a full disk: the system refuses the write in the same place, with its own error."""
    limited = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)); from discover.cli import main; main(sys.argv[1:])"
    words = [f"model.path={checkpoint('llama')}", PROMPT, QUIET, *SMALL, "search.vectors=24", "folder=run"]
    ended = subprocess.run([sys.executable, "-c", limited, *words], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert "no room left" in ended.stderr.splitlines()[-1]
    assert not list(tmp_path.rglob("*.partial"))
    assert {"bank.safetensors"} <= {at.name for at in (tmp_path / "run").iterdir()}
    assert VectorBank.load(tmp_path / "run") is not None
    assert status(["resume", "run"], capsys)[0] == 0
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("file", ["bank.safetensors", "completions.jsonl", "findings.json", "report.html"])
def test_a_device_without_room_leaves_what_was_there(
    file: str, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file that is written first, beside the real one, is sent to a device that is always full."""
    words = [tiny, PROMPT, QUIET, *SMALL, "folder=run"]
    partial = tmp_path / "run" / f".{file}.{os.getpid()}.partial"
    partial.parent.mkdir()
    partial.symlink_to("/dev/full")
    code, error = status(words, capsys)
    assert (code, error.count("discover: ")) == (2, 1), error
    assert "no room left" in error
    assert not (tmp_path / "run" / file).exists()
    assert not list(tmp_path.rglob("*.partial"))
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"
    assert status(["resume", "run"], capsys)[0] == 0
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(("count", "room", "code"), [pytest.param(300, 150, 0, marks=pytest.mark.slow), (750, 40, 2)])
def test_what_does_not_fit_into_memory_is_cut_or_told(
    count: int, room: int, code: int, tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    """The system itself refuses what is beyond `room` MiB; eager attention takes so much for all rows, or for a single one."""
    folder = tmp_path / "long"
    shutil.copytree(checkpoint("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    (tmp_path / "prompts.txt").write_text("boats " * count)
    limited = "import discover.pipeline, hydra, psutil, resource, sys; from discover.cli import main; "
    limited += f"most = psutil.Process().memory_info().vms + {room} * 2**20; "
    limited += "resource.setrlimit(resource.RLIMIT_AS, (most, most)); main(sys.argv[1:])"
    words = [f"model.path={folder}", "model.attention=eager", "prompts.file=prompts.txt", QUIET, *SMALL, "folder=run"]
    words += ["search.chunk=12", "search.vectors=12", "speech.rows=12", "speech.tokens=2", "audit.null_vectors=1"]
    ended = subprocess.run(
        [sys.executable, "-c", limited, *words],
        cwd=tmp_path,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == code, ended.stderr
    told = [line for line in ended.stderr.splitlines() if line.startswith("discover: ")]
    assert len(told) == (0 if code == 0 else 1)
    if code == 0:
        assert "memory ran out; from here on 6 rows" in (tmp_path / "run" / "discover.log").read_text()
    else:
        assert "not enough memory" in told[0]


def test_a_hub_that_cannot_be_reached_is_told_at_once(tmp_path: Path) -> None:
    """The hub's own readers ask six times over half a minute, and say so each time; a closed port stands for no network."""
    here = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    words = [sys.executable, "-m", "discover", "model.path=gpt2", PROMPT, QUIET]
    ended = subprocess.run(words, cwd=tmp_path, env={**os.environ, **here}, capture_output=True, text=True)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "gpt2 is neither" in line


def test_help_answers(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-m", "discover", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0
    assert "discover -m" in ended.stdout


def test_help_imports_no_torch() -> None:
    """What makes it answer at once: a tenth of a second without torch, several with it."""
    told = "import sys; from discover.cli import main; main(['--help']); "
    told += "assert not {'torch', 'hydra', 'transformers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", told], capture_output=True).returncode == 0


def test_every_family_runs_end_to_end(checkpoint: Callable[[str], Path], family: str, capsys: pytest.CaptureFixture[str]) -> None:
    two = 'prompts.texts=["Count the boats in the harbour, please.","You are"]'
    assert status([f"model.path={checkpoint(family)}", two, QUIET, *SMALL, "folder=run"], capsys)[0] == 0
    tests = json.loads(Path("run/run.json").read_text())["self_test"]
    assert max(tests[name] for name in ("zero", "slice", "row", "cache")) < 1e-4


@pytest.mark.parametrize("name", ["gpt2", "mistral", "gemma2"])
def test_the_defaults_run_end_to_end(checkpoint: Callable[[str], Path], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With a pilot, neutral prompts and samples; resumed, it computes nothing anew."""
    assert status([f"model.path={checkpoint(name)}", PROMPT, QUIET, *PILOTED, "folder=run"], capsys)[0] == 0
    trials = json.loads(Path("run/pilot.json").read_text())
    assert len(trials) > 3 and sum(one["vectors"] for one in trials) == 3
    assert len(json.loads(Path("run/run.json").read_text())["prompts"]) == 2
    spoken = [json.loads(line) for line in Path("run/completions.jsonl").read_text().splitlines()]
    for bank, count in (("learned", 3), ("null", 2)):
        heard = {(one["vector"], one["prompt"]) for one in spoken if one["bank"] == bank}
        assert len(heard) >= 2 * count and {prompt for _, prompt in heard} == {0, 1}
    assert {(one["sample"], one["prompt"]) for one in spoken if one["bank"] == "unsteered"} == {
        (sample, prompt) for sample in range(5) for prompt in (0, 1)
    }
    held = {at.name: at.read_bytes() for at in Path("run").iterdir() if at.suffix in (".jsonl", ".safetensors", ".html", ".md")}
    assert status(["resume", "run"], capsys)[0] == 0
    assert {name: (Path("run") / name).read_bytes() for name in held} == held


@pytest.mark.parametrize(
    ("words", "places"),
    [
        (["search.perturbation=bias", "search.solver=power"], [[1, "mlp"]]),
        (["search.perturbation=adapter", "search.rank=2", "search.diversity=soft"], [[1, "mlp"]]),
        (["search.perturbation=factor", "search.band=2", "search.solver=cpe", "search.diversity=soft"],
         [[1, "attention"], [2, "attention"]]),
        (["search.perturbation=head", "search.solver=ascent", "search.steps=2"], [[1, "attention"]]),
    ],
)  # fmt: skip
def test_every_kind_runs_end_to_end_on_the_shipped_organism(
    words: list[str], places: list[list[object]], capsys: pytest.CaptureFixture[str]
) -> None:
    quick = [*SMALL[:2], "search.relative_radius=0.5", *SMALL[3:], "search.source_layer=1", "audit.null_vectors=2"]
    assert status([QUIET, *quick, *words, "folder=run", "model.device=cpu"], capsys)[0] == 0
    assert isinstance(json.loads(Path("run/findings.json").read_text()), list)
    for name, count in (("bank", 3), ("null", 2)):
        bank = VectorBank.load(f"run/{name}.safetensors")
        assert len(bank) == count
        assert [[change.place.block, change.place.site.value] for change in bank.perturbations.changes] == places
    spoken = [json.loads(line) for line in Path("run/completions.jsonl").read_text().splitlines()]
    assert {one["vector"] for one in spoken if one["bank"] == "learned"} == {0, 1, 2}
    assert "Traceback" not in Path("run/discover.log").read_text()
