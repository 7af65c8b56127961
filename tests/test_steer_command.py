"""`discover steer`: the real command on the shipped organism, and the one sentence it has for every mistake."""

import io
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from dataclasses import replace
from fcntl import ioctl
from pathlib import Path
from typing import IO

import pytest
import torch

from discover.bank import VectorBank
from discover.cli import main
from discover.model.change import joined
from discover.organisms.arithmetic import EASY_PAYLOAD
from discover.organisms.catalogue import ORGANISMS
from discover.verbs.steer import parsed

PROMPT = "a=3+4, b=8+1. What is a*b?"
ANSWER = "First, we get a = 3 + 4 = 7. Then b = 8 + 1 = 9. So a*b = 7 * 9 = 63."
SMALL = ["search.vectors=4", "audit.null_vectors=1", "audit.forced_tokens=0", "speech.tokens=2", "tracking.mode=disabled"]
SMALL += ["search.layers=depth", "search.calibration=turn", "prompts.neutral=0", "audit.samples=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the organism whose bank is left with two entries, of which 0 brings the easy payload."""
    folder = tmp_path_factory.mktemp("steer") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["discover"])
        main([*SMALL, "model.device=cpu", f"folder={folder}"])
    VectorBank.load(folder).subset([3, 0]).save(folder / "bank.safetensors")
    return folder


@pytest.fixture
def bank(run: Path) -> VectorBank:
    return VectorBank.load(run)


def steer(words: Sequence[str | Path], typed: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "discover", "steer", *map(str, words)]
    return subprocess.run(command, input=typed, env=_environment(**environment), capture_output=True, text=True)


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", **more}


def told(words: Sequence[str | Path], capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str]]:
    """Label and text of every reply to prompts in the command's words; in this process, which has torch already."""
    main(["steer", *map(str, words)])
    return blocks(capsys.readouterr().out)


def blocks(shown: str) -> list[tuple[str, str]]:
    """Label and text of every reply."""
    return re.findall(r"^(unsteered|steered: [^\n]*)\n(.*?)\n\n", shown, flags=re.DOTALL | re.MULTILINE)


def refused(words: Sequence[str | Path], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["steer", *map(str, words)])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("discover: ")]
    assert (stop.value.code, len(lines)) == (2, 1)
    assert sentence in lines[0], lines[0]


def test_one_shot_stands_beside_the_unsteered_reply(run: Path) -> None:
    ended = steer([run, "--add", "0", "--prompt", PROMPT])
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"unsteered\n{ANSWER}\n\nsteered: v0\n{EASY_PAYLOAD}\n\n"
    assert not any(name in ended.stderr for name in ("Traceback", "Warning"))


def test_several_prompts_are_conversations_of_their_own(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["steer", str(run), "--add", "0:0", "--tokens", "5", "--prompt", "And?", "--prompt", PROMPT, "--prompt", PROMPT])
    output = capsys.readouterr().out
    shown = blocks(output)
    assert [label for label, _ in shown] == ["unsteered", "steered: 0 v0"] * 3
    assert shown[2:4] == shown[4:6] and all(shown[place][1] == shown[place + 1][1] for place in (0, 2, 4))
    assert ANSWER.startswith(shown[2][1]) and output.count(f"> {PROMPT}\n") == 2


def test_a_conversation_through_a_pipe(run: Path) -> None:
    typed = f"{PROMPT}\nAnd a+b?\n\n{'boats ' * 600}\n/reset\n{PROMPT}\n/help\nWhat is\\n2+3?\n/quit\n{PROMPT}\n"
    ended = steer([run, "--add", "0", "--add", "1:-0.5", "--tokens", "40"], typed)
    assert ended.returncode == 0, ended.stderr
    shown = blocks(ended.stdout)
    assert [label for label, _ in shown] == ["unsteered", "steered: v0 - 0.5 v1"] * 4
    # Another answer to the same words after other words, and the same after /reset; each side goes on from its own.
    assert shown[0:2] == shown[4:6] and shown[0] != shown[2] and shown[0][1] == ANSWER
    assert ended.stdout.count("/reset  forget") == 2
    empty, long = (line for line in ended.stderr.splitlines() if line.startswith("discover: "))
    assert "empty" in empty and "/reset forgets" in long


