"""The sweeps for wandb say what `discover` understands, as wandb's own agent would say it."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from test_configs import by_command
from wandb import wandb_agent
from wandb.sdk.launch.sweeps.utils import load_sweep_config

from discover.choices import Diversity, TrackingMode
from discover.cli import main
from discover.config import Config, SearchConfig
from discover.report import tracking
from discover.schema import check_option

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "sweeps" / "wandb").glob("*.yaml"))
SUMMARY = set(re.findall(r'"(summary/\w+)"', Path(tracking.__file__).read_text()))


@pytest.fixture(params=SWEEPS, ids=lambda path: path.stem)
def sweep(request: pytest.FixtureRequest) -> dict[str, Any]:
    found = load_sweep_config(str(request.param))
    assert found and found["name"] == request.param.stem
    return found


def values_of(parameter: dict[str, Any]) -> list[Any]:
    """Return every value that a parameter can take, or the ends of its range as a sweep writes them."""
    ends = [parameter["min"], parameter["max"]] if "values" not in parameter else []
    return parameter.get("values") or ([float(end) for end in ends] if "q" in parameter else ends)


def command(sweep: dict[str, Any], chosen: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the command that wandb's agent starts for the values of a run."""
    started: list[list[str]] = []

    class Noted:
        def __init__(self, command: list[str], **_: Any) -> None:
            started.append(command)

    monkeypatch.setattr(wandb_agent, "AgentProcess", Noted)
    monkeypatch.setenv("WANDB_RUN_ID", "before")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "before")
    agent = wandb_agent.Agent.__new__(wandb_agent.Agent)
    agent._sweep_command, agent._in_jupyter, agent._function = list(sweep["command"]), False, None
    agent._forward_signals, agent._run_processes = False, {}
    agent._command_run({"run_id": "abc", "program": None, "args": {name: {"value": value} for name, value in chosen.items()}})
    return started[0]


def every_choice(sweep: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield choices of values among which each value of each parameter stands once."""
    held = {name: values_of(parameter) for name, parameter in sweep["parameters"].items()}
    for place in range(max(map(len, held.values()))):
        yield {name: values[place % len(values)] for name, values in held.items()}


def test_what_the_agent_says_is_understood(sweep: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for chosen in every_choice(sweep):
        env, program, *words = command(sweep, chosen, monkeypatch)
        assert (env, program) == ("/usr/bin/env", "discover")
        given = by_command([*words, f"folder={tmp_path / 'run'}"])
        assert given.tracking.mode is TrackingMode.online and given.name == sweep["name"]
        for name, value in chosen.items():
            section, _, option = name.rpartition(".")
            held = getattr(getattr(given, section) if section else given, option)
            meant = {"null": None}.get(value, value) if isinstance(value, str) else value
            assert (held.value if isinstance(held, Diversity) else held) == meant, name


def test_every_combination_of_choices_goes_together() -> None:
    """A sweep that is drawn at random meets all of them; a refused one would be a failed run."""
    (path,) = [path for path in SWEEPS if path.stem == "search"]
    sweep = load_sweep_config(str(path))
    assert sweep
    held = {
        name.removeprefix("search."): values_of(parameter)
        for name, parameter in sweep["parameters"].items()
        if name.startswith("search.")
    }
    for chosen in product(*held.values()):
        given = {name: None if value == "null" else value for name, value in zip(held, chosen, strict=True)}
        SearchConfig(**{**given, "diversity": Diversity[given["diversity"]]})


def test_a_sweep_aims_at_what_a_run_is_summed_up_by(sweep: dict[str, Any]) -> None:
    assert sweep["metric"]["name"] in SUMMARY and sweep["metric"]["goal"] == "maximize"
    assert sweep["method"] in ("grid", "bayes", "random")
    for name, parameter in sweep["parameters"].items():
        check_option(name, Config)
        assert None not in values_of(parameter), "it would arrive as the word None"
        assert sweep["method"] != "grid" or "values" in parameter


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_names_the_commands_that_start_it(path: Path) -> None:
    told = path.read_text().splitlines()[1]
    assert f"wandb sweep --project discover sweeps/wandb/{path.stem}.yaml" in told and "wandb agent " in told


def test_the_command_of_an_agent_runs(checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the values and the environment that an agent gives, but offline, on a small model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["discover"])
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    (path,) = [path for path in SWEEPS if path.stem == "radius"]
    sweep = load_sweep_config(str(path))
    assert sweep
    _, _, *words = command(sweep, {"search.relative_radius": 0.9, "seed": 7}, monkeypatch)
    assert os.environ["WANDB_RUN_ID"] == "abc"
    small = [
        "search.vectors=2",
        "audit.null_vectors=2",
        "audit.forced_tokens=0",
        "audit.used=0",
        "speech.tokens=2",
        "audit.samples=2",
    ]
    main([*words, *small, f"model.path={checkpoint('llama')}", 'prompts.texts=["Count."]', "tracking.mode=offline"])
    (folder,) = (tmp_path / "outputs" / "radius").iterdir()
    about = json.loads((folder / "run.json").read_text())
    assert (about["config"]["seed"], about["config"]["search"]["relative_radius"], about["tracked"]) == (7, 0.9, True)
    assert list(folder.glob("wandb/offline-run-*/run-abc.wandb")), "the run that the sweep knows"
