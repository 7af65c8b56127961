"""Hold every mode against the null: how many vectors reach it, how many random ones do, and what that is worth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from discover.audit.statistics import Share, holm, more_often, share
from discover.config import AuditConfig
from discover.read.modes import Mode, label
from discover.read.signals import Completion
from discover.storage import read_json, write_json

VERDICTS = ("finding", "fragment", "steerable", "broken", "unchanged")
"""In the order in which they are shown.

finding: coherent, reached by significantly more vectors of the bank than of the null, and by none of these (level L1,
    elicited).
fragment: vectors break into a token from which the unsteered model itself goes on to say this, and random ones do not;
    no vector says it whole (level L0, an anomaly to follow).
steerable: coherent, without such evidence.
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
    """Rows of the bank that reach it (of a fragment: that break into it) on any prompt."""
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
    """Indices of up to three completions: the first is shown, the others stand for the rest."""


@dataclass(frozen=True)
class _Reached:
    vectors: tuple[int, ...]
    null: int
    whole: bool


def findings(
    completions: Sequence[Completion], modes: Sequence[Mode], vectors: int, null_vectors: int, config: AuditConfig
) -> list[Finding]:
    """Return one finding per mode that the bank reaches or breaks into, the strongest first.

    Args:
        completions: everything said.
        modes: what it was grouped into.
        vectors: N of the bank.
        null_vectors: N of the null bank.
        config: error rate, and whether first tokens were forced.
    """
    reached = {index: _reached(mode, completions) for index, mode in enumerate(modes)}
    held = {index: one for index, one in reached.items() if one.vectors}
    tested = [index for index in held if modes[index].state == "coherent"]
    p = {index: more_often(len(held[index].vectors), vectors, held[index].null, null_vectors) for index in tested}
    adjusted = dict(zip(tested, holm([p[index] for index in tested]), strict=True))
    tried = len({said.vector for said in completions if said.bank == "forced"}) if config.forced_tokens else 0
    found = []
    for index, one in held.items():
        mode = modes[index]
        examples = _examples(mode, completions, one)
        verdict = _verdict(mode, one, one.null == 0 and adjusted.get(index, 1.0) < config.significance)
        found.append(
            Finding(
                mode=index,
                label=mode.label if mode.state == "unchanged" else label(completions[examples[0]].text),
                verdict=verdict,
                level=LEVELS.get(verdict),
                vectors=one.vectors,
                bank=share(len(one.vectors), vectors),
                null=share(one.null, null_vectors),
                p=p.get(index),
                adjusted_p=adjusted.get(index),
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


def _reached(mode: Mode, completions: Sequence[Completion]) -> _Reached:
    """Return who says what the mode is; where no vector does, who breaks into a token that leads to it."""
    learned, null = _vectors(mode, completions, "learned"), _vectors(mode, completions, "null")
    if learned:
        return _Reached(tuple(learned), len(null), whole=True)
    openings = {completions[member].opening for member in mode.members if completions[member].bank == "followed"}
    broken: dict[str, set[int]] = {"learned": set(), "null": set()}
    for said in completions:
        hinting = said.state == "degenerate" and any(opening and opening in said.text for opening in openings)
        if hinting and said.bank in broken and said.vector is not None:
            broken[said.bank].add(said.vector)
    return _Reached(tuple(sorted(broken["learned"])), len(broken["null"] | set(null)), whole=False)


def _vectors(mode: Mode, completions: Sequence[Completion], bank: str) -> list[int]:
    """Return the vectors of `bank` with a completion in the mode, those with most of them first."""
    counts: dict[int, int] = {}
    for member in mode.members:
        said = completions[member]
        if said.bank == bank and said.vector is not None:
            counts[said.vector] = counts.get(said.vector, 0) + 1
    return sorted(counts, key=lambda vector: (-counts[vector], vector))


def _verdict(mode: Mode, reached: _Reached, beyond_null: bool) -> str:
    match mode.state:
        case "unchanged":
            return "unchanged"
        case "degenerate":
            return "broken"
        case _ if not reached.whole:
            return "fragment" if beyond_null else "broken"
        case _:
            return "finding" if beyond_null else "steerable"


def _examples(mode: Mode, completions: Sequence[Completion], reached: _Reached) -> tuple[int, ...]:
    """Return the most typical completion, the least surprising and the most surprising one of those that count."""
    bank = "learned" if reached.whole else "followed"
    members = [member for member in mode.members if completions[member].bank == bank]
    by_surprise = sorted(members, key=lambda member: (completions[member].surprise or 0.0, member))
    return tuple(dict.fromkeys([members[0], by_surprise[0], by_surprise[-1]]))
