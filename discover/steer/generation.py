"""Let the model speak, every row of a batch under its own perturbation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from transformers import GenerationConfig

from discover.model.loading import LoadedModel
from discover.model.memory import in_pieces
from discover.model.prompts import PromptBatch
from discover.steer.interventions import Intervention, intervened


@dataclass(frozen=True)
class Reply:
    """What the model said in one row."""

    tokens: tuple[int, ...]
    """Generated tokens without the one that ends the reply."""
    text: str
    """The same, decoded, special tokens included."""
    ended: bool
    """Whether the model ended the reply itself."""


def replies(
    loaded: LoadedModel,
    batch: PromptBatch,
    interventions: Sequence[Intervention],
    tokens: int,
    rows: int,
    tick: Callable[[int], None],
) -> list[Reply]:
    """Return one greedy reply a row of `batch`.

    Args:
        loaded: the model.
        batch: R prompts.
        interventions: each with R entries, one a row; none for unsteered replies.
        tokens: longest reply.
        rows: rows computed at once.
        tick: called with the number of rows after each piece.
    """

    def piece(some: slice) -> list[Reply]:
        with torch.no_grad(), intervened(loaded, [each.rows(some) for each in interventions], None):
            said = _greedy(loaded, batch.input_ids[some], batch.attention_mask[some], tokens)
        tick(len(said))
        return said

    said, _ = in_pieces(
        piece, len(batch.input_ids), rows, "give shorter prompts, a smaller speech.tokens, or model.dtype=bfloat16"
    )
    return list(chain.from_iterable(said))


def _greedy(loaded: LoadedModel, input_ids: Tensor, mask: Tensor, tokens: int) -> list[Reply]:
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=tokens,
        pad_token_id=loaded.tokenizer.pad_token_id,
        eos_token_id=list(loaded.end_ids) or None,
        # A compiled decode step would not see hooks that come later.
        disable_compile=True,
    )
    # Sampling settings are left out on purpose: a greedy reply is what a row of a batch can be compared by.
    device = loaded.device
    output = loaded.model.generate(input_ids.to(device), attention_mask=mask.to(device), generation_config=settings)
    return [reply(loaded, row) for row in output[:, input_ids.shape[1] :].tolist()]


def reply(loaded: LoadedModel, row: Sequence[int]) -> Reply:
    """Return generated tokens as a reply, cut at the first token that ends one."""
    end = next((place for place, token in enumerate(row) if token in loaded.end_ids), None)
    kept = tuple(row[:end])
    return Reply(kept, loaded.tokenizer.decode(kept, skip_special_tokens=False), end is not None)
