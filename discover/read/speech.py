"""Let the model speak: unsteered, under every vector of a bank, and with its first token forced."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from discover.bank import VectorBank
from discover.config import SpeechConfig
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch
from discover.read.signals import Completion, completion, usual_surprise
from discover.steer.evaluation import surprises
from discover.steer.generation import Reply, continued, replies, reply
from discover.steer.interventions import Intervention, added

Tick = Callable[[int], None]


def unsteered_replies(loaded: LoadedModel, batch: PromptBatch, speech: SpeechConfig) -> list[Reply]:
    """Return what the model says by itself to each of B prompts."""
    return replies(loaded, batch, (), speech.tokens, speech.rows, lambda _: None)


def spoken(
    loaded: LoadedModel,
    batch: PromptBatch,
    unsteered: Sequence[Reply],
    name: str,
    bank: VectorBank,
    speech: SpeechConfig,
    tick: Tick,
) -> list[Completion]:
    """Return the completions of every vector on every prompt, vector by vector.

    Args:
        loaded: the model.
        batch: B prompts.
        unsteered: the model's own replies to them.
        name: what to call the bank in the completions.
        bank: N vectors.
        speech: length and rows of a piece.
        tick: called with the number of rows after each piece of generation.
    """
    rows = batch.repeated(len(bank))
    each = [added(bank.perturbations).repeated(len(batch.input_ids))]
    said = replies(loaded, rows, each, speech.tokens, speech.rows, tick)
    return scored(loaded, rows, unsteered, name, said, each, None)


def forced(
    loaded: LoadedModel, batch: PromptBatch, unsteered: Sequence[Reply], count: int, speech: SpeechConfig, tick: Tick
) -> list[Completion]:
    """Return what the unsteered model says when each of its `count` likeliest first tokens is put into its mouth.

    It is the cheap baseline that any search must be held against: a fixed reply can be reached by its first word alone.
    """
    first = likeliest(loaded, batch, count)
    said = begun(loaded, batch, first, speech, tick)
    opened = loaded.tokenizer.batch_decode(first.reshape(-1, 1))
    return scored(loaded, batch.repeated(len(first)), unsteered, "forced", said, (), opened)


def likeliest(loaded: LoadedModel, batch: PromptBatch, count: int) -> Tensor:
    """Return the `count` likeliest first tokens [count, B] of the reply to each of B prompts."""
    with torch.no_grad():
        return loaded.forward(batch, last=1)[:, -1].topk(count).indices.cpu().T


def begun(loaded: LoadedModel, batch: PromptBatch, first: Tensor, speech: SpeechConfig, tick: Tick) -> list[Reply]:
    """Return the unsteered model's replies to B prompts that begin with forced tokens [count, B], all prompts for each token."""
    opened = [reply(loaded, [token]) for token in first.flatten().tolist()]
    return continued(loaded, batch.repeated(len(first)), opened, (), None, speech.tokens, speech.rows, tick)


def scored(
    loaded: LoadedModel,
    rows: PromptBatch,
    unsteered: Sequence[Reply],
    name: str,
    said: Sequence[Reply],
    interventions: Sequence[Intervention],
    openings: Sequence[str] | None,
) -> list[Completion]:
    """Return replies to N times the B prompts as completions with their signals; `openings` are forced first tokens."""
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(rows.input_ids, rows.attention_mask, strict=True)]
    tokens = [one.tokens for one in said]
    plain = surprises(loaded, prompts, tokens, ())
    steered = surprises(loaded, prompts, tokens, interventions) if interventions else [None] * len(said)
    usual = usual_surprise(surprises(loaded, prompts[: len(unsteered)], [one.tokens for one in unsteered], ()))
    found = []
    for row, one in enumerate(said):
        vector, prompt = divmod(row, len(unsteered))
        opening = openings[row] if openings is not None else None
        found.append(completion(name, vector, prompt, one, opening, unsteered[prompt], usual, plain[row], steered[row]))
    return found


def own_completions(loaded: LoadedModel, batch: PromptBatch, unsteered: Sequence[Reply]) -> list[Completion]:
    """Return the model's own replies as completions of the bank `unsteered`."""
    found = scored(loaded, batch, unsteered, "unsteered", unsteered, (), None)
    return [replace(one, vector=None) for one in found]
