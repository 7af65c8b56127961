"""Find, by structure, the parts of a causal language model that the other modules touch."""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from discover.errors import UsageError


@dataclass(frozen=True)
class Anatomy:
    """The blocks of a decoder and, for each block, the modules that write to the residual stream."""

    blocks: nn.ModuleList
    """The L decoder blocks in order; block L is 0-based."""
    attention_outputs: list[nn.Module | None]
    """Per block the linear map that ends its attention; None where a block has none."""
    mlp_outputs: list[nn.Module | None]
    """Per block the linear map that ends its MLP; None where a block has none (fused experts)."""
    width: int
    """D, the width of the residual stream."""


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
        attention_outputs=[_output_projection(block, width, attention=True) for block in blocks],
        mlp_outputs=[_output_projection(block, width, attention=False) for block in blocks],
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


def _output_projection(block: nn.Module, width: int, attention: bool) -> nn.Module | None:
    """Return the last linear map into the residual stream among the children of `block` that are (not) attention."""
    found = None
    for name, child in block.named_children():
        if ("attn" in name or "attention" in name) == attention:
            for module in child.modules():
                if _features_out(module) == width:
                    found = module
    return found


def _features_out(module: nn.Module) -> int | None:
    """Return the output width of a linear map; GPT-2 keeps its own transposed class for them."""
    if isinstance(module, Conv1D):
        return int(module.nf)
    return module.out_features if isinstance(module, nn.Linear) else None
