"""Change what a model does while a context is open, and nothing after it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from discover.errors import UsageError
from discover.model.anatomy import Place, Site
from discover.model.change import Change, Perturbations
from discover.model.hooks import Edit, HookCount, edited_input, edited_output, watched_output
from discover.model.loading import LoadedModel
from discover.perturb.sphere import unit


class Window(NamedTuple):
    """Positions that are acted at, counted from the end of the prompt: -1 is its last token, 0 the first that is said."""

    start: int | None
    """The first of them; None for the beginning of the prompt."""
    end: int | None
    """The one before which they end; None for everything that is said."""


EVERYWHERE = Window(None, None)
PROMPT = Window(None, 0)
SAID = Window(0, None)


@dataclass(frozen=True)
class Condition:
    """Act only where the residual stream resembles a direction. Source: conditional activation steering (Lee et al., 2024)."""

    layer: int
    """Block after which the residual stream is looked at."""
    direction: Tensor
    """[D]."""
    threshold: float
    """Cosine from which on there is something to act on; at exactly this cosine rounding decides."""
    held: bool
    """Whether the last token of the prompt decides for everything in its row, instead of every position for itself."""


class Intervention(Protocol):
    """R interventions of one kind, one a row of a batch; frozen."""

    @property
    def window(self) -> Window:
        """Where they act."""

    @property
    def condition(self) -> Condition | None:
        """What they wait for; None for nothing."""

    @property
    def first_block(self) -> int:
        """The first block whose inside or output is changed."""

    def __len__(self) -> int:
        """R."""

    def rows(self, index: slice | Sequence[int]) -> Self:
        """Return those that `index` names."""

    def repeated(self, copies: int) -> Self:
        """Return each of them `copies` times in a row."""

    def edits(self, loaded: LoadedModel) -> Iterator["Edited"]:
        """Yield what is changed, in the model's order."""


class Edited(NamedTuple):
    """One module, and what becomes of what it is given, or puts out."""

    module: nn.Module
    at_input: bool
    edit: Edit


@dataclass(frozen=True)
class Addition:
    """Add what perturbations stand for: vectors, heads, adapters or factors; a bank's entries, or a linear mixture of them."""

    perturbations: Perturbations
    window: Window
    condition: Condition | None

    @property
    def first_block(self) -> int:
        """The first block that is changed; a vector is added after it."""
        return min(change.place.block for change in self.perturbations.changes)

    def __len__(self) -> int:
        """R."""
        return len(self.perturbations)

    def rows(self, index: slice | Sequence[int]) -> "Addition":
        """Return those that `index` names."""
        return replace(self, perturbations=self.perturbations.rows(index))

    def repeated(self, copies: int) -> "Addition":
        """Return each of them `copies` times in a row."""
        return replace(self, perturbations=self.perturbations.repeated(copies))

    def edits(self, loaded: LoadedModel) -> Iterator[Edited]:
        """Yield one change a place."""
        for change in self.perturbations.mapped(lambda tensor: tensor.to(loaded.device)).changes:
            yield Edited(loaded.anatomy.module(change.place), False, partial(_onto, change))


def _onto(change: Change, inputs: Tensor | None, output: Tensor) -> Tensor:
    return change.onto(output, inputs, shared=False)


def added(perturbations: Perturbations) -> Addition:
    """Return the addition of perturbations where they were learned to act."""
    return Addition(perturbations, Window(-perturbations.last, None) if perturbations.last else EVERYWHERE, None)


@dataclass(frozen=True)
class Ablation:
    """Take directions out of the residual stream, and out of all that is written to it: x - sum_k (x r_k) r_k.

    Source: directional ablation (Arditi et al., 2024): at the input of the first block, at every attention and MLP output
    projection, and after every block.
    """

    directions: Tensor
    """[R, k, D], orthonormal within a row."""
    window: Window
    condition: Condition | None
    first_block: int = field(default=0, init=False)

    def __len__(self) -> int:
        """R."""
        return len(self.directions)

    def rows(self, index: slice | Sequence[int]) -> "Ablation":
        """Return those that `index` names."""
        return replace(self, directions=self.directions[index])

    def repeated(self, copies: int) -> "Ablation":
        """Return each of them `copies` times in a row."""
        return replace(self, directions=self.directions.repeat_interleave(copies, dim=0))

    def edits(self, loaded: LoadedModel) -> Iterator[Edited]:
        """Yield a change of every module that writes to the residual stream."""
        directions = self.directions.to(loaded.device)

        def without(_inputs: Tensor | None, residual: Tensor) -> Tensor:
            return residual - within(residual, directions).to(residual.dtype)

        blocks = loaded.anatomy.blocks
        yield Edited(blocks[0], True, without)
        for number, block in enumerate(blocks):
            for site in (Site.attention, Site.mlp):
                if (writer := loaded.anatomy.writer(Place(number, site))) is not None:
                    yield Edited(writer.projection, False, without)
            yield Edited(block, False, without)


