"""The slice: the frozen map from perturbations at some places of a model to what a later block puts out."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from discover.choices import Target
from discover.errors import UsageError
from discover.model.anatomy import Place, Site
from discover.model.change import Change, Perturbations
from discover.model.hooks import answering, edited_output, hidden, narrowed, with_hidden
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch
from discover.model.rounding import FEWEST


class _TargetReached(Exception):
    """Ends a forward pass as soon as the target block has returned."""


@dataclass(frozen=True)
class _Call:
    """The arguments that the model gave a block beside the residual stream."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Known:
    """A part of the first replayed block that puts out the same under every perturbation, before its own is added."""

    place: Place
    module: nn.Module
    output: Any
    """What it puts out for the B prompts."""


@dataclass(frozen=True)
class ModelSlice:
    """Blocks in a row up to the target, with the arguments that the model itself gives them for B prompts."""

    blocks: Sequence[nn.Module]
    """The blocks to replay, in order."""
    calls: Sequence[_Call]
    """Their arguments for the B prompts."""
    doubled_calls: Sequence[_Call]
    """Their arguments for the B prompts twice over: what grew belongs to rows, what did not is shared by all."""
    entered: Place
    """The block before the first of them."""
    entering: Tensor
    """[B, T - first, D] residual stream that enters the first of them, unsteered."""
    first: int
    """The first position that perturbations act at; those before it are not replayed."""
    prefix: Cache | None
    """Keys and values of the positions before it, the same under all perturbations; None where there are none."""
    known: Sequence[Known]
    """Parts of the first of them that need not be computed."""
    modules: Mapping[Place, nn.Module]
    """Modules of the replayed blocks that perturbations change."""
    inputs: Mapping[Place, Tensor]
    """[B, T - first, F] what each projection that perturbations change is given, unsteered."""
    pointwise: Sequence[nn.Module]
    """Parts of the last block that treat every position by itself: only what is read has to be computed there."""
    read_module: nn.Module | None
    """Module of the last block whose output is the target; None for the block itself."""
    head: Callable[[Tensor], Tensor] | None
    """What turns the residual stream after the last block into logits, where these are the target."""
    source: Tensor
    """[B, T, D] residual stream after the source block, unsteered."""
    target: Tensor
    """[B, T, D] what is read at the target, unsteered, in float32; [B, T, V] for logits."""
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

    def steered(self, perturbations: Perturbations, start: int, end: int) -> Tensor:
        """Return the target [N, B, K, D] in float32 under each of N perturbations, at positions `start` to `end`.

        Args:
            perturbations: at places that the slice was made for, acting at every position; gradients flow to them.
            start: the first position that is read, from `first` on.
            end: the position before which reading ends; K = end - start.
        """
        copies, start, end = len(perturbations), start - self.first, end - self.first
        placed = perturbations.mapped(lambda tensor: tensor.to(self.entering.device))
        changes = {change.place: change for change in placed.changes}

        def shared(place: Place, output: Tensor) -> Tensor:
            """Return copies of what is the same under every perturbation, each with its own change."""
            if (change := changes.pop(place, None)) is None:
                return output.repeat(copies, 1, 1)
            return change.onto(output, self.inputs.get(place), shared=True)

        def keep(_inputs: Tensor | None, output: Tensor) -> Tensor:
            read.append(output)
            return output

        read: list[Tensor] = []
        done: dict[int, Tensor] = {}
        residual, prefix = shared(self.entered, self.entering), self._prefix(copies)
        with ExitStack() as stack:
            for part in self.known:
                output = with_hidden(part.output, shared(part.place, hidden(part.output)))
                stack.enter_context(answering(part.module, output))
            for place, change in changes.items():
                stack.enter_context(edited_output(self.modules[place], partial(_edited, change, len(residual))))
            for module in self.pointwise:
                # Few perturbations are given more positions than are read, that their products have rows enough.
                stack.enter_context(narrowed(module, max(0, min(start, end - math.ceil(FEWEST / len(residual)))), end))
            if self.read_module is not None:
                stack.enter_context(edited_output(self.read_module, keep))
            for block, call, doubled in zip(self.blocks, self.calls, self.doubled_calls, strict=True):
                args, kwargs = _copied((call.args, call.kwargs), (doubled.args, doubled.kwargs), copies, prefix, done)
                residual = hidden(block(residual, *args, **kwargs))
        result = (read[0] if read else residual)[:, start:end]
        if self.head is not None:
            result = self.head(result)
        return result.unflatten(0, (copies, -1)).float()

    def _prefix(self, copies: int) -> Cache | None:
        """Return a cache of the prefix for `copies` times the rows, which blocks may write to."""
        if self.prefix is None:
            return None
        cache, rows = copy.copy(self.prefix), torch.arange(len(self.entering), device=self.entering.device).repeat(copies)
        cache.layers = [_layer(layer, rows) for layer in cache.layers]
        return cache


