"""Where effects are read: half of the vectors at the end of the prompt, the others some tokens into the unsteered reply."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from discover.config import SearchConfig
from discover.model.slice import ModelSlice
from discover.search.chunks import Chunks
from discover.search.effects import EffectReader, Objective

Aim = Callable[[EffectReader], Objective]
"""What to maximise, given where it is read."""


@dataclass(frozen=True)
class Readings:
    """A search's readers, each for vectors of its own.

    A hidden reply that opens as the ordinary one does cannot be seen at the end of the prompt: there, both say the same next.
    It shows where they part, some tokens into the reply.
    """

    readers: tuple[EffectReader, ...]
    """The first reads at the end of the prompt, reader j at token j of the reply."""
    chunks: Chunks
    """How many vectors are computed at once."""

    def gradients(self, aim: Aim, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the objective [N] and its gradient [N, D] at `vectors` [N, D], each read where its vector is."""
        values, gradients = torch.empty(len(vectors)), torch.empty(vectors.shape)
        for reader, rows in self._shares(len(vectors)):
            values[rows], gradients[rows] = self.chunks.gradients(aim(reader), vectors[rows])
        return values, gradients

    def values(self, aim: Aim, vectors: Tensor) -> Tensor:
        """Return the objective [N] at `vectors` [N, D]."""
        return self._over(aim, vectors, ())

    def mean_effects(self, vectors: Tensor) -> Tensor:
        """Return the mean effects [N, K * D] of `vectors` [N, D]."""
        width = self.readers[0].last * vectors.shape[1]
        return self._over(lambda reader: reader.mean_effects, vectors, (width,))

    def _over(
        self, what: Callable[[EffectReader], Callable[[Tensor], Tensor]], vectors: Tensor, shape: tuple[int, ...]
    ) -> Tensor:
        found = torch.empty(len(vectors), *shape)
        with torch.no_grad():
            for reader, rows in self._shares(len(vectors)):
                found[rows] = self.chunks.over(what(reader), vectors[rows])
        return found

    def _shares(self, count: int) -> list[tuple[EffectReader, slice]]:
        """Return each reader with its rows: every second one is the first reader's, the others go round."""
        later = len(self.readers) - 1
        if later == 0:
            return [(self.readers[0], slice(0, count))]
        shares = [slice(0, count, 2), *(slice(2 * place + 1, count, 2 * later) for place in range(later))]
        return [(reader, rows) for reader, rows in zip(self.readers, shares, strict=True) if rows.start < count]


def readings(part: ModelSlice, reply_tokens: int, config: SearchConfig, chunks: Chunks) -> Readings:
    """Return the readers that `config` asks for through a slice that ends with so many tokens of the unsteered reply."""
    prompt = part.target.shape[1] - reply_tokens
    last = min(config.positions or prompt, prompt)
    unread = range(reply_tokens, -1, -1)
    return Readings(tuple(EffectReader(part, last, config.normalised, left) for left in unread), chunks)
