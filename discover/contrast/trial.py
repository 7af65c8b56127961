"""What a chosen direction does on examples that nothing was learned or chosen from, beside the model left alone."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from discover.choices import Method
from discover.contrast.measures import Measure, Spoken
from discover.contrast.outcomes import ADDED, TIMES, UNSTEERED, Outcome, Steering, Yardstick, left_alone
from discover.contrast.refusal import ablation_of
from discover.contrast.sets import texts
from discover.contrast.study import WINDOWS, Ground, Learned, difference_at, judged, neutral_replies
from discover.errors import UsageError
from discover.model.change import Perturbations
from discover.model.prompts import conversation_tokens, encoded, left_padded
from discover.statistics import Share, share
from discover.steer.evaluation import Damage, refuses
from discover.steer.generation import replies
from discover.steer.interventions import Addition, Intervention
from discover.steer.orthogonal import orthogonalised
from discover.storage import read_json, write_json


def tried(ground: Ground, found: Learned) -> list[Outcome]:
    """Return what the chosen direction does on the test examples: at every multiplier, and by the method's other ways."""
    config, window = ground.config.contrast, WINDOWS[ground.config.contrast.where]
    yard = _yardstick(ground, found)
    rows = [yard.outcome(UNSTEERED, None, left_alone, None)]
    chosen = found.bank.perturbations.rows([0])

    def adding(perturbations: Perturbations, multiplier: float) -> Steering:
        return lambda rows: [Addition(perturbations.scaled(multiplier).repeated(rows), window, None)]

    if config.method is Method.refusal:
        rows += _without(ground, found, yard)
    for multiplier in sorted({*config.multipliers, 1.0}):
        rows.append(yard.outcome(ADDED.get(multiplier, TIMES), multiplier, adding(chosen, multiplier), None))
    if config.method is Method.heads:
        for place in range(1, len(found.bank)):
            rows.append(yard.outcome(f"head {place} alone", 1.0, adding(found.bank.perturbations.rows([place]), 1.0), None))
        best, layer = found.scores.best_layer, difference_at(ground, found.scores.best_layer)
        told = f"difference in means after block {best.layer}"
        rows.append(yard.outcome(told, best.multiplier, adding(layer, 1.0), None))
    spoken = all(isinstance(one, Spoken) for one in yard.measures)
    # Likelihoods are read, not said: there is no reply to go on from.
    if spoken and ground.loaded.tokenizer.chat_template is not None and ground.form.chat is not False:
        for what, steering in ((UNSTEERED, left_alone), (ADDED[1.0], adding(chosen, 1.0))):
            rows.append(second_turn(ground, yard, steering).outcome(f"{what}, in a second turn", None, steering, None))
    return rows


def second_turn(ground: Ground, yard: Yardstick, steering: Steering) -> Yardstick:
    """Return a yardstick whose every prompt comes second in a conversation: after the one before it, and the reply to that."""
    found: list[Measure] = []
    for one in yard.measures:
        if isinstance(one, Spoken):
            prompts, said = one.batch.prompts, one.said(ground.loaded, steering(len(one.wanted)), 1)
            turns = [(prompts[place - 1], said[place - 1], prompt) for place, prompt in enumerate(prompts)]
            tokenizer, form = ground.loaded.tokenizer, ground.form
            rows = [conversation_tokens(turn, tokenizer, form) for turn in turns]
            found.append(replace(one, batch=left_padded(prompts, rows, tokenizer.pad_token_id)))
    return replace(yard, measures=tuple(found), neutral=([], []))


def _without(ground: Ground, found: Learned, yard: Yardstick) -> list[Outcome]:
    """Return what ablation does, and the same by weights where the model allows it."""
    vector = found.bank.vectors[0]
    ablating: Steering = lambda rows: [ablation_of(vector, rows)]  # noqa: E731 - a name for what is used thrice.
    rows = [yard.outcome("ablated", None, ablating, None)]
    said = _spoken(yard, ablating)
    try:
        with orthogonalised(ground.loaded, vector[None] / vector.norm()):
            same = [one == other for one, other in zip(said, _spoken(yard, left_alone), strict=True)]
            row = yard.outcome("weights orthogonalised", None, left_alone, share(sum(same), len(same)))
            # Its own damage would compare these weights with themselves.
            rows.append(replace(row, damage=None))
    except UsageError:
        # A family whose norms come after its projections has no such weights; its row is missing from the table.
        pass
    return rows


def _spoken(yard: Yardstick, steering: Steering) -> list[tuple[int, ...]]:
    """Return the tokens of every reply that the measures read."""
    found: list[tuple[int, ...]] = []
    for one in yard.measures:
        if isinstance(one, Spoken):
            said = replies(yard.loaded, one.batch, steering(len(one.wanted)), one.tokens, one.rows, lambda _: None)
            found += [reply.tokens for reply in said]
    return found


def _yardstick(ground: Ground, found: Learned) -> Yardstick:
    test, speech, form = ground.parts[2], ground.config.speech, ground.form
    if ground.config.contrast.method is Method.refusal:
        sides = {"positive prompts refused": test.positive, "negative prompts refused": test.negative}
        batches = {name: texts(ground.loaded, side, form) for name, side in sides.items()}
        judges: tuple[Measure, ...] = tuple(
            Spoken(name, batch, [refuses] * len(batch.prompts), speech.tokens, speech.rows) for name, batch in batches.items()
        )
    else:
        judges = (judged(ground, test),)
    return Yardstick(ground.loaded, judges, found.scores.openings, neutral_replies(ground, 1))


def freely(ground: Ground, found: Learned, prompts: Sequence[str]) -> list[dict[str, str]]:
    """Return what is said freely to some prompts, unsteered and under what was chosen."""
    if not prompts:
        return []
    batch = encoded(prompts, ground.loaded.tokenizer, ground.form)
    speech, window = ground.config.speech, WINDOWS[ground.config.contrast.where]
    steering: list[Intervention] = [Addition(found.bank.perturbations.rows([0]).repeated(len(prompts)), window, None)]
    sides = [replies(ground.loaded, batch, way, speech.tokens, speech.rows, lambda _: None) for way in ((), steering)]
    return [
        {"prompt": prompt, "unsteered": plain.text, "steered": steered.text}
        for prompt, plain, steered in zip(prompts, *sides, strict=True)
    ]


def save_outcomes(path: Path, found: Sequence[Outcome]) -> None:
    """Write the rows of the table as JSON."""
    write_json(path, [asdict(one) for one in found])


def load_outcomes(path: Path) -> list[Outcome]:
    """Read what `save_outcomes` wrote."""
    return [
        Outcome(
            one["what"],
            one["multiplier"],
            {name: Share(**value) for name, value in one["shares"].items()},
            one["log_odds"],
            one["damage"] and Damage(**one["damage"]),
            one["agrees"] and Share(**one["agrees"]),
            one["said"],
        )
        for one in read_json(path)
    ]
