"""Hold discovered vectors against directions that were learned from labels: are they new?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from discover.bank import VectorBank
from discover.errors import UsageError
from discover.model.anatomy import Site
from discover.model.change import Perturbations
from discover.model.loading import LoadedModel
from discover.model.memory import in_pieces
from discover.model.prompts import PromptBatch
from discover.model.slice import residual_after
from discover.perturb.sphere import unit
from discover.steer.interventions import added, intervened
from discover.storage import read_json, write_json

ROWS = 64
"""Prompts times vectors computed at once."""


@dataclass(frozen=True)
class Likeness:
    """How much the vectors of a bank resemble one known direction."""

    name: str
    """The direction, by its folder or file."""
    layer: int
    """Block after which the known direction is added."""
    source: list[float] | None
    """[N] cosine between vector and direction as they are added; None where either is no vector added to the residual stream, or
    the bank is a mixture."""
    effect: list[float]
    """[N] cosine between their mean effects on unit-norm residuals at the prompt's last token, after the bank's target layer, or
    after the last block in which a known direction acts where that comes later."""


def known_directions(paths: Sequence[str], loaded: LoadedModel) -> list[tuple[str, VectorBank]]:
    """Return the banks at some paths, the first entry of each.

    Raises:
        UsageError: one is not there, or of another width or depth than the model.
    """
    found = []
    for path in paths:
        bank = VectorBank.load(path)
        width = bank.perturbations.changes[0].bias.shape[1]
        if width != loaded.anatomy.width:
            raise UsageError(
                f"The known direction {path} has width {width} and this model {loaded.anatomy.width}; give directions that were "
                "learned on this model."
            )
        deepest, blocks = max(change.place.block for change in bank.perturbations.changes), len(loaded.anatomy.blocks)
        if deepest >= blocks:
            raise UsageError(
                f"The known direction {path} acts in block {deepest} and this model has {blocks}; give directions that were "
                "learned on this model."
            )
        found.append((Path(path).name, bank.ways[0].subset([0])))
    return found


def likenesses(
    loaded: LoadedModel, batch: PromptBatch, bank: VectorBank, known: Sequence[tuple[str, VectorBank]]
) -> list[Likeness]:
    """Return how much the vectors of a bank resemble each of the known directions, on B prompts."""
    if not known:
        return []
    # Before it acts, a direction has no effect, and would resemble nothing.
    layer = max([bank.target_layer, *(change.place.block for _, one in known for change in one.perturbations.changes)])
    plain = _last(loaded, batch, layer)
    own, found = _effects(loaded, batch, bank.perturbations, layer, plain), []
    vectors = _vectors(bank.perturbations)
    for name, one in known:
        effect = _effects(loaded, batch, one.perturbations, layer, plain)
        direction = _vectors(one.perturbations)
        source = None if vectors is None or direction is None else (unit(vectors) @ unit(direction)[0]).tolist()
        found.append(Likeness(name, one.source_layer, source, (unit(own) @ unit(effect)[0]).tolist()))
    return found


def _vectors(perturbations: Perturbations) -> Tensor | None:
    """Return [N, D] vectors that are added to the residual stream; None for any other kind."""
    (first, *others) = perturbations.changes
    return None if others or first.down.shape[1] or first.place.site is not Site.residual else first.bias


def _effects(loaded: LoadedModel, batch: PromptBatch, perturbations: Perturbations, layer: int, plain: Tensor) -> Tensor:
    """Return the mean effect [N, D] of each perturbation over the prompts, at their last token."""
    count = len(batch.input_ids)

    def piece(some: slice) -> Tensor:
        part = perturbations.rows(some)
        with intervened(loaded, [added(part).repeated(count)], None):
            steered = _last(loaded, batch.repeated(len(part)), layer)
        return (steered.unflatten(0, (-1, count)) - plain).mean(dim=1)

    found, _ = in_pieces(piece, len(perturbations), max(1, ROWS // count), "give fewer prompts")
    return torch.cat(found)


def _last(loaded: LoadedModel, batch: PromptBatch, layer: int) -> Tensor:
    """Return the residual stream [B, D] of norm one after a block, at the last token."""
    return unit(residual_after(loaded, batch, layer)[:, -1].float().cpu())


def save_likenesses(path: Path, found: Sequence[Likeness]) -> None:
    """Write them as JSON."""
    write_json(path, [asdict(one) for one in found])


def load_likenesses(path: Path) -> list[Likeness]:
    """Read what `save_likenesses` wrote."""
    return [Likeness(**one) for one in read_json(path)]
