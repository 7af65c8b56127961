"""How fast this machine is with this model: a measurement of seconds, before a run says what it will cost."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import TypeVar

import torch

from discover.inputs import Ground
from discover.model.loading import LoadedModel
from discover.perturb.spaces import drawn
from discover.perturb.sphere import seed_of
from discover.pilot.plan import Plan
from discover.search.chunks import chunks
from discover.search.effects import mean_norm
from discover.search.readings import Readings, readers
from discover.steer.evaluation import surprises
from discover.steer.generation import NOTHING, Drawing, Reply, continued, replies
from discover.steer.interventions import added

SAMPLED, PASSED, READ, VECTORS, STEPS = 24, 48, 24, 16, 4
"""Size of the measurement: replies drawn to their end, rows passed through the model, replies read, vectors whose gradient is
taken, and tokens generated at the width of a piece."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Rates:
    """What pieces of work take, in seconds."""

    prompt: float
    """One row's pass over its prompt, under a perturbation."""
    piece: float
    """One token of a piece of generation, whatever its rows."""
    row: float
    """One token of one row, beside that."""
    reading: float
    """One reply of full length read by the unsteered model."""
    gradient: float
    """One vector's gradient, for one token and one block."""
    length: float
    """Mean length of an unsteered reply, as a share of the longest that is allowed."""

    def speech(self, rows: float, tokens: int, at_once: int, steered: bool) -> float:
        """Return what so many replies take, pieces of `at_once` rows; unsteered ones share the pass over their prompt."""
        pieces = -(-rows // at_once)
        return tokens * (pieces * self.piece + rows * self.length * self.row) + (rows * self.prompt if steered else 0.0)


def measured(plan: Plan) -> Rates:
    """Return what pieces of a run's work take here."""
    every, speech, seed = plan.every, plan.config.speech, plan.config.seed
    loaded, ground, prompts = plan.loaded, plan.grounds[0], len(plan.every.prompts)
    said, sampling = _timed(loaded, lambda: _sampled(plan, -(-SAMPLED // prompts)))
    longest = max(len(one.tokens) + one.ended for one in said)

    count = -(-PASSED // prompts)
    space = ground.space.sized(count)
    steering = [added(space.perturbations(drawn(space, count, "rates", seed), 0.0)).repeated(prompts)]
    _, entering = _timed(loaded, lambda: replies(loaded, every.repeated(count), steering, 1, speech.rows, lambda _: None))

    wide, steps = every.repeated(max(1, speech.rows // prompts)), min(STEPS, speech.tokens - 1)
    _, first = _timed(loaded, lambda: replies(loaded, wide, (), 1, speech.rows, lambda _: None))
    many, speaking = _timed(loaded, lambda: replies(loaded, wide, (), 1 + steps, speech.rows, lambda _: None))
    # Two widths tell what a token costs whatever the rows, and what each row adds.
    further = max(len(one.tokens) + one.ended for one in many) - 1
    narrow, broad = sampling / longest, max(0.0, speaking - first) / max(1, further)
    if len(many) >= 2 * len(said):
        row = max(0.0, (broad - narrow) / (len(many) - len(said)))
        piece = max(0.0, broad - row * len(many))
    else:
        # With many prompts both are as wide, and what lies between them is noise.
        row, piece = broad / len(many), 0.0

    vocabulary, draws = len(loaded.model.get_input_embeddings().weight), torch.Generator().manual_seed(0)
    words = torch.randint(vocabulary, (READ, speech.tokens), generator=draws).tolist()
    texts = [ids[mask.bool()].tolist() for ids, mask in zip(every.input_ids, every.attention_mask, strict=True)]
    _, reading = _timed(loaded, lambda: surprises(loaded, texts[:1] * READ, words, ()))

    pieces = chunks(ground.part, ground.search.chunk)
    count = min(VECTORS, pieces.size)
    space = ground.space.sized(count)
    read = Readings(space, ground.part.residual_norm, readers(ground.part, ground.reply_tokens, ground.search), pieces)
    directions = drawn(space, count, "rates", seed)
    _, learning = _timed(loaded, lambda: read.gradients(mean_norm, directions, torch.arange(count)))
    return Rates(
        prompt=max(0.0, (entering - piece) / len(steering[0]) - row),
        piece=piece,
        row=row,
        reading=reading / READ,
        gradient=learning / (count * work(ground)),
        length=mean(len(one.tokens) + one.ended for one in said) / speech.tokens,
    )


def work(ground: Ground) -> int:
    """Return over how many tokens, each in how many blocks, a search computes one vector."""
    return ground.longer.input_ids.numel() * (1 + ground.layers[1] - ground.layers[0])


def _sampled(plan: Plan, count: int) -> list[Reply]:
    """Return so many unsteered replies to every prompt, drawn to their end."""
    rows, speech = plan.every.repeated(count), plan.config.speech
    drawing = Drawing(1.0, [seed_of("rates", plan.config.seed, row) for row in range(len(rows.input_ids))])
    start = [NOTHING] * len(rows.input_ids)
    return continued(plan.loaded, rows, start, (), drawing, speech.tokens, speech.rows, lambda _: None)


def _timed(loaded: LoadedModel, function: Callable[[], Result]) -> tuple[Result, float]:
    """Return what a function gives, and the seconds that it takes."""
    wait = torch.cuda.synchronize if loaded.device.type == "cuda" else lambda: None
    wait()
    begun = time.perf_counter()
    found = function()
    wait()
    return found, time.perf_counter() - begun
