"""Compare finished runs: which behaviours recur where, and how many vectors it takes to meet them."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean

import numpy as np
from sklearn.cluster import AgglomerativeClustering
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_distances

from discover.audit.findings import LEVELS, VERDICTS
from discover.audit.finished import CHECKPOINT, PROMPTS, Finished, Reached
from discover.errors import UsageError
from discover.read.modes import APART, LABELS, label
from discover.read.signals import words
from discover.statistics import Average, average, reached

SEED = "seed"
POINTS = 32
"""Points of a recall curve."""
NEVER = 1e9
"""Distance of modes that are not merged, however many others lie between them."""


@dataclass(frozen=True)
class Presence:
    """One merged mode in one run."""

    run: int
    """Index of the run."""
    verdict: str
    vectors: tuple[int, ...]
    null: int
    """Random vectors that do the same."""


@dataclass(frozen=True)
class Merged:
    """The same behaviour in one or more runs."""

    state: str
    label: str
    """`nothing happened`, or how its example opens."""
    terms: tuple[str, ...]
    example: str
    """The medoid of the mode with the strongest verdict, of these the one of most vectors."""
    seen: tuple[Presence, ...]
    """By run, where it was first seen first."""

    @property
    def verdicts(self) -> Counter[str]:
        """In how many runs it has which verdict."""
        return Counter(one.verdict for one in self.seen)

    @property
    def strongest(self) -> str:
        """The strongest verdict that it has in any run."""
        return min((one.verdict for one in self.seen), key=VERDICTS.index)

    @property
    def vectors(self) -> int:
        """How many vectors of all runs reach it."""
        return sum(len(one.vectors) for one in self.seen)


@dataclass(frozen=True)
class Cell:
    """Runs that differ in their seed alone."""

    values: tuple[str, ...]
    """One per axis."""
    runs: tuple[int, ...]


@dataclass(frozen=True)
class Recall:
    """How many merged modes the first n vectors of a bank reach, on average over all orders of its vectors."""

    vectors: tuple[int, ...]
    """n, from 0 to all."""
    coherent: tuple[Average, ...]
    """Coherent modes; mean over the runs with its interval."""
    claimed: tuple[Average, ...]
    """Those that are a finding, fragment or anomaly in any of the compared runs."""


@dataclass(frozen=True)
class Comparison:
    """What several runs say beside each other."""

    runs: tuple[Finished, ...]
    left_out: tuple[str, ...]
    """Why each of the others was not compared."""
    axes: tuple[str, ...]
    """Options in which the runs differ, the seed left out."""
    cells: tuple[Cell, ...]
    """By their values, in the order of the runs."""
    modes: tuple[Merged, ...]
    """Strongest first, then those of most runs."""
    recall: tuple[Recall, ...]
    """Per cell, run by run."""
    union: tuple[Recall, ...]
    """Per cell, the vectors of all its runs as one bank."""
    likeness: tuple[tuple[float | None, ...], ...]
    """[cells, cells] mean likeness of two runs, one of either cell: of what their vectors say coherently, the share in common
    (the smaller over the larger share of vectors, summed over the modes). None where there are no two runs, or where they say
    nothing coherent."""


def compared(runs: Sequence[Finished], left_out: Sequence[str]) -> Comparison:
    """Return the comparison of at least two runs.

    Raises:
        UsageError: there are fewer; the sentence says why.
    """
    if len(runs) < 2:
        why = " ".join(left_out) or "Only one was given."
        raise UsageError(f"A comparison takes two finished runs or more, and there {'is 1' if runs else 'are none'}. {why}")
    axes = _axes(runs)
    cells = _cells(runs, axes)
    found = _merged(runs)
    shares = [_shares(run, found, index) for index, run in enumerate(runs)]
    return Comparison(
        runs=tuple(runs),
        left_out=tuple(left_out),
        axes=axes,
        cells=cells,
        modes=found,
        recall=tuple(_recall([[run] for run in cell.runs], runs, found) for cell in cells),
        union=tuple(_recall([list(cell.runs)], runs, found) for cell in cells),
        likeness=tuple(tuple(_likeness(one, other, shares) for other in cells) for one in cells),
    )


def _axes(runs: Sequence[Finished]) -> tuple[str, ...]:
    """Return the options in which runs differ; weights only where the same path held different ones."""
    differing = [name for name in runs[0].options if len({run.options.get(name) for run in runs}) > 1]
    if len({(run.options["model.path"], run.options[CHECKPOINT]) for run in runs}) == len(
        {run.options["model.path"] for run in runs}
    ):
        differing = [name for name in differing if name != CHECKPOINT]
    # What was asked is told last, since it is longest.
    return tuple(sorted((name for name in differing if name != SEED), key=lambda name: name in (PROMPTS, CHECKPOINT)))


def _cells(runs: Sequence[Finished], axes: Sequence[str]) -> tuple[Cell, ...]:
    members: dict[tuple[str, ...], list[int]] = {}
    for index, run in enumerate(runs):
        members.setdefault(tuple(run.options[axis] for axis in axes), []).append(index)
    return tuple(Cell(values, tuple(rows)) for values, rows in members.items())


def _merged(runs: Sequence[Finished]) -> tuple[Merged, ...]:
    """Return the modes of all runs, those with much the same words as one; what one run holds apart stays apart."""
    every = [(index, one) for index, run in enumerate(runs) for one in run.reached]
    groups: dict[int, list[tuple[int, Reached]]] = defaultdict(list)
    for member, group in zip(every, _groups(every), strict=True):
        groups[group].append(member)
    found = []
    for own in groups.values():
        best = min((one for _, one in own), key=lambda one: (VERDICTS.index(one.verdict), -len(one.vectors)))
        seen = tuple(Presence(run, one.verdict, one.vectors, one.null) for run, one in own)
        state, text = best.medoid.state, best.medoid.text
        found.append(Merged(state, LABELS.get(state) or label(text), best.terms, text, seen))
    return tuple(sorted(found, key=lambda one: (VERDICTS.index(one.strongest), -len(one.seen), -one.vectors)))


def _groups(every: Sequence[tuple[int, Reached]]) -> list[int]:
    """Return a group per mode (of a run by its index): by the words of the medoids, average linkage, as within a run."""
    if len(every) < 2:
        return list(range(len(every)))
    # Numbers are no words; where there is no word, what is said are its characters.
    weights = TfidfVectorizer(analyzer=lambda text: words(text) or list(text.strip()) or [""], sublinear_tf=True)
    apart = cosine_distances(weights.fit_transform([one.medoid.text for _, one in every]))
    states = np.array([one.medoid.state for _, one in every])
    runs = np.array([run for run, _ in every])
    apart[(states[:, None] != states) | (runs[:, None] == runs)] = NEVER
    apart[(states[:, None] == "unchanged") & (states == "unchanged")] = 0.0
    np.fill_diagonal(apart, 0.0)
    model = AgglomerativeClustering(n_clusters=None, distance_threshold=APART, metric="precomputed", linkage="average")
    return model.fit_predict(apart).tolist()


def _shares(run: Finished, found: Sequence[Merged], index: int) -> list[float]:
    """Return the share of a run's vectors that reach each coherent mode."""
    coherent = [mode for mode in found if mode.state == "coherent"]
    return [sum(len(one.vectors) for one in mode.seen if one.run == index) / run.vectors for mode in coherent]


