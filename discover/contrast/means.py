"""Difference in means: where the examples of a behaviour lie in the residual stream, as seen from those of its absence."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from discover.config import PromptConfig
from discover.contrast.sets import ContrastSet, rows_of, texts
from discover.errors import UsageError
from discover.model.hooks import watched_output
from discover.model.loading import LoadedModel
from discover.model.memory import in_pieces
from discover.model.prompts import PromptBatch

ROWS = 128
"""Texts read at once."""


def mean_residuals(loaded: LoadedModel, batch: PromptBatch, positions: Sequence[int]) -> Tensor:
    """Return [L, K, D] the mean residual stream after every block at K positions, counted from the end, over B texts, in float64.

    Raises:
        UsageError: a text is too short.
    """
    shortest = int(batch.attention_mask.sum(dim=1).min())
    if min(positions) < -shortest or max(positions) >= 0:
        raise UsageError(
            f"contrast.position={min(positions)} must lie between -{shortest}, the length of the shortest text in tokens, and -1."
        )
    where = torch.tensor(list(positions))
    sums = torch.zeros(len(loaded.anatomy.blocks), len(positions), loaded.anatomy.width, dtype=torch.float64)

    def note(layer: int, residual: Tensor) -> None:
        sums[layer] += residual[:, where].double().sum(dim=0).cpu()

    def piece(some: slice) -> None:
        before = sums.clone()
        try:
            with torch.no_grad(), ExitStack() as stack:
                for layer, block in enumerate(loaded.anatomy.blocks):
                    stack.enter_context(watched_output(block, partial(note, layer)))
                loaded.forward(rows_of(batch, range(*some.indices(len(batch.input_ids)))), last=1)
        except Exception:
            # A piece that memory ended is done again in halves, and must not count twice.
            sums.copy_(before)
            raise

    in_pieces(piece, len(batch.input_ids), ROWS, "give shorter examples")
    return sums / len(batch.input_ids)


def mean_differences(loaded: LoadedModel, examples: ContrastSet, positions: Sequence[int], form: PromptConfig) -> Tensor:
    """Return [L, K, D] the mean of the positive examples minus that of the negative ones, after every block, in float64.

    With prompts alone a position counts from the end of the formatted prompt, with completions from their end. Source:
    contrastive activation addition (Rimsky et al., 2024); with a single pair, activation addition (Turner et al., 2023),
    here at one position and added at all.
    """
    means = [mean_residuals(loaded, texts(loaded, side, form), positions) for side in (examples.positive, examples.negative)]
    return means[0] - means[1]
