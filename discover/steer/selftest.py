"""Check, before a run trusts a model, that what it relies on holds for this very checkpoint."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from discover.choices import Target
from discover.errors import UsageError
from discover.model.change import Perturbations
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch, left_padded
from discover.model.slice import ModelSlice, read_at
from discover.perturb.spaces import Space, drawn
from discover.steer.generation import replies
from discover.steer.interventions import added, intervened

TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest relative difference that rounding may cause; a wrong slice or a hook out of place differs by order one."""
NOTHING = 0.01
"""Share of the tolerance that is still no effect: how many rows are computed at once changes a row by less, on some machines."""
TOKENS = 6
"""Tokens generated to compare cached with uncached generation."""


@dataclass(frozen=True)
class SelfTest:
    """Relative differences found by the self-test; each must stay below the tolerance of the model's dtype."""

    zero: float
    """Slice under a perturbation of nothing against the unsteered model at the target."""
    slice: float
    """Slice under random perturbations against the whole model with hooks."""
    row: float
    """A row of a steered batch against the same row alone, in logits."""
    cache: float
    """Logit that uncached reading holds against a token which cached generation chose."""
    tolerance: float


def self_test(
    loaded: LoadedModel,
    batch: PromptBatch,
    longer: PromptBatch,
    part: ModelSlice,
    space: Space,
    target_layer: int,
    target: Target,
) -> SelfTest:
    """Return the differences between ways to compute the same thing.

    Args:
        loaded: the model.
        batch: B prompts.
        longer: the prompts with what the slice reads of their replies.
        part: the slice that was made for `longer`.
        space: of what will be learned.
        target_layer: block after which the slice ends.
        target: what it reads there.

    Raises:
        UsageError: one of them is beyond rounding, so nothing read from this model could be trusted.
    """
    count, last = len(batch.input_ids), batch.input_ids.shape[1]
    two = space.sized(2).perturbations(drawn(space.sized(2), 2, "self-test"), part.residual_norm)
    two = replace(two, last=max(0, last - part.first) if part.first else 0)
    each = two.repeated(count)
    rows, keep = batch.repeated(2), longer.attention_mask[:, part.first :].bool()
    with torch.no_grad():
        sliced = part.steered(two, part.first, longer.input_ids.shape[1])
        # What a search reads alone, where the last block computes nothing else.
        narrow = part.steered(two, last - 1, last)[:, :, 0]
        with intervened(loaded, [added(each)], [longer.input_ids.shape[1] - last] * len(each)):
            whole = read_at(loaded, longer.repeated(2), target_layer, target).unflatten(0, sliced.shape[:2])
        whole = whole[:, :, part.first :]
        zero = part.steered(two.rows([0]).scaled(0.0), part.first, longer.input_ids.shape[1])[0]
        together = _last_logits(loaded, rows, each)
        # The shortest prompt under the second perturbation: padded if any row is, and never the first row of the batch.
        chosen = count + int(batch.attention_mask.sum(dim=1).argmin())
        single = _row(rows, chosen)
        alone = _last_logits(loaded, single, each.rows([chosen]))
    # A slice that ignores what is done to it passes every comparison below.
    if _difference(sliced[0, keep], zero[keep]) <= TOLERANCE[loaded.model.dtype] * NOTHING:
        raise UsageError(
            f"The self-test failed: a random perturbation of block {space.places[0].block} changes nothing after block "
            f"{target_layer}, so there is nothing to search for; choose other layers."
        )
    result = SelfTest(
        zero=_difference(zero[keep], part.target[:, part.first :][keep]),
        slice=max(_difference(sliced[:, keep], whole[:, keep]), _difference(narrow, whole[:, :, last - 1 - part.first])),
        row=_difference(together[chosen], alone[0]),
        cache=_cache_gap(loaded, single, each.rows([chosen])),
        tolerance=TOLERANCE[loaded.model.dtype],
    )
    for name in ("zero", "slice", "row", "cache"):
        if not getattr(result, name) <= result.tolerance:
            raise UsageError(
                f"The self-test failed: {name} differs by {getattr(result, name):.2g}, beyond the {result.tolerance:g} that "
                "rounding explains; this architecture cannot be replayed block by block (try model.attention=eager)."
            )
    return result


def _last_logits(loaded: LoadedModel, batch: PromptBatch, perturbations: Perturbations) -> Tensor:
    with intervened(loaded, [added(perturbations)], None):
        return loaded.forward(batch, last=1).float()


def _row(batch: PromptBatch, index: int) -> PromptBatch:
    """Return one row without its padding."""
    keep = batch.attention_mask[index].bool()
    return left_padded([batch.prompts[index]], [batch.input_ids[index][keep].tolist()], 0)


def _difference(value: Tensor, reference: Tensor) -> float:
    """Return the largest norm of a difference in norms of its reference, vector by vector: [..., D] both."""
    # Taken over all positions at once, a first token of a thousand times the norm would hide an error at every other.
    return float(((value - reference).norm(dim=-1) / reference.norm(dim=-1)).max())


def _cache_gap(loaded: LoadedModel, batch: PromptBatch, perturbations: Perturbations) -> float:
    """Return by how much, relative to the logits' spread, uncached reading prefers another token than generation chose."""
    said = replies(loaded, batch, [added(perturbations)], TOKENS, 1, lambda _: None)[0].tokens
    if not said:
        return 0.0
    prompt = batch.input_ids[0].tolist()
    joined = left_padded(batch.prompts, [prompt + list(said)], 0)
    with torch.no_grad(), intervened(loaded, [added(perturbations)], [len(said)]):
        logits = loaded.forward(joined, last=len(said) + 1)[0, :-1].float()
    chosen = logits.gather(-1, torch.tensor(said, device=logits.device)[:, None])[:, 0]
    return float(((logits.max(dim=-1).values - chosen) / logits.std(dim=-1)).max())
