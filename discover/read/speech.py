"""Let the model speak: unsteered, under every vector of a bank, and with its first token forced."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from discover.bank import VectorBank
from discover.config import SpeechConfig
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch
from discover.perturb.sphere import seed_of
from discover.read.signals import Completion, completion, distance, usual_surprise
from discover.steer.evaluation import surprises
from discover.steer.generation import NOTHING, Drawing, Reply, continued, replies, reply
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
    return scored(loaded, rows, unsteered, name, said, True, None)


def sampled(
    loaded: LoadedModel,
    batch: PromptBatch,
    own: Sequence[Sequence[Reply]],
    name: str,
    bank: VectorBank,
    speech: SpeechConfig,
    seed: int,
    tick: Tick,
) -> list[Completion]:
    """Return the completions that are drawn besides the greedy ones: all vectors on every prompt, sample by sample.

    Every reply has a seed of its own, made of those of the run, its bank, vector, prompt and sample.

    Args:
        loaded: the model.
        batch: B prompts.
        own: what the model says by itself to all of them, greedy and drawn; a reply is unchanged where it is like any of these.
        name: what to call the bank in the completions.
        bank: N vectors.
        speech: how many, at what temperature, length and rows of a piece.
        seed: of the run.
        tick: called with the number of rows after each piece of generation.
    """
    rows, each = batch.repeated(len(bank)), [added(bank.perturbations).repeated(len(batch.input_ids))]
    found = []
    for sample in range(1, speech.samples + 1):
        said = _drawn(loaded, rows, len(batch.input_ids), each, (name, seed, sample), speech, tick)
        found += [replace(one, sample=sample) for one in _scored(loaded, rows, own, name, said, True, None)]
    return found


def own_replies(
    loaded: LoadedModel, batch: PromptBatch, unsteered: Sequence[Reply], speech: SpeechConfig, seed: int, tick: Tick
) -> list[Sequence[Reply]]:
    """Return what the model says by itself to B prompts: the greedy replies first, then as many drawn ones as of a vector."""
    samples = range(1, speech.samples + 1)
    prompts = len(batch.input_ids)
    return [unsteered, *(_drawn(loaded, batch, prompts, (), ("unsteered", seed, sample), speech, tick) for sample in samples)]


def own_completions(loaded: LoadedModel, batch: PromptBatch, own: Sequence[Sequence[Reply]]) -> list[Completion]:
    """Return the model's own replies, greedy and drawn, as completions of the bank `unsteered`."""
    return [
        replace(one, vector=None, sample=sample)
        for sample, said in enumerate(own)
        for one in _scored(loaded, batch, own, "unsteered", said, False, None)
    ]


def _drawn(
    loaded: LoadedModel,
    rows: PromptBatch,
    prompts: int,
    interventions: Sequence[Intervention],
    names: Sequence[object],
    speech: SpeechConfig,
    tick: Tick,
) -> list[Reply]:
    """Return replies to N times the B prompts; that of a vector to a prompt is drawn by `names` and these two alone."""
    count = len(rows.input_ids)
    drawing = Drawing(speech.temperature, [seed_of("speech", *names, *divmod(row, prompts)) for row in range(count)])
    return continued(loaded, rows, [NOTHING] * count, interventions, drawing, speech.tokens, speech.rows, tick)


def forced(
    loaded: LoadedModel, batch: PromptBatch, unsteered: Sequence[Reply], count: int, speech: SpeechConfig, tick: Tick
) -> list[Completion]:
    """Return what the unsteered model says when each of its `count` likeliest first tokens is put into its mouth.

    It is the cheap baseline that any search must be held against: a fixed reply can be reached by its first word alone.
    """
    first = likeliest(loaded, batch, count)
    said = begun(loaded, batch, first, speech, tick)
    opened = loaded.tokenizer.batch_decode(first.reshape(-1, 1))
    return scored(loaded, batch.repeated(len(first)), unsteered, "forced", said, False, opened)


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
    steered: bool,
    openings: Sequence[str] | None,
) -> list[Completion]:
    """Return replies to N times the B prompts as completions with their signals.

    Args:
        loaded: the model.
        rows: N times the prompts.
        unsteered: the model's own replies to B prompts.
        name: of the bank.
        said: the replies.
        steered: whether vectors acted on the model when it said them.
        openings: forced first tokens, one a reply; None where none was.
    """
    return _scored(loaded, rows, [unsteered], name, said, steered, openings)


def _scored(
    loaded: LoadedModel,
    rows: PromptBatch,
    own: Sequence[Sequence[Reply]],
    name: str,
    said: Sequence[Reply],
    steered: bool,
    openings: Sequence[str] | None,
) -> list[Completion]:
    """Return completions as `scored` does, each held against what it is most like of what the model says by itself."""
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(rows.input_ids, rows.attention_mask, strict=True)]
    tokens = [one.tokens for one in said]
    plain = surprises(loaded, prompts, tokens, ())
    greedy = own[0]
    usual = usual_surprise(surprises(loaded, prompts[: len(greedy)], [one.tokens for one in greedy], ()))
    found = []
    for row, one in enumerate(said):
        vector, prompt = divmod(row, len(greedy))
        opening = openings[row] if openings is not None else None
        nearest = _nearest(one, [every[prompt] for every in own])
        own_surprises = one.surprises if steered else None
        found.append(completion(name, vector, prompt, one, opening, nearest, usual, plain[row], own_surprises))
    return found


def _nearest(said: Reply, own: Sequence[Reply]) -> Reply:
    """Return the one of several replies whose words are most like those of `said`."""
    return min(own, key=lambda other: distance(said.text, other.text))
