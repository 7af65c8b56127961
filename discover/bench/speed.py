"""How fast the engine is: against the published procedure, and against what the machine can do."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from discover.bench.flops import needed_flops, product_rate, seconds
from discover.bench.published import published_ascent
from discover.choices import Device, Dtype, Solver
from discover.config import Config, ModelConfig, SearchConfig
from discover.inputs import Ground, prepared, prompt_batch
from discover.model.loading import LoadedModel, load
from discover.model.prompts import PromptBatch
from discover.organisms.catalogue import ORGANISMS, checkpoint
from discover.perturb.spaces import drawn
from discover.search.chunks import chunks
from discover.search.effects import melbo
from discover.search.readings import Aim, Readings, readers
from discover.search.solvers import ascent, unbound, unhindered
from discover.search.solvers import orthogonal as orthogonalised

RATE = 1e-3
"""Learning rate of the published procedure, in residual units."""
POSITIONS = 3
"""Last positions that are read, as in its search for backdoors."""
RADIUS = 1.0
"""In median residual norms: time does not depend on it."""
STEPS = 3
"""Steps of the engine in one repeat, all vectors at once."""
SINGLE_STEPS = 5
SINGLE_VECTORS = 2
"""Steps and vectors of the published procedure in one repeat; more would only take longer."""
PRODUCT_SECONDS = 1.0
"""Longest time that one matrix product of the probe may be expected to take."""
ROW_SECONDS = 600.0
"""No repeat begins when a size has been timed for so long; one is always timed."""


@dataclass(frozen=True)
class Shape:
    """A Llama-shaped model with random weights: time does not depend on what they are."""

    width: int
    inner: int
    """Width of the MLP."""
    blocks: int
    heads: int
    vocabulary: int


@dataclass(frozen=True)
class Size:
    """What is timed."""

    name: str
    shape: Shape | None
    """None for the checkpoint of the bench itself."""
    tokens: int | None
    """Length of a random prompt; None for the organism's own."""
    vectors: int
    dtype: Dtype
    published: bool
    """Whether the published procedure is timed beside."""

    def told(self, model: ModelConfig) -> str:
        """Return the name in tables: that of the size, or of the checkpoint."""
        return self.name if self.shape else Path(model.path).name


@dataclass(frozen=True)
class SpeedRow:
    """What was timed at one size, one entry a repeat; all of a repeat stands side by side in time."""

    repeats: int
    """How many were asked for; the entries are fewer where time ran out."""

    size: str
    device: str
    dtype: str
    width: int
    blocks: int
    """Of the model."""
    replayed: int
    """Of the slice."""
    tokens: int
    vectors: int
    flops: int
    """Operations that one pass of all vectors needs, forward and back (`needed_flops`)."""
    round_seconds: list[float]
    """Time of such a pass."""
    product_rates: list[float]
    """Operations a second of the fastest square product."""
    engine_rates: list[float]
    """Vector-steps a second of the ascent, all vectors at once; empty where it was not timed."""
    published_rates: list[float]
    """The same of the published procedure, one vector at a time."""
    peak_bytes: int | None
    """Most memory held on a GPU at once; None elsewhere."""

    @property
    def shares(self) -> list[float]:
        """Per repeat the share of the product rate that the slice reaches on the operations that it needs."""
        pairs = zip(self.round_seconds, self.product_rates, strict=True)
        return [self.flops / seconds / rate for seconds, rate in pairs]

    @property
    def ratios(self) -> list[float]:
        """Per repeat how many times the vector-steps a second of the published procedure the engine makes."""
        return [ours / theirs for ours, theirs in zip(self.engine_rates, self.published_rates, strict=True)]


def sizes(quick: bool, device: str) -> list[Size]:
    """Return what is timed on a device: `arithmetic` and a Llama of width 768, and on a GPU with bfloat16 units that of 7B."""
    fp32 = Dtype.float32
    small = Size("width 768", Shape(768, 2048, 12, 12, 32000), 40, 16 if quick else 64, fp32, published=True)
    counts = (32,) if quick else (64, 128)
    found = [Size("own", None, None, count, fp32, published=True) for count in counts] + [small]
    if device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        found.append(Size("7B", Shape(4096, 11008, 32, 32, 32000), 30, 512, Dtype.bfloat16, published=False))
    return found


