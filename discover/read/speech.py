"""Let the model speak: under every vector of a bank, and with its first token forced."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from discover.bank import VectorBank
from discover.config import SpeechConfig
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch
from discover.perturb.sphere import seed_of
from discover.read.reference import UnsteeredReference
from discover.read.signals import Completion, completion, distance
from discover.steer.evaluation import surprises
from discover.steer.generation import NOTHING, Drawing, Reply, continued, replies, reply
from discover.steer.interventions import Intervention, added

Tick = Callable[[int], None]


def spoken(
    loaded: LoadedModel,
    batch: PromptBatch,
    reference: UnsteeredReference,
    name: str,
    bank: VectorBank,
    speech: SpeechConfig,
    tick: Tick,
) -> list[Completion]:
    """Return the completions of every vector on every prompt, vector by vector.

    Args:
        loaded: the model.
        batch: B prompts.
        reference: the model's own replies to them.
        name: what to call the bank in the completions.
        bank: N vectors.
        speech: length and rows of a piece.
        tick: called with the number of rows after each piece of generation.
    """
    rows = batch.repeated(len(bank))
    each = [added(bank.perturbations).repeated(len(batch.input_ids))]
    said = replies(loaded, rows, each, speech.tokens, speech.rows, tick)
    return scored(loaded, rows, reference, name, said, True, None)


def sampled(
    loaded: LoadedModel,
    batch: PromptBatch,
    reference: UnsteeredReference,
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
        reference: the model's own replies to them; a reply is unchanged where it is like the greedy one, or like any of as many
            samples as are drawn for a vector.
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
        own = [reference.replies, *reference.samples[: speech.samples]]
        found += [replace(one, sample=sample) for one in _scored(loaded, rows, reference, own, name, said, True, None)]
    return found


def own_completions(reference: UnsteeredReference) -> list[Completion]:
    """Return the unsteered model's replies, greedy and sampled, as completions of the bank `unsteered`."""
    return [
        replace(
            completion("unsteered", None, prompt, said, None, own, reference.limits, said.surprises, None),
            sample=sample,
        )
        for sample, each in enumerate((reference.replies, *reference.samples))
        for prompt, (said, own) in enumerate(zip(each, reference.replies, strict=True))
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
    loaded: LoadedModel, batch: PromptBatch, reference: UnsteeredReference, count: int, speech: SpeechConfig, tick: Tick
) -> list[Completion]:
    """Return what the unsteered model says when each of its `count` likeliest first tokens is put into its mouth.

    It is the cheap baseline that any search must be held against: a fixed reply can be reached by its first word alone.
    """
    first = likeliest(loaded, batch, count)
    said = begun(loaded, batch, first, speech, tick)
    opened = loaded.tokenizer.batch_decode(first.reshape(-1, 1))
    return scored(loaded, batch.repeated(len(first)), reference, "forced", said, False, opened)


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
    reference: UnsteeredReference,
    name: str,
    said: Sequence[Reply],
    steered: bool,
    openings: Sequence[str] | None,
) -> list[Completion]:
    """Return replies to N times the B prompts as completions with their signals.

    Args:
        loaded: the model.
        rows: N times the prompts.
        reference: the model's own replies to B prompts.
        name: of the bank.
        said: the replies.
        steered: whether vectors acted on the model when it said them.
        openings: forced first tokens, one a reply; None where none was.
    """
    return _scored(loaded, rows, reference, [reference.replies], name, said, steered, openings)


def _scored(
    loaded: LoadedModel,
    rows: PromptBatch,
    reference: UnsteeredReference,
    own: Sequence[Sequence[Reply]],
    name: str,
    said: Sequence[Reply],
    steered: bool,
    openings: Sequence[str] | None,
) -> list[Completion]:
    """Return completions as `scored` does, each held against what it is most like of `own`, replies to the B prompts."""
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(rows.input_ids, rows.attention_mask, strict=True)]
    plain = surprises(loaded, prompts, [one.tokens for one in said], ())
    found = []
    for row, one in enumerate(said):
        vector, prompt = divmod(row, len(reference.replies))
        opening = openings[row] if openings is not None else None
        nearest = _nearest(one, [every[prompt] for every in own])
        own_surprises = one.surprises if steered else None
        found.append(completion(name, vector, prompt, one, opening, nearest, reference.limits, plain[row], own_surprises))
    return found


def _nearest(said: Reply, own: Sequence[Reply]) -> Reply:
    """Return the one of several replies whose words are most like those of `said`."""
    return min(own, key=lambda other: distance(said.text, other.text))
