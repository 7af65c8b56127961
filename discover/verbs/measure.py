"""What `discover steer --questions` prints: the same questions put to the model left alone and to the model steered."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from discover.audit.uses import Questions, answers, read_questions
from discover.config import PromptConfig
from discover.contrast.outcomes import neutral_ground
from discover.model.loading import LoadedModel
from discover.model.prompts import encoded
from discover.statistics import Share, share
from discover.steer.evaluation import damage, refuses, surprises
from discover.steer.generation import replies
from discover.steer.interventions import Intervention

ROWS = 128
"""Replies generated at once."""


def measured(
    loaded: LoadedModel,
    changed: LoadedModel,
    reweighed: bool,
    interventions: Sequence[Intervention],
    file: Path,
    form: PromptConfig,
    tokens: int,
    label: str,
) -> str:
    """Return a table of right answers, refusals and damage, unsteered and steered.

    Args:
        loaded: the model left alone.
        changed: the model that is steered.
        reweighed: whether its weights are others.
        interventions: each with one entry.
        file: questions as JSON lines, each with its answer.
        form: chat template and system message.
        tokens: longest reply.
        label: what is done to the model.

    Raises:
        UsageError: the questions cannot be read.
    """
    asked = read_questions(file)
    batch = encoded(asked.prompts, loaded.tokenizer, form)

    def each(rows: int) -> list[Intervention]:
        return [one.repeated(rows) for one in interventions]

    own = replies(loaded, batch, (), tokens, ROWS, lambda _: None)
    steered = replies(changed, batch, each(len(asked.prompts)), tokens, ROWS, lambda _: None)
    ground = neutral_ground(loaded, batch, own)
    # Questions that are met with silence leave no reply to read.
    steering, told = each(len(ground[0])), "not scored: the unsteered model says nothing"
    if ground[0] and reweighed:
        # Against the model with its own weights: both are read, one after the other.
        cost = _mean(surprises(changed, *ground, steering)) - _mean(surprises(loaded, *ground, ()))
        told = f"{cost:.2g} nats a token"
    elif ground[0]:
        spent = damage(loaded, *ground, steering)
        told = f"{spent.cost:.2g} nats a token, KL {spent.kl:.2g}"
    rows = [
        f"{len(asked.prompts)} questions of {file.name}",
        _row("unsteered", asked, [reply.text for reply in own]),
        _row(f"steered: {label}", asked, [reply.text for reply in steered]),
        f"damage to the unsteered replies: {told}",
    ]
    return "\n".join(rows) + "\n"


def _row(name: str, asked: Questions, said: Sequence[str]) -> str:
    right: Share = share(sum(map(answers, said, asked.answers)), len(said))
    refused = share(sum(map(refuses, said)), len(said))
    return f"{name:24} right {right!s:22} refused {refused}"


def _mean(losses: Sequence[Sequence[float]]) -> float:
    return mean(loss for row in losses for loss in row)
