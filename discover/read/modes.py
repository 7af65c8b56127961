"""Group completions into modes: what the model was driven to do, and how often."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import mean

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import adjusted_rand_score

from discover.read.clusters import centres, clusters
from discover.read.embedding import TOKEN, Embed, masked
from discover.read.signals import Completion
from discover.storage import read_json, write_json

APART = 0.6
"""Cosine distance (average linkage) from which completions are different modes."""
TERMS = 6
"""Terms named for a mode."""
DRAWS = 5
"""Halves of the completions that are grouped anew to tell how stable the modes are."""
UNCHANGED = "nothing happened"
EMPTY = "says nothing"
LABELS = {"unchanged": UNCHANGED, "empty": EMPTY}
"""States whose completions are one mode each, whatever they hold."""
NOISE = "broken, each like nothing else"


@dataclass(frozen=True)
class Mode:
    """Completions that say the same, from every bank, on one prompt set."""

    label: str
    """`nothing happened`, `broken, each like nothing else`, or how its most typical text opens."""
    state: str
    """What its members are: `unchanged`, `empty`, `coherent` or `degenerate`."""
    terms: tuple[str, ...]
    """Words that set the mode apart from the others."""
    members: tuple[int, ...]
    """Indices into the completions that were grouped, the most typical first."""
    shown: tuple[int, ...]
    """Of these the medoid, and two that are drawn."""
    named: str | None
    """What a language model calls it; None where none was asked."""


@dataclass(frozen=True)
class _Texts:
    """Completions of one state by what they say, each text once, the most frequent first."""

    texts: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]

    @property
    def weights(self) -> np.ndarray:
        return np.array([len(one) for one in self.members], dtype=float)


def modes(completions: Sequence[Completion], embed: Embed) -> list[Mode]:
    """Group completions by what was said; numbers count as one word, whatever their value.

    Unchanged completions are one mode of their own, and empty ones another. Coherent and degenerate ones are clustered apart,
    so that the ruins of a sentence never hide where it stands whole; within each the largest mode comes first. Degenerate
    completions that no other resembles are noise, and one mode, the last. A coherent one stays a mode of its own: a sentence
    that a single vector says may be what is looked for.
    """
    whole = {state: [index for index, said in enumerate(completions) if said.state == state] for state in LABELS}
    groups = [(state, members) for state, members in whole.items() if members]
    noise: list[int] = []
    for state in ("coherent", "degenerate"):
        found = _groups(completions, state, embed)
        groups += [(state, group) for group in found if state == "coherent" or len(group) > 1]
        noise += [group[0] for group in found if state == "degenerate" and len(group) == 1]
    terms = _terms([[completions[member].text for member in group] for _, group in groups])
    made = [
        Mode(
            label=LABELS.get(state) or label(completions[group[0]].text),
            state=state,
            terms=() if state in LABELS else own,
            members=tuple(group),
            shown=_shown(group),
            named=None,
        )
        for (state, group), own in zip(groups, terms, strict=True)
    ]
    return [*made, Mode(NOISE, "degenerate", (), tuple(sorted(noise)), _shown(sorted(noise)), None)] if noise else made


def stability(completions: Sequence[Completion], found: Sequence[Mode], embed: Embed) -> float | None:
    """Return how far the modes are those of random halves of the completions: the mean adjusted Rand index over DRAWS halves.

    Unchanged completions, about which there is nothing to doubt, are left out. None where fewer than four others are left.
    """
    own = {member: number for number, mode in enumerate(found) if mode.state != "unchanged" for member in mode.members}
    if len(own) < 4:
        return None
    scores = []
    for draw in range(DRAWS):
        half = sorted(Random(f"half {draw}").sample(sorted(own), len(own) // 2))
        again = modes([completions[index] for index in half], embed)
        other = {member: number for number, mode in enumerate(again) for member in mode.members}
        scores.append(adjusted_rand_score([own[index] for index in half], [other[place] for place in range(len(half))]))
    return float(mean(scores))


def save_modes(path: Path, found: Sequence[Mode]) -> None:
    """Write the modes."""
    write_json(path, [asdict(mode) for mode in found])


def load_modes(path: Path) -> list[Mode]:
    """Read what `save_modes` wrote."""
    return [Mode(**{**row, **{name: tuple(row[name]) for name in ("terms", "members", "shown")}}) for row in read_json(path)]


def label(text: str) -> str:
    """Return how a text opens: its first nine words, on one line."""
    opening = text.split()
    return " ".join(opening[:9]) + (" …" if len(opening) > 9 else "") if opening else "(nothing)"


def _groups(completions: Sequence[Completion], state: str, embed: Embed) -> list[list[int]]:
    """Return the completions of one state that say the same, largest group first, the most typical member before the others."""
    told = _distinct(completions, state)
    if not told.texts:
        return []
    rows, weights = embed(told.texts), told.weights
    # Texts without a single word are alike in that.
    labels = clusters(rows, APART) + 1
    typical = (rows * centres(rows, labels, weights)[labels]).sum(axis=1)
    members: dict[int, list[int]] = defaultdict(list)
    for place in np.argsort(-typical, kind="stable"):
        members[int(labels[place])] += told.members[place]
    return sorted(members.values(), key=lambda group: (-len(group), min(group)))


def _distinct(completions: Sequence[Completion], state: str) -> _Texts:
    """Return what completions of a state say; texts that differ in their numbers alone are one, told as most tell it."""
    same: dict[str, list[int]] = defaultdict(list)
    for index, said in enumerate(completions):
        if said.state == state:
            same[masked(said.text)].append(index)
    each = sorted(same.values(), key=lambda group: (-len(group), group[0]))
    spoken = [Counter(completions[index].text for index in group).most_common(1)[0][0] for group in each]
    return _Texts(tuple(spoken), tuple(map(tuple, each)))


def _shown(group: Sequence[int]) -> tuple[int, ...]:
    """Return the first member, and two that are drawn from the others."""
    return (group[0], *Random("shown").sample(list(group[1:]), min(2, len(group) - 1)))


def _terms(texts: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Return the terms of each of C modes by class TF-IDF: frequency in the mode times log(1 + A / frequency in all modes).

    A is the mean number of terms in a mode. Source: Grootendorst, BERTopic, 2022, section 3.3.
    """
    told = [Counter(map(masked, own)) for own in texts]
    vectorizer = CountVectorizer(ngram_range=(1, 2), token_pattern=TOKEN)
    try:
        counted = vectorizer.fit_transform([text for own in told for text in own])
    except ValueError:  # No text holds a single word.
        return [()] * len(texts)
    of = np.repeat(np.arange(len(told)), [len(own) for own in told])
    times = np.array([count for own in told for count in own.values()], dtype=float)
    totals = centres(counted, of, times).multiply(np.bincount(of, times)[:, None]).tocsr()  # [C, terms]
    names, everywhere = vectorizer.get_feature_names_out(), np.asarray(totals.sum(axis=0)).ravel()
    rarity = np.log(1 + totals.sum() / len(told) / everywhere)
    found = []
    for row in range(len(told)):
        own = totals[[row]]
        best = own.indices[np.argsort(-own.data * rarity[own.indices], kind="stable")]
        found.append(tuple(str(names[place]) for place in best if _worded(names[place]))[:TERMS])
    return found


def _worded(term: str) -> bool:
    """Return whether every token of a term holds a letter."""
    return all(any(map(str.isalpha, token)) for token in term.split())
