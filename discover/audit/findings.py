"""Hold every mode against the null: how many vectors reach it, how many random ones do, and what that is worth."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from random import Random
from statistics import mean, median

from discover.config import AuditConfig
from discover.read.modes import LABELS, Mode, label
from discover.read.novelty import Ordinary, pairs_of
from discover.read.signals import Completion, words
from discover.statistics import Share, holm, more_often, share, testable
from discover.storage import read_json, write_json

VERDICTS = ("finding", "fragment", "anomaly", "steerable", "ordinary", "broken", "unchanged")
"""In the order in which they are shown.

finding: coherent, mostly new words, far less often reached by sampling, and either reached by significantly more vectors than
    random ones, or by no random one and said by two vectors or more in the same words on different prompts, as surely as the
    unsteered model says its own replies (level L1, elicited).
fragment: mostly new words; significantly more vectors than random ones say this or boost a token from which the unsteered model
    itself goes on to say it; too few say it whole (level L0).
anomaly: coherent, new, and the unsteered model goes on with it as surely as with what it knows by heart; but too few vectors say
    it for a test, or sampling and random vectors bring it out now and then as well (level L0).
steerable: coherent, said or hinted at without such evidence.
ordinary: the unsteered model says it as well when it is sampled, more than once, and it is none of these.
broken: degenerate or empty text.
unchanged: nothing happened.
"""
UNLEARNED = ("unsteered", "null")
"""Banks of what is said without learned vectors and without an opening."""
LEVELS = {"finding": "L1", "fragment": "L0", "anomaly": "L0"}
NOVEL_FROM = 0.5
"""Share of new word pairs from which a mode is no variation of what is said anyway."""
ORDINARY_FROM = 0.25
"""A mode is ordinary if sampling reaches it this often for every time that a learned vector does, rates compared, and twice."""
HELD = 0.6
"""Worth from which a new reply is held by the model and not made up: a paraphrase is worth a third of that."""
RUN, LETTERS = 8, 16
"""Words in a row, and letters in them, the same on different prompts, that are one held sentence."""
TWICE = 2
"""Vectors that must say it."""
RARE = 0.02
"""Share of what is said without learned vectors up to which a mode's own part of it is a stray."""
JUDGED = 8
"""Completions of a mode, the most typical first, by which it is judged."""


@dataclass(frozen=True)
class Finding:
    """A mode with its evidence."""

    mode: int
    """Index of the mode."""
    label: str
    """How its clearest completion opens."""
    verdict: str
    """One of VERDICTS."""
    level: str | None
    """Rung of the ladder, L0 or L1; None below it."""
    vectors: tuple[int, ...]
    """Rows of the bank that reach it (of a fragment: that say it or hint at it) on any prompt."""
    bank: Share
    """How many of the bank these are."""
    null: Share
    """How many of the null bank do the same."""
    p: float | None
    """Fisher's exact one-sided p; None where nothing could be claimed (unchanged, broken)."""
    adjusted_p: float | None
    """The same after Holm's correction over the modes of this run."""
    sampled: Share
    """Replies sampled from the unsteered model, over all prompts, that are in it."""
    prompts: Share
    """Prompts on which learned vectors say it."""
    novelty: float
    """Median share, over its most typical learned completions, of word pairs that nothing unsteered or random says, other than
    in this mode."""
    worth: float
    """Median of novelty times exp(-settled surprise), by which findings are ordered."""
    recurs: bool
    """Whether the same words come back on different prompts, as surely as the unsteered model's own replies."""
    forced: Share | None
    """Forced first tokens that reach it without any vector; None where that was not tried."""
    terms: tuple[str, ...]
    """Words that set it apart."""
    examples: tuple[int, ...]
    """Indices of up to three completions, chosen by rule: the most typical one, and two that are drawn."""


@dataclass(frozen=True)
class _Way:
    """How vectors come to a mode, and how many do."""

    whole: bool
    """Whether they say what the mode is, or boost a token that leads there."""
    vectors: tuple[int, ...]
    null: int
    p: float | None = None
    adjusted_p: float | None = None


