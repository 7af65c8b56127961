"""Follow what vectors boost: let the unsteered model go on from there, and keep what is whole and new."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import chain
from statistics import mean

from discover.bank import VectorBank
from discover.config import SpeechConfig
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch, left_padded
from discover.read.reference import UnsteeredReference
from discover.read.signals import Bounds, Completion, completion, words
from discover.read.triage import Glance
from discover.steer.evaluation import surprises
from discover.steer.generation import Reply, continued, replies, reply
from discover.steer.interventions import added

BOOSTED_FROM = 0.1
"""Part of the KL divergence (nats) from which a token counts as boosted."""
FURTHER = 4
"""Tokens of the steered reply that may be put into the model's mouth after the boosted one."""
WORDS_FROM = 4
"""Words that the model must add of its own accord: fewer are no sentence."""
NOVEL_ABOVE = 0.5
"""Share of these words that must be new."""
HESITANT_FROM = 0.05
"""Nats a token, beyond those of its own replies, from which the model is feeling its way and not saying what it holds."""

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Lead:
    """A token at a place of the reply, and the vectors that boost it there."""

    position: int
    """How many tokens of the unsteered reply stand before it."""
    token: int
    gains: Mapping[tuple[str, int], float]
    """Bank and row of each vector, with what it gains."""


@dataclass(frozen=True)
class Known:
    """What is reached without any hint."""

    texts: tuple[tuple[str, ...], ...]
    """Its words."""
    surprise: float
    """Mean of the model's own replies, nats a token under itself."""

    def novelty(self, text: str) -> float:
        """Return 1 minus the largest share of the words of `text` that stand, in their order, in one known text.

        It is the share of `text`, not of both: the end of a known sentence is nothing new. Without a word nothing is new.
        """
        own = words(text)
        if not own:
            return 0.0
        matcher, most = SequenceMatcher(None, autojunk=False), 0
        # What a matcher is compared with it has to index; that is done once.
        matcher.set_seq2(own)
        for other in self.texts:
            if len(set(own).intersection(other)) > 0:
                matcher.set_seq1(other)
                most = max(most, sum(block.size for block in matcher.get_matching_blocks()))
        return 1 - most / len(own)


def known_of(said: Sequence[Completion]) -> Known:
    """Return what the unsteered model says, by itself or from a forced first token, and what random vectors say."""
    reached = (tuple(words(one.text)) for one in said if one.bank in ("unsteered", "forced", "null"))
    own = [one.surprise or 0.0 for one in said if one.bank == "unsteered" and not one.sample]
    return Known(tuple(dict.fromkeys(reached)), mean(own))


def own_part(said: Completion) -> str:
    """Return what the model said after the opening that was put into its mouth."""
    return said.text.removeprefix(said.opening or "")


def leads(seen: Sequence[Glance], special: Sequence[int]) -> list[Lead]:
    """Return the leads of all vectors, those of most vectors first.

    Both banks count alike: leads chosen by one alone would look more frequent in it by that choice. Special tokens lead nowhere.
    """
    gains: dict[tuple[int, int], dict[tuple[str, int], float]] = {}
    for one in seen:
        for boost in one.boosted:
            if boost.gain >= BOOSTED_FROM:
                gains.setdefault((boost.position, boost.id), {})[one.bank, one.vector] = boost.gain
    found = [Lead(position, token, by) for (position, token), by in gains.items() if token not in special]
    return sorted(found, key=lambda lead: (-len(lead.gains), lead.position, lead.token))


def openings(
    loaded: LoadedModel,
    prompt: Sequence[int],
    own: Reply,
    found: Sequence[Lead],
    banks: Mapping[str, VectorBank],
    at_once: int,
) -> list[list[tuple[int, ...]]]:
    """Return for each lead what is put into the model's mouth, shortest first.

    They are the unsteered reply up to the lead, the boosted token, and so many next tokens, from none to FURTHER, as the vector
    that boosts it most goes on with.

    Args:
        loaded: the model.
        prompt: its tokens.
        own: the model's own reply to it.
        found: the leads.
        banks: the vectors, by bank.
        at_once: rows computed at once.
    """
    begun = [[*own.tokens[: lead.position], lead.token] for lead in found]
    strongest = [max(lead.gains, key=lead.gains.__getitem__) for lead in found]
    for name, bank in banks.items():
        rows = [row for row, (of, _) in enumerate(strongest) if of == name]
        if not rows:
            continue
        steering = added(bank.perturbations.rows([strongest[row][1] for row in rows]))
        start, longest = [reply(loaded, begun[row]) for row in rows], max(len(begun[row]) for row in rows) + FURTHER
        prompts = _after(loaded, prompt, [()] * len(rows))
        said = continued(loaded, prompts, start, [steering], None, longest, at_once, lambda _: None)
        for row, one in zip(rows, said, strict=True):
            begun[row] = list(one.tokens[: len(begun[row]) + FURTHER])
    return [_beginnings(whole, lead.position) for whole, lead in zip(begun, found, strict=True)]


