"""The loops that learn; each is a plain function from directions to better ones."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from discover.choices import Similarity
from discover.perturb.spaces import Space, held, tangent
from discover.perturb.sphere import orthonormalised, random_directions, refuse_beyond_width, unit
from discover.search.effects import unclaimed_norm
from discover.search.readings import Aim, Readings

Progress = Callable[[int, Tensor], None]
"""Called after every round with its number and the objective [N] of the directions that the round began with."""
Apart = Callable[[Tensor, Tensor], Tensor]
"""Directions [N, P] and how strongly each is pulled [N] -> directions that keep apart."""
Free = Callable[[Tensor, Tensor], Tensor]
"""Gradients [M, P] of the rows that move, and all directions [N, P] -> the part of the gradients that may be climbed."""

WAVES = 4
"""Waves of a deflated search; each begins where the earlier ones' effects are claimed."""
KINSHIP = 0.5
"""Cosine between two effects from which a wave counts them as one."""
BETAS = (0.9, 0.98)
"""Decay of both moments of the ascent's AMSGrad, as published."""
PATIENCE = 10
"""Steps of the ascent over which its gain is measured."""
PUSHES = 10
"""Iterations of soft diversity in a round, as published."""
NOTHING = 1e-3
"""Part of a direction below which a push would leave nothing but rounding of it, and is not made."""


def unbound(directions: Tensor, _strengths: Tensor) -> Tensor:
    """Return the directions as they are."""
    return directions


def unhindered(gradients: Tensor, _directions: Tensor) -> Tensor:
    """Return the gradients as they are."""
    return gradients


def orthogonal(directions: Tensor, _strengths: Tensor) -> Tensor:
    """Return the Gram-Schmidt basis of the directions, in their order."""
    return orthonormalised(directions)


@dataclass(frozen=True)
class Softly:
    """Push each direction off those that it resembles, the strongly pulled ones weighing more.

    Source: the soft orthogonalisation of CPE (Mack, Panickssery and Turner, 2026): ten times over, v_i <- normalise(v_i -
    sum_j W_ij v_j), W the softmax over j of likeness_ij / temperature + log strength_j. Two departures: a direction of
    which nothing would be left stays as it is, and for likeness of updates a push goes half as far.
    """

    space: Space
    similarity: Similarity
    temperature: float

    def __call__(self, directions: Tensor, strengths: Tensor) -> Tensor:
        """Return directions [N, P] that keep apart."""
        if len(directions) < 2:
            return directions
        by_update = self.similarity is Similarity.update
        normalised = unit if self.similarity is Similarity.weights else partial(held, self.space)
        # Ten pushes magnify rounding a thousandfold: in float64 the order of the rows, which their sums are taken in, is lost
        # in what they are rounded to.
        pushing, weight = normalised(directions.double()), torch.log(strengths.double() + 1e-8)
        for _ in range(PUSHES):
            likeness = self.space.likeness(pushing) if by_update else pushing @ pushing.T
            weights = (likeness / self.temperature + weight).fill_diagonal_(-torch.inf).softmax(dim=1)
            # A whole push turns two copies into opposites, which are copies again where signs cancel.
            pushed = 0.5 * self.space.pulled(weights, pushing) if by_update else weights @ pushing
            pushing = _left(pushing, pushed, normalised)
        return held(self.space, pushing).to(directions)