def _layer(layer: CacheLayerMixin, rows: Tensor) -> CacheLayerMixin:
    """Return what a layer of a cache holds, for `rows` of it; keys and values of a single row are shared by all."""
    # Of layers that hold more, such as the state of a convolution, it is not known what is written to.
    if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) or not layer.is_initialized or len(layer.keys) > 1:
        chosen = copy.deepcopy(layer)
        chosen.reorder_cache(rows)
        return chosen
    # What a block adds is put behind them in a new tensor, so that nothing is written to what is shared.
    shared = copy.copy(layer)
    shared.keys, shared.values = (part.expand(len(rows), -1, -1, -1) for part in (layer.keys, layer.values))
    return shared


def _edited(change: Change, rows: int, inputs: Tensor | None, output: Tensor) -> Tensor:
    given = inputs if inputs is None else _in_rows(inputs, rows)
    return change.onto(_in_rows(output, rows), given, shared=False).reshape(output.shape)


def _in_rows(tensor: Tensor, rows: int) -> Tensor:
    """Return [R, T, F]; an expert that all tokens share is given them, and puts them out, without their rows [R * T, F]."""
    return tensor.unflatten(0, (rows, -1)) if tensor.dim() == 2 else tensor


def _copied(one: Any, two: Any, copies: int, prefix: Cache | None, done: dict[int, Tensor]) -> Any:
    """Return a block's argument for `copies` times the rows, given what it is for one copy and for two.

    A cache is replaced by `prefix`: that which the model gave has been written to since. What blocks share is copied once, and
    found in `done` by its identity.
    """
    if isinstance(one, Cache):
        return prefix
    if isinstance(one, Tensor):
        # A shape alone does not tell whether its first axis means rows: with one prompt a shared mask looks the same.
        if one.shape == two.shape:
            return one
        if id(one) not in done:
            done[id(one)] = one.repeat(copies, *([1] * (one.dim() - 1)))
        return done[id(one)]
    if isinstance(one, dict):
        return {key: _copied(value, two[key], copies, prefix, done) for key, value in one.items()}
    if isinstance(one, tuple | list):
        return type(one)(_copied(first, second, copies, prefix, done) for first, second in zip(one, two, strict=True))
    return one


