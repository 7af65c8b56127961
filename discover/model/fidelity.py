"""What the model is really given: prompts as its tokenizer and chat template write them, and what a reader must know of that."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from discover.config import PromptConfig
from discover.errors import UsageError
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch, conversation, templated, templated_text

SPOKEN, SYSTEM = "Zqxspoken", "Zqxsystem"
"""Stand for a user's and a system's words where a template is looked at; no template has such words of its own."""
LACKING = 0.05
"""Share of the embedding's rows without a token from which a tokenizer is said to be another model's; fewer are padding."""


@dataclass(frozen=True)
class Rendering:
    """What the model is given for each of B prompts."""

    texts: tuple[str, ...]
    """Its tokens as text, special ones included."""
    template: bool
    """Whether they went through the chat template."""
    system: str | None
    """The system message that was given with the first prompt; None where none was."""
    own_system: str | None
    """What the template puts in its place where none is given; None where it puts nothing."""
    remarks: tuple[str, ...]
    """What may make the model hear something else than was meant, a sentence each."""


def rendering(batch: PromptBatch, loaded: LoadedModel, form: PromptConfig) -> Rendering:
    """Return what the model is given for B prompts."""
    tokenizer, through = loaded.tokenizer, templated(loaded.tokenizer, form)
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
    first = conversation(batch.prompts[:1], form)[0]
    system = first["content"] if first["role"] == "system" else None
    remarks = [
        *(_of_template(tokenizer, form, rows) if through else []),
        *_typed(tokenizer, batch.prompts),
        *_vocabulary(tokenizer, loaded.model.get_input_embeddings().weight.shape[0]),
    ]
    texts = tuple(tokenizer.decode(row, skip_special_tokens=False) for row in rows)
    own = _own_system(tokenizer, form) if through and system is None else None
    return Rendering(texts, through, system, own, tuple(remarks))


def _own_system(tokenizer: PreTrainedTokenizerBase, form: PromptConfig) -> str | None:
    """Return the system message that a template writes where none is given: what one that is given takes the place of."""
    asked = {"role": "user", "content": SPOKEN}
    try:
        alone = templated_text([asked], tokenizer, form, True)
        given = templated_text([{"role": "system", "content": SYSTEM}, asked], tokenizer, form, True)
    except UsageError:
        # It takes none.
        return None
    if SYSTEM not in given:
        return None
    before, after = given.split(SYSTEM, 1)
    if not (alone.startswith(before) and alone.endswith(after) and len(alone) > len(before) + len(after)):
        return None
    return alone[len(before) : len(alone) - len(after)].strip() or None


def _of_template(tokenizer: PreTrainedTokenizerBase, form: PromptConfig, rows: Sequence[Sequence[int]]) -> list[str]:
    """Return what is to be said of a chat template."""
    asked, found = conversation([SPOKEN], form), []
    try:
        opened, closed = (templated_text(asked, tokenizer, form, opening) for opening in (True, False))
    except UsageError:
        # Prompts that bring a system message of their own may be all that it takes.
        opened, closed = "", " "
    if opened == closed:
        ending = opened.rpartition(SPOKEN)[2].strip()
        found.append(
            "The chat template ignores add_generation_prompt: after the user's words it writes "
            + (
                f'"{ending}". Unless that opens the reply'
                if ending
                else "nothing. Unless the model takes that for the end of a turn"
            )
            + ", the model may go on in the user's place."
        )
    first = tokenizer.bos_token_id
    if first is not None and tokenizer("a")["input_ids"][:1] == [first] and any(row[0] != first for row in rows):
        found.append(
            f"The chat template leaves out {tokenizer.bos_token}, with which this tokenizer begins every text; the model may "
            "miss it."
        )
    return found


def _typed(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[str]:
    """Return what is to be said of words of the user that the tokenizer reads as special tokens."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    found = []
    for token in dict.fromkeys([*special, *tokenizer.all_special_tokens]):
        holding = [str(number) for number, prompt in enumerate(prompts) if token in prompt]
        if holding:
            which = (
                f"Prompt {holding[0]} holds" if len(holding) == 1 else f"{len(holding)} prompts (the first is {holding[0]}) hold"
            )
            found.append(f"{which} {token}, which the tokenizer reads as a special token and not as text.")
    return found


def _vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    """Return what is to be said of a tokenizer that has fewer tokens than the model embeds."""
    if len(tokenizer) >= (1 - LACKING) * size:
        return []
    return [
        f"The tokenizer has {len(tokenizer):,} tokens and the model embeds {size:,}; it may be another model's: "
        "tokens that it does not know are missing from what is shown."
    ]
