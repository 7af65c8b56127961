"""What vectors do at the target: their effects, a map of them, and the groups they form."""

from dataclasses import asdict, dataclass
from pathlib import Path

from discover.storage import read_json, write_json


@dataclass(frozen=True)
class Spot:
    """One vector on the map of effects."""

    bank: str
    """`learned` or `null`."""
    vector: int
    x: float
    y: float
    """In the square from 0 to 1: vectors whose effects are alike lie together."""
    group: int | None
    """Group of alike effects, the largest 0; None for noise."""


@dataclass(frozen=True)
class EffectMap:
    """Every vector of a bank and of its null by what it does at the target."""

    spots: tuple[Spot, ...]
    agreement: float | None
    """Adjusted Rand index between groups of effects and modes of completions, over the vectors; None where there is nothing to
    compare."""
    stability: float | None
    """Mean adjusted Rand index of the modes with those of other draws; None where there is nothing to compare."""


def save_map(path: Path, found: EffectMap) -> None:
    """Write the map."""
    write_json(path, asdict(found))


def load_map(path: Path) -> EffectMap:
    """Read what `save_map` wrote."""
    row = read_json(path)
    return EffectMap(**{**row, "spots": tuple(Spot(**one) for one in row["spots"])})
