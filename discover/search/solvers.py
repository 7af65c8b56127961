"""The loops that learn vectors; each is a plain function from unit directions to better ones."""

from collections.abc import Callable

import torch
from torch import Tensor

from discover.perturb.sphere import orthonormalised, random_directions, tangent, unit
from discover.search.effects import unclaimed_norm
from discover.search.readings import Aim, Readings

Progress = Callable[[int, Tensor], None]
"""Called after every round with its number and the objective [N] of the directions that the round began with."""

WAVES = 4
"""Waves of a deflated search; each begins where the earlier ones' effects are claimed."""
KINSHIP = 0.5
"""Cosine between two effects from which a wave counts them as one."""
BETAS = (0.9, 0.98)
"""Decay of both moments of the ascent's AMSGrad, as published."""


def fixed_point(
    aim: Aim, directions: Tensor, radius: float, rounds: int, orthogonal: bool, read: Readings, progress: Progress
) -> Tensor:
    """Iterate V <- normalise(gradient of the objective at R V); no step size.

    Source: the orthogonalised gradient iteration of Mack & Turner, 2024. With the norm of the mean effect as objective
    its gradient is that of <U, effect> for U = normalise(effect), so the two half steps of the paper are one here.

    Args:
        aim: the norm of some effect.
        directions: [N, D] unit directions to begin with.
        radius: norm of the vectors, in residual units.
        rounds: how often to iterate.
        orthogonal: whether every round begins with Gram-Schmidt; the last round's directions stay as they come.
        read: where each vector's effect is read.
        progress: told of every round.
    """
    for number in range(rounds):
        if orthogonal:
            # At the beginning of a round and not at its end: the last round's directions are each the best of their own kind.
            directions = orthonormalised(directions)
        values, gradients = read.gradients(aim, radius * directions)
        directions = unit(gradients)
        progress(number, values)
    return directions


def deflated(directions: Tensor, radius: float, rounds: int, read: Readings, progress: Progress) -> Tensor:
    """Iterate in four waves; a wave maximises only what lies outside the effects that earlier waves have claimed.

    Effects of a wave that point the same way are claimed as their mean.
    """
    claimed = torch.zeros(0, read.readers[0].last * directions.shape[1])
    found: list[Tensor] = []
    for number, wave in enumerate(directions.chunk(WAVES)):
        moved = fixed_point(_unclaimed(claimed), wave, radius, rounds, False, read, _later(progress, number * rounds))
        found.append(moved)
        claimed = _basis(torch.cat([claimed, group_means(unit(read.mean_effects(radius * moved)), KINSHIP)]))
    return torch.cat(found)


def _unclaimed(claimed: Tensor) -> Aim:
    return lambda reader: unclaimed_norm(reader, claimed.to(reader.slice.source.device))


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


def ascent(
    aim: Aim,
    directions: Tensor,
    radius: float,
    steps: int,
    angle: float,
    orthogonal: bool,
    read: Readings,
    progress: Progress,
) -> Tensor:
    """Climb the objective on the sphere of `radius` with AMSGrad, as MELBO does, all vectors at once.

    The step is an angle, so that one default serves every radius and width: Adam moves a vector by about
    learning rate * sqrt(D), hence learning rate = angle * R / sqrt(D).

    Args:
        aim: what to maximise.
        directions: [N, D] unit directions to begin with.
        radius: norm of the vectors, in residual units.
        steps: how many steps.
        angle: size of a step in radians.
        orthogonal: whether vector i is held orthogonal to all before it, as published.
        read: where each vector's effect is read.
        progress: told of every step.
    """
    rate = angle * radius / directions.shape[1] ** 0.5
    vectors = radius * (orthonormalised(directions) if orthogonal else directions)
    first, second, largest = (torch.zeros_like(vectors) for _ in range(3))
    for number in range(steps):
        values, gradients = read.gradients(aim, vectors)
        # The radial part is undone by the projection below, but would swell Adam's second moment.
        gradients = tangent(gradients, vectors / radius)
        first = BETAS[0] * first + (1 - BETAS[0]) * gradients
        second = BETAS[1] * second + (1 - BETAS[1]) * gradients.square()
        largest = torch.maximum(largest, second)
        size = (largest / (1 - BETAS[1] ** (number + 1))).sqrt() + 1e-8
        moved = vectors + rate * first / (1 - BETAS[0] ** (number + 1)) / size
        vectors = radius * (orthonormalised(moved) if orthogonal else unit(moved))
        progress(number, values)
    return unit(vectors)


def starting_directions(count: int, width: int, seed: int) -> Tensor:
    """Return the random unit directions [count, width] that every solver begins with."""
    return random_directions(count, width, "start", seed)
