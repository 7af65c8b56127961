"""Let the model speak, every row of a batch under its own perturbation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache

from discover.model.cache import roomy_cache
from discover.model.loading import LoadedModel
from discover.model.memory import in_pieces
from discover.model.prompts import PromptBatch, left_padded
from discover.steer.interventions import Course, Intervention, intervened_on

FILLED = 2
"""Texts are computed together while the shortest of them is filled up to no more than so many times its length."""
STRETCH = 256
"""Tokens of the vocabulary whose probabilities are summed at once where one is drawn."""
LEAVING = 0.25
"""Share of the rows that must have ended before they leave the batch: the keys and values of all others are copied then."""


@dataclass(frozen=True)
class Reply:
    """What the model said in one row."""

    tokens: tuple[int, ...]
    """Generated tokens without the one that ends the reply."""
    text: str
    """The same, decoded, special tokens included."""
    ended: bool
    """Whether the model ended the reply itself."""
    surprises: tuple[float, ...] = field(compare=False)
    """Of each of these tokens that the model chose, its negative log-likelihood in nats, under whatever acted on the model."""


NOTHING = Reply((), "", False, ())
"""A reply that has not begun."""


@dataclass(frozen=True)
class Drawing:
    """How R replies are drawn; without it, the likeliest token is taken each time."""

    temperature: float
    """What logits are divided by; 0 takes the likeliest token as well."""
    seeds: Sequence[int]
    """[R]; token j of a reply depends on the seed of its row and on j, whatever is computed beside it."""

    def rows(self, index: Sequence[int]) -> "Drawing":
        """Return how those that `index` names are drawn."""
        return Drawing(self.temperature, [self.seeds[row] for row in index])


def chances(seed: int, tokens: int) -> Tensor:
    """Return [tokens] numbers between 0 and 1 in float64; with more tokens, those before stay."""
    return torch.rand(tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(logits: Tensor, temperature: float, chance: Tensor) -> Tensor:
    """Return the tokens [R] at which `chance` [R] falls in the distributions that logits [R, V] give at a temperature."""
    # What float32 cannot divide by leaves nothing but the likeliest token either.
    if temperature < torch.finfo(torch.float32).tiny:
        return logits.max(dim=-1).indices
    # The greatest is 0 before the division, so that a small temperature does not overflow.
    weights = ((logits.float() - logits.float().amax(dim=-1, keepdim=True)) / temperature).exp()
    # Sums over all of a large vocabulary are needed for one of its stretches alone.
    stretches = pad(weights, (0, -weights.shape[-1] % STRETCH)).unflatten(-1, (-1, STRETCH))  # [R, S, STRETCH]
    sums = stretches.sum(dim=-1, dtype=torch.float64)  # [R, S]
    upto = sums.cumsum(dim=-1)
    wanted = (chance.to(upto) * upto[:, -1])[:, None]
    stretch = torch.searchsorted(upto, wanted, right=True).clamp(max=upto.shape[-1] - 1)
    before = (upto.gather(1, stretch) - sums.gather(1, stretch)).clamp(min=0)
    within = stretches.gather(1, stretch[..., None].expand(-1, -1, STRETCH))[:, 0].double().cumsum(dim=-1)
    place = torch.searchsorted(within, wanted - before, right=True).clamp(max=STRETCH - 1)
    return (stretch * STRETCH + place)[:, 0].clamp(max=logits.shape[-1] - 1)


def replies(
    loaded: LoadedModel,
    batch: PromptBatch,
    interventions: Sequence[Intervention],
    tokens: int,
    rows: int,
    tick: Callable[[int], None],
) -> list[Reply]:
    """Return one greedy reply a row of `batch`; arguments as for `continued`."""
    return continued(loaded, batch, [NOTHING] * len(batch.input_ids), interventions, None, tokens, rows, tick)


def continued(
    loaded: LoadedModel,
    batch: PromptBatch,
    begun: Sequence[Reply],
    interventions: Sequence[Intervention],
    drawing: Drawing | None,
    tokens: int,
    rows: int,
    tick: Callable[[int], None],
) -> list[Reply]:
    """Return one reply a row of `batch`, gone on with from where it stands.

    What comes is what would have come without a stop, windows and conditions of the interventions included, as far as rounding
    goes: how many rows are computed at once can change the last bits of a row, and so which of two tokens that are as likely is
    said, or whether a condition holds whose cosine is its threshold. Interventions that act on all rows from outside
    (`intervened` around this call) meet fewer rows than they are for, and are refused.

    Args:
        loaded: the model.
        batch: R prompts.
        begun: R replies, `NOTHING` where there is none yet; those that have ended, or are long enough, come back as they are.
        interventions: each with R entries, one a row; none for unsteered replies.
        drawing: how tokens are drawn; None for greedy replies.
        tokens: longest reply, what is begun included.
        rows: rows computed at once.
        tick: called with the number of rows after each piece.
    """
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
    texts = [[*prompt, *one.tokens] for prompt, one in zip(prompts, begun, strict=True)]
    found = list(begun)

    def piece(bucket: Sequence[int], some: slice) -> None:
        # In the order given: what a caller has opened around this call keeps the rows it is for, or fails.
        of = sorted(bucket[some])
        padded = left_padded([""] * len(of), [texts[row] for row in of], loaded.tokenizer.pad_token_id)
        said = torch.tensor([len(begun[row].tokens) for row in of])
        steering, draws = [each.rows(of) for each in interventions], drawing.rows(of) if drawing is not None else None
        more = _generated(loaded, padded, said, steering, draws, tokens)
        for row, (one, surprises) in zip(of, more, strict=True):
            whole = reply(loaded, [*begun[row].tokens, *one])
            chosen = len(whole.tokens) - len(begun[row].tokens)
            found[row] = replace(whole, surprises=(*begun[row].surprises, *surprises[:chosen]))
        tick(len(of))

    short = [row for row, one in enumerate(begun) if not one.ended and len(one.tokens) < tokens]
    if len(short) < len(begun):
        tick(len(begun) - len(short))
    advice = "give shorter prompts, a smaller speech.tokens, or model.dtype=bfloat16"
    for bucket in _buckets(short, [len(text) for text in texts]):
        _, rows = in_pieces(partial(piece, bucket), len(bucket), rows, advice)
    return found


def _buckets(rows: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Return rows whose texts are about as long together, the shortest first."""
    found: list[list[int]] = []
    for row in sorted(rows, key=lambda row: lengths[row]):
        if not found or lengths[row] > FILLED * lengths[found[-1][0]]:
            found.append([])
        found[-1].append(row)
    return found


