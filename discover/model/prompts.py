"""Prompts: read them, put them into the model's chat format, and pad them on the left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from discover.config import PromptConfig
from discover.errors import UsageError, first_line
from discover.user_files import read_rows

COLUMNS = ("prompt", "messages")
"""Under which of these names a row has its prompt, unless the user says otherwise."""


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


class Conversation(str):
    """A prompt of several turns; as a text it reads as a list of who said what."""

    messages: tuple[tuple[str, str], ...] = ()
    """Role and content in turn: perhaps `system` first, then `user` and `assistant` by turns, `user` last."""


def prompts_from(texts: Sequence[str], file: str | None, column: str | None) -> list[str]:
    """Return `texts`, then the prompts in `file`.

    A row of a file is a text, a list of messages, or has one of these under a name: `column`, else `prompt` or `messages`. In a
    line of plain text a backslash and an n stand for a line break.

    Raises:
        UsageError: no prompt at all, an empty one, a file that cannot be read, a row that holds no prompt.
    """
    prompts = list(texts)
    if file is not None:
        for number, row in read_rows(Path(file), "prompts.file").items():
            plain = Path(file).suffix.lower() not in (".json", ".jsonl", ".ndjson") and isinstance(row, str)
            prompts.append(row.replace("\\n", "\n") if plain else _prompt(row, column, f"Row {number} of {file}"))
    if not prompts:
        raise UsageError("There is no prompt; give prompts.texts='[\"…\"]' or prompts.file=<path> with one prompt a line.")
    if any(not prompt.strip() for prompt in prompts):
        raise UsageError("A prompt is empty; every prompt needs at least one character that is not white space.")
    return prompts


def _prompt(row: Any, column: str | None, where: str) -> str:
    """Return the prompt of a row."""
    if isinstance(row, dict):
        held = [name for name in ((column,) if column is not None else COLUMNS) if name in row]
        if len(held) != 1:
            asked = column if column is not None else " or ".join(COLUMNS)
            raise UsageError(
                f"{where} has {', '.join(map(str, row)) or 'nothing'} and not {asked}; name the prompt's with prompts.column."
            )
        row = row[held[0]]
    if isinstance(row, str):
        return row
    written = [one for one in row if isinstance(one, dict)] if isinstance(row, list) else []
    messages: list[Any] = [(one.get("role"), one.get("content")) for one in written]
    turns = messages[1:] if messages and messages[0][0] == "system" else messages
    roles = ["user", "assistant"] * (len(turns) // 2) + ["user"]
    texts = all(isinstance(content, str) and content.strip() for _, content in messages)
    if not turns or len(messages) < len(row) or [role for role, _ in turns] != roles or not texts:
        raise UsageError(
            f'{where} is no prompt; give a text, or messages such as [{{"role": "user", "content": "…"}}]: perhaps one of the '
            "system's, then the user's and the assistant's by turns, the user's last."
        )
    if len(messages) == 1:
        return str(messages[0][1])
    found = Conversation("\n".join(f"{role}: {content}" for role, content in messages))
    found.messages = tuple(messages)
    return found


def encoded(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, form: PromptConfig) -> PromptBatch:
    """Return B texts as left-padded tokens, each as the user's first turn; `form` and errors as for `conversation_tokens`."""
    rows = [conversation_tokens([prompt], tokenizer, form) for prompt in prompts]
    return left_padded(prompts, rows, tokenizer.pad_token_id)


