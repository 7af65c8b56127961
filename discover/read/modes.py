"""Group completions into modes: what the model was driven to do, and how often."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from sklearn.cluster import AgglomerativeClustering
from sklearn.feature_extraction.text import TfidfVectorizer

from discover.read.signals import UNSPACED, Completion
from discover.storage import read_json, write_json

APART = 0.7
"""Cosine distance (TF-IDF of words and word pairs, average linkage) from which completions are different modes."""
TERMS = 6
"""Terms named for a mode."""
UNCHANGED = "nothing happened"

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Mode:
    """Completions that say the same, from every bank, on one prompt set."""

    label: str
    """`nothing happened`, or how its most frequent text opens."""
    state: str
    """What its members are: `unchanged`, `coherent` or `degenerate`."""
    terms: tuple[str, ...]
    """Words that set the mode apart from the others."""
    members: tuple[int, ...]
    """Indices into the completions that were grouped: the most frequent text first, then the most typical ones."""
    shown: tuple[int, ...]
    """Of these the medoid, and two that are drawn."""
    named: str | None
    """What a language model calls it; None where none was asked."""


def modes(completions: Sequence[Completion]) -> list[Mode]:
    """Group completions by what was said; numbers count as one word, whatever their value.

    Unchanged completions are one mode of their own. Coherent and degenerate ones are clustered apart, so that the ruins of a
    sentence never hide where it stands whole; within each the largest mode comes first.
    """
    unchanged = tuple(index for index, said in enumerate(completions) if said.state == "unchanged")
    found = [Mode(UNCHANGED, "unchanged", (), unchanged, unchanged[:3], None)] if unchanged else []
    for state in ("coherent", "degenerate"):
        rows = [index for index, said in enumerate(completions) if said.state == state]
        texts = [completions[row].text for row in rows]
        for members, terms in _clusters(texts):
            chosen = tuple(rows[member] for member in members)
            found.append(Mode(label(texts[members[0]]), state, terms, chosen, chosen[:3], None))
    return found


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


def _clusters(texts: Sequence[str]) -> list[tuple[list[int], tuple[str, ...]]]:
    """Return clusters of texts as (members, most frequent text first; distinctive terms), largest first."""
    if not texts:
        return []
    # With numbers as words, every worked sum would be a mode of its own.
    masked = [_NUMBER.sub("0", UNSPACED.sub(r" \1 ", text)) for text in texts]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"[^\W_]+|[^\w\s]", sublinear_tf=True)
    try:
        weights = vectorizer.fit_transform(masked).toarray()
    except ValueError:  # No text holds a single word.
        return [(list(range(len(texts))), ())]
    groups = _labels(weights)
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[int(group)].append(index)
    names = vectorizer.get_feature_names_out()
    everywhere = weights.mean(axis=0)
    found = []
    for rows in members.values():
        centre = weights[rows].mean(axis=0)
        frequency = Counter(texts[row] for row in rows)
        typical = sorted(rows, key=lambda row: (-float(weights[row] @ centre), row))
        ordered = sorted(typical, key=lambda row: -frequency[texts[row]])
        best = np.argsort(-(centre - everywhere), kind="stable")
        terms = tuple(str(names[place]) for place in best if any(map(str.isalpha, names[place])))[:TERMS]
        found.append((ordered, terms))
    return sorted(found, key=lambda group: (-len(group[0]), min(group[0])))


def _labels(weights: np.ndarray) -> np.ndarray:
    """Return a cluster number per row; rows without a single known word are a cluster of their own."""
    known = weights.any(axis=1)
    labels = np.full(len(weights), -1)
    if known.sum() == 1:
        labels[known] = 0
    elif known.any():
        model = AgglomerativeClustering(n_clusters=None, distance_threshold=APART, metric="cosine", linkage="average")
        labels[known] = model.fit_predict(weights[known])
    return labels