def within(residual: Tensor, directions: Tensor) -> Tensor:
    """Return the part of a residual stream [R, T, D] that lies in the span of orthonormal directions [R, k, D], in float32."""
    return (residual.to(directions) @ directions.mT) @ directions


@dataclass(frozen=True)
class Rotation:
    """Turn the residual stream after a block towards a direction, its norm kept; never beyond that direction."""

    layer: int
    directions: Tensor
    """[R, D] of norm one."""
    degrees: Tensor
    """[R]; below 0 turns away."""
    window: Window
    condition: Condition | None

    @property
    def first_block(self) -> int:
        """The block after which it turns."""
        return self.layer

    def __len__(self) -> int:
        """R."""
        return len(self.directions)

    def rows(self, index: slice | Sequence[int]) -> "Rotation":
        """Return those that `index` names."""
        return replace(self, directions=self.directions[index], degrees=self.degrees[index])

    def repeated(self, copies: int) -> "Rotation":
        """Return each of them `copies` times in a row."""
        directions, degrees = (tensor.repeat_interleave(copies, dim=0) for tensor in (self.directions, self.degrees))
        return replace(self, directions=directions, degrees=degrees)

    def edits(self, loaded: LoadedModel) -> Iterator[Edited]:
        """Yield the one change."""
        directions, degrees = self.directions.to(loaded.device)[:, None], self.degrees.to(loaded.device)[:, None]

        def turned(_inputs: Tensor | None, residual: Tensor) -> Tensor:
            x = residual.to(directions)
            size = x.norm(dim=-1, keepdim=True)
            along = x / size.clamp(min=1e-12)
            near = (directions * along).sum(dim=-1, keepdim=True)
            beside = directions - near * along
            distance = beside.norm(dim=-1, keepdim=True)
            apart = torch.atan2(distance, near)
            # Away from a direction one can go as far as its opposite.
            angle = degrees.deg2rad()[..., None].clamp(min=apart - torch.pi, max=apart)
            # On the direction, or against it, no plane is given to turn in but by rounding, and x stays as it is.
            angle = torch.where(distance > 100 * torch.finfo(x.dtype).eps, angle, 0)
            # A second time, as what is left beside may be so little that rounding leaves it no right angle.
            across = unit(beside - (beside * along).sum(dim=-1, keepdim=True) * along)
            # What is added, rather than what comes out: an angle of 0 then adds 0 and changes no bit.
            added = size * ((angle.cos() - 1) * along + angle.sin() * across)
            return residual + added.to(residual.dtype)

        yield Edited(loaded.anatomy.blocks[self.layer], False, turned)


