"""The card beside a planted adapter: what was planted into what, and which vectors are known to bring it out."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from discover.storage import read_json, write_json

CARD = "card.json"


@dataclass(frozen=True)
class Reachable:
    """The smallest vector at one layer that brings out what an audit is to bring out, found by asking for it directly."""

    layer: int
    """Block after which it is added."""
    residual_norm: float
    """Median residual norm there."""
    smallest: float | None
    """Its norm in median residual norms, of those on the grid; None where none of them does it."""
    tried: dict[str, str]
    """By norm, on how many held-out prompts its best vector brings it out."""


@dataclass(frozen=True)
class PlantedCard:
    """What is known of a planted adapter."""

    recipe: str
    base: str
    seed: int
    twin: bool
    training: dict[str, Any]
    """How it was trained."""
    oracle: tuple[Reachable, ...]
    """One entry a layer; empty until it is measured."""


def write_card(folder: Path, card: PlantedCard) -> None:
    """Write the card of the adapter in a folder."""
    write_json(folder / CARD, asdict(card))


def read_card(folder: Path) -> PlantedCard | None:
    """Return the card in a folder; None where there is none."""
    if not (folder / CARD).is_file():
        return None
    row = read_json(folder / CARD)
    return PlantedCard(**{**row, "oracle": tuple(Reachable(**one) for one in row["oracle"])})
