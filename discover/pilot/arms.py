"""The portfolio: ways to learn that the pilot tries, each a search with its own layers, rounds, reading and prompts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from discover.choices import Calibration, Diversity, Kind, Layers, Solver
from discover.config import SearchConfig

EARLY, MIDDLE, LATE = (1 / 8, 1 / 2), (1 / 4, 3 / 5), (3 / 8, 3 / 4)
"""Source and target layer, as shares of the number of blocks."""
MANY = 10
"""Rounds of the arms that optimise further."""
SINGULAR = 5
"""Rounds of the arm that takes singular vectors of the Jacobian; each costs about three of the others."""


@dataclass(frozen=True)
class Arm:
    """One way to learn."""

    name: str
    search: SearchConfig
    """With layers and prompts given; the radius is open unless it was given by hand."""


def is_open(search: SearchConfig) -> bool:
    """Return whether the pilot chooses among arms: nothing was asked for that they differ in but rounds and reading."""
    by_hand = (search.source_layer, search.target_layer, search.radius, search.relative_radius)
    return (
        search.layers is Layers.pilot
        and search.calibration is Calibration.speech
        and not search.mixture
        and not search.learned_from
        and all(value is None for value in by_hand)
        and search.perturbation in (Kind.vector, Kind.bias)
        and search.solver is Solver.fixed_point
        and search.diversity is Diversity.none
        and not search.both_signs
    )


def by_speech(search: SearchConfig) -> bool:
    """Return whether the radius of a search is chosen by listening: it is open, and what is learned are vectors.

    Low-rank changes and the solvers of many steps, which would make a pilot as dear as the run, keep the angle of random
    directions.
    """
    given = search.radius is not None or search.relative_radius is not None
    quick = search.solver in (Solver.fixed_point, Solver.power, Solver.random)
    return search.calibration is Calibration.speech and not given and quick and search.perturbation in (Kind.vector, Kind.bias)


def portfolio(search: SearchConfig, blocks: int, prompts: Sequence[int], neutral: Sequence[int]) -> list[Arm]:
    """Return the arms for a model of so many blocks; what the user gave by hand holds in every one of them.

    The arms differ in where they start from what two organisms of other training and a real model needed: no choice of
    layers, rounds or place found anything on two of them.

    Args:
        search: the options of the run, `is_open`.
        blocks: L.
        prompts: numbers of the user's prompts.
        neutral: numbers of the bundled prompts; none leaves their arms out.
    """
    by_hand = search.span or search.reply_positions != SearchConfig.reply_positions
    found = []
    for name, shares in (("early", EARLY), ("middle", MIDDLE), ("late", LATE)):
        source = min(round(shares[0] * blocks), max(0, blocks - 2))
        target = max(source + 1, min(round(shares[1] * blocks), blocks - 1))
        base = replace(search, source_layer=source, target_layer=target, learned_from=list(prompts))
        found.append(Arm(name, base))
        if not by_hand:
            found.append(Arm(f"{name}, prompt's end", replace(base, reply_positions=0, rounds=search.rounds or MANY)))
        if neutral:
            # Half of the bundled prompts are enough to learn from; the others then tell whether a reply carries over.
            some = [*prompts, *neutral[: max(1, len(neutral) // 2)]]
            found.append(Arm(f"{name}, more prompts", replace(base, learned_from=some)))
    if search.rounds is None and search.settled == SearchConfig.settled and search.prompts is SearchConfig.prompts:
        # Another solver, where others begin: what is largest for a small step, and not at the radius. It has no use for these.
        first = found[0].search
        found.append(Arm("early, singular vectors", replace(first, solver=Solver.power, rounds=SINGULAR)))
    return distinct(found)


def distinct(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms without those that are the same search as an earlier one, as in a model of few blocks."""
    found: list[Arm] = []
    for arm in arms:
        if all(arm.search != other.search for other in found):
            found.append(arm)
    return found
