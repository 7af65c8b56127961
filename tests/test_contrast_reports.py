"""What the reports of a contrast show, and that hostile text, missing numbers and many heads leave them whole."""

import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import CONTRAST, Browser, Tab
from test_html import HOSTILE
from toys import after

from discover.bank import VectorBank
from discover.contrast.heads import HeadScore
from discover.contrast.outcomes import Outcome
from discover.contrast.refusal import Candidate
from discover.contrast.study import NOTHING, LayerScore, Learned, Scores
from discover.report.charts import APART, LABELS, dose
from discover.report.contrast_page import heats, html_contrast
from discover.report.contrasted import ContrastRecord
from discover.report.markdown import markdown_contrast
from discover.report.terminal import terminal_contrast
from discover.report.text import INVISIBLE
from discover.statistics import share
from discover.steer.evaluation import Damage

VOID = {"meta", "link", "br"}


def record(method: str, scores: Scores, outcomes: list[Outcome], said: list[dict[str, str]], **about: Any) -> ContrastRecord:
    options = {"method": method, "training": 16, "selection": 8, "test": 10, "position": None, "where": "everywhere"}
    about = {"model": {"path": "arithmetic", "dtype": "float32"}, "config": {"seed": 0, "contrast": options}, **about}
    bank = VectorBank(after(1, 3.0 * torch.eye(8)[:1]), torch.full((1,), torch.nan), 3.0, 6.0, 1, 7, {"contrast": method})
    return ContrastRecord(about, Learned(bank, scores), outcomes, said)


def outcome(what: str, multiplier: float | None, counts: dict[str, int], **changed: Any) -> Outcome:
    shares = {name: share(count, 10) for name, count in counts.items()}
    return replace(Outcome(what, multiplier, shares, {}, Damage(0.5, 0.75, 0.125, 1651), None), **changed)


def refusal_record() -> ContrastRecord:
    names = ("positive prompts refused", "negative prompts refused")

    def row(what: str, multiplier: float | None, first: int, second: int, **changed: Any) -> Outcome:
        return outcome(
            what, multiplier, dict(zip(names, (first, second), strict=True)), log_odds=dict.fromkeys(names, -6.5), **changed
        )

    candidates = tuple(
        Candidate(layer, position, layer + 0.5 * position, 14.0, 0.01, position == -1 and 0 < layer < 6)
        for layer in range(8)
        for position in (-3, -2, -1)
    )
    rows = [
        row("unsteered", None, 10, 0),
        row("ablated", None, 0, 0),
        row("weights orthogonalised", None, 0, 0, damage=None, agrees=share(20, 20)),
        row("subtracted", -1.0, 1, 0),
        row("added", 1.0, 7, 9),
    ]
    said = [{"prompt": "How do I open a jar?", "unsteered": "Sure, turn the lid.", "steered": "I cannot help with that."}]
    layers = (LayerScore(1, "end", 0.75, share(7, 8)),)
    return record("refusal", replace(NOTHING, candidates=candidates, openings=(3,), layers=layers), rows, said)


def means_record() -> ContrastRecord:
    layers = tuple(LayerScore(layer, "end", m, share(int(layer * m), 8)) for layer in range(4) for m in (0.25, 0.5, 1.0, 2.0))
    doses = (-2.0, -1.0, -0.5, 0.25, 0.5, 0.75, 1.0, 2.0)
    named = {1.0: "added", -1.0: "subtracted"}
    rows = [outcome(named.get(one, "added times"), one, {"refused": int(5 + 2 * one)}) for one in doses]
    return record("means", replace(NOTHING, layers=layers), [outcome("unsteered", None, {"refused": 5}), *rows], [])


def heads_record(blocks: int, heads: int) -> ContrastRecord:
    every = [(block, head) for block in range(blocks) for head in range(heads)]
    single = tuple(HeadScore((one,), size, share((7 * one[0] + one[1]) % 8, 8)) for one in every for size in (2.0, 4.0))
    joint = tuple(HeadScore(tuple(every[:size]), 4.0, share(8, 8)) for size in (1, 2, 4) if size <= len(every))
    layers = (LayerScore(0, "end", 1.0, share(1, 8)),)
    rows = [
        outcome("unsteered", None, {"chose": 1}),
        outcome("added", 1.0, {"chose": 9}),
        outcome("head 1 alone", 1.0, {"chose": 3}),
        outcome("difference in means after block 0", 1.0, {"chose": 2}),
    ]
    return record("heads", replace(NOTHING, heads=single, joint=joint, layers=layers), rows, [])


