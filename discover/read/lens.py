"""The logit lens of effects: what a vector's change of the residual stream means in tokens, block by block.

Source: nostalgebraist, "Interpreting GPT: the logit lens", 2020; here of a difference, with the model's own head.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from discover.model.change import Perturbations
from discover.model.hooks import watched_output
from discover.model.loading import LoadedModel
from discover.model.memory import in_pieces
from discover.model.prompts import PromptBatch
from discover.model.slice import head_of
from discover.steer.evaluation import LOGIT_BYTES
from discover.steer.generation import Reply
from discover.steer.interventions import Intervention, added, intervened

ROWS = 128
"""Vectors times prompts computed at once."""


@dataclass(frozen=True)
class Lens:
    """What N vectors push up."""

    positions: Tensor
    """[N] where each is read: 0 is the end of the prompt, j token j of the unsteered reply."""
    blocks: tuple[int, ...]
    """Blocks from the source on."""
    tokens: Tensor
    """[N, blocks, k] the tokens whose log-probability rises most, most first."""
    rises: Tensor
    """[N, blocks, k] by how many nats."""
    effects: Tensor
    """[N, D] mean effect after the target block there."""


def lens(
    loaded: LoadedModel,
    batch: PromptBatch,
    own: Sequence[Reply],
    perturbations: Perturbations,
    layers: tuple[int, int],
    positions: int,
    named: int,
    tick: Callable[[int], None],
) -> Lens:
    """Return the lens of N perturbations, each where it changes the distribution of the next token most.

    What a block is read as is the log-probabilities that the final norm and the unembedding make of the residual stream after it;
    of those of the steered stream the unsteered ones are taken away, and the mean is taken over prompts. A lens of the difference
    itself would put it through a norm that it never passes.

    Args:
        loaded: the model.
        batch: B prompts.
        own: the unsteered replies to them.
        perturbations: N.
        layers: source and target block.
        positions: how many it may be read at: the end of the prompt, and so many tokens of the unsteered reply less one.
        named: k.
        tick: called with the number of perturbations after each piece.
    """
    longer = batch.continued([one.tokens[: positions - 1] for one in own], loaded.tokenizer.pad_token_id)
    read, count = 1 + longer.input_ids.shape[1] - batch.input_ids.shape[1], len(batch.input_ids)
    blocks, head = tuple(range(layers[0], len(loaded.anatomy.blocks))), head_of(loaded, longer)
    plain, unsteered = _passed(loaded, longer, (), blocks, read)
    mask = longer.attention_mask[:, -read:].to(unsteered.device)

    def piece(some: slice) -> Lens:
        part = perturbations.rows(some)
        streams, logits = _passed(loaded, longer.repeated(len(part)), [added(part).repeated(count)], blocks, read)
        steered = logits.unflatten(0, (-1, count))
        apart = (steered.exp() * (steered - unsteered)).sum(dim=-1) * mask
        best = (apart.sum(dim=1) / mask.sum(dim=0)).argmax(dim=-1)  # [n]
        weights = (mask[:, best] / mask[:, best].sum(dim=0)).T  # [n, B]
        at = partial(_at, best=best, count=count)
        rises = []
        for block in blocks:
            before = _log_probabilities(head, plain[block])[:, best].transpose(0, 1)
            change = _log_probabilities(head, at(streams[block]).flatten(0, 1)[:, None])[:, 0].unflatten(0, (-1, count)) - before
            rises.append(torch.einsum("nb,nbv->nv", weights.to(change), change).topk(min(named, change.shape[-1])))
        effects = at(streams[layers[1]]).float() - plain[layers[1]][:, best].transpose(0, 1).float()
        tick(len(part))
        return Lens(
            best.cpu(),
            blocks,
            torch.stack([one.indices for one in rises], dim=1).cpu(),
            torch.stack([one.values for one in rises], dim=1).cpu(),
            torch.einsum("nb,nbd->nd", weights.to(effects), effects).cpu(),
        )

    rows = max(1, min(ROWS, LOGIT_BYTES // (8 * unsteered.shape[-1] * read)) // count)
    with torch.no_grad():
        found, _ = in_pieces(piece, len(perturbations), rows, "give fewer or shorter prompts, or read.decoded=0")
    parts = {name: torch.cat([getattr(one, name) for one in found]) for name in ("positions", "tokens", "rises", "effects")}
    return Lens(blocks=blocks, **parts)


@torch.no_grad()
def _passed(
    loaded: LoadedModel, longer: PromptBatch, interventions: list[Intervention] | tuple[()], blocks: tuple[int, ...], read: int
) -> tuple[dict[int, Tensor], Tensor]:
    """Return the residual stream [R, K, D] after each block and the log-probabilities [R, K, V], at the last K positions."""

    def keep(block: int, output: Tensor) -> None:
        streams[block] = output[:, -read:]

    streams: dict[int, Tensor] = {}
    with intervened(loaded, interventions, [read - 1] * len(longer.input_ids)), ExitStack() as stack:
        # After the interventions, so that what is added to the output of a block is seen.
        for block in blocks:
            stack.enter_context(watched_output(loaded.anatomy.blocks[block], partial(keep, block)))
        logits = loaded.forward(longer, last=read)
    return streams, logits.float().log_softmax(dim=-1)


def _at(stream: Tensor, best: Tensor, count: int) -> Tensor:
    """Return [n, B, D], what stands at the position of each of n perturbations in [n * B, K, D]."""
    return stream.unflatten(0, (-1, count))[torch.arange(len(best), device=best.device), :, best]


def _log_probabilities(head: Callable[[Tensor], Tensor], stream: Tensor) -> Tensor:
    return head(stream).float().log_softmax(dim=-1)