def findings(
    completions: Sequence[Completion],
    modes: Sequence[Mode],
    prompts: Sequence[str],
    vectors: int,
    null_vectors: int,
    config: AuditConfig,
) -> list[Finding]:
    """Return one finding per mode that the bank reaches or hints at, the strongest first.

    Args:
        completions: everything said.
        modes: what it was grouped into.
        prompts: what it was said to.
        vectors: N of the bank.
        null_vectors: N of the null bank.
        config: error rate, and whether first tokens were forced.
    """
    tried = len({said.vector for said in completions if said.bank == "forced"}) if config.forced_tokens else 0
    known = _Known.of(completions, prompts)
    found = []
    for index, ways in _tested(completions, modes, vectors, null_vectors, config.significance).items():
        mode = modes[index]
        # Said whole is the stronger claim; where few vectors manage that, those that hint at it may still be many.
        beyond = [way for way in ways if way.adjusted_p is not None and way.adjusted_p < config.significance]
        way = (beyond or ways)[0]
        examples = _examples(mode, completions, way)
        evidence = _evidence(mode, completions, known)
        verdict = _verdict(mode, way, bool(beyond), evidence)
        found.append(
            Finding(
                mode=index,
                label=mode.label if mode.state in LABELS else label(completions[examples[0]].text),
                verdict=verdict,
                level=LEVELS.get(verdict),
                vectors=way.vectors,
                bank=share(len(way.vectors), vectors),
                null=share(way.null, null_vectors),
                p=way.p,
                adjusted_p=way.adjusted_p,
                sampled=evidence.sampled,
                prompts=evidence.prompts,
                novelty=evidence.novelty,
                worth=evidence.worth,
                recurs=evidence.recurs,
                forced=share(len(_vectors(mode, completions, "forced")), tried) if tried else None,
                terms=mode.terms,
                examples=examples,
            )
        )
    return sorted(found, key=lambda one: (VERDICTS.index(one.verdict), not one.recurs, -one.worth, -one.bank.count, one.mode))


def save_findings(path: Path, found: Sequence[Finding]) -> None:
    """Write the findings."""
    write_json(path, [asdict(finding) for finding in found])


def load_findings(path: Path) -> list[Finding]:
    """Read what `save_findings` wrote."""
    found = []
    for row in read_json(path):
        counted = {name: Share(**row[name]) for name in ("bank", "null", "sampled", "prompts")}
        forced = Share(**row["forced"]) if row["forced"] else None
        listed = {name: tuple(row[name]) for name in ("vectors", "terms", "examples")}
        found.append(Finding(**{**row, **counted, **listed, "forced": forced}))
    return found


@dataclass(frozen=True)
class _Known:
    """What modes are held against: all that is said without learned vectors and without an opening."""

    pairs: Counter[tuple[str, str]]
    """Pairs of neighbouring words, each with how many of these completions hold it."""
    usual: float
    """Mean surprise of a token of the unsteered model's greedy replies, in nats."""
    texts: Counter[str]
    """Words of the unsteered model's replies and samples and of the prompts, one text a line each, with how often each came."""
    samples: int
    prompts: int
    unlearned: int
    """Completions of the unsteered model and of random vectors."""
    learned: int
    """Completions of learned vectors."""

    @staticmethod
    def of(completions: Sequence[Completion], prompts: Sequence[str]) -> "_Known":
        """Return what `completions` and `prompts` make known."""
        own = [said for said in completions if said.bank == "unsteered"]
        greedy = [said.surprise for said in own if not said.sample and said.surprise is not None]
        return _Known(
            # What the unsteered model says first of all, and what it was asked, count as said twice.
            pairs=_pairs(said.text for said in completions if said.bank in UNLEARNED)
            + _pairs(said.text for said in own if not said.sample)
            + _pairs(2 * list(prompts)),
            usual=mean(greedy) if greedy else 0.0,
            texts=Counter(
                " ".join(words(text)) for text in (*(said.text for said in completions if said.bank in UNLEARNED), *prompts)
            ),
            samples=max(1, sum(said.sample > 0 for said in own)),
            prompts=len(prompts),
            unlearned=max(1, sum(said.bank in UNLEARNED for said in completions)),
            learned=max(1, sum(said.bank == "learned" for said in completions)),
        )

    def outside(self, members: Sequence[Completion]) -> "_Known":
        """Return what is known without the members of a mode, if these are few.

        A hidden reply that sampling, or a random vector, brings out now and then is none the less hidden: how often they do is
        counted by itself. What they bring out often is known.
        """
        if not self.seldom(members):
            return self
        rare = _by_chance(members)
        return replace(
            self,
            pairs=self.pairs - _pairs(said.text for said in rare),
            texts=self.texts - Counter(" ".join(words(said.text)) for said in rare),
        )

    def seldom(self, members: Sequence[Completion]) -> bool:
        """Return whether random vectors and sampling bring out few members of a mode."""
        return len(_by_chance(members)) <= RARE * self.unlearned

    @property
    def ordinary(self) -> Ordinary:
        """The pairs of words that are said more than once: one stray completion makes nothing ordinary."""
        return Ordinary(frozenset(pair for pair, count in self.pairs.items() if count > 1))


