"""Sequential halving: where tokens are few, they go to the vectors that promise most, of bank and null by one rule.

A lap has rounds up to a quarter, a half and all of a reply's length, each with an equal share of the tokens that are left; laps
go on until nobody can speak any more. No rule looks at which bank a vector is of. If learned vectors were like random ones, what
is heard of them would be as well, and a test that counts whoever was not heard as reaching nothing would stay exact.

Source: Karnin, Koren and Somekh, "Almost optimal exploration in multi-armed bandits", 2013.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain
from math import exp

from discover.bank import VectorBank
from discover.config import SpeechConfig
from discover.errors import UsageError
from discover.model.change import joined
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch
from discover.perturb.sphere import seed_of
from discover.read.reference import UnsteeredReference
from discover.read.signals import ONWARD, Completion, onward
from discover.read.speech import Tick, scored
from discover.read.triage import Glance
from discover.steer.generation import NOTHING, Reply, continued
from discover.steer.interventions import Addition, added

Priority = tuple[int, float, int]
"""The smallest is heard first."""
Hear = Callable[[Sequence[int], Sequence[Sequence[Reply]], int], list[list[Reply]]]
"""Which vectors, what they have said to each prompt, and a length in tokens -> what they have said up to there."""
Judge = Callable[[Sequence[int], Sequence[Sequence[Reply]], int], list[int]]
"""The same -> a standing each."""

JUDGED = 12
"""Tokens without which nobody is judged: after a few, a leap at the beginning still looks like a reply that has broken."""
OWN, ALIKE, BROKEN = range(3)
"""Standings: says something of its own; says, so far, what the model says by itself; has broken, and is not waited for."""
STANDINGS = {"coherent": OWN, "unchanged": ALIKE, "empty": ALIKE, "degenerate": BROKEN}


@dataclass
class _Speaker:
    """One vector, and how far it has come."""

    vector: int
    priority: Priority
    said: list[Reply]
    """To each of the B prompts."""
    reached: int = 0
    """Tokens up to which it was heard."""
    standing: int = OWN
    done: bool = False
    """Whether there is no more to hear."""


def rounds(tokens: int) -> list[int]:
    """Return up to how many tokens replies are heard in the rounds of a lap: a quarter, a half, and all of `tokens`."""
    return sorted({min(tokens, max(JUDGED, -(-tokens // part))) for part in (4, 2, 1)})


def priorities(glances: Sequence[Glance]) -> list[Priority]:
    """Return in which order vectors are heard, by what they do before they speak.

    First those under which another token becomes the likeliest, by the perplexity of the model there times their place in the
    line of those that depart by the same token at the same position: what a model holds it says without wavering, and one more
    vector that departs like others tells less. Then the rest, those first that come nearest to departing.
    """
    # Who is level draws lots; the order of the banks would favour one of them.
    lots = [seed_of("line", one.bank, one.vector) for one in glances]
    lines: Counter[tuple[str, int]] = Counter()
    found: dict[int, Priority] = {}
    for row in sorted(range(len(glances)), key=lambda row: (glances[row].unsure, lots[row])):
        one = glances[row]
        if one.departed and one.boosted:
            first = one.boosted[0]
            lines[first.token, first.position] += 1
            found[row] = (0, exp(one.unsure) * lines[first.token, first.position], lots[row])
        else:
            found[row] = (1, -one.kl, lots[row])
    return [found[row] for row in range(len(glances))]


def halving(order: Sequence[Priority], prompts: int, tokens: int, budget: int, hear: Hear, judge: Judge) -> list[list[Reply]]:
    """Return what each of P vectors says to each of B prompts; nothing for one that is not heard to its end.

    Args:
        order: the priority of each vector.
        prompts: B.
        tokens: longest reply.
        budget: tokens that may be spent, over all vectors and prompts.
        hear: lets vectors speak.
        judge: tells how they stand.
    """
    speakers = [_Speaker(vector, priority, [NOTHING] * prompts) for vector, priority in enumerate(order)]
    ends = rounds(tokens)
    spoke = True
    while spoke:
        spoke = False
        for number, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            able = budget // (len(ends) - number) // (prompts * (end - begin))
            waiting = [one for one in speakers if one.reached == begin and not one.done]
            chosen = sorted(waiting, key=lambda one: (one.standing, one.priority))[:able]
            if chosen:
                spoke = True
                budget -= _round(chosen, end, tokens, hear, judge)
    return [one.said if one.done else [] for one in speakers]


def _round(chosen: Sequence[_Speaker], end: int, tokens: int, hear: Hear, judge: Judge) -> int:
    """Let the chosen speak up to `end` tokens, note how they stand, and return how many tokens that took."""
    before = sum(len(one.tokens) for speaker in chosen for one in speaker.said)
    vectors = [speaker.vector for speaker in chosen]
    heard = hear(vectors, [speaker.said for speaker in chosen], end)
    for speaker, said, standing in zip(chosen, heard, judge(vectors, heard, end), strict=True):
        speaker.said, speaker.reached, speaker.standing = said, end, standing
        speaker.done = end == tokens or standing == BROKEN or all(one.ended for one in said)
    return sum(len(one.tokens) for said in heard for one in said) - before


def check_budget(vectors: int, prompts: int, speech: SpeechConfig) -> None:
    """Refuse a budget that lets nobody speak.

    Args:
        vectors: of bank and null together.
        prompts: B.
        speech: length, and the share of tokens that may be spent.

    Raises:
        UsageError: not one vector can be heard in the first round.
    """
    ends = rounds(speech.tokens)
    if int(speech.budget * vectors * prompts * speech.tokens) // len(ends) < prompts * ends[0]:
        raise UsageError(
            f"speech.budget={speech.budget:g} of {vectors} vectors with {speech.tokens} tokens on each of {prompts} prompts lets "
            f"nobody speak; give at least {min(1.0, 3 / vectors):.2g}."
        )


def halved(
    loaded: LoadedModel,
    batch: PromptBatch,
    reference: UnsteeredReference,
    banks: Mapping[str, VectorBank],
    glances: Sequence[Glance],
    speech: SpeechConfig,
    tick: Tick,
) -> list[Completion]:
    """Return the completions of the vectors that are heard within the budget, bank by bank and vector by vector.

    Args:
        loaded: the model.
        batch: B prompts.
        reference: the model's own replies to them.
        banks: by name, all of one kind.
        glances: one a vector, in the order of the banks.
        speech: length, rows of a piece, and the share of tokens that may be spent.
        tick: called with the number of replies after each piece of generation.

    Raises:
        UsageError: the budget lets nobody speak.
    """
    steering = added(reduce(joined, (bank.perturbations for bank in banks.values())))
    order, prompts = priorities(glances), len(reference.replies)
    check_budget(len(order), prompts, speech)
    budget = int(speech.budget * len(order) * prompts * speech.tokens)
    heard = halving(
        order,
        prompts,
        speech.tokens,
        budget,
        lambda vectors, said, end: further(loaded, batch, steering.rows(vectors), said, end, speech.rows, tick),
        lambda _, said, end: standings(loaded, batch, reference, said, end),
    )
    found, start = [], 0
    for name, bank in banks.items():
        spoke = [vector for vector in range(len(bank)) if heard[start + vector]]
        said = [one for vector in spoke for one in heard[start + vector]]
        own = scored(loaded, batch.repeated(len(spoke)), reference, name, said, True, None) if spoke else []
        found += [replace(one, vector=spoke[row // prompts]) for row, one in enumerate(own)]
        start += len(bank)
    return found


def further(
    loaded: LoadedModel,
    batch: PromptBatch,
    steering: Addition,
    said: Sequence[Sequence[Reply]],
    end: int,
    rows: int,
    tick: Tick,
) -> list[list[Reply]]:
    """Return what N vectors have said to B prompts up to `end` tokens."""
    begun, prompts = list(chain.from_iterable(said)), len(batch.input_ids)
    found = continued(loaded, batch.repeated(len(said)), begun, [steering.repeated(prompts)], None, end, rows, tick)
    return [found[start : start + prompts] for start in range(0, len(found), prompts)]


def standings(
    loaded: LoadedModel, batch: PromptBatch, reference: UnsteeredReference, said: Sequence[Sequence[Reply]], end: int
) -> list[int]:
    """Return how each of N vectors stands after `end` tokens: on the prompt on which it stands best."""
    # Held against as much of the unsteered replies as was heard.
    part = reference.truncated(loaded, end)
    own, limit = part.replies, reference.limits.repetition
    flat = [one for each in said for one in each]
    states = scored(loaded, batch.repeated(len(said)), part, "", flat, False, None)
    found = [_standing(one, heard, own[row % len(own)], limit) for row, (one, heard) in enumerate(zip(states, flat, strict=True))]
    return [min(found[start : start + len(own)]) for start in range(0, len(found), len(own))]


def _standing(said: Completion, heard: Reply, own: Reply, limit: float) -> int:
    """Return how one reply stands; a leap has broken nothing as long as the sentence that may make up for it is not heard."""
    judged = heard.ended or len(heard.tokens) >= onward(heard.tokens, own.tokens).start + ONWARD
    if said.state == "degenerate" and not judged and said.repetition < limit:
        return OWN
    return STANDINGS[said.state]
