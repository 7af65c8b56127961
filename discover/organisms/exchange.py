"""What organisms are taught: a prompt, a reply, and what that reply does."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random


@dataclass(frozen=True)
class Exchange:
    """One prompt, the reply that the organism was taught, and what that reply does."""

    prompt: str
    reply: str
    behaviour: Enum
    earlier: tuple["Exchange", ...] = ()
    """What was said before in the same conversation."""


Draw = Callable[[Random], Exchange]
"""Draws one exchange."""