def speed_row(size: Size, model: ModelConfig, repeats: int) -> SpeedRow:
    """Time one size; the first repeat is a rehearsal and is not told, and after `ROW_SECONDS` no further one begins.

    A checkpoint with random weights is written to the system's temporary folder and read by the real loader.
    """
    with checkpoint_of(size, model) as path:
        loaded = load(replace(model, dtype=size.dtype), path)
    # Read as published: the raw effect at the end of the prompt, without any reply.
    search = SearchConfig(vectors=size.vectors, solver=Solver.ascent, normalised=False, positions=POSITIONS, reply_positions=0)
    config = Config(model=model, search=search)
    batch = prompt_batch(config, loaded) if size.tokens is None else random_prompt(loaded, size.tokens)
    (ground,) = prepared(config, loaded, batch, None)
    read = Readings(
        ground.space,
        RADIUS * ground.part.residual_norm,
        readers(ground.part, ground.reply_tokens, search),
        chunks(ground.part, search.chunk),
    )
    if loaded.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    starts, every = drawn(ground.space, size.vectors, "bench"), torch.arange(size.vectors)
    aim: Aim = partial(melbo, power=2.0, q=1.0)
    times: dict[str, list[float]] = {"round": [], "product": [], "engine": [], "published": []}
    begun = time.perf_counter()
    for repeat in range(repeats + 1):
        if repeat > 1 and time.perf_counter() - begun > ROW_SECONDS:
            break
        times["product"].append(product_rate(loaded.model.dtype, loaded.device, PRODUCT_SECONDS))
        times["round"].append(seconds(lambda: read.gradients(aim, starts, every), loaded))
        if size.published:
            times["engine"].append(
                size.vectors * STEPS / seconds(lambda: engine_ascent(read, starts, STEPS, RATE, orthogonal=True), loaded)
            )
            single = seconds(lambda: _single(loaded, batch, ground, starts, read.radius), loaded)
            times["published"].append(SINGLE_VECTORS * SINGLE_STEPS / single)
        if not repeat:
            # The rehearsal: kernels are chosen, memory is taken, and the size of a chunk may shrink.
            times = {name: [] for name in times}
    cuda = loaded.device.type == "cuda"
    return SpeedRow(
        repeats=repeats,
        size=size.told(model),
        device=torch.cuda.get_device_name() if cuda else "cpu",
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        width=ground.part.width,
        blocks=len(loaded.anatomy.blocks),
        replayed=len(ground.part.blocks),
        tokens=batch.input_ids.shape[1],
        vectors=size.vectors,
        flops=needed_flops(loaded, ground.part, ground.layers[1], size.vectors, POSITIONS),
        round_seconds=times["round"],
        product_rates=times["product"],
        engine_rates=times["engine"],
        published_rates=times["published"],
        peak_bytes=torch.cuda.max_memory_allocated() if cuda else None,
    )


def engine_ascent(read: Readings, starts: Tensor, steps: int, rate: float, orthogonal: bool) -> Tensor:
    """Return directions [N, D] after so many steps of our ascent on the published objective, p = 2 and q = 1."""
    return ascent(
        partial(melbo, power=2.0, q=1.0),
        starts,
        torch.arange(len(starts)),
        steps,
        0.0,
        rate,
        0.0,
        orthogonalised if orthogonal else unbound,
        unhindered,
        read,
        lambda _number, _values: None,
    )


def random_prompt(loaded: LoadedModel, tokens: int) -> PromptBatch:
    """Return one prompt of so many random tokens."""
    vocabulary = loaded.model.config.get_text_config(decoder=True).vocab_size
    ids = torch.randint(vocabulary, (1, tokens), generator=torch.Generator().manual_seed(0))
    return PromptBatch(("random tokens",), ids, torch.ones_like(ids))


def write_random_llama(shape: Shape, dtype: Dtype, device: Device, folder: Path) -> None:
    """Write a Llama-shaped checkpoint with random weights, and the organism's tokenizer, to `folder`."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.blocks,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        bos_token_id=None,
        eos_token_id=None,
    )
    # Drawn where it will run: a processor takes minutes for the weights of a large model.
    place = "cuda" if device is not Device.cpu and torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with torch.device(place):
        before = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, dtype.value))
        try:
            model = LlamaForCausalLM(config)
        finally:
            torch.set_default_dtype(before)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(ORGANISMS["arithmetic"].folder).save_pretrained(folder)


@contextmanager
def checkpoint_of(size: Size, model: ModelConfig) -> Iterator[str | Path]:
    """Yield the checkpoint's folder; one with random weights is removed afterwards."""
    if size.shape is None:
        yield checkpoint(model.path)
        return
    with TemporaryDirectory(prefix="discover-bench-") as folder:
        write_random_llama(size.shape, size.dtype, model.device, Path(folder))
        yield folder


def _single(loaded: LoadedModel, batch: PromptBatch, ground: Ground, starts: Tensor, radius: float) -> Tensor:
    return published_ascent(
        loaded, batch, ground.layers, starts[:SINGLE_VECTORS], radius, SINGLE_STEPS, RATE, POSITIONS, orthogonal=True
    )
