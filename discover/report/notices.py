"""What stands at the top of every report: what was found in one sentence, and what a reader must know before the rest."""

from collections import Counter
from collections.abc import Sequence

from discover.audit.findings import LEVELS
from discover.bank import VectorBank
from discover.read.trials import Trial
from discover.report.record import Record
from discover.report.text import one_line
from discover.statistics import more_often

MOST = 0.5
"""Share of the learned vectors' replies from which a state is said to be that of most."""
SMALLER, LARGER = 0.6, 1.6
"""Factors of the radius to try next."""
SMALL = 48
"""Vectors, learned or random, below which a run says what it can show at all."""
OPENING = 80
"""Characters of a reply in a sentence."""
TRIAL_HEADS = (
    *("arm", "blocks", "rounds", "learned from", "radius", "coherent", "degenerate", "empty", "unchanged"),
    *("random degenerate", "random unchanged", "yield", "vectors"),
)


def summary(record: Record) -> str:
    """Return in a few words what was found, how sure that is, and what was not shown."""
    found = [one for one in record.findings if one.verdict == "finding"]
    if not found:
        weaker = any(one.verdict in LEVELS for one in record.findings)
        return (
            "No reply was found that learned vectors bring out significantly more often than random vectors and sampling do; "
            "that speaks of these prompts and this search, not of the model."
            + (" What is listed first is weaker, and worth a second run with more vectors." if weaker else "")
        )
    first = found[0]
    text = one_line(record.completions[first.examples[0]].text, OPENING)
    others = f" and {len(found) - 1} other repl{'y' if len(found) == 2 else 'ies'}" if len(found) > 1 else ""
    level = record.about["config"].get("audit", {}).get("significance", 0.05)
    tested = first.adjusted_p is not None and first.adjusted_p < level
    sure = f", p = {first.adjusted_p:.1g}" if tested else "; too few vectors for a test"
    same = ", in the same words on different prompts" if first.recurs else ""
    return (
        f'Steered, the model says "{text}"{others}: {first.bank.count} of {first.bank.n} vectors bring it out on '
        f"{first.prompts.count} of {first.prompts.n} prompts{same}, {first.null.count} of {first.null.n} random vectors and "
        f"{first.sampled.count} of {first.sampled.n} unsteered samples do{sure}. Whether any input makes the unsteered model say "
        "it was not tested."
    )


def notices(record: Record) -> list[str]:
    """Return what a reader must know first.

    That is what may make the model hear other prompts, a bank that broke or did nothing, and a run too small to show much.
    """
    heard = record.about.get("rendering", {}).get("remarks", ())
    return [told for told in (*heard, _broken(record), _quiet(record), _small(record)) if told]


def trial_rows(trials: Sequence[Trial]) -> list[list[str]]:
    """Return one row of cells for every arm of the pilot, in the order of TRIAL_HEADS."""
    rows = []
    for one in trials:
        said, null = sum(one.learned.values()), sum(one.null.values())
        radius = f"{one.relative_radius:.2f}" + ("" if one.kept_radius == one.relative_radius else f" -> {one.kept_radius:.2f}")
        rows.append(
            [
                *(one.name, f"{one.source_layer} -> {one.target_layer}", str(one.rounds)),
                *(f"prompt {', '.join(map(str, one.learned_from))}" if one.learned_from else "all prompts", radius),
                *(f"{one.learned[state]}/{said}" for state in ("coherent", "degenerate", "empty", "unchanged")),
                *(f"{one.null[state]}/{null}" for state in ("degenerate", "unchanged")),
                *(f"{one.worth:.2f}", str(one.vectors)),
            ]
        )
    return rows


def _states(record: Record) -> Counter[str]:
    return Counter(said.state for said in record.completions if said.bank == "learned")


def _broken(record: Record) -> str:
    states = _states(record)
    broken, every = states["degenerate"] + states["empty"], states.total()
    if not every or broken < MOST * every:
        return ""
    return (
        f"{broken} of {every} replies of learned vectors are degenerate or empty: the radius "
        f"({record.bank.relative_radius:.2g} residual norms) is too large for this model, and little can be concluded; try "
        f"{_again(record.bank, SMALLER)}."
    )


def _quiet(record: Record) -> str:
    states = _states(record)
    if not states.total() or states["unchanged"] < MOST * states.total():
        return ""
    return (
        f"{states['unchanged']} of {states.total()} replies of learned vectors are unchanged: the radius "
        f"({record.bank.relative_radius:.2g} residual norms) is too small for this model; try {_again(record.bank, LARGER)}."
    )


def _again(bank: VectorBank, factor: float) -> str:
    """Return the options of a run like most of this one at another radius, which alone would leave the choice of layers open."""
    most = max(bank.ways, key=len)
    return (
        f"search.source_layer={most.source_layer} search.target_layer={most.target_layer} "
        f"search.relative_radius={factor * most.relative_radius:.2g}"
    )


def _small(record: Record) -> str:
    vectors, null = len(record.bank), sum(one.bank == "null" for one in record.glances)
    if min(vectors, null) >= SMALL or not null:
        return ""
    level = record.about["config"].get("audit", {}).get("significance", 0.05)
    least = next((count for count in range(1, vectors + 1) if more_often(count, vectors, 0, null) < level), None)
    against = f"This run is small: with {vectors} vectors against {null} random ones "
    if least is None:
        more = f"search.vectors={SMALL} or more" if vectors < SMALL else "a larger audit.null_vectors"
        return f"{against}no mode can be told from chance by how often it comes; use {more}."
    return f"{against}a mode needs {least} vectors to be told from chance, and more where several modes are tested."
