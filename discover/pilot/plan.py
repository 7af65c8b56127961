"""What a run is about to do: its prompts as tokens, its ways to learn, and how many of everything."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from discover.choices import Solver
from discover.config import Config
from discover.inputs import Ground, grounded, openings
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch
from discover.pilot.arms import Arm, by_speech, is_open, portfolio
from discover.search.atlas import Atlas
from discover.steer.generation import Reply

NULLS = 2
"""Random vectors for every learned one, where no number is given."""
LEADS = 4
"""Vectors for every lead that is followed, where no number is given."""


@dataclass(frozen=True)
class Plan:
    """A run before its first stage."""

    config: Config
    loaded: LoadedModel
    batch: PromptBatch
    """The user's prompts."""
    every: PromptBatch
    """These, and the neutral ones behind them: all that vectors speak to."""
    begun: Sequence[Reply]
    """The beginning of the unsteered reply to each of them."""
    arms: Sequence[Arm]
    """The pilot's portfolio, or the searches that were asked for by hand."""
    grounds: Sequence[Ground]
    """What each of them stands on."""

    @property
    def piloted(self) -> bool:
        """Whether a pilot tries the arms before the bank is learned."""
        return all(by_speech(arm.search) for arm in self.arms)


def planned(config: Config, loaded: LoadedModel, batch: PromptBatch, every: PromptBatch, charted: Atlas | None) -> Plan:
    """Return the plan of a run.

    Args:
        config: of the run.
        loaded: the model.
        batch: the user's prompts.
        every: all that vectors speak to.
        charted: every pair of layers, where that chooses.

    Raises:
        UsageError: the layers do not fit the model, or it lacks a part that is to be changed.
    """
    arms = _arms(config, loaded, batch, every)
    begun = openings([arm.search for arm in arms], loaded, every, config.speech.rows)
    grounds = [grounded(arm.search, loaded, every, begun, charted) for arm in arms]
    return Plan(config, loaded, batch, every, begun, arms, grounds)


def learned_vectors(config: Config) -> int:
    """Return how many vectors the bank will hold."""
    return config.search.vectors * (2 if config.search.both_signs else 1)


def null_vectors(config: Config) -> int:
    """Return how many random vectors stand beside the bank."""
    return config.audit.null_vectors or NULLS * learned_vectors(config)


def samples(config: Config) -> int:
    """Return how many replies are drawn from the unsteered model for every prompt."""
    return max(config.audit.samples or config.search.vectors, config.speech.samples)


def leads_followed(config: Config) -> int:
    """Return how many tokens that vectors boost are followed."""
    return -(-learned_vectors(config) // LEADS) if config.speech.followed is None else config.speech.followed


def _arms(config: Config, loaded: LoadedModel, batch: PromptBatch, every: PromptBatch) -> list[Arm]:
    """Return the pilot's portfolio, or the searches that were asked for by hand; what names no prompts learns from the user's."""
    own, count = list(range(len(batch.prompts))), len(every.prompts)
    if is_open(config.search):
        arms = portfolio(config.search, len(loaded.anatomy.blocks), own, range(len(own), count))
        # There are no more singular vectors than dimensions.
        wide = config.search.vectors <= loaded.anatomy.width
        return [arm for arm in arms if wide or arm.search.solver is not Solver.power]
    beside = own if count > len(own) else []
    return [
        Arm(f"as given, {number}" if number else "as given", replace(share, learned_from=share.learned_from or beside))
        for number, share in enumerate(config.search.shares)
    ]
