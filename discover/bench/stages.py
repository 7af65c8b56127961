"""How fast each stage of a run is on a model, against what the machine can do and against batched `generate`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from discover.bank import VectorBank
from discover.bench.flops import needed_flops, product_rate, seconds
from discover.bench.speed import PRODUCT_SECONDS
from discover.config import NEUTRAL, Config, ModelConfig
from discover.inputs import Ground, heard_batch, prompt_batch
from discover.model.hooks import hidden, with_hidden
from discover.model.loading import LoadedModel, load
from discover.organisms.catalogue import ORGANISMS, checkpoint
from discover.perturb.spaces import drawn
from discover.pilot.plan import Plan, planned
from discover.read.triage import AHEAD, glances, sight
from discover.search.chunks import chunks
from discover.search.effects import mean_norm
from discover.search.readings import Readings, readers
from discover.steer.evaluation import surprises
from discover.steer.generation import NOTHING, Drawing, Reply, continued, replies, reply
from discover.steer.interventions import added

RADIUS = 0.1
"""Of random vectors, in median residual norms: replies differ, and stay what a model would say."""
STAGES = ("unsteered", "search", "triage", "speech", "reading")
"""What is timed: samples of the unsteered model, gradients, glances before a word is said, steered replies, and their surprise
under the unsteered model."""


@dataclass(frozen=True)
class StageRow:
    """One stage, one entry a repeat; what is held against it in a repeat stands beside it in time."""

    model: str
    device: str
    dtype: str
    stage: str
    rows: int
    """Vectors times prompts; different texts where these are read."""
    tokens: int
    """Tokens that pass through the model, or the slice, those of prompts included."""
    flops: int
    """Operations that the stage needs."""
    seconds: list[float]
    product_rates: list[float]
    """Operations a second of the fastest square product."""
    stock_seconds: list[float]
    """The same replies by batched `generate` under a hook; empty where there is no such thing."""
    equal: int
    """Replies that are the same token for token on both sides."""

    @property
    def shares(self) -> list[float]:
        """Per repeat the share of the product rate that the stage reaches on the operations that it needs."""
        return [self.flops / took / rate for took, rate in zip(self.seconds, self.product_rates, strict=True)]

    @property
    def ratios(self) -> list[float]:
        """Per repeat how many times as fast as batched `generate` it is."""
        return [theirs / ours for ours, theirs in zip(self.seconds, self.stock_seconds, strict=False)]


def stage_rows(model: ModelConfig, vectors: int, repeats: int) -> list[StageRow]:
    """Time every stage of a run; the first repeat is a rehearsal and is not told. No reply ends before its last token.

    Args:
        model: the checkpoint.
        vectors: random ones under which the stages run.
        repeats: how often each is timed.
    """
    loaded = replace(load(model, checkpoint(model.path)), end_ids=())
    config = Config(model=model)
    config.search.vectors = vectors
    config.prompts.texts = [] if model.path in ORGANISMS else [NEUTRAL[0]]
    batch = prompt_batch(config, loaded)
    plan = planned(config, loaded, batch, heard_batch(config, loaded, batch), None)
    work = _Work(plan, plan.grounds[0])
    times: dict[str, list[float]] = {name: [] for name in (*STAGES, "stock")}
    rates: list[float] = []
    for repeat in range(repeats + 1):
        rates.append(product_rate(loaded.model.dtype, loaded.device, PRODUCT_SECONDS))
        for name, timed in work.stages.items():
            times[name].append(seconds(timed, loaded))
        if not repeat:
            times, rates = {name: [] for name in times}, []
    work.count()
    same = sum(ours.tokens == theirs.tokens for ours, theirs in zip(work.said, work.stock, strict=True))
    cuda = loaded.device.type == "cuda"
    return [
        StageRow(
            model=Path(model.path).name,
            device=torch.cuda.get_device_name() if cuda else "cpu",
            dtype=str(loaded.model.dtype).removeprefix("torch."),
            stage=name,
            rows=work.counts[name].rows,
            tokens=work.counts[name].tokens,
            flops=work.counts[name].flops,
            seconds=times[name],
            product_rates=rates,
            stock_seconds=times["stock"] if name == "speech" else [],
            equal=same if name == "speech" else 0,
        )
        for name in STAGES
    ]


@dataclass(frozen=True)
class _Count:
    """What one stage has to do."""

    rows: int
    tokens: int
    flops: int


class _Work:
    """The stages of a run under random vectors."""

    def __init__(self, plan: Plan, ground: Ground) -> None:
        self.plan, self.ground, self.loaded = plan, ground, plan.loaded
        self.speech, self.every, count = plan.config.speech, plan.every, plan.config.search.vectors
        space = ground.space.sized(count)
        self.directions = drawn(space, count, "stages")
        perturbations = space.perturbations(self.directions, RADIUS * ground.part.residual_norm)
        self.steering = added(perturbations).repeated(len(self.every.prompts))
        self.bank = VectorBank(
            perturbations=perturbations,
            objective=torch.zeros(count),
            radius=RADIUS * ground.part.residual_norm,
            residual_norm=ground.part.residual_norm,
            source_layer=ground.layers[0],
            target_layer=ground.layers[1],
            origin={},
        )
        self.read = Readings(
            space, self.bank.radius, readers(ground.part, ground.reply_tokens, ground.search), chunks(ground.part, None)
        )
        self.own = replies(self.loaded, self.every, (), AHEAD, self.speech.rows, lambda _: None)
        self.said: list[Reply] = []
        self.stock: list[Reply] = []
        self.counts: dict[str, _Count] = {}

    def count(self) -> None:
        """Count what each stage needs, once all of them are done."""
        linear, head = _linear(self.loaded)
        vectors, said, asked = len(self.directions), self.speech.tokens, len(self.plan.batch.prompts)
        prompts, rows = int(self.every.attention_mask.sum()), vectors * len(self.every.prompts)
        # A text that is read once is not read again.
        distinct = len({(row % len(self.every.prompts), one.tokens) for row, one in enumerate(self.said)})
        ahead = vectors * (int(self.plan.batch.attention_mask.sum()) + asked * AHEAD)
        texts = {
            "unsteered": (rows, prompts + rows * said, rows * said),
            "triage": (vectors * asked, ahead, vectors * asked * (AHEAD + 1)),
            "speech": (rows, prompts * vectors + rows * said, rows * said),
            "reading": (distinct, prompts + distinct * said, distinct * said),
        }
        # Attention is left out: over some dozens of tokens it is a hundredth of the linear maps.
        self.counts = {name: _Count(of, tokens, linear * tokens + head * heads) for name, (of, tokens, heads) in texts.items()}
        readers = self.read.readers
        flops = sum(
            needed_flops(self.loaded, self.ground.part, self.ground.layers[1], len(self.read.rows_of(number, vectors)), 1)
            for number in range(len(readers))
        )
        learned = vectors * len(self.ground.batch.prompts)
        self.counts["search"] = _Count(learned, vectors * self.ground.longer.input_ids.numel(), flops)

    @property
    def stages(self) -> dict[str, Callable[[], object]]:
        """What is timed, in the order in which it must be done once."""
        return {
            "unsteered": self._unsteered,
            "search": lambda: self.read.gradients(mean_norm, self.directions, torch.arange(len(self.directions))),
            "triage": self._triage,
            "speech": self._speech,
            "stock": self._generate,
            "reading": self._reading,
        }

    def _unsteered(self) -> None:
        rows = self.every.repeated(len(self.directions))
        count = len(rows.input_ids)
        drawing = Drawing(1.0, range(count))
        continued(self.loaded, rows, [NOTHING] * count, (), drawing, self.speech.tokens, self.speech.rows, lambda _: None)

    def _triage(self) -> None:
        seen = sight(self.loaded, self.plan.batch, self.own[: len(self.plan.batch.prompts)], self.bank.target_layer)
        glances(seen, "learned", self.bank, (), self.speech.rows, lambda _: None)

    def _speech(self) -> None:
        rows = self.every.repeated(len(self.directions))
        self.said = replies(self.loaded, rows, [self.steering], self.speech.tokens, self.speech.rows, lambda _: None)

    def _generate(self) -> None:
        """Say the same by `generate`, as many rows at once, under a hook that adds each row's vector."""
        rows, found, at_once = self.every.repeated(len(self.directions)), list[Reply](), self.speech.rows
        vectors = self.bank.perturbations.changes[0].bias.repeat_interleave(len(self.every.prompts), dim=0)
        block = self.loaded.anatomy.blocks[self.ground.layers[0]]
        for start in range(0, len(vectors), at_once):
            some = rows.rows(slice(start, start + at_once))
            handle = block.register_forward_hook(partial(_adding, vectors[start : start + at_once, None]))
            try:
                output = self.loaded.model.generate(
                    input_ids=some.input_ids.to(self.loaded.device),
                    attention_mask=some.attention_mask.to(self.loaded.device),
                    max_new_tokens=self.speech.tokens,
                    do_sample=False,
                    eos_token_id=None,
                    pad_token_id=self.loaded.tokenizer.pad_token_id,
                )
            finally:
                handle.remove()
            found += [reply(self.loaded, row) for row in output[:, some.input_ids.shape[1] :].tolist()]
        self.stock = found

    def _reading(self) -> None:
        texts = [ids[mask.bool()].tolist() for ids, mask in zip(self.every.input_ids, self.every.attention_mask, strict=True)]
        surprises(self.loaded, texts * len(self.directions), [one.tokens for one in self.said], ())


def _adding(vectors: torch.Tensor, _module: nn.Module, _inputs: object, output: object) -> object:
    return with_hidden(output, hidden(output) + vectors.to(hidden(output)))


def _linear(loaded: LoadedModel) -> tuple[int, int]:
    """Return the operations of a token in the linear maps of all blocks, and those of its logits."""
    maps = (module for block in loaded.anatomy.blocks for module in block.modules() if isinstance(module, nn.Linear | Conv1D))
    blocks = sum(2 * module.get_parameter("weight").numel() for module in maps)
    return blocks, 2 * loaded.model.get_output_embeddings().weight.numel()
