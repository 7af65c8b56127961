"""What a run will cost on this machine: seconds a stage and memory, from what it is to do and how fast that is here."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import Any

import psutil
import torch

from discover.choices import Diversity, Solver
from discover.config import Config
from discover.errors import UsageError
from discover.inputs import Ground
from discover.model.loading import LoadedModel
from discover.model.memory import free_memory
from discover.pilot.arms import is_open
from discover.pilot.choice import GRID, SCOUTS, scouted, tried
from discover.pilot.plan import Plan, leads_followed, learned_vectors, null_vectors, samples
from discover.pilot.rates import Rates, work
from discover.read.decoders import beside_of
from discover.read.hints import MULTIPLIERS, STRONGEST
from discover.read.leads import FURTHER
from discover.read.triage import AHEAD, DOSES
from discover.search.chunks import bytes_of_vector, chunks
from discover.search.learning import gradients_of
from discover.steer.evaluation import LOGIT_BYTES

FORWARD = 1 / 3
"""Cost of a pass forward, in passes forward and back."""
POWER = 3.0
"""Cost of a round of singular vectors, in rounds of the fixed point."""
DISTINCT, EMBEDDED = 0.8, 0.75
"""Replies that are read: those not said before; and what their embedding costs, in readings by the unsteered model."""
RETRIED = 0.4
"""Share of the pilot's arms that are tried a second time."""
LEAST_VECTORS, LEAST_TOKENS, LEAST_TRIAL = 8, 12, 2
"""Smallest bank, reply and trial of an arm that a run is shrunk to."""
GROWN, STEPS = 16.0, 80
"""Factor by which a bank grows, or shrinks, at most, and in how many steps from the least to the most."""
LOGITS = 3
"""Blocks of logits held at once, beside what they are made of."""


@dataclass(frozen=True)
class Cost:
    """What a run is expected to take."""

    seconds: dict[str, float]
    """By stage."""
    memory: int
    """Most bytes held at once, the model among them."""
    free: int
    """Bytes that the device has left beside what the process holds already."""

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())

    @property
    def record(self) -> dict[str, Any]:
        """The estimate by name, for run.json."""
        return asdict(self)

    def __str__(self) -> str:
        """Return one sentence."""
        dearest = sorted(self.seconds.items(), key=lambda one: -one[1])[:3]
        stages = ", ".join(f"{name} {_clock(seconds)}" for name, seconds in dearest)
        memory = f"{self.memory / 2**30:.1f} GiB of memory, {self.free / 2**30:.1f} GiB being free"
        return f"Cost, estimated: {_clock(self.total)} ({stages}) and {memory}."


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def cost(plan: Plan, config: Config, tried_on: int, rates: Rates) -> Cost:
    """Return what a run will take.

    Args:
        plan: what it is about to do.
        config: its options: those of the plan, or the same in another size.
        tried_on: replies that tell what the vector of one finding does on other prompts.
        rates: of this machine.
    """
    speech, heard, asked = config.speech, len(plan.every.prompts), len(plan.batch.prompts)
    vectors, null = learned_vectors(config), null_vectors(config)

    def said(rows: float, tokens: int = speech.tokens, steered: bool = True) -> float:
        return rates.speech(rows, tokens, speech.rows, steered)

    def read(rows: float) -> float:
        return rates.reading * rows * DISTINCT * rates.length * speech.tokens / plan.config.speech.tokens

    replied = (vectors + null) * heard * (speech.budget + speech.samples)
    begun = asked * config.audit.forced_tokens + leads_followed(config) * (1 + FURTHER)
    # What passes through the model and ends in logits at a few positions.
    glance = rates.prompt * 1.2 + rates.reading * (AHEAD + 1) / plan.config.speech.tokens
    seconds = {
        "unsteered": said((samples(config) + 1) * heard, steered=False),
        "pilot": _pilot(plan, config, rates) if plan.piloted else 0.0,
        "search": _search(plan, rates) * config.search.vectors / plan.config.search.vectors,
        "triage": glance * asked * (vectors * (1 + len(DOSES)) + null),
        # Every reply is said, read by the unsteered model, and read once more for what it means.
        "speech": said(replied) + said(begun, steered=False) + (1 + EMBEDDED) * read(replied + begun),
    }
    if config.read.mapped:
        one = mean(rates.gradient * FORWARD * work(ground) / len(ground.batch.prompts) for ground in plan.grounds)
        seconds["map"] = one * asked * (vectors + null)
    if config.read.decoded:
        beside = beside_of(vectors)
        seconds["decoders"] = glance * asked * (vectors + beside) + said(2 * (config.read.decoded + beside))
    seconds["hints"] = said(STRONGEST * len(MULTIPLIERS)) / 2
    seconds["uses"] = said(tried_on * config.audit.used)
    whole = {name: round(value, 2) for name, value in seconds.items()}
    return Cost(whole, _memory(plan, config), free_memory(plan.loaded.device.type))


def _search(plan: Plan, rates: Rates) -> float:
    """Return seconds of the search: of a portfolio, what its arms take on average."""
    each = [_learning(ground, ground.search.vectors, rates) for ground in plan.grounds]
    return mean(each) if is_open(plan.config.search) else sum(each)


