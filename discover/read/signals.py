"""Signals of a completion: how surprising it is, how repetitive, and how far from what the model says by itself."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from math import ceil
from pathlib import Path
from statistics import mean

from discover.steer.evaluation import refuses
from discover.steer.generation import Reply
from discover.storage import read_json_lines, write_json_lines

UNCHANGED_BELOW = 0.2
"""Distance from the unsteered reply below which nothing is said to have happened."""
ONWARD = 16
"""Tokens from the parting on by which a completion is judged."""
LEAST = 8
"""Tokens over which surprise is averaged at least: fewer are taken together with those before them, or with certain ones."""
LEAP = 2.0
"""Nats a token that the leap into another reply may add to onward surprise: 32 nats, spread over ONWARD tokens. One token that
the unsteered model would never choose costs up to 25."""
LEAPS = 2
"""Tokens by which a reply may leap into what it then says."""
TAIL = 0.99
"""Quantile of the unsteered model's own samples that still counts as ordinary."""
OPENING = 12
"""Words of a reply in which a refusal begins."""

WORD = re.compile(r"[^\W\d_]+")
SCRIPTS = {"Cjk": "Han", "Hiragana": "Kana", "Katakana": "Kana", "Katakana-hiragana": "Kana"}
"""Scripts that the names of their letters call otherwise, or that one language mixes."""
UNSPACED = re.compile("([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f])")


@dataclass(frozen=True)
class Completion:
    """One thing that the model said, with its signals; "not scored" is None."""

    bank: str
    """`learned`, `null` or `unsteered`; without a vector but with its opening put into the model's mouth: `forced`, where that
    was one of the likeliest first tokens, `followed`, where vectors had boosted it."""
    vector: int | None
    """Row of the bank, or rank of the opening; None for unsteered."""
    prompt: int
    """Index of the prompt."""
    sample: int
    """0 for the greedy reply, from 1 on for those that were drawn."""
    text: str
    opening: str | None
    """What was put into the model's mouth; None where nothing was."""
    tokens: int
    """Length in tokens."""
    ended: bool
    """Whether the model ended the reply itself."""
    surprise: float | None
    """Mean negative log-likelihood a token under the unsteered model, in nats; of a followed one, of what comes after its
    opening."""
    onward_surprise: float | None
    """The same from where it parts from the unsteered reply on: the leap itself, and how the model goes on after it."""
    settled_surprise: float | None
    """The same without the two most surprising of these tokens: how surely the unsteered model goes on with what has begun."""
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
    """`unchanged`, `empty`, `coherent` or `degenerate`, by the rules of `state_of`."""
    hinted: tuple[tuple[str, int], ...]
    """Of a followed one: bank and row of every vector that boosts the token by which its opening leaves the unsteered reply."""


def save_completions(path: Path, completions: Sequence[Completion]) -> None:
    """Write one completion a line."""
    write_json_lines(path, map(asdict, completions))


def load_completions(path: Path) -> list[Completion]:
    """Read what `save_completions` wrote."""
    return [Completion(**{**row, "hinted": tuple(map(tuple, row["hinted"]))}) for row in read_json_lines(path)]


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


def onward(tokens: Sequence[int], unsteered: Sequence[int]) -> slice:
    """Return the place of the tokens by which a completion is judged.

    They begin where it parts from the unsteered reply, or earlier where fewer than LEAST would be left, and are ONWARD at most:
    a sentence stays one whatever follows it, itself said again or its ruins.
    """
    common = (place for place, (one, other) in enumerate(zip(tokens, unsteered, strict=False)) if one != other)
    parting = next(common, min(len(tokens), len(unsteered)))
    start = max(0, min(parting, len(tokens) - LEAST))
    return slice(start, start + ONWARD)


def onward_surprise(surprise: Sequence[float]) -> float | None:
    """Return the mean of some tokens' surprise, over LEAST tokens if they are fewer; None for no token."""
    return sum(surprise) / max(len(surprise), LEAST) if surprise else None


def settled_surprise(surprise: Sequence[float]) -> float | None:
    """Return the mean of some tokens' surprise without the LEAPS greatest; None where none is left."""
    rest = sorted(surprise)[: max(0, len(surprise) - LEAPS)]
    return mean(rest) if rest else None