class _Recording:
    """One unsteered pass up to the target block, and what was noted on its way."""

    def __init__(
        self, loaded: LoadedModel, batch: PromptBatch, first: int, last: int, watched: Sequence[nn.Module], skipped: int
    ) -> None:
        self.calls: list[_Call] = []
        self.given: dict[nn.Module, Tensor] = {}
        """What each watched module was given."""
        self.outputs: dict[nn.Module, Any] = {}
        """What each watched module put out."""
        self.entering = torch.empty(0)
        self.prefix: Cache | None = None
        """Keys and values of the first `skipped` positions, which the rest of the pass does not compute."""
        blocks = loaded.anatomy.blocks
        with ExitStack() as stack, torch.no_grad():
            cache = loaded.prefix(batch, skipped) if skipped else None
            # What follows is written to the cache that the model is given.
            self.prefix = copy.deepcopy(cache)
            for module in {*watched, blocks[last]}:
                stack.callback(module.register_forward_hook(self._keep).remove)
            for block in blocks[first : last + 1]:
                stack.callback(block.register_forward_pre_hook(self._keep_call, with_kwargs=True).remove)
            stack.callback(blocks[last].register_forward_hook(self._stop).remove)
            try:
                loaded.forward(batch, None, cache)
            except _TargetReached:
                return
        raise RuntimeError(f"the forward pass ended before block {last} had returned")

    def _keep_call(self, _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self.calls:
            self.entering = (kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]).detach().clone()
        kept = {key: value for key, value in kwargs.items() if key != "hidden_states"}
        self.calls.append(_Call(args if "hidden_states" in kwargs else args[1:], kept))

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs:
            self.given[module] = inputs[0].detach().clone()
        self.outputs[module] = with_hidden(output, hidden(output).detach().clone())

    @staticmethod
    def _stop(_block: nn.Module, _inputs: Any, _output: Any) -> None:
        # Nothing later is read, and on a large model the rest of the pass is most of its cost.
        raise _TargetReached


def residual_after(loaded: LoadedModel, batch: PromptBatch, layer: int) -> Tensor:
    """Return the residual stream [B, T, D] after block `layer`, from the whole model and without gradients.

    It is what the block returned, for the last block too, where Hugging Face's `hidden_states` carry the final norm.
    """
    return read_at(loaded, batch, layer, Target.residual)


def read_at(loaded: LoadedModel, batch: PromptBatch, layer: int, target: Target) -> Tensor:
    """Return what is read at a target [B, T, D] (logits [B, T, V]), from the whole model, in float32 and without gradients."""
    if target is Target.logits:
        with torch.no_grad():
            return loaded.forward(batch).float()
    module = loaded.anatomy.module(Place(layer, Site(target.value)))
    return hidden(_Recording(loaded, batch, layer, layer, [module], 0).outputs[module]).float()


def model_slice(
    loaded: LoadedModel, batch: PromptBatch, places: Sequence[Place], target_layer: int, target: Target, skipped: int
) -> ModelSlice:
    """Return the slice from `places` to a later block for B prompts; all layers mean "after that block".

    Args:
        loaded: the model.
        batch: B prompts.
        places: where perturbations will act, in the model's order; the first one's block is the source.
        target_layer: block whose output is read.
        target: what is read there.
        skipped: positions at the beginning where nothing is perturbed; they are computed once.

    Raises:
        UsageError: the layers are not 0 <= source <= every place < target < L, a block lacks a projection that was asked
            for, or logits are read elsewhere than after the last block.
    """
    anatomy, source, count = loaded.anatomy, places[0].block, len(loaded.anatomy.blocks)
    if not 0 <= source <= places[-1].block < target_layer < count:
        band = "" if places[-1].block == source else f" (and changes up to block {places[-1].block}, by search.band)"
        raise UsageError(
            f"source layer {source}{band} and target layer {target_layer} do not fit: this model has blocks 0 to "
            f"{count - 1} and needs 0 <= search.source_layer < search.target_layer <= {count - 1}."
        )
    if target is Target.logits and target_layer != count - 1:
        raise UsageError(
            f"search.target=logits is read after the last block; give search.target_layer={count - 1}, not {target_layer}."
        )
    first = source + 1 if places[0].site is Site.residual else source
    modules = {place: anatomy.module(place) for place in places if place.block >= first}
    read = anatomy.module(Place(target_layer, Site.attention)) if target is Target.attention else None
    writers = [(Place(first, site), anatomy.writer(Place(first, site))) for site in (Site.attention, Site.mlp)]
    watched = [*modules.values(), *(module for _, writer in writers if writer for module in writer)]
    watched += [module for module in (anatomy.blocks[source], read) if module is not None]
    # Twice, because only a second batch size shows which arguments grow with the rows.
    once = _Recording(loaded, batch, first, target_layer, watched, skipped)
    twice = _Recording(loaded, batch.repeated(2), first, target_layer, [], skipped)
    whole = once
    if skipped:
        whole = _Recording(loaded, batch, target_layer, target_layer, [anatomy.blocks[source], *filter(None, [read])], 0)
    known = []
    for place, writer in writers if first == source else ():
        # What lies before the first change is known, where the projection's output is that of its whole part.
        if writer and torch.equal(hidden(once.outputs[writer.whole]), once.outputs[writer.projection]):
            known.append(Known(place, writer.whole, once.outputs[writer.whole]))
        if place == places[0]:
            break
    reached = hidden(whole.outputs[read or anatomy.blocks[target_layer]])
    head = _head(loaded, whole.outputs[anatomy.blocks[target_layer]]) if target is Target.logits else None
    with torch.no_grad():
        return ModelSlice(
            blocks=tuple(anatomy.blocks[first : target_layer + 1]),
            calls=tuple(once.calls),
            doubled_calls=tuple(twice.calls),
            entered=Place(first - 1, Site.residual),
            entering=once.entering,
            first=skipped,
            prefix=once.prefix,
            known=tuple(known),
            modules=modules,
            inputs={place: _in_rows(once.given[module], len(once.entering)) for place, module in modules.items()},
            pointwise=_pointwise(loaded, target_layer),
            read_module=read,
            head=head,
            source=hidden(whole.outputs[anatomy.blocks[source]]),
            target=(reached if head is None else head(reached)).float(),
            mask=batch.attention_mask.to(once.entering.device),
        )


