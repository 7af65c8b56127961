"""A run that is killed, at any moment, and started again in its folder ends as if nothing had happened."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from discover.config import Config
from discover.errors import UsageError
from discover.folder import opened

# One process loads the libraries and forks the runs, so that a kill costs no second start of the interpreter.
FORKING = """
import json, os, shutil, signal, sys, time
import discover.pipeline, hydra
from discover.cli import main

words, folder, shares = json.loads(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])

def start(words):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        main(words)
        os._exit(0)
    return child

begun = time.monotonic()
_, whole = os.waitpid(start([*words, f"folder={folder}/undisturbed"]), 0)
assert whole == 0
took = time.monotonic() - begun
killed = []
for number, share in enumerate(shares):
    place = f"{folder}/killed-{number}"
    for _ in range(6):
        child = start([*words, f"folder={place}"])
        time.sleep(share * took)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            break
        # The machine was busier before: this run has ended, so it took less than the wait, and another one is struck earlier.
        took *= share
        shutil.rmtree(place)
    left = sorted(os.listdir(place)) if os.path.isdir(place) else []
    again = [*words, f"folder={place}"] if "run.json" not in left else ["resume", place]
    _, ended = os.waitpid(start(again), 0)
    killed.append({"killed": os.WIFSIGNALED(status), "left": left, "ended": ended})
print(json.dumps(killed))
"""
SAME = (
    *("bank.safetensors", "null.safetensors", "triage.jsonl", "completions.jsonl", "clusters.json", "map.json"),
    *("unsteered.json", "pilot.json"),
    *("findings.json", "decodings.jsonl", "hints.json", "metrics.jsonl"),
)


def interrupted(words: list[str], folder: Path, shares: list[float]) -> list[dict[str, object]]:
    """Kill one run at each share of an undisturbed run's time, start it again, and return what was seen."""
    ended = subprocess.run(
        [sys.executable, "-c", FORKING, json.dumps(words), str(folder), json.dumps(shares)],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def check(words: list[str], folder: Path, shares: list[float]) -> None:
    seen = interrupted(words, folder, shares)
    assert all(one["ended"] == 0 for one in seen)
    assert all(one["killed"] for one in seen)
    for name in SAME:
        whole = (folder / "undisturbed" / name).read_bytes()
        assert all((folder / f"killed-{number}" / name).read_bytes() == whole for number in range(len(shares))), name


@pytest.mark.parametrize("shares", [[0.5], pytest.param([0.2, 0.5, 0.8], marks=pytest.mark.slow)], ids=["once", "three times"])
def test_killed_in_the_middle(shares: list[float], checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    words = [f"model.path={checkpoint('llama')}", 'prompts.texts=["Count the boats."]', "tracking.mode=disabled"]
    words += ["search.vectors=8", "search.rounds=8", "speech.tokens=12", "speech.rows=4", "audit.forced_tokens=8"]
    words += ["pilot.vectors=2", "pilot.tokens=8", "prompts.neutral=1", "audit.samples=4", "audit.null_vectors=8"]
    check(words, tmp_path, shares)


def test_what_a_killed_process_had_begun_to_write_is_removed_by_the_next_alone(tmp_path: Path) -> None:
    begun, kept = tmp_path / ".bank.safetensors.1.partial", tmp_path / "notes.partial"
    with opened(tmp_path, Config()):
        # This process holds the folder: what appears now may be its own, and another one is refused before it removes any.
        begun.touch()
        kept.touch()
        with pytest.raises(UsageError, match="Another process"), opened(tmp_path, Config()):
            pass
        assert begun.exists()
    with opened(tmp_path, Config()):
        assert not begun.exists() and kept.exists()


@pytest.mark.slow
def test_killed_at_ten_moments_of_the_main_job(tmp_path: Path) -> None:
    words = ["tracking.mode=disabled", "search.vectors=32", "search.rounds=10", "audit.forced_tokens=16"]
    check(words, tmp_path, [0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95])
