"""Signals of a completion: how surprising it is, how repetitive, and how far from what the model says by itself."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from pathlib import Path
from statistics import mean

from discover.steer.generation import Reply
from discover.storage import read_json_lines, write_json_lines

UNCHANGED_BELOW = 0.2
"""Distance from the unsteered reply below which nothing is said to have happened."""
REPETITIVE_FROM = 0.5
"""Share of repeated trigrams from which a completion counts as degenerate."""
SURPRISING_FROM = 2.5
"""Onward surprise (nats a token) from which a completion counts as degenerate."""

WORD = re.compile(r"[^\W\d_]+")
UNSPACED = re.compile("([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f])")


@dataclass(frozen=True)
class Completion:
    """One thing that the model said, with its signals; "not scored" is None."""

    bank: str
    """`learned`, `null` or `unsteered`; without a vector but with its first token forced: `forced`, where that was one of
    the model's likeliest, `followed`, where vectors had broken into it."""
    vector: int | None
    """Row of the bank, or rank of the forced token; None for unsteered."""
    prompt: int
    """Index of the prompt."""
    sample: int
    """0 for the greedy reply, from 1 on for those that were drawn."""
    text: str
    opening: str | None
    """The token that was put into the model's mouth; None where none was."""
    tokens: int
    """Length in tokens."""
    ended: bool
    """Whether the model ended the reply itself."""
    surprise: float | None
    """Mean negative log-likelihood a token under the unsteered model, in nats."""
    onward_surprise: float | None
    """The same without the most surprising token: where steering makes a reply leap, what counts is how it goes on."""
    steered_surprise: float | None
    """The mean under the model steered as it was when it spoke."""
    repetition: float
    """Share of token trigrams that occurred before in the completion."""
    distance: float
    """0 where the words are those of the unsteered reply, 1 where none is."""
    meaning: float | None
    """Distance (1 minus cosine) of its embedding from that of the unsteered reply."""
    script: str | None
    """Unicode script of most of its letters; None where it has none."""
    refusal: bool
    """Whether its opening holds a phrase that refusals open with."""
    state: str
    """`unchanged`, `coherent` or `degenerate`, by the rules of `state_of`."""


def save_completions(path: Path, completions: Sequence[Completion]) -> None:
    """Write one completion a line."""
    write_json_lines(path, map(asdict, completions))


def load_completions(path: Path) -> list[Completion]:
    """Read what `save_completions` wrote."""
    return [Completion(**row) for row in read_json_lines(path)]


def words(text: str) -> list[str]:
    """Return the words of `text` in lower case, numbers and marks left out; scripts without spaces by character."""
    return WORD.findall(UNSPACED.sub(r" \1 ", text.lower()))


def distance(text: str, other: str) -> float:
    """Return 1 minus the share of words that two texts have in common, in order; of characters where neither has words."""
    first, second = words(text), words(other)
    if not first and not second:
        first, second = list(text.strip()), list(other.strip())
    return 1 - SequenceMatcher(None, first, second, autojunk=False).ratio()


def repetition(tokens: Sequence[int]) -> float:
    """Return the share of trigrams of `tokens` that occurred before; 0 for fewer than three tokens."""
    trigrams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


def onward_surprise(surprise: Sequence[float]) -> float | None:
    """Return the mean surprise without the largest one; the single surprise of one token, None for no token."""
    if len(surprise) < 2:
        return surprise[0] if surprise else None
    return (sum(surprise) - max(surprise)) / (len(surprise) - 1)


def state_of(away: float, repeated: float, onward: float | None) -> str:
    """Return `unchanged`, `degenerate` or `coherent`.

    Unchanged: the words of the unsteered reply but for a fifth. Degenerate: half of the trigrams repeated, or tokens so
    surprising, the greatest leap aside, that the unsteered model would hardly have gone on so. Coherent: everything else.
    """
    if away < UNCHANGED_BELOW:
        return "unchanged"
    if repeated >= REPETITIVE_FROM or (onward is not None and onward >= SURPRISING_FROM):
        return "degenerate"
    return "coherent"


def completion(
    bank: str,
    vector: int | None,
    prompt: int,
    reply: Reply,
    opening: str | None,
    unsteered: str,
    plain: Sequence[float],
    steered: Sequence[float] | None,
) -> Completion:
    """Return one completion with its signals.

    Args:
        bank: which bank spoke.
        vector: which row of it.
        prompt: index of the prompt.
        reply: what was said.
        opening: its first token, where that was forced.
        unsteered: what the model says to this prompt by itself.
        plain: surprise of each token under the unsteered model.
        steered: the same under the steered model; None where nothing steered.
    """
    onward = onward_surprise(plain)
    away, repeated = distance(reply.text, unsteered), repetition(reply.tokens)
    return Completion(
        bank=bank,
        vector=vector,
        prompt=prompt,
        sample=0,
        text=reply.text,
        opening=opening,
        tokens=len(reply.tokens),
        ended=reply.ended,
        surprise=mean(plain) if plain else None,
        onward_surprise=onward,
        steered_surprise=mean(steered) if steered else None,
        repetition=repeated,
        distance=away,
        meaning=None,
        script=None,
        refusal=False,
        state=state_of(away, repeated, onward),
    )
