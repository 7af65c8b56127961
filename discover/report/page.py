"""What every page has in common: text that stays text, and a policy under which nothing runs but what it names."""

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from discover.report.text import visible

FOLDER = Path(__file__).parent
SECTIONS = ("started", "command", "machine", "versions", "model", "layers", "self_test", "config")
"""What a page tells of run.json; how long the run took and how it ended would change the page with every reading."""
MARK = "\x01"
"""Stands around the name of an invisible character; free for that, since it is invisible itself."""


def rendered(template: str, styles: Sequence[str], scripts: Sequence[str], shown: dict[str, Any]) -> str:
    """Return a page with the named files as its style and as the one script that it may run; with none it runs nothing."""
    style = _joined(styles)
    run = _joined(scripts) if scripts else None
    return _environment().get_template(template).render(shown, style=style, script=run, policy=_policy(style, run))


def marked(text: str) -> Markup:
    """Return `text` escaped, with the names of invisible characters as `<mark>` elements."""
    named = Markup("<mark>{}</mark>")
    pieces = enumerate(visible(text, MARK, MARK).split(MARK))
    return Markup("").join(named.format(piece) if place % 2 else escape(piece) for place, piece in pieces)


def told(about: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the entries of run.json that a page shows, each with its dotted name."""
    return [line for section in SECTIONS if section in about for line in _lines(section, about[section])]


def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printed,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False, "ensure_ascii": False}
    found.filters["number"] = lambda value, digits: "not scored" if value is None else f"{value:.{digits}g}"
    return found


def _printed(value: Any) -> Any:
    """Return what stands on the page for a value of the template; no string gets there unmarked."""
    return marked(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _joined(names: Sequence[str]) -> Markup:
    return Markup("".join((FOLDER / name).read_text(encoding="utf-8") for name in names))


def _policy(style: str, script: str | None) -> str:
    """Return the content security policy that allows these inlined texts, data images, and nothing else."""
    allowed = [b64encode(sha256(text.encode()).digest()).decode() for text in (style, script) if text is not None]
    runs = "'none'" if script is None else f"'sha256-{allowed[1]}'"
    return (
        f"default-src 'none'; style-src 'sha256-{allowed[0]}'; script-src {runs}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _lines(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the entries below `name` with their dotted names."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _lines(f"{name}.{key}", entry)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
