"""What a run begins with: the checkpoint, its prompts and labelled examples, and what a search stands on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from discover.audit.uses import Asked, Questions, read_questions
from discover.choices import Diversity, Target
from discover.config import NEUTRAL, Config, SearchConfig
from discover.contrast.sets import FORMS, ContrastSet, contrast_set, read_contrast_set
from discover.errors import UsageError
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch, conversation_tokens, encoded, prompts_from
from discover.model.slice import ModelSlice, model_slice
from discover.organisms.catalogue import ORGANISMS
from discover.perturb.spaces import Space, places_of, space_of
from discover.perturb.sphere import refuse_beyond_width
from discover.search.atlas import Atlas
from discover.search.learning import chosen_layers
from discover.steer.generation import Reply, replies

CLEAN = 10
"""Clean prompts of an organism on which the vectors of findings are tried."""
UNDAMAGED = 100
"""Clean prompts of an organism on which damage is measured."""


def prompt_batch(config: Config, loaded: LoadedModel) -> PromptBatch:
    """Return the run's prompts as tokens; a built-in organism brings its own where none are given.

    Raises:
        UsageError: no or bad prompts, or no room for prompt and completion in the model's context.
    """
    given, organism = config.prompts, ORGANISMS.get(config.model.path)
    texts = organism.prompts if organism and not given.texts and given.file is None else given.texts
    batch = encoded(prompts_from(texts, given.file, given.column), loaded.tokenizer, given)
    shares = config.search.shares
    needed = batch.input_ids.shape[1] + max(config.speech.tokens, *(share.reply_positions for share in shares))
    if loaded.context is not None and needed > loaded.context:
        raise UsageError(
            f"The longest prompt has {batch.input_ids.shape[1]} tokens; with {config.speech.tokens} for the completion that is "
            f"{needed}, and this model reads at most {loaded.context}. Shorten the prompt or set speech.tokens."
        )
    last = len(batch.prompts) + len(_fitting(config, loaded, batch.prompts)) - 1
    if unknown := [number for share in shares for number in share.learned_from if number > last]:
        raise UsageError(
            f"search.learned_from names prompt {unknown[0]}, and there are prompts 0 to {last}; give more prompts, or name one "
            "of these."
        )
    return batch


def neutral_beside(config: Config, prompts: Sequence[str]) -> list[str]:
    """Return the neutral prompts that vectors speak to beside the user's; of a built-in organism clean prompts of its own."""
    organism = ORGANISMS.get(config.model.path)
    known = organism.confirmation_prompts(len(NEUTRAL)) if organism else NEUTRAL
    return [prompt for prompt in known if prompt not in prompts][: config.prompts.neutral]


def heard_batch(config: Config, loaded: LoadedModel, batch: PromptBatch) -> PromptBatch:
    """Return the user's prompts and behind them the neutral ones that fit: all that vectors speak to."""
    given, beside = config.prompts, _fitting(config, loaded, batch.prompts)
    return encoded([*batch.prompts, *beside], loaded.tokenizer, given) if beside else batch


def _fitting(config: Config, loaded: LoadedModel, prompts: Sequence[str]) -> list[str]:
    """Return the neutral prompts that leave room for a reply in the model's context."""
    given, beside = config.prompts, neutral_beside(config, prompts)
    if loaded.context is None:
        return beside
    room = loaded.context - config.speech.tokens
    return [one for one in beside if len(conversation_tokens([one], loaded.tokenizer, given)) <= room]


def prompts_of_use(config: Config) -> Asked:
    """Return the prompts on which the vectors of findings are tried; a built-in organism brings clean ones where none are given.

    Raises:
        UsageError: the questions cannot be read, or a prompt is empty.
    """
    about, organism = config.audit, ORGANISMS.get(config.model.path)
    clean, triggers = (
        (*given, *prompts_from((), file, config.prompts.column)) if file is not None else tuple(given)
        for given, file in ((about.clean, about.clean_file), (about.triggers, about.triggers_file))
    )
    clean = clean or tuple(organism.confirmation_prompts(CLEAN) if organism else ())
    questions = Questions((), ()) if about.questions is None else read_questions(Path(about.questions))
    asked = Asked(tuple(clean), triggers, questions)
    if asked.prompts:
        prompts_from(asked.prompts, None, None)
    return asked


def labelled(config: Config) -> ContrastSet:
    """Return the labelled examples of a run; a built-in organism brings its own where no file is given.

    Raises:
        UsageError: there are none, or they are of one side only.
    """
    if config.contrast.file is not None:
        return read_contrast_set(Path(config.contrast.file))
    organism = ORGANISMS.get(config.model.path)
    if organism is None or organism.examples is None:
        raise UsageError(f"There are no labelled examples for {config.model.path}; give contrast.file=FILE with {FORMS}.")
    return contrast_set(dict(enumerate(organism.examples(), 1)), config.model.path)


