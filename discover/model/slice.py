"""The slice: the frozen map from the residual stream after one block to that after a later block."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from discover.errors import UsageError
from discover.model.hooks import hidden
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch


class _TargetReached(Exception):
    """Ends a forward pass as soon as the target block has returned."""


@dataclass(frozen=True)
class _Call:
    """The arguments that the model gave a block beside the residual stream."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class ModelSlice:
    """Blocks `source_layer` + 1 to `target_layer` with the arguments that the model itself gives them for B prompts."""

    blocks: Sequence[nn.Module]
    """The blocks to replay, in order."""
    calls: Sequence[_Call]
    """Their arguments for the B prompts."""
    doubled_calls: Sequence[_Call]
    """Their arguments for the B prompts twice over: what grew belongs to rows, what did not is shared by all."""
    source: Tensor
    """[B, T, D] residual stream after the source block, unsteered."""
    target: Tensor
    """[B, T, D] residual stream after the target block, unsteered, in float32."""
    mask: Tensor
    """[B, T], 1 on tokens and 0 on padding."""

    @property
    def width(self) -> int:
        """D."""
        return self.source.shape[-1]

    @property
    def residual_norm(self) -> float:
        """Median norm of the unsteered residual stream after the source block, over tokens (residual units)."""
        return float(self.source.float().norm(dim=-1)[self.mask.bool()].median())

    def steered(self, vectors: Tensor) -> Tensor:
        """Return the target residual [N, B, T, D] in float32 with vector n added at every position after the source.

        Args:
            vectors: [N, D] in residual units; gradients flow to them.
        """
        copies, rows = len(vectors), len(self.source)
        added = self.source[None] + vectors.to(self.source)[:, None, None, :]
        residual = added.flatten(0, 1)
        for block, call, doubled in zip(self.blocks, self.calls, self.doubled_calls, strict=True):
            args, kwargs = _copied((call.args, call.kwargs), (doubled.args, doubled.kwargs), copies)
            residual = hidden(block(residual, *args, **kwargs))
        return residual.unflatten(0, (copies, rows)).float()


def _copied(one: Any, two: Any, copies: int) -> Any:
    """Return a block's argument for `copies` times the rows, given what it is for one copy and for two."""
    if isinstance(one, Tensor):
        # A shape alone does not tell whether its first axis means rows: with one prompt a shared mask looks the same.
        return one if one.shape == two.shape else one.repeat(copies, *([1] * (one.dim() - 1)))
    if isinstance(one, dict):
        return {key: _copied(value, two[key], copies) for key, value in one.items()}
    if isinstance(one, tuple | list):
        return type(one)(_copied(first, second, copies) for first, second in zip(one, two, strict=True))
    return one


@dataclass(frozen=True)
class _Capture:
    calls: list[_Call]
    source: Tensor
    target: Tensor


def _captured(loaded: LoadedModel, batch: PromptBatch, source_layer: int, target_layer: int) -> _Capture:
    """Run the model up to `target_layer` and keep what its blocks were given and the residual at both ends."""
    calls: list[_Call] = []
    residuals: dict[int, Tensor] = {}

    def keep_call(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept = {key: value for key, value in kwargs.items() if key != "hidden_states"}
        calls.append(_Call(args if "hidden_states" in kwargs else args[1:], kept))

    def keep_source(_block: nn.Module, _inputs: Any, output: Any) -> None:
        residuals[source_layer] = hidden(output).detach().clone()

    def keep_target(_block: nn.Module, _inputs: Any, output: Any) -> None:
        residuals[target_layer] = hidden(output).detach().clone()
        # Nothing later is read, and on a large model the rest of the pass is most of its cost.
        raise _TargetReached

    blocks = loaded.anatomy.blocks
    with ExitStack() as stack, torch.no_grad():
        stack.callback(blocks[source_layer].register_forward_hook(keep_source).remove)
        for block in blocks[source_layer + 1 : target_layer + 1]:
            stack.callback(block.register_forward_pre_hook(keep_call, with_kwargs=True).remove)
        stack.callback(blocks[target_layer].register_forward_hook(keep_target).remove)
        try:
            loaded.forward(batch)
        except _TargetReached:
            return _Capture(calls, residuals[source_layer], residuals[target_layer])
    raise RuntimeError(f"the forward pass ended before block {target_layer} had returned")


def residual_after(loaded: LoadedModel, batch: PromptBatch, layer: int) -> Tensor:
    """Return the residual stream [B, T, D] after block `layer`, from the whole model and without gradients.

    It is what the block returned, for the last block too, where Hugging Face's `hidden_states` carry the final norm.
    """
    return _captured(loaded, batch, layer, layer).target


def model_slice(loaded: LoadedModel, batch: PromptBatch, source_layer: int, target_layer: int) -> ModelSlice:
    """Return the slice between two blocks for B prompts; both layers mean "after that block".

    Raises:
        UsageError: the layers are not 0 <= source < target < L.
    """
    count = len(loaded.anatomy.blocks)
    if not 0 <= source_layer < target_layer < count:
        raise UsageError(
            f"source layer {source_layer} and target layer {target_layer} do not fit: this model has blocks 0 to "
            f"{count - 1} and needs 0 <= search.source_layer < search.target_layer <= {count - 1}."
        )
    # Twice, because only a second batch size shows which arguments grow with the rows.
    once = _captured(loaded, batch, source_layer, target_layer)
    twice = _captured(loaded, batch.repeated(2), source_layer, target_layer)
    return ModelSlice(
        blocks=tuple(loaded.anatomy.blocks[source_layer + 1 : target_layer + 1]),
        calls=tuple(once.calls),
        doubled_calls=tuple(twice.calls),
        source=once.source,
        target=once.target.float(),
        mask=batch.attention_mask.to(once.source.device),
    )