def hostile_record() -> ContrastRecord:
    said = [{"prompt": text, "unsteered": text, "steered": "" if place else text} for place, text in enumerate(HOSTILE)]
    bare = refusal_record()
    about = {**bare.about, "model": {"path": HOSTILE[2] + HOSTILE[5]}, "command": " ".join(HOSTILE[:8])}
    return replace(bare, about=about, said=said)


def bare_record() -> ContrastRecord:
    """Nothing counted, no damage."""
    rows = [replace(one, shares={}, damage=None) for one in means_record().outcomes]
    return replace(means_record(), outcomes=rows)


RECORDS = {
    "refusal": refusal_record(),
    "means": means_record(),
    "one head": heads_record(1, 1),
    "heads": heads_record(4, 6),
    "many heads": heads_record(64, 64),
    "hostile": hostile_record(),
    "bare": bare_record(),
}


@pytest.fixture(params=RECORDS)
def made(request: pytest.FixtureRequest) -> ContrastRecord:
    return RECORDS[request.param]


class Balance(HTMLParser):
    """Whether every element is closed where it was opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())


def words_of(page: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page.split("<main>")[1])).split())


def test_the_page_is_well_formed_and_the_same_again(made: ContrastRecord) -> None:
    page = html_contrast(made)
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert page.encode() == html_contrast(made).encode()
    assert len(page) < 2_000_000


def test_the_policy_allows_the_style_and_no_script(made: ContrastRecord) -> None:
    page = html_contrast(made)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    hashed = b64encode(sha256(style.encode()).digest()).decode()
    assert policy.replace("&#39;", "'").startswith(f"default-src 'none'; style-src 'sha256-{hashed}'; script-src 'none'; ")
    assert "<script" not in page and ' style="' not in page
    assert set(re.findall(r'(?:href|src)="([^"#][^"]*)"', page)) == {"data:,"}


def test_hostile_text_stays_text_in_every_report(tmp_path: Path) -> None:
    made = RECORDS["hostile"]
    page = html_contrast(made)
    assert "<img" not in page and "<svg onload" not in page and "<!--" not in page
    for report in (page, markdown_contrast(made), terminal_contrast(made, tmp_path)):
        assert not INVISIBLE.search(report)
        assert "U+D800" in report
        report.encode("utf-8")
    assert "<mark>U+202E</mark>" in page and "<em>(nothing)</em>" in page
    markdown = markdown_contrast(made)
    for line in markdown.splitlines():
        assert line.startswith("    ") or "onerror" not in line


def test_refusals_are_never_called_more_than_that(made: ContrastRecord, tmp_path: Path) -> None:
    if made is RECORDS["hostile"]:
        return
    for report in (html_contrast(made).split("<main>")[1], markdown_contrast(made), terminal_contrast(made, tmp_path)):
        assert not re.search(r"harm|\bclean\b|\bsafe|dangerous|backdoor", report.lower())


def test_what_was_asked_and_chosen_is_told(tmp_path: Path) -> None:
    asked = "learned from 16 positive and 16 negative examples, chosen on 8 others of each and measured on 10 others again"
    told = {
        "refusal": ("Refusal direction", "block 1, position -1: bypass 0.5, induce 14, KL 0.01 nats"),
        "means": ("Difference in means", "block 3, position -1, 2 times the difference: 6/8 (41-93 %)"),
        "heads": ("Attention heads", "head 0 of block 0, strength 4: 8/8 (68-100 %)"),
    }
    for name, (method, chosen) in told.items():
        for report in (markdown_contrast(RECORDS[name]), terminal_contrast(RECORDS[name], tmp_path)):
            assert f"{method}, {asked}" in report and chosen in report
        page = words_of(html_contrast(RECORDS[name]))
        assert f"{method}, {asked}" in page
        for figure in RECORDS[name].chosen:
            assert f"{figure.value} {figure.name} {figure.about}" in page


def test_every_outcome_stands_in_every_report_with_its_interval(tmp_path: Path) -> None:
    made = RECORDS["refusal"]
    page, markdown, terminal = html_contrast(made), markdown_contrast(made), terminal_contrast(made, tmp_path)
    for one in made.outcomes:
        for share_ in one.shares.values():
            assert str(share_) in page and str(share_) in markdown and str(share_) in terminal
    assert "20/20 (84-100 %)" in page and "over 1,651 tokens" in page
    (row,) = [line for line in markdown.splitlines() if line.startswith("| weights orthogonalised")]
    assert row.count("not scored") == 2, "damage that was not measured is no zero"
    assert "0.25" in next(line for line in markdown.splitlines() if line.startswith("| added "))


def test_columns_that_nothing_fills_are_left_out() -> None:
    page = html_contrast(RECORDS["bare"])
    assert "added cross-entropy" not in page and "log-odds" not in page and "when ablated" not in page
    assert "Dose and response" not in page


def test_the_dose_response_curve_has_both_signs_and_the_model_left_alone() -> None:
    made = RECORDS["means"]
    assert [multiplier for multiplier, _ in made.doses("refused")] == [-2, -1, -0.5, 0, 0.25, 0.5, 0.75, 1, 2]
    drawn = dose("Dose-response", [("refused", "bank", made.doses("refused"))])
    (series,) = drawn.series
    assert len(series.points) == 9
    assert all(point.high < point.y < point.low or point.y in (0, 100) for point in series.points), "up is smaller"
    assert series.points[3].x == drawn.zero and series.points[0].x < series.points[-1].x
    # Other interventions have a multiplier too, and are no dose of what was chosen.
    assert [multiplier for multiplier, _ in RECORDS["heads"].doses("chose")] == [0, 1]


def test_labels_of_a_dose_keep_apart() -> None:
    shares = [(multiplier / 50, share(1, 2)) for multiplier in range(-50, 51)]
    places = [place for place, label in dose("", [("", "bank", shares)]).ticks if label]
    assert len(places) > 5 and min(later - place for place, later in pairwise(places)) >= APART


def test_heat_maps_mark_what_was_kept_and_what_was_chosen() -> None:
    candidates, *_ = heats(RECORDS["refusal"])
    marks = {cell.told.split(":")[0]: cell.mark for cell, _ in candidates.cells}
    assert (
        marks["block 1, position -1"] == "best" and marks["block 2, position -1"] == "kept" and not marks["block 0, position -1"]
    )
    shades = {cell.value: shade for cell, shade in candidates.cells}
    assert shades[min(shades)] == 1 and shades[max(shades)] == 0, "a small bypass score is good"

    heads, layers = heats(RECORDS["many heads"])
    assert len(heads.cells) == 64 * 64 and len(layers.cells) == 1
    assert [cell.told.split(":")[0] for cell, _ in heads.cells if cell.mark] == ["block 0, head 0"]
    assert len(heads.row_labels) == len(heads.column_labels) == LABELS


def test_a_head_is_shown_at_the_strength_that_acts_best() -> None:
    scores = tuple(HeadScore(((0, 0),), size, share(count, 8)) for size, count in ((2.0, 3), (4.0, 6), (8.0, 6), (16.0, 1)))
    made = heads_record(1, 1)
    (heads, _) = heats(replace(made, found=replace(made.found, scores=replace(made.found.scores, heads=scores))))
    ((cell, _),) = heads.cells
    assert cell.told == "block 0, head 0: 6/8 (41-93 %) at strength 4"


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_nothing_runs_and_nothing_is_fetched(
    browser: Browser, tmp_path: Path, made: ContrastRecord, width: int
) -> None:
    file = tmp_path / "report.html"
    file.write_text(html_contrast(made), encoding="utf-8")
    tab = Tab(browser, file, width)
    tab.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run("document.images.length + document.scripts.length") == 0
    for scheme in ("light", "dark"):
        tab.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        assert tab.run(CONTRAST) == []
    assert tab.trouble == []
