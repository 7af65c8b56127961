"""Following a hint: what the unsteered model says from the tokens that a vector boosts, and how little of it is enough."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from discover.storage import read_json, write_json


@dataclass(frozen=True)
class Branch:
    """One continuation by the unsteered model."""

    opening: str
    """The token, or tokens, put into its mouth."""
    text: str
    """What it says, the opening included."""
    novelty: float
    """1 minus the largest likeness to anything that the unsteered model, forced first tokens or random vectors lead to."""
    surprise: float | None
    """Mean nats a token of what follows the opening, under the unsteered model."""


@dataclass(frozen=True)
class Hint:
    """What a vector points at."""

    bank: str
    """`learned`; `null` for the random vectors that are followed in the same way; `forced` for the likeliest first tokens."""
    vector: int
    """Row of the bank, or rank of the forced token."""
    mode: int | None
    """Mode that it was followed for; None where it stands beside one."""
    branches: tuple[Branch, ...]
    """Most novel first."""
    least: float | None
    """Smallest multiplier that was tried at which the behaviour holds; None where it was not tried or holds at none."""
    least_text: str | None
    """What is said there."""


def save_hints(path: Path, hints: Sequence[Hint]) -> None:
    """Write the hints."""
    write_json(path, [asdict(hint) for hint in hints])


def load_hints(path: Path) -> list[Hint]:
    """Read what `save_hints` wrote."""
    return [Hint(**{**row, "branches": tuple(Branch(**one) for one in row["branches"])}) for row in read_json(path)]
