"""A record without its text: what the model was asked and what it said stand there by hash and length alone."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from discover.audit.across import Comparison, Merged
from discover.audit.finished import PROMPTS, Finished
from discover.read.decoders import Decoding
from discover.read.hints import Hint
from discover.read.modes import LABELS, Mode
from discover.read.signals import Completion
from discover.read.triage import Glance
from discover.report.contrasted import ContrastRecord
from discover.report.record import Record

DIGITS = 12
"""Hexadecimal digits of a hash that are shown."""
SHORT = 24
"""Characters below which a text has no hash: whoever tries all words and short phrases would find it."""
WORD = "▮"
"""Stands for a word or token, of which even the length would tell something."""
SPOKEN = ("texts", "system", "reply_prefix", "clean", "triggers", "neutral", "open")
"""Options that hold text which the model is given."""


def redacted(record: Record) -> Record:
    """Return the record with every text masked that the model was given or said, or that derives from these; signals stay.

    Names of the model, of files and of known directions stay as well: these are the user's own.
    """
    return replace(
        record,
        about=redacted_about(record.about),
        prompts=[masked(prompt) for prompt in record.prompts],
        completions=[_completion(one) for one in record.completions],
        modes=[_mode(one) for one in record.modes],
        findings=[replace(one, label=_label(one.label), terms=()) for one in record.findings],
        glances=[_glance(one) for one in record.glances],
        decodings=[_decoding(one) for one in record.decodings],
        hints=[_hint(one) for one in record.hints],
    )


def redacted_contrast(record: ContrastRecord) -> ContrastRecord:
    """Return the record of a contrast masked in the same way."""
    said = [{side: masked(text) for side, text in one.items()} for one in record.said]
    return replace(record, about=redacted_about(record.about), said=said)


def redacted_comparison(comparison: Comparison) -> Comparison:
    """Return a comparison masked in the same way, in the options in which its runs differ too."""
    return replace(
        comparison,
        runs=tuple(_finished(one) for one in comparison.runs),
        cells=tuple(replace(one, values=_values(comparison.axes, one.values)) for one in comparison.cells),
        modes=tuple(_merged(one) for one in comparison.modes),
    )


def masked(text: str) -> str:
    """Return the hash and the length of a text, of a short one the length alone."""
    length = f"{len(text)} character{'' if len(text) == 1 else 's'}"
    # A lone surrogate has no UTF-8 of its own.
    digest = sha256(text.encode(errors="surrogatepass")).hexdigest()[:DIGITS]
    return f"{WORD} {length}" if len(text) < SHORT else f"{WORD} {digest}, {length}"


def redacted_about(about: dict[str, Any]) -> dict[str, Any]:
    """Return run.json without prompts, in its command and its options too."""
    kept = {name: value for name, value in about.items() if name not in ("prompts", "command")}
    given = about.get("rendering")
    if given is not None:
        texts = {name: None if given[name] is None else masked(given[name]) for name in ("system", "own_system")}
        kept["rendering"] = {**given, **texts, "texts": [masked(text) for text in given["texts"]]}
    return {**kept, "config": _options(about["config"]), "command": f"{WORD} (report.redact)"}


def _options(config: dict[str, Any]) -> dict[str, Any]:
    """Return options with the same names, in which every text that the model is given is masked."""
    found = {}
    for name, value in config.items():
        if name == "template_kwargs":
            value = _masked_words(value)
        elif isinstance(value, dict):
            value = _options(value)
        elif name in SPOKEN and isinstance(value, str):
            value = masked(value)
        elif name in SPOKEN and isinstance(value, list):
            # Under one of these names stands the number of bundled prompts as well.
            value = [masked(text) for text in value]
        found[name] = value
    return found


def _masked_words(value: Any) -> Any:
    """Return values that a chat template reads with every text in them masked, however deep it lies."""
    if isinstance(value, dict):
        return {name: _masked_words(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_masked_words(one) for one in value]
    return masked(value) if isinstance(value, str) else value


def _completion(one: Completion) -> Completion:
    return replace(one, text=masked(one.text), opening=None if one.opening is None else WORD)


def _mode(one: Mode) -> Mode:
    return replace(one, label=_label(one.label), terms=(), named=None if one.named is None else masked(one.named))


def _label(label: str) -> str:
    """Return the label masked, unless it is one of those that hold no word of the model."""
    return label if label in LABELS.values() else masked(label)


def _glance(one: Glance) -> Glance:
    return replace(one, boosted=tuple(replace(boost, token=WORD) for boost in one.boosted))


def _decoding(one: Decoding) -> Decoding:
    """Return where the vector acts; what is nothing but tokens is left out."""
    return replace(
        one,
        lens=(),
        nearest=(),
        described=None if one.described is None else masked(one.described),
        heat=tuple((WORD, norm) for _, norm in one.heat),
    )


def _hint(one: Hint) -> Hint:
    branches = tuple(replace(branch, opening=WORD, text=masked(branch.text)) for branch in one.branches)
    return replace(one, branches=branches, least_text=None if one.least_text is None else masked(one.least_text))


def _merged(one: Merged) -> Merged:
    return replace(one, label=_label(one.label), terms=(), example=masked(one.example))


def _finished(one: Finished) -> Finished:
    reached = tuple(replace(mode, medoid=_completion(mode.medoid), terms=()) for mode in one.reached)
    options = dict(zip(one.options, _values(tuple(one.options), tuple(one.options.values())), strict=True))
    return replace(one, reached=reached, options=options)


def _values(names: Sequence[str], values: Sequence[str]) -> tuple[str, ...]:
    """Return the values of options, masked where they hold text which the model is given."""
    spoken = (name == PROMPTS or name.rpartition(".")[2] in SPOKEN for name in names)
    return tuple(masked(value) if hidden else value for hidden, value in zip(spoken, values, strict=True))
