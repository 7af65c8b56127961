"""What a run prints when it is done."""

from pathlib import Path

from discover.audit.findings import Finding
from discover.report.record import Record
from discover.report.text import one_line
from discover.search.atlas import Atlas

SHOWN = 8
"""Modes printed; the report has them all."""
WIDTH = 100
"""Characters of a reply that are printed."""


def terminal_report(record: Record, folder: Path) -> str:
    """Return the run's summary as plain text, free of control characters."""
    bank, null = record.bank, record.findings[0].null.n if record.findings else 0
    counts = {verdict: sum(one.verdict == verdict for one in record.findings) for verdict in ("finding", "fragment")}
    lines = [
        "",
        f"{record.about['model']['path']}: {record.learned} of norm {bank.radius:.4g} ({bank.relative_radius:.2f} of the "
        f"residual stream's) {record.acting},",
        f"{record.read_at}; {null} random beside them.",
        f"prompt      {one_line(record.prompts[0], WIDTH)}"
        + (f" (and {len(record.prompts) - 1} more)" if len(record.prompts) > 1 else ""),
        f"by itself   {one_line(record.unsteered(0).text, WIDTH)}",
        "",
        f"{counts['finding']} findings, {counts['fragment']} fragments. Steered, the model says:",
    ]
    for place, finding in enumerate(record.findings[:SHOWN], 1):
        lines += _lines(record, place, finding)
    if len(record.findings) > SHOWN:
        lines.append(f"… and {len(record.findings) - SHOWN} more modes in the report.")
    return "\n".join([*lines, "", f"report      {folder / 'report.html'}"])


def terminal_atlas(charted: Atlas, folder: Path) -> str:
    """Return the gain of every pair of layers as a table of text."""
    gains = {(pair.source_layer, pair.target_layer): pair.gain for pair in charted.pairs}
    head = "source |" + "".join(f"{target:>6}" for target in range(1, charted.blocks))
    rows = [
        f"{source:>6} |"
        + "".join(f"{gains[source, target]:>6.2f}" if source < target else " " * 6 for target in range(1, charted.blocks))
        for source in range(charted.blocks - 1)
    ]
    source, target = charted.best(None, None)
    told = (
        "How far the best direction turns the residual stream at a target, for a step of one residual norm at a source (radians):"
    )
    chosen = f"search.layers=auto takes source {source} and target {target}."
    return "\n".join(["", told, "", head, *rows, "", chosen, "", f"atlas       {folder / 'atlas.html'}"])


def _lines(record: Record, place: int, finding: Finding) -> list[str]:
    """Return the two lines of one mode."""
    against = f"{finding.bank.count}/{finding.bank.n} vectors, {finding.null.count}/{finding.null.n} random"
    tested = "" if finding.adjusted_p is None else f", p = {finding.adjusted_p:.1g}"
    reached = "" if finding.forced is None else f"; by forcing a first token alone: {finding.forced.count}/{finding.forced.n}"
    shown = record.completions[finding.examples[0]]
    text = finding.label if finding.verdict == "unchanged" else shown.text
    begun = record.unsteered_from(shown)
    return [
        f"{place:>2} {finding.verdict:9} {finding.level or '  '}  {one_line(text, WIDTH)}" + (f" ({begun})" if begun else ""),
        f"                 {against}{tested}{reached}",
    ]
