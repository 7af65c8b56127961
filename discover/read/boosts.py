"""Tokens that vectors make likelier: where they would stand, and what the KL divergence owes to them."""

from itertools import chain

import torch

from discover.bank import VectorBank
from discover.model.loading import LoadedModel
from discover.model.memory import in_pieces
from discover.model.prompts import PromptBatch
from discover.read.triage import Boost
from discover.steer.evaluation import LOGIT_BYTES
from discover.steer.generation import Reply
from discover.steer.interventions import added, intervened

KEPT = 4
"""Tokens kept of each vector."""
BOOSTED_FROM = 0.1
"""Part of the KL divergence (nats) from which a token counts as boosted."""
ROWS = 128
"""Vectors computed at once."""


def boosted(loaded: LoadedModel, batch: PromptBatch, own: Reply, positions: int, bank: VectorBank) -> list[tuple[Boost, ...]]:
    """Return the tokens that each of N vectors boosts most on one prompt, the most boosted first.

    Args:
        loaded: the model.
        batch: the prompt.
        own: the model's own reply to it.
        positions: how many are read: the end of the prompt, and so many tokens of that reply less one.
        bank: N vectors.
    """
    begun = own.tokens[: positions - 1]
    longer, read = batch.continued([begun], loaded.tokenizer.pad_token_id), len(begun) + 1
    with torch.no_grad():
        plain = loaded.forward(longer, last=read).float().log_softmax(dim=-1)
    vocabulary = plain.shape[-1]

    def piece(some: slice) -> list[tuple[Boost, ...]]:
        part = bank.perturbations.rows(some)
        with torch.no_grad(), intervened(loaded, [added(part)], [len(begun)] * len(part)):
            steered = loaded.forward(longer.repeated(len(part)), last=read).float().log_softmax(dim=-1)
        gains, places = (steered.exp() * (steered - plain)).flatten(1).topk(min(KEPT, read * vocabulary))
        return [
            tuple(
                Boost(loaded.tokenizer.decode([place % vocabulary]), place % vocabulary, place // vocabulary, gain)
                for gain, place in zip(*row, strict=True)
                if gain >= BOOSTED_FROM
            )
            for row in zip(gains.tolist(), places.tolist(), strict=True)
        ]

    rows = max(1, min(ROWS, LOGIT_BYTES // (8 * vocabulary * read)))
    found, _ = in_pieces(piece, len(bank), rows, "give shorter prompts")
    return list(chain.from_iterable(found))
