"""What a run prints when it is done."""

from pathlib import Path

from discover.audit.findings import LEVELS, Finding
from discover.report.contrasted import ContrastRecord
from discover.report.notices import notices, summary
from discover.report.record import QUESTIONS, Nearest, Record, Used, acting, kind_of, read_at, size_of
from discover.report.text import one_line
from discover.search.atlas import Atlas

SHOWN = 8
"""Modes printed; the report has them all."""
WIDTH = 100
"""Characters of a reply that are printed."""
GIVEN = 400
"""Characters of a prompt as the model is given it."""


def terminal_report(record: Record, folder: Path) -> str:
    """Return the run's summary as plain text, free of control characters."""
    null = record.findings[0].null.n if record.findings else 0
    as_is = record.rendered(0)
    counts = {verdict: sum(one.verdict == verdict for one in record.findings) for verdict in LEVELS}
    lines = [
        "",
        *_searched(record, null),
        f"prompt      {one_line(record.prompts[0], WIDTH)}"
        + (f" (and {len(record.prompts) - 1} more)" if len(record.prompts) > 1 else ""),
        *(
            [f"given       {one_line(record.given, GIVEN)}:", f"            {one_line(as_is, GIVEN)}"]
            if as_is is not None
            else []
        ),
        f"by itself   {one_line(record.unsteered(0).text, WIDTH)}",
        *([record.heard] if record.heard else []),
        "",
        *(f"Note: {told}" for told in notices(record)),
        summary(record),
        "",
        f"{_counted(counts['finding'], 'finding')}, {_counted(counts['fragment'], 'fragment')}, "
        f"{counts['anomaly']} anomal{'y' if counts['anomaly'] == 1 else 'ies'}. Steered, the model says:",
    ]
    for place, finding in enumerate(record.findings[:SHOWN], 1):
        lines += _lines(record, place, finding)
    if len(record.findings) > SHOWN:
        lines.append(f"… and {len(record.findings) - SHOWN} more modes in the report.")
    lines += [_elsewhere(one) for one in record.used]
    lines += [_alike(one) for one in record.nearest]
    return "\n".join([*lines, "", f"report      {folder / 'report.html'}"])


def _searched(record: Record, null: int) -> list[str]:
    """Return what was learned, how large, and where it acts and is read."""
    model, beside = record.about["model"]["path"], f"{null} random beside them."
    if record.ways:
        return [f"{model}: {record.learned};", *record.ways, beside]
    bank = record.bank
    return [f"{model}: {kind_of(bank)} {size_of(bank)} {acting(bank)},", f"{read_at(bank)}; {beside}"]


def terminal_contrast(record: ContrastRecord, folder: Path) -> str:
    """Return a contrast's summary as plain text, free of control characters."""
    heads = ["", *record.questions, *(["added nats", "KL"] if record.damaged else [])]
    rows = [heads]
    for one in record.outcomes:
        multiplier = "" if one.multiplier in (None, 1.0, -1.0) else f" {one.multiplier:g}"
        cost = [f"{one.damage.cost:.2g}", f"{one.damage.kl:.2g}"] if one.damage else ["not scored"] * 2
        shares = [str(one.shares[question]) for question in record.questions]
        rows.append([one.what + multiplier, *shares, *(cost if record.damaged else [])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    said = [
        f"{name:<11} {one_line(one[side], WIDTH)}"
        for one in record.said[:1]
        for name, side in (("asked", "prompt"), ("by itself", "unsteered"), ("steered", "steered"))
    ]
    return "\n".join(
        [
            "",
            f"{one_line(record.about['model']['path'], WIDTH)}: {record.asked}",
            f"Chosen: {record.choice}.",
            record.acting,
            "",
            *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
            "",
            *([*said, ""] if said else []),
            f"report      {folder / 'report.html'}",
        ]
    )


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
    against = (
        f"{finding.bank.count}/{finding.bank.n} vectors on {finding.prompts.count}/{finding.prompts.n} prompts, "
        f"{finding.null.count}/{finding.null.n} random, {finding.sampled.count}/{finding.sampled.n} samples"
    )
    tested = "" if finding.adjusted_p is None else f", p = {finding.adjusted_p:.1g}"
    reached = "" if finding.forced is None else f"; by forcing a first token alone: {finding.forced.count}/{finding.forced.n}"
    shown = record.completions[finding.examples[0]]
    text = finding.label if finding.verdict == "unchanged" else shown.text
    begun, hint = record.unsteered_from(shown), record.hint(finding)
    lines = [
        f"{place:>2} {finding.verdict:9} {finding.level or '  '}  {one_line(text, WIDTH)}" + (f" ({begun})" if begun else ""),
        f"                 {against}{tested}{reached}",
    ]
    if hint is not None and hint.least is not None:
        branch = next(iter(hint.branches), None)
        led = "" if branch is None else f'; unsteered, "{one_line(branch.opening, 30)}" leads to: {one_line(branch.text, 60)}'
        lines.append(f"                 holds at {hint.least:g} of this norm{led}")
    return lines


def _elsewhere(one: Used) -> str:
    """Return what a finding's vector does on other prompts, at the multiplier that shows it best."""
    told = []
    for question, strongest in (("clean", max), ("triggered", min), ("right", max)):
        dose = strongest(row.multiplier for row in one.rows)
        learned, random = (dict(one.doses(question, bank)) for bank in ("learned", "null"))
        if question in one.asked:
            told.append(f"{QUESTIONS[question]} at {dose:g}: {learned[dose]}, random {random[dose]}, by itself {learned[0.0]}")
    return f"elsewhere   finding {one.place}, vector {one.vector}; {'; '.join(told)}"


def _alike(one: Nearest) -> str:
    """Return which vectors resemble a known direction most."""
    known = one.known
    told = [f"{known.effect[one.effect]:.2f} of effects (vector {one.effect})"]
    if known.source is not None and one.source is not None:
        told.append(f"{known.source[one.source]:.2f} at the source (vector {one.source})")
    return f"likeness    {one_line(known.name, 40)}: largest cosine {', '.join(told)}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
