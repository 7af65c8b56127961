"""From a slice and options to a frozen bank."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from discover.bank import VectorBank
from discover.config import Calibration, Diversity, SearchConfig, Solver
from discover.model.slice import ModelSlice
from discover.search.chunks import chunks
from discover.search.effects import mean_norm, melbo
from discover.search.radius import calibrated_radius, departure, turn
from discover.search.readings import Aim, Readings, readings
from discover.search.solvers import WAVES, ascent, deflated, fixed_point, starting_directions
from discover.storage import read_json_lines, write_json_lines


@dataclass(frozen=True)
class Search:
    """What a search returns."""

    bank: VectorBank
    curve: list[dict[str, Any]]
    """Per round its number and the mean, least and greatest objective over the vectors."""


CURVE = "metrics.jsonl"
"""File of the curve, beside the bank."""


def save_search(path: Path, search: Search) -> None:
    """Write the curve beside `path`, then the bank to `path`: where there is a bank, both are whole."""
    write_json_lines(path.with_name(CURVE), search.curve)
    search.bank.save(path)


def load_search(path: Path) -> Search:
    """Read what `save_search` wrote."""
    return Search(VectorBank.load(path), read_json_lines(path.with_name(CURVE)))


def default_layers(config: SearchConfig, blocks: int) -> tuple[int, int]:
    """Return the source and target layer: as configured, else an eighth and half of the number of blocks."""
    source = blocks // 8 if config.source_layer is None else config.source_layer
    target = max(source + 1, blocks // 2) if config.target_layer is None else config.target_layer
    return source, target


def rounds_of(config: SearchConfig) -> int:
    """Return how many rounds or steps a search takes, for its progress bar."""
    match config.solver:
        case Solver.ascent:
            return config.steps
        case Solver.random:
            return 0
        case Solver.fixed_point:
            return config.rounds * (WAVES if config.diversity is Diversity.deflation else 1)


def learn(
    config: SearchConfig,
    part: ModelSlice,
    reply_tokens: int,
    layers: tuple[int, int],
    seed: int,
    origin: dict[str, Any],
    tick: Callable[[], None],
) -> Search:
    """Learn a bank of vectors through a slice.

    Args:
        config: solver, diversity, radius and what is maximised.
        part: the slice between `layers`.
        reply_tokens: how many tokens of the unsteered reply it ends with.
        layers: source and target layer.
        seed: of the starting directions.
        origin: provenance that the bank carries.
        tick: called after every round.

    Raises:
        UsageError: a radius cannot be found, more orthogonal vectors than dimensions, or memory for not even one.
    """
    read = readings(part, reply_tokens, config, chunks(part, config.chunk))
    radius = _radius(config, read, seed)
    curve: list[dict[str, Any]] = []

    def progress(number: int, values: Tensor) -> None:
        curve.append(
            {"round": number, "mean": float(values.mean()), "least": float(values.min()), "greatest": float(values.max())}
        )
        tick()

    directions = starting_directions(config.vectors, part.width, seed)
    orthogonal = config.diversity is Diversity.orthogonal
    aim: Aim = partial(melbo, power=config.power, q=config.q) if config.solver is Solver.ascent else mean_norm
    match config.solver, config.diversity:
        case Solver.random, _:
            pass
        case Solver.ascent, _:
            directions = ascent(aim, directions, radius, config.steps, config.angular_step, orthogonal, read, progress)
        case _, Diversity.deflation:
            directions = deflated(directions, radius, config.rounds, read, progress)
        case _:
            directions = fixed_point(aim, directions, radius, config.rounds, orthogonal, read, progress)
    reached = read.values(aim, radius * directions)
    bank = VectorBank(
        directions=directions,
        objective=reached,
        radius=radius,
        residual_norm=part.residual_norm,
        source_layer=layers[0],
        target_layer=layers[1],
        origin={**origin, "solver": config.solver.value, "seed": seed, "reply_tokens": reply_tokens},
    )
    return Search(bank, curve)


def _radius(config: SearchConfig, read: Readings, seed: int) -> float:
    """Return the radius asked for, or the one that random directions calibrate, read at the end of the prompt."""
    reader = read.readers[0]
    norm = reader.slice.residual_norm
    if config.radius is not None:
        return config.radius
    if config.relative_radius is not None:
        return config.relative_radius * norm
    match config.calibration:
        case Calibration.turn:
            return calibrated_radius(turn(reader, read.chunks, seed), norm, config.turn, f"search.turn={config.turn}")
        case Calibration.departure:
            measure = departure(reader, read.chunks, seed)
            return calibrated_radius(measure, norm, config.departure, f"search.departure={config.departure}")
