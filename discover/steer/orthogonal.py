"""Weights that cannot write along a direction: directional ablation without a hook."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from discover.errors import UsageError
from discover.model.anatomy import Place, Site
from discover.model.loading import LoadedModel
from discover.model.prompts import left_padded
from discover.steer.interventions import EVERYWHERE, Ablation, intervened

AGREES = 1e-2
"""Largest difference of logits from ablation, in their standard deviations; norms behind projections give one of order one."""
PROBE = 16
"""Tokens of the text on which both are compared."""


@contextmanager
def orthogonalised(loaded: LoadedModel, directions: Tensor) -> Iterator[None]:
    """While open, no weight of the model writes along `directions` [k, D], which are orthonormal; then it has its own again.

    Embeddings and the attention and MLP output projections, with their biases, lose what they write there. Weights that the
    model shares between embedding and output stay whole at the output. Source: weight orthogonalisation (Arditi et al., 2024).

    Raises:
        UsageError: this model writes to the residual stream by other ways too, so that this would not be ablation.
    """
    writers = list(_writers(loaded))
    before = [(module, dict(module._parameters)) for module, _ in writers]
    away = directions.to(loaded.device)
    try:
        with torch.no_grad():
            for module, by_rows in writers:
                for name, weight in list(module._parameters.items()):
                    if weight is not None:
                        # A new parameter, never the old one in place: what shares it keeps it, and putting it back is exact.
                        module._parameters[name] = nn.Parameter(_without(weight, away, by_rows), requires_grad=False)
        _check(loaded, directions)
        yield
    finally:
        for module, parameters in before:
            module._parameters.update(parameters)


def _writers(loaded: LoadedModel) -> Iterator[tuple[nn.Module, bool]]:
    """Yield every module that writes to the residual stream, and whether the rows [.., D] of its weight are what it writes."""
    anatomy = loaded.anatomy
    for module in (loaded.model.get_decoder() or loaded.model).modules():
        if isinstance(module, nn.Embedding) and module.embedding_dim == anatomy.width:
            yield module, True
    for block in range(len(anatomy.blocks)):
        for site in (Site.attention, Site.mlp):
            if (writer := anatomy.writer(Place(block, site))) is not None:
                yield writer.projection, isinstance(writer.projection, Conv1D)


def _without(weight: Tensor, directions: Tensor, by_rows: bool) -> Tensor:
    """Return a weight, or a bias, of a module without what it writes along `directions` [k, D]."""
    wide = weight.to(directions)
    if by_rows or wide.dim() == 1:
        return (wide - (wide @ directions.T) @ directions).to(weight.dtype)
    return (wide - directions.T @ (directions @ wide)).to(weight.dtype)


def _check(loaded: LoadedModel, directions: Tensor) -> None:
    """Refuse a model in which this is not what ablation does; the weights are those without the directions."""
    vocabulary = loaded.model.get_input_embeddings().weight.shape[0]
    probe = left_padded([""], [torch.arange(PROBE).mul(7919).remainder(vocabulary).tolist()], 0)
    with torch.no_grad():
        here = loaded.forward(probe).float()
        # On weights that write nothing along them, ablation finds only what comes by other ways.
        with intervened(loaded, [Ablation(directions[None], EVERYWHERE, None)], None):
            there = loaded.forward(probe).float()
    apart = float((here - there).abs().max() / there.std())
    tolerance = AGREES if loaded.model.dtype is torch.float32 else 30 * AGREES
    if not apart <= tolerance:
        raise UsageError(
            f"This {loaded.model.config.model_type} model writes to the residual stream behind a norm or by a module of its own "
            f"(logits differ from ablation by {apart:.2g} of their spread): no change of weights equals ablation; ablate instead."
        )
