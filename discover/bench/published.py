"""The published procedure, as a reference to be held against: one vector at a time through the whole model."""

import torch
from torch import Tensor

from discover.model.anatomy import Place, Site
from discover.model.hooks import edited_output
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch

BETAS = (0.9, 0.98)
"""Decay of both moments of AdamW."""


def published_ascent(
    loaded: LoadedModel,
    batch: PromptBatch,
    layers: tuple[int, int],
    starts: Tensor,
    radius: float,
    steps: int,
    rate: float,
    positions: int,
    orthogonal: bool,
) -> Tensor:
    """Return vectors [N, D] of norm `radius`, learned as MELBO (Mack & Turner, 2024) was published, p = 2 and q = 1.

    Each is the bias of the MLP output projection of the source block. A step is a pass of the whole model, with the hidden
    states of all layers and the logits, and one of AdamW with AMSGrad in the sphere's tangent space; then the norm is
    restored. Start, gradient and vector are kept orthogonal to all earlier vectors. What the published code does besides
    (the prompt is tokenised anew at every step) is left out, in its favour.

    Args:
        loaded: the model.
        batch: B prompts without padding.
        layers: source and target layer.
        starts: [N, D] directions to begin with.
        radius: norm in residual units.
        steps: of every vector.
        rate: learning rate, in residual units.
        positions: how many last positions are read.
        orthogonal: whether vectors are kept orthogonal.
    """
    projection = loaded.anatomy.module(Place(layers[0], Site.mlp))

    def read(bias: Tensor) -> Tensor:
        with edited_output(projection, lambda _, output: output + bias):
            said = loaded.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        return said.hidden_states[layers[1] + 1][:, -positions:]

    ids, mask = batch.input_ids.to(loaded.device), batch.attention_mask.to(loaded.device)
    with torch.no_grad():
        unsteered = read(torch.zeros(starts.shape[1], device=loaded.device))
    learned = torch.zeros(0, starts.shape[1], device=loaded.device)
    for start in starts.to(loaded.device):

        def apart(vector: Tensor, earlier: Tensor = learned / radius) -> Tensor:
            return vector - (vector @ earlier.T) @ earlier if orthogonal else vector

        bias = torch.nn.Parameter(radius * torch.nn.functional.normalize(apart(start), dim=0))
        optimizer = torch.optim.AdamW([bias], lr=rate, betas=BETAS, weight_decay=0.0, amsgrad=True)
        for _ in range(steps):
            loss = -(read(bias) - unsteered).float().square().sum()
            (gradient,) = torch.autograd.grad(loss, bias)
            with torch.no_grad():
                bias.grad = apart(gradient - (gradient @ bias) / radius**2 * bias)
                optimizer.step()
                bias.copy_(radius * torch.nn.functional.normalize(apart(bias), dim=0))
        learned = torch.cat([learned, bias.detach()[None]])
    return learned
