"""Modes as cards: what stands for each, and what its vector points at."""

from collections.abc import Sequence
from dataclasses import dataclass

from discover.audit.findings import Finding
from discover.read.hints import Hint
from discover.read.signals import Completion
from discover.read.triage import Boost
from discover.report.record import Record

CARDS = 24
"""Steerable modes with a card; the table has them all."""
TOKENS = 8
"""Tokens named on a card."""


@dataclass(frozen=True)
class Card:
    """A mode that the bank reaches, with what stands for it."""

    finding: Finding
    named: str | None
    """What a language model calls it."""
    first: Completion
    """Its medoid, of a fragment what the unsteered model says."""
    drawn: tuple[Completion, ...]
    """Members that were drawn and say something else than the first."""
    repeated: int
    """How many were drawn that say what the first says."""
    vector: int | None
    """That of the first; None where no vector made the model say it."""
    boosted: tuple[Boost, ...]
    """Tokens that this vector makes likelier, each once."""
    lens: tuple[str, ...]
    """Tokens that its effect at the target pushes up."""
    hint: Hint | None
    """What the unsteered model goes on to say from what is boosted."""


def cards(record: Record, verdicts: Sequence[str]) -> list[Card]:
    """Return a card for every finding with one of these verdicts, in their order."""
    return [_card(record, one) for verdict in verdicts for one in record.findings if one.verdict == verdict]


def _card(record: Record, finding: Finding) -> Card:
    mode = record.modes[finding.mode]
    shown = [record.completions[index] for index in mode.shown]
    example = record.completions[finding.examples[0]]
    first = next((said for said in shown[:1] if said.bank == "learned" and finding.verdict != "fragment"), example)
    drawn = [said for said in shown[1:] if said.text != first.text]
    vector = first.vector if first.bank == "learned" else None
    # Nothing that a vector breaks into is said under it, so that what stands for a fragment is the first that does.
    decoded = finding.vectors[0] if vector is None else vector
    return Card(
        finding,
        mode.named,
        first,
        tuple(drawn),
        len(shown[1:]) - len(drawn),
        vector,
        _boosted(record, decoded),
        _lens(record, decoded),
        next((hint for hint in record.hints if hint.bank == "learned" and hint.mode == finding.mode), None),
    )


def _boosted(record: Record, vector: int) -> tuple[Boost, ...]:
    glance = next((one for one in record.glances if one.bank == "learned" and one.vector == vector), None)
    once: dict[str, Boost] = {}
    for boost in glance.boosted if glance else ():
        once.setdefault(boost.token, boost)
    return tuple(once.values())[:TOKENS]


def _lens(record: Record, vector: int) -> tuple[str, ...]:
    """Return the tokens of the effect at the target, of the last block that was decoded where that one was not."""
    decoding = next((one for one in record.decodings if one.bank == "learned" and one.vector == vector), None)
    blocks = dict(decoding.lens) if decoding else {}
    return blocks.get(record.bank.target_layer, blocks[max(blocks)] if blocks else ())[:TOKENS]
