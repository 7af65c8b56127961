"""Prompts: read them, put them into the model's chat format, and pad them on the left."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from discover.errors import UsageError


@dataclass(frozen=True)
class PromptBatch:
    """B prompts as left-padded tokens."""

    prompts: tuple[str, ...]
    """The prompts as the user gave them."""
    input_ids: Tensor
    """[B, T] token ids, padded on the left."""
    attention_mask: Tensor
    """[B, T], 1 on tokens and 0 on padding."""

    @property
    def position_ids(self) -> Tensor:
        """[B, T] positions counted from each row's first token; 0 on padding."""
        return (self.attention_mask.cumsum(dim=-1) - 1).clamp(min=0)

    def repeated(self, copies: int) -> "PromptBatch":
        """Return the batch `copies` times over: row n * B + b is prompt b."""
        return PromptBatch(self.prompts * copies, self.input_ids.repeat(copies, 1), self.attention_mask.repeat(copies, 1))

    def chosen(self, numbers: Sequence[int]) -> "PromptBatch":
        """Return the prompts that are named, padded to the longest of them."""
        mask = self.attention_mask[list(numbers)]
        begin = int(mask.any(dim=0).int().argmax())
        prompts = tuple(self.prompts[number] for number in numbers)
        return PromptBatch(prompts, self.input_ids[list(numbers), begin:], mask[:, begin:])

    def rows(self, index: slice) -> "PromptBatch":
        """Return the prompts that `index` names."""
        return PromptBatch(self.prompts[index], self.input_ids[index], self.attention_mask[index])

    def continued(self, replies: Sequence[Sequence[int]], pad: int) -> "PromptBatch":
        """Return the batch with the beginning of a reply, as token ids, after every prompt.

        Prompts keep their places, so that token j of every reply stands in one column; a shorter reply is padded on the right.
        """
        longest = max(map(len, replies))
        ids = torch.tensor([[*reply, *[pad] * (longest - len(reply))] for reply in replies], dtype=torch.long)
        mask = torch.tensor([[1] * len(reply) + [0] * (longest - len(reply)) for reply in replies], dtype=torch.long)
        return PromptBatch(self.prompts, torch.cat([self.input_ids, ids], dim=1), torch.cat([self.attention_mask, mask], dim=1))


def prompts_from(texts: Sequence[str], file: str | None) -> list[str]:
    """Return `texts`, then the prompts in `file`, one a line; a literal backslash-n inside a line is a line break.

    Raises:
        UsageError: no prompt at all, an empty prompt, a file that is missing or not UTF-8.
    """
    prompts = list(texts)
    if file is not None:
        try:
            # Some editors begin a file with a byte-order mark; and a prompt may hold what `splitlines` takes for an end.
            lines = Path(file).read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise UsageError(f"The prompt file {file} is not UTF-8 (byte {error.start}); save it as UTF-8.") from error
        except OSError as error:
            raise UsageError(f"The prompt file {file} cannot be read ({error.strerror}); check prompts.file.") from error
        prompts += [line.replace("\\n", "\n") for line in lines if line.strip()]
    if not prompts:
        raise UsageError("There is no prompt; give prompts.texts='[\"…\"]' or prompts.file=<path> with one prompt a line.")
    if any(not prompt.strip() for prompt in prompts):
        raise UsageError("A prompt is empty; every prompt needs at least one character that is not white space.")
    return prompts


def encoded(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, chat: bool | None, system: str | None) -> PromptBatch:
    """Return `prompts` as left-padded tokens.

    Args:
        prompts: B texts.
        tokenizer: the model's own.
        chat: whether to use the chat template; None means if there is one.
        system: a system message, only with a chat template.

    Raises:
        UsageError: a chat template or a system message is asked for, and the tokenizer has no template or that refuses it.
    """
    rows = [conversation_tokens([prompt], tokenizer, chat, system) for prompt in prompts]
    return left_padded(prompts, rows, tokenizer.pad_token_id)


def left_padded(prompts: Sequence[str], rows: Sequence[Sequence[int]], pad: int) -> PromptBatch:
    """Return rows of token ids as one left-padded batch."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return PromptBatch(tuple(prompts), ids, mask)


def conversation_tokens(
    said: Sequence[str], tokenizer: PreTrainedTokenizerBase, chat: bool | None, system: str | None
) -> list[int]:
    """Return the tokens after which the next reply comes.

    Args:
        said: what the user and the model said in turn; the user begins and ends.
        tokenizer: the model's own.
        chat: whether to use the chat template, None meaning if there is one; without it the model is given the text so far, in
            which what the user says after a reply begins a line.
        system: a system message, only with a chat template.

    Raises:
        UsageError: a chat template or a system message is asked for, and the tokenizer has no template or that refuses it.
    """
    templated = tokenizer.chat_template is not None if chat is None else chat
    if tokenizer.chat_template is None and (templated or system is not None):
        raise UsageError("This tokenizer has no chat template; use prompts.chat=false and no prompts.system.")
    if not templated:
        text = "\n".join("".join(said[turn : turn + 2]) for turn in range(0, len(said), 2))
        return list(tokenizer(text)["input_ids"])
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages += [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(said)]
    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        raise UsageError(
            f"The chat template refuses this conversation ({error}); leave out prompts.system, or use prompts.chat=false."
        ) from error
    # The template prints its own opening token; a second one would move every position.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
