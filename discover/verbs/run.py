"""The verbs that make runs: `discover` itself, sweep, atlas and contrast, which Hydra composes, and resume, which needs none."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from discover.config import Config
from discover.errors import UsageError
from discover.schema import check_option
from discover.verbs.words import Words

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
PATHS = (
    *("model.path", "model.base", "prompts.file", "contrast.file", "read.embedding"),
    *("audit.clean_file", "audit.triggers_file", "audit.questions"),
)
NOTE = "tracking.notes"
DRY = "--dry-run"
OPEN = ("prompts.template_kwargs=", "prompts.template_kwargs.")
"""An option with entries of the user's own, which Hydra takes only where it is told to add them."""
LISTS = ("prompts.texts", "tracking.tags", "audit.clean", "audit.triggers", "audit.known", "contrast.neutral", "contrast.open")


def resume(words: list[str]) -> None:
    """Go on with the run in one folder.

    Raises:
        UsageError: there is none, or it cannot go on.
    """
    if len(words) != 1:
        raise UsageError(f"discover resume takes one run folder; {len(words)} were given.")
    from discover import pipeline
    from discover.folder import saved_config
    from discover.storage import read_json

    folder = Path(words[0])
    config = saved_config(folder)
    # An atlas is a run of its own; what began as one must not go on as an audit.
    verbs: dict[str, Callable[[Config, Path], object]] = {"atlas": pipeline.chart, "contrast": pipeline.contrast}
    verbs.get(read_json(folder / "run.json").get("verb", ""), pipeline.run)(config, folder)


def sweep(words: list[str]) -> None:
    """Run a prepared sweep, changed by overrides.

    Raises:
        UsageError: it is not named, or one of its runs cannot be done.
    """
    prepared = sorted(path.stem for path in beside("sweeps").glob("*.yaml"))
    if not words or words[0] not in prepared:
        raise UsageError(f"discover sweep takes the name of a prepared sweep first: {', '.join(prepared)}.")
    main_job(["--config-dir", str(beside("sweeps")), "--config-name", words[0], "-m", *words[1:]])


def run(config: Config, folder: Path) -> float:
    """Run, and return the number of findings."""
    from discover import pipeline

    return float(sum(finding.verdict == "finding" for finding in pipeline.run(config, folder)))


def cost(config: Config, _folder: Path) -> float:
    """Say what a run would cost, and return its seconds."""
    from discover import pipeline

    return pipeline.estimate(config).total


def chart(config: Config, folder: Path) -> float:
    """Measure the pairs of layers, and return the largest gain."""
    from discover import pipeline

    return max(pair.gain for pair in pipeline.chart(config, folder).pairs)


def contrast(config: Config, folder: Path) -> float:
    """Learn a direction from labelled examples, and return by how much of the test prompts it moves a share at most."""
    from discover import pipeline

    alone, *rows = pipeline.contrast(config, folder)
    shares = ((share, alone.shares[name]) for row in rows for name, share in row.shares.items() if name in alone.shares)
    return max(abs(share.count / share.n - before.count / before.n) for share, before in shares)


def main_job(words: list[str]) -> None:
    """Run, or with `--dry-run` say what that would cost and write nothing."""
    dry = DRY in words
    composed([word for word in words if word != DRY], cost if dry else run, writes=not dry)


def composed(words: list[str], job: Callable[[Config, Path], float], writes: bool = True) -> None:
    """Compose the config and do the job, once or as a sweep; a job that writes nothing gets no folder."""
    if DRY in words:
        raise UsageError(f"{DRY} says what a run of discover or of a prepared sweep would cost; leave it out here.")
    groups = {
        path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in sorted(beside("conf").iterdir()) if path.is_dir()
    }
    flags, overrides = _parted(words)
    # Hydra's parser takes overrides in one row only, and more of them are added at the end.
    overrides = [f"++{word}" if word.startswith(OPEN) else word for word in overrides]
    words = [*flags, *overrides]
    for word in overrides:
        name = re.match(r"[+~]*([^=@]+)", word)
        if name and name[1] in groups:
            _check_group(word, name[1], groups[name[1]])
        elif name and name[1] != "folder" and not name[1].startswith(("hydra", OPEN[1])):
            check_option(name[1], Config)
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
    parser = Words(prog="discover", add_help=False, parents=[get_args_parser()], conflict_handler="resolve")
    sweep = parser.parse_args(words).multirun
    chosen, rest = _placed(words)
    given, started = sys.argv, datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    mistakes: list[UsageError] = []
    ConfigStore.instance().store(name="discover", node=Config)

    @hydra.main(version_base="1.3", config_path=str(beside("conf")), config_name="config")
    def task(composed: DictConfig) -> float:
        about = HydraConfig.get()
        # Hydra's own words are no part of the command.
        sys.argv = given
        try:
            config = OmegaConf.to_object(composed)
            assert isinstance(config, Config)
            place = chosen or Path.cwd() / "outputs" / config.name / started
            folder = place / str(about.job.num) if about.mode is RunMode.MULTIRUN else place
            if not writes:
                return job(config, folder)
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


def _parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the flags of Hydra with their values, and the overrides."""
    flags: list[str] = []
    overrides: list[str] = []
    previous = ""
    for word in words:
        (flags if word.startswith("-") or previous in VALUED else overrides).append(word)
        previous = word
    return flags, overrides


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
    """Return an override of a path or a note with its value quoted, since marks that mean something to Hydra stand there too.

    In a sweep a comma parts two paths, as it parts the values of any option; a note is a sentence, commas included.
    """
    name, _, value = word.partition("=")
    if value in ("", "null") or value[0] in "'\"":
        return word
    if name == NOTE:
        return f"{name}={_quoted(value)}"
    if name.lstrip("+") not in PATHS or re.match(r"(choice|shuffle|glob)\(", value):
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
    """Return a folder of YAML: in an installed package within it, in a checkout one level up."""
    package = Path(__file__).parents[1]
    packaged = package / name
    return packaged if packaged.is_dir() else package.parent / name
