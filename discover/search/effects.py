"""Effects: how a perturbation changes what is read at the target, and the numbers that searches maximise."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from discover.model.change import Perturbations
from discover.model.rounding import row_products
from discover.model.slice import ModelSlice
from discover.perturb.sphere import unit


@dataclass(frozen=True)
class EffectReader:
    """Reads effects of perturbations through a slice, at chosen positions."""

    slice: ModelSlice
    start: int
    """The first position that is read, from 0."""
    end: int
    """The position before which reading ends; K = end - start."""
    normalised: bool
    """Whether the difference is taken between residuals of unit norm."""

    @property
    def size(self) -> int:
        """Numbers in one mean effect: K * D, or K * V for logits."""
        return (self.end - self.start) * self.slice.target.shape[2]

    @property
    def mask(self) -> Tensor:
        """[B, K], 1 where a position that is read holds a token."""
        return self.slice.mask[:, self.start : self.end]

    def effects(self, perturbations: Perturbations) -> Tensor:
        """Return the effects [N, B, K, D] of N perturbations, in the units of the target; zero on padding."""
        steered = self.slice.steered(perturbations, self.start, self.end)
        unsteered = self.slice.target[:, self.start : self.end]
        # Later blocks read the residual stream through a norm, so its length alone changes nothing for them.
        if self.normalised:
            steered, unsteered = unit(steered), unit(unsteered)
        return (steered - unsteered) * self.mask[..., None]

    def turns(self, perturbations: Perturbations) -> Tensor:
        """Return [N]: by how many degrees each of N perturbations turns the target, mean over prompts and positions."""
        chords = replace(self, normalised=True).effects(perturbations).norm(dim=-1)  # [N, B, K]
        return torch.rad2deg(2 * torch.asin(chords / 2)).sum(dim=(1, 2)) / self.mask.sum()

    def mean_effects(self, perturbations: Perturbations) -> Tensor:
        """Return [N, K * D]: the mean over prompts, positions side by side (aligned at the end of each prompt)."""
        counts = self.mask.sum(dim=0).clamp(min=1)[:, None]  # [K, 1]
        return (self.effects(perturbations).sum(dim=1) / counts).flatten(1)

    def slopes(self, perturbations: Perturbations) -> Tensor:
        """Return [N, K * D]: what the Jacobian of the mean effect at zero makes of N perturbations.

        The gradient of <mean effect, u> by the size of each is linear in u, and its derivative by u is the product: exact in
        every number format but for rounding. Differences of effects are not: in eleven families in bfloat16, a central
        difference over 0.02 residual norms is off by 19 to 52 %, this by 0.6 to 5 %; in float32, up to 1e-3 and 2e-6. It takes
        half as long again as the difference.
        """
        # Derivatives forward would need no way back, but not every operation has them (products of groups of experts); and
        # of the kernels of attention, this one alone can be derived twice.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            sizes = torch.zeros(len(perturbations), device=perturbations.changes[0].bias.device, requires_grad=True)
            effects = self.mean_effects(perturbations.scaled(sizes))
            towards = torch.zeros_like(effects, requires_grad=True)
            (pulls,) = torch.autograd.grad(effects, sizes, towards, create_graph=True)
            (found,) = torch.autograd.grad(pulls, towards, torch.ones_like(pulls))
        return found


Objective = Callable[[Perturbations], Tensor]
"""N perturbations -> what to maximise for each, [N]."""


def melbo(reader: EffectReader, power: float, q: float) -> Objective:
    """Return the objective of MELBO: per prompt the sum over positions of ||effect||^power, to the power 1/q, summed.

    Source: Mack & Turner, "Mechanistically eliciting latent behaviors in language models", 2024. Their code takes the
    norm over positions instead of channels, which for power 2 is the same; this follows the formula.
    """

    def objective(perturbations: Perturbations) -> Tensor:
        # The squared norm needs no root, whose gradient at an effect of zero would not exist.
        squared = reader.effects(perturbations).square().sum(dim=-1)
        total = squared.clamp(min=torch.finfo(torch.float32).tiny).pow(power / 2).mul(reader.mask).sum(dim=-1)
        return total.pow(1 / q).sum(dim=-1)

    return objective


def mean_norm(reader: EffectReader) -> Objective:
    """Return the norm of the mean effect, which the fixed point maximises (after Mack & Turner, deep causal transcoding).

    They average positions too; here those that are read stand side by side, which for one position is the same.
    """
    return lambda perturbations: reader.mean_effects(perturbations).norm(dim=-1)


def norm_sum(reader: EffectReader) -> Objective:
    """Return the sum over prompts of the effect's norm, positions side by side: what the prompts share counts for no more."""
    return lambda perturbations: reader.effects(perturbations).flatten(2).norm(dim=-1).sum(dim=-1)


def unclaimed_norm(reader: EffectReader, claimed: Tensor) -> Objective:
    """Return the norm of the part of the mean effect outside the span of orthonormal rows `claimed` [M, K * D]."""

    def objective(perturbations: Perturbations) -> Tensor:
        effects = reader.mean_effects(perturbations)
        return (effects - row_products(row_products(effects, claimed), claimed.T)).norm(dim=-1)

    return objective
