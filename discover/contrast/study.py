"""One study: learn a direction from labelled examples, and choose where and how strongly it acts."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from discover.bank import VectorBank
from discover.choices import Method, Moment, Where
from discover.config import Config, PromptConfig
from discover.contrast.heads import (
    HeadDirections,
    HeadScore,
    best,
    best_first,
    head_directions,
    joint_scores,
    swept_heads,
    together,
)
from discover.contrast.means import mean_differences
from discover.contrast.measures import Measure, measure
from discover.contrast.outcomes import neutral_ground
from discover.contrast.refusal import (
    Candidate,
    candidates,
    openings,
    refused_and_answered,
    selected,
    unsteered,
)
from discover.contrast.sets import ContrastSet, before_the_choice, shared_ending, texts, without_completions
from discover.errors import UsageError
from discover.model.anatomy import Place, Site
from discover.model.change import Perturbations, biases
from discover.model.loading import LoadedModel
from discover.model.prompts import encoded
from discover.model.slice import residual_after
from discover.statistics import Share, share
from discover.steer.evaluation import damage
from discover.steer.generation import replies
from discover.steer.interventions import EVERYWHERE, PROMPT, SAID, Addition
from discover.storage import read_json, write_json

WINDOWS = {Where.everywhere: EVERYWHERE, Where.prompt: PROMPT, Where.said: SAID}
SCORES = "scores.json"
"""File of what was tried, beside the bank."""
Tick = Callable[[int], None]
Score = TypeVar("Score", "LayerScore", "HeadScore")


@dataclass(frozen=True)
class LayerScore:
    """How the model behaves when a layer's difference in means is added, on the selection examples."""

    layer: int
    moment: str
    """Where in the examples the difference was taken."""
    multiplier: float
    behaving: Share
    cost: float | None = None
    """Nats a token that it adds to neutral replies; measured where several act equally well."""


@dataclass(frozen=True)
class Scores:
    """Everything that was tried on the selection examples."""

    candidates: tuple[Candidate, ...]
    """Of a refusal direction."""
    layers: tuple[LayerScore, ...]
    """Of differences in means; of a refusal direction those of the chosen candidate."""
    heads: tuple[HeadScore, ...]
    """Single heads, each at every strength."""
    joint: tuple[HeadScore, ...]
    """The best heads together."""
    moment: str
    """Where in the examples the directions of heads were taken."""
    openings: tuple[int, ...]
    """First tokens of refusals."""

    @property
    def best_layer(self) -> LayerScore:
        """The layer and multiplier that act best; among equals those that cost least, then the weaker."""
        return max(self.layers, key=lambda one: (one.behaving.count, -(one.cost or 0.0), -one.multiplier, -one.layer))

    @property
    def best_heads(self) -> HeadScore:
        """The heads and the strength that act best."""
        return best([*self.heads, *self.joint])

    @property
    def best_candidate(self) -> Candidate:
        """The candidate that passes the filters with the least bypass score.

        Raises:
            UsageError: none passes.
        """
        return selected(self.candidates)


NOTHING = Scores((), (), (), (), Moment.end.value, ())


@dataclass(frozen=True)
class Learned:
    """A direction, or several, and how it was chosen."""

    bank: VectorBank
    """Entry 0 is what was chosen, at the strength that was chosen; of heads, entry i is the i-th of them alone."""
    scores: Scores


@dataclass(frozen=True)
class Ground:
    """What a study stands on."""

    loaded: LoadedModel
    parts: tuple[ContrastSet, ContrastSet, ContrastSet]
    """Examples to learn from, to choose by, and to measure on."""
    neutral: tuple[str, ...]
    config: Config

    @property
    def form(self) -> PromptConfig:
        """Chat template and system message."""
        return self.config.prompts