def _likeness(one: Cell, other: Cell, shares: Sequence[Sequence[float]]) -> float | None:
    """Return the mean likeness of all pairs of different runs, one of either cell."""
    pairs = list(combinations(one.runs, 2)) if one == other else [(first, second) for first in one.runs for second in other.runs]
    found = []
    for first, second in pairs:
        both = list(zip(shares[first], shares[second], strict=True))
        whole = sum(map(max, both))
        found += [sum(map(min, both)) / whole] if whole else []
    return mean(found) if found else None


def _recall(banks: Sequence[Sequence[int]], runs: Sequence[Finished], found: Sequence[Merged]) -> Recall:
    """Return the curve over banks, each of the vectors of one or more runs."""
    sizes = [sum(runs[run].vectors for run in bank) for bank in banks]
    last = min(sizes)
    places = sorted({round(last * point / POINTS) for point in range(POINTS + 1)})

    def curve(kept: Sequence[Merged]) -> tuple[Average, ...]:
        counts = [[sum(len(one.vectors) for one in mode.seen if one.run in bank) for mode in kept] for bank in banks]
        return tuple(
            average([reached(count, size, drawn) for count, size in zip(counts, sizes, strict=True)]) for drawn in places
        )

    coherent = [mode for mode in found if mode.state == "coherent"]
    return Recall(tuple(places), curve(coherent), curve([mode for mode in coherent if mode.strongest in LEVELS]))
