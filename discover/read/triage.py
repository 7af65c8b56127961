"""What a vector does before a word is said: cheap signals by which vectors are ranked, and tokens are spent."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from math import exp, lgamma, pi, sqrt
from pathlib import Path

import torch
from torch import Tensor

from discover.bank import VectorBank
from discover.model.anatomy import Site
from discover.model.change import Perturbations
from discover.model.hooks import watched_output
from discover.model.loading import LoadedModel
from discover.model.memory import in_pieces
from discover.model.prompts import PromptBatch
from discover.model.slice import residual_after
from discover.perturb.sphere import unit
from discover.steer.evaluation import LOGIT_BYTES
from discover.steer.generation import Reply
from discover.steer.interventions import added, intervened
from discover.storage import read_json_lines, write_json_lines

AHEAD = 8
"""Tokens of the unsteered reply along which vectors are looked at: what opens as that does can only be told from it later."""
BOOSTED = 8
"""Tokens kept of those that a vector makes likelier."""
DOSES = (0.5,)
"""Multipliers beside 1 at which the learned vectors are looked at again."""
COPIES = 4
"""Blocks of logits that are held at once."""


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
    departed: float
    """Share of prompts on which another token becomes the likeliest at one of these positions."""
    unsure: float
    """Entropy in nats of the steered distribution at the position of the largest divergence, mean over prompts."""
    norm: float
    """Norm of the effect at the target in median residual norms there, mean over prompts and the same positions."""
    agreement: float | None
    """Mean cosine of the effects on different prompts, each the mean over the positions; None with one prompt."""
    presence: float | None
    """How much of the unsteered residual stream lies along the vector, in times what lies along random directions; None for what
    is not added to the residual stream itself. Source: natural-presence ratio (Power Steering)."""
    boosted: tuple[Boost, ...]
    """Tokens that gain most, the first most; gains are means over prompts."""
    doses: tuple[tuple[float, float], ...]
    """Multipliers, each with the KL divergence there; the null bank is looked at as it is, at 1."""


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


@dataclass(frozen=True)
class Sight:
    """The model left alone along the beginning of its own replies: what vectors are held against."""

    loaded: LoadedModel
    longer: PromptBatch
    """B prompts, each with the first tokens of its unsteered reply."""
    said: int
    """Columns of these tokens; K = said + 1 positions are looked at, from the end of the prompt on."""
    logits: Tensor
    """[B, K, V] log-probabilities of the next token."""
    target_layer: int
    target: Tensor
    """[B, K, D] residual stream after the target block."""
    norm: float
    """Median norm of that residual stream, over all tokens."""

    @property
    def mask(self) -> Tensor:
        """[B, K], 1 at positions that hold a token."""
        return self.longer.attention_mask[:, -self.said - 1 :].to(self.logits)


def sight(loaded: LoadedModel, batch: PromptBatch, own: Sequence[Reply], target_layer: int) -> Sight:
    """Return the model left alone on B prompts and the first tokens of its own replies to them."""
    begun = [reply.tokens[:AHEAD] for reply in own]
    longer = batch.continued(begun, loaded.tokenizer.pad_token_id)
    said = longer.input_ids.shape[1] - batch.input_ids.shape[1]
    with torch.no_grad():
        logits = loaded.forward(longer, last=said + 1).float().log_softmax(dim=-1)
    target = residual_after(loaded, longer, target_layer)
    norms = target.norm(dim=-1)[longer.attention_mask.bool().to(target.device)]
    return Sight(loaded, longer, said, logits, target_layer, target[:, -said - 1 :], float(norms.median()))


def glances(
    seen: Sight, name: str, bank: VectorBank, doses: Sequence[float], rows: int, tick: Callable[[int], None]
) -> list[Glance]:
    """Return one glance a vector.

    Args:
        seen: the model left alone.
        name: what the bank is called.
        bank: N vectors.
        doses: multipliers beside 1 that are looked at as well.
        rows: prompts times vectors computed at once, at most.
        tick: called with the number of vectors after each piece.
    """
    along = [one for way in bank.ways for one in presence(seen, way)]
    # Logits, not activations, are what fills memory where the vocabulary is large.
    fitting = min(rows, LOGIT_BYTES // (4 * COPIES * seen.logits[0].numel()))

    def piece(some: slice) -> list[Glance]:
        perturbations = bank.perturbations.rows(some)
        steered, effects = steered_at(seen, perturbations)
        curve = {dose: divergences(seen, steered_at(seen, perturbations.scaled(dose))[0]).tolist() for dose in doses}
        curve[1.0] = kl = divergences(seen, steered).tolist()
        other = (steered.argmax(dim=-1) != seen.logits.argmax(dim=-1)) & seen.mask.bool()  # [N, B, K]
        shifted, departed = (some.float().mean(dim=1).tolist() for some in (other[:, :, 0], other.any(dim=-1)))
        unsure, norms = uncertainties(seen, steered).tolist(), norms_of(seen, effects).tolist()
        alike, boosted = agreements(seen, effects), boosts(seen, steered)
        tick(len(steered))
        return [
            Glance(
                bank=name,
                vector=vector,
                kl=kl[row],
                shifted=shifted[row],
                departed=departed[row],
                unsure=unsure[row],
                norm=norms[row],
                agreement=None if alike is None else float(alike[row]),
                presence=along[vector],
                boosted=boosted[row],
                doses=tuple((dose, curve[dose][row]) for dose in sorted(curve)),
            )
            for row, vector in enumerate(range(len(bank))[some])
        ]

    found, _ = in_pieces(piece, len(bank), max(1, fitting // len(seen.mask)), "give fewer or shorter prompts")
    return list(chain.from_iterable(found))


def steered_at(seen: Sight, perturbations: Perturbations) -> tuple[Tensor, Tensor]:
    """Return what N perturbations do: log-probabilities [N, B, K, V] of the next token, effects [N, B, K, D] at the target."""
    prompts, read = len(seen.mask), []
    rows = seen.longer.repeated(len(perturbations))
    steering = added(perturbations).repeated(prompts)
    block = seen.loaded.anatomy.blocks[seen.target_layer]
    with (
        torch.no_grad(),
        intervened(seen.loaded, [steering], [seen.said] * len(steering)),
        watched_output(block, lambda residual: read.append(residual[:, -seen.said - 1 :].float())),
    ):
        logits = seen.loaded.forward(rows, last=seen.said + 1).float().log_softmax(dim=-1)
    return logits.unflatten(0, (-1, prompts)), read[0].unflatten(0, (-1, prompts)) - seen.target


def gains(seen: Sight, steered: Tensor) -> Tensor:
    """Return what every token adds to the divergence of `steered` from the model left alone, [N, B, K, V] in nats."""
    return steered.exp() * (steered - seen.logits) * seen.mask[..., None]


def divergences(seen: Sight, steered: Tensor) -> Tensor:
    """Return [N] the mean over prompts of the largest divergence among the positions.

    Raises:
        FloatingPointError: one of them is not finite.
    """
    found = gains(seen, steered).sum(dim=-1).amax(dim=-1).mean(dim=-1)
    if not torch.isfinite(found).all():
        raise FloatingPointError("the next-token distribution under a vector, or that of the model left alone")
    return found.clamp(min=0)


def uncertainties(seen: Sight, steered: Tensor) -> Tensor:
    """Return [N] the mean over prompts of the entropy at the position of the largest divergence."""
    entropy = -(steered.exp() * steered).sum(dim=-1)
    most = gains(seen, steered).sum(dim=-1).argmax(dim=-1, keepdim=True)
    return entropy.gather(-1, most)[..., 0].mean(dim=-1).clamp(min=0)


def boosts(seen: Sight, steered: Tensor) -> list[tuple[Boost, ...]]:
    """Return for each of N perturbations the tokens that gain most, mean over prompts."""
    most = gains(seen, steered).mean(dim=1).flatten(1).topk(BOOSTED)
    vocabulary = steered.shape[-1]
    decode = seen.loaded.tokenizer.decode
    return [
        tuple(
            Boost(decode([place % vocabulary]), place % vocabulary, place // vocabulary, gain)
            for gain, place in zip(*row, strict=True)
            if gain > 0
        )
        for row in zip(most.values.tolist(), most.indices.tolist(), strict=True)
    ]


def norms_of(seen: Sight, effects: Tensor) -> Tensor:
    """Return [N] the mean norm of `effects` [N, B, K, D] in median residual norms at the target."""
    norms = effects.norm(dim=-1) * seen.mask
    return (norms.sum(dim=-1) / seen.mask.sum(dim=-1)).mean(dim=-1) / seen.norm


def agreements(seen: Sight, effects: Tensor) -> Tensor | None:
    """Return [N] the mean cosine of the mean effects on every two prompts; None where there is one prompt."""
    prompts = len(seen.mask)
    if prompts == 1:
        return None
    each = unit((effects * seen.mask[..., None]).sum(dim=2))
    # The square of the sum holds every pair twice, and every unit vector with itself.
    return (each.sum(dim=1).square().sum(dim=-1) - prompts) / (prompts * (prompts - 1))


def presence(seen: Sight, bank: VectorBank) -> list[float | None]:
    """Return how much of the unsteered residual stream lies along each of N vectors, in times what lies along random ones.

    Both are sums of |<x, v>| over the tokens x. For a random direction in D dimensions that is ||x|| times a constant,
    gamma(D / 2) / (sqrt(pi) gamma((D + 1) / 2)). None for what is not added to the residual stream itself.
    """
    first = bank.perturbations.changes[0]
    if first.place.site is not Site.residual:
        return [None] * len(bank)
    residual = residual_after(seen.loaded, seen.longer, bank.source_layer).cpu()[seen.longer.attention_mask.bool()].double()
    width = residual.shape[1]
    random = exp(lgamma(width / 2) - lgamma((width + 1) / 2)) / sqrt(pi) * residual.norm(dim=-1).sum()
    return ((residual @ unit(first.bias.double()).T).abs().sum(dim=0) / random).tolist()