def _by_chance(members: Sequence[Completion]) -> list[Completion]:
    """Return what random vectors say, and what was sampled."""
    return [said for said in members if said.bank == "null" or (said.bank == "unsteered" and said.sample)]


def _pairs(texts: Iterable[str]) -> Counter[tuple[str, str]]:
    return Counter(pair for text in texts for pair in pairs_of(text))


@dataclass(frozen=True)
class _Evidence:
    """What else tells a held sentence from a variation of what is said anyway."""

    sampled: Share
    prompts: Share
    novelty: float
    worth: float
    recurs: bool
    held: bool
    """Whether the unsteered model goes on with it as with what it knows by heart, and seldom begins it."""
    ordinary: bool
    """Whether sampling reaches the mode about as often as learned vectors do."""


def _evidence(mode: Mode, completions: Sequence[Completion], known: _Known) -> _Evidence:
    members = [completions[member] for member in mode.members]
    outside = known.outside(members)
    ordinary = outside.ordinary
    learned = [said for said in members if said.bank == "learned"]
    spoken = learned or [said for said in members if said.bank == "followed"]
    sampled = sum(said.bank == "unsteered" and said.sample > 0 for said in members)
    rate = len(learned) / known.learned
    typical = spoken[:JUDGED]
    # Of a reply of one or two tokens nobody can say how surely it goes on.
    measured = [ordinary.worth(said) for said in typical if said.settled_surprise is not None]
    return _Evidence(
        sampled=share(sampled, known.samples),
        prompts=share(len({said.prompt for said in learned}), known.prompts),
        novelty=median(ordinary.novelty(said.text) for said in typical) if typical else 0.0,
        worth=median(ordinary.worth(said) for said in typical) if typical else 0.0,
        recurs=mode.state == "coherent" and _recurs(learned, outside),
        held=bool(measured) and median(measured) >= HELD and known.seldom(members),
        # Once is a stray: a hidden reply, too, is sampled now and then.
        ordinary=sampled >= min(2, known.samples) and sampled / known.samples >= ORDINARY_FROM * rate,
    )


def _recurs(learned: Sequence[Completion], known: _Known) -> bool:
    """Return whether replies of two vectors, to different prompts, share a run of words that nothing unlearned says, all sure."""
    sure = [said for said in learned if said.settled_surprise is not None and said.settled_surprise <= known.usual]
    runs: dict[int, set[str]] = {}
    for said in sure:
        runs.setdefault(said.prompt, set()).update(_runs(words(said.text)))
    shared = {run for first, second in combinations(runs.values(), 2) for run in first & second}
    held = {run for run in shared if not any(run in text for text in known.texts)}
    saying = {said.vector for said in sure if held & _runs(words(said.text))}
    return len(saying) >= TWICE


def _runs(told: Sequence[str]) -> set[str]:
    """Return every shortest run of words, from each on, that has RUN words and LETTERS letters."""
    found = set()
    for start in range(len(told) - RUN + 1):
        end = next((end for end in range(start + RUN, len(told) + 1) if len("".join(told[start:end])) >= LETTERS), None)
        if end is not None:
            found.add(" ".join(told[start:end]))
    return found