def _left(directions: Tensor, pushed: Tensor, normalised: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what is left of directions [N, P] without `pushed`, normalised; those of which nothing is left as they were."""
    rest = directions - pushed
    enough = rest.norm(dim=1, keepdim=True) > NOTHING * directions.norm(dim=1, keepdim=True)
    return torch.where(enough, normalised(rest), directions)


def fixed_point(
    aim: Aim, directions: Tensor, rows: Tensor, rounds: int, settled: float, apart: Apart, read: Readings, progress: Progress
) -> Tensor:
    """Iterate V <- normalise(gradient of the objective at V); no step size.

    Source: the orthogonalised gradient iteration of Mack & Turner, 2024. With the norm of the mean effect as objective
    its gradient is that of <U, effect> for U = normalise(effect), so the two half steps of the paper are one here.

    Args:
        aim: the norm of some effect.
        directions: [N, P] to begin with.
        rows: which of them move.
        rounds: how often to iterate.
        settled: relative gain of the objective below which a row moves no more; 0 for never.
        apart: applied at the beginning of every round and not at its end: the last round's are each the best of their own kind.
        read: what is learned, its radius, and where each row's effect is read.
        progress: told of every round.
    """
    values, strengths = torch.full((len(directions),), torch.nan), torch.ones(len(directions))
    for number in range(rounds):
        directions = directions.index_copy(0, rows, apart(directions, strengths)[rows])
        reached, gradients = read.gradients(aim, directions, rows)
        moving = _still_gaining(reached, values[rows], settled)
        values[rows] = reached
        progress(number, values[rows])
        rows, gradients = rows[moving], gradients[moving]
        if not len(rows):
            break
        strengths[rows] = gradients.norm(dim=1)
        directions = directions.index_copy(0, rows, held(read.space, gradients))
    return directions


def _still_gaining(reached: Tensor, before: Tensor, settled: float) -> Tensor:
    """Return [M]: whether each value has gained enough; always where gains are not asked for, or nothing came before."""
    if settled == 0:
        return torch.ones(len(reached), dtype=torch.bool)
    return ~((reached - before) / before.abs() < settled)


def ascent(
    aim: Aim,
    directions: Tensor,
    rows: Tensor,
    steps: int,
    angle: float,
    rate: float | None,
    settled: float,
    apart: Apart,
    free: Free,
    read: Readings,
    progress: Progress,
) -> Tensor:
    """Climb the objective at a held norm with AMSGrad, as MELBO does, all rows at once.

    The step is an angle, so that one default serves every radius and width: Adam moves a unit vector by about
    learning rate * sqrt(D), hence learning rate = angle / sqrt(D). As published it is a rate in residual units instead.

    Args:
        aim: what to maximise.
        directions: [N, P] to begin with.
        rows: which of them move.
        steps: how many steps.
        angle: size of a step in radians.
        rate: learning rate in residual units, as published; None to go by the angle.
        settled: relative gain of the objective over ten steps below which a row moves no more; 0 for never.
        apart: applied at the beginning and after every step.
        free: applied to every gradient.
        read: what is learned, its radius, and where each row's effect is read.
        progress: told of every step.
    """
    strengths = torch.ones(len(directions))
    lengths = torch.tensor([length for length in read.space.lengths for _ in range(length)])
    pace = angle / lengths.sqrt() if rate is None else torch.full(lengths.shape, rate / read.radius)
    directions = directions.index_copy(0, rows, apart(directions, strengths)[rows])
    first, second, largest = (torch.zeros_like(directions) for _ in range(3))
    before = torch.full((len(directions),), torch.nan)
    for number in range(steps):
        reached, slopes = read.gradients(aim, directions, rows)
        progress(number, reached)
        if number % PATIENCE == 0:
            moving = _still_gaining(reached, before[rows], settled)
            before[rows] = reached
            rows, slopes = rows[moving], slopes[moving]
            if not len(rows):
                break
        # In residual units, as the published moments are; and without the radial part, which is undone by the norm that
        # is held but would swell the second moment.
        slopes = tangent(read.space, free(slopes / read.radius, directions), directions[rows])
        first[rows] = BETAS[0] * first[rows] + (1 - BETAS[0]) * slopes
        second[rows] = BETAS[1] * second[rows] + (1 - BETAS[1]) * slopes.square()
        largest[rows] = torch.maximum(largest[rows], second[rows])
        size = (largest[rows] / (1 - BETAS[1] ** (number + 1))).sqrt() + 1e-8
        moved = directions[rows] + pace * first[rows] / (1 - BETAS[0] ** (number + 1)) / size
        directions = directions.index_copy(0, rows, held(read.space, moved))
        strengths[rows] = slopes.norm(dim=1)
        directions = directions.index_copy(0, rows, apart(directions, strengths)[rows])
    return directions


def one_by_one(
    learner: Callable[[Tensor, Tensor, Apart, Free, Progress], Tensor], directions: Tensor, rounds: int, progress: Progress
) -> Tensor:
    """Learn row after row, each held orthogonal to all before it, as MELBO was published.

    Args:
        learner: directions, rows, what keeps them apart and what frees gradients, and progress -> directions.
        directions: [N, P] to begin with.
        rounds: of the learner, for the progress.
        progress: told of every round of every row.

    Raises:
        UsageError: N > D, which no orthogonal set can have.
    """
    refuse_beyond_width(*directions.shape)
    for row in range(len(directions)):

        def free(vectors: Tensor, current: Tensor, row: int = row) -> Tensor:
            return vectors - (vectors @ current[:row].T) @ current[:row]

        def against(current: Tensor, _strengths: Tensor, row: int = row, free: Free = free) -> Tensor:
            return current.index_copy(0, torch.tensor([row]), unit(free(current[row, None], current)))

        directions = learner(directions, torch.tensor([row]), against, free, _later(progress, row * rounds))
        # A fixed point ends with a gradient that nothing has been taken from.
        directions = against(directions, torch.ones(len(directions)))
    return directions


def deflated(directions: Tensor, rounds: int, settled: float, read: Readings, progress: Progress) -> Tensor:
    """Iterate in four waves; a wave maximises only what lies outside the effects that earlier waves have claimed.

    Effects of a wave that point the same way are claimed as their mean, at each place of reading by itself: what is done at
    the prompt's end says nothing of what the same direction means in the reply.
    """
    claimed = [torch.zeros(0, reader.size) for reader in read.readers]
    for number, wave in enumerate(torch.arange(len(directions)).chunk(WAVES)):
        later = _later(progress, number * rounds)
        directions = fixed_point(_unclaimed(read, claimed), directions, wave, rounds, settled, unbound, read, later)
        effects = unit(read.mean_effects(directions, wave))
        for place in range(len(claimed)):
            own = effects[torch.isin(wave, read.rows_of(place, len(directions)))]
            if len(own):
                claimed[place] = _basis(torch.cat([claimed[place], group_means(own, KINSHIP)]))
    return directions


def _unclaimed(read: Readings, claimed: list[Tensor]) -> Aim:
    # Readers hold tensors, which have no equality to look them up by.
    places = {id(reader): basis for reader, basis in zip(read.readers, claimed, strict=True)}
    return lambda reader: unclaimed_norm(reader, places[id(reader)].to(reader.slice.source.device))


def _later(progress: Progress, rounds: int) -> Progress:
    """Return `progress` for a wave that begins after so many rounds."""
    return lambda number, values: progress(rounds + number, values)


def group_means(effects: Tensor, kinship: float) -> Tensor:
    """Return one unit mean [M, F] per group of unit effects [N, F]: each joins the first group whose founder it resembles."""
    founders: list[int] = []
    members: list[list[int]] = []
    for index, effect in enumerate(effects):
        cosines = [float(effect @ effects[founder]) for founder in founders]
        if cosines and max(cosines) >= kinship:
            members[cosines.index(max(cosines))].append(index)
        else:
            founders.append(index)
            members.append([index])
    return unit(torch.stack([effects[group].mean(dim=0) for group in members]))


def _basis(rows: Tensor) -> Tensor:
    """Return an orthonormal basis of the span of `rows` [M, F]; rows that add nothing to the span are left out."""
    _, sizes, basis = torch.linalg.svd(rows.double(), full_matrices=False)
    return basis[sizes > 1e-3 * sizes.max()].to(rows.dtype)


def power(directions: Tensor, rounds: int, read: Readings, progress: Progress) -> Tensor:
    """Return right singular vectors of the Jacobian of the mean effect at zero, those of largest singular value first.

    Subspace iteration with Rayleigh-Ritz, for each place of reading by itself. Source: the linear variant of deep causal
    transcoding (Mack & Turner, 2024) as its text has it, not its code; Power Steering, 2026.

    Args:
        directions: [N, D] to begin with.
        rounds: how often to iterate; the objective that is told of is the singular value.
        read: what is learned, and where each row's effect is read.
        progress: told of every round.

    Raises:
        UsageError: more vectors than dimensions are read at one place.
    """
    groups = [rows for number in range(len(read.readers)) if len(rows := read.rows_of(number, len(directions)))]
    at_zero, nowhere = replace(read, radius=1.0), torch.zeros_like(directions)
    for number in range(rounds):
        directions = _each(groups, directions, orthonormalised)
        written = read.slopes(directions)
        values, left = torch.zeros(len(directions)), torch.zeros_like(written)
        for rows in groups:
            turns, values[rows], left[rows] = _thin_svd(written[rows])
            directions = directions.index_copy(0, rows, turns.T @ directions[rows])
        progress(number, values)
        if number < rounds - 1:
            _, directions = at_zero.pulls(nowhere, left)
    return directions


def _each(groups: list[Tensor], directions: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    for rows in groups:
        directions = directions.index_copy(0, rows, function(directions[rows]))
    return directions


def _thin_svd(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U [N, N], singular values [N] and the right singular vectors [N, C] of `rows` [N, C], N <= C."""
    left, values, right = torch.linalg.svd(rows.double(), full_matrices=False)
    # A pair of singular vectors may be turned together; which way it comes out is rounding's choice, so one is made.
    largest = right.gather(1, right.abs().argmax(dim=1, keepdim=True))[:, 0]
    signs = torch.where(largest < 0, -1.0, 1.0).to(right)
    return (left * signs).to(rows.dtype), values.to(rows.dtype), (right * signs[:, None]).to(rows.dtype)


def cpe(directions: Tensor, rounds: int, seed: int, apart: Apart, read: Readings, progress: Progress) -> Tensor:
    """Iterate perturbations and the output directions that they are pulled towards, each from the other's last value.

    Source: CPE (Mack, Panickssery and Turner, 2026) as coded: U <- normalise(mean effect) and V <- normalise(gradient of
    <mean effect, U>) from one pass, then soft orthogonalisation. The first V is the gradient at random directions.

    Args:
        directions: [N, P] to begin with.
        rounds: how often to iterate.
        seed: of the first output directions.
        apart: applied after every round.
        read: what is learned, its radius, and where each row's effect is read.
        progress: told of every round; the objective is <mean effect, U>.
    """
    towards = random_directions(len(directions), read.readers[0].size, "towards", seed)
    for number in range(-1, rounds):
        effects, gradients = read.pulls(directions, towards)
        if number >= 0:
            progress(number, (effects * towards).sum(dim=1))
            towards = unit(effects)
            # Before the parts are held at norm one: as coded, those that are pulled more weigh more in what is pushed.
            gradients = apart(gradients, gradients.norm(dim=1))
        directions = held(read.space, gradients)
    return directions
