"""Effects: how a perturbation changes the residual stream at the target, and the numbers that searches maximise."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from discover.model.slice import ModelSlice
from discover.perturb.sphere import unit


@dataclass(frozen=True)
class EffectReader:
    """Reads effects of vectors through a slice, at chosen positions."""

    slice: ModelSlice
    positions: int
    """K, the last so many positions; 0 means all."""
    normalised: bool
    """Whether the difference is taken between residuals of unit norm."""
    unread: int = 0
    """Tokens at the end of the slice that are not read."""

    @property
    def last(self) -> int:
        """K, or all that there are."""
        return min(self.positions or self.end, self.end)

    @property
    def end(self) -> int:
        """The position before which reading ends."""
        return self.slice.target.shape[1] - self.unread

    @property
    def mask(self) -> Tensor:
        """[B, K], 1 where a position that is read holds a token."""
        return self.slice.mask[:, self.end - self.last : self.end]

    def effects(self, vectors: Tensor) -> Tensor:
        """Return the effects [N, B, K, D] of vectors [N, D] in residual units; zero on padding."""
        steered = self.slice.steered(vectors)[:, :, self.end - self.last : self.end]
        unsteered = self.slice.target[:, self.end - self.last : self.end]
        # Later blocks read the residual stream through a norm, so its length alone changes nothing for them.
        if self.normalised:
            steered, unsteered = unit(steered), unit(unsteered)
        return (steered - unsteered) * self.mask[..., None]

    def turns(self, vectors: Tensor) -> Tensor:
        """Return [N]: by how many degrees vectors [N, D] turn the target residual, mean over prompts and positions."""
        chords = replace(self, normalised=True).effects(vectors).norm(dim=-1)  # [N, B, K]
        return torch.rad2deg(2 * torch.asin(chords / 2)).sum(dim=(1, 2)) / self.mask.sum()

    def mean_effects(self, vectors: Tensor) -> Tensor:
        """Return [N, K * D]: the mean over prompts, positions side by side (aligned at the end of each prompt)."""
        counts = self.mask.sum(dim=0).clamp(min=1)[:, None]  # [K, 1]
        return (self.effects(vectors).sum(dim=1) / counts).flatten(1)


Objective = Callable[[Tensor], Tensor]
"""Vectors [N, D] in residual units -> what to maximise for each, [N]."""


def melbo(reader: EffectReader, power: float, q: float) -> Objective:
    """Return the objective of MELBO: per prompt the sum over positions of ||effect||^power, to the power 1/q, summed.

    Source: Mack & Turner, "Mechanistically eliciting latent behaviors in language models", 2024. Their code takes the
    norm over positions instead of channels, which for power 2 is the same; this follows the formula.
    """

    def objective(vectors: Tensor) -> Tensor:
        # The squared norm needs no root, whose gradient at an effect of zero would not exist.
        squared = reader.effects(vectors).square().sum(dim=-1)
        total = squared.clamp(min=torch.finfo(torch.float32).tiny).pow(power / 2).mul(reader.mask).sum(dim=-1)
        return total.pow(1 / q).sum(dim=-1)

    return objective


def mean_norm(reader: EffectReader) -> Objective:
    """Return the norm of the mean effect, which the fixed point maximises (Mack & Turner, deep causal transcoding)."""
    return lambda vectors: reader.mean_effects(vectors).norm(dim=-1)


def unclaimed_norm(reader: EffectReader, claimed: Tensor) -> Objective:
    """Return the norm of the part of the mean effect outside the span of orthonormal rows `claimed` [M, K * D]."""

    def objective(vectors: Tensor) -> Tensor:
        effects = reader.mean_effects(vectors)
        return (effects - (effects @ claimed.T) @ claimed).norm(dim=-1)

    return objective