def residual_slices(loaded: LoadedModel, batch: PromptBatch) -> Callable[[int, int], ModelSlice]:
    """Return the function from two layers to the slice between the residual streams after them, for B prompts.

    It is what `model_slice` makes for a vector; the model is run for all pairs of layers together, not for each.
    """
    blocks = loaded.anatomy.blocks
    once = _Recording(loaded, batch, 0, len(blocks) - 1, [*blocks], 0)
    twice = _Recording(loaded, batch.repeated(2), 0, len(blocks) - 1, [], 0)

    def between(source: int, target: int) -> ModelSlice:
        replayed, entering = slice(source + 1, target + 1), hidden(once.outputs[blocks[source]])
        return ModelSlice(
            blocks=tuple(blocks[replayed]),
            calls=tuple(once.calls[replayed]),
            doubled_calls=tuple(twice.calls[replayed]),
            entered=Place(source, Site.residual),
            entering=entering,
            first=0,
            prefix=None,
            known=(),
            modules={},
            inputs={},
            pointwise=_pointwise(loaded, target),
            read_module=None,
            head=None,
            source=entering,
            target=hidden(once.outputs[blocks[target]]).float(),
            mask=batch.attention_mask.to(entering.device),
        )

    return between


def _pointwise(loaded: LoadedModel, layer: int) -> tuple[nn.Module, ...]:
    """Return the parts of a block that treat every position by itself."""
    writers = [loaded.anatomy.writer(Place(layer, site)) for site in (Site.attention, Site.mlp)]
    return tuple(writer.whole if index else writer.projection for index, writer in enumerate(writers) if writer)


def head_of(loaded: LoadedModel, batch: PromptBatch) -> Callable[[Tensor], Tensor]:
    """Return what the model makes of any residual stream [R, K, D] as if it came after its last block: logits [R, K, V]."""
    last = len(loaded.anatomy.blocks) - 1
    return _head(loaded, _Recording(loaded, batch, last, last, [], 0).outputs[loaded.anatomy.blocks[last]])


def _head(loaded: LoadedModel, output: Any) -> Callable[[Tensor], Tensor]:
    """Return what the model makes of the residual stream [R, K, D] after its last block: logits [R, K, V]."""

    def logits(residual: Tensor) -> Tensor:
        with ExitStack() as stack:
            for block in loaded.anatomy.blocks:
                stack.enter_context(answering(block, with_hidden(output, residual)))
            return loaded.model(inputs_embeds=residual.detach(), use_cache=False).logits

    return logits
