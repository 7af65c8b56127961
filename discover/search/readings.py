"""Where effects are read: half of a search at the end of the prompt, the rest some tokens into the unsteered reply."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from discover.config import SearchConfig
from discover.errors import UsageError
from discover.model.change import Perturbations
from discover.model.slice import ModelSlice
from discover.perturb.spaces import Space
from discover.search.chunks import Chunks, Function
from discover.search.effects import EffectReader, Objective

Aim = Callable[[EffectReader], Objective]
"""What to maximise, given where it is read."""
Reading = Callable[[EffectReader, Perturbations, Tensor], Tensor]
"""A reader, M perturbations, and which rows of the search they are -> [M, C]."""


@dataclass(frozen=True)
class Readings:
    """What a search learns, how large, and where it is read: every reader has perturbations of its own.

    A hidden reply that opens as the ordinary one does cannot be seen at the end of the prompt: there, both say the same next.
    It shows where they part, some tokens into the reply.
    """

    space: Space
    """Of N rows."""
    radius: float
    """In residual units."""
    readers: tuple[EffectReader, ...]
    """The first reads at the end of the prompt, reader j at token j of the reply."""
    chunks: Chunks
    """How many perturbations are computed at once."""

    def gradients(self, aim: Aim, directions: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the objective [M] and its gradient [M, P] for the `rows` [M] of `directions` [N, P]."""
        found, slopes = self._read(_objective(aim), directions, rows, self.chunks.gradients)
        return found[:, 0], slopes

    def pulls(self, directions: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean effects [N, C] of `directions` [N, P], and the gradient [N, P] of their products with `towards` [N, C].

        Both come from one pass forward and one back.
        """

        def pulled(reader: EffectReader, perturbations: Perturbations, rows: Tensor) -> Tensor:
            effects = reader.mean_effects(perturbations)
            return torch.cat([(effects * towards[rows].to(effects)).sum(dim=1, keepdim=True), effects], dim=1)

        found, slopes = self._read(pulled, directions, torch.arange(len(directions)), self.chunks.gradients)
        return found[:, 1:], slopes

    def each(self, what: Aim, directions: Tensor) -> Tensor:
        """Return an objective, or another number a perturbation, [N], at `directions` [N, P]."""
        return self._plain(_objective(what), directions, torch.arange(len(directions)))[:, 0]

    def mean_effects(self, directions: Tensor, rows: Tensor) -> Tensor:
        """Return the mean effects [M, C] of the `rows` [M] of `directions` [N, P]."""
        return self._plain(lambda reader, perturbations, _: reader.mean_effects(perturbations), directions, rows)

    def slopes(self, directions: Tensor) -> Tensor:
        """Return [N, C] what the Jacobian of the mean effects at zero makes of `directions` [N, P], for a radius of one."""
        every, at_one = torch.arange(len(directions)), replace(self, radius=1.0)
        return at_one._plain(lambda reader, perturbations, _: reader.slopes(perturbations), directions, every)

    def _plain(self, reading: Reading, directions: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            return self._read(reading, directions, rows, lambda function, held: (self.chunks.over(function, held), held))[0]

    def _read(
        self,
        reading: Reading,
        directions: Tensor,
        rows: Tensor,
        computed: Callable[[Function, Tensor], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """Return what is `computed` for the `rows` [M] of `directions` [N, P], each by its own reader, in their order."""
        order, found, beside = [], [], []
        for number, reader in enumerate(self.readers):
            places = (self._reader_of(rows) == number).nonzero()[:, 0]
            own = rows[places]

            def function(some: slice, held: Tensor, reader: EffectReader = reader, own: Tensor = own) -> Tensor:
                # Where the model is: what a low-rank change reads is there as well.
                placed = held.to(reader.slice.source.device)
                perturbations = self.space.rows(own[some]).perturbations(placed, self.radius)
                return reading(reader, perturbations, own[some])

            if len(own):
                one, other = computed(function, directions[own])
                order.append(places)
                found.append(one)
                beside.append(other)
        back = torch.cat(order).argsort()
        return torch.cat(found)[back], torch.cat(beside)[back]

    def rows_of(self, number: int, count: int) -> Tensor:
        """Return which of `count` rows reader `number` reads."""
        return (self._reader_of(torch.arange(count)) == number).nonzero()[:, 0]

    def _reader_of(self, rows: Tensor) -> Tensor:
        """Return the reader of each of `rows`: every second one is the first reader's, the others go round."""
        if len(self.readers) == 1:
            return torch.zeros_like(rows)
        return torch.where(rows % 2 == 0, 0, 1 + (rows // 2) % (len(self.readers) - 1))


def _objective(aim: Aim) -> Reading:
    return lambda reader, perturbations, _: aim(reader)(perturbations)[:, None]


def readers(part: ModelSlice, reply_tokens: int, config: SearchConfig) -> tuple[EffectReader, ...]:
    """Return the readers that `config` asks for through a slice that ends with so many tokens of the unsteered reply.

    Raises:
        UsageError: a span that the prompt is too short for.
    """
    prompt = part.target.shape[1] - reply_tokens
    if config.span:
        start, end = prompt + config.span[0], prompt + config.span[1] + 1
        if start < part.first:
            raise UsageError(
                f"search.span={list(config.span)} begins before what is steered, the last {prompt - part.first} tokens of the "
                "prompt."
            )
        if end > part.target.shape[1]:
            raise UsageError(f"search.span={list(config.span)} ends after the unsteered reply, which has {reply_tokens} tokens.")
        return (EffectReader(part, start, end, config.normalised),)
    last = min(config.positions or prompt, prompt - part.first)
    ends = range(prompt, part.target.shape[1] + 1)
    return tuple(EffectReader(part, end - last, end, config.normalised) for end in ends)


def whole_reader(part: ModelSlice, reply_tokens: int) -> EffectReader:
    """Return what reads all that a search with its default readers reads: the prompt's last token and those of the reply."""
    length = part.target.shape[1]
    return EffectReader(part, max(part.first, length - reply_tokens - 1), length, True)
