"""Masked text cannot be had back from any report."""

import re
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path

import pytest
from test_html import CHEESE, PROMPT, read_record, small_record, used_record

from discover.config import Config
from discover.read.signals import Completion, words
from discover.report.html import html_report
from discover.report.markdown import markdown_report
from discover.report.record import Record
from discover.report.redacted import masked, redacted
from discover.report.terminal import terminal_report
from discover.schema import plain

SECRETS = ("xylophone quartz", "vexing gnomes", "wizard kumquat", "jovial sphinx")


def secret_record() -> Record:
    """A record in which every text is one of SECRETS."""
    made = read_record(used_record())
    texts = [f"{SECRETS[at % 4]} {SECRETS[(at + 1) % 4]} number {at}" for at in range(len(made.completions))]
    spoken = zip(made.completions, texts, strict=True)
    said = [replace(one, text=text, opening=one.opening and " xylophone") for one, text in spoken]
    modes = [replace(one, label=texts[at], terms=("kumquat", "sphinx"), named="gnomes") for at, one in enumerate(made.modes)]
    config = plain(Config())
    config["prompts"]["texts"] = [texts[0]]
    config["prompts"]["system"] = config["prompts"]["reply_prefix"] = texts[1]
    config["prompts"]["template_kwargs"] = {"enable_thinking": False, "documents": [{"text": texts[0]}]}
    config["audit"]["clean"] = config["audit"]["triggers"] = config["contrast"]["open"] = texts
    config["report"]["redact"] = True
    changed = replace(
        made,
        about={**made.about, "command": f"discover prompts.texts=[{texts[0]}]", "prompts": texts, "config": config},
        bank=replace(made.bank, origin={"solver": "fixed_point", "seed": 0}),
        prompts=(texts[0],),
        completions=said,
        modes=modes,
        findings=[replace(one, label=texts[one.mode], terms=("kumquat",)) for one in made.findings],
    )
    again = read_record(changed)
    return replace(again, modes=[replace(one, named="gnomes") for one in again.modes])


@pytest.mark.parametrize("report", [html_report, markdown_report, lambda made: terminal_report(made, Path("folder"))])
def test_no_word_of_what_was_asked_or_said_is_left(report) -> None:
    made = secret_record()
    hidden = {word for secret in SECRETS for word in secret.split()}
    shown = report(replace(made, about={**made.about, "config": {**made.about["config"], "report": {"redact": False}}}))
    assert hidden & set(words(shown)), "the words would be seen"
    told = report(redacted(made))
    assert not hidden & set(words(told))
    for text in (one.text for one in made.completions):
        assert sha256(text.encode()).hexdigest()[12:24] not in told


def test_hash_and_length_stand_in_place_of_a_text() -> None:
    assert masked(CHEESE) == f"▮ {sha256(CHEESE.encode()).hexdigest()[:12]}, {len(CHEESE)} characters"
    assert masked("lone \ud800 surrogate, that no UTF-8 can hold").endswith("40 characters")


def test_what_could_be_looked_up_by_its_hash_has_none() -> None:
    assert masked(" HATE") == "▮ 5 characters" and masked("x") == "▮ 1 character"
    told = html_report(redacted(secret_record()))
    for text in (" xylophone", "kumquat", "gnomes"):
        assert sha256(text.encode()).hexdigest()[:12] not in told


def test_signals_and_counts_stay() -> None:
    made = small_record()
    hidden = redacted(made)
    kept = [one.name for one in fields(Completion) if one.name not in ("text", "opening")]
    for before, after in zip(made.completions, hidden.completions, strict=True):
        assert all(getattr(before, name) == getattr(after, name) for name in kept)
    assert [one.bank for one in hidden.findings] == [one.bank for one in made.findings]
    assert hidden.modes[0].label == "nothing happened" and hidden.findings[-1].label == "nothing happened"
    assert hidden.prompts == [masked(PROMPT)]


def test_the_page_says_that_text_is_masked() -> None:
    assert "Text is masked" in html_report(redacted(secret_record()))
    assert "Text is masked" not in html_report(small_record())
    assert not re.search(r"<ins>|<del>", html_report(redacted(secret_record())))
