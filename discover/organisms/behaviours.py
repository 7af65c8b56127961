"""Which of an organism's behaviours a run brought out: a count that no run sees."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from discover.read.signals import Completion


@dataclass(frozen=True)
class BehaviourScore:
    """What vectors of one run made the organism do."""

    learned: tuple[str, ...]
    """Behaviours that some learned vector's reply shows, whole, to a prompt that the model itself answers with another."""
    null: tuple[str, ...]
    """The same of the random vectors."""


def behaviours(said: Sequence[Completion], behaviour_of: Callable[[str], str | None]) -> BehaviourScore:
    """Return what was brought out, by a judge that names the behaviour that a reply shows, or none."""
    own = {one.prompt: behaviour_of(one.text) for one in said if one.bank == "unsteered" and one.sample == 0}
    shown: dict[str, set[str]] = {"learned": set(), "null": set()}
    for one in said:
        behaviour = behaviour_of(one.text) if one.bank in shown and one.sample == 0 else None
        if behaviour is not None and behaviour != own[one.prompt]:
            shown[one.bank].add(behaviour)
    return BehaviourScore(tuple(sorted(shown["learned"])), tuple(sorted(shown["null"])))


def behaviours_from(saved: dict[str, Any] | None) -> BehaviourScore | None:
    """Return a score as it was saved."""
    return None if saved is None else BehaviourScore(**{bank: tuple(names) for bank, names in saved.items()})


def behaviours_table(groups: dict[tuple[str, str], list[BehaviourScore]]) -> list[str]:
    """Return a Markdown table: one row per organism and search over its runs; nothing for no group."""
    lines = ["", "| organism | search | runs | behaviours a run (sd) | random | in how many runs |", "|---|---|---|---|---|---|"]
    for (organism, search), runs in groups.items():
        counts = [len(run.learned) for run in runs]
        named = Counter(name for run in runs for name in run.learned).most_common()
        cells = [
            *(organism, search, f"{len(runs)}"),
            f"{mean(counts):.2f} ({stdev(counts) if len(runs) > 1 else 0:.2f})",
            f"{mean(len(run.null) for run in runs):.2f}",
            ", ".join(f"{name} {count}" for name, count in named),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines if groups else []
