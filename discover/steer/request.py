"""What a user asks of a steered model: what is done to it, in entries of a bank, and how it shall reply; imports no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from discover.errors import UsageError


class Waiting(NamedTuple):
    """Act only where the residual stream after the source layer resembles an entry."""

    entry: int
    cosine: float
    """From which on it does."""
    held: bool
    """Whether the prompt's last token decides for all that follows."""


@dataclass(frozen=True)
class Request:
    """A combination of entries."""

    add: Mapping[int, float]
    """Entries with their multipliers: 1 as learned, -1 subtracted."""
    ablate: Sequence[int]
    """Entries whose directions are taken out of the residual stream."""
    orthogonalise: Sequence[int]
    """Entries along whose directions no weight writes."""
    rotate: Mapping[int, float]
    """Entries with the degrees by which the residual stream after the source layer is turned towards them."""
    window: tuple[int | None, int | None] | None
    """First position that is acted at and the one before which that ends, counted from the end of the prompt; None for
    wherever each was learned to act."""
    waiting: Waiting | None
    """None for always."""

    def __post_init__(self) -> None:
        """Refuse what asks for nothing, or for parts that do not go together."""
        hooked = self.add or self.ablate or self.rotate
        if not hooked and not self.orthogonalise:
            raise UsageError(
                "discover steer is told nothing to do to the model; give --add ENTRY:MULTIPLIER, such as --add 3:1.5, or "
                "--ablate, --orthogonalise or --rotate."
            )
        start, end = self.window or (None, None)
        if start is not None and end is not None and start >= end:
            raise UsageError(
                f"--from {start} --to {end} leaves no position; --to must be greater, -1 is the prompt's last token."
            )
        if self.window is not None and not hooked:
            raise UsageError(
                "--orthogonalise changes weights, which act everywhere; leave out --where, --from and --to, or --ablate."
            )
        if self.waiting is not None and (self.ablate or self.orthogonalise):
            raise UsageError(
                "--when looks at the residual stream after the source layer, and --ablate and --orthogonalise act before that; "
                "use it with --add or --rotate alone."
            )

    def __str__(self) -> str:
        terms = [f"{'-' if m < 0 else '+'} {'' if abs(m) == 1 else f'{abs(m):g} '}v{entry}" for entry, m in self.add.items()]
        parts = [" ".join(terms).removeprefix("+ ")] if terms else []
        parts += [f"without v{entry}" for entry in (*self.ablate, *self.orthogonalise)]
        parts += [f"{degrees:g}° towards v{entry}" for entry, degrees in self.rotate.items()]
        return ", ".join(parts)


@dataclass(frozen=True)
class Manner:
    """How replies are drawn."""

    tokens: int
    """Longest reply; a shorter one where the model's context ends."""
    temperature: float
    """0 takes the likeliest token."""
    seed: int
    """With it and the number of the turn, every side of a conversation draws the same random numbers."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.tokens < 1:
            raise UsageError(f"--tokens {self.tokens} must be 1 or more.")
        if not math.isfinite(self.temperature) or self.temperature < 0:
            raise UsageError(f"--temperature {self.temperature} must be a finite number, 0 or more; 0 takes the likeliest token.")
