"""What an intervention does to behaviour, and what it costs: one row of a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from discover.contrast.measures import Measure, Spoken
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch
from discover.statistics import Share, share
from discover.steer.evaluation import Damage, damage, log_odds, next_log_probabilities
from discover.steer.generation import Reply
from discover.steer.interventions import Intervention

UNSTEERED = "unsteered"
ADDED = {1.0: "added", -1.0: "subtracted"}
"""What a multiplier of the chosen direction is called."""
TIMES = "added times"
"""And any other."""
Steering = Callable[[int], Sequence[Intervention]]
"""The number of rows of a batch -> the same interventions on each of them."""


def left_alone(_rows: int) -> Sequence[Intervention]:
    """Return no intervention."""
    return ()


@dataclass(frozen=True)
class Outcome:
    """How the model behaves under one intervention, on examples that nothing was learned or chosen from."""

    what: str
    """The intervention in words."""
    multiplier: float | None
    """Of the direction; None where nothing is multiplied."""
    shares: dict[str, Share]
    """Per question its share of prompts."""
    log_odds: dict[str, float]
    """Per question the mean log-odds of a first token that refuses; empty where refusals are not the matter."""
    damage: Damage | None
    """On unsteered replies to neutral prompts; None where there are none."""
    agrees: Share | None
    """Replies that are those of another intervention, token for token; None where none is compared."""
    said: dict[str, list[str]] = field(default_factory=dict)
    """Per question every reply that its share counts; empty where no reply was read."""

    @property
    def dose(self) -> float | None:
        """Multiplier of the chosen direction, 0 for the model left alone; None where something else was done."""
        if self.what == UNSTEERED:
            return 0.0
        return self.multiplier if self.what in (*ADDED.values(), TIMES) else None


@dataclass(frozen=True)
class Yardstick:
    """What every intervention of a study is measured by."""

    loaded: LoadedModel
    measures: tuple[Measure, ...]
    openings: tuple[int, ...]
    """First tokens of refusals, for the log-odds; none where refusals are not the matter."""
    neutral: tuple[list[list[int]], list[list[int]]]
    """Prompts and the model's own replies to them, as token ids."""

    def outcome(self, what: str, multiplier: float | None, steering: Steering, agrees: Share | None) -> Outcome:
        """Return the row of one intervention."""
        shares, odds, said = {}, {}, {}
        for measure in self.measures:
            rows = len(measure.batch.prompts)
            if isinstance(measure, Spoken):
                said[measure.name] = measure.said(self.loaded, steering(rows), 1)
                met = measure.met(said[measure.name])
            else:
                (met,) = measure.outcomes(self.loaded, steering(rows), 1)
            shares[measure.name] = share(sum(met), rows)
            if self.openings:
                following = next_log_probabilities(self.loaded, measure.batch, steering(rows))
                odds[measure.name] = float(log_odds(following, self.openings).mean())
        cost = damage(self.loaded, *self.neutral, steering(len(self.neutral[0]))) if self.neutral[0] else None
        return Outcome(what, multiplier, shares, odds, cost, agrees, said)


def neutral_ground(loaded: LoadedModel, batch: PromptBatch, said: Sequence[Reply]) -> tuple[list[list[int]], list[list[int]]]:
    """Return prompts and the replies to them as token ids, each with the token that ended it, for the measurement of damage."""
    prompts, answers = [], []
    for ids, mask, reply in zip(batch.input_ids, batch.attention_mask, said, strict=True):
        answer = [*reply.tokens, *(loaded.end_ids[:1] if reply.ended else ())]
        if answer:
            prompts.append(ids[mask.bool()].tolist())
            answers.append(answer)
    return prompts, answers