class Course:
    """How far into R texts the model is: which positions a pass computes, counted from the end of each row's prompt.

    It begins with a pass over the end of every prompt and what is known to be said after it, and lasts over those that follow.
    """

    def __init__(self, said: Tensor) -> None:
        """Take how many positions of each row come after its prompt in that first pass, [R] where the model lies."""
        self._said, self._past, self._end = said, 0, torch.zeros_like(said)
        self.open: dict[int, Tensor] = {}
        """[R, T] per intervention with a condition (by its place in the list): where the condition holds in this pass."""
        self.held: dict[int, Tensor] = {}
        """[R, 1] per intervention whose condition is held: whether it was met at the end of the prompt."""

    def keep(self, rows: Tensor) -> None:
        """Go on with those rows alone that `rows` [R] says are to stay."""
        self._said, self._end = self._said[rows], self._end[rows]
        self.held = {number: held[rows] for number, held in self.held.items()}

    def begin(self, _module: nn.Module, _inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Note what the pass that begins has behind it."""
        cache = named.get("past_key_values")
        self._past = cache.get_seq_length() if cache is not None else 0

    def offsets(self, length: int) -> Tensor:
        """Return [R, length], 0 where something is said for the first time."""
        if length > 1 or self._past == 0:
            # Not a step of generation, which reads one token: the pass ends with the prompt, and what is known to be said.
            self._end = self._past + length - self._said
        return self._past + torch.arange(length, device=self._end.device) - self._end[:, None]


@contextmanager
def intervened(
    loaded: LoadedModel, interventions: Sequence[Intervention], said: Sequence[int] | None
) -> Iterator[list[HookCount]]:
    """While open, the model is intervened with, row i of a batch by entry i of each; yields one count of calls a change.

    At one module interventions act in their order; contexts may be nested, and the inner ones act later.

    Args:
        loaded: the model.
        interventions: each with one entry a row; none of them for a model that is left alone.
        said: how many positions of each row come after its prompt in a pass over several; None where all end with it.

    Raises:
        ValueError: a forward pass has another number of rows than there are entries.
        UsageError: a condition looks at a layer that comes after what waits for it.
    """
    if not interventions:
        yield []
        return
    course = Course(torch.tensor(said if said is not None else [0] * len(interventions[0]), device=loaded.device))
    with intervened_on(loaded, interventions, course) as counts:
        yield counts


@contextmanager
def intervened_on(loaded: LoadedModel, interventions: Sequence[Intervention], course: Course) -> Iterator[list[HookCount]]:
    """As `intervened`, on a course that may have begun in another such context, and may go on in a later one with fewer rows."""
    decoder = loaded.model.get_decoder() or loaded.model
    with ExitStack() as stack:
        stack.callback(decoder.register_forward_pre_hook(course.begin, with_kwargs=True).remove)
        for number, intervention in enumerate(interventions):
            if intervention.condition is not None:
                stack.enter_context(_gate(loaded, course, number, intervention))
        counts = []
        for number, intervention in enumerate(interventions):
            for change in intervention.edits(loaded):
                edit = partial(_edited, course, number, intervention, change.edit)
                context = edited_input if change.at_input else edited_output
                counts.append(stack.enter_context(context(change.module, edit)))
        yield counts


def _edited(course: Course, number: int, intervention: Intervention, edit: Edit, inputs: Tensor | None, output: Tensor) -> Tensor:
    if output.dim() == 2:
        # An expert that all tokens share is given them without their rows.
        rows = (len(intervention), -1)
        given = inputs if inputs is None else inputs.unflatten(0, rows)
        return _edited(course, number, intervention, edit, given, output.unflatten(0, rows)).flatten(0, 1)
    _check_rows(intervention, output)
    changed, (start, end) = edit(inputs, output), intervention.window
    if (start, end) == EVERYWHERE and intervention.condition is None:
        return changed
    offsets = course.offsets(output.shape[1])
    acting = torch.ones_like(offsets, dtype=torch.bool)
    if start is not None:
        acting &= offsets >= start
    if end is not None:
        acting &= offsets < end
    if intervention.condition is not None:
        acting &= course.open[number]
    return torch.where(acting[..., None], changed, output)


def _check_rows(intervention: Intervention, output: Tensor) -> None:
    if len(output) != len(intervention):
        raise ValueError(
            f"{len(intervention)} perturbations met a batch of {len(output)} rows; every row needs a perturbation of its own"
        )


@contextmanager
def _gate(loaded: LoadedModel, course: Course, number: int, intervention: Intervention) -> Iterator[None]:
    """While open, every pass notes where the condition of an intervention holds, before that acts."""
    condition = intervention.condition
    assert condition is not None
    if condition.layer > intervention.first_block or (
        condition.layer == intervention.first_block and not _after_its_block(intervention)
    ):
        raise UsageError(
            f"The condition looks at the residual stream after block {condition.layer}, which comes after what waits for it "
            f"(block {intervention.first_block}); look at an earlier layer."
        )
    direction = unit(condition.direction[None].to(loaded.device))[0]

    def look(residual: Tensor) -> None:
        _check_rows(intervention, residual)
        alike = torch.nn.functional.cosine_similarity(residual.to(direction), direction, dim=-1) >= condition.threshold
        if condition.held:
            # The column of each row's last prompt token; in a step of generation it lies behind.
            place = (course.offsets(residual.shape[1]) == -1).float()
            if place.any():
                course.held[number] = (alike & place.bool()).any(dim=1, keepdim=True)
            alike = course.held[number].expand(alike.shape)
        course.open[number] = alike

    with watched_output(loaded.anatomy.blocks[condition.layer], look):
        yield


def _after_its_block(intervention: Intervention) -> bool:
    """Return whether what is changed in the first block is its output, so that a look at that output still comes before."""
    if isinstance(intervention, Addition):
        block = intervention.first_block
        return all(c.place.block > block or c.place.site is Site.residual for c in intervention.perturbations.changes)
    return isinstance(intervention, Rotation)


def orthonormal_rows(directions: Tensor) -> Tensor:
    """Return [k, D] orthonormal directions with the span of `directions` [k, D].

    Raises:
        UsageError: one of them is zero, not finite, or lies in the span of the others.
    """
    basis, triangle = torch.linalg.qr(unit(directions.double()).T)
    # More of them than dimensions leave a triangle without their diagonal entries.
    dependent = len(directions) > len(triangle) or (triangle.diagonal().abs() < 1e-6).any()
    if dependent or not torch.isfinite(triangle).all():
        raise UsageError("Directions to ablate must be finite, not zero, and none a mixture of the others; leave one out.")
    return basis.T.float()