def _generated(
    loaded: LoadedModel,
    texts: PromptBatch,
    said: Tensor,
    interventions: Sequence[Intervention],
    drawing: Drawing | None,
    tokens: int,
) -> list[tuple[list[int], list[float]]]:
    """Return what is said after R texts, the token that ends a reply and perhaps some behind it included, and its surprises.

    Args:
        loaded: the model.
        texts: R prompts with what is said already.
        said: [R] how many tokens of them that is.
        interventions: each with R entries.
        drawing: with R seeds; None takes the likeliest tokens.
        tokens: longest reply, what is said already included.
    """
    begin, device = texts.input_ids.shape[1], loaded.device
    longest = (tokens - said).to(device)
    room = int(longest.max())
    ids, mask = pad(texts.input_ids, (0, room)).to(device), pad(texts.attention_mask, (0, room), value=1).to(device)
    choose = _greedy if drawing is None else partial(_drawn, drawing.temperature, _chances(drawing, said, room).to(device))
    ends = torch.tensor(loaded.end_ids, dtype=torch.long, device=device)
    course, rows, end = Course(said.to(device)), torch.arange(len(ids), device=device), begin
    surprises = torch.zeros(ids[:, begin:].shape, device=device)
    with torch.no_grad():
        cache = _entered(loaded, texts, _untouched(interventions, begin, said), begin + room)
        while len(rows):
            going = torch.ones_like(rows, dtype=torch.bool)
            with intervened_on(loaded, [each.rows(rows.tolist()) for each in interventions], course):
                while going.float().mean() > 1 - LEAVING:
                    upto = PromptBatch((), ids[rows, :end], mask[rows, :end])
                    logits = loaded.forward(upto, last=1, prefix=cache)[:, -1].float()
                    ids[rows, end] = choose(logits, rows, end - begin)
                    surprises[rows, end - begin] = _surprise(logits, ids[rows, end])
                    going &= ~torch.isin(ids[rows, end], ends) & (end - begin + 1 < longest[rows])
                    end += 1
            rows = rows[going]
            cache.batch_select_indices(going.nonzero()[:, 0])
            course.keep(going)
    each = zip(ids[:, begin:].tolist(), surprises.tolist(), longest.tolist(), strict=True)
    return [(tokens[:limit], surprise[:limit]) for tokens, surprise, limit in each]


def _surprise(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return the negative log-likelihood [R] of chosen tokens [R] under logits [R, V]."""
    return logits.logsumexp(dim=-1) - logits.gather(-1, chosen[:, None])[:, 0]


def _chances(drawing: Drawing, said: Tensor, count: int) -> Tensor:
    """Return the chances [R, count] of the tokens that come after what is said already."""
    rows = zip(drawing.seeds, said.tolist(), strict=True)
    return torch.stack([chances(seed, past + count)[past:] for seed, past in rows])


def _greedy(logits: Tensor, _rows: Tensor, _step: int) -> Tensor:
    # Faster than argmax, which is not vectorised for every number format; of equal ones both take the first.
    return logits.max(dim=-1).indices


def _drawn(temperature: float, chance: Tensor, logits: Tensor, rows: Tensor, step: int) -> Tensor:
    return drawn(logits, temperature, chance[rows, step])


def _untouched(interventions: Sequence[Intervention], columns: int, said: Tensor) -> int:
    """Return how many of the first columns of R texts no intervention acts on, or looks at."""
    # The course of interventions begins with a pass over more than one column.
    found = columns - 2
    for each in interventions:
        if each.window.start is None:
            return 0
        # A condition may look at the last token of the prompt.
        first = each.window.start if each.condition is None else min(each.window.start, -1)
        found = min(found, columns - int(said.max()) + first)
    return max(0, found)


def _entered(loaded: LoadedModel, texts: PromptBatch, length: int, room: int) -> Cache:
    """Return a cache that holds the first `length` columns of R texts, or none of them if they are all different."""
    cache = roomy_cache(loaded.model.config, room)
    if length:
        columns = torch.cat([texts.input_ids[:, :length], texts.attention_mask[:, :length]], dim=1)
        distinct, row = columns.unique(dim=0, return_inverse=True)
        if len(distinct) < len(columns):
            loaded.forward(PromptBatch((), distinct[:, :length], distinct[:, length:]), last=1, prefix=cache)
            cache.batch_select_indices(row.to(loaded.device))
    return cache


def reply(loaded: LoadedModel, row: Sequence[int]) -> Reply:
    """Return tokens as a reply that nobody has weighed, cut at the first token that ends one."""
    end = next((place for place, token in enumerate(row) if token in loaded.end_ids), None)
    kept = tuple(row[:end])
    return Reply(kept, loaded.tokenizer.decode(kept, skip_special_tokens=False), end is not None, ())