def learned(ground: Ground, tick: Tick) -> Learned:
    """Return the direction that the method of the config learns and chooses.

    Raises:
        UsageError: the examples do not hold what the method needs, or none of its candidates is what it looks for.
    """
    match ground.config.contrast.method:
        case Method.refusal:
            return _refusal(ground)
        case Method.heads:
            return _heads(ground, tick)
        case _:
            return _means(ground, tick)


def tries(ground: Ground) -> int:
    """Return how often `learned` calls `tick`, for its progress bar."""
    config, anatomy = ground.config.contrast, ground.loaded.anatomy
    layers = len(anatomy.blocks) - 1 if config.layer is None else 1
    match config.method:
        case Method.refusal:
            return 0
        case Method.heads:
            heads = ground.loaded.model.config.get_text_config(decoder=True).num_attention_heads
            single = heads * len(config.strengths) * sum(writer is not None for writer in anatomy.attentions)
            return len(moments(ground)) * (layers + single)
        case _:
            return len(moments(ground)) * layers


def _means(ground: Ground, tick: Tick) -> Learned:
    scores = replace(NOTHING, layers=_layer_scores(ground, tick))
    chosen = difference_at(ground, scores.best_layer)
    return Learned(_bank(ground, chosen, scores.best_layer.layer), scores)


def moments(ground: Ground) -> dict[str, ContrastSet]:
    """Return the training examples, cut where a direction is taken at their end: one set for each moment that is tried.

    Raises:
        UsageError: the moment asked for is none of these examples.
    """
    config, whole = ground.config.contrast, ground.parts[0]
    found: dict[str, ContrastSet | None] = {Moment.end.value: whole}
    if config.position is None and any(one.completion for one in (*whole.positive, *whole.negative)):
        found[Moment.start.value] = None if whole.paired else without_completions(whole)
        found[Moment.choice.value] = before_the_choice(whole)
    there = {name: examples for name, examples in found.items() if examples is not None}
    if config.moment is Moment.auto:
        return there
    if config.moment.value not in there:
        raise UsageError(
            f"These examples have no contrast.moment={config.moment.value}, only {', '.join(there)}; `start` needs prompts that "
            "differ, `choice` something said before the letter, and contrast.position leaves the end alone."
        )
    return {config.moment.value: there[config.moment.value]}


def _layer_scores(ground: Ground, tick: Tick) -> tuple[LayerScore, ...]:
    """Return how the model behaves on the selection examples under every layer's difference in means, at every multiplier."""
    config, judge = ground.config.contrast, judged(ground, ground.parts[1])
    scores: list[LayerScore] = []
    taken: dict[str, Tensor] = {}
    for moment, examples in moments(ground).items():
        differences = taken[moment] = _differences(ground, examples)
        # The last block is left out: what is added after it passes no attention any more.
        layers = [config.layer] if config.layer is not None else list(range(len(differences) - 1))
        for layer in layers:
            scores += _dosed(ground, judge, layer, moment, _checked(differences, layer))
            tick(1)
    return _weighed(ground, scores, lambda one: _at(one.layer, one.multiplier * taken[one.moment][one.layer]))


def _weighed(ground: Ground, scores: Sequence[Score], acting: Callable[[Score], Perturbations]) -> tuple[Score, ...]:
    """Return the scores, those that act best with what each costs: a letter can be turned by a model that is broken."""
    most = max(one.behaving.count for one in scores)
    if most == 0 or sum(one.behaving.count == most for one in scores) == 1:
        return tuple(scores)
    prompts, said = neutral_replies(ground, 0)
    if not prompts:
        # A model that says nothing has nothing that could be damaged.
        return tuple(scores)

    def cost(one: Score) -> float:
        each = Addition(acting(one), WINDOWS[ground.config.contrast.where], None).repeated(len(prompts))
        return damage(ground.loaded, prompts, said, [each]).cost

    return tuple(replace(one, cost=cost(one)) if one.behaving.count == most else one for one in scores)