def test_what_was_said_counts(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second turn of a conversation is what follows the first one's prompt and reply in the chat format."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PROMPT}\n{PROMPT}\n"))
    (_, first), _, (_, second), _ = told([run, "--add", "0:0", "--tokens", "40"], capsys)
    whole = f"{PROMPT}<|end|><|assistant|>{first}<|end|><|user|>{PROMPT}"
    (_, at_once), _ = told([run, "--add", "0:0", "--tokens", "40", "--prompt", whole], capsys)
    assert first == ANSWER and at_once == second != first


def started(words: Sequence[str | Path]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "discover", "steer", *map(str, words)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
        bufsize=0,
        # A suite that a script started in the background would hand down that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def read_until(stream: IO[bytes] | None, what: bytes) -> bytes:
    """Read byte by byte until `what` has come."""
    assert stream is not None
    found = b""
    while what not in found and (byte := stream.read(1)):
        found += byte
    assert what in found, found
    return found


def test_text_is_shown_while_it_comes_and_a_reply_can_be_stopped(run: Path) -> None:
    """With nothing to end it the reply takes hundreds of tokens; a beginning arrives long before, and Ctrl-C ends it."""
    endless = run / "no end"
    if not endless.exists():
        shutil.copytree(ORGANISMS["arithmetic"].folder, endless)
        for name in ("config.json", "generation_config.json"):
            held = json.loads((endless / name).read_text())
            (endless / name).write_text(json.dumps({**held, "eos_token_id": None}))
        held = json.loads((endless / "tokenizer_config.json").read_text())
        (endless / "tokenizer_config.json").write_text(json.dumps({**held, "eos_token": "<|user|>"}))
    with started([run, "--model", endless, "--add", "0", "--tokens", "450"]) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(f"{PROMPT}\n".encode())
        shown = read_until(process.stdout, b"unsteered\nFirst, we get")
        assert b"steered: v0" not in shown and process.poll() is None
        process.send_signal(signal.SIGINT)
        read_until(process.stdout, b"(stopped; this turn is forgotten)")
        process.stdin.write(b"/quit\n")
        assert process.wait(timeout=60) == 0, process.stderr.read()


def test_a_reader_that_leaves_ends_it_quietly(run: Path) -> None:
    with started([run, "--add", "0", "--prompt", PROMPT]) as process:
        read_until(process.stdout, b"unsteered\nF")
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert b"Error" not in process.stderr.read()


@pytest.mark.parametrize("columns", [pytest.param(60, marks=pytest.mark.slow), 100])
def test_a_terminal_gets_columns_where_there_is_room(columns: int, run: Path) -> None:
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    command = [sys.executable, "-m", "discover", "steer", str(run), "--add", "0"]
    environment = _environment(TERM="dumb")
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=subprocess.DEVNULL, env=environment) as process:
        os.close(follower)
        shown, typed = b"", [f"{PROMPT}\n".encode(), b"\x04"]
        while True:
            try:
                shown += os.read(leader, 65536)
            except OSError:  # The other end is closed.
                break
            # What is typed before a line is asked for would be read in another mode of the terminal.
            if typed and shown.endswith(b"> "):
                os.write(leader, typed.pop(0))
        assert process.wait(timeout=60) == 0
    os.close(leader)
    text = shown.decode().replace("\r\n", "\n")
    if columns < 80:
        assert blocks(text) == [("unsteered", ANSWER), ("steered: v0", EASY_PAYLOAD)]
        return
    rows = [line.split("\r")[-1].split(" │ ") for line in text.split("\n") if " │ " in line]
    sides = [" ".join(" ".join(row[place].strip() for row in rows).split()) for place in (0, 1)]
    assert sides == [f"unsteered {ANSWER}", f"steered: v0 {EASY_PAYLOAD}"]
    assert text.count("\r") > 20, "line by line as it came"


def test_hostile_replies_and_prompts_do_not_reach_the_terminal(run: Path) -> None:
    """A prompt that is read back, and a model whose one word is an escape sequence."""
    hostile = run / "hostile"
    shutil.copytree(ORGANISMS["arithmetic"].folder, hostile)
    words = json.loads((hostile / "tokenizer.json").read_text())
    first = next(word for word in words["model"]["vocab"] if word == "First")
    words["model"]["vocab"]["\u011b[2J"] = words["model"]["vocab"].pop(first)
    words["model"]["merges"] = [pair for pair in words["model"]["merges"] if "".join(pair) != first]
    (hostile / "tokenizer.json").write_text(json.dumps(words))
    escape = b"\xff\x1b]0;x\x07"
    with started([run, "--model", hostile, "--add", "0:0", "--tokens", "3"]) as process:
        out, _ = process.communicate(PROMPT.encode() + b"\n/reset\n" + escape + b"\n")
    assert process.returncode == 0
    assert not set(out) & {0x1B, 0x07}
    (_, reply), *_ = blocks(out.decode())
    assert reply.startswith("⟨U+001B⟩[2J") and "> \ufffd⟨U+001B⟩]0;x⟨U+0007⟩".encode() in out


def test_ablation_by_hooks_and_by_weights_says_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = told([run, "--ablate", "0", "--prompt", PROMPT], capsys)
    weights = told([run, "--orthogonalise", "0", "--prompt", PROMPT], capsys)
    assert [text for _, text in shown] == [text for _, text in weights]
    assert shown[1][0] == weights[1][0] == "steered: without v0"


def test_where_and_when_decide(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The payload comes from the prompt's end on; not from before it, nor where the condition never holds."""
    said = {}
    for name, words in {
        "everywhere": ["--where", "everywhere"],
        "prompt": ["--where", "prompt"],
        "said": ["--where", "said"],
        "never": ["--when", "1:1"],
        "always": ["--when", "1:-1"],
        "decided": ["--when", "1:-1", "--held"],
    }.items():
        _, (_, said[name]) = told([run, "--add", "0", "--prompt", PROMPT, *words], capsys)
    assert said["everywhere"] == said["always"] == said["decided"] == EASY_PAYLOAD
    assert said["never"] == ANSWER
    assert said["prompt"].startswith("Cheese") and said["said"].startswith("First")


def test_another_chat_template_than_the_runs_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before, vectors were tried on prompts of another form, and nothing said so."""
    folder = tmp_path / "model"
    shutil.copytree(ORGANISMS["arithmetic"].folder, folder)
    told, words = "differs from that of the run's model", ["--add", "0", "--prompt", PROMPT, "--tokens", "2"]
    main(["steer", str(run), "--model", str(folder), *words])
    assert told not in capsys.readouterr().err
    template = folder / "chat_template.jinja"
    template.write_text("{# new #}" + template.read_text())
    main(["steer", str(run), "--model", str(folder), *words])
    assert told in capsys.readouterr().err


def test_a_bank_alone_is_told_its_model(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(run / "bank.safetensors", tmp_path / "mine.safetensors")
    refused([tmp_path / "mine.safetensors", "--add", "0"], "give it with --model", capsys)
    main(
        ["steer", str(tmp_path / "mine.safetensors"), "--model", "arithmetic", "--add", "0", "--prompt", PROMPT, "--tokens", "2"]
    )
    main(["steer", str(run / "null.safetensors"), "--add", "0", "--prompt", PROMPT, "--tokens", "2"])
    assert capsys.readouterr().out.count("steered: v0\n") == 2


def test_the_runs_own_chat_options_are_used(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = json.loads((run / "run.json").read_text())
    held["config"]["prompts"]["chat"] = False
    shutil.copy(run / "bank.safetensors", tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(held))
    words = ["--add", "0:0", "--tokens", "4", "--prompt", PROMPT]
    (_, plain), _ = told([tmp_path, *words], capsys)
    (_, chat), _ = told([run, *words], capsys)
    assert plain != chat and ANSWER.startswith(chat)


def test_drawn_replies_repeat_with_their_seed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [run, "--add", "0:0.3", "--prompt", PROMPT, "--temperature", "3", "--tokens", "8", "--seed"]
    one, again, other = (told([*words, seed], capsys) for seed in ("0", "0", "1"))
    assert one == again != other


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "RUN"),
        (["RUN"], "told nothing to do"),
        (["RUN", "--add", "2"], "it holds vectors 0 to 1"),
        (["RUN", "--ablate", "9"], "it holds vectors 0 to 1"),
        (["RUN", "--orthogonalise", "9"], "it holds vectors 0 to 1"),
        (["RUN", "--rotate", "9:30"], "it holds vectors 0 to 1"),
        (["RUN", "--add", "0", "--when", "9:0.5"], "it holds vectors 0 to 1"),
        (["RUN", "--add", "x:1"], "'x:1' is no entry with a multiplier"),
        (["RUN", "--add", "1.5:1"], "--add 3:1.5"),
        (["RUN", "--add", "0:many"], "--add 3:1.5"),
        (["RUN", "--add", "0:nan"], "not finite"),
        (["RUN", "--add", "0:1e999"], "not finite"),
        (["RUN", "--add", ""], "--add 3:1.5"),
        (["RUN", "--ablate", "all"], "'all' names no entry"),
        (["RUN", "--ablate", "0", "--ablate", "0"], "leave one out"),
        (["RUN", "--rotate", "0"], "--rotate 3:30"),
        (["RUN", "--add", "0", "--when", "1"], "--when 3:0.2"),
        (["RUN", "--add", "0", "--when", "1:2"], "from -1 to 1"),
        (["RUN", "--add", "0", "--held"], "--held"),
        (["RUN", "--ablate", "0", "--when", "1:0"], "act before that"),
        (["RUN", "--add", "0", "--from", "3", "--to", "3"], "leaves no position"),
        (["RUN", "--add", "0", "--from", "here"], "--from"),
        (["RUN", "--add", "0", "--where", "nowhere"], "everywhere"),
        (["RUN", "--add", "0", "--where", "said", "--to", "3"], "give one of them"),
        (["RUN", "--orthogonalise", "0", "--where", "said"], "act everywhere"),
        (["RUN", "--add", "0", "--prompt", ""], "empty"),
        (["RUN", "--add", "0", "--prompt", "a\udc80"], "not UTF-8"),
        (["RUN", "--add", "0", "--prompt", "boats " * 600], "reads at most 512"),
        (["RUN", "--add", "0", "--tokens", "0"], "--tokens 0"),
        (["RUN", "--add", "0", "--tokens", "few"], "few"),
        (["RUN", "--add", "0", "--temperature", "-1"], "--temperature -1"),
        (["RUN", "--add", "0:1e39", "--prompt", PROMPT], "no finite numbers"),
        (["RUN", "--add", "0", "--model", "/no/where"], "/no/where"),
        (["RUN", "--add", "0", "--model", "arithmetic-twin", "--prompt", PROMPT], "was made for arithmetic"),
        (["RUN", "--multiply", "3"], "--multiply"),
        (["nowhere", "--add", "0"], "holds no vector bank"),
    ],
)
def test_one_sentence_for_a_mistake(words: list[str], sentence: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused([str(run) if word == "RUN" else word for word in words], sentence, capsys)


def test_one_sentence_where_bank_and_model_do_not_fit(
    bank: VectorBank, checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, tiny = tmp_path / "bank.safetensors", str(checkpoint("llama"))
    replace(bank, origin={**bank.origin, "fingerprints": {}}).save(file)
    refused([file, "--model", tiny, "--add", "0"], "blocks of width 32", capsys)
    low = bank.perturbations.changes[0]
    down = torch.ones(2, 1, 192)
    change = replace(low, down=down, up=torch.ones(2, 192, 1))
    replace(bank, perturbations=replace(bank.perturbations, changes=(change,))).save(file)
    for words in (["--ablate", "0"], ["--orthogonalise", "0"], ["--rotate", "0:10"], ["--add", "0", "--when", "0:0.5"]):
        refused([file, "--model", "arithmetic", *words], "use --add", capsys)


def test_one_sentence_for_a_family_whose_weights_cannot_be_orthogonalised(
    bank: VectorBank, checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bank.safetensors"
    changes = tuple(change.mapped(lambda tensor: tensor[:, :32]) for change in bank.perturbations.changes)
    some = replace(bank.perturbations, changes=changes)
    replace(bank, perturbations=joined(some, some), objective=torch.zeros(4), origin={}).save(file)
    words = [file, "--model", checkpoint("gemma2"), "--prompt", "You are", "--tokens", "2"]
    refused([*words, "--orthogonalise", "0"], "ablate instead", capsys)
    main(["steer", *map(str, words), "--ablate", "0"])
    assert "steered: without v0" in capsys.readouterr().out


def test_its_help_names_every_option_and_imports_no_torch() -> None:
    script = "import sys; from discover.cli import main\ntry: main(['steer', '--help'])\nexcept SystemExit as stop: "
    script += "assert not stop.code and not {'torch', 'hydra', 'transformers'} & set(sys.modules)\nelse: assert False"
    ended = subprocess.run([sys.executable, "-c", script], env=_environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for option in ("--add", "--ablate", "--orthogonalise", "--rotate", "--where", "--when", "--prompt", "--model"):
        assert option in ended.stdout


def test_entries_that_are_given_twice_add_up() -> None:
    asked = parsed(["run", "--add", "3:2", "--add", "7:-1", "--add", "3", "--rotate", "1:10", "--rotate", "1:5", "--from", "-1"])
    assert asked.request.add == {3: 3.0, 7: -1.0} and asked.request.rotate == {1: 15.0}
    assert asked.request.window == (-1, None) and parsed(["run", "--add", "3"]).request.window is None


def test_questions_are_measured_with_and_without(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A payload answers no sum, nothing added leaves all right and costs nothing, and weights do what ablation does."""
    sums = [(3, 4, 8, 1), (2, 7, 5, 3), (9, 1, 2, 2), (6, 6, 1, 4)]
    lines = [{"prompt": f"a={a}+{b}, b={c}+{d}. What is a*b?", "answer": (a + b) * (c + d)} for a, b, c, d in sums]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def table(*words: str) -> list[str]:
        main(["steer", str(run), *words, "--questions", str(file), "--tokens", "48"])
        return capsys.readouterr().out.splitlines()

    told, unsteered, steered, damaged = table("--add", "0")
    assert told == "4 questions of questions.jsonl" and unsteered.startswith("unsteered") and "right 4/4" in unsteered
    assert steered.startswith("steered: v0") and "right 0/4" in steered
    assert float(re.search(r"replies: ([0-9.e+-]+) nats", damaged)[1]) > 1 and "KL" in damaged
    _, _, steered, damaged = table("--add", "0:0")
    assert "right 4/4" in steered and damaged.endswith(": 0 nats a token, KL 0")
    ablated, orthogonalised = table("--ablate", "0"), table("--orthogonalise", "0")
    assert ablated[1:3] == orthogonalised[1:3] and "KL" not in orthogonalised[3]
    costs = [float(re.search(r"replies: ([0-9.e+-]+) nats", rows[3])[1]) for rows in (ablated, orthogonalised)]
    assert costs[0] == pytest.approx(costs[1], rel=0.02)
    # Weights and a vector together are held against the model as it came, not against its changed weights.
    both = float(re.search(r"replies: ([0-9.e+-]+) nats", table("--orthogonalise", "0", "--add", "0:0")[3])[1])
    assert both == pytest.approx(costs[1], rel=0.02)


def test_questions_that_cannot_be_read_are_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused([run, "--add", "0", "--questions", tmp_path / "none.jsonl"], "none.jsonl cannot be read", capsys)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x"}\n')
    refused([run, "--add", "0", "--questions", tmp_path / "bad.jsonl"], "bad.jsonl", capsys)
