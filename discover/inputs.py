"""What a run begins with: the checkpoint, its prompts and labelled examples, and what a search stands on."""

from dataclasses import dataclass
from pathlib import Path

from discover.audit.uses import Asked, Questions, read_questions
from discover.config import Config
from discover.contrast.sets import FORMS, ContrastSet, contrast_set, read_contrast_set
from discover.errors import UsageError
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch, encoded, prompts_from
from discover.model.slice import ModelSlice, model_slice
from discover.organisms.catalogue import ORGANISMS
from discover.perturb.spaces import Space, places_of, space_of
from discover.search.atlas import Atlas
from discover.search.learning import chosen_layers
from discover.steer.generation import replies

CLEAN = 10
"""Clean prompts of an organism on which the vectors of findings are tried."""
NEUTRAL = 100
"""Clean prompts of an organism on which damage is measured."""


def prompt_batch(config: Config, loaded: LoadedModel) -> PromptBatch:
    """Return the run's prompts as tokens; a built-in organism brings its own where none are given.

    Raises:
        UsageError: no or bad prompts, or no room for prompt and completion in the model's context.
    """
    given, organism = config.prompts, ORGANISMS.get(config.model.path)
    texts = organism.prompts if organism and not given.texts and given.file is None else given.texts
    batch = encoded(prompts_from(texts, given.file), loaded.tokenizer, given.chat, given.system)
    needed = batch.input_ids.shape[1] + max(config.search.reply_positions, config.speech.tokens)
    if loaded.context is not None and needed > loaded.context:
        raise UsageError(
            f"The longest prompt has {batch.input_ids.shape[1]} tokens; with {config.speech.tokens} for the completion that is "
            f"{needed}, and this model reads at most {loaded.context}. Shorten the prompt or set speech.tokens."
        )
    return batch


def prompts_of_use(config: Config) -> Asked:
    """Return the prompts on which the vectors of findings are tried; a built-in organism brings clean ones where none are given.

    Raises:
        UsageError: the questions cannot be read, or a prompt is empty.
    """
    about, organism = config.audit, ORGANISMS.get(config.model.path)
    clean = about.clean or (organism.confirmation_prompts(CLEAN) if organism else ())
    questions = Questions((), ()) if about.questions is None else read_questions(Path(about.questions))
    asked = Asked(tuple(clean), tuple(about.triggers), questions)
    if asked.prompts:
        prompts_from(asked.prompts, None)
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
    return tuple(config.contrast.neutral or (organism.confirmation_prompts(NEUTRAL) if organism else ()))


def open_prompts(config: Config) -> list[str]:
    """Return the prompts that are answered freely; a built-in organism brings its own where none are given."""
    organism = ORGANISMS.get(config.model.path)
    return list(config.contrast.open or (organism.open_prompts if organism else ()))


@dataclass(frozen=True)
class Ground:
    """What a search stands on."""

    longer: PromptBatch
    """The prompts, each with the beginning of its unsteered reply."""
    reply_tokens: int
    """Length of that beginning."""
    layers: tuple[int, int]
    """Source and target layer."""
    part: ModelSlice
    """The slice between them."""
    space: Space
    """What is learned."""


def prepared(config: Config, loaded: LoadedModel, batch: PromptBatch, charted: Atlas | None) -> Ground:
    """Return what the search that `config` describes stands on, for B prompts; an atlas chooses layers that are not given.

    Raises:
        UsageError: the layers do not fit the model, or it lacks a part that is to be changed.
    """
    layers = chosen_layers(config.search, len(loaded.anatomy.blocks), charted)
    longer, places = _with_replies(config, loaded, batch), places_of(config.search, layers[0])
    part = model_slice(loaded, longer, places, layers[1], config.search.target, _first(config, batch))
    reply_tokens = longer.input_ids.shape[1] - batch.input_ids.shape[1]
    return Ground(longer, reply_tokens, layers, part, space_of(config.search, loaded, part, layers[0]))


def _first(config: Config, batch: PromptBatch) -> int:
    """Return the first position of the prompts that is perturbed."""
    length, steered = batch.input_ids.shape[1], config.search.steered_positions
    return max(0, length - steered) if steered else 0


def _with_replies(config: Config, loaded: LoadedModel, batch: PromptBatch) -> PromptBatch:
    """Return the prompts, each with as much of its unsteered reply as the search reads."""
    tokens = config.search.reply_positions
    begun = replies(loaded, batch, (), max(1, tokens), config.speech.rows, lambda _: None)
    return batch.continued([reply.tokens[:tokens] for reply in begun], loaded.tokenizer.pad_token_id)
