"""Change what a model does while a context is open, and nothing after it."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from discover.model.hooks import HookCount, edited_output
from discover.model.loading import LoadedModel


@contextmanager
def added(loaded: LoadedModel, layer: int, vectors: Tensor) -> Iterator[HookCount]:
    """While open, vector i [rows, D] is added at every position of batch row i after block `layer`.

    Raises:
        ValueError: a forward pass has another number of rows than there are vectors.
    """

    def edit(residual: Tensor) -> Tensor:  # [rows, T, D]
        if len(residual) != len(vectors):
            raise ValueError(f"{len(vectors)} vectors met a batch of {len(residual)} rows; every row needs its own vector")
        return residual + vectors.to(residual)[:, None, :]

    with edited_output(loaded.anatomy.blocks[layer], edit) as count:
        yield count
