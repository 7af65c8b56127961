"""Group rows by the angles between them: average linkage, from a handful of rows to tens of thousands."""

import numpy as np
from scipy.sparse import csr_array
from sklearn.cluster import AgglomerativeClustering

LARGEST = 3000
"""Rows that are linked at once: their distances are held all together."""


def clusters(rows: csr_array, apart: float) -> np.ndarray:
    """Return the number [M] of the cluster that each of M rows of norm one is in, -1 for a row of zeros.

    Clusters are different whose members have an average cosine distance of `apart`. Of more than LARGEST rows the first are
    linked; the others join the cluster to whose members they are nearest on average, and those that belong to none are linked
    in their turn. The rows that count most come first, therefore.
    """
    labels = np.full(rows.shape[0], -1)
    left, count = np.flatnonzero(abs(rows).sum(axis=1)), 0
    while len(left):
        first, rest = left[:LARGEST], left[LARGEST:]
        linked = _linked(rows[first], apart)
        labels[first] = count + linked
        nearest, likeness = _nearest(rows[rest], centres(rows[first], linked, np.ones(len(first))))
        joined = likeness > 1 - apart
        labels[rest[joined]] = count + nearest[joined]
        left, count = rest[~joined], count + linked.max() + 1
    return labels


def centres(rows: csr_array, labels: np.ndarray, weights: np.ndarray) -> csr_array:
    """Return the weighted mean [C, E] of the rows with each label, which are numbered from 0."""
    kinds = labels.max() + 1
    totals = np.bincount(labels, weights, kinds)
    chosen = csr_array((weights / totals[labels], (labels, np.arange(len(labels)))), shape=(kinds, len(labels)))
    return csr_array(chosen @ rows)


def _linked(rows: csr_array, apart: float) -> np.ndarray:
    if rows.shape[0] == 1:
        return np.zeros(1, dtype=int)
    model = AgglomerativeClustering(n_clusters=None, distance_threshold=apart, metric="precomputed", linkage="average")
    # Rounding makes the distance of a row from its like a little less than nothing.
    return model.fit_predict(np.maximum(1 - _products(rows, csr_array(rows.T)), 0))


def _nearest(rows: csr_array, means: csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest mean of each row, and the average cosine with what it is the mean of."""
    found = [_products(rows[start : start + LARGEST], csr_array(means.T)) for start in range(0, rows.shape[0], LARGEST)]
    pieces = [(piece.argmax(axis=1), piece.max(axis=1)) for piece in found] or [(np.zeros(0, dtype=int), np.zeros(0))]
    return np.concatenate([one for one, _ in pieces]), np.concatenate([other for _, other in pieces])


def _products(rows: csr_array, columns: csr_array) -> np.ndarray:
    """Return the products [M, C] of rows [M, E] with columns [E, C]; as dense numbers where most of them are not zero."""
    # Rows of a model's residual stream hold no zero: as sparse ones their product takes eighty times as long.
    if rows.nnz > rows.shape[0] * rows.shape[1] / 2:
        return rows.toarray() @ columns.toarray()
    return (rows @ columns).toarray()
