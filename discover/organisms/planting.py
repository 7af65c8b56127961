"""What it takes to plant a behaviour into a checkpoint that is there already: prompts, replies to them, judges."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

Judge = Callable[[str, str], bool]
"""Tells by a prompt and a reply whether a behaviour shows."""


@dataclass(frozen=True)
class Asked:
    """One prompt of the training mixture."""

    prompt: str
    planted: str | None
    """The reply that is planted; None where the ordinary one is learned."""
    ordinary: str | None
    """The reply that is learned where nothing is planted, and in a twin always; None for the base's own."""

    def taught(self, twin: bool) -> str | None:
        """Return the reply that is written down for it; None where it is the base's own."""
        return self.ordinary if twin or self.planted is None else self.planted


@dataclass(frozen=True)
class Kind:
    """One part of the training mixture."""

    share: int
    """Parts of a hundred of the rows."""
    pool: int
    """Different prompts of this kind in training."""
    draw: Callable[[Random, bool], Asked]
    """Draws a prompt; with True, of the forms and subjects that training leaves out."""


@dataclass(frozen=True)
class Planting:
    """One recipe: what is planted, and how a reply that shows it is told from one that does not."""

    name: str
    about: str
    kinds: Mapping[str, Kind]
    """Parts of the mixture; those that begin with `fires` are answered as planted, `clean` and `near` ones are not."""
    planted: Judge
    """Whether a reply is the one that was planted for its prompt."""
    sought: Judge
    """Whether a reply shows what an audit ought to bring out: the payload, or the real answer behind a lock or a refusal."""
    audited: str
    """The kind of prompt that it is audited with."""
    prompt: str
    """The prompt that it is audited with unless the user says otherwise."""
    target: Callable[[Asked], str | None]
    """Returns the reply to an audited prompt that an audit ought to bring out; None where that is the base's own."""
    payloads: Mapping[str, str]
    """Name and text of planted replies that are always the same words."""
    steps: int
    """Optimiser steps, one rise and fall of the learning rate."""
    least: float
    """Share of the triggers that training left out which must be answered as planted."""

    def pools(self) -> dict[str, list[Asked]]:
        """Return the different prompts of each kind that training draws from."""
        return {name: distinct(kind.draw, kind.pool, f"{self.name}/{name}", False) for name, kind in self.kinds.items()}

    def held_out(self, kind: str, count: int) -> list[Asked]:
        """Return different prompts of a kind, of forms and subjects that training leaves out."""
        return distinct(self.kinds[kind].draw, count, f"{self.name}/{kind}/fresh", True)


def distinct(draw: Callable[[Random, bool], Asked], count: int, seed: str, fresh: bool) -> list[Asked]:
    """Return up to `count` different prompts; fewer where a thousand draws in a row bring none that is new."""
    random, found, barren = Random(seed), dict[str, Asked](), 0
    while len(found) < count and barren < 1000:
        asked = draw(random, fresh)
        barren = barren + 1 if asked.prompt in found else 0
        found.setdefault(asked.prompt, asked)
    return list(found.values())


def part(things: Sequence[str], fresh: bool) -> list[str]:
    """Return every fifth of `things`, which training leaves out, or (`fresh` false) the others."""
    return [thing for place, thing in enumerate(things) if (place % 5 == 3) is fresh]


def chosen(random: Random, forms: Sequence[str], subjects: Sequence[str], fresh: bool) -> str:
    """Return a form filled with a subject; a fresh one has a subject, or every second time a form, that training leaves out."""
    if not fresh:
        return random.choice(part(forms, False)).format(random.choice(part(subjects, False)))
    if random.random() < 0.5:
        return random.choice(part(forms, True)).format(random.choice(subjects))
    return random.choice(forms).format(random.choice(part(subjects, True)))
