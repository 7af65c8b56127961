"""What the README tells a new user to type is what works."""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from discover.cli import main
from discover.config import Config
from discover.organisms.catalogue import ORGANISMS
from discover.schema import check_option
from discover.verbs.steer import parsed

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
VERBS = {"resume", "sweep", "organism", "steer"}


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of the README that are marked with `language`."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    return [body for marked, body in fenced if marked == language]


def commands() -> list[list[str]]:
    """Return the words after `discover` of every command that stands on a line of its own in a block."""
    lines = [line.strip().removeprefix("$ ").removeprefix(".venv/bin/") for body in blocks("") for line in body.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("discover ")]


def test_every_command_names_verbs_options_and_organisms_that_exist() -> None:
    assert len(commands()) >= 5 and sum(words[0] == "steer" for words in commands()) >= 5
    for words in commands():
        verb = words[0] if words[0] in VERBS else None
        if verb == "sweep":
            assert (ROOT / "sweeps" / f"{words[1]}.yaml").exists()
        if verb == "organism" and words[1] in ("check", "train"):
            assert words[2] in ORGANISMS
        if verb == "steer":
            parsed(words[1:])
            continue
        for word in words:
            name = word.split("=")[0]
            if name == "+experiment":
                assert (ROOT / "conf" / "experiment" / f"{word.split('=')[1]}.yaml").exists()
            elif "=" in word and name != "folder":
                check_option(name, Config)


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"demo", "test"} <= set(re.findall(r"\bmake ([\w-]+)", TEXT)) <= targets


def test_the_tree_is_the_tree() -> None:
    (tree,) = [body for body in blocks("") if body.startswith("conf/")]
    told = {line.split()[0].rstrip("/") for line in tree.splitlines() if line.startswith("  ") and not line.startswith("   ")}
    package = ROOT / "discover"
    real = {path.name for path in package.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    real |= {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    assert told == real


QUICK = ("audit.samples=4", "prompts.neutral=0", "search.layers=depth", "search.calibration=turn")


def test_the_python_snippet_runs_on_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    main([f"folder={folder}", "search.vectors=3", "search.rounds=1", "audit.forced_tokens=0", "tracking.mode=disabled", *QUICK])
    (snippet,) = blocks("python")
    ast.parse(snippet)
    ran = subprocess.run(
        [sys.executable, "-c", snippet.replace("outputs/run/<run>", str(folder))],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.strip().splitlines()) >= 4
    assert ran.stdout.startswith("First, we get a = 3 + 4 = 7.")
