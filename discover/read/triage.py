"""What a vector does before a word is said: cheap signals by which vectors are ranked, and tokens are spent."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from discover.storage import read_json_lines, write_json_lines


@dataclass(frozen=True)
class Boost:
    """A token that a vector makes likelier."""

    token: str
    """Decoded."""
    id: int
    """Its number in the vocabulary: text alone does not always lead back to it."""
    position: int
    """Where it would stand: 0 is the first token of the reply, 1 the second of the unsteered one …"""
    gain: float
    """Its part of the KL divergence of the steered distribution from the unsteered one, p log(p / q), in nats."""


@dataclass(frozen=True)
class Glance:
    """What one vector does before it speaks, over the prompts."""

    bank: str
    """`learned` or `null`."""
    vector: int
    kl: float
    """KL divergence of the steered next-token distribution from the unsteered one in nats: mean over prompts of the largest
    among the end of the prompt and the first tokens of the unsteered reply."""
    shifted: float
    """Share of prompts on which another first token becomes the likeliest."""
    norm: float
    """Norm of the effect at the target in median residual norms there, mean over prompts."""
    agreement: float | None
    """Mean cosine of the effects on different prompts; None with one prompt."""
    presence: float | None
    """How much of the unsteered residual stream lies along the vector, in times what lies along random directions; None for what
    is no vector. Source: natural-presence ratio (Power Steering)."""
    boosted: tuple[Boost, ...]
    """Tokens that gain most, the first most."""
    doses: tuple[tuple[float, float], ...]
    """Multipliers, each with the KL divergence there."""


def save_glances(path: Path, glances: Sequence[Glance]) -> None:
    """Write one glance a line."""
    write_json_lines(path, map(asdict, glances))


def load_glances(path: Path) -> list[Glance]:
    """Read what `save_glances` wrote."""
    return [
        Glance(
            **{
                **row,
                "boosted": tuple(Boost(**one) for one in row["boosted"]),
                "doses": tuple((multiplier, kl) for multiplier, kl in row["doses"]),
            }
        )
        for row in read_json_lines(path)
    ]
