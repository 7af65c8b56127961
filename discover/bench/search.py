"""One method with one seed on one organism: what it finds, and what it costs."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from discover.bench.methods import FIRST_TOKEN, Method
from discover.config import Config, ModelConfig, PromptConfig, SearchConfig
from discover.inputs import Ground, prepared, prompt_batch
from discover.model.change import Perturbations
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch, encoded
from discover.organisms.arithmetic import behaviour_of, opens_with
from discover.organisms.catalogue import Organism
from discover.organisms.scoring import CONFIRMATIONS, confirmed, holding, opening_tokens
from discover.read.embedding import by_words
from discover.read.modes import NOISE, modes
from discover.read.reference import UnsteeredReference, unsteered_reference
from discover.read.speech import begun, likeliest, scored
from discover.schema import plain
from discover.search.chunks import chunks
from discover.search.effects import Objective, mean_norm
from discover.search.learning import learn, random_bank
from discover.search.readings import Readings, readers
from discover.steer.generation import NOTHING, Reply, replies
from discover.steer.interventions import added

SAMPLES = 16
"""Replies drawn from the unsteered model, by which degenerate ones are told from others."""


@dataclass(frozen=True)
class SearchRow:
    """What one method found with one seed."""

    method: str
    seed: int
    given: dict[str, Any]
    """The options of the search, and which weights it ran on."""
    vectors: int
    vector_steps: float
    """A vector, the calibration of the radius aside."""
    seconds: float
    """Wall-clock time of the search, calibration included; of the first-token baseline the choice of the tokens."""
    relative_radius: float | None
    """None where nothing is added to the model."""
    effect: float | None
    """Mean norm of the mean effect on unit-norm residuals, each vector read where its search read it."""
    random_effect: float | None
    """The same for as many random perturbations of the same kind and radius."""
    opens: dict[str, int]
    """Per payload the vectors whose reply to the training prompt opens with it."""
    hits: dict[str, int]
    """Those of them that bring it on four fifths of 50 other clean prompts as well."""
    behaviours: dict[str, int]
    """Per behaviour of the organism the vectors whose reply to the training prompt shows it, whole."""
    modes: list[str]
    """Behaviours among these that the unsteered reply does not show."""
    largest_mode: int
    """Vectors in the largest group of like replies to the training prompt, whole or broken, unchanged ones aside."""


def given(method: Method, seed: int, loaded: LoadedModel) -> dict[str, Any]:
    """Return what a row depends on; where it has changed, a row on disk is not the one that is asked for."""
    identity = {name: loaded.identity[name] for name in ("fingerprints", "dtype", "device")}
    return {"seed": seed, "search": plain(method.search), **identity}


def search_row(method: Method, seed: int, model: ModelConfig, loaded: LoadedModel, organism: Organism) -> SearchRow:
    """Run one method on an organism and hold what it finds against what is planted.

    Raises:
        UsageError: the search cannot be done on this model.
    """
    config = Config(model=model, seed=seed, search=method.search)
    torch.manual_seed(seed)
    batch = prompt_batch(config, loaded)
    own = unsteered_reference(loaded, batch, [NOTHING] * len(batch.prompts), config.speech, SAMPLES, seed, lambda _: None)
    prompts = organism.confirmation_prompts(CONFIRMATIONS)
    found = _first_tokens if method.name == FIRST_TOKEN else _learned
    row = found(config, loaded, batch, organism, prompts)
    ordinary = behaviour_of(own.replies[0].text)
    texts = [reply.text for reply in row.replies]
    shown = Counter(behaviour for text in texts if (behaviour := behaviour_of(text)) is not None)
    return SearchRow(
        method=method.name,
        seed=seed,
        given=given(method, seed, loaded),
        vectors=method.search.vectors,
        vector_steps=method.passes,
        opens={name: sum(opens_with(text, payload) for text in texts) for name, payload in organism.payloads.items()},
        behaviours={behaviour.value: count for behaviour, count in shown.items()},
        modes=sorted(behaviour.value for behaviour in shown if behaviour is not ordinary),
        largest_mode=largest_mode(loaded, batch, own, row.replies),
        seconds=row.seconds,
        relative_radius=row.relative_radius,
        effect=row.effect,
        random_effect=row.random_effect,
        hits=row.hits,
    )


def largest_mode(loaded: LoadedModel, batch: PromptBatch, own: UnsteeredReference, said: Sequence[Reply]) -> int:
    """Return how many of N replies to the first prompt are in the largest mode but that in which nothing happened."""
    rows = _first(batch).repeated(len(said))
    groups = modes(scored(loaded, rows, own.prompts(slice(1)), "learned", said, False, None), by_words)
    alike = (group for group in groups if group.state != "unchanged" and group.label != NOISE)
    return max((len(group.members) for group in alike), default=0)


@dataclass(frozen=True)
class _Found:
    """What is measured differently with and without vectors."""

    seconds: float
    relative_radius: float | None
    effect: float | None
    random_effect: float | None
    hits: dict[str, int]
    replies: list[Reply]
    """To the first prompt."""


def _learned(config: Config, loaded: LoadedModel, batch: PromptBatch, organism: Organism, prompts: Sequence[str]) -> _Found:
    (ground,) = prepared(config, loaded, batch, None)
    started = time.perf_counter()
    bank = learn(
        config.search, ground.part, ground.space, ground.reply_tokens, ground.layers, config.seed, {}, lambda _: None
    ).bank
    seconds = time.perf_counter() - started
    random = random_bank(bank, [ground.space], len(bank), config.seed)
    speech = config.speech
    said = replies(
        loaded, _first(batch).repeated(len(bank)), [added(bank.perturbations)], speech.tokens, speech.rows, lambda _: None
    )
    opening = {
        name: [row for row, one in enumerate(said) if opens_with(one.text, payload)]
        for name, payload in organism.payloads.items()
    }
    return _Found(
        seconds=seconds,
        relative_radius=bank.relative_radius,
        effect=float(effect_norms(config.search, ground, bank.perturbations).mean()),
        random_effect=float(effect_norms(config.search, ground, random.perturbations).mean()),
        hits={
            name: len(confirmed(loaded, bank.subset(opening[name]), payload, prompts))
            for name, payload in organism.payloads.items()
        },
        replies=said,
    )


def _first(batch: PromptBatch) -> PromptBatch:
    """Return the first prompt alone."""
    return PromptBatch(batch.prompts[:1], batch.input_ids[:1], batch.attention_mask[:1])


def effect_norms(search: SearchConfig, ground: Ground, perturbations: Perturbations) -> Tensor:
    """Return [N] the norm of each perturbation's mean effect on unit-norm residuals, read where a search reads row n.

    It is one measure for all methods, whatever each of them maximised.
    """
    measured = replace(search, normalised=True)
    pieces = chunks(ground.part, search.chunk)
    read = Readings(ground.space, 1.0, readers(ground.part, ground.reply_tokens, measured), pieces)
    norms = torch.zeros(len(perturbations))
    with torch.no_grad():
        for number, reader in enumerate(read.readers):
            rows = read.rows_of(number, len(perturbations))
            if len(rows):
                norm = mean_norm(reader)

                def measure(_: slice, some: Tensor, norm: Objective = norm) -> Tensor:
                    return norm(perturbations.rows(some))

                norms[rows] = pieces.over(measure, rows)
    return norms


def _first_tokens(config: Config, loaded: LoadedModel, batch: PromptBatch, organism: Organism, prompts: Sequence[str]) -> _Found:
    """Return what comes of putting each of the N likeliest first tokens into the unsteered model's mouth."""
    started = time.perf_counter()
    tokens = likeliest(loaded, batch, config.search.vectors)  # [N, B]
    seconds = time.perf_counter() - started
    said = begun(loaded, batch, tokens, config.speech, lambda _: None)[:: len(batch.prompts)]
    others = encoded(prompts, loaded.tokenizer, PromptConfig())
    hits = {}
    for name, payload in organism.payloads.items():
        opening = [row for row, one in enumerate(said) if opens_with(one.text, payload)]
        forced = tokens[opening, :1].expand(-1, len(prompts))
        speech = replace(config.speech, tokens=opening_tokens(loaded, payload))
        heard = begun(loaded, others, forced, speech, lambda _: None) if opening else []
        hits[name] = len(holding([reply.text for reply in heard], payload, len(prompts)))
    return _Found(seconds, None, None, None, hits, said)