def left_padded(prompts: Sequence[str], rows: Sequence[Sequence[int]], pad: int) -> PromptBatch:
    """Return rows of token ids as one left-padded batch."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return PromptBatch(tuple(prompts), ids, mask)


def conversation_tokens(said: Sequence[str], tokenizer: PreTrainedTokenizerBase, form: PromptConfig) -> list[int]:
    """Return the tokens after which the next reply comes, or goes on where `form` says how it begins.

    Args:
        said: what the user and the model said in turn; the user begins and ends.
        tokenizer: the model's own.
        form: which chat template is used, with which values and system message; without one the model is given the text so far,
            in which what the user says after a reply begins a line.

    Raises:
        UsageError: a chat template, one of a name, or a system message is asked for, and there is none, or it fails, or it
            does not hand on what was said.
    """
    messages = conversation(said, form)
    if not templated(tokenizer, form):
        if messages[0]["role"] == "system":
            raise UsageError("A system message needs a chat template, and this model is given raw text; leave the message out.")
        turns = [one["content"] for one in messages]
        text = "\n".join("".join(turns[turn : turn + 2]) for turn in range(0, len(turns), 2)) + form.reply_prefix
        return _unended(list(tokenizer(text)["input_ids"]), text, tokenizer)
    text = templated_text(messages, tokenizer, form, True) + form.reply_prefix
    # The template prints its own opening token; a second one would move every position.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def templated(tokenizer: PreTrainedTokenizerBase, form: PromptConfig) -> bool:
    """Return whether prompts go through a chat template.

    Raises:
        UsageError: one is needed for what was asked for, and the tokenizer has none.
    """
    wanted = form.chat or form.system is not None or form.template is not None or bool(form.template_kwargs)
    if tokenizer.chat_template is None and wanted:
        raise UsageError(
            "This tokenizer has no chat template; use prompts.chat=false, and no prompts.system, prompts.template or "
            "prompts.template_kwargs."
        )
    return tokenizer.chat_template is not None if form.chat is None else form.chat


def conversation(said: Sequence[str], form: PromptConfig) -> list[dict[str, str]]:
    """Return what was said in turn as messages, the system's first where there is one.

    Raises:
        UsageError: there are two of the system's.
    """
    begun = said[0].messages if isinstance(said[0], Conversation) else (("user", said[0]),)
    if form.system is not None and begun[0][0] == "system":
        raise UsageError("A prompt has a system message of its own, and prompts.system gives another; leave one of them out.")
    first = [("system", form.system)] if form.system is not None else []
    later = [(("assistant", "user")[turn % 2], text) for turn, text in enumerate(said[1:])]
    return [{"role": role, "content": content} for role, content in (*first, *begun, *later)]


def templated_text(
    messages: Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase, form: PromptConfig, generation_prompt: bool
) -> str:
    """Return messages as the chat template writes them; contents as lists of parts where it reads nothing else.

    Args:
        messages: roles and contents.
        tokenizer: with a template, or several by name.
        form: the template's name and values.
        generation_prompt: whether the opening of the reply follows.

    Raises:
        UsageError: there is no template of that name, it fails, or words of a message do not come out of it.
    """
    options: dict[str, Any] = {"add_generation_prompt": generation_prompt, "tokenize": False, **form.template_kwargs}
    options["chat_template"] = _template(tokenizer, form)
    try:
        text = str(tokenizer.apply_chat_template(messages, **options))
        if not _hears(text, messages):
            parts = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in messages]
            text = str(tokenizer.apply_chat_template(parts, **options))
            # One that writes what it is given would print the list itself.
            text = "" if any(str(one["content"]) in text for one in parts) else text
    except Exception as error:  # A template is a program of the checkpoint's, and may fail in any way.
        raise UsageError(
            f"The chat template refuses this conversation ({first_line(error)}); leave out prompts.system, or use "
            "prompts.chat=false."
        ) from error
    if not _hears(text, messages):
        lost = next((one["role"] for one in messages if not _holds(text, one["content"])), "user")
        raise UsageError(
            f"The chat template drops the {lost} message, so that the model would not hear it; "
            + ("leave out prompts.system, or put its words into the prompt." if lost == "system" else "use prompts.chat=false.")
        )
    return text


def _template(tokenizer: PreTrainedTokenizerBase, form: PromptConfig) -> str:
    """Return the text of the template that was asked for, or of the only one, or of that called default."""
    held = tokenizer.chat_template
    if not isinstance(held, dict):
        if form.template is not None:
            raise UsageError(f"This tokenizer has one chat template without a name; leave out prompts.template={form.template}.")
        return str(held)
    name = "default" if form.template is None else form.template
    if name not in held:
        asked = "None of them is called default" if form.template is None else f"There is no chat template {name!r}"
        raise UsageError(f"{asked}; choose one with prompts.template: {', '.join(sorted(held))}.")
    return str(held[name])


def _hears(text: str, messages: Sequence[Mapping[str, str]]) -> bool:
    """Return whether a text holds every message."""
    return all(_holds(text, one["content"]) for one in messages)


def _holds(text: str, content: str) -> bool:
    """Return whether all words of a message stand in a text in their order; a template may change the space between them."""
    place, text = 0, text.casefold()
    for word in content.casefold().split():
        place = text.find(word, place)
        if place < 0:
            return False
        place += len(word)
    return True


def _unended(ids: list[int], text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens of a raw text without the one that some tokenizers end a text with, and without a second first one.

    After an end the model begins something new; and a text that opens with the first token by itself has no need of another.
    """
    first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
    if last is not None and len(ids) > 1 and ids[-1] == last and not text.endswith(tokenizer.eos_token):
        ids = ids[:-1]
    return ids[1:] if first is not None and ids[:2] == [first, first] else ids
