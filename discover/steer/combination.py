"""From the entries of a bank to interventions on the model that it was made for."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from discover.bank import VectorBank
from discover.errors import UsageError
from discover.model.anatomy import Site
from discover.model.change import check_entries, mixed
from discover.model.loading import LoadedModel
from discover.perturb.sphere import unit
from discover.steer.interventions import (
    EVERYWHERE,
    Ablation,
    Condition,
    Intervention,
    Rotation,
    Window,
    added,
    orthonormal_rows,
)
from discover.steer.request import Request


def combined(bank: VectorBank, request: Request) -> list[Intervention]:
    """Return what a request does by hooks, one row each: ablation, then rotations, then what is added.

    Raises:
        UsageError: an entry is not in the bank, or is no vector where a direction is needed, or acts before a condition is known.
    """
    window = EVERYWHERE if request.window is None else Window(*request.window)
    condition = _condition(bank, request)
    found: list[Intervention] = []
    if request.ablate:
        found.append(Ablation(orthonormal_rows(directions(bank, request.ablate))[None], window, condition))
    for entry, degrees in request.rotate.items():
        towards = unit(directions(bank, [entry]))
        found.append(Rotation(bank.entry(entry).source_layer, towards, torch.tensor([degrees]), window, condition))
    if request.add:
        addition = added(mixed(bank.perturbations, request.add))
        found.append(replace(addition, window=addition.window if request.window is None else window, condition=condition))
    return found


def directions(bank: VectorBank, entries: Sequence[int]) -> Tensor:
    """Return [k, D] the vectors of some entries.

    Raises:
        UsageError: there is no such entry, or they are no vectors.
    """
    check_entries(entries, len(bank))
    try:
        return torch.cat([bank.entry(entry).vectors for entry in entries])
    except UsageError as error:
        raise UsageError(f"{error} An entry can only be added then; use --add.") from error


def _condition(bank: VectorBank, request: Request) -> Condition | None:
    if request.waiting is None:
        return None
    entry, cosine, held = request.waiting
    (direction,) = directions(bank, [entry])
    layer = bank.entry(entry).source_layer
    places = [change.place for added_entry in request.add for change in bank.entry(added_entry).perturbations.changes]
    if any(place.block < layer or (place.block == layer and place.site is not Site.residual) for place in places):
        raise UsageError(
            f"--when looks at the residual stream after block {layer}, and what is added acts before that; leave it out, wait "
            "for an entry of an earlier block, or use a bank of search.perturbation=vector."
        )
    return Condition(layer, direction, cosine, held)


def check_fits(bank: VectorBank, loaded: LoadedModel) -> None:
    """Refuse a bank that was made for another model.

    Raises:
        UsageError: weights are known to differ, or the model has not the parts or the width that the bank changes.
    """
    made, here = bank.origin.get("fingerprints"), loaded.identity["fingerprints"]
    if made and here and made != here:
        raise UsageError(
            f"This bank was made for {bank.origin.get('model')}, and the weights of {loaded.identity['path']} are others; "
            "give that model with --model."
        )
    width, blocks = loaded.anatomy.width, len(loaded.anatomy.blocks)
    for change in bank.perturbations.changes:
        wide = change.bias.shape[1]
        if wide != width or change.place.block >= blocks:
            raise UsageError(
                f"This bank changes block {change.place.block} of a residual stream of width {wide}, and "
                f"{loaded.identity['path']} has {blocks} blocks of width {width}; give the bank's own model with --model."
            )
        rank, read = change.down.shape[1:]
        if rank and read * width != loaded.anatomy.module(change.place).get_parameter("weight").numel():
            raise UsageError(
                f"This bank reads {read} channels in block {change.place.block}, and {loaded.identity['path']} has others there; "
                "give the bank's own model with --model."
            )
