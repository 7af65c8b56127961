"""Texts as vectors by the audited model itself: its residual stream while it reads them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from discover.model.hooks import watched_output
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch, left_padded
from discover.read.embedding import Embed, by_words, encoder, numbers_masked, sound

LONGEST = 256
"""Tokens of a text that are read."""
TOKENS = 4096
"""Tokens read in one pass, padding included."""
FLOOR = 0.1
"""Smallest spread of a coordinate, as a share of the mean spread: one that hardly varies would outweigh all others."""


@dataclass(frozen=True)
class Meaning:
    """Embeds a text as the mean residual of its tokens, each coordinate standardised over these texts and unsteered samples.

    The residual stream is read after the last block but one, where replies of one kind are nearest to each other, without any
    prompt before the text. Without standardisation a few coordinates that are large in every text would hide the others.
    """

    loaded: LoadedModel
    samples: tuple[str, ...]
    """What the unsteered model says by itself; may be empty."""
    _read: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    """Mean residuals [D] of the texts met so far: the same replies are embedded again and again, in other company."""

    def embed(self, texts: Sequence[str]) -> csr_array:
        """Return the embeddings [M, D] of M texts, rows of norm one; zero for a text without a single token.

        Texts that differ in their numbers alone are embedded alike.
        """
        own = self._residuals(map(numbers_masked, texts))
        mean, spread = _usual(np.concatenate([own, self._residuals(map(numbers_masked, self.samples))]))
        rows = np.where(own.any(axis=1, keepdims=True), (own - mean) / spread, 0)
        return csr_array(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))

    def _residuals(self, texts: Iterable[str]) -> np.ndarray:
        """Return the mean residuals [M, D] of M texts."""
        asked = list(texts)
        new = [text for text in dict.fromkeys(asked) if text not in self._read]
        self._read.update(zip(new, mean_residuals(self.loaded, new), strict=True))
        return np.array([self._read[text] for text in asked]).reshape(len(asked), self.loaded.anatomy.width)


def embedder(name: str, loaded: LoadedModel, samples: Sequence[str]) -> Embed:
    """Return the embedding by `words`, by the `model` itself, or by the sentence encoder in the folder `name`.

    Args:
        name: which.
        loaded: the audited model.
        samples: what that says by itself.

    Raises:
        UsageError: there is no such folder, or nothing in it that can be used.
    """
    match name:
        case "words":
            return by_words
        case "model":
            return Meaning(loaded, tuple(samples)).embed
        case _:
            return encoder(Path(name)).embed


def mean_residuals(loaded: LoadedModel, texts: Sequence[str]) -> np.ndarray:
    """Return the mean residual [M, D] over the tokens of each of M texts, after the last block but one; zero for a blank text."""
    rows = [_tokens(loaded, text) if text.strip() else [] for text in texts]
    means = np.zeros((len(texts), loaded.anatomy.width), dtype=np.float32)
    # Texts of a length together, the longest first.
    left = sorted((place for place, row in enumerate(rows) if row), key=lambda place: -len(rows[place]))
    while left:
        count = max(1, TOKENS // (1 + len(rows[left[0]])))
        taken, left = left[:count], left[count:]
        means[taken] = _means(loaded, [rows[place] for place in taken])
    return means


def _tokens(loaded: LoadedModel, text: str) -> list[int]:
    """Return the first LONGEST tokens of a text, one fewer than the model has room for."""
    room = LONGEST if loaded.context is None else min(LONGEST, loaded.context - 1)
    return loaded.tokenizer(sound(text), add_special_tokens=False)["input_ids"][:room]


def _means(loaded: LoadedModel, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the mean residual [R, D] over each of R rows of tokens."""
    tokenizer = loaded.tokenizer
    # Attention leaves at the first position what it has no other use for: no token of the text may stand there.
    first = tokenizer.pad_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    batch = left_padded([""] * len(rows), [[first, *row] for row in rows], tokenizer.pad_token_id)
    seen: list[Tensor] = []
    blocks = loaded.anatomy.blocks
    with torch.no_grad(), watched_output(blocks[max(0, len(blocks) - 2)], seen.append):
        loaded.forward(batch, 1)
    return _mean(seen[0].float(), batch).cpu().numpy()


def _mean(residual: Tensor, batch: PromptBatch) -> Tensor:
    """Return the mean [R, D] of residuals [R, T, D] over every token but the first of each row."""
    told = (batch.attention_mask * (batch.position_ids > 0)).to(residual.device)[..., None].bool()
    # What stands on padding may be anything, not a number included.
    return torch.where(told, residual, 0).sum(dim=1) / told.sum(dim=1)


def _usual(residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and spread [D] of those of M residuals that are not zero, each counted once; 0 and 1 where they do not vary."""
    each = np.unique(residuals[residuals.any(axis=1)], axis=0).astype(np.float64)
    if len(each) < 2:
        return np.zeros(residuals.shape[1]), np.ones(residuals.shape[1])
    spread = each.std(axis=0)
    return each.mean(axis=0), np.maximum(spread, FLOOR * spread.mean())
