"""The run folder: one writer at a time, a status that survives a kill, and stages that are read when they are there."""

import errno
import fcntl
import importlib.metadata
import logging
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from discover.config import Config
from discover.errors import UsageError
from discover.schema import config_from, plain
from discover.storage import read_json, remove_partial_files, write_json

TRACES = {".hydra", "run.json", "status.json", "discover.log", "run.lock", "wandb"}
"""What stands in a run folder before the first stage is done."""
IDENTITY = ("commit", "fingerprints", "chat_template")
"""What of a model must be the same where a run goes on; dtype and device may differ from machine to machine."""
PACKAGES = ("steering-discovery", "torch", "transformers", "scikit-learn", "numpy", "wandb")
Result = TypeVar("Result")


class FolderInUse(UsageError):
    """Another process holds the run folder."""


@dataclass
class RunFolder:
    """An open run folder, held by this process alone."""

    path: Path
    about: dict[str, Any]
    """What run.json holds: config, versions, model, wall-clock seconds of each stage, exit."""
    told: Callable[[str, float], None] = lambda _name, _seconds: None
    """Told every stage that was computed, and the seconds that it took."""

    def stage(
        self,
        name: str,
        file: str,
        compute: Callable[[], Result],
        save: Callable[[Path, Result], None],
        load: Callable[[Path], Result],
    ) -> Result:
        """Return what the stage's file holds, or compute it and write the file whole."""
        path = self.path / file
        if path.exists():
            logging.info("%s: read from %s", name, file)
            return load(path)
        self.status("running", name)
        self.about.pop("exit", None)
        begun = time.perf_counter()
        result = compute()
        save(path, result)
        seconds = round(time.perf_counter() - begun, 3)
        # Noted at once, for a run that is killed later never comes to its end here.
        self.note(seconds={**self.about.get("seconds", {}), name: seconds})
        logging.info("%s: %.1f s", name, seconds)
        self.told(name, seconds)
        return result

    def check_inputs(self, model: dict[str, Any], prompts: Sequence[str]) -> None:
        """Refuse a model or prompts other than those that the run began with.

        Raises:
            UsageError: stages that are there and stages to come would not be of one run.
        """
        held = self.about.get("model", model)
        changed = [f"the model's {name.replace('_', ' ')}" for name in IDENTITY if held.get(name) != model.get(name)]
        if self.about.get("prompts", list(prompts)) != list(prompts):
            changed.append("the prompts")
        if changed:
            raise UsageError(
                f"{self.path} holds a run that began with other inputs (changed since: {', '.join(changed)}); put back what it "
                "began with, or start a new run in another folder."
            )

    def status(self, state: str, stage: str) -> None:
        """Write status.json: `running`, `done` or `failed`, and the stage."""
        write_json(self.path / "status.json", {"state": state, "stage": stage, "schema": 1})

    def note(self, **entries: Any) -> None:
        """Add entries to run.json."""
        self.about.update(entries)
        write_json(self.path / "run.json", self.about)


@contextmanager
def opened(path: Path, config: Config) -> Iterator[RunFolder]:
    """Open the folder of a run, new or interrupted, and note how the run ends.

    Raises:
        UsageError: the folder cannot be written, another process holds it, its run has another config, or a number of the run
            is not finite.
    """
    with nothing_left_of_a_mistake(path), locked(path):
        about = _about(path, config)
        run = RunFolder(path, about)
        run.note()
        handler = logging.FileHandler(path / "discover.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root = logging.getLogger()
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        try:
            with _finite():
                yield run
            run.status("done", "done")
            run.note(exit="done")
        except BaseException as error:
            logging.exception("the run ended early")
            # A finished run of which nothing was computed anew is as finished as it was.
            if run.about.get("exit") != "done":
                _note_failure(run, error)
            raise
        finally:
            root.removeHandler(handler)
            handler.close()


@contextmanager
def _finite() -> Iterator[None]:
    """Tell as a user's mistake that a number of the run left the range of floats: what was asked for is too much."""
    try:
        yield
    except FloatingPointError as error:
        raise UsageError(
            f"The run met a number that is not finite: {error}; give a smaller search.radius or search.relative_radius, other "
            "layers, or model.dtype=float32."
        ) from error


def saved_config(path: Path) -> Config:
    """Return the config of the run in `path`.

    Raises:
        UsageError: there is no run.
    """
    try:
        return config_from(read_json(path / "run.json")["config"], Config)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path} holds no run (no readable run.json); give a folder below outputs/.") from error


