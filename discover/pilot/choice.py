"""The pilot: find what radius every arm can bear, hear a few vectors of each, and let the best arms share the bank."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from discover.bank import VectorBank
from discover.config import Config
from discover.inputs import Ground
from discover.perturb.sphere import seed_of
from discover.pilot.arms import Arm
from discover.pilot.trial import Listener, counted, share_of, texts_of, yields
from discover.read.novelty import ordinary_of
from discover.read.signals import Completion
from discover.read.trials import Trial
from discover.search.learning import learn, random_bank

SCOUTS = 4
"""Vectors that look for the radius of an arm."""
START = 0.25
"""Relative radius at which they are learned: they then speak at every radius of GRID."""
GRID = (0.008, 0.012, 0.018, 0.027, 0.04, 0.06, 0.09, 0.13, 0.19, 0.27, 0.4, 0.6, 0.9, 1.3, 2.0)
"""Relative radii, half as large again each. Usable were 0.012 to 0.03 on Gemma 3 270M, whose residual stream has a few huge
dimensions, 0.09 to 0.4 on SmolLM2, 0.6 to 1.3 on `arithmetic`."""
BEARABLE = 0.25
"""Share of degenerate or empty replies up to which a radius is borne."""
QUIET = 0.5
"""Share of unchanged replies from which a radius is too small, if it is borne well."""
HEARD = 2
"""Prompts that the vectors of a trial speak to: two show whether a reply carries over."""
STEP = 1.3
"""Factor by which a radius is mended after the trial."""
LEAST = 0.125
"""Share of the bank that every kept arm has at least."""


def listened(config: Config, arms: Sequence[Arm], prompts: int) -> int:
    """Return how many replies a pilot listens to if no arm is tried twice, for its progress bar."""
    places = len({(arm.search.source_layer, arm.search.perturbation) for arm in arms})
    return places * SCOUTS * len(GRID) + tried(config, arms, prompts)


def tried(config: Config, arms: Sequence[Arm], prompts: int) -> int:
    """Return how many replies are listened to where every arm is tried once."""
    return len(arms) * (config.pilot.vectors + _by_chance(config)) * min(HEARD, prompts)


def _by_chance(config: Config) -> int:
    """Return how many random vectors stand beside the learned ones of a trial."""
    return max(1, config.pilot.vectors // 2)


def pilot(
    config: Config,
    arms: Sequence[Arm],
    grounds: Sequence[Ground],
    choose: bool,
    listener: Listener,
) -> tuple[Trial, ...]:
    """Return what each arm is worth, the radius it can bear, and how many vectors of the bank it is given.

    Args:
        config: of the run.
        arms: the portfolio, or the searches that were asked for by hand.
        grounds: what each of them stands on.
        choose: whether only the best arms share the bank; else every arm keeps the vectors it has.
        listener: the model on the run's prompts; the user's come first.
    """
    some, borne = listener.first(HEARD), _borne(config, grounds, listener)
    heard = _tried(config, grounds, borne, some)
    # Scouts learn at one radius and speak at others; where that misled, an arm is tried once more at the radius it can bear.
    again = [place for place, one in enumerate(heard) if _broken(one.learned) > BEARABLE]
    for place, one in zip(
        again, _tried(config, [grounds[place] for place in again], [heard[place].mended for place in again], some), strict=True
    ):
        heard[place] = one
    unsteered = [one.text for one in chain(some.reference.replies, *some.reference.samples)]
    worths = yields([one.learned for one in heard], ordinary_of([*unsteered, *texts_of([one.null for one in heard])]))
    shares = _shares(config.search.vectors, worths, config.pilot.kept) if choose else [arm.search.vectors for arm in arms]
    return tuple(
        Trial(
            name=arm.name,
            source_layer=ground.layers[0],
            target_layer=ground.layers[1],
            rounds=arm.search.chosen_rounds,
            learned_from=tuple(ground.search.learned_from),
            reply_positions=arm.search.reply_positions,
            relative_radius=one.radius,
            kept_radius=one.mended,
            learned=counted(one.learned),
            null=counted(one.null),
            worth=worth,
            vectors=vectors,
        )
        for arm, ground, one, worth, vectors in zip(arms, grounds, heard, worths, shares, strict=True)
    )


@dataclass(frozen=True)
class _Heard:
    """What one arm said at a radius."""

    radius: float
    """Relative."""
    learned: Sequence[Completion]
    null: Sequence[Completion]

    @property
    def mended(self) -> float:
        """The radius after this: smaller the more replies broke, larger where most stayed as they were."""
        return _mended(self.radius, self.learned)


def _tried(config: Config, grounds: Sequence[Ground], radii: Sequence[float], listener: Listener) -> list[_Heard]:
    """Return what a few learned vectors and as many random ones say in each of some arms, at a radius each."""
    if not grounds:
        return []
    size, seed = config.pilot.vectors, seed_of("pilot", "null", config.seed)
    banks = [_learned(ground, size, radius, config.seed, "trial") for ground, radius in zip(grounds, radii, strict=True)]
    nulls = [random_bank(bank, [ground.space], _by_chance(config), seed) for bank, ground in zip(banks, grounds, strict=True)]
    said = listener.hear([*banks, *nulls])
    return [_Heard(*one) for one in zip(radii, said[: len(grounds)], said[len(grounds) :], strict=True)]


def kept_grounds(arms: Sequence[Arm], grounds: Sequence[Ground], trials: Sequence[Trial]) -> list[Ground]:
    """Return what the bank is learned from: the arms that were given vectors, at their radii; all as given without a pilot."""
    if not trials:
        return list(grounds)
    return [
        replace(
            ground,
            search=replace(arm.search, vectors=trial.vectors, relative_radius=trial.kept_radius),
            space=ground.space.sized(trial.vectors),
        )
        for arm, ground, trial in zip(arms, grounds, trials, strict=True)
        if trial.vectors
    ]


def _learned(ground: Ground, count: int, relative_radius: float, seed: int, name: str) -> VectorBank:
    """Return a small bank of one arm at a radius."""
    search = replace(ground.search, vectors=count, relative_radius=relative_radius)
    # Other draws than the bank's, so that what the pilot heard is no part of what is counted.
    seed = seed_of("pilot", name, seed)
    return learn(
        search, ground.part, ground.space.sized(count), ground.reply_tokens, ground.layers, seed, {}, lambda _: None
    ).bank


def _borne(config: Config, grounds: Sequence[Ground], listener: Listener) -> list[float]:
    """Return for every arm the largest radius of GRID up to which its vectors' replies are not degenerate.

    Arms that act after the same block, or add the same kind there, share the scouts of the first of them.
    """
    scouts = {place: _learned(ground, SCOUTS, START, config.seed, "scout") for place, ground in scouted(grounds).items()}
    turned = [bank.void(bank.perturbations.scaled(radius / START), 0) for bank in scouts.values() for radius in GRID]
    heard = listener.first(1).hear(turned)
    borne = {
        place: _largest([_broken(said) for said in heard[number * len(GRID) : (number + 1) * len(GRID)]])
        for number, place in enumerate(scouts)
    }
    return [borne[_place(ground)] for ground in grounds]


def scouted(grounds: Sequence[Ground]) -> dict[tuple[int, str, int], Ground]:
    """Return by place what the scouts are learned from: the first arm that acts there."""
    return {_place(ground): ground for ground in reversed(grounds)}


def _place(ground: Ground) -> tuple[int, str, int]:
    return (ground.layers[0], ground.search.perturbation.value, ground.search.steered_positions)


def _largest(broken: Sequence[float]) -> float:
    """Return the largest radius before the first at which too many replies are broken."""
    first = next((place for place, share in enumerate(broken) if share > BEARABLE), len(broken))
    return GRID[max(0, first - 1)]


def _broken(heard: Sequence[Completion]) -> float:
    return share_of("degenerate", heard) + share_of("empty", heard)


def _mended(radius: float, heard: Sequence[Completion]) -> float:
    """Return the radius after the trial: smaller the more replies broke, larger where most stayed as they were."""
    broken = _broken(heard)
    if broken > BEARABLE:
        # A step for every quarter of the replies that broke.
        return radius / STEP ** int(broken / BEARABLE)
    if broken < BEARABLE / 2 and share_of("unchanged", heard) > QUIET:
        return radius * STEP
    return radius


def _shares(vectors: int, worths: Sequence[float], kept: int) -> list[int]:
    """Return how many of N vectors every arm is given: the best few in proportion to their worth, the others none."""
    best = sorted(range(len(worths)), key=lambda arm: -worths[arm])[: min(kept, vectors)]
    total = sum(worths[arm] for arm in best)
    # Of many kept arms not every one can have that much.
    least = min(LEAST, 1 / len(best))
    weights = {arm: least + (1 - least * len(best)) * (worths[arm] / total if total else 1 / len(best)) for arm in best}
    given = {arm: int(weight * vectors) for arm, weight in weights.items()}
    # What rounding leaves goes to the best.
    given[best[0]] += vectors - sum(given.values())
    for arm in best:
        if not given[arm]:
            # Of a small bank the least share is less than one vector.
            given[max(best, key=given.__getitem__)] -= 1
            given[arm] = 1
    return [given.get(arm, 0) for arm in range(len(worths))]
