"""Let the model itself say what a vector is: it stands in the place of a word that the model is asked to repeat.

Source: Patchscopes (Ghandeharioun et al., 2024), SelfIE (Chen et al., 2024).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from torch import Tensor

from discover.config import PLACEHOLDER, PromptConfig
from discover.errors import UsageError
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch, conversation_tokens, left_padded
from discover.model.slice import residual_after
from discover.perturb.sphere import unit
from discover.steer.generation import replies
from discover.steer.interventions import Condition, Edited, Window

TOKENS = 16
"""Longest description."""
ROWS = 64
"""Descriptions generated at once."""


@dataclass(frozen=True)
class Patch:
    """R interventions: the residual stream after a block is replaced by a vector of each row's own at one token of the prompt."""

    layer: int
    vectors: Tensor
    """[R, D]."""
    window: Window
    condition: Condition | None = field(default=None, init=False)

    @property
    def first_block(self) -> int:
        """The block after which it acts."""
        return self.layer

    def __len__(self) -> int:
        """R."""
        return len(self.vectors)

    def rows(self, index: slice | Sequence[int]) -> "Patch":
        """Return those that `index` names."""
        return replace(self, vectors=self.vectors[index])

    def repeated(self, copies: int) -> "Patch":
        """Return each of them `copies` times in a row."""
        return replace(self, vectors=self.vectors.repeat_interleave(copies, dim=0))

    def edits(self, loaded: LoadedModel) -> Iterator[Edited]:
        """Yield the one change."""
        vectors = self.vectors.to(loaded.device)

        def put(_inputs: Tensor | None, residual: Tensor) -> Tensor:
            return vectors[:, None].to(residual.dtype).expand_as(residual)

        yield Edited(loaded.anatomy.blocks[self.layer], False, put)


def descriptions(loaded: LoadedModel, vectors: Tensor, layer: int, text: str, form: PromptConfig) -> list[str]:
    """Return what the model says when each of [N, D] vectors stands in the place of a word of `text`.

    Args:
        loaded: the model.
        vectors: directions; each is given the norm of what stood in its place.
        layer: block after which they are put there.
        text: what asks for the word, with a placeholder in its place, the last question mark.
        form: whether the chat template is used.

    Raises:
        UsageError: there is no room for it in the model's context.
    """
    batch, place = prompt_with_place(loaded, text, form)
    length = batch.input_ids.shape[1]
    if loaded.context is not None and length + TOKENS > loaded.context:
        raise UsageError(
            f"read.patchscope has {length} tokens; with {TOKENS} for what is said that is {length + TOKENS}, and this model "
            f"reads at most {loaded.context}. Give a shorter text."
        )
    norm = residual_after(loaded, batch, layer)[0, place].norm()
    patch = Patch(layer, norm * unit(vectors.to(norm.device)), Window(place, place + 1))
    heard = replies(loaded, batch.repeated(len(vectors)), [patch], TOKENS, ROWS, lambda _: None)
    return [reply.text for reply in heard]


def prompt_with_place(loaded: LoadedModel, text: str, form: PromptConfig) -> tuple[PromptBatch, int]:
    """Return the prompt that asks for a word, and at which of its tokens the placeholder stands, counted from the end."""
    before, _, after = text.rpartition(PLACEHOLDER)
    # What another word in its place leaves as it is comes after it, whatever the chat template and the tokenizer make of it.
    rows = [
        conversation_tokens([before + word + after], loaded.tokenizer, replace(form, system=None, reply_prefix=""))
        for word in (PLACEHOLDER, "x")
    ]
    same = takewhile(lambda pair: pair[0] == pair[1], zip(*(reversed(row) for row in rows), strict=False))
    return left_padded([text], rows[:1], loaded.tokenizer.pad_token_id), -1 - sum(1 for _ in same)