def left_by(path: Path, file: str, load: Callable[[Path], Result]) -> Result:
    """Return what a stage left in the run folder `path`.

    Raises:
        UsageError: the file is missing, or another version of the program wrote it.
    """
    if not (path / file).exists():
        raise UsageError(f"{path} holds no {file}; `discover resume {path}` makes what is missing.")
    try:
        return load(path / file)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path / file} cannot be read as what this version writes ({type(error).__name__}); make the run again in another "
            "folder."
        ) from error


@contextmanager
def nothing_left_of_a_mistake(path: Path) -> Iterator[None]:
    """Make the folder, and where a user's mistake ends the run before any stage has left its file, remove what came since.

    Folders and files that stood there before stay, whatever they are.

    Raises:
        UsageError: the folder cannot be made.
    """
    made = _made(path)
    before = set(path.iterdir())
    try:
        yield
    except FolderInUse:
        # What came since may be the other process's.
        raise
    except UsageError:
        since = set(path.iterdir()) - before
        # A finished stage is hours of someone's time; only traces of the start are removed.
        if {entry.name for entry in since} <= TRACES:
            for entry in since:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            with suppress(OSError):  # A folder that something stands in by now stays, and with it those above.
                for folder in reversed(made):
                    folder.rmdir()
        raise


def _made(path: Path) -> list[Path]:
    """Make the folder and those above it, and return the ones that were not there, outermost first."""
    made = []
    try:
        for folder in (*reversed(path.parents), path):
            try:
                folder.mkdir()
                made.append(folder)
            except OSError:
                # A folder that is there can be refused for other reasons too, such as a disk that is read only.
                if not folder.is_dir():
                    raise
        list(path.iterdir())
    except OSError as error:
        for folder in reversed(made):
            folder.rmdir()
        raise _unwritable(path, error) from error
    return made


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"The run folder {path} cannot be written ({error.strerror}); choose another with folder=<path>.")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system drops with the process, however that ends."""
    try:
        handle = os.open(path / "run.lock", os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUse(f"Another process is running in {path}; wait for it, or choose another folder.") from error
        remove_partial_files(path)
        yield
    finally:
        # Closing drops the lock; the file stays, for removing it would let two later writers hold two different files.
        os.close(handle)


def _about(path: Path, config: Config) -> dict[str, Any]:
    """Return the run.json of a new run, or that of an interrupted one if it is the same run."""
    described = plain(config)
    if (path / "run.json").exists():
        about = read_json(path / "run.json")
        if about["config"] != described:
            changed = ", ".join(_differences(about["config"], described))
            raise UsageError(
                f"{path} holds a run with another config ({changed}); `discover resume {path}` goes on with its own."
            )
        return about
    return {
        "schema": 1,
        "config": described,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _installed()}},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def _installed() -> list[str]:
    """Return those of PACKAGES that are installed; the core runs without wandb."""
    there = {entry.name for entry in importlib.metadata.distributions()}
    return [name for name in PACKAGES if name in there]


def _differences(held: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key in held.keys() | wanted.keys():
        first, second = held.get(key), wanted.get(key)
        if isinstance(first, dict) and isinstance(second, dict):
            yield from _differences(first, second, f"{prefix}{key}.")
        elif first != second:
            yield f"{prefix}{key}: {first} there, {second} here"


def _note_failure(run: RunFolder, error: BaseException) -> None:
    """Write down that the run failed; on a full disk there is no room even for that."""
    try:
        run.status("failed", type(error).__name__)
        run.note(exit=type(error).__name__)
    except OSError as second:
        if second.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
