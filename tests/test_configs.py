"""Every option has a meaning written beside it, and every YAML composes into the typed config."""

import ast
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from discover.config import Config, check_option, config_from, options, plain
from discover.errors import UsageError
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
        check_option(name)


def test_a_config_survives_its_json() -> None:
    config = composed(beside("conf"), "config", ["search.solver=ascent", "prompts.texts=[a,b]", "model.dtype=bfloat16"])
    assert config_from(plain(config)) == config
    with pytest.raises(UsageError, match="nonsense"):
        config_from({**plain(config), "nonsense": 1})


def test_an_unknown_option_is_met_with_the_near_ones() -> None:
    assert len(list(options())) == len(set(options())) > 30
    with pytest.raises(UsageError, match=r"did you mean search\.target_layer"):
        check_option("search.targetlayer")


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
        "TrackingConfig.mode",
        "TrackingConfig.project",
        "TrackingConfig.tags",
        "TrackingConfig.notes",
    }
