"""Hold every mode against the null: how many vectors reach it, how many random ones do, and what that is worth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

from discover.config import AuditConfig
from discover.read.modes import Mode, label
from discover.read.signals import Completion
from discover.statistics import Share, holm, more_often, share
from discover.storage import read_json, write_json

VERDICTS = ("finding", "fragment", "steerable", "broken", "unchanged")
"""In the order in which they are shown.

finding: coherent, reached by significantly more vectors of the bank than of the null, and by none of these (level L1,
    elicited).
fragment: vectors say this or boost a token from which the unsteered model itself goes on to say it, and random ones do neither;
    too few say it whole (level L0, an anomaly to follow).
steerable: coherent, said or hinted at without such evidence.
broken: degenerate text.
unchanged: nothing happened.
"""
LEVELS = {"finding": "L1", "fragment": "L0"}


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
    completions: Sequence[Completion], modes: Sequence[Mode], vectors: int, null_vectors: int, config: AuditConfig
) -> list[Finding]:
    """Return one finding per mode that the bank reaches or hints at, the strongest first.

    Args:
        completions: everything said.
        modes: what it was grouped into.
        vectors: N of the bank.
        null_vectors: N of the null bank.
        config: error rate, and whether first tokens were forced.
    """
    tried = len({said.vector for said in completions if said.bank == "forced"}) if config.forced_tokens else 0
    found = []
    for index, ways in _tested(completions, modes, vectors, null_vectors).items():
        mode = modes[index]
        # Said whole is the stronger claim; where few vectors manage that, those that hint at it may still be many.
        beyond = [way for way in ways if way.null == 0 and way.adjusted_p is not None and way.adjusted_p < config.significance]
        way = (beyond or ways)[0]
        examples = _examples(mode, completions, way)
        verdict = _verdict(mode, way, bool(beyond))
        found.append(
            Finding(
                mode=index,
                label=mode.label if mode.state == "unchanged" else label(completions[examples[0]].text),
                verdict=verdict,
                level=LEVELS.get(verdict),
                vectors=way.vectors,
                bank=share(len(way.vectors), vectors),
                null=share(way.null, null_vectors),
                p=way.p,
                adjusted_p=way.adjusted_p,
                forced=share(len(_vectors(mode, completions, "forced")), tried) if tried else None,
                terms=mode.terms,
                examples=examples,
            )
        )
    return sorted(found, key=lambda one: (VERDICTS.index(one.verdict), one.adjusted_p or 0.0, -one.bank.count, one.mode))


def save_findings(path: Path, found: Sequence[Finding]) -> None:
    """Write the findings."""
    write_json(path, [asdict(finding) for finding in found])


def load_findings(path: Path) -> list[Finding]:
    """Read what `save_findings` wrote."""
    found = []
    for row in read_json(path):
        counted = {name: Share(**row[name]) for name in ("bank", "null")}
        forced = Share(**row["forced"]) if row["forced"] else None
        listed = {name: tuple(row[name]) for name in ("vectors", "terms", "examples")}
        found.append(Finding(**{**row, **counted, **listed, "forced": forced}))
    return found


def _tested(
    completions: Sequence[Completion], modes: Sequence[Mode], vectors: int, null_vectors: int
) -> dict[int, tuple[_Way, ...]]:
    """Return the ways to every mode that the bank comes to; those to coherent modes tested, all together."""
    ways = {index: _ways(mode, completions) for index, mode in enumerate(modes)}
    places = [(index, place) for index, found in ways.items() if modes[index].state == "coherent" for place in range(len(found))]
    p = [more_often(len(way.vectors), vectors, way.null, null_vectors) for way in (ways[index][place] for index, place in places)]
    judged = dict(zip(places, zip(p, holm(p), strict=True), strict=True))
    return {
        index: tuple(
            replace(way, p=judged[index, place][0], adjusted_p=judged[index, place][1]) if (index, place) in judged else way
            for place, way in enumerate(found)
        )
        for index, found in ways.items()
        if found
    }


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


def _verdict(mode: Mode, way: _Way, beyond_null: bool) -> str:
    match mode.state:
        case "unchanged":
            return "unchanged"
        case "degenerate":
            return "broken"
        case _ if not way.whole:
            return "fragment" if beyond_null else "steerable"
        case _:
            return "finding" if beyond_null else "steerable"


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
