"""What share of hits is kept where only some vectors are heard: by single signals, by halving, by lot, and at best."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from discover.bench.search import SAMPLES
from discover.choices import Solver
from discover.config import Config, ModelConfig, SearchConfig
from discover.inputs import prepared, prompt_batch
from discover.model.change import joined
from discover.model.loading import LoadedModel
from discover.organisms.arithmetic import opens_with
from discover.organisms.catalogue import Organism
from discover.organisms.scoring import CONFIRMATIONS, confirmed
from discover.perturb.sphere import seed_of
from discover.read.halving import Judge, halving, priorities, rounds, standings
from discover.read.reference import unsteered_reference
from discover.read.triage import Glance, glances, sight
from discover.schema import plain
from discover.search.learning import learn, random_bank
from discover.steer.generation import NOTHING, Reply, replies, reply
from discover.steer.interventions import added

BUDGETS = (0.05, 0.1, 0.25, 0.5)
"""Shares of the tokens that are generated where everybody speaks in full."""
NULL = 4
"""Random vectors for each learned one, as in a run."""
SEARCHES: dict[str, dict[str, Any]] = {
    "fixed point": {},
    "singular vectors": {"solver": Solver.power},
    "3 residual norms": {"relative_radius": 3.0},
}
"""The default, where every third vector is a hit; one where hits are rare; one where random vectors change most replies too."""
BEST, LOT, LINE, HALVING = "best possible", "lot", "order before text", "halving"
SIGNALS = ("kl", "shifted", "departed", "unsure", "norm", "presence")
"""Of a glance, each by itself; the largest first, but for what is unsure."""


@dataclass(frozen=True)
class TriageRow:
    """Who is heard in one run within less than all tokens, and what is kept by it."""

    search: str
    """One of SEARCHES."""
    seed: int
    given: dict[str, Any]
    """The options of the search, and which weights it ran on."""
    sizes: dict[str, int]
    """Per pool, its vectors."""
    tokens: dict[str, int]
    """Per pool, those generated where everybody speaks in full."""
    nominal: dict[str, int]
    """Per pool, those that everybody may generate, of which `speech.budget` is a share."""
    hits: dict[str, dict[str, int]]
    """Per pool and payload the vectors that bring it on the prompt, and on four fifths of 50 other clean ones."""
    kept: dict[str, dict[str, dict[str, list[int]]]]
    """Per pool, order and payload, how many of these are heard to the end at each of BUDGETS."""


@dataclass(frozen=True)
class _Pool:
    """Vectors of which some are heard."""

    glances: Sequence[Glance]
    full: Sequence[Reply]
    """What each says to the one prompt in full."""
    judge: Judge
    longest: int
    """Tokens of the longest reply that is let speak."""
    seed: int

    def heard(self, order: str, budget: int) -> list[int]:
        """Return the vectors that are heard to the end within so many tokens."""
        if order == HALVING:
            said = halving(priorities(self.glances), 1, self.longest, budget, self._hear, self.judge)
            return [vector for vector, own in enumerate(said) if own and own[0].tokens == self.full[vector].tokens]
        found = []
        for vector in sorted(range(len(self.glances)), key=self._keys(order).__getitem__):
            budget -= len(self.full[vector].tokens)
            if budget < 0:
                break
            found.append(vector)
        return found

    def _keys(self, order: str) -> Sequence[Any]:
        """Return what vectors are sorted by; who is level draws lots."""
        lots = [seed_of(self.seed, one.bank, one.vector) for one in self.glances]
        match order:
            case "order before text":
                return priorities(self.glances)
            case "lot":
                return lots
            case "unsure":
                return [(one.unsure, lot) for one, lot in zip(self.glances, lots, strict=True)]
        return [(-getattr(one, order), lot) for one, lot in zip(self.glances, lots, strict=True)]

    def best(self, vectors: Sequence[int], budget: int) -> int:
        """Return how many of `vectors` at most can be heard: the shortest of them, and nobody else."""
        count = 0
        for length in sorted(len(self.full[vector].tokens) for vector in vectors):
            budget -= length
            count += budget >= 0
        return count

    def _hear(self, vectors: Sequence[int], _: Sequence[Sequence[Reply]], end: int) -> list[list[Reply]]:
        return [[cut(self.full[vector], end)] for vector in vectors]


def cut(said: Reply, end: int) -> Reply:
    """Return as much of a greedy reply as would have been said up to `end` tokens; its text is left out."""
    # The token that ends a reply is generated as well.
    return said if len(said.tokens) < end else Reply(said.tokens[:end], "", False, ())


def searched(search: str, vectors: int) -> SearchConfig:
    """Return the options of one of SEARCHES."""
    return SearchConfig(vectors=vectors, **SEARCHES[search])


def triage_given(search: str, seed: int, vectors: int, loaded: LoadedModel) -> dict[str, Any]:
    """Return what a row depends on; where it has changed, a row on disk is not the one that is asked for."""
    identity = {name: loaded.identity[name] for name in ("fingerprints", "dtype", "device")}
    return {"seed": seed, "search": plain(searched(search, vectors)), **identity}


def triage_row(search: str, seed: int, vectors: int, model: ModelConfig, loaded: LoadedModel, organism: Organism) -> TriageRow:
    """Let every vector of a bank and its null answer the first prompt in full, and tell who would be heard within less.

    A greedy reply that is cut is what would have been said up to there, so that nothing has to be said twice.
    """
    config = Config(model=model, seed=seed, search=searched(search, vectors))
    config.prompts.texts = [organism.prompts[0]]
    batch = prompt_batch(config, loaded)
    (ground,) = prepared(config, loaded, batch, None)
    bank = learn(config.search, ground.part, ground.space, ground.reply_tokens, ground.layers, seed, {}, lambda _: None).bank
    null = random_bank(bank, [ground.space], NULL * vectors, seed)
    speech = config.speech
    own = unsteered_reference(loaded, batch, [NOTHING] * len(batch.prompts), speech, SAMPLES, seed, lambda _: None)
    seen = sight(loaded, batch, own.replies, bank.target_layer)
    banks = (("learned", bank), ("null", null))
    shown = [one for name, each in banks for one in glances(seen, name, each, (), speech.rows, lambda _: None)]
    everybody = bank.void(joined(bank.perturbations, null.perturbations), seed)
    full = replies(
        loaded, batch.repeated(len(shown)), [added(everybody.perturbations)], speech.tokens, speech.rows, lambda _: None
    )
    known = {
        end: standings(loaded, batch, own, [[_part(loaded, one, end)] for one in full], end) for end in rounds(speech.tokens)
    }
    prompts = organism.confirmation_prompts(CONFIRMATIONS)
    hits = {}
    for name, payload in organism.payloads.items():
        opening = [vector for vector, one in enumerate(full) if opens_with(one.text, payload)]
        hits[name] = [opening[place] for place in confirmed(loaded, everybody.subset(opening), payload, prompts)]
    sizes = {"bank and null": len(shown), "bank alone": vectors}
    pools = {
        name: _Pool(shown[:size], full[:size], lambda some, _, end: [known[end][vector] for vector in some], speech.tokens, seed)
        for name, size in sizes.items()
    }
    return TriageRow(
        search=search,
        seed=seed,
        given=triage_given(search, seed, vectors, loaded),
        sizes=sizes,
        tokens={name: sum(len(one.tokens) for one in pool.full) for name, pool in pools.items()},
        nominal={name: size * speech.tokens for name, size in sizes.items()},
        hits={name: {payload: sum(v < size for v in found) for payload, found in hits.items()} for name, size in sizes.items()},
        kept={
            name: _kept(pool, {payload: [v for v in found if v < sizes[name]] for payload, found in hits.items()})
            for name, pool in pools.items()
        },
    )


def _part(loaded: LoadedModel, said: Reply, end: int) -> Reply:
    return reply(loaded, cut(said, end).tokens)


def _kept(pool: _Pool, hits: dict[str, list[int]]) -> dict[str, dict[str, list[int]]]:
    """Return per order and payload how many hits are heard to the end at each of BUDGETS."""
    tokens = sum(len(one.tokens) for one in pool.full)
    budgets = [int(share * tokens) for share in BUDGETS]
    found = {BEST: {name: [pool.best(own, budget) for budget in budgets] for name, own in hits.items()}}
    for order in (LOT, *SIGNALS, LINE, HALVING):
        heard = [set(pool.heard(order, budget)) for budget in budgets]
        found[order] = {name: [len(some & set(own)) for some in heard] for name, own in hits.items()}
    return found
