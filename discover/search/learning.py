"""From a slice and options to a frozen bank."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from discover.bank import VectorBank
from discover.config import Calibration, Diversity, SearchConfig, Solver
from discover.model.slice import ModelSlice
from discover.search.chunks import Chunks, chunks
from discover.search.effects import EffectReader, mean_norm, melbo
from discover.search.radius import calibrated_radius, departure, turn
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
    config: SearchConfig, part: ModelSlice, layers: tuple[int, int], seed: int, origin: dict[str, Any], tick: Callable[[], None]
) -> Search:
    """Learn a bank of vectors through a slice.

    Args:
        config: solver, diversity, radius and what is maximised.
        part: the slice between `layers`.
        layers: source and target layer.
        seed: of the starting directions.
        origin: provenance that the bank carries.
        tick: called after every round.

    Raises:
        UsageError: a radius cannot be found, more orthogonal vectors than dimensions, or memory for not even one.
    """
    pieces = chunks(part, config.chunk)
    reader = EffectReader(part, config.positions + config.reply_positions if config.positions else 0, config.normalised)
    radius = _radius(config, reader, pieces, seed)
    curve: list[dict[str, Any]] = []

    def progress(number: int, values: Tensor) -> None:
        curve.append(
            {"round": number, "mean": float(values.mean()), "least": float(values.min()), "greatest": float(values.max())}
        )
        tick()

    directions = starting_directions(config.vectors, part.width, seed)
    orthogonal = config.diversity is Diversity.orthogonal
    objective = melbo(reader, config.power, config.q) if config.solver is Solver.ascent else mean_norm(reader)
    match config.solver, config.diversity:
        case Solver.random, _:
            pass
        case Solver.ascent, _:
            steps, angle = config.steps, config.angular_step
            directions = ascent(objective, directions, radius, steps, angle, orthogonal, pieces, progress)
        case _, Diversity.deflation:
            directions = deflated(reader, directions, radius, config.rounds, pieces, progress)
        case _:
            directions = fixed_point(objective, directions, radius, config.rounds, orthogonal, pieces, progress)
    with torch.no_grad():
        reached = pieces.over(objective, radius * directions)
    bank = VectorBank(
        directions=directions,
        objective=reached,
        radius=radius,
        residual_norm=part.residual_norm,
        source_layer=layers[0],
        target_layer=layers[1],
        origin={**origin, "solver": config.solver.value, "seed": seed},
    )
    return Search(bank, curve)


def _radius(config: SearchConfig, reader: EffectReader, pieces: Chunks, seed: int) -> float:
    if config.radius is not None:
        return config.radius
    if config.relative_radius is not None:
        return config.relative_radius * reader.slice.residual_norm
    norm = reader.slice.residual_norm
    match config.calibration:
        case Calibration.turn:
            return calibrated_radius(turn(reader, pieces, seed), norm, config.turn, f"search.turn={config.turn}")
        case Calibration.departure:
            measure = departure(reader, pieces, seed)
            return calibrated_radius(measure, norm, config.departure, f"search.departure={config.departure}")
