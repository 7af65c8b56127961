"""A conversation with a model under interventions, every reply token by token."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerBase

from discover.config import PromptConfig
from discover.errors import UsageError
from discover.model.cache import roomy_cache
from discover.model.loading import LoadedModel
from discover.model.prompts import conversation_tokens, left_padded
from discover.perturb.sphere import seed_of
from discover.steer.generation import chances, drawn
from discover.steer.interventions import Intervention, intervened
from discover.steer.request import Manner


@dataclass
class Speaker:
    """One side of a conversation: a model, what is done to it, and what was said so far to and by it."""

    loaded: LoadedModel
    """Its modules are this speaker's alone while it replies; `LoadedModel.apart` makes others over the same weights."""
    interventions: Sequence[Intervention]
    """Each with one entry."""
    form: PromptConfig
    """Chat template and system message."""
    said: list[str] = field(default_factory=list, init=False)
    """Prompts and replies in turn; who asks adds to them, when a reply is whole."""

    def reply(self, prompt: str, manner: Manner) -> Generator[str, None, None]:
        """Return the reply to a prompt, after all that was said, as pieces of text while they are generated.

        Raises:
            UsageError: the prompt is empty, no text, or too long; from the pieces, if the steered model puts out no numbers.
        """
        check_prompt(prompt)
        ids = conversation_tokens([*self.said, prompt], self.loaded.tokenizer, self.form)
        room = manner.tokens if self.loaded.context is None else self.loaded.context - len(ids)
        if room < 1:
            before = "; /reset forgets what was said before" if self.said else ""
            raise UsageError(
                f"The prompt comes to {len(ids)} tokens, and this model reads at most {self.loaded.context} with the reply; "
                f"give a shorter one{before}."
            )
        return _pieces(self.loaded.tokenizer, self._tokens(ids, manner, min(room, manner.tokens)))

    def _tokens(self, ids: Sequence[int], manner: Manner, count: int) -> Iterator[int]:
        """Yield at most `count` tokens of a reply to a prompt, without the one that ends it."""
        pad = self.loaded.tokenizer.pad_token_id
        batch = left_padded([""], [ids], pad)
        cache = roomy_cache(self.loaded.model.config, len(ids) + count)
        chance = chances(seed_of("conversation", manner.seed, len(self.said)), count)
        with intervened(self.loaded, self.interventions, None):
            for step in range(count):
                # Not around the loop: what takes the tokens would run without gradients between them.
                with torch.no_grad():
                    logits = self.loaded.forward(batch, last=1, prefix=cache)[:, -1].float().cpu()
                if not logits.isfinite().all():
                    raise UsageError("Steered so far the model puts out no finite numbers; give smaller multipliers.")
                token = int(drawn(logits, manner.temperature, chance[step, None]))
                if token in self.loaded.end_ids:
                    return
                yield token
                batch = batch.continued([[token]], pad)


def check_prompt(prompt: str) -> None:
    """Refuse a prompt that is empty, or no text."""
    if not prompt.strip():
        raise UsageError("The prompt is empty; it needs at least one character that is not white space.")
    if any("\ud800" <= letter <= "\udfff" for letter in prompt):
        raise UsageError("The prompt is not UTF-8; give text.")


def _pieces(tokenizer: PreTrainedTokenizerBase, tokens: Iterator[int]) -> Generator[str, None, None]:
    """Yield the text that every token adds, special tokens included; together they are the text of all."""
    taken: list[int] = []
    text = shown = ""
    for token in tokens:
        taken.append(token)
        text = tokenizer.decode(taken, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        # A character of several bytes may come in several tokens; it waits until it is whole.
        whole = shown if text.endswith("\ufffd") else text
        yield whole[len(shown) :]
        shown = whole
    yield text[len(shown) :]
