"""Find, by structure, the parts of a causal language model that the other modules touch."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from discover.errors import UsageError


class Site(Enum):
    """An output inside a block that something can be added to."""

    residual = "residual"
    """The block's own: the residual stream after it."""
    attention = "attention"
    """That of the attention output projection."""
    mlp = "mlp"
    """That of the MLP output projection."""


class Place(NamedTuple):
    """Where in a model something is changed."""

    block: int
    """Block L (0-based)."""
    site: Site

    @property
    def order(self) -> tuple[int, int]:
        """A key that puts places in the order in which the model reaches them."""
        return self.block, (Site.attention, Site.mlp, Site.residual).index(self.site)


class Writer(NamedTuple):
    """The part of a block that writes to the residual stream through a projection of its own."""

    whole: nn.Module
    """The child of the block: its attention, or its MLP."""
    projection: nn.Module
    """The linear map that ends it."""


@dataclass(frozen=True)
class Anatomy:
    """The blocks of a decoder and, for each block, the modules that write to the residual stream."""

    blocks: nn.ModuleList
    """The L decoder blocks in order; block L is 0-based."""
    attentions: list[Writer | None]
    """Per block its attention; None where a block has none."""
    mlps: list[Writer | None]
    """Per block its MLP; None where a block has none (fused experts)."""
    width: int
    """D, the width of the residual stream."""

    def writer(self, place: Place) -> Writer | None:
        """Return the attention or MLP at `place`; None for the block itself, and where a block has none."""
        match place.site:
            case Site.residual:
                return None
            case Site.attention:
                return self.attentions[place.block]
            case Site.mlp:
                return self.mlps[place.block]

    def module(self, place: Place) -> nn.Module:
        """Return the module whose output is meant by `place`.

        Raises:
            UsageError: the block has no such projection.
        """
        if place.site is Site.residual:
            return self.blocks[place.block]
        if (writer := self.writer(place)) is None:
            raise UsageError(
                f"Block {place.block} of this model has no {place.site.value} output projection that could be changed; "
                "choose another search.source_layer or search.perturbation=vector."
            )
        return writer.projection


def anatomy(model: PreTrainedModel, blocks_path: str | None) -> Anatomy:
    """Return the anatomy of `model`; `blocks_path` names the list of blocks where the search by structure cannot.

    Raises:
        UsageError: no list of blocks, or several, and what was found.
    """
    config = model.config.get_text_config(decoder=True)
    blocks = _named_blocks(model, blocks_path) if blocks_path else _found_blocks(model, config.num_hidden_layers)
    width = config.hidden_size
    return Anatomy(
        blocks=blocks,
        attentions=[_writer(block, width, attention=True) for block in blocks],
        mlps=[_writer(block, width, attention=False) for block in blocks],
        width=width,
    )


def _found_blocks(model: PreTrainedModel, count: int) -> nn.ModuleList:
    """Return the only `nn.ModuleList` of the decoder with one entry a hidden layer."""
    lists = {
        name: module
        for name, module in (model.get_decoder() or model).named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    }
    if len(lists) == 1:
        return next(iter(lists.values()))
    found = ", ".join(lists) or "none"
    raise UsageError(
        f"The blocks of this {model.config.model_type} model cannot be told: lists of {count} modules found: {found}; "
        "name the right one with model.blocks_path=<dotted path>."
    )


def _named_blocks(model: PreTrainedModel, path: str) -> nn.ModuleList:
    """Return the module list at the dotted `path`."""
    modules = dict(model.named_modules())
    if isinstance(found := modules.get(path), nn.ModuleList):
        return found
    lists = ", ".join(name for name, module in modules.items() if isinstance(module, nn.ModuleList))
    raise UsageError(f"model.blocks_path={path} names no list of modules in this model; it has: {lists or 'none'}.")


def _writer(block: nn.Module, width: int, attention: bool) -> Writer | None:
    """Return the child of `block` that is (not) attention and holds the last linear map into the residual stream."""
    found = None
    for name, child in block.named_children():
        if ("attn" in name or "attention" in name) == attention:
            for module in child.modules():
                if _features_out(module) == width:
                    found = Writer(child, module)
    return found


def _features_out(module: nn.Module) -> int | None:
    """Return the output width of a linear map; GPT-2 keeps its own transposed class for them."""
    if isinstance(module, Conv1D):
        return int(module.nf)
    return module.out_features if isinstance(module, nn.Linear) else None
