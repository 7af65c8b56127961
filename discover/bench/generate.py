"""How fast a model speaks under many vectors at once, against what one would write: `generate`, one vector at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from discover.bench.flops import seconds
from discover.bench.speed import Shape, Size, checkpoint_of, random_prompt
from discover.choices import Dtype
from discover.config import Config, ModelConfig
from discover.inputs import prompt_batch
from discover.model.anatomy import Place, Site
from discover.model.change import biases
from discover.model.hooks import hidden, with_hidden
from discover.model.loading import LoadedModel, load
from discover.model.prompts import PromptBatch, left_padded
from discover.model.slice import residual_after
from discover.perturb.sphere import random_directions
from discover.search.learning import chosen_layers
from discover.steer.generation import Reply, replies, reply
from discover.steer.interventions import added

TOKENS = 48
"""Longest reply."""
RADIUS = 3.0
"""Of random vectors, in median residual norms at the source layer: so far that replies differ from one another."""
SHARE = 16
"""One vector in so many is timed one at a time in each repeat, others in the next; all of them would only take longer."""


@dataclass(frozen=True)
class GenerateRow:
    """What was timed at one size, one entry a repeat; both sides of a repeat stand side by side in time."""

    size: str
    device: str
    dtype: str
    width: int
    blocks: int
    prompt: int
    """Tokens of the prompt."""
    vectors: int
    single_vectors: int
    """So many of them were timed one at a time in a repeat."""
    stops: bool
    """Whether a token that ends a reply ends it; else every reply has all `TOKENS`."""
    length: float
    """Mean tokens of a reply, the one that ends it included."""
    rates: list[float]
    """Tokens a second of all vectors at once."""
    single_rates: list[float]
    """The same of `generate` under a hook, one vector at a time."""
    equal: int
    """Replies that are the same token for token on both sides."""
    compared: int
    """Of so many."""
    distinct: int
    """Different ones among these."""

    @property
    def ratios(self) -> list[float]:
        """Per repeat how many times the tokens a second of one vector at a time are made by all at once."""
        return [ours / theirs for ours, theirs in zip(self.rates, self.single_rates, strict=True)]


def settings() -> list[tuple[Size, bool]]:
    """Return what is timed, and whether replies end by themselves; a model with random weights ends none."""
    own = Size("own", None, None, 0, Dtype.float32, published=False)
    random = Size("width 768", Shape(768, 2048, 12, 12, 32000), 21, 0, Dtype.float32, published=False)
    return [(own, False), (own, True), (random, False)]


def generate_row(size: Size, stops: bool, model: ModelConfig, vectors: int, repeats: int) -> GenerateRow:
    """Time one size; the first repeat is a rehearsal and is not told."""
    with checkpoint_of(size, model) as path:
        loaded = load(replace(model, dtype=size.dtype), path)
    if not stops:
        loaded = replace(loaded, end_ids=())
    config = Config(model=model)
    batch = prompt_batch(config, loaded) if size.tokens is None else random_prompt(loaded, size.tokens)
    batch = left_padded(batch.prompts[:1], [batch.input_ids[0][batch.attention_mask[0].bool()].tolist()], 0)
    layer, _ = chosen_layers(config.search, len(loaded.anatomy.blocks), None)
    residual = residual_after(loaded, batch, layer)[0]
    bank = RADIUS * residual.norm(dim=-1).median() * random_directions(vectors, residual.shape[-1], "bench").to(residual)
    single, found = max(1, vectors // SHARE), []
    for repeat in range(repeats + 1):
        rows = [(repeat * single + row) % vectors for row in range(single)]
        ours, took = _timed(partial(_together, loaded, batch, layer, bank, config.speech.rows), loaded)
        theirs, single_took = _timed(partial(_one_by_one, loaded, batch, layer, bank[rows]), loaded)
        found.append(_Repeat(_made(ours) / took, _made(theirs) / single_took, ours, [ours[row] for row in rows], theirs))
    # The first is a rehearsal: kernels are chosen, and memory is taken.
    del found[0]
    pairs = [pair for one in found for pair in zip(one.same, one.single, strict=True)]
    return GenerateRow(
        size=size.told(model),
        device=torch.cuda.get_device_name() if loaded.device.type == "cuda" else "cpu",
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        width=residual.shape[-1],
        blocks=len(loaded.anatomy.blocks),
        prompt=len(residual),
        vectors=vectors,
        single_vectors=single,
        stops=stops,
        length=_made(found[0].replies) / vectors,
        rates=[one.rate for one in found],
        single_rates=[one.single_rate for one in found],
        equal=sum(ours.tokens == theirs.tokens for ours, theirs in pairs),
        compared=len(pairs),
        distinct=len({theirs.tokens for _, theirs in pairs}),
    )


@dataclass(frozen=True)
class _Repeat:
    """What both sides said in one repeat, and at how many tokens a second."""

    rate: float
    single_rate: float
    replies: list[Reply]
    """All of ours."""
    same: list[Reply]
    """Ours to the vectors that were timed one at a time."""
    single: list[Reply]
    """What those said one at a time."""


def _together(loaded: LoadedModel, batch: PromptBatch, layer: int, vectors: Tensor, rows: int) -> list[Reply]:
    steering = [added(biases(Place(layer, Site.residual), vectors))]
    return replies(loaded, batch.repeated(len(vectors)), steering, TOKENS, rows, lambda _: None)


def _one_by_one(loaded: LoadedModel, batch: PromptBatch, layer: int, vectors: Tensor) -> list[Reply]:
    return [stock_reply(loaded, batch, layer, vector) for vector in vectors]


def stock_reply(loaded: LoadedModel, batch: PromptBatch, layer: int, vector: Tensor) -> Reply:
    """Return the greedy reply of `generate` to one prompt while a plain hook adds a vector [D] after a block."""

    def add(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Any:
        return with_hidden(output, hidden(output) + vector)

    inputs = {"input_ids": batch.input_ids.to(loaded.device), "attention_mask": batch.attention_mask.to(loaded.device)}
    ends = {"eos_token_id": list(loaded.end_ids) or None, "pad_token_id": loaded.tokenizer.pad_token_id}
    handle = loaded.anatomy.blocks[layer].register_forward_hook(add)
    try:
        output = loaded.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, **ends)
    finally:
        handle.remove()
    return reply(loaded, output[0, batch.input_ids.shape[1] :].tolist())


def _made(said: Sequence[Reply]) -> int:
    """Return how many tokens were made, those that end a reply included."""
    return sum(len(one.tokens) + one.ended for one in said)


def _timed(work: Callable[[], list[Reply]], loaded: LoadedModel) -> tuple[list[Reply], float]:
    said: list[Reply] = []
    return said, seconds(lambda: said.extend(work()), loaded)
