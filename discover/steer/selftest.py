"""Check, before a run trusts a model, that what it relies on holds for this very checkpoint."""

from dataclasses import dataclass

import torch
from torch import Tensor

from discover.errors import UsageError
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch, left_padded
from discover.model.slice import ModelSlice, residual_after
from discover.perturb.sphere import random_directions
from discover.steer.generation import replies
from discover.steer.interventions import added

TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest relative difference that rounding may cause; a wrong slice or a hook out of place differs by order one."""
TOKENS = 6
"""Tokens generated to compare cached with uncached generation."""


@dataclass(frozen=True)
class SelfTest:
    """Relative differences found by the self-test; each must stay below the tolerance of the model's dtype."""

    zero_vector: float
    """Slice with a zero vector against the unsteered model at the target."""
    slice: float
    """Slice with a random vector against the whole model with a hook."""
    row: float
    """A row of a steered batch against the same row alone, in logits."""
    cache: float
    """Logit that uncached reading holds against a token which cached generation chose."""
    tolerance: float


def self_test(loaded: LoadedModel, batch: PromptBatch, part: ModelSlice, source: int, target: int) -> SelfTest:
    """Return the differences between ways to compute the same thing.

    Raises:
        UsageError: one of them is beyond rounding, so nothing read from this model could be trusted.
    """
    vectors = part.residual_norm * random_directions(2, part.width, "self-test")
    rows = batch.repeated(2)
    each = vectors.repeat_interleave(len(batch.input_ids), dim=0)
    keep = batch.attention_mask.bool()
    with torch.no_grad():
        sliced = part.steered(vectors)
        with added(loaded, source, each):
            whole = residual_after(loaded, rows, target).float().unflatten(0, sliced.shape[:2])
        zero = part.steered(torch.zeros(1, part.width))[0]
        together = _last_logits(loaded, rows, source, each)
        # The shortest prompt under the second vector: padded if any row is, and never the first row of the batch.
        chosen = len(batch.input_ids) + int(batch.attention_mask.sum(dim=1).argmin())
        single = _row(rows, chosen)
        alone = _last_logits(loaded, single, source, each[chosen, None])
    # A slice that ignores its vector passes every comparison below with a difference of zero.
    if torch.equal(sliced[0, keep], zero[keep]):
        raise UsageError(
            f"The self-test failed: a random vector added after block {source} changes nothing after block {target}, so there is "
            "nothing to search for; choose other layers."
        )
    result = SelfTest(
        zero_vector=_difference(zero[keep], part.target[keep]),
        slice=_difference(sliced[:, keep], whole[:, keep]),
        row=_difference(together[chosen], alone[0]),
        cache=_cache_gap(loaded, single, source, each[chosen, None]),
        tolerance=TOLERANCE[loaded.model.dtype],
    )
    for name in ("zero_vector", "slice", "row", "cache"):
        if not getattr(result, name) <= result.tolerance:
            raise UsageError(
                f"The self-test failed: {name} differs by {getattr(result, name):.2g}, beyond the {result.tolerance:g} that "
                "rounding explains; this architecture cannot be replayed block by block (try model.attention=eager)."
            )
    return result


def _last_logits(loaded: LoadedModel, batch: PromptBatch, layer: int, vectors: Tensor) -> Tensor:
    with added(loaded, layer, vectors):
        return loaded.forward(batch, last=1).float()


def _row(batch: PromptBatch, index: int) -> PromptBatch:
    """Return one row without its padding."""
    keep = batch.attention_mask[index].bool()
    return left_padded([batch.prompts[index]], [batch.input_ids[index][keep].tolist()], 0)


def _difference(value: Tensor, reference: Tensor) -> float:
    """Return the largest norm of a difference in norms of its reference, vector by vector: [..., D] both."""
    # Taken over all positions at once, a first token of a thousand times the norm would hide an error at every other.
    return float(((value - reference).norm(dim=-1) / reference.norm(dim=-1)).max())


def _cache_gap(loaded: LoadedModel, batch: PromptBatch, layer: int, vectors: Tensor) -> float:
    """Return by how much, relative to the logits' spread, uncached reading prefers another token than generation chose."""
    said = replies(loaded, batch, layer, vectors, TOKENS, 1, lambda _: None)[0].tokens
    if not said:
        return 0.0
    prompt = batch.input_ids[0].tolist()
    joined = left_padded(batch.prompts, [prompt + list(said)], 0)
    with torch.no_grad(), added(loaded, layer, vectors):
        logits = loaded.forward(joined, last=len(said) + 1)[0, :-1].float()
    chosen = logits.gather(-1, torch.tensor(said, device=logits.device)[:, None])[:, 0]
    return float(((logits.max(dim=-1).values - chosen) / logits.std(dim=-1)).max())
