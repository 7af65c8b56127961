"""Prompts: read them, put them into the model's chat format, and pad them on the left."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from discover.config import PromptConfig
from discover.errors import UsageError, first_line
from discover.user_files import read_rows

PROBE = "zqx{0} stands where something longer would be said zxq{0}"
"""Stands in the place of a message where a template is tried; of a length at which what cuts messages cuts it, too."""
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
        if len(held) > 1:
            raise UsageError(f"{where} has both {' and '.join(held)}; choose one of them with prompts.column.")
        if not held:
            asked = column if column is not None else " or ".join(COLUMNS)
            there = f"has {', '.join(map(str, row))}" if row else "is empty"
            raise UsageError(f"{where} {there}, and the prompt is looked for under {asked}; name its column with prompts.column.")
        row = row[held[0]]
        if held[0] == "messages" and isinstance(row, str):
            # A cell of a table holds them as JSON.
            with suppress(ValueError):
                row = json.loads(row)
            row = None if isinstance(row, str) else row
    elif column is not None:
        raise UsageError(f"{where} has no columns, and prompts.column={column} names one; leave it out.")
    if isinstance(row, str):
        return row
    written = [one for one in row if isinstance(one, dict)] if isinstance(row, list) else []
    messages: list[Any] = [(one.get("role"), one.get("content")) for one in written]
    turns = messages[1:] if messages and messages[0][0] == "system" else messages
    roles = ["user", "assistant"] * (len(turns) // 2) + ["user"]
    texts = all(isinstance(content, str) and content.strip() for _, content in messages)
    if not turns or len(messages) < len(row) or [role for role, _ in turns] != roles or not texts:
        raise UsageError(
            f'{where} is not a prompt; give a text, or messages such as [{{"role": "user", "content": "…"}}]: perhaps one of the '
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
    # Every reply went on from the prefix.
    later = [("user", text) if turn % 2 else ("assistant", form.reply_prefix + text) for turn, text in enumerate(said[1:])]
    return [{"role": role, "content": content} for role, content in (*first, *begun, *later)]


def templated_text(
    messages: Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase, form: PromptConfig, generation_prompt: bool
) -> str:
    """Return messages as the chat template writes them; contents as lists of parts where it reads nothing else.

    Whether it writes them at all is told by words that stand in the place of theirs and nowhere else. A reply of the model's may
    be cut, as templates of reasoning models do.

    Args:
        messages: roles and contents.
        tokenizer: with a template, or several by name.
        form: the template's name and values.
        generation_prompt: whether the opening of the reply follows.

    Raises:
        UsageError: there is no template of that name, it fails, or a message does not come out of it.
    """
    template = _template(tokenizer, form)

    def written(some: Sequence[Mapping[str, Any]]) -> str:
        options = {"chat_template": template, "add_generation_prompt": generation_prompt, "tokenize": False}
        return str(tokenizer.apply_chat_template(some, **options, **form.template_kwargs))

    probes = [{**one, "content": PROBE.format(place)} for place, one in enumerate(messages)]
    try:
        lost = _lost(written(probes), probes)
        if lost is None:
            return written(messages)
    except Exception as error:  # A template is a program of the checkpoint's, and may fail in any way.
        raise UsageError(
            f"The chat template refuses this conversation ({first_line(error)}); leave out prompts.system, or use "
            "prompts.chat=false."
        ) from error
    with suppress(Exception):
        text = written(_in_parts(probes))
        # One that writes whatever it is given would write the list itself.
        if _lost(text, probes) is None and str(_in_parts(probes)[-1]["content"]) not in text:
            return written(_in_parts(messages))
    raise UsageError(
        f"The chat template drops the {lost} message, so that the model would not hear it; "
        + ("leave out prompts.system, or put its words into the prompt." if lost == "system" else "use prompts.chat=false.")
    )


def _in_parts(messages: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return messages with their contents as lists of parts, as models that see images take them."""
    return [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in messages]


def _lost(text: str, probes: Sequence[Mapping[str, str]]) -> str | None:
    """Return the role of the first message of the system or the user that a text does not hold whole, but for case and space."""
    held = _squeezed(text)
    return next((one["role"] for one in probes if one["role"] != "assistant" and _squeezed(one["content"]) not in held), None)


def _squeezed(text: str) -> str:
    return "".join(text.casefold().split())


def _template(tokenizer: PreTrainedTokenizerBase, form: PromptConfig) -> str:
    """Return the text of the template that was asked for, or of the only one, or of that called default."""
    held = tokenizer.chat_template
    if not isinstance(held, dict):
        if form.template is not None:
            raise UsageError(f"This tokenizer has one chat template without a name; leave out prompts.template={form.template}.")
        return str(held)
    name = "default" if form.template is None else form.template
    if name not in held:
        none = "This tokenizer has several chat templates and none is called default"
        asked = none if form.template is None else f"There is no chat template {name!r}"
        raise UsageError(f"{asked}; choose one with prompts.template: {', '.join(sorted(held))}.")
    return str(held[name])


def _unended(ids: list[int], text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens of a raw text without the one that some tokenizers end a text with, and without a second first one.

    After an end the model begins something new; and a text that opens with the first token by itself has no need of another.
    """
    first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
    if last is not None and len(ids) > 1 and ids[-1] == last and not text.endswith(tokenizer.eos_token):
        ids = ids[:-1]
    return ids[1:] if first is not None and ids[:2] == [first, first] else ids
