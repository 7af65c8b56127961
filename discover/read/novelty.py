"""How new a reply is, and how surely the unsteered model goes on with it: what a held sentence has and a paraphrase has not."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import exp

from discover.read.signals import Completion, words

Pairs = frozenset[tuple[str, str]]
"""Words that stand side by side."""


@dataclass(frozen=True)
class Ordinary:
    """What is said without any learned vector."""

    pairs: Pairs

    def novelty(self, text: str) -> float:
        """Return the share of the word pairs of `text` that no ordinary text holds; 0 for a text without a pair."""
        own = pairs_of(text)
        return len(own - self.pairs) / len(own) if own else 0.0

    def worth(self, said: Completion) -> float:
        """Return what a reply promises, between 0 and 1: its novelty times how surely the unsteered model goes on with it.

        A paraphrase is new in part, and the unsteered model wavers over it; of a sentence that it holds, it is sure once the
        reply has begun. Replies that are not coherent promise nothing.
        """
        if said.state != "coherent":
            return 0.0
        return self.novelty(said.text) * exp(-(said.settled_surprise or 0.0))

    def and_also(self, text: str) -> "Ordinary":
        """Return what is ordinary once `text` is."""
        return Ordinary(self.pairs | pairs_of(text))


def ordinary_of(texts: Iterable[str]) -> Ordinary:
    """Return what some texts make ordinary."""
    return Ordinary(frozenset().union(*map(pairs_of, texts)))


def pairs_of(text: str) -> Pairs:
    """Return the pairs of neighbouring words of `text`."""
    return frozenset(pairwise(words(text)))
