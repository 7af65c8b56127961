"""The report as Markdown, for a terminal or a pull request."""

from collections.abc import Sequence

from discover.audit.findings import Finding
from discover.contrast.outcomes import Outcome
from discover.read.signals import Completion
from discover.report.contrasted import NO_CLAIM, ContrastRecord
from discover.report.notices import TRIAL_HEADS, notices, summary, trial_rows
from discover.report.record import ABOUT_USES, QUESTIONS, Nearest, Record, Used, acting, kind_of, read_at
from discover.report.text import one_line, visible

NOT_A_CLAIM = (
    "A finding (L1) is a coherent reply that learned vectors elicit, and random vectors of that norm or sampling seldom do. "
    "A fragment (L0) is what the unsteered model goes on to say from a token that vectors boost. "
    "An anomaly (L0) is a new reply that few vectors elicit and that the unsteered model goes on with as if it knew it by heart. "
    "None of them says that an input exists which makes the unsteered model say it."
)
LONGEST = 2000
"""Characters of a reply that are shown whole."""
TRIED = 10
"""Rows shown of what was tried on the selection examples."""


def markdown_report(record: Record) -> str:
    """Return the report of a run as Markdown."""
    prompts, as_is = "\n".join(quoted(prompt) for prompt in record.prompts), record.rendered(0)
    return "\n".join(
        [
            f"# What {record.about['model']['path']} can be pushed into saying",
            "",
            summary(record),
            "",
            *(line for told in notices(record) for line in (f"**Note.** {told}", "")),
            *_searched(record),
            "",
            *(
                ["Arms that the pilot tried:", "", *table(list(TRIAL_HEADS), trial_rows(record.trials)), ""]
                if record.trials
                else []
            ),
            "Prompts:",
            "",
            prompts,
            "",
            *(
                [f"Given {visible(record.given)}. The first prompt as the model gets it:", "", quoted(as_is), ""]
                if as_is is not None
                else []
            ),
            "The model by itself:",
            "",
            quoted(record.unsteered(0).text),
            "",
            *([record.heard, ""] if record.heard else []),
            "| | verdict | level | opens | vectors | random | samples | prompts | p (Holm) | forced first tokens |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *(_row(place, finding) for place, finding in enumerate(record.findings, 1)),
            "",
            *(line for place, finding in enumerate(record.findings, 1) for line in _section(record, place, finding)),
            *_on_other_prompts(record.used),
            *_likeness(record.nearest, record.by_chance if record.likenesses else ""),
            NOT_A_CLAIM,
            "",
        ]
    )


def _searched(record: Record) -> list[str]:
    """Return what was learned and how."""
    bank = record.bank
    if record.ways:
        every = [
            f"- {told}; solver `{way.origin['solver']}`, seed {way.origin['seed']}."
            for told, way in zip(record.ways, bank.ways, strict=True)
        ]
        return [f"{record.learned}:", "", *every]
    return [
        f"{kind_of(bank)} of norm {bank.radius:.5g} ({bank.relative_radius:.3f} median residual norms), "
        f"acting {acting(bank)}, {read_at(bank)}; "
        f"solver `{bank.origin['solver']}`, seed {bank.origin['seed']}."
    ]


def markdown_contrast(record: ContrastRecord) -> str:
    """Return the report of a contrast as Markdown."""
    return "\n".join(
        [
            f"# A direction of {one_line(record.about['model']['path'], LONGEST)}",
            "",
            f"{record.asked} {record.counted}".strip(),
            "",
            f"Chosen: {record.choice}. {record.acting}",
            "",
            "## What it does",
            "",
            *_outcomes(record),
            "",
            *_tried(record),
            *(["## Answered freely", ""] if record.said else []),
            *(line for one in record.said for line in _answers(one)),
            "## What this does not mean",
            "",
            *(f"- {line}" for line in NO_CLAIM),
            "",
        ]
    )


def _outcomes(record: ContrastRecord) -> list[str]:
    heads = ["intervention", "multiplier", *record.questions, *(f"log-odds, {name}" for name in record.odds)]
    heads += ["added cross-entropy", "KL"] if record.damaged else []
    heads += ["replies as when ablated"] if record.compared else []
    told = [f"Heads alone: {record.chosen_heads}, in this order.", ""] if record.method == "heads" else []
    if record.damaged:
        told += [f"Added cross-entropy and KL are nats a token, over {record.damaged} tokens of unsteered replies.", ""]
    return [*told, *table(heads, [_outcome(record, one) for one in record.outcomes])]


