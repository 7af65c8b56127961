"""What vectors do at the target: their effects, a map of them, and the groups they form."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize
from sklearn.random_projection import SparseRandomProjection

from discover.bank import VectorBank
from discover.model.memory import in_pieces
from discover.read.clusters import clusters
from discover.read.modes import Mode
from discover.read.signals import Completion
from discover.search.chunks import Chunks
from discover.search.effects import EffectReader
from discover.storage import read_json, write_json

APART = 0.5
"""Cosine distance (average linkage) from which effects are of different groups: 60 degrees."""
RANDOM = 500
"""Random vectors on the map: enough to see where they lie."""
WIDEST = 1024
"""Numbers that are kept of an effect: a random projection to so many changes distances by about 4 %."""
COMPONENTS = 30
"""Principal components that the map is made from."""
NEIGHBOURS = 30
"""Perplexity of the map, for fewer than three times as many vectors a third of them."""
FEWEST = 10
"""Vectors from which on there are neighbours to speak of; fewer are shown by their first two principal components."""
ITERATIONS = 500


@dataclass(frozen=True)
class Spot:
    """One vector on the map of effects."""

    bank: str
    """`learned` or `null`."""
    vector: int
    x: float
    y: float
    """In the square from 0 to 1: vectors whose effects are alike lie together."""
    group: int | None
    """Group of alike effects, the largest 0; None for noise."""


@dataclass(frozen=True)
class EffectMap:
    """The vectors of a bank, and up to RANDOM of its null, by what they do at the target.

    The plane is that of t-SNE (van der Maaten & Hinton, 2008): neighbours on it are neighbours among effects, while the distance
    between clusters and their sizes mean little.
    """

    spots: tuple[Spot, ...]
    agreement: float | None
    """Adjusted Rand index between groups of effects and modes of completions, over the learned vectors; None where there is
    nothing to compare."""
    stability: float | None
    """Mean adjusted Rand index of the modes with those of other draws; None where there is nothing to compare."""


def effect_map(
    views: Sequence[tuple[EffectReader, Chunks]],
    banks: tuple[VectorBank, VectorBank],
    completions: Sequence[Completion],
    modes: Sequence[Mode],
    stability: float | None,
    tick: Callable[[int], None],
) -> EffectMap:
    """Return where the vectors of both banks lie, and how far effects and completions tell the same.

    Args:
        views: per way in which vectors were learned, what reads their effects, at the same places and of the same target, and how
            many are computed at once.
        banks: the learned one and its null.
        completions: everything said.
        modes: what it was grouped into.
        stability: of the modes.
        tick: called with the number of vectors after each piece.
    """
    named, effects = [], []
    for name, bank, most in (("learned", banks[0], len(banks[0])), ("null", banks[1], RANDOM)):
        shown = bank.some(most)
        named += [(name, row) for row in shown]
        for number, ((reader, pieces), way) in enumerate(zip(views, bank.ways, strict=True)):
            own = bank.rows_of(number)
            some = way.subset([row - own.start for row in shown if row in own])
            effects.append(mean_effects(reader, pieces, some, tick))
    together = np.concatenate(effects)
    groups, plane = grouped(together), plane_of(together)
    spots = [Spot(name, row, float(x), float(y), group) for (name, row), (x, y), group in zip(named, plane, groups, strict=True)]
    return EffectMap(tuple(spots), agreement(groups[: len(banks[0])], completions, modes), stability)


def compared(banks: tuple[VectorBank, VectorBank]) -> int:
    """Return how many vectors a map compares, for its progress bar."""
    return len(banks[0]) + min(RANDOM, len(banks[1]))


def mean_effects(reader: EffectReader, pieces: Chunks, bank: VectorBank, tick: Callable[[int], None]) -> np.ndarray:
    """Return the mean effects [N, C] over prompts, positions side by side, projected where they are more than WIDEST numbers.

    Raises:
        UsageError: memory does not suffice for a single vector.
    """
    device = reader.slice.source.device
    project = SparseRandomProjection(WIDEST, random_state=0) if reader.size > WIDEST else None
    if project is not None:
        project.fit(csr_array((1, reader.size)))

    def piece(some: slice) -> np.ndarray:
        perturbations = bank.perturbations.rows(some).mapped(lambda part: part.to(device))
        with torch.no_grad():
            found = reader.mean_effects(perturbations).float().cpu().numpy()
        tick(len(found))
        return found if project is None else project.transform(found)

    done, _ = in_pieces(piece, len(bank), pieces.size, pieces.advice)
    return np.concatenate(done)


def grouped(effects: np.ndarray) -> list[int | None]:
    """Return the group of each of N effects [N, C] by the angles between them, the largest 0; None for one like no other."""
    labels = clusters(csr_array(normalize(effects)), APART)
    counts = Counter(labels.tolist())
    ranked = sorted((label for label in counts if label >= 0 and counts[label] > 1), key=lambda label: (-counts[label], label))
    places = {label: place for place, label in enumerate(ranked)}
    return [places.get(label) for label in labels.tolist()]


def plane_of(effects: np.ndarray) -> np.ndarray:
    """Return places [N, 2] in the square from 0 to 1, the same for the same N effects [N, C]."""
    count, width = effects.shape
    centred = effects - effects.mean(axis=0)
    # What is the same everywhere has no directions to be shown by.
    if count < 2 or not centred.any():
        return np.full((count, 2), 0.5)
    found = PCA(min(COMPONENTS, count, width), svd_solver="randomized", random_state=0).fit_transform(centred)
    if count >= FEWEST and found.shape[1] > 1:
        nearest = min(NEIGHBOURS, (count - 1) / 3)
        found = TSNE(perplexity=nearest, init="pca", max_iter=ITERATIONS, random_state=0).fit_transform(found)
    flat = _plane(found)
    low, high = flat.min(axis=0), flat.max(axis=0)
    return 0.5 + (flat - (low + high) / 2) / (high - low).max()


def agreement(groups: Sequence[int | None], completions: Sequence[Completion], modes: Sequence[Mode]) -> float | None:
    """Return the adjusted Rand index between the groups of N learned vectors and the modes that most of their replies are in."""
    said: dict[int, Counter[int]] = defaultdict(Counter)
    for number, mode in enumerate(modes):
        for member in mode.members:
            one = completions[member]
            if one.bank == "learned" and one.vector is not None:
                said[one.vector][number] += 1
    told = [said[vector].most_common(1)[0][0] for vector in sorted(said)]
    effects = [-1 if groups[vector] is None else groups[vector] for vector in sorted(said)]
    return float(adjusted_rand_score(effects, told)) if len(told) > 1 else None


def save_map(path: Path, found: EffectMap | None) -> None:
    """Write the map; null where none was made."""
    write_json(path, found and asdict(found))


def load_map(path: Path) -> EffectMap | None:
    """Read what `save_map` wrote."""
    row = read_json(path)
    return row and EffectMap(**{**row, "spots": tuple(Spot(**one) for one in row["spots"])})


def _plane(found: np.ndarray) -> np.ndarray:
    """Return the first two columns [N, 2], the second 0 where there is but one."""
    return np.pad(found, ((0, 0), (0, 2)))[:, :2].astype(np.float64)
