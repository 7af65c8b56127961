"""Following a hint: what the unsteered model says from the tokens that a vector boosts, and how little of it is enough."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from discover.bank import VectorBank
from discover.config import SpeechConfig
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch
from discover.read.leads import WORDS_FROM, Known, Tick, known_of, own_part
from discover.read.signals import UNCHANGED_BELOW, Completion, distance, words
from discover.steer.generation import replies
from discover.steer.interventions import added
from discover.storage import read_json, write_json

MULTIPLIERS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""At which a vector is tried, to find the least at which its behaviour holds."""
STRONGEST = 5
"""Behaviours whose vectors are tried so."""
BESIDE = 10
"""Random vectors, and forced first tokens, that are shown beside them."""


@dataclass(frozen=True)
class Branch:
    """One continuation by the unsteered model."""

    opening: str
    """The token, or tokens, put into its mouth."""
    text: str
    """What it says, the opening included."""
    novelty: float
    """Share of the words after the opening that stand, in order, in nothing that the unsteered model, forced first tokens or
    random vectors lead to; of a forced first token, in no unsteered reply."""
    surprise: float | None
    """Mean nats a token of what follows the opening (of a forced token: from that on), under the unsteered model."""


@dataclass(frozen=True)
class Hint:
    """What a vector points at."""

    bank: str
    """`learned`; `null` for the random vectors that are followed in the same way; `forced` for the likeliest first tokens."""
    vector: int
    """Row of the bank, or rank of the forced token."""
    mode: int | None
    """Mode that it was followed for; None where it stands beside one."""
    branches: tuple[Branch, ...]
    """Most novel first."""
    least: float | None
    """Smallest multiplier that was tried at which the behaviour holds; None where it was not tried or holds at none."""
    least_text: str | None
    """What is said there."""


@dataclass(frozen=True)
class Behaviour:
    """What a hint is sought for."""

    mode: int
    vector: int
    """Row of the bank that stands for it."""
    example: Completion
    """What the model says under that vector, or, where vectors only hint at the behaviour, what it was led to."""

    @property
    def spoken(self) -> bool:
        """Whether the vector says it."""
        return self.example.bank == "learned"


def hints(
    loaded: LoadedModel,
    batch: PromptBatch,
    behaviours: Sequence[Behaviour],
    said: Sequence[Completion],
    bank: VectorBank,
    null_vectors: int,
    speech: SpeechConfig,
    tick: Tick,
) -> list[Hint]:
    """Return what vectors of behaviours point at, then ten random ones, then the ten forced tokens that lead to the newest.

    Args:
        loaded: the model.
        batch: B prompts.
        behaviours: what vectors stand for, strongest first.
        said: everything that was said in the run, followed branches included.
        bank: N vectors.
        null_vectors: how many random ones there are, heard or not.
        speech: length and rows of a piece.
        tick: called with the number of replies after each piece.
    """
    known = known_of(said)
    least = _least(loaded, batch, [one for one in behaviours if one.spoken][:STRONGEST], bank, speech, tick)
    nothing = (None, None)
    found = [
        Hint("learned", one.vector, one.mode, _branches(said, known, "learned", one.vector), *least.get(one.mode, nothing))
        for one in behaviours
    ]
    found += [
        Hint("null", vector, None, _branches(said, known, "null", vector), None, None)
        for vector in range(min(BESIDE, null_vectors))
    ]
    alone = known_of([one for one in said if one.bank == "unsteered"])
    forced = [(one.vector or 0, _branch(one, alone)) for one in said if one.bank == "forced" and _is_sentence(one)]
    forced.sort(key=lambda one: -one[1].novelty)
    return [*found, *(Hint("forced", rank, None, (branch,), None, None) for rank, branch in forced[:BESIDE])]


def replies_of_hints(behaviours: Sequence[Behaviour]) -> int:
    """Return how many replies `hints` listens to, for its progress bar."""
    return min(STRONGEST, sum(one.spoken for one in behaviours)) * len(MULTIPLIERS)


def _branches(said: Sequence[Completion], known: Known, bank: str, vector: int) -> tuple[Branch, ...]:
    """Return what the unsteered model says from what one vector boosts."""
    found = [_branch(one, known) for one in said if (bank, vector) in one.hinted]
    return tuple(sorted(found, key=lambda branch: -branch.novelty))


def _is_sentence(said: Completion) -> bool:
    """Return whether what was said to the first prompt is coherent and long enough for a sentence."""
    return said.prompt == 0 and said.state == "coherent" and len(words(own_part(said))) >= WORDS_FROM


def _branch(said: Completion, known: Known) -> Branch:
    return Branch(said.opening or "", said.text, known.novelty(own_part(said)), said.surprise)


def _least(
    loaded: LoadedModel,
    batch: PromptBatch,
    behaviours: Sequence[Behaviour],
    bank: VectorBank,
    speech: SpeechConfig,
    tick: Tick,
) -> dict[int, tuple[float, str]]:
    """Return by mode the smallest multiplier at which the reply still has the words of the example but for a fifth, and it."""
    if not behaviours:
        return {}
    each, count = bank.perturbations.rows([one.vector for one in behaviours]).repeated(len(MULTIPLIERS)), len(behaviours)
    prompts = [one.example.prompt for one in behaviours for _ in MULTIPLIERS]
    rows = PromptBatch(
        tuple(batch.prompts[prompt] for prompt in prompts), batch.input_ids[prompts], batch.attention_mask[prompts]
    )
    steering = added(each.scaled(torch.tensor(MULTIPLIERS * count)))
    heard = [reply.text for reply in replies(loaded, rows, [steering], speech.tokens, speech.rows, tick)]
    found: dict[int, tuple[float, str]] = {}
    tried = ((one, multiplier) for one in behaviours for multiplier in MULTIPLIERS)
    for (one, multiplier), text in zip(tried, heard, strict=True):
        if distance(text, one.example.text) < UNCHANGED_BELOW:
            found.setdefault(one.mode, (multiplier, text))
    return found


def save_hints(path: Path, hints: Sequence[Hint]) -> None:
    """Write the hints."""
    write_json(path, [asdict(hint) for hint in hints])


def load_hints(path: Path) -> list[Hint]:
    """Read what `save_hints` wrote."""
    return [Hint(**{**row, "branches": tuple(Branch(**one) for one in row["branches"])}) for row in read_json(path)]
