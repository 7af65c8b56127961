"""The methods that are compared: a name and a search's options, and what such a search costs."""

from dataclasses import dataclass, replace

from discover.choices import Calibration, Diversity, Kind, Similarity, Solver
from discover.config import SearchConfig
from discover.errors import UsageError

FIRST_TOKEN = "first_token"
RANDOM = "random"
CURVES = {
    "fixed_point": (1, 2, 4, 8),
    "fixed_point_soft": (2, 4, 8),
    "ascent": (4, 10, 30, 100),
    "ascent_raw": (4, 10, 30, 100),
    "power": (4, 9),
    "factor": (2, 4, 8),
    "adapter_soft": (2, 4, 8),
    "cpe_factor_soft_update": (3, 5, 9),
}
"""Main methods, and the budgets in vector-steps a vector at which they are tried besides."""
ARC = 3.0
"""Radians that an ascent may go in all."""
LONGEST_STEP = 0.3
"""Radians of its longest step: a few long ones where the budget is small, instead of a walk that ends where it began."""
ANGLE = 1e-3 * 2048**0.5 / 4
"""Radians a step that MELBO's rate comes to at its published radius and width: Adam moves each of D coordinates by the rate."""
DIFFERENCES = {
    "melbo_published": "rate, steps, places of reading and projections as published; layers and radius are the tool's, where "
    "the original has them by hand (radii of 0.35 to 7 in residual streams far smaller than this one).",
    "melbo_published_angle": "the same, but the step is the angle that the rate is at the published radius of 4 and width of "
    "2048, as a rate in residual units goes nowhere in a residual stream of another scale.",
    "dct_published": "rounds, orthogonality and calibration as published; positions stand side by side, where the original "
    "averages them, and layers are the tool's.",
    "cpe_published": "rounds, radius, temperature and likeness as coded; positions stand side by side, where the original "
    "averages them, and the band and its layers are the tool's.",
}
"""What differs from the original in each of the searches at published settings."""


@dataclass(frozen=True)
class Method:
    """One way to look for what a model hides."""

    name: str
    search: SearchConfig
    """Its options; those of the first-token baseline say only how many tokens are forced."""

    @property
    def passes(self) -> float:
        """Vector-steps a vector."""
        return 0.0 if self.name == FIRST_TOKEN else vector_steps(self.search)


def vector_steps(search: SearchConfig) -> float:
    """Return what a search costs a vector, the calibration of its radius aside.

    One is a pass forward and back of one perturbation through the slice. A pass forward alone counts a half, and so does every
    way back: the weights are frozen, so that it costs a linear map no more than the way forward.
    """
    match search.solver, search.diversity:
        case Solver.random, _:
            return 0.0
        case Solver.ascent, _:
            return float(search.steps)
        case Solver.power, _:
            # A product with the Jacobian is one way forward and two back; that with its transpose is left out of the last round.
            return 2.5 * search.chosen_rounds - 1.0
        case Solver.cpe, _:
            # One more than it has rounds: the first perturbations are gradients at random directions.
            return search.chosen_rounds + 1.0
        case _, Diversity.deflation:
            # After each wave its effects are read forward.
            return search.chosen_rounds + 0.5
    return float(search.chosen_rounds)


def methods(vectors: int, budget: int) -> dict[str, Method]:
    """Return every method by name, each with `budget` vector-steps a vector or the most below that it can take.

    Where a method cannot take as few, it takes the fewest that it can.
    """
    plain = SearchConfig(vectors=vectors, rounds=budget)
    ascent = replace(plain, solver=Solver.ascent, steps=budget, angular_step=min(LONGEST_STEP, ARC / budget))
    cpe = replace(plain, solver=Solver.cpe, rounds=max(1, budget - 1))
    factors = replace(cpe, perturbation=Kind.factor)
    searches = {
        "fixed_point": plain,
        "fixed_point_orthogonal": replace(plain, diversity=Diversity.orthogonal),
        "fixed_point_soft": replace(plain, diversity=Diversity.soft),
        "fixed_point_deflation": replace(plain, diversity=Diversity.deflation, rounds=max(1, budget - 1)),
        # The published ways to choose a radius: departure from linearity (deep causal transcoding), and Power Steering's share.
        "fixed_point_departure": replace(plain, calibration=Calibration.departure),
        "fixed_point_0.35_norms": replace(plain, relative_radius=0.35),
        "ascent": ascent,
        "ascent_raw": replace(ascent, normalised=False),
        "power": replace(plain, solver=Solver.power, rounds=max(1, int((budget + 1) / 2.5))),
        "cpe": cpe,
        "cpe_factor": factors,
        # On single vectors, the three kinds of likeness are one.
        **{
            f"cpe_factor_soft_{likeness.value}": replace(factors, diversity=Diversity.soft, similarity=likeness)
            for likeness in Similarity
        },
        "adapter": replace(plain, perturbation=Kind.adapter),
        "adapter_soft": replace(plain, perturbation=Kind.adapter, diversity=Diversity.soft),
        "factor": replace(plain, perturbation=Kind.factor),
        "head": replace(plain, perturbation=Kind.head),
        "bias": replace(plain, perturbation=Kind.bias),
        RANDOM: replace(plain, solver=Solver.random),
        FIRST_TOKEN: replace(plain, solver=Solver.random),
    }
    return {name: Method(name, search) for name, search in searches.items()}


def published(vectors: int) -> dict[str, Method]:
    """Return the searches at their published settings, by name, whatever these cost.

    Sources: MELBO as coded for its backdoored models (Mack & Turner, 2024) in the default 300 steps; the exponential variant
    of deep causal transcoding (Mack & Turner, 2024); CPE as coded for one prompt (Mack, Panickssery and Turner, 2026).
    """
    plain = SearchConfig(vectors=vectors, positions=3, reply_positions=0, normalised=False)
    melbo = replace(plain, solver=Solver.ascent, diversity=Diversity.sequential, steps=300)
    searches = {
        "melbo_published": replace(melbo, learning_rate=1e-3),
        "melbo_published_angle": replace(melbo, angular_step=ANGLE),
        "dct_published": replace(plain, diversity=Diversity.orthogonal, calibration=Calibration.departure, rounds=10),
        "cpe_published": replace(
            plain,
            perturbation=Kind.factor,
            solver=Solver.cpe,
            rounds=30,
            diversity=Diversity.soft,
            similarity=Similarity.weights,
            temperature=1.0,
            weighed=True,
            radius=1.0,
        ),
    }
    return {name: Method(name, search) for name, search in searches.items()}


def chosen(names: list[str], vectors: int, budget: int) -> list[Method]:
    """Return the named methods; where none is named, all that keep to the budget.

    Raises:
        UsageError: there is no such method.
    """
    budgeted = methods(vectors, budget)
    known = {**budgeted, **published(vectors)}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"There is no method {unknown[0]!r} to compare; there are {', '.join(known)}.")
    return [known[name] for name in names or budgeted]


def curves(names: list[str], vectors: int) -> list[Method]:
    """Return the main methods among those named (all, where none is named), each at several budgets."""
    return [
        methods(vectors, budget)[name] for name, budgets in CURVES.items() if not names or name in names for budget in budgets
    ]
