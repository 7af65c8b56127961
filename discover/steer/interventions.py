"""Change what a model does while a context is open, and nothing after it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor

from discover.model.change import Change, Perturbations
from discover.model.hooks import HookCount, edited_output
from discover.model.loading import LoadedModel


@contextmanager
def perturbed(loaded: LoadedModel, perturbations: Perturbations, said: Sequence[int] | None) -> Iterator[list[HookCount]]:
    """While open, perturbation i acts on batch row i; yields one count of calls a place.

    Args:
        loaded: the model.
        perturbations: one a row; where they act at the end of the prompt only, a pass over one position counts as something said.
        said: how many positions of each row come after its prompt; None where all end with it.

    Raises:
        ValueError: a forward pass has another number of rows than there are perturbations.
    """
    placed = perturbations.mapped(lambda tensor: tensor.to(loaded.device))
    after = torch.tensor(said if said is not None else [0] * len(perturbations), device=loaded.device)
    reach = perturbations.last + after if perturbations.last else None
    with ExitStack() as stack:
        edits = ((loaded.anatomy.module(change.place), partial(_edited, change, reach)) for change in placed.changes)
        yield [stack.enter_context(edited_output(module, edit)) for module, edit in edits]


def _edited(change: Change, reach: Tensor | None, inputs: Tensor | None, output: Tensor) -> Tensor:
    if len(output) != len(change.bias):
        raise ValueError(
            f"{len(change.bias)} perturbations met a batch of {len(output)} rows; every row needs a perturbation of its own"
        )
    changed, length = change.onto(output, inputs, shared=False), output.shape[1]
    if reach is None or length == 1:
        return changed
    acting = torch.arange(length, device=output.device) >= length - reach[:, None]  # [rows, T]
    return torch.where(acting[..., None], changed, output)
