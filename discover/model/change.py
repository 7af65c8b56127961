"""Changes: what is added, by N perturbations at once, to what modules of a model put out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from discover.errors import UsageError
from discover.model.anatomy import Place
from discover.model.rounding import row_products


@dataclass(frozen=True)
class Change:
    """What N perturbations add to the output of one module: bias + up (down x), for x what the module is given."""

    place: Place
    bias: Tensor
    """[N, D], in the units of the module's output."""
    down: Tensor
    """[N, r, F], F the width of x; r is 0 where only a bias is added."""
    up: Tensor
    """[N, D, r]."""

    def onto(self, output: Tensor, inputs: Tensor | None, shared: bool) -> Tensor:
        """Return the changed output [N * B, T, D]; row n * B + b is what perturbation n makes of prompt b.

        Args:
            output: [N * B, T, D] what the module puts out, or [B, T, D] where that is the same under all perturbations.
            inputs: what it is given, [N * B, T, F] or [B, T, F]; None will do for a bias alone.
            shared: whether both are the same under all perturbations.
        """
        groups, size = 1 if shared else len(self.bias), output.shape[1]
        added = self.bias[:, None, :]
        if self.down.shape[1] and inputs is not None:
            given = inputs.unflatten(0, (groups, -1)).flatten(1, 2).to(self.down)  # [N or 1, B * T, F]
            down, up = self.down, self.up
            if down.shape[1] == 1:
                # Products with a single column go through kernels that round by how many products there are.
                down, up = nn.functional.pad(down, (0, 0, 0, 1)), nn.functional.pad(up.mT, (0, 0, 0, 1)).mT
            # What all perturbations share is read by all of them in one product.
            inner = read_by(down, given[0]) if shared else given @ down.mT
            added = added + inner @ up.mT
        changed = output.unflatten(0, (groups, -1)).flatten(1, 2) + added.to(output.dtype)
        return changed.unflatten(1, (-1, size)).flatten(0, 1)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "Change":
        """Return the change with `function` applied to each of its tensors."""
        return replace(self, bias=function(self.bias), down=function(self.down), up=function(self.up))


@dataclass(frozen=True)
class Perturbations:
    """N perturbations at some places; one may do nothing at some of them."""

    changes: tuple[Change, ...]
    """One a place, in the order in which the model reaches them."""
    last: int = 0
    """They act at so many positions at the prompt's end, and at all that is said; 0 means at every position."""

    def __len__(self) -> int:
        """N."""
        return len(self.changes[0].bias)

    @property
    def begins(self) -> list[int]:
        """Per perturbation the first block that it changes; that of all where it changes none."""
        every = torch.full((len(self),), self.changes[0].place.block)
        for change in reversed(self.changes):
            acts = change.bias.any(dim=1) | change.up.flatten(1).any(dim=1)
            every = torch.where(acts.to(every.device), change.place.block, every)
        return every.tolist()

    def at(self, place: Place) -> Change | None:
        """Return the change at a place, None where nothing is changed."""
        return next((change for change in self.changes if change.place == place), None)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "Perturbations":
        """Return the perturbations with `function` applied to each tensor."""
        return replace(self, changes=tuple(change.mapped(function) for change in self.changes))

    def rows(self, index: slice | Sequence[int] | Tensor) -> "Perturbations":
        """Return the perturbations that `index` names."""
        return self.mapped(lambda tensor: tensor[index])

    def repeated(self, copies: int) -> "Perturbations":
        """Return every perturbation `copies` times in a row."""
        return self.mapped(lambda tensor: tensor.repeat_interleave(copies, dim=0))

    def scaled(self, multiplier: float | Tensor) -> "Perturbations":
        """Return the perturbations times `multiplier`, one for all or [N]: 1 as they are, 0 nothing, -1 subtracted."""
        # One each stands along the first axis of every tensor.
        wide, deep = (multiplier[:, None], multiplier[:, None, None]) if isinstance(multiplier, Tensor) else [multiplier] * 2
        changes = (replace(change, bias=wide * change.bias, up=deep * change.up) for change in self.changes)
        return replace(self, changes=tuple(changes))


def read_by(down: Tensor, inputs: Tensor) -> Tensor:
    """Return [N, M, r]: what low-rank changes `down` [N, r, F] read in the same `inputs` [M, F]."""
    return row_products(down.flatten(0, 1), inputs).unflatten(0, down.shape[:2]).mT


def biases(place: Place, vectors: Tensor) -> Perturbations:
    """Return the perturbations that add vectors [N, D] to the output of the module at `place`."""
    count, width = vectors.shape
    return Perturbations((Change(place, vectors, vectors.new_zeros(count, 0, 0), vectors.new_zeros(count, width, 0)),))


def joined(first: Perturbations, second: Perturbations) -> Perturbations:
    """Return the perturbations of both, the first's before the second's; each does nothing where only the other acts."""
    places = sorted({change.place for change in (*first.changes, *second.changes)}, key=lambda place: place.order)
    return replace(first, changes=tuple(_appended(place, first, second) for place in places))


def _appended(place: Place, first: Perturbations, second: Perturbations) -> Change:
    """Return the change at a place of two sets of perturbations, one of which may have none there."""
    found = [one.at(place) for one in (first, second)]
    there = [change for change in found if change is not None]
    width = there[0].bias.shape[1]
    rank, given = (max(change.down.shape[axis] for change in there) for axis in (1, 2))
    parts = []
    for change, count in zip(found, (len(first), len(second)), strict=True):
        bias, down = there[0].bias.new_zeros(count, width), there[0].down.new_zeros(count, rank, given)
        up = there[0].up.new_zeros(count, width, rank)
        if change is not None:
            # Terms of nothing make up for a smaller rank.
            own = change.down.shape[1]
            bias, down[:, :own, : change.down.shape[2]], up[:, :, :own] = change.bias, change.down, change.up
        parts.append((bias, down, up))
    return Change(place, *(torch.cat(both) for both in zip(*parts, strict=True)))


def check_entries(entries: Iterable[int], count: int) -> None:
    """Refuse numbers that name none of the `count` entries of a bank."""
    if out := [entry for entry in entries if not 0 <= entry < count]:
        raise UsageError(f"There is no vector {out[0]} in this bank; it holds vectors 0 to {count - 1}.")


def mixed(perturbations: Perturbations, multipliers: Mapping[int, float]) -> Perturbations:
    """Return one perturbation: the sum of those that `multipliers` names, each times its multiplier, such as 2 * v3 - v7.

    Biases add up, and low-rank parts stand side by side (r for each that is taken other than zero times), so that the sum is
    exact for every kind.

    Raises:
        UsageError: there is no such perturbation.
    """
    check_entries(multipliers, len(perturbations))
    taken = [entry for entry, multiplier in multipliers.items() if multiplier != 0]
    factors = perturbations.changes[0].bias.new_tensor([multipliers[entry] for entry in taken])

    def mixture(change: Change) -> Change:
        bias, up = factors[:, None] * change.bias[taken], factors[:, None, None] * change.up[taken]
        stacked = up.transpose(0, 1).flatten(1)  # [D, r for each]
        return Change(change.place, bias.sum(dim=0)[None], change.down[taken].flatten(0, 1)[None], stacked[None])

    return replace(perturbations, changes=tuple(mixture(change) for change in perturbations.changes))
