"""Every option has a meaning written beside it, and every YAML composes into the typed config."""

import ast
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from discover.choices import Diversity, Kind, Method, Solver, TrackingMode
from discover.cli import main
from discover.config import Config, SpeechConfig
from discover.errors import UsageError
from discover.inputs import labelled
from discover.organisms.catalogue import ORGANISMS
from discover.pilot.arms import by_speech, is_open
from discover.schema import check_option, config_from, options, plain
from discover.verbs import run
from discover.verbs.run import beside

ROOT = Path(__file__).parents[1]


def composed(folder: Path, name: str, overrides: list[str]) -> Config:
    GlobalHydra.instance().clear()
    ConfigStore.instance().store(name="discover", node=Config)
    with initialize_config_dir(str(folder), version_base="1.3"):
        search = [f"hydra.searchpath=[{beside('conf').as_uri()}]"]
        config = OmegaConf.to_object(compose(name, overrides=[*search, *overrides]))
    assert isinstance(config, Config)
    return config


def test_the_main_config_is_the_defaults() -> None:
    assert composed(beside("conf"), "config", []) == Config()


@pytest.mark.parametrize("sweep", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_composes_and_names_its_command(sweep: Path) -> None:
    config = composed(sweep.parent, sweep.stem, [])
    assert config.name == sweep.stem
    assert f"discover sweep {sweep.stem} " in sweep.read_text().splitlines()[1]
    params = OmegaConf.load(sweep).hydra.sweeper.params
    for name in params:
        check_option(name, Config)


OURS = "one_arm"
"""An experiment that nobody published: one search without a pilot."""
EXPERIMENTS = sorted((ROOT / "conf" / "experiment").glob("*.yaml"))
PUBLISHED = [path for path in EXPERIMENTS if path.stem != OURS]
TOYS = sorted((ROOT / "conf" / "toy").glob("*.yaml"))


def by_command(words: Sequence[str]) -> Config:
    """Return the config that the words of a `discover` command compose to, after the checks that the command makes."""
    given: list[Config] = []

    def noted(config: Config, folder: Path) -> float:
        given.append(config)
        return 0.0

    with pytest.MonkeyPatch.context() as patch:
        # What Hydra sets for the process, and what it reads.
        patch.setattr("sys.argv", ["discover"])
        patch.setenv("HYDRA_FULL_ERROR", "1")
        GlobalHydra.instance().clear()
        run.composed(list(words), noted)
    return given[0]


def written_commands(path: Path) -> list[list[str]]:
    """Return the commands in the header of a YAML, each as its words after `discover`."""
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    found = [match[1] for line in header if (match := re.match(r"#\s+(?:toy: )?discover (.*)", line))]
    return [shlex.split(re.split(r"\s{3,}", line)[0]) for line in found]


@pytest.mark.parametrize("experiment", PUBLISHED, ids=lambda path: path.stem)
def test_every_experiment_composes_alone_and_names_its_commands(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = composed(beside("conf"), "config", [f"+experiment={experiment.stem}"])
    published, toy = written_commands(experiment)
    assert config.name == experiment.stem
    assert config.model.path not in ORGANISMS or "model.path=FOLDER" in published, "the published model, or a place for it"
    for words in (published, toy):
        verbs, options = [word for word in words if "=" not in word], [word for word in words if "=" in word]
        assert options[0] == f"+experiment={experiment.stem}"
        assert verbs == (["contrast"] if "contrast" in yaml_of(experiment) else [])
        given = by_command([*options, f"folder={tmp_path / 'run'}"])
        assert given.name == experiment.stem
    # The toy comes last: it is what changes the published settings.
    assert given.model.path in ORGANISMS and options[1] == f"+toy={given.model.path}"
    assert (given.search.radius, given.contrast.layer, given.tracking.mode) == (None, None, TrackingMode.disabled)
    assert given.search.solver is config.search.solver and given.contrast.method is config.contrast.method
    if verbs:
        assert ORGANISMS[given.model.path].examples is not None
        labelled(given).split((given.contrast.training, given.contrast.selection, given.contrast.test), 0)
    else:
        assert given.prompts.texts == [] and given.search.vectors == 16


def yaml_of(path: Path) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(path))


@pytest.mark.parametrize("toy", TOYS, ids=lambda path: path.stem)
def test_every_toy_composes_alone_and_is_used_by_an_experiment(toy: Path) -> None:
    config = composed(beside("conf"), "config", [f"+toy={toy.stem}"])
    assert config.model.path == toy.stem in ORGANISMS and config.tracking.mode is TrackingMode.disabled
    assert any(f"+toy={toy.stem}" in path.read_text() for path in EXPERIMENTS)


def test_the_published_numbers_are_those_of_the_files() -> None:
    found = {path.stem: composed(beside("conf"), "config", [f"+experiment={path.stem}"]) for path in PUBLISHED}
    for name, vectors, steps, radius, layers in (
        ("backdoor", 100, 1200, 4.0, (7, 15)),
        ("chain_of_thought", 32, 300, 1.0, (7, 15)),
        ("refusal", 32, 600, 4.0, (7, 31)),
        ("vector_arithmetic", 32, 600, 4.0, (7, 31)),
        ("adapter", 100, 400, 0.35, (7, 15)),
    ):
        search = found[name].search
        assert (search.vectors, search.steps, search.radius) == (vectors, steps, radius), name
        assert (search.source_layer, search.target_layer) == layers
        assert (search.solver, search.learning_rate, search.normalised, search.reply_positions) == (Solver.ascent, 1e-3, False, 0)
        assert search.diversity is (Diversity.none if name == "adapter" else Diversity.sequential)
    assert (found["adapter"].search.perturbation, found["adapter"].search.rank, found["adapter"].search.weighed) == (
        Kind.adapter,
        512,
        True,
    )
    assert (found["chain_of_thought"].search.power, found["chain_of_thought"].search.q) == (4.0, 4.0)
    assert (found["backdoor"].search.positions, found["adapter"].search.positions, found["refusal"].search.positions) == (3, 3, 0)
    assert -10.0 in found["vector_arithmetic"].audit.doses and len(found["vector_arithmetic"].audit.clean) == 3
    caa, heads, refusal = (found[name].contrast for name in ("caa", "heads", "refusal_direction"))
    assert (caa.method, caa.layer, caa.test) == (Method.means, 13, 50) and {1.0, -1.0} <= set(caa.multipliers)
    assert (heads.method, heads.training, heads.test) == (Method.heads, 9, 50) and 4 in heads.heads
    assert (refusal.method, refusal.training, refusal.selection, refusal.test) == (Method.refusal, 128, 32, 100)
    for name in ("refusal", "vector_arithmetic"):
        assert found[name].model.path == "Qwen/Qwen1.5-14B-Chat"


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("+experiment=nonsense", "backdoor"),
        ("experiment=caa", "backdoor"),
        ("+toy=nonsense", "shortcut"),
        ("toy=conduct", "conduct"),
    ],
)
@pytest.mark.parametrize("verb", [[], ["contrast"]], ids=["search", "contrast"])
def test_an_experiment_that_there_is_none_of_is_refused_with_those_there_are(
    word: str, known: str, verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main([*verb, word])
    told = capsys.readouterr().err
    assert left.value.code == 2 and told.startswith(f"discover: {word} names no prepared ") and known in told
    assert len(told.splitlines()) == 1 and list(tmp_path.iterdir()) == []


def test_one_search_without_a_pilot_is_what_the_tables_before_it_were_made_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = composed(beside("conf"), "config", [f"+experiment={OURS}"])
    assert config.name == OURS and config.prompts.neutral == 0
    assert not is_open(config.search) and not by_speech(config.search)
    words = [*written_commands(ROOT / "conf" / "experiment" / f"{OURS}.yaml")]
    assert words == [[f"+experiment={OURS}"], [f"+experiment={OURS}", "+toy=arithmetic"]]
    for one in words:
        given = by_command([*one, f"folder={tmp_path / 'run'}"])
        assert (given.name, given.prompts.neutral) == (OURS, 0) and not is_open(given.search) and not by_speech(given.search)
    assert is_open(Config().search) and by_speech(Config().search) and Config().prompts.neutral > 0


def test_a_config_survives_its_json() -> None:
    config = composed(beside("conf"), "config", ["search.solver=ascent", "prompts.texts=[a,b]", "model.dtype=bfloat16"])
    assert config_from(plain(config), Config) == config
    with pytest.raises(UsageError, match="nonsense"):
        config_from({**plain(config), "nonsense": 1}, Config)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"samples": -1}, "speech.samples=-1 must be 0 or more"),
        ({"temperature": 0.7}, "speech.temperature has no meaning for speech.samples=0"),
        ({"samples": 2, "temperature": 0.0}, "speech.temperature=0.0 must be a finite number above 0"),
    ],
)
def test_draws_are_refused_where_they_mean_nothing(given: dict[str, float], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        SpeechConfig(**given)
    assert SpeechConfig(samples=2, temperature=0.7).samples == 2


def test_an_unknown_option_is_met_with_the_near_ones() -> None:
    assert len(list(options(Config))) == len(set(options(Config))) > 30
    with pytest.raises(UsageError, match=r"did you mean search\.target_layer"):
        check_option("search.targetlayer", Config)


def test_every_option_says_what_it_means() -> None:
    """A field of a config is followed by a string, unless its type names a documented choice."""
    silent = []
    for node in ast.parse((ROOT / "discover" / "config.py").read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config") and node.name != "Config":
            for entry, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(entry, ast.AnnAssign) and not (
                    isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                ):
                    silent.append(f"{node.name}.{ast.unparse(entry.target)}")
    assert set(silent) <= {
        "ModelConfig.device",
        "ModelConfig.attention",
        "SearchConfig.perturbation",
        "SearchConfig.solver",
        "SearchConfig.diversity",
        "ContrastConfig.method",
        "ContrastConfig.measure",
        "TrackingConfig.mode",
        "TrackingConfig.project",
        "TrackingConfig.tags",
        "TrackingConfig.notes",
    }


@pytest.mark.parametrize(
    "words",
    [
        ["+experiment=caa", "contrast.test=7", "--cfg", "job"],
        ["--cfg", "job", "+experiment=caa", "contrast.test=7"],
        ["+experiment=caa", "--cfg", "job", "contrast.test=7"],
    ],
    ids=["after", "before", "between"],
)
def test_flags_may_stand_anywhere_among_overrides(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["discover"])
    GlobalHydra.instance().clear()
    main(["contrast", *words])
    shown = OmegaConf.create(capsys.readouterr().out)
    assert (shown.name, shown.contrast.test, shown.contrast.layer) == ("caa", 7, 13) and list(tmp_path.iterdir()) == []