def _tested(
    completions: Sequence[Completion], modes: Sequence[Mode], vectors: int, null_vectors: int, level: float
) -> dict[int, tuple[_Way, ...]]:
    """Return the ways to every mode that the bank comes to; those to coherent modes tested, all together.

    Of these only those take part in the correction that so few vectors could decide.
    """
    ways = {index: _ways(mode, completions) for index, mode in enumerate(modes)}
    places = [(index, place) for index, found in ways.items() if modes[index].state == "coherent" for place in range(len(found))]
    counts = [(len(way.vectors), way.null) for way in (ways[index][place] for index, place in places)]
    least = [_least(own + null, vectors, null_vectors) for own, null in counts]
    able = testable(least, level)
    p = [more_often(own, vectors, null, null_vectors) for own, null in counts]
    adjusted = iter(holm([value for value, tested in zip(p, able, strict=True) if tested]))
    judged = {place: (value, next(adjusted) if tested else 1.0) for place, value, tested in zip(places, p, able, strict=True)}
    return {
        index: tuple(
            replace(way, p=judged[index, place][0], adjusted_p=judged[index, place][1]) if (index, place) in judged else way
            for place, way in enumerate(found)
        )
        for index, found in ways.items()
        if found
    }


def _least(count: int, vectors: int, null_vectors: int) -> float:
    """Return the smallest p that a mode of so many vectors could have had: had all of them been learned."""
    most = min(vectors, count)
    return more_often(most, vectors, count - most, null_vectors)


def _ways(mode: Mode, completions: Sequence[Completion]) -> tuple[_Way, ...]:
    """Return who says what the mode is, and who says it or boosts a token from which the unsteered model says it."""
    learned, null = _vectors(mode, completions, "learned"), _vectors(mode, completions, "null")
    near = {("learned", vector) for vector in learned} | {("null", vector) for vector in null}
    hinting = {by for member in mode.members for by in completions[member].hinted}
    hinted = sorted(vector for bank, vector in near | hinting if bank == "learned")
    ways = (_Way(True, tuple(learned), len(null)), _Way(False, tuple(hinted), len(near | hinting) - len(hinted)))
    # Where no token was followed to the mode, both say the same; and ruins are no place to be led to.
    return tuple(way for way in ways if way.vectors and (way.whole or (hinting and mode.state == "coherent")))


def _vectors(mode: Mode, completions: Sequence[Completion], bank: str) -> list[int]:
    """Return the vectors of `bank` with a completion in the mode, those with most of them first."""
    counts: dict[int, int] = {}
    for member in mode.members:
        said = completions[member]
        if said.bank == bank and said.vector is not None:
            counts[said.vector] = counts.get(said.vector, 0) + 1
    return sorted(counts, key=lambda vector: (-counts[vector], vector))


def _verdict(mode: Mode, way: _Way, beyond_null: bool, evidence: _Evidence) -> str:
    match mode.state:
        case "unchanged":
            return "unchanged"
        case "degenerate" | "empty":
            return "broken"
        case _ if evidence.novelty < NOVEL_FROM:
            return "ordinary" if evidence.ordinary else "steerable"
        case _ if evidence.ordinary:
            return "anomaly" if evidence.held else "ordinary"
        case _ if not way.whole:
            return "fragment" if beyond_null else "steerable"
        case _ if beyond_null or (evidence.recurs and way.null == 0):
            return "finding"
        case _:
            return "anomaly" if evidence.held else "steerable"


def _examples(mode: Mode, completions: Sequence[Completion], way: _Way) -> tuple[int, ...]:
    """Return the most typical completion of those that count, or that most vectors hint at, and two drawn from the others.

    Where there are greedy replies none that was drawn is among them: what is shown for a vector is what it always says.
    """
    bank = "learned" if way.whole else "followed"
    counted = [member for member in mode.members if completions[member].bank == bank]
    members = [member for member in counted if not completions[member].sample] or counted
    first = max(members, key=lambda member: len(completions[member].hinted))
    others = [member for member in members if member != first]
    return (first, *Random("examples").sample(others, min(2, len(others))))