def neutral_replies(ground: Ground, half: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return neutral prompts and the model's own replies to them: one half to choose by, the other to measure on."""
    prompts = ground.neutral or tuple(dict.fromkeys(one.prompt for one in ground.parts[1 + half].negative))
    batch = encoded(prompts[half::2] or prompts, ground.loaded.tokenizer, ground.form)
    speech = ground.config.speech
    said = replies(ground.loaded, batch, (), speech.tokens, speech.rows, lambda _: None)
    return neutral_ground(ground.loaded, batch, said)


def _dosed(ground: Ground, judge: Measure, layer: int, moment: str, vector: Tensor) -> list[LayerScore]:
    """Return how the model behaves when a vector [D] is added after a layer, at every multiplier above 0."""
    config, count = ground.config.contrast, len(judge.batch.prompts)
    multipliers = [value for value in config.multipliers if value > 0]
    vectors = torch.stack([multiplier * vector for multiplier in multipliers])
    steering = [Addition(biases(Place(layer, Site.residual), vectors), WINDOWS[config.where], None).repeated(count)]
    outcomes = judge.outcomes(ground.loaded, steering, len(multipliers))
    return [
        LayerScore(layer, moment, multiplier, share(sum(met), count))
        for multiplier, met in zip(multipliers, outcomes, strict=True)
    ]


def _differences(ground: Ground, examples: ContrastSet) -> Tensor:
    """Return [L, D] the difference in means after every block, at the position of the config, else the last."""
    position = ground.config.contrast.position
    return mean_differences(ground.loaded, examples, [-1 if position is None else position], ground.form)[:, 0].float()


def difference_at(ground: Ground, score: LayerScore) -> Perturbations:
    """Return the addition of a layer's difference in means, at the multiplier that was tried."""
    return _at(score.layer, score.multiplier * _differences(ground, moments(ground)[score.moment])[score.layer])


def _checked(differences: Tensor, layer: int) -> Tensor:
    if not 0 <= layer < len(differences):
        raise UsageError(f"contrast.layer={layer} is no block of this model, which has blocks 0 to {len(differences) - 1}.")
    if not (torch.isfinite(differences[layer]).all() and differences[layer].norm() > 0):
        raise UsageError(
            f"Positive and negative examples have the same mean after block {layer} at that position; take another "
            "contrast.position, one that comes after what sets them apart."
        )
    return differences[layer]


def _heads(ground: Ground, tick: Tick) -> Learned:
    config, loaded = ground.config.contrast, ground.loaded
    judge, window = judged(ground, ground.parts[1]), WINDOWS[config.where]
    found = []
    for moment, examples in moments(ground).items():
        directions = head_directions(loaded, examples, config.position or -1, ground.form)
        swept = swept_heads(loaded, directions, config.strengths, judge, window, tick)
        order = best_first(swept)
        sizes = [size for size in config.heads if size <= len(order)]
        if not sizes:
            raise UsageError(f"contrast.heads={list(config.heads)} asks for more heads than the {len(order)} of this model.")
        many = joint_scores(loaded, directions, order, sizes, config.strengths, judge, window)
        both = _weighed(ground, [*swept, *many], partial(_steering, directions))
        found.append((moment, directions, both[: len(swept)], both[len(swept) :]))
    # Among equals the moment that is published, which stands first.
    moment, directions, single, joint = max(found, key=lambda one: best([*one[2], *one[3]]).behaving.count)
    scores = replace(NOTHING, heads=single, joint=joint, moment=moment, layers=_layer_scores(ground, tick))
    chosen = scores.best_heads
    entries = [chosen.heads, *((head,) for head in chosen.heads)]
    bank = _bank(ground, together(directions, entries, chosen.strength), min(block for block, _ in chosen.heads))
    return Learned(bank, scores)


def _steering(directions: HeadDirections, score: HeadScore) -> Perturbations:
    return together(directions, [score.heads], score.strength)


def _refusal(ground: Ground) -> Learned:
    config, loaded, form = ground.config.contrast, ground.loaded, ground.form
    said = [_own(ground, part) for part in ground.parts[:2]]
    training, selection = (refused_and_answered(part, own) for part, own in zip(ground.parts[:2], said, strict=True))
    known = openings(loaded, ground.parts[0], said[0], form)
    ending = shared_ending(texts(loaded, [*training.positive, *training.negative], form))
    positions = [config.position] if config.position is not None else list(range(-ending, 0)) or [-1]
    differences = mean_differences(loaded, training, positions, form)
    if config.layer is not None:
        _checked(differences[:, -1], config.layer)
        differences[: config.layer] = differences[config.layer + 1 :] = 0
    found = candidates(loaded, differences, positions, selection, known.tokens, form)
    scores = replace(NOTHING, candidates=tuple(found), openings=known.tokens)
    chosen = scores.best_candidate
    vector = differences[chosen.layer, positions.index(chosen.position)].float()
    # Published at multiplier 1; a direction that is ablated at any length need not have the one at which it is best added.
    doses = _dosed(ground, judged(ground, selection), chosen.layer, Moment.end.value, vector)
    scores = replace(scores, layers=tuple(doses))
    return Learned(_bank(ground, _at(chosen.layer, scores.best_layer.multiplier * vector), chosen.layer), scores)


def _own(ground: Ground, part: ContrastSet) -> tuple[Any, Any]:
    """Return the unsteered replies to both sides of a set."""
    speech = ground.config.speech
    positive, negative = (
        unsteered(ground.loaded, side, ground.form, speech.tokens, speech.rows) for side in (part.positive, part.negative)
    )
    return positive, negative


def judged(ground: Ground, part: ContrastSet) -> Measure:
    """Return how behaviour is measured on a part of the examples."""
    return measure(ground.loaded, part, ground.config.contrast.measure, ground.form, ground.config.speech)


def _at(layer: int, vector: Tensor) -> Perturbations:
    return biases(Place(layer, Site.residual), vector[None].float())


def _bank(ground: Ground, perturbations: Perturbations, layer: int) -> VectorBank:
    """Return learned directions as a bank, which the verbs that read banks take as any other."""
    prompts = encoded([one.prompt for one in ground.parts[0].negative], ground.loaded.tokenizer, ground.form)
    sizes = residual_after(ground.loaded, prompts, layer).norm(dim=-1)[prompts.attention_mask.bool().to(ground.loaded.device)]
    total = torch.cat([change.bias for change in perturbations.changes], dim=1)
    return VectorBank(
        perturbations=perturbations,
        objective=torch.full((len(perturbations),), torch.nan),
        radius=float(total[0].norm()),
        residual_norm=float(sizes.median()),
        source_layer=layer,
        target_layer=len(ground.loaded.anatomy.blocks) - 1,
        origin={
            "perturbation": "head" if ground.config.contrast.method is Method.heads else "vector",
            "contrast": ground.config.contrast.method.value,
            "model": ground.loaded.identity["path"],
            "fingerprints": ground.loaded.identity["fingerprints"],
            "seed": ground.config.seed,
        },
    )


def save_learned(path: Path, found: Learned) -> None:
    """Write what was tried beside `path`, then the bank to `path`."""
    write_json(path.with_name(SCORES), asdict(found.scores))
    found.bank.save(path)


def load_learned(path: Path) -> Learned:
    """Read what `save_learned` wrote."""
    saved = read_json(path.with_name(SCORES))
    heads = {
        name: tuple(
            HeadScore(
                tuple((block, head) for block, head in one["heads"]), one["strength"], Share(**one["behaving"]), one["cost"]
            )
            for one in saved[name]
        )
        for name in ("heads", "joint")
    }
    layers = tuple(
        LayerScore(one["layer"], one["moment"], one["multiplier"], Share(**one["behaving"]), one["cost"])
        for one in saved["layers"]
    )
    tried = tuple(Candidate(**one) for one in saved["candidates"])
    return Learned(
        VectorBank.load(path),
        Scores(tried, layers, heads["heads"], heads["joint"], saved["moment"], tuple(saved["openings"])),
    )