@dataclass(frozen=True)
class Bounds:
    """Where an ordinary reply ends and a degenerate one begins, as the unsteered model's own samples have it."""

    surprise: float
    """Onward surprise in nats a token, from which a completion is degenerate."""
    repetition: float
    """Share of repeated trigrams from which it is degenerate."""


def bounds(samples: Sequence[tuple[Sequence[int], Sequence[float]]], greedy: Sequence[Sequence[int]]) -> Bounds:
    """Return the bounds that sampled replies set, each judged over the same tokens as a steered one.

    A greedy reply under a vector is held against what the unsteered model says when it draws: 99 in 100 of those are ordinary.
    Beyond them surprise has the allowance of one leap, and repetition half of what is left to a text that says one thing only.

    Args:
        samples: tokens of each sampled reply, and their surprises under the model that drew them; at least one.
        greedy: tokens of the greedy reply to the same prompt, for each.
    """
    places = [onward(tokens, own) for (tokens, _), own in zip(samples, greedy, strict=True)]
    surprise = [onward_surprise(values[place]) or 0.0 for (_, values), place in zip(samples, places, strict=True)]
    repeated = [repetition(tokens[place]) for (tokens, _), place in zip(samples, places, strict=True)]
    return Bounds(_quantile(surprise) + LEAP, (1 + _quantile(repeated)) / 2)


def _quantile(values: Sequence[float]) -> float:
    # Of fewer than a hundred the greatest.
    return sorted(values)[ceil(TAIL * (len(values) - 1))]


def script(text: str) -> str | None:
    """Return the script of most letters of `text`, such as `Latin` or `Han`; None where it has no letters."""
    letters = Counter(filter(str.isalpha, unicodedata.normalize("NFKC", text)))
    found: Counter[str] = Counter()
    for letter, count in letters.items():
        name = unicodedata.name(letter, "").split(" ")[0].capitalize()
        found[SCRIPTS.get(name, name)] += count
    found.pop("", None)
    return found.most_common(1)[0][0] if found else None


def refusing(text: str) -> bool:
    """Return whether the first words of `text` hold a phrase that refusals open with."""
    return refuses(" ".join(text.split()[:OPENING]))


def state_of(text: str, away: float, repeated: float, surprise: float | None, limits: Bounds) -> str:
    """Return `unchanged`, `empty`, `degenerate` or `coherent`.

    Unchanged: the words of the unsteered reply but for a fifth. Empty: no letter and no digit. Degenerate: where it parts from
    the unsteered reply it repeats itself, or surprises the unsteered model, beyond the bounds that this model's own samples set,
    the leap into it allowed for: a sentence that the model holds makes up for the leap that opens it, and word salad does not.
    Coherent: everything else.

    Args:
        text: the reply.
        away: its distance from the unsteered reply.
        repeated: repetition among the tokens that follow the parting.
        surprise: their onward surprise.
        limits: the bounds.
    """
    if away < UNCHANGED_BELOW:
        return "unchanged"
    if not any(map(str.isalnum, text)):
        return "empty"
    if repeated >= limits.repetition or (surprise is not None and surprise >= limits.surprise):
        return "degenerate"
    return "coherent"


def completion(
    bank: str,
    vector: int | None,
    prompt: int,
    reply: Reply,
    opening: str | None,
    unsteered: Reply,
    limits: Bounds,
    plain: Sequence[float],
    steered: Sequence[float] | None,
) -> Completion:
    """Return one completion with its signals; how far its meaning is from that of the unsteered reply is not among them yet.

    Args:
        bank: which bank spoke.
        vector: which row of it.
        prompt: index of the prompt.
        reply: what was said.
        opening: how it began, where that was forced.
        unsteered: what the model says to this prompt by itself.
        limits: where degenerate begins for this model.
        plain: surprise of each token under the unsteered model.
        steered: the same under the steered model; None where nothing steered.
    """
    judged = onward(reply.tokens, unsteered.tokens)
    surprise, away = onward_surprise(plain[judged]), distance(reply.text, unsteered.text)
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
        onward_surprise=surprise,
        settled_surprise=settled_surprise(plain[judged]),
        steered_surprise=mean(steered) if steered else None,
        repetition=repetition(reply.tokens),
        distance=away,
        meaning=None,
        script=script(reply.text),
        refusal=refusing(reply.text),
        state=state_of(reply.text, away, repetition(reply.tokens[judged]), surprise, limits),
        hinted=(),
    )
