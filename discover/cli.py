"""The command `discover`: Hydra overrides for a run, and verbs for everything around it."""

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from discover.config import Config, check_option
from discover.errors import UsageError

USAGE = """discover: find what a language model can be pushed into doing, without being told what to look for

  discover                                  the main job on the built-in organism `arithmetic`
  discover model.path=FOLDER_OR_HUB_ID 'prompts.texts=["…"]'
                                            the same on your model and prompt
  discover -m seed=0,1,2 search.radius=…    a sweep: every combination is a run of its own
  discover sweep NAME …                     a prepared sweep: seeds, radius or layers
  discover folder=RUN …                     a run in a folder of your choice; otherwise below outputs/ by date and time
  discover resume RUN                       go on with an interrupted run
  discover atlas …                          every pair of layers of a model: which amplify a direction most
  discover contrast …                       a direction from labelled examples: refusal, difference in means, attention heads
  discover organism list                    the built-in models with known, planted behaviour
  discover organism check NAME              measure that such a model does what it should
  discover organism train NAME              train it from scratch
  discover organism score RUN …             hold finished runs on organisms against the truth
  discover bench search                     which method finds what at what cost; `discover bench --help` has its options
  discover --cfg job                        every option with its value
  discover --help                           this text

Options are key=value; discover/config.py says what each means.
Exit status: 0 done, 2 something asked for cannot be done (one sentence says what), 1 a failure of the program.
"""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)
VALUED = (
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
"""Flags of Hydra that take the next word."""
PATHS = ("model.path", "prompts.file", "contrast.file", "audit.questions")
LISTS = ("prompts.texts", "tracking.tags", "audit.clean", "audit.triggers", "audit.known", "contrast.neutral", "contrast.open")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _command(words)()
    except UsageError as error:
        _fail(str(error))
    except (MemoryError, RuntimeError) as error:
        from discover.model.memory import out_of_memory

        if not out_of_memory(error):
            raise
        _fail("There is not enough memory; give fewer or shorter prompts, or a smaller search.vectors or audit.null_vectors.")
    except KeyboardInterrupt:
        again = "the same command" if words[:1] == ["bench"] else "`discover resume RUN`"
        print(f"\nInterrupted; {again} goes on where it stood.", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno in UNWRITABLE:
            _fail(f"{error.filename} cannot be written ({error.strerror}); choose another place with folder=PATH.")
        if error.errno not in FULL:
            raise
        _fail(f"There is no room left to write ({error.strerror}); free some, then `discover resume RUN` goes on where it stood.")


def _fail(sentence: str) -> None:
    print(f"discover: {sentence}", file=sys.stderr)
    sys.exit(2)


def _command(words: list[str]) -> Callable[[], None]:
    """Return what the words ask for; a word that is no verb is a Hydra override."""
    match words:
        case ["bench", *_, "--help" | "-h" | "help"]:
            from discover.bench.options import USAGE as BENCH_USAGE

            return lambda: print(BENCH_USAGE, end="")
        case ["--help" | "-h" | "help", *_]:
            return lambda: print(USAGE, end="")
        case ["resume", *rest]:
            return lambda: _resume(rest)
        case ["sweep", *rest]:
            return lambda: _sweep(rest)
        case ["atlas", *rest]:
            return lambda: _hydra(rest, _chart)
        case ["contrast", *rest]:
            return lambda: _hydra(rest, _contrast)
        case ["organism", *rest]:
            return lambda: _organism(rest)
        case ["bench", *rest]:
            return lambda: _bench(rest)
        case _:
            return lambda: _hydra(words, _run)


def _resume(words: list[str]) -> None:
    if len(words) != 1:
        raise UsageError(f"discover resume takes one run folder; {len(words)} were given.")
    from discover.folder import saved_config
    from discover.pipeline import chart, contrast, run
    from discover.storage import read_json

    folder = Path(words[0])
    config = saved_config(folder)
    # An atlas is a run of its own; what began as one must not go on as an audit.
    verbs: dict[str, Callable[[Config, Path], object]] = {"atlas": chart, "contrast": contrast}
    verbs.get(read_json(folder / "run.json").get("verb", ""), run)(config, folder)


def _sweep(words: list[str]) -> None:
    prepared = sorted(path.stem for path in beside("sweeps").glob("*.yaml"))
    if not words or words[0] not in prepared:
        raise UsageError(f"discover sweep takes the name of a prepared sweep first: {', '.join(prepared)}.")
    _hydra(["--config-dir", str(beside("sweeps")), "--config-name", words[0], "-m", *words[1:]], _run)


def _run(config: Config, folder: Path) -> float:
    """Run, and return the number of findings."""
    from discover.pipeline import run

    return float(sum(finding.verdict == "finding" for finding in run(config, folder)))


def _chart(config: Config, folder: Path) -> float:
    """Measure the pairs of layers, and return the largest gain."""
    from discover.pipeline import chart

    return max(pair.gain for pair in chart(config, folder).pairs)


def _contrast(config: Config, folder: Path) -> float:
    """Learn a direction from labelled examples, and return the largest share of test prompts that it moves."""
    from discover.pipeline import contrast

    rows = contrast(config, folder)
    return max(share.count / share.n for row in rows for share in row.shares.values())


class _Words(argparse.ArgumentParser):
    """A parser that tells a mistake as every other is told."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError; argparse would print its usage and leave."""
        raise UsageError(f"{self.prog.removeprefix('discover').strip()} {message}; `discover --help` shows the commands.".strip())


def _organism(words: list[str]) -> None:
    from discover.organisms import commands

    if not words:
        raise UsageError("discover organism takes a verb: list, check NAME, train NAME or score RUN ….")
    parser = _Words(prog="discover organism")
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
    asked = parser.parse_args(words)
    match asked.verb:
        case "list":
            commands.show()
        case "train":
            commands.train(asked.name, asked.folder, asked.seed)
        case "check":
            commands.check(asked.name)
        case "score":
            commands.score(asked.runs)


def _bench(words: list[str]) -> None:
    """Run a bench; its options are key=value words, as those of a run are."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from discover.bench.options import QUICK, BenchConfig

    verb, *given = words or [""]
    if verb not in ("search", "memory"):
        raise UsageError(f"discover bench takes search or memory first, not {verb!r}; `discover bench --help` shows both.")
    for word in given:
        if "=" not in word:
            raise UsageError(f"discover bench takes options as key=value, not {word!r}; `discover bench --help` shows them.")
        check_option(word.partition("=")[0], BenchConfig)
    try:
        asked = OmegaConf.from_dotlist(given)
        start = QUICK if asked.get("quick") else {}
        options = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(BenchConfig), start, asked))
    except OmegaConfBaseException as error:
        raise UsageError(
            f"{error.full_key or 'discover bench'}: {' '.join(str(error).split('full_key:')[0].split())}."
        ) from error
    assert isinstance(options, BenchConfig)
    if verb == "memory":
        from discover.bench.memory import print_memory

        print_memory(options)
    else:
        from discover.bench.commands import bench

        bench(options)


def _hydra(words: list[str], job: Callable[[Config, Path], float]) -> None:
    """Compose the config and do the job, once or as a sweep."""
    groups = {
        path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in sorted(beside("conf").iterdir()) if path.is_dir()
    }
    for word in _overrides(words):
        name = re.match(r"[+~]*([^=@]+)", word)
        if name and name[1] in groups:
            _check_group(word, name[1], groups[name[1]])
        elif name and name[1] != "folder" and not name[1].startswith("hydra"):
            check_option(name[1])
            if "=" not in word and not word.startswith("~"):
                raise UsageError(f"{word} is given no value; write {word}=VALUE.")
            _check_list(name[1], word.partition("=")[2])
    # Hydra then lets exceptions through, and main() tells them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from hydra._internal.utils import get_args_parser
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from discover.folder import nothing_left_of_a_mistake

    # Of Hydra's own parser only what it knows is wanted; its mistakes would be told with a page of usage.
    flags = _Words(prog="discover", add_help=False, parents=[get_args_parser()], conflict_handler="resolve")
    sweep = flags.parse_args(words).multirun
    chosen, rest = _placed(words)
    started = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    mistakes: list[UsageError] = []
    ConfigStore.instance().store(name="discover", node=Config)

    @hydra.main(version_base="1.3", config_path=str(beside("conf")), config_name="config")
    def task(composed: DictConfig) -> float:
        about = HydraConfig.get()
        try:
            config = OmegaConf.to_object(composed)
            assert isinstance(config, Config)
            place = chosen or Path.cwd() / "outputs" / config.name / started
            folder = place / str(about.job.num) if about.mode is RunMode.MULTIRUN else place
            with nothing_left_of_a_mistake(folder):
                _keep(Path(about.runtime.output_dir) / ".hydra", folder / ".hydra")
                return job(config, folder)
        except OmegaConfBaseException as error:
            mistakes.append(_unusual(error))
            return float("nan")
        except UsageError as mistake:
            # Kept from Hydra, which would put lines of its own around the sentence; a sweep goes on with its next run.
            mistakes.append(mistake)
            return float("nan")

    try:
        # Hydra writes before anything is checked, also into the folder of an older run; so it writes aside.
        with TemporaryDirectory(prefix="discover-") as aside:
            sys.argv = [
                "discover",
                *(_literal(word, sweep) for word in rest),
                *(f"hydra.{kind}.dir={_quoted(aside)}" for kind in ("run", "sweep")),
            ]
            task()
    except (HydraException, OmegaConfBaseException) as error:
        raise _unusual(error) from error
    if mistakes:
        raise UsageError(" ".join(dict.fromkeys(map(str, mistakes))))


def _unusual(error: Exception) -> UsageError:
    """Return what Hydra or OmegaConf cannot read as one sentence, with what their grammar asks for."""
    told = " ".join(f"{error} {error.__cause__ or ''}".split("full_key:")[0].split("See https:")[0].split())
    if "${" in told or "Interpolation" in type(error).__name__:
        told += "; ${…} stands for another option: write \\${…} to mean the characters, or give prompts in a file (prompts.file)."
    elif type(error).__name__ == "OverrideParseException":
        told += "; a text with marks in it stands in double quotes, and all of it in single ones: 'prompts.texts=[\"…\"]'."
    return UsageError(told)


def _check_group(word: str, group: str, known: Sequence[str]) -> None:
    """Refuse a prepared experiment, or toy size, that there is none of."""
    if not word.startswith("+") or word.partition("=")[2] not in known:
        raise UsageError(f"{word} names no prepared {group}; give +{group}= one of {', '.join(known)}.")


def _check_list(name: str, value: str) -> None:
    """Refuse a bare word where a list is wanted."""
    if name in LISTS and not value.startswith(("[", "${", "choice(", "shuffle(")):
        raise UsageError(f"{name}={value} is no list; give it as '{name}=[\"{value}\"]', quotes included.")


def _overrides(words: list[str]) -> list[str]:
    """Return those words that are overrides, not flags of Hydra or their values."""
    found, previous = [], ""
    for word in words:
        if not word.startswith("-") and previous not in VALUED:
            found.append(word)
        previous = word
    return found


def _placed(words: list[str]) -> tuple[Path | None, list[str]]:
    """Return the folder of the run, or of a sweep's runs, where one is chosen with `folder=PATH`, and the other words."""
    chosen, rest = None, []
    for word in words:
        name, _, path = word.partition("=")
        if name == "folder":
            if not path:
                raise UsageError("folder= names no folder; give folder=PATH, or leave it out.")
            chosen = Path(_home(path)).resolve()
        elif name in ("hydra.run.dir", "hydra.sweep.dir"):
            raise UsageError(f"{name} is the command's own; choose the folder of a run or a sweep with folder=PATH.")
        else:
            rest.append(word)
    return chosen, rest


def _literal(word: str, sweep: bool) -> str:
    """Return an override of a path with its value quoted, since marks that mean something to Hydra stand in paths too.

    In a sweep a comma parts two paths, as it parts the values of any option.
    """
    name, _, value = word.partition("=")
    if name.lstrip("+") not in PATHS or value in ("", "null") or value[0] in "'\"" or re.match(r"(choice|shuffle|glob)\(", value):
        return word
    paths = value.split(",") if sweep else [value]
    return f"{name}={','.join(_quoted(_home(path)) for path in paths)}"


def _quoted(text: str) -> str:
    """Return text as a quoted string of Hydra's grammar, in which nothing else has a meaning."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text=text, quote=Quote.single).with_quotes()


def _home(path: str) -> str:
    """Return the path with a leading `~` replaced, which a shell leaves alone after an equals sign."""
    return str(Path.home()) + path[1:] if path == "~" or path.startswith("~/") else path


def _keep(written: Path, target: Path) -> None:
    """Keep the config as Hydra wrote it beside a new run; that of an older run stays."""
    from discover.storage import write_text

    if target.exists() or not written.exists():
        return
    target.mkdir()
    for file in written.iterdir():
        write_text(target / file.name, file.read_text(encoding="utf-8"))


def beside(name: str) -> Path:
    """Return a folder of YAML: in an installed package beside this file, in a checkout one level up."""
    packaged = Path(__file__).parent / name
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / name
