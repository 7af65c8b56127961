"""From a slice and options to a frozen bank."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from discover.bank import VectorBank
from discover.choices import Calibration, Diversity, Kind, Layers, Prompts, Solver, Target
from discover.config import SearchConfig
from discover.model.change import joined
from discover.model.slice import ModelSlice
from discover.perturb.spaces import Space, drawn
from discover.perturb.sphere import seed_of
from discover.search.atlas import Atlas
from discover.search.chunks import chunks
from discover.search.effects import mean_norm, melbo, norm_sum
from discover.search.radius import calibrated_radius, departure, turn
from discover.search.readings import Aim, Readings, readers
from discover.search.solvers import (
    Apart,
    Free,
    Progress,
    Softly,
    ascent,
    cpe,
    deflated,
    fixed_point,
    one_by_one,
    orthogonal,
    power,
    unbound,
    unhindered,
)
from discover.storage import read_json_lines, write_json_lines


@dataclass(frozen=True)
class Search:
    """What a search returns."""

    bank: VectorBank
    curve: list[dict[str, Any]]
    """Per round its number and the mean, least and greatest objective over the vectors; of a mixture per way and round."""


def way_seed(seed: int, number: int) -> int:
    """Return the seed of one way of a mixture: two ways that are the same otherwise begin elsewhere."""
    return seed_of("way", seed, number) if number else seed


def together(searches: Sequence[Search]) -> Search:
    """Return the search of a mixture; its curve says of every round which way it belongs to. Of one alone that search."""
    if len(searches) == 1:
        return searches[0]
    curve = [{"way": number, **entry} for number, one in enumerate(searches) for entry in one.curve]
    # That of the run, from which all others follow.
    seed = searches[0].bank.origin["seed"]
    banks = [replace(one.bank, origin={**one.bank.origin, "seed": seed}) for one in searches]
    return Search(VectorBank.together(banks), curve)


CURVE = "metrics.jsonl"
"""File of the curve, beside the bank."""


def save_search(path: Path, search: Search) -> None:
    """Write the curve beside `path`, then the bank to `path`: where there is a bank, both are whole."""
    write_json_lines(path.with_name(CURVE), search.curve)
    search.bank.save(path)


def load_search(path: Path) -> Search:
    """Read what `save_search` wrote."""
    return Search(VectorBank.load(path), read_json_lines(path.with_name(CURVE)))


def chosen_layers(config: SearchConfig, blocks: int, charted: Atlas | None) -> tuple[int, int]:
    """Return the source and target layer: as configured, else by the atlas, else by depth.

    Logits are read after the last block, whatever chooses.
    """
    target = blocks - 1 if config.target is Target.logits and config.target_layer is None else config.target_layer
    reach = config.band if config.perturbation is Kind.factor else 1
    if config.layers is Layers.auto and charted is not None:
        best = charted.best(config.source_layer, target)
    else:
        best = (3 * blocks // 8, 5 * blocks // 8) if config.layers is Layers.middle else (blocks // 8, blocks // 2)
    source = best[0] if config.source_layer is None else config.source_layer
    return source, max(source + reach, best[1]) if target is None else target


def gradients_of(config: SearchConfig) -> int:
    """Return how many gradients a search takes if no perturbation settles early, for its progress bar."""
    match config.solver:
        case Solver.random:
            passes = 0
        case Solver.ascent:
            passes = config.steps
        case Solver.power:
            # The last round ends with what the Jacobian makes of its directions, without a way back.
            passes = config.chosen_rounds - 1
        case Solver.cpe:
            passes = config.chosen_rounds + 1
        case Solver.fixed_point:
            passes = config.chosen_rounds
    return passes * config.vectors


def learn(
    config: SearchConfig,
    part: ModelSlice,
    space: Space,
    reply_tokens: int,
    layers: tuple[int, int],
    seed: int,
    origin: dict[str, Any],
    tick: Callable[[int], None],
) -> Search:
    """Learn a bank of perturbations through a slice.

    Args:
        config: solver, diversity, radius and what is maximised.
        part: the slice between `layers`.
        space: what is learned.
        reply_tokens: how many tokens of the unsteered reply the slice ends with.
        layers: source and target layer.
        seed: of the starting directions.
        origin: provenance that the bank carries.
        tick: told how many gradients are done, piece by piece.

    Raises:
        UsageError: a radius cannot be found, more orthogonal vectors than dimensions, or memory for not even one.
    """
    read = Readings(space, 1.0, readers(part, reply_tokens, config), chunks(part, config.chunk))
    read = replace(read, radius=_radius(config, read, part.residual_norm, seed))
    curve: list[dict[str, Any]] = []

    def progress(number: int, values: Tensor) -> None:
        curve.append(
            {"round": number, "mean": float(values.mean()), "least": float(values.min()), "greatest": float(values.max())}
        )

    read.chunks.tick = tick
    aim = _aim(config)
    directions = _learned(config, aim, drawn(space, config.vectors, "start", seed), seed, read, progress)
    reached = read.each(aim, directions)
    found = replace(space.perturbations(directions, read.radius), last=config.steered_positions)
    if config.both_signs:
        other = replace(read, radius=-read.radius)
        found, reached = joined(found, found.scaled(-1.0)), torch.cat([reached, other.each(aim, directions)])
    bank = VectorBank(
        perturbations=found,
        objective=reached,
        radius=read.radius,
        residual_norm=part.residual_norm,
        source_layer=layers[0],
        target_layer=layers[1],
        origin={
            **origin,
            "perturbation": config.perturbation.value,
            "solver": config.solver.value,
            "rounds": config.chosen_rounds,
            "target": config.target.value,
            "seed": seed,
            "learned_from": list(config.learned_from),
            "span": list(config.span),
            "reply_tokens": 0 if config.span else reply_tokens,
        },
    )
    return Search(bank, curve)


def random_bank(bank: VectorBank, spaces: Sequence[Space], count: int, seed: int) -> VectorBank:
    """Return so many random perturbations of the same space, at the radius of `bank`; of a mixture, of every way its share.

    A share is rounded up, so that each has one at least.

    Args:
        bank: what was learned.
        spaces: per way that of its perturbations.
        count: how many are drawn.
        seed: of the draws.
    """
    found = []
    for number, (way, space) in enumerate(zip(bank.ways, spaces, strict=True)):
        size = -(-count * len(way) // len(bank))
        # Another name than the search's start: a null that shared its draws would be what the search began with.
        directions = drawn(space, size, "null", way_seed(seed, number))
        found.append(way.void(space.sized(size).perturbations(directions, way.radius), seed))
    return VectorBank.together(found)


def _aim(config: SearchConfig) -> Aim:
    if config.solver is Solver.ascent:
        return partial(melbo, power=config.power, q=config.q)
    return norm_sum if config.prompts is Prompts.sum else mean_norm


def _learned(config: SearchConfig, aim: Aim, directions: Tensor, seed: int, read: Readings, progress: Progress) -> Tensor:
    """Return what the solver makes of `directions` [N, P]."""

    def learner(directions: Tensor, rows: Tensor, apart: Apart, free: Free, progress: Progress) -> Tensor:
        if config.solver is Solver.fixed_point:
            return fixed_point(aim, directions, rows, config.chosen_rounds, config.settled, apart, read, progress)
        return ascent(
            aim,
            directions,
            rows,
            config.steps,
            config.angular_step,
            config.learning_rate,
            config.settled,
            apart,
            free,
            read,
            progress,
        )

    every = torch.arange(len(directions))
    apart: Apart = unbound
    if config.diversity is Diversity.orthogonal:
        apart = orthogonal
    elif config.diversity is Diversity.soft:
        apart = Softly(read.space, config.similarity, config.temperature)
    match config.solver, config.diversity:
        case Solver.random, _:
            return directions
        case Solver.power, _:
            return power(directions, config.chosen_rounds, read, progress)
        case Solver.cpe, _:
            return cpe(directions, config.chosen_rounds, seed, apart, read, progress)
        case _, Diversity.deflation:
            return deflated(directions, config.chosen_rounds, config.settled, read, progress)
        case _, Diversity.sequential:
            return one_by_one(
                learner, directions, config.steps if config.solver is Solver.ascent else config.chosen_rounds, progress
            )
    return learner(directions, every, apart, unhindered, progress)


def _radius(config: SearchConfig, read: Readings, norm: float, seed: int) -> float:
    """Return the radius asked for, or the one that random directions calibrate, read at the end of the prompt."""
    if config.radius is not None:
        return config.radius
    if config.relative_radius is not None:
        return config.relative_radius * norm
    match config.calibration:
        # Without a pilot nobody has listened: the angle is what can be had from activations alone.
        case Calibration.turn | Calibration.speech:
            return calibrated_radius(turn(read, seed), norm, config.turn, f"search.turn={config.turn}")
        case Calibration.departure:
            return calibrated_radius(departure(read, seed), norm, config.departure, f"search.departure={config.departure}")
