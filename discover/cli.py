"""The command `discover`: Hydra overrides for a run, and verbs for everything around it."""

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from discover.config import check_option
from discover.errors import UsageError

USAGE = """discover: find what a language model can be pushed into doing, without being told what to look for

  discover                                  the main job on the built-in organism `arithmetic`
  discover model.path=FOLDER_OR_HUB_ID 'prompts.texts=["…"]'
                                            the same on your model and prompt
  discover -m seed=0,1,2 search.radius=…    a sweep: every combination is a run of its own
  discover --config-dir sweeps --config-name radius -m
                                            a prepared sweep
  discover resume RUN                       go on with an interrupted run
  discover organism list                    the built-in models with known, planted behaviour
  discover organism check NAME              measure that such a model does what it should
  discover organism train NAME              train it from scratch
  discover organism score RUN …             hold finished runs on organisms against the truth
  discover --cfg job                        every option with its value
  discover --help                           this text

Options are key=value; discover/config.py says what each means. A run leaves its folder below outputs/.
Exit status: 0 done, 2 something asked for cannot be done (one sentence says what), 1 a failure of the program.
"""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READING = (
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--package",
    "-p",
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _command(words)()
    except UsageError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("\nInterrupted; `discover resume RUN` goes on where it stood.", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno not in FULL:
            raise
        _fail(f"There is no room left to write ({error.strerror}); free some, then `discover resume RUN` goes on where it stood.")


def _fail(sentence: str) -> None:
    print(f"discover: {sentence}", file=sys.stderr)
    sys.exit(2)


def _command(words: list[str]) -> Callable[[], None]:
    """Return what the words ask for; a word that is no verb is a Hydra override."""
    match words:
        case ["--help" | "-h" | "help", *_]:
            return lambda: print(USAGE, end="")
        case ["resume", *rest]:
            return lambda: _resume(rest)
        case ["organism", *rest]:
            return lambda: _organism(rest)
        case _:
            return lambda: _hydra(words)


def _resume(words: list[str]) -> None:
    if len(words) != 1:
        raise UsageError(f"discover resume takes one run folder; {len(words)} were given.")
    from discover.folder import saved_config
    from discover.pipeline import run

    run(saved_config(Path(words[0])), Path(words[0]))


def _organism(words: list[str]) -> None:
    from discover.organisms import commands

    parser = argparse.ArgumentParser(prog="discover organism", exit_on_error=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list")
    train = verbs.add_parser("train")
    train.add_argument("name")
    train.add_argument("--folder", type=Path, help="where to write the checkpoint; the package's own folder unless given")
    train.add_argument("--seed", type=int, default=0)
    check = verbs.add_parser("check")
    check.add_argument("name")
    score = verbs.add_parser("score")
    score.add_argument("runs", nargs="+", type=Path)
    try:
        asked = parser.parse_args(words)
    except argparse.ArgumentError as error:
        raise UsageError(f"discover organism: {error}") from error
    match asked.verb:
        case "list":
            commands.show()
        case "train":
            commands.train(asked.name, asked.folder, asked.seed)
        case "check":
            commands.check(asked.name)
        case "score":
            commands.score(asked.runs)


def _hydra(words: list[str]) -> None:
    """Compose the config and run, once or as a sweep."""
    for word in _overrides(words):
        name = re.match(r"[+~]*([^=@]+)", word)
        if name and not name[1].startswith("hydra."):
            check_option(name[1])
    # Hydra then lets exceptions through, and main() tells them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from discover.config import Config

    ConfigStore.instance().store(name="discover", node=Config)

    @hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
    def task(composed: DictConfig) -> float:
        from discover.pipeline import run

        config = OmegaConf.to_object(composed)
        assert isinstance(config, Config)
        folder = Path(config.folder or hydra.core.hydra_config.HydraConfig.get().runtime.output_dir)
        return float(sum(finding.verdict == "finding" for finding in run(config, folder)))

    sys.argv = ["discover", *words]
    try:
        task()
    except (HydraException, OmegaConfBaseException) as error:
        if isinstance(error.__cause__, UsageError):
            raise error.__cause__ from error
        raise UsageError(" ".join(str(error).split())) from error


def _overrides(words: list[str]) -> list[str]:
    """Return those words that are overrides, not flags of Hydra or their values."""
    found, previous = [], ""
    for word in words:
        if not word.startswith("-") and previous not in READING:
            found.append(word)
        previous = word
    return found


def config_folder() -> Path:
    """Return the folder of the YAML: in an installed package beside this file, in a checkout one level up."""
    packaged = Path(__file__).parent / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "conf"
