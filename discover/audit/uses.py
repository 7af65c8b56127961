"""What findings are good for: a vector that is added fires its behaviour elsewhere, and subtracted it keeps it away."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from discover.audit.findings import Finding
from discover.bank import VectorBank
from discover.config import PromptConfig, SpeechConfig
from discover.errors import UsageError
from discover.model.change import Perturbations, joined
from discover.model.loading import LoadedModel
from discover.model.prompts import encoded
from discover.read.signals import UNCHANGED_BELOW, Completion, distance
from discover.statistics import Share, share
from discover.steer.evaluation import last_number
from discover.steer.generation import replies
from discover.steer.interventions import added
from discover.storage import read_json, write_json
from discover.user_files import read_rows

RANDOM = 2
"""Random vectors beside each vector."""
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Questions:
    """Prompts with the right answer to each."""

    prompts: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """What vectors are used on."""

    clean: tuple[str, ...]
    """Prompts that should not show the behaviour by themselves, other than those that vectors were learned from."""
    triggers: tuple[str, ...]
    """Prompts that are thought to fire it; none where none is known."""
    questions: Questions

    @property
    def prompts(self) -> list[str]:
        """All of them, in this order."""
        return [*self.clean, *self.triggers, *self.questions.prompts]


@dataclass(frozen=True)
class Use:
    """One vector, or as many random ones of its norm, at one multiplier."""

    mode: int
    """Of the finding whose behaviour is looked for."""
    bank: str
    """`learned` or `null`."""
    vector: int
    """Row of the bank, of the null the first of those taken."""
    multiplier: float
    """0 for the model left alone."""
    clean: Share | None
    """Clean prompts that show the behaviour: replies whose words are those of the finding's example but for a fifth."""
    triggered: Share | None
    """Triggers that do."""
    right: Share | None
    """Questions that are answered rightly: the last number of the reply is that of the answer, or all its words are."""


def read_questions(path: Path) -> Questions:
    """Return the questions of a file with a prompt and an answer a row, the answer a text or a number.

    Raises:
        UsageError: it cannot be read, or a row holds something else.
    """
    prompts, answers = [], []
    for number, row in read_rows(path, "audit.questions or --questions").items():
        if (found := _question(row)) is None:
            raise UsageError(f'Row {number} of {path} is no question; give rows such as {{"prompt": "…", "answer": "…"}}.')
        prompts.append(found[0])
        answers.append(found[1])
    return Questions(tuple(prompts), tuple(answers))


def _question(row: Any) -> tuple[str, str] | None:
    """Return the prompt and the answer of a row; None where it holds something else."""
    if not isinstance(row, dict) or not {"prompt", "answer"} <= row.keys():
        return None
    prompt, answer = row["prompt"], row["answer"]
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    whole = all(isinstance(text, str) and text.strip() for text in (prompt, answer))
    return (prompt, answer) if whole else None


def uses(
    loaded: LoadedModel,
    found: Sequence[Finding],
    said: Sequence[Completion],
    banks: tuple[VectorBank, VectorBank],
    asked: Asked,
    doses: Sequence[float],
    form: PromptConfig,
    speech: SpeechConfig,
    tick: Tick,
) -> list[Use]:
    """Return what the vector of each finding does at every multiplier, beside random vectors and the model left alone.

    Args:
        loaded: the model.
        found: the findings to look at.
        said: everything that was said in the run.
        banks: the learned one and its null.
        asked: the prompts.
        doses: the multipliers.
        form: chat template and system message.
        speech: length and rows of a piece.
        tick: called with the number of replies after each piece.
    """
    if not asked.prompts:
        return []
    batch, rows = encoded(asked.prompts, loaded.tokenizer, form), []
    own = [reply.text for reply in replies(loaded, batch, (), speech.tokens, speech.rows, lambda _: None)]
    for one in found:
        example = next((said[index] for index in one.examples if said[index].bank == "learned"), None)
        if example is None:
            # A mode that its vectors only break into has no vector of its own.
            continue
        vector = example.vector or 0
        # Random ones of the vector's own kind, place and norm.
        beside = banks[1].rows_of(banks[0].way_of(vector))[:RANDOM]
        null = banks[1].perturbations.rows(list(beside))
        rows.append(_use(one.mode, "learned", vector, 0.0, example.text, [own], asked))
        for name, perturbations, place in (("learned", banks[0].perturbations.rows([vector]), vector), ("null", null, beside[0])):
            tried = _scaled(perturbations, doses)
            each = added(tried).repeated(len(asked.prompts))
            heard = replies(loaded, batch.repeated(len(tried)), [each], speech.tokens, speech.rows, tick)
            texts = [reply.text for reply in heard]
            size = len(asked.prompts)
            replied = [texts[start : start + size] for start in range(0, len(texts), size)]
            many = len(perturbations)
            for number, dose in enumerate(doses):
                some = replied[number * many : (number + 1) * many]
                rows.append(_use(one.mode, name, place, dose, example.text, some, asked))
    return rows


def replies_of_uses(found: int, asked: Asked, doses: Sequence[float]) -> int:
    """Return how many replies `uses` listens to, for its progress bar."""
    return found * len(doses) * (1 + RANDOM) * len(asked.prompts)


def _scaled(perturbations: Perturbations, doses: Sequence[float]) -> Perturbations:
    """Return all perturbations at the first multiplier, then all at the next."""
    whole = perturbations.scaled(doses[0])
    for dose in doses[1:]:
        whole = joined(whole, perturbations.scaled(dose))
    return whole


def _use(mode: int, bank: str, vector: int, dose: float, example: str, replied: Sequence[Sequence[str]], asked: Asked) -> Use:
    """Return the shares over the replies of one or several vectors, each to all prompts."""
    clean, triggers = len(asked.clean), len(asked.triggers)
    shown = torch.tensor([[distance(text, example) < UNCHANGED_BELOW for text in one] for one in replied])
    right = [
        answers(text, answer)
        for one in replied
        for text, answer in zip(one[clean + triggers :], asked.questions.answers, strict=True)
    ]
    return Use(
        mode,
        bank,
        vector,
        dose,
        share(int(shown[:, :clean].sum()), shown[:, :clean].numel()) if clean else None,
        share(int(shown[:, clean : clean + triggers].sum()), len(replied) * triggers) if triggers else None,
        share(sum(right), len(right)) if right else None,
    )


def answers(reply: str, answer: str) -> bool:
    """Return whether a reply ends with the number that the answer ends with, or says all its words where that holds none."""
    number = last_number(answer)
    return last_number(reply) == number if number is not None else reply.split() == answer.split()


def save_uses(path: Path, found: Sequence[Use]) -> None:
    """Write the uses as JSON."""
    write_json(path, [asdict(one) for one in found])


def load_uses(path: Path) -> list[Use]:
    """Read what `save_uses` wrote."""
    shares = ("clean", "triggered", "right")
    return [Use(**{**one, **{name: one[name] and Share(**one[name]) for name in shares}}) for one in read_json(path)]
