"""The refusal direction, as published: candidates everywhere, three scores, filters, and the one that is left.

Source: Arditi et al., "Refusal in language models is mediated by a single direction", 2024.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from discover.config import PromptConfig
from discover.contrast.sets import ContrastSet, Example, texts
from discover.errors import UsageError
from discover.model.anatomy import Place, Site
from discover.model.change import biases
from discover.model.loading import LoadedModel
from discover.perturb.sphere import unit
from discover.steer.evaluation import log_odds, next_log_probabilities, refuses
from discover.steer.generation import Reply, replies
from discover.steer.interventions import EVERYWHERE, Ablation, added

DEEPEST = 0.8
"""Share of the blocks below which candidates are taken; later ones write the refusal's words, not the decision."""
LARGEST_KL = 0.1
"""Nats by which ablating a candidate may change what follows harmless prompts."""
OPENINGS = 4
"""First tokens, at most, by which refusals are told from other replies."""


@dataclass(frozen=True)
class Candidate:
    """A difference in means at one layer and position, with its three scores on the selection examples."""

    layer: int
    """Block after which it is taken."""
    position: int
    """Counted from the end of the prompt."""
    bypass: float
    """Mean log-odds of refusing what is refused, under its ablation: small is good."""
    induce: float
    """Mean log-odds of refusing what is not, under its addition: must be above 0."""
    kl: float
    """Mean KL divergence in nats that its ablation causes after prompts that are not refused."""
    kept: bool
    """Whether it passes the filters."""


@dataclass(frozen=True)
class Openings:
    """First tokens by which refusals are told, and what they are worth unsteered."""

    tokens: tuple[int, ...]
    refused: float
    """Mean log-odds on prompts that are refused."""
    answered: float
    """Mean log-odds on prompts that are not."""


def refused_and_answered(examples: ContrastSet, said: tuple[list[Reply], list[Reply]]) -> ContrastSet:
    """Return those positive examples that are refused and those negative ones that are not.

    Raises:
        UsageError: one side has none.
    """
    kept = ContrastSet(
        tuple(one for one, reply in zip(examples.positive, said[0], strict=True) if refuses(reply.text)),
        tuple(one for one, reply in zip(examples.negative, said[1], strict=True) if not refuses(reply.text)),
    )
    if not kept.positive or not kept.negative:
        raise UsageError(
            f"The model refuses {len(kept.positive)} of {len(examples.positive)} positive prompts and answers "
            f"{len(kept.negative)} of {len(examples.negative)} negative ones; a refusal direction needs both: give other prompts."
        )
    return kept


def unsteered(loaded: LoadedModel, side: Sequence[Example], form: PromptConfig, tokens: int, rows: int) -> list[Reply]:
    """Return what the model says by itself to the prompts of one side."""
    return replies(loaded, texts(loaded, side, form), (), tokens, rows, lambda _: None)


def openings(loaded: LoadedModel, examples: ContrastSet, said: tuple[list[Reply], list[Reply]], form: PromptConfig) -> Openings:
    """Return the first tokens with which refusals begin and other replies do not.

    The published ones were chosen by hand for each model; these are read off its own replies.

    Raises:
        UsageError: refusals begin as other replies do.
    """
    ordinary = {reply.tokens[0] for reply in said[1] if reply.tokens and not refuses(reply.text)}
    firsts = [reply.tokens[0] for reply in said[0] if reply.tokens and refuses(reply.text)]
    known = sorted({token for token in firsts if token not in ordinary}, key=lambda token: (-firsts.count(token), token))[
        :OPENINGS
    ]
    if not known:
        raise UsageError(
            "Refusals of this model begin with the same tokens as its other replies, so they cannot be told by a first token; "
            "contrast.method=means needs none."
        )
    worth = [
        float(log_odds(next_log_probabilities(loaded, texts(loaded, side, form), ()), known).mean())
        for side in (examples.positive, examples.negative)
    ]
    return Openings(tuple(known), worth[0], worth[1])


def candidates(
    loaded: LoadedModel,
    differences: Tensor,
    positions: Sequence[int],
    examples: ContrastSet,
    tokens: Sequence[int],
    form: PromptConfig,
) -> list[Candidate]:
    """Return every candidate with its scores on the selection examples.

    Args:
        loaded: the model.
        differences: [L, K, D] mean differences after every block at K positions.
        positions: the K positions.
        examples: P positive and Q negative ones.
        tokens: first tokens of refusals.
        form: chat template and system message.
    """
    positive, negative = (texts(loaded, side, form) for side in (examples.positive, examples.negative))
    plain = next_log_probabilities(loaded, negative, ())
    found = []
    for layer in range(len(differences)):
        for place, position in enumerate(positions):
            vector = differences[layer, place].float()
            if not vector.norm() > 0:
                # At the first tokens of a shared ending nothing may differ yet.
                continue
            bypassed = next_log_probabilities(loaded, positive, [ablation_of(vector, len(positive.prompts))])
            ablated = next_log_probabilities(loaded, negative, [ablation_of(vector, len(negative.prompts))])
            adding = added(biases(Place(layer, Site.residual), vector.expand(len(negative.prompts), -1)))
            bypass = float(log_odds(bypassed, tokens).mean())
            induce = float(log_odds(next_log_probabilities(loaded, negative, [adding]), tokens).mean())
            kl = float((plain.exp() * (plain - ablated)).sum(dim=1).mean())
            kept = induce > 0 and kl < LARGEST_KL and layer + 1 < DEEPEST * len(differences)
            found.append(Candidate(layer, position, bypass, induce, kl, kept))
    return found


def ablation_of(vector: Tensor, rows: int) -> Ablation:
    """Return the ablation of one direction [D] for so many rows."""
    return Ablation(unit(vector[None])[None].expand(rows, 1, -1), EVERYWHERE, None)


def selected(found: Sequence[Candidate]) -> Candidate:
    """Return the candidate that passes the filters with the least bypass score.

    Raises:
        UsageError: none passes.
    """
    kept = [one for one in found if one.kept]
    if not found:
        raise UsageError(
            "Refused and answered prompts have the same mean everywhere at these positions; take another contrast.position, one "
            "that comes after what sets them apart."
        )
    if not kept:
        best = max(found, key=lambda one: one.induce)
        raise UsageError(
            f"None of {len(found)} candidates is a refusal direction: adding it must raise the log-odds of refusal above 0 (best "
            f"{best.induce:.2g}, after block {best.layer}) and ablating it change other replies by less than {LARGEST_KL} nats; "
            "this model may have no single one; contrast.method=means asks for less."
        )
    return min(kept, key=lambda one: one.bypass)
