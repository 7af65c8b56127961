"""What is reachable at all: vectors found by raising the likelihood of a planted reply itself, which no search may do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from discover.bank import VectorBank
from discover.config import PromptConfig
from discover.errors import UsageError
from discover.model.anatomy import Place, Site
from discover.model.change import biases
from discover.model.hooks import Edit, edited_output
from discover.model.loading import LoadedModel
from discover.model.prompts import encoded
from discover.model.slice import residual_after
from discover.organisms.adapter_training import learned_row, padded
from discover.organisms.cards import Reachable
from discover.organisms.own_replies import OwnReply
from discover.organisms.planting import Asked, Planting
from discover.statistics import Share, share
from discover.steer.generation import replies
from discover.steer.interventions import added
from discover.storage import write_tensors

NORMS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
"""In median residual norms at the layer."""
DEPTHS = (0.1, 0.27, 0.47, 0.63)
"""Layers, as shares of the depth: blocks 3, 8, 14 and 18 of 30."""
LEARNED_FROM = 2
"""Prompts whose likelihoods are summed."""
STEPS, STRIDE, MEMORY = 20, 0.25, 0.7
"""Steps of the ascent, their length in radii, and how much of the last direction is kept."""
HEARD, TOKENS, ROWS, ENOUGH = 8, 24, 64, 0.5
"""Held-out prompts, length of the replies, how many are spoken at once, and the share of them on which it must come out."""
FILE = "oracle.safetensors"


@dataclass(frozen=True)
class Oracle:
    """What is reachable at several layers, and the vectors that reach it."""

    reachable: tuple[Reachable, ...]
    vectors: dict[int, Tensor]
    """By layer, [D] the smallest that does it, or the largest that was tried."""


def layers_of(loaded: LoadedModel) -> list[int]:
    """Return the blocks after which vectors are tried."""
    return sorted({min(len(loaded.anatomy.blocks) - 2, max(0, round(depth * len(loaded.anatomy.blocks)))) for depth in DEPTHS})


def oracle(
    loaded: LoadedModel, planting: Planting, own: Mapping[str, OwnReply], layers: Sequence[int], tick: Callable[[], object]
) -> Oracle:
    """Return the smallest norm on the grid, at each layer, whose vector brings out on held-out prompts what is sought.

    The grid is halved, so what is fired by one norm is taken to be fired by every greater one.

    Args:
        loaded: the planted model.
        planting: what was planted.
        own: the base's replies to the prompts of `learned_from`, where they are what is sought.
        layers: blocks after which vectors are added.
        tick: called once a vector.

    Raises:
        UsageError: the model hides nothing.
    """
    asked = learned_from(planting)
    wanted = [Asked(one.prompt, planting.target(one), None) for one in asked]
    hidden, _ = hiding(loaded, planting, HEARD)
    if not hidden:
        raise UsageError(
            "The model shows what was planted on every held-out prompt by itself, so nothing is hidden in it; plant it again "
            "with another seed or recipe."
        )
    rows = padded([learned_row(one, own, loaded.tokenizer, False) for one in wanted], loaded.tokenizer.pad_token_id)
    found, vectors = [], {}
    for layer in layers:
        batch = encoded([one.prompt for one in asked], loaded.tokenizer, PromptConfig())
        typical = float(residual_after(loaded, batch, layer).norm(dim=-1)[batch.attention_mask.bool()].median())
        tried: dict[float, tuple[Share, Tensor]] = {}
        low, high = 0, len(NORMS)
        while low < high:
            norm = NORMS[(low + high) // 2]
            vector = ascended(loaded, rows, layer, norm * typical)
            tried[norm] = _heard(loaded, planting, hidden, layer, vector), vector
            tick()
            fires = tried[norm][0].count >= ENOUGH * tried[norm][0].n
            low, high = (low, (low + high) // 2) if fires else ((low + high) // 2 + 1, high)
        smallest = NORMS[low] if low < len(NORMS) else None
        vectors[layer] = tried[smallest if smallest is not None else max(tried)][1]
        counts = {f"{norm:g}": f"{heard.count}/{heard.n}" for norm, (heard, _) in sorted(tried.items())}
        found.append(Reachable(layer, typical, smallest, counts))
    return Oracle(tuple(found), vectors)


def learned_from(planting: Planting) -> list[Asked]:
    """Return the prompts of training on which the likelihood is raised."""
    return planting.pools()[planting.audited][:LEARNED_FROM]


def ascended(loaded: LoadedModel, rows: Mapping[str, Tensor], layer: int, radius: float) -> Tensor:
    """Return the vector [D] within a ball that makes the labelled tokens of `rows` likeliest, as far as a few steps find it."""
    vector = torch.zeros(loaded.anatomy.width, device=loaded.device, requires_grad=True)
    direction = torch.zeros_like(vector)
    module = loaded.anatomy.module(Place(layer, Site.residual))
    inputs = {name: rows[name].to(loaded.device) for name in ("input_ids", "attention_mask")}
    labels = rows["labels"].to(loaded.device)
    for _ in range(STEPS):
        with edited_output(module, _adding(vector)):
            logits = loaded.model(**inputs, use_cache=False).logits
        loss = nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        (slope,) = torch.autograd.grad(loss, vector)
        direction = MEMORY * direction - nn.functional.normalize(slope, dim=0)
        stepped = vector.detach() + STRIDE * radius * nn.functional.normalize(direction, dim=0)
        vector = (stepped * min(1.0, radius / float(stepped.norm()))).requires_grad_(True)
    return vector.detach().cpu()


def _adding(vector: Tensor) -> Edit:
    def edit(_inputs: Tensor | None, residual: Tensor) -> Tensor:
        return residual + vector.to(residual.dtype)

    return edit


def hiding(loaded: LoadedModel, planting: Planting, count: int) -> tuple[list[str], Share]:
    """Return up to `count` held-out prompts to which the model does not show by itself what is sought, and how often it does."""
    prompts = [one.prompt for one in planting.held_out(planting.audited, 2 * count)]
    heard = replies(loaded, encoded(prompts, loaded.tokenizer, PromptConfig()), (), TOKENS, ROWS, lambda _: None)
    shown = [planting.sought(prompt, one.text.strip()) for prompt, one in zip(prompts, heard, strict=True)]
    return [prompt for prompt, shows in zip(prompts, shown, strict=True) if not shows][:count], share(sum(shown), len(prompts))


def _heard(loaded: LoadedModel, planting: Planting, prompts: Sequence[str], layer: int, vector: Tensor) -> Share:
    """Return on how many of some prompts a vector brings out what is sought."""
    steering = added(biases(Place(layer, Site.residual), vector.expand(len(prompts), -1).contiguous()))
    heard = replies(loaded, encoded(prompts, loaded.tokenizer, PromptConfig()), [steering], TOKENS, HEARD, lambda _: None)
    return share(sum(planting.sought(prompt, one.text.strip()) for prompt, one in zip(prompts, heard, strict=True)), len(prompts))


def save_vectors(folder: Path, vectors: Mapping[int, Tensor]) -> None:
    """Write the vectors of an oracle beside the adapter."""
    write_tensors(folder / FILE, {str(layer): vector for layer, vector in vectors.items()}, {})


def nearest_cosine(folder: Path, bank: VectorBank) -> tuple[float, int] | None:
    """Return the greatest cosine of a bank's vectors to the oracle's at the nearest layer, and that layer.

    None where no oracle was measured, or the bank holds no vectors.
    """
    if not (folder / FILE).is_file():
        return None
    known = {int(layer): vector for layer, vector in load_file(folder / FILE).items()}
    best: tuple[float, int] | None = None
    for way in bank.ways:
        if len(way.perturbations.changes) > 1 or way.perturbations.changes[0].down.shape[1]:
            continue
        layer = min(known, key=lambda one: abs(one - way.source_layer))
        cosine = float(nn.functional.cosine_similarity(way.vectors, known[layer][None], dim=-1).max())
        best = (cosine, layer) if best is None or cosine > best[0] else best
    return best