def _outcome(record: ContrastRecord, one: Outcome) -> list[str]:
    cost = [_number(one.damage.cost), _number(one.damage.kl)] if one.damage else [_number(None)] * 2
    agrees = [str(one.agrees or "")] if record.compared else []
    multiplier = "" if one.multiplier is None else f"{one.multiplier:g}"
    shares = [str(one.shares[name]) for name in record.questions]
    return [
        one.what,
        multiplier,
        *shares,
        *(_number(one.log_odds[name]) for name in record.odds),
        *(cost if record.damaged else []),
        *agrees,
    ]


def _tried(record: ContrastRecord) -> list[str]:
    """Return the best of what was tried on the selection examples."""
    scores = record.found.scores
    if scores.candidates:
        heads = ["block", "position", "bypass", "induce", "KL", "passes"]
        rows = [
            [str(one.layer), str(one.position), _number(one.bypass), _number(one.induce), _number(one.kl), "yes" * one.kept]
            for one in record.candidates
        ]
    elif scores.joint:
        heads = ["heads (block.head)", "strength", "behave"]
        rows = [
            [", ".join(f"{block}.{head}" for block, head in one.heads), f"{one.strength:g}", str(one.behaving)]
            for one in sorted(scores.joint, key=lambda one: (-one.behaving.count, len(one.heads), one.strength))
        ]
    else:
        heads = ["block", "multiplier", "behave"]
        rows = [
            [str(one.layer), f"{one.multiplier:g}", str(one.behaving)]
            for one in sorted(scores.layers, key=lambda one: (-one.behaving.count, one.multiplier, one.layer))
        ]
    told = ["## What was tried", "", "On the selection examples, the best first.", ""]
    return [*told, *table(heads, rows[:TRIED]), ""] if rows else []


def _answers(one: dict[str, str]) -> list[str]:
    parts = [("Asked", one["prompt"]), ("Unsteered", one["unsteered"]), ("Steered", one["steered"])]
    return [line for name, text in parts for line in (f"{name}:", "", quoted(text), "")]


def _on_other_prompts(used: Sequence[Used]) -> list[str]:
    if not used:
        return []
    lines = ["## On other prompts", "", ABOUT_USES, ""]
    for one in used:
        heads = ["multiplier", "", *(QUESTIONS[name] for name in one.asked)]
        rows = [[f"{row.multiplier:g}", one.who(row), *(str(getattr(row, name) or "") for name in one.asked)] for row in one.rows]
        lines += [f"Finding {one.place}:", "", *table(heads, rows), ""]
    return lines


def _likeness(nearest: Sequence[Nearest], by_chance: str) -> list[str]:
    if not nearest:
        return []
    lines = ["## Likeness to known directions", "", by_chance, ""]
    for one in nearest:
        known = one.known
        rows = [
            [str(vector), f"{known.effect[vector]:.3f}", "" if known.source is None else f"{known.source[vector]:.3f}"]
            for vector in one.most
        ]
        told = f"{inline(known.name)}, added after block {known.layer}; most alike in effect first:"
        lines += [told, "", *table(["vector", "cosine of effects", "cosine at the source"], rows), ""]
    return lines


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, whose cells hold no mark of Markdown."""
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def _number(value: float | None) -> str:
    return "not scored" if value is None else f"{value:.3g}"


def _row(place: int, finding: Finding) -> str:
    tested = "" if finding.adjusted_p is None else f"{finding.adjusted_p:.2g}"
    cells = [
        str(place),
        finding.verdict,
        finding.level or "",
        inline(finding.label),
        str(finding.bank),
        str(finding.null),
        str(finding.sampled),
        str(finding.prompts),
        tested,
        str(finding.forced) if finding.forced else "not tried",
    ]
    return f"| {' | '.join(cells)} |"


def _section(record: Record, place: int, finding: Finding) -> list[str]:
    """Return the examples of a finding, fragment or anomaly."""
    if finding.level is None:
        return []
    vectors = ", ".join(map(str, finding.vectors))
    texts = [_example(record, record.completions[example]) for example in finding.examples]
    return [
        f"## {place}. {finding.verdict} ({finding.level})",
        "",
        f"Vectors {vectors}.",
        "",
        *"\n\n".join(texts).splitlines(),
        "",
    ]


def _example(record: Record, said: Completion) -> str:
    """Return what was said, below it the token that was put into the unsteered model's mouth where no vector made it speak."""
    begun = record.unsteered_from(said)
    return quoted(said.text) + (f"\n\n({inline(begun)})" if begun else "")


def quoted(text: str) -> str:
    """Return text as an indented block, in which Markdown reads nothing."""
    shown = visible(text) if len(text) <= LONGEST else visible(text[:LONGEST]) + f" … ({len(text)} characters)"
    return "\n".join(f"    {line}" for line in shown.splitlines() or [""])


def inline(text: str) -> str:
    """Return text as an inline code span that no character in it can end."""
    return f"`` {one_line(text, 90).replace('`', 'ˋ').replace('|', '¦')} ``"
