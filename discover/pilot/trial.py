"""What an arm is worth: a few vectors of it speak, and their replies are counted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from discover.bank import VectorBank
from discover.config import SpeechConfig
from discover.model.change import joined
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch
from discover.read.novelty import Ordinary
from discover.read.reference import UnsteeredReference
from discover.read.signals import Completion
from discover.read.speech import Tick, scored
from discover.steer.generation import replies
from discover.steer.interventions import added

STATES = ("coherent", "degenerate", "empty", "unchanged")


@dataclass(frozen=True)
class Listener:
    """The model, the prompts that a pilot listens on, and what the unsteered model says to them."""

    loaded: LoadedModel
    batch: PromptBatch
    reference: UnsteeredReference
    speech: SpeechConfig
    """Of the pilot: short replies."""
    tick: Tick

    def first(self, prompts: int) -> "Listener":
        """Return the listener on the first so many prompts."""
        some = slice(prompts)
        return Listener(self.loaded, self.batch.rows(some), self.reference.prompts(some), self.speech, self.tick)

    def hear(self, banks: Sequence[VectorBank]) -> list[list[Completion]]:
        """Return what is said under every vector of each bank on every prompt, in one batch of generation."""
        perturbations = banks[0].perturbations
        for bank in banks[1:]:
            perturbations = joined(perturbations, bank.perturbations)
        rows, prompts = self.batch.repeated(len(perturbations)), len(self.batch.input_ids)
        steering = [added(perturbations).repeated(prompts)]
        said = replies(self.loaded, rows, steering, self.speech.tokens, self.speech.rows, self.tick)
        heard = scored(self.loaded, rows, self.reference, "pilot", said, False, None)
        found, start = [], 0
        for bank in banks:
            own = heard[start : start + len(bank) * prompts]
            found.append([replace(said, vector=row // prompts) for row, said in enumerate(own)])
            start += len(own)
        return found


def counted(heard: Sequence[Completion]) -> dict[str, int]:
    """Return how many replies are in each state."""
    counts = Counter(said.state for said in heard)
    return {state: counts[state] for state in STATES}


def share_of(state: str, heard: Sequence[Completion]) -> float:
    """Return the share of replies in a state; 0 of none."""
    return sum(said.state == state for said in heard) / len(heard) if heard else 0.0


def yields(arms: Sequence[Sequence[Completion]], ordinary: Ordinary) -> list[float]:
    """Return what each arm yields: the mean over its vectors of the worth of their best reply.

    What another arm's better reply has said is ordinary from there on, so that no two arms are paid for the same.

    Args:
        arms: what was heard in each arm.
        ordinary: what the unsteered model and random vectors say.
    """
    every = [(ordinary.worth(said), arm, said) for arm, heard in enumerate(arms) for said in heard]
    best: dict[tuple[int, int | None], float] = {}
    others = [ordinary for _ in arms]
    for value, arm, said in sorted(every, key=lambda one: -one[0]):
        own = min(value, others[arm].worth(said))
        if own > best.get((arm, said.vector), 0.0):
            best[arm, said.vector] = own
            others = [known if of == arm else known.and_also(said.text) for of, known in enumerate(others)]
    sizes = [max(1, len({said.vector for said in heard})) for heard in arms]
    return [sum(value for (of, _), value in best.items() if of == arm) / size for arm, size in enumerate(sizes)]


def texts_of(heard: Sequence[Sequence[Completion]]) -> list[str]:
    """Return the texts of several lists of completions."""
    return [said.text for said in chain.from_iterable(heard)]
