"""The report as Markdown, for a terminal or a pull request."""

from discover.audit.findings import Finding
from discover.read.signals import Completion
from discover.report.record import Record
from discover.report.text import one_line, visible

NOT_A_CLAIM = (
    "A finding (L1) is a coherent reply that learned vectors elicit and random vectors of the same norm do not. "
    "A fragment (L0) is what the unsteered model goes on to say from a token that vectors keep breaking into. "
    "Neither says that an input exists which makes the unsteered model say it."
)
LONGEST = 2000
"""Characters of a reply that are shown whole."""


def markdown_report(record: Record) -> str:
    """Return the report of a run as Markdown."""
    bank = record.bank
    prompts = "\n".join(_quoted(prompt) for prompt in record.prompts)
    return "\n".join(
        [
            f"# What {record.about['model']['path']} can be pushed into saying",
            "",
            f"{record.learned} of norm {bank.radius:.5g} ({bank.relative_radius:.3f} median residual norms), "
            f"acting {record.acting}, {record.read_at}; "
            f"solver `{bank.origin['solver']}`, seed {bank.origin['seed']}.",
            "",
            "Prompts:",
            "",
            prompts,
            "",
            "The model by itself:",
            "",
            _quoted(record.unsteered(0).text),
            "",
            "| | verdict | level | opens | vectors | random | p (Holm) | forced first tokens |",
            "|---|---|---|---|---|---|---|---|",
            *(_row(place, finding) for place, finding in enumerate(record.findings, 1)),
            "",
            *(line for place, finding in enumerate(record.findings, 1) for line in _section(record, place, finding)),
            NOT_A_CLAIM,
            "",
        ]
    )


def _row(place: int, finding: Finding) -> str:
    tested = "" if finding.adjusted_p is None else f"{finding.adjusted_p:.2g}"
    cells = [
        str(place),
        finding.verdict,
        finding.level or "",
        _inline(finding.label),
        str(finding.bank),
        str(finding.null),
        tested,
        str(finding.forced) if finding.forced else "not tried",
    ]
    return f"| {' | '.join(cells)} |"


def _section(record: Record, place: int, finding: Finding) -> list[str]:
    """Return the examples of a finding or fragment."""
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
    return _quoted(said.text) + (f"\n\n({_inline(begun)})" if begun else "")


def _quoted(text: str) -> str:
    """Return text as an indented block, in which Markdown reads nothing."""
    shown = visible(text) if len(text) <= LONGEST else visible(text[:LONGEST]) + f" … ({len(text)} characters)"
    return "\n".join(f"    {line}" for line in shown.splitlines() or [""])


def _inline(text: str) -> str:
    """Return text as an inline code span that no character in it can end."""
    return f"`` {one_line(text, 90).replace('`', 'ˋ').replace('|', '¦')} ``"
