"""Labelled examples: what a direction is learned from when one knows what to look for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from discover.config import PromptConfig
from discover.errors import UsageError
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch, encoded, left_padded
from discover.user_files import read_rows

FORMS = (
    'rows such as {"label": "positive", "prompt": "…", "completion": "…"} or {"prompt": "…", "positive": "…", "negative": "…"}'
)

PAIR = {"prompt", "positive", "negative"}
"""What a line with two completions of one prompt holds."""


@dataclass(frozen=True)
class Example:
    """A prompt, and the beginning of a reply where the example is about how one replies."""

    prompt: str
    completion: str | None


@dataclass(frozen=True)
class ContrastSet:
    """Examples of a behaviour, and of its absence."""

    positive: tuple[Example, ...]
    negative: tuple[Example, ...]
    asked: "ContrastSet | None" = None
    """Other prompts to choose and to measure by, each with both completions, where a set has both kinds of lines: what one learns
    from need not be what one asks."""

    @property
    def everything(self) -> list[Example]:
        """All examples."""
        return [*self.positive, *self.negative, *(self.asked.everything if self.asked is not None else ())]

    @property
    def paired(self) -> bool:
        """Whether example i of both sides is about one prompt, and only the completions differ."""
        return [one.prompt for one in self.positive] == [one.prompt for one in self.negative] and all(
            one.completion for one in (*self.positive, *self.negative)
        )

    def split(self, sizes: Sequence[int], seed: int) -> list["ContrastSet"]:
        """Return sets of so many examples a side, drawn without overlap; pairs stay pairs.

        Raises:
            UsageError: there are not enough.
        """
        if self.asked is not None:
            learned = ContrastSet(self.positive, self.negative)
            return [*learned.split(sizes[:1], seed), *self.asked.split(sizes[1:], seed)]
        least = min(len(self.positive), len(self.negative))
        if least < sum(sizes):
            raise UsageError(
                f"The contrast set has {len(self.positive)} positive and {len(self.negative)} negative examples of a kind, and "
                f"{' + '.join(map(str, sizes))} of each are needed (to learn, to select, to test); give more examples, or a "
                "smaller contrast.training, contrast.selection or contrast.test."
            )
        orders = [list(range(least))] * 2 if self.paired else [list(range(len(self.positive))), list(range(len(self.negative)))]
        drawn = [Random(f"split/{seed}").sample(order, len(order)) for order in orders]
        found, start = [], 0
        for size in sizes:
            own = [order[start : start + size] for order in drawn]
            found.append(ContrastSet(tuple(self.positive[i] for i in own[0]), tuple(self.negative[i] for i in own[1])))
            start += size
        return found


def contrast_set(rows: Mapping[int, Any], origin: str) -> ContrastSet:
    """Return the set that rows of a file, or of an organism, stand for, each under its number.

    Raises:
        UsageError: a row of another form, no example, or examples of one side only.
    """
    labelled = {number: row for number, row in rows.items() if isinstance(row, dict) and "label" in row}
    others = {number: row for number, row in rows.items() if number not in labelled}
    if labelled and others and all(isinstance(row, dict) and row.keys() == PAIR for row in others.values()):
        return replace(contrast_set(labelled, origin), asked=contrast_set(others, origin))
    sides: dict[str, list[Example]] = {"positive": [], "negative": []}
    for number, row in rows.items():
        found = _sides(row)
        if found is None:
            raise UsageError(f"Row {number} of {origin} is no labelled example; give {FORMS}, every text with a character in it.")
        for side, example in found:
            sides[side].append(example)
    for side, examples in sides.items():
        if not examples:
            raise UsageError(f"The contrast set {origin} has no {side} example; a direction needs both sides: give {FORMS}.")
    return ContrastSet(tuple(sides["positive"]), tuple(sides["negative"]))


def _sides(row: Any) -> list[tuple[str, Example]] | None:
    """Return the examples of one row with their sides; None where it is of no known form."""
    if not isinstance(row, dict) or not all(isinstance(text, str) and text.strip() for text in row.values()):
        return None
    if row.keys() in ({"label", "prompt"}, {"label", "prompt", "completion"}) and row["label"] in ("positive", "negative"):
        return [(row["label"], Example(row["prompt"], row.get("completion")))]
    if row.keys() == PAIR:
        return [(side, Example(row["prompt"], row[side])) for side in ("positive", "negative")]
    if row.keys() == {"positive", "negative"}:
        return [(side, Example(row[side], None)) for side in ("positive", "negative")]
    return None


def read_contrast_set(path: Path) -> ContrastSet:
    """Return the contrast set of a file with an example a row.

    Raises:
        UsageError: it cannot be read, or holds no contrast set.
    """
    return contrast_set(read_rows(path, "contrast.file"), str(path))


def letter_in(text: str) -> str | None:
    """Return the letter that a text chooses: the first in brackets, else a single capital at its beginning; None without one.

    Such a capital ends its line or stands before a mark, and is never I: "A book" and "I, too" choose nothing.
    """
    found = _choice(text)
    return None if found is None else found[1]


def _choice(text: str) -> re.Match[str] | None:
    """Return where a text chooses a letter, as group 1."""
    alone = r"\s*([A-HJ-Z])(?=[).:,;!]|\s+[-–—]\s|\s*$)"
    return re.search(r"\(([A-Z])\)", text) or re.match(alone, text, re.MULTILINE)


def without_completions(examples: ContrastSet) -> ContrastSet:
    """Return the prompts of the examples alone."""
    positive, negative = (tuple(replace(one, completion=None) for one in side) for side in (examples.positive, examples.negative))
    return ContrastSet(positive, negative)


def before_the_choice(examples: ContrastSet) -> ContrastSet | None:
    """Return the examples with their completions cut before the letter that they choose; None where one has nothing before it."""
    sides = []
    for side in (examples.positive, examples.negative):
        found = [(one, _choice(one.completion or "")) for one in side]
        cut = [replace(one, completion=(one.completion or "")[: place.start(1)]) for one, place in found if place is not None]
        if len(cut) < len(side) or not all((one.completion or "").strip() for one in cut):
            return None
        sides.append(tuple(cut))
    return ContrastSet(sides[0], sides[1])


def texts(loaded: LoadedModel, examples: Sequence[Example], form: PromptConfig) -> PromptBatch:
    """Return examples as left-padded tokens, each prompt in the model's format with its completion behind it."""
    prompts = [one.prompt for one in examples]
    batch = encoded(prompts, loaded.tokenizer, form)
    rows = [
        ids[mask.bool()].tolist() + loaded.tokenizer(one.completion or "", add_special_tokens=False)["input_ids"]
        for ids, mask, one in zip(batch.input_ids, batch.attention_mask, examples, strict=True)
    ]
    return left_padded(prompts, rows, loaded.tokenizer.pad_token_id)


def shared_ending(batch: PromptBatch) -> int:
    """Return how many last tokens all B texts share: with prompts, those that the chat format puts after the user's words."""
    ids: Tensor = batch.input_ids
    same = (ids == ids[:1]).all(dim=0) & batch.attention_mask.bool().all(dim=0)
    return int(same.flip(0).long().cumprod(dim=0).sum())


def rows_of(batch: PromptBatch, index: Sequence[int]) -> PromptBatch:
    """Return the named rows of a batch."""
    chosen = torch.tensor(list(index), dtype=torch.long)
    return PromptBatch(tuple(batch.prompts[i] for i in index), batch.input_ids[chosen], batch.attention_mask[chosen])