def _pilot(plan: Plan, config: Config, rates: Rates) -> float:
    """Return seconds of the pilot: scouts at every place learn and speak at every radius, then every arm is tried."""
    tokens, heard = min(config.pilot.tokens, config.speech.tokens), len(plan.every.prompts)
    scouts = sum(_learning(ground, SCOUTS, rates) for ground in scouted(plan.grounds).values())
    trials = sum(_learning(ground, config.pilot.vectors, rates) for ground in plan.grounds)
    replies = tried(config, plan.arms, heard) * (1 + RETRIED) + len(scouted(plan.grounds)) * SCOUTS * len(GRID)
    spoken = rates.speech(replies, tokens, config.speech.rows, steered=True)
    read = rates.reading * DISTINCT * replies * tokens / plan.config.speech.tokens
    return scouts + trials * (1 + RETRIED) + spoken + read


def _learning(ground: Ground, vectors: int, rates: Rates) -> float:
    """Return seconds in which so many vectors are learned; at the end the objective of each is read once more."""
    search = replace(ground.search, vectors=vectors)
    rounds = gradients_of(search) * (POWER if search.solver is Solver.power else 1.0)
    return rates.gradient * work(ground) * (rounds + FORWARD * vectors)


def _memory(plan: Plan, config: Config) -> int:
    """Return the most bytes held at once: beside the model, gradients of a chunk, or keys, values and logits of a piece."""
    # Of a portfolio no arm is given much more than half of the bank.
    most = config.search.vectors // 2 if is_open(config.search) else config.search.vectors
    gradients = max(
        min(most, chunks(ground.part, ground.search.chunk).size) * bytes_of_vector(ground.part) for ground in plan.grounds
    )
    columns = plan.every.input_ids.shape[1] + config.speech.tokens
    vocabulary, replies = len(plan.loaded.model.get_input_embeddings().weight), null_vectors(config) * len(plan.every.prompts)
    logits = min(LOGIT_BYTES, 4 * replies * config.speech.tokens * vocabulary)
    speech = config.speech.rows * columns * _bytes_of_token(plan.loaded) + LOGITS * logits
    return _held(plan.loaded) + max(gradients, speech)


def _bytes_of_token(loaded: LoadedModel) -> int:
    """Return what keys and values of one token take in all blocks, at most."""
    about = loaded.model.config.get_text_config(decoder=True)
    heads = getattr(about, "num_key_value_heads", None) or about.num_attention_heads
    size = getattr(about, "head_dim", None) or loaded.anatomy.width // about.num_attention_heads
    return 2 * len(loaded.anatomy.blocks) * heads * size * loaded.model.dtype.itemsize


def _held(loaded: LoadedModel) -> int:
    """Return what is held already."""
    if loaded.device.type == "cuda":
        return int(torch.cuda.memory_allocated())
    return int(psutil.Process().memory_info().rss)


def sized(plan: Plan, tried_on: int, rates: Rates, minutes: float) -> tuple[Config, Cost]:
    """Return the config in the largest size whose cost is no more than so many minutes, and that cost.

    Vectors, random ones, samples, tokens of a reply and the trials of the pilot follow from one factor; what the config gives
    otherwise than by default stays as it is given.

    Raises:
        UsageError: the smallest run takes longer.
    """
    found = [(one, cost(plan, one, tried_on, rates)) for one in _sizes(plan.config, plan.loaded.anatomy.width)]
    fitting = [pair for pair in found if pair[1].total <= 60 * minutes]
    if not fitting:
        least = found[0][1]
        raise UsageError(
            f"run.minutes={minutes:g} is too little: the smallest run takes about {_clock(least.total)} here; give "
            f"run.minutes={least.total / 60 + 0.1:.1f} or more, or search.source_layer, search.target_layer and "
            "search.relative_radius, which leave the pilot out."
        )
    return fitting[-1]


def _sizes(config: Config, width: int) -> list[Config]:
    """Return the config in every size, the smallest first; where vectors are orthogonal there are no more than dimensions."""
    default, found = Config(), list[Config]()
    apart = config.search.solver is Solver.power or config.search.diversity in (Diversity.orthogonal, Diversity.sequential)
    most = max(config.search.vectors, width) if apart else sys.maxsize
    for step in range(STEPS + 1):
        factor = GROWN ** (2 * step / STEPS - 1)
        shrunk = min(1.0, factor)
        search, speech, pilot = config.search, config.speech, config.pilot
        if search.vectors == default.search.vectors and not search.mixture:
            search = replace(search, vectors=min(most, max(LEAST_VECTORS, round(search.vectors * factor))))
        if speech.tokens == default.speech.tokens:
            speech = replace(speech, tokens=max(LEAST_TOKENS, round(speech.tokens * shrunk**0.5)))
        if pilot.vectors == default.pilot.vectors:
            pilot = replace(pilot, vectors=max(LEAST_TRIAL, round(pilot.vectors * shrunk**0.5)))
        one = replace(config, search=search, speech=speech, pilot=pilot)
        if not found or one != found[-1]:
            found.append(one)
    return found


def sizes_of(config: Config) -> dict[str, int]:
    """Return what `sized` chooses, for run.json."""
    return {"search.vectors": config.search.vectors, "speech.tokens": config.speech.tokens, "pilot.vectors": config.pilot.vectors}


def in_sizes(config: Config, sizes: Mapping[str, int]) -> Config:
    """Return the config in the sizes that a run began with; as it is where there are none."""
    for name, value in sizes.items():
        section, option = name.split(".")
        if getattr(getattr(config, section), option) != value:
            config = replace(config, **{section: replace(getattr(config, section), **{option: value})})
    return config