def neutral_prompts(config: Config) -> tuple[str, ...]:
    """Return the prompts on which damage is measured; none where none are given and the model is no built-in organism."""
    organism = ORGANISMS.get(config.model.path)
    return tuple(config.contrast.neutral or (organism.confirmation_prompts(UNDAMAGED) if organism else ()))


def open_prompts(config: Config) -> list[str]:
    """Return the prompts that are answered freely; a built-in organism brings its own where none are given."""
    organism = ORGANISMS.get(config.model.path)
    return list(config.contrast.open or (organism.open_prompts if organism else ()))


@dataclass(frozen=True)
class Ground:
    """What a search stands on, in one way to learn."""

    search: SearchConfig
    """Its options."""
    batch: PromptBatch
    """The prompts that are learned from."""
    longer: PromptBatch
    """These, each with the beginning of its unsteered reply."""
    reply_tokens: int
    """Length of that beginning."""
    layers: tuple[int, int]
    """Source and target layer."""
    part: ModelSlice
    """The slice between them."""
    space: Space
    """What is learned."""


def prepared(config: Config, loaded: LoadedModel, batch: PromptBatch, charted: Atlas | None) -> list[Ground]:
    """Return what the search that `config` describes stands on, for B prompts: one for every way to learn.

    An atlas chooses layers that are not given, where a way asks for it.

    Raises:
        UsageError: the layers do not fit the model, or it lacks a part that is to be changed.
    """
    begun = openings(config.search.shares, loaded, batch, config.speech.rows)
    return [grounded(share, loaded, batch, begun, charted) for share in config.search.shares]


def openings(searches: Sequence[SearchConfig], loaded: LoadedModel, batch: PromptBatch, rows: int) -> list[Reply]:
    """Return the beginnings of the unsteered replies to B prompts, as long as any of the searches reads them."""
    return replies(loaded, batch, (), max(1, *(search.reply_positions for search in searches)), rows, lambda _: None)


def grounded(
    search: SearchConfig, loaded: LoadedModel, batch: PromptBatch, begun: Sequence[Reply], charted: Atlas | None
) -> Ground:
    """Return what one way to learn stands on, for B prompts and the beginnings of the unsteered replies to them.

    Raises:
        UsageError: the layers do not fit the model, it lacks a part that is to be changed, or it is too narrow for so many
            orthogonal vectors.
    """
    layers = chosen_layers(search, len(loaded.anatomy.blocks), charted)
    own = batch.chosen(search.learned_from) if search.learned_from else batch
    said = [begun[number] for number in search.learned_from] if search.learned_from else begun
    longer, places = _with_replies(search, loaded, own, said), places_of(search, layers[0])
    part = model_slice(loaded, longer, places, layers[1], search.target, _first(search, own))
    reply_tokens = longer.input_ids.shape[1] - own.input_ids.shape[1]
    space = space_of(search, loaded, part, layers[0])
    if search.diversity in (Diversity.orthogonal, Diversity.sequential):
        # The solver would refuse them as well, but after everything that a run computes before it.
        refuse_beyond_width(search.vectors, sum(space.lengths))
    return Ground(search, own, longer, reply_tokens, layers, part, space)


def sighted(grounds: Sequence[Ground], loaded: LoadedModel, batch: PromptBatch, begun: Sequence[Reply]) -> list[Ground]:
    """Return the grounds from which effects of all ways can be compared: read on every prompt, after the last target layer.

    Arguments as for `grounded`.

    Raises:
        UsageError: a way that is read elsewhere cannot be read there.
    """
    if len(grounds) == 1 and not grounds[0].search.learned_from:
        return list(grounds)
    target, reply = max(ground.layers[1] for ground in grounds), max(ground.search.reply_positions for ground in grounds)
    found = []
    for one in grounds:
        search = replace(
            one.search,
            source_layer=one.layers[0],
            target=Target.residual,
            target_layer=target,
            reply_positions=reply,
            span=[],
            learned_from=[],
        )
        found.append(grounded(search, loaded, batch, begun, None))
    return found


def _first(search: SearchConfig, batch: PromptBatch) -> int:
    """Return the first position of the prompts that is perturbed."""
    length, steered = batch.input_ids.shape[1], search.steered_positions
    return max(0, length - steered) if steered else 0


def _with_replies(search: SearchConfig, loaded: LoadedModel, batch: PromptBatch, begun: Sequence[Reply]) -> PromptBatch:
    """Return the prompts, each with as much of its unsteered reply as the search reads."""
    return batch.continued([reply.tokens[: search.reply_positions] for reply in begun], loaded.tokenizer.pad_token_id)
