"""What a pilot measured of every arm of its portfolio."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from discover.storage import read_json, write_json


@dataclass(frozen=True)
class Trial:
    """One arm, as the pilot measured it."""

    name: str
    source_layer: int
    target_layer: int
    rounds: int
    learned_from: tuple[int, ...]
    """Numbers of prompts."""
    reply_positions: int
    """Up to where in the reply effects are read; 0 is the prompt's end alone."""
    relative_radius: float
    """At which its vectors spoke, in median residual norms."""
    kept_radius: float
    """The same for the bank, mended by what was heard."""
    learned: dict[str, int]
    """Replies of learned vectors by state."""
    null: dict[str, int]
    """Replies of random vectors at the same radius by state."""
    worth: float
    """Yield a vector, between 0 and 1: how new its best reply is, times how surely the unsteered model goes on with it."""
    vectors: int
    """Vectors of the bank that it was given; 0 for an arm that was left out."""


def save_trials(path: Path, trials: Sequence[Trial]) -> None:
    """Write the trials."""
    write_json(path, [asdict(trial) for trial in trials])


def load_trials(path: Path) -> tuple[Trial, ...]:
    """Read what `save_trials` wrote."""
    return tuple(Trial(**{**row, "learned_from": tuple(row["learned_from"])}) for row in read_json(path))
