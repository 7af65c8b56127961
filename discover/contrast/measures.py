"""Whether the model behaves as the positive examples do: a chosen letter, a refusal, or a likelier completion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from discover.choices import Measured
from discover.config import PromptConfig, SpeechConfig
from discover.contrast.sets import ContrastSet, letter_in
from discover.errors import UsageError
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch, encoded
from discover.steer.evaluation import refuses, surprises
from discover.steer.generation import replies
from discover.steer.interventions import Intervention

Tick = Callable[[int], None]


class Measure(Protocol):
    """Tells of each of P prompts whether the model behaves as wanted."""

    @property
    def name(self) -> str:
        """What is counted, for tables."""

    @property
    def batch(self) -> PromptBatch:
        """The P prompts."""

    def outcomes(self, loaded: LoadedModel, interventions: Sequence[Intervention], copies: int) -> list[list[bool]]:
        """Return [copies][P]: whether each prompt is met as wanted under interventions with copies * P entries, copy by copy."""


@dataclass(frozen=True)
class Spoken:
    """A measure that reads what is said."""

    name: str
    batch: PromptBatch
    wanted: Sequence[Callable[[str], bool]]
    """Per prompt what is asked of its reply."""
    tokens: int
    rows: int

    def said(self, loaded: LoadedModel, interventions: Sequence[Intervention], copies: int) -> list[str]:
        """Return the replies, copy by copy."""
        found = replies(loaded, self.batch.repeated(copies), interventions, self.tokens, self.rows, lambda _: None)
        return [reply.text for reply in found]

    def outcomes(self, loaded: LoadedModel, interventions: Sequence[Intervention], copies: int) -> list[list[bool]]:
        """Return what is asked of every reply, as the protocol says."""
        said, count = self.said(loaded, interventions, copies), len(self.wanted)
        return [self.met(said[start : start + count]) for start in range(0, len(said), count)]

    def met(self, said: Sequence[str]) -> list[bool]:
        """Return which of P replies are as wanted."""
        return [asked(text) for asked, text in zip(self.wanted, said, strict=True)]


@dataclass(frozen=True)
class Likelier:
    """Whether the positive completion of a prompt is likelier, per token, than the negative one."""

    name: str
    batch: PromptBatch
    completions: tuple[list[list[int]], list[list[int]]]
    """The positive and the negative ones, as token ids."""

    def outcomes(self, loaded: LoadedModel, interventions: Sequence[Intervention], copies: int) -> list[list[bool]]:
        """Return which of both is likelier, as the protocol says."""
        prompts = [ids[mask.bool()].tolist() for ids, mask in zip(self.batch.input_ids, self.batch.attention_mask, strict=True)]
        losses = [
            [sum(row) / len(row) for row in surprises(loaded, prompts * copies, side * copies, interventions)]
            for side in self.completions
        ]
        better = [positive < negative for positive, negative in zip(*losses, strict=True)]
        return [better[start : start + len(prompts)] for start in range(0, len(better), len(prompts))]


def measure(loaded: LoadedModel, examples: ContrastSet, wanted: Measured, prompts: PromptConfig, speech: SpeechConfig) -> Measure:
    """Return how behaviour is measured on a contrast set.

    Raises:
        UsageError: the examples are not of the kind that the measure reads, or no unsteered reply holds a letter.
    """
    kind = _kind(examples) if wanted is Measured.auto else wanted
    side = examples.negative if kind is Measured.refusal else examples.positive
    batch = encoded([one.prompt for one in side], loaded.tokenizer, prompts)
    match kind:
        case Measured.refusal:
            return Spoken("refused", batch, [refuses] * len(side), speech.tokens, speech.rows)
        case Measured.choice:
            letters = [letter_in(one.completion or "") for one in side]
            if None in letters:
                raise UsageError(
                    "contrast.measure=choice reads a letter, and a positive completion has none; begin every completion with the "
                    'letter it chooses, such as "(A) …".'
                )
            chosen = Spoken(
                "chose as the positive examples", batch, [_chooses(one) for one in letters], speech.tokens, speech.rows
            )
            if not any(letter_in(text) for text in chosen.said(loaded, (), 1)):
                raise UsageError(
                    "No unsteered reply holds a letter such as (A), so choices cannot be counted; ask for one in the prompts, "
                    "give more speech.tokens, or use contrast.measure=likelihood."
                )
            return chosen
        case _:
            if not examples.paired:
                raise UsageError(
                    "contrast.measure=likelihood compares two completions of each prompt; give lines with prompt, positive and "
                    "negative, or another measure."
                )
            sides = tuple(
                [loaded.tokenizer(one.completion, add_special_tokens=False)["input_ids"] for one in part]
                for part in (examples.positive, examples.negative)
            )
            return Likelier("likelier as the positive examples", batch, (sides[0], sides[1]))


def _kind(examples: ContrastSet) -> Measured:
    """Return the measure that a set of examples is made for.

    Raises:
        UsageError: it is made for learning alone.
    """
    if not examples.paired:
        if any(one.completion for one in (*examples.positive, *examples.negative)):
            raise UsageError(
                "Labelled examples with completions tell what to learn and not what to ask; add lines with a prompt and both "
                "completions (prompt, positive, negative), or count refusals of negative prompts: contrast.measure=refusal."
            )
        return Measured.refusal
    lettered = all(letter_in(one.completion or "") for one in (*examples.positive, *examples.negative))
    return Measured.choice if lettered else Measured.likelihood


def _chooses(letter: str | None) -> Callable[[str], bool]:
    return lambda reply: letter_in(reply) == letter