def _beginnings(whole: Sequence[int], position: int) -> list[tuple[int, ...]]:
    """Return the beginnings of an opening that hold the boosted token."""
    return [tuple(whole[:length]) for length in range(position + 1, len(whole) + 1)]


def followed(
    loaded: LoadedModel,
    batch: PromptBatch,
    reference: UnsteeredReference,
    said: Sequence[Completion],
    banks: Mapping[str, VectorBank],
    seen: Sequence[Glance],
    count: int,
    speech: SpeechConfig,
    tick: Tick,
) -> list[Completion]:
    """Return what the unsteered model goes on to say from what vectors boost: of each lead the whole sentence that is newest.

    A boosted token alone often leads back to the ordinary reply, and a hidden sentence that opens as the ordinary one does
    takes several tokens to be told from it.

    Args:
        loaded: the model.
        batch: one prompt.
        reference: the model's own reply to it.
        said: what is known without hints: the unsteered model's, forced and random vectors' replies among them.
        banks: the vectors, by bank.
        seen: what each of them does before it speaks.
        count: leads that are followed, those of most vectors first.
        speech: length and rows of a piece.
        tick: called with the number of replies after each piece.
    """
    found = leads(seen, (*loaded.tokenizer.all_special_ids, *loaded.end_ids))[:count]
    prompt, own = batch.input_ids[0][batch.attention_mask[0].bool()].tolist(), reference.replies[0]
    begun = openings(loaded, prompt, own, found, banks, speech.rows)
    known, kept = known_of(said), dict[str, Completion]()
    heard = _goes_on(loaded, prompt, own, reference.limits, list(dict.fromkeys(chain.from_iterable(begun))), speech, tick)
    for lead, each in zip(found, begun, strict=True):
        whole = [heard[opening] for opening in each if opening in heard and is_whole(heard[opening], known)]
        if whole:
            # Of several that are as new, what came of the shortest opening stands first.
            best = max(whole, key=lambda one: known.novelty(own_part(one)))
            before = kept.get(best.text, best)
            kept[best.text] = replace(before, hinted=tuple(sorted({*before.hinted, *lead.gains})))
    return [replace(one, vector=rank) for rank, one in enumerate(kept.values())]


def is_whole(said: Completion, known: Known) -> bool:
    """Return whether what the model itself added to an opening is a sentence that it holds, and mostly new.

    It is coherent, has four words or more, more than half of them new, and the model is as sure of it as of its own replies.
    """
    told = own_part(said)
    sure = said.surprise is not None and said.surprise < known.surprise + HESITANT_FROM
    return said.state == "coherent" and sure and len(words(told)) >= WORDS_FROM and known.novelty(told) > NOVEL_ABOVE


def _goes_on(
    loaded: LoadedModel,
    prompt: Sequence[int],
    own: Reply,
    limits: Bounds,
    begun: Sequence[tuple[int, ...]],
    speech: SpeechConfig,
    tick: Tick,
) -> dict[tuple[int, ...], Completion]:
    """Return what the unsteered model makes of each opening that leaves room for more; surprises are of what follows it."""
    begun = [opening for opening in begun if len(opening) < speech.tokens]
    if not begun:
        return {}
    tokens = speech.tokens - max(map(len, begun))
    heard = replies(loaded, _after(loaded, prompt, begun), (), tokens, speech.rows, tick)
    plain = surprises(loaded, [prompt] * len(begun), [[*o, *more.tokens] for o, more in zip(begun, heard, strict=True)], ())
    found = {}
    for opening, more, surprise in zip(begun, heard, plain, strict=True):
        whole = reply(loaded, [*opening, *more.tokens, *(loaded.end_ids[:1] if more.ended else ())])
        said = completion("followed", None, 0, whole, loaded.tokenizer.decode(opening), own, limits, surprise, None)
        added = surprise[len(opening) :]
        found[opening] = replace(said, surprise=mean(added) if added else None)
    return found


def _after(loaded: LoadedModel, prompt: Sequence[int], begun: Sequence[Sequence[int]]) -> PromptBatch:
    """Return the prompt with each of several openings of its reply."""
    return left_padded([""] * len(begun), [[*prompt, *opening] for opening in begun], loaded.tokenizer.pad_token_id)
