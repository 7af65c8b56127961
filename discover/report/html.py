"""One self-contained page: what came out, a card per finding and fragment, and every mode and completion.

Completions are hostile text. The template escapes all of it, the data is JSON that no parser takes for markup, a policy
lets nothing run but the one script whose hash it names, and no character stays invisible.
"""

import json
import math
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from discover.audit.findings import Finding
from discover.read.signals import Completion
from discover.report.record import Record
from discover.report.text import visible
from discover.search.atlas import Atlas, Pair
from discover.statistics import Share, share

FOLDER = Path(__file__).parent
BANKS = ("learned", "null", "forced", "followed", "unsteered")
"""In the order in which they are shown."""
STATES = ("coherent", "degenerate", "unchanged")
SECTIONS = ("started", "command", "machine", "versions", "model", "layers", "self_test", "config")
"""What the page tells of run.json; how long the run took and how it ended would change the page with every reading."""

MARK = "\x01"
"""Stands around the name of an invisible character; free for that, since it is invisible itself."""


@dataclass(frozen=True)
class Spoken:
    """What one bank said, by state."""

    bank: str
    completions: int
    states: dict[str, Share]
    """One share of the completions per state of STATES."""


@dataclass(frozen=True)
class Curve:
    """The objective over the rounds, as points of an SVG of 100 x 100 units."""

    mean: str
    """Line of the mean over the vectors."""
    band: str
    """Outline of least to greatest."""
    low: float
    """Objective at the lower edge."""
    high: float
    """Objective at the upper edge."""
    first: int
    last: int
    """Rounds at the left and the right edge."""


@dataclass(frozen=True)
class Heat:
    """The atlas as cells of a heat map."""

    atlas: Atlas
    cells: tuple[tuple[Pair, float], ...]
    """Every pair, with its gain between 0 (least of all pairs) and 1 (largest)."""


def html_report(record: Record) -> str:
    """Return the page; equal records give equal pages, and every page can be encoded as UTF-8."""
    style, script = (Markup((FOLDER / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            record=record,
            bank=record.bank,
            model=record.about["model"]["path"],
            policy=_policy(style, script),
            style=style,
            script=script,
            found={level: [one for one in record.findings if one.level == level] for level in ("L1", "L0")},
            verdicts=Counter(one.verdict for one in record.findings),
            closest_null=max((one.null for one in record.findings if one.level), key=lambda one: one.count, default=None),
            null_vectors=len({said.vector for said in record.completions if said.bank == "null"}),
            spoken=_spoken(record.completions),
            curve=_curve(record.curve),
            heat=None if record.charted is None else _heat(record.charted),
            told=[line for section in SECTIONS if section in record.about for line in _lines(section, record.about[section])],
            data=_data(record),
        )
    )


def html_atlas(charted: Atlas, model: str, prompts: Sequence[str]) -> str:
    """Return the page of an atlas alone."""
    style, script = (Markup((FOLDER / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))
    page = _environment().get_template("atlas.html.jinja")
    return page.render(heat=_heat(charted), model=model, prompts=prompts, policy=_policy(style, script), style=style)


def marked(text: str) -> Markup:
    """Return `text` escaped, with the names of invisible characters as `<mark>` elements."""
    named = Markup("<mark>{}</mark>")
    pieces = enumerate(visible(text, MARK, MARK).split(MARK))
    return Markup("").join(named.format(piece) if place % 2 else escape(piece) for place, piece in pieces)


def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printed,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    found.filters["number"] = lambda value, digits: "not scored" if value is None else f"{value:.{digits}g}"
    return found


def _printed(value: Any) -> Any:
    """Return what stands on the page for a value of the template; no string gets there unmarked."""
    return marked(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _policy(style: str, script: str) -> str:
    """Return the content security policy that allows these two inlined texts, data images, and nothing else."""
    allowed = [b64encode(sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{allowed[0]}'; script-src 'sha256-{allowed[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _spoken(completions: Sequence[Completion]) -> list[Spoken]:
    """Return what every bank that spoke said."""
    counts = Counter((said.bank, said.state) for said in completions)
    totals = Counter(said.bank for said in completions)
    return [
        Spoken(bank, totals[bank], {state: share(counts[bank, state], totals[bank]) for state in STATES})
        for bank in BANKS
        if totals[bank]
    ]


def _curve(rounds: Sequence[dict[str, float]]) -> Curve | None:
    """Return the curve; None where there are not two rounds to join."""
    if len(rounds) < 2:
        return None
    low, high = min(one["least"] for one in rounds), max(one["greatest"] for one in rounds)
    height = (high - low) or 1.0
    step = 100 / (len(rounds) - 1)

    def points(name: str) -> list[str]:
        return [f"{step * place:.2f},{100 - 100 * (one[name] - low) / height:.2f}" for place, one in enumerate(rounds)]

    band = " ".join([*points("greatest"), *reversed(points("least"))])
    return Curve(" ".join(points("mean")), band, low, high, int(rounds[0]["round"]), int(rounds[-1]["round"]))


def _heat(charted: Atlas) -> Heat:
    """Return the heat map of an atlas."""
    gains = [pair.gain for pair in charted.pairs]
    low, width = min(gains), (max(gains) - min(gains)) or 1.0
    return Heat(charted, tuple((pair, (pair.gain - low) / width) for pair in charted.pairs))


def _lines(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the entries below `name` with their dotted names."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _lines(f"{name}.{key}", entry)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _data(record: Record) -> dict[str, Any]:
    """Return what the script draws the tables from, column by column."""
    return {"prompts": len(record.prompts), "completions": _completion_columns(record), "modes": _mode_columns(record)}


def _completion_columns(record: Record) -> dict[str, list[Any]]:
    modes = {member: index for index, mode in enumerate(record.modes) for member in mode.members}
    said = record.completions
    return {
        "mode": [modes.get(index) for index in range(len(said))],
        **{name: [getattr(one, name) for one in said] for name in ("bank", "vector", "prompt", "state")},
        "text": [visible(one.text, MARK, MARK) for one in said],
        "opening": [None if one.opening is None else visible(one.opening, MARK, MARK) for one in said],
        **{name: [_rounded(getattr(one, name)) for one in said] for name in ("surprise", "repetition", "distance")},
    }


def _mode_columns(record: Record) -> dict[str, list[Any]]:
    by_mode = {found.mode: found for found in record.findings}
    found: list[Finding | None] = [by_mode.get(index) for index in range(len(record.modes))]
    shares = {
        name: [None if one is None or getattr(one, name) is None else str(getattr(one, name)) for one in found]
        for name in ("bank", "null", "forced")
    }
    return {
        "label": [visible(mode.label, MARK, MARK) for mode in record.modes],
        "terms": [visible(", ".join(mode.terms), MARK, MARK) for mode in record.modes],
        "members": [len(mode.members) for mode in record.modes],
        "verdict": [one and one.verdict for one in found],
        "level": [one and one.level for one in found],
        "p": [one and one.adjusted_p for one in found],
        **shares,
    }


def _rounded(value: float | None) -> float | None:
    """Return `value` to a thousandth; None where there is no number."""
    return None if value is None or not math.isfinite(value) else round(value, 3)
