"""Real slices through blocks whose mathematics is known, so that results have closed forms; and short ways to build readers."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from discover.choices import Kind, Projection, Target
from discover.config import SearchConfig, SpeechConfig
from discover.model.anatomy import Place, Site
from discover.model.change import Perturbations, biases
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch, left_padded
from discover.model.slice import ModelSlice, model_slice
from discover.perturb.spaces import Space, VectorSpace, places_of, space_of
from discover.read.reference import UnsteeredReference, unsteered_reference
from discover.read.signals import Bounds
from discover.search.chunks import Chunks
from discover.search.effects import EffectReader
from discover.search.readings import Readings
from discover.steer.generation import NOTHING, Reply, replies

GENEROUS = Chunks(1000)
LIMITS = Bounds(surprise=2.0, repetition=0.5)
"""Where degenerate begins in tests that sample nothing."""


def slice_through(block: nn.Module, source: Tensor, mask: Tensor) -> ModelSlice:
    """Return the slice [B, T, D] -> [B, T, D] through one block that takes nothing but the residual stream."""
    nothing = (SimpleNamespace(args=(), kwargs={}),)
    block.requires_grad_(False)
    return ModelSlice(
        blocks=(block,),
        calls=nothing,
        doubled_calls=nothing,
        entered=Place(0, Site.residual),
        entering=source,
        first=0,
        prefix=None,
        known=(),
        modules={},
        inputs={},
        pointwise=(),
        read_module=None,
        head=None,
        source=source,
        target=block(source).float(),
        mask=mask,
    )


def linear_slice(jacobian: Tensor, rows: int, tokens: int) -> ModelSlice:
    """Return a slice whose Jacobian is `jacobian` [D, D] at every token, without padding."""
    width = len(jacobian)
    block = nn.Linear(width, width)
    generator = torch.Generator().manual_seed(0)
    block.weight.data = jacobian.clone()
    block.bias.data = torch.randn(width, generator=generator)
    return slice_through(block, torch.randn(rows, tokens, width, generator=generator), torch.ones(rows, tokens, dtype=torch.long))


def with_singular_values(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a matrix with these singular values, its left and its right singular vectors as rows."""
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.linalg.qr(torch.randn(len(values), len(values), generator=generator))[0] for _ in range(2))
    return left @ torch.diag(values) @ right.T, left.T.contiguous(), right.T.contiguous()


def slice_between(loaded: LoadedModel, batch: PromptBatch, source: int, target: int) -> ModelSlice:
    """Return the slice from the residual stream after one block to that after another."""
    return model_slice(loaded, batch, [Place(source, Site.residual)], target, Target.residual, 0)


def own_reference(loaded: LoadedModel, batch: PromptBatch, speech: SpeechConfig) -> UnsteeredReference:
    """Return what the unsteered model says to every prompt: its greedy reply, and eight samples."""
    return unsteered_reference(loaded, batch, [NOTHING] * len(batch.input_ids), speech, 8, 0, lambda _: None)


def greedy(loaded: LoadedModel, batch: PromptBatch, tokens: int = 8) -> list[Reply]:
    """Return the unsteered replies to every prompt."""
    return replies(loaded, batch, (), tokens, 64, lambda _: None)


def last_positions(part: ModelSlice, positions: int, normalised: bool) -> EffectReader:
    """Return a reader at the last so many positions of a slice, 0 meaning all."""
    tokens = part.target.shape[1]
    return EffectReader(part, tokens - (positions or tokens), tokens, normalised)


def reading(reader: EffectReader, radius: float, pieces: Chunks = GENEROUS) -> Readings:
    """Return what reads vectors of one norm at a slice's entrance, all by one reader."""
    return Readings(VectorSpace(reader.slice.entered, reader.slice.width), radius, (reader,), pieces)


def entering(part: ModelSlice, vectors: Tensor) -> Perturbations:
    """Return vectors [N, D] that are added where a slice begins."""
    return biases(part.entered, vectors)


def after(block: int, vectors: Tensor) -> Perturbations:
    """Return vectors [N, D] that are added to the residual stream after a block."""
    return biases(Place(block, Site.residual), vectors)


def alone(batch: PromptBatch, index: int) -> PromptBatch:
    """Return one prompt without its padding."""
    return left_padded([batch.prompts[index]], [batch.input_ids[index][batch.attention_mask[index].bool()].tolist()], 0)


KINDS: dict[str, dict[str, Any]] = {
    "vector": {},
    "bias": {"perturbation": Kind.bias},
    "adapter of rank 1": {"perturbation": Kind.adapter, "rank": 1},
    "adapter of rank 3": {"perturbation": Kind.adapter, "rank": 3},
    "factor on attention": {"perturbation": Kind.factor, "band": 2, "projection": Projection.attention},
    "factor on mlp": {"perturbation": Kind.factor, "band": 2, "projection": Projection.mlp},
    "head": {"perturbation": Kind.head},
}
"""Every kind of perturbation, as options of a search."""


def kind(name: str, **options: Any) -> SearchConfig:
    """Return the config of a search for one of `KINDS`."""
    return SearchConfig(**{**KINDS[name], **options})


def part_and_space(
    loaded: LoadedModel, batch: PromptBatch, config: SearchConfig, source: int, target: int
) -> tuple[ModelSlice, Space]:
    """Return the slice that a search goes through, and the space of what it learns."""
    skipped = batch.input_ids.shape[1] - config.steered_positions if config.steered_positions else 0
    part = model_slice(loaded, batch, places_of(config, source), target, config.target, skipped)
    return part, space_of(config, loaded, part, source)


def hooks_on(model: nn.Module) -> int:
    """Return how many hooks stand on a model, those aside that Hugging Face leaves where hidden states were asked for once."""
    found = [
        hook for module in model.modules() for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]
    return sum(not getattr(hook, "__module__", "").startswith("transformers.") for hook in found)
