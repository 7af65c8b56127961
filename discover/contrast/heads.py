"""Steering single attention heads: a direction for each, a sweep over all of them, and those few that act together.

Source: Darm and Riccardi, "Head-specific intervention", 2025; the scaling is that of inference-time
intervention (Li et al., 2023).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from discover.config import PromptConfig
from discover.contrast.measures import Measure
from discover.contrast.sets import ContrastSet, Example, rows_of, texts
from discover.errors import UsageError
from discover.model.anatomy import Place, Site
from discover.model.change import Change, Perturbations, biases
from discover.model.hooks import edited_output
from discover.model.loading import LoadedModel
from discover.model.memory import in_pieces
from discover.perturb.spaces import head_columns
from discover.perturb.sphere import unit
from discover.statistics import Share, share
from discover.steer.interventions import Addition, Window

ROWS = 128
"""Texts read at once."""


@dataclass(frozen=True)
class HeadDirections:
    """What sets positive from negative completions in every head, as it is written to the residual stream."""

    blocks: tuple[int, ...]
    """Blocks with an attention output projection; A of them."""
    vectors: Tensor
    """[A, H, D] the head's direction of norm one, times the standard deviation of projections onto it, through the head's
    columns of the output projection."""


@dataclass(frozen=True)
class HeadScore:
    """How the model behaves when one head, or several, are steered."""

    heads: tuple[tuple[int, int], ...]
    """Block and head of each."""
    strength: float
    """In standard deviations of projections."""
    behaving: Share
    cost: float | None = None
    """Nats a token that it adds to neutral replies; measured where several act equally well."""


def head_directions(loaded: LoadedModel, examples: ContrastSet, position: int, form: PromptConfig) -> HeadDirections:
    """Return the direction of every head at a position that counts from the end of the examples; published: their last token.

    Raises:
        UsageError: there is no attention, or the attention output projection of a block cannot be cut into heads.
    """
    blocks = tuple(number for number, writer in enumerate(loaded.anatomy.attentions) if writer is not None)
    if not blocks:
        raise UsageError("No block of this model has an attention output projection; use contrast.method=means.")
    sides = [_head_inputs(loaded, side, blocks, position, form) for side in ((examples.positive, examples.negative))]
    vectors = []
    for number, block in enumerate(blocks):
        columns = head_columns(loaded, Place(block, Site.attention))  # [H, D, d]
        heads = len(columns)
        positive, negative = (side[:, number].unflatten(-1, (heads, -1)) for side in sides)  # [B, H, d]
        direction = unit(positive.mean(dim=0) - negative.mean(dim=0))
        spread = torch.einsum("bhd,hd->bh", torch.cat([positive, negative]), direction).std(dim=0)
        vectors.append(torch.einsum("hxd,hd->hx", columns, direction * spread[:, None]))
    return HeadDirections(blocks, torch.stack(vectors).float())


def _head_inputs(
    loaded: LoadedModel, side: Sequence[Example], blocks: Sequence[int], position: int, form: PromptConfig
) -> Tensor:
    """Return [B, A, F] in float64 what the attention output projections are given at one position of B texts."""
    batch = texts(loaded, side, form)

    def piece(some: slice) -> Tensor:
        given: dict[int, Tensor] = {}

        def note(block: int, inputs: Tensor | None, output: Tensor) -> Tensor:
            assert inputs is not None
            given[block] = inputs[:, position].double().cpu()
            return output

        with torch.no_grad(), ExitStack() as stack:
            for block in blocks:
                module = loaded.anatomy.module(Place(block, Site.attention))
                stack.enter_context(edited_output(module, partial(note, block)))
            loaded.forward(rows_of(batch, range(*some.indices(len(batch.input_ids)))), last=1)
        return torch.stack([given[block] for block in blocks], dim=1)

    found, _ = in_pieces(piece, len(batch.input_ids), ROWS, "give shorter examples")
    return torch.cat(found)


def swept_heads(
    loaded: LoadedModel,
    directions: HeadDirections,
    strengths: Sequence[float],
    measure: Measure,
    window: Window,
    tick: Callable[[int], None],
) -> list[HeadScore]:
    """Return how the model behaves under every head and strength, one head at a time; `tick` is told of every one."""
    found, count = [], len(measure.batch.prompts)
    for number, block in enumerate(directions.blocks):
        heads = range(directions.vectors.shape[1])
        tried = [(head, strength) for head in heads for strength in strengths]
        vectors = torch.stack([strength * directions.vectors[number, head] for head, strength in tried])
        each = Addition(biases(Place(block, Site.attention), vectors), window, None).repeated(count)
        for (head, strength), outcome in zip(tried, measure.outcomes(loaded, [each], len(tried)), strict=True):
            found.append(HeadScore(((block, head),), strength, share(sum(outcome), count)))
            tick(1)
    return found


def together(directions: HeadDirections, entries: Sequence[Sequence[tuple[int, int]]], strength: float) -> Perturbations:
    """Return one perturbation an entry; it steers the heads of that entry at once, each by its own direction."""
    blocks = sorted({block for heads in entries for block, _ in heads})
    changes: list[Change] = []
    for block in blocks:
        own = directions.vectors[directions.blocks.index(block)]
        bias = torch.stack([own[[head for there, head in heads if there == block]].sum(dim=0) for heads in entries])
        changes += biases(Place(block, Site.attention), strength * bias).changes
    return Perturbations(tuple(changes))


def best_first(found: Sequence[HeadScore]) -> list[tuple[int, int]]:
    """Return every head once, that whose best strength makes the model behave most often first; among equals the weaker."""
    order = sorted(found, key=lambda one: (-one.behaving.count, one.strength, one.heads))
    return list(dict.fromkeys(one.heads[0] for one in order))


def at_their_best(found: Sequence[HeadScore]) -> dict[tuple[int, int], HeadScore]:
    """Return every single head with its score at the strength at which it acts best."""
    scores: dict[tuple[int, int], HeadScore] = {}
    for one in found:
        (head,) = one.heads
        scores[head] = best([scores.get(head, one), one])
    return scores


def joint_scores(
    loaded: LoadedModel,
    directions: HeadDirections,
    order: Sequence[tuple[int, int]],
    sizes: Sequence[int],
    strengths: Sequence[float],
    measure: Measure,
    window: Window,
) -> list[HeadScore]:
    """Return how the model behaves under the first heads of an order together, for every number of them and strength."""
    found, count = [], len(measure.batch.prompts)
    for size in sizes:
        chosen = tuple(order[:size])
        for strength in strengths:
            steering = Addition(together(directions, [chosen], strength), window, None).repeated(count)
            (outcome,) = measure.outcomes(loaded, [steering], 1)
            found.append(HeadScore(chosen, strength, share(sum(outcome), count)))
    return found


def best(found: Sequence[HeadScore]) -> HeadScore:
    """Return the score that counts most; among equals the one that costs least, of fewest heads, the weakest."""
    return max(found, key=lambda one: (one.behaving.count, -(one.cost or 0.0), -len(one.heads), -one.strength))
