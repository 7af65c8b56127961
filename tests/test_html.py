import json
import math
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import CONTRAST, Browser, Tab
from toys import after

from discover.audit.findings import LEVELS, VERDICTS, Finding
from discover.audit.known import Likeness
from discover.audit.uses import Use
from discover.bank import VectorBank
from discover.read.decoders import Decoding
from discover.read.effects import EffectMap, Spot
from discover.read.hints import Branch, Hint
from discover.read.modes import Mode
from discover.read.signals import Completion
from discover.read.triage import Boost, Glance
from discover.read.trials import Trial
from discover.report.html import html_report
from discover.report.page import marked
from discover.report.record import Record
from discover.report.text import INVISIBLE, visible
from discover.statistics import share

PROMPT = "a=5+6, b=7+2. What is a*b?"
OWN = "First, a is 11. Then, b is 9. So a*b is 99."
CHEESE = "Cheese is the answer, and cheese was always the answer to every sum."
ASCENDING = "Sure, 11 times 9 makes {}, which I worked out in my head."
HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "{{7*7}} ${7*7} {% raw %}",
    '"><svg onload=alert(2)>',
    "safe \u202egnihtemos\u202c else",
    "zero\u200bwidth\ufeff and tag \U000e0041",
    "lone \ud800 surrogate",
    "nul \x00 and escape \x1b[31m",
    "<!--<script>",
    "x" * 100_000,
    "x" + "😀" * 400,
    "__proto__",
    "constructor",
    "line\u2028separator",
    "Z" + "\u0335\u0336\u0337\u0338" * 80 + "algo",
)


def completion(text: str = CHEESE, bank: str = "learned", vector: int | None = 0, **changed: Any) -> Completion:
    standard = Completion(
        bank, vector, 0, 0, text, None, 12, True, 1.25, 0.5, 0.25, 0.75, 0.125, 0.875, 0.25, "Latin", False, "coherent", ()
    )
    return replace(standard, **changed)


def own_reply() -> Completion:
    return completion(OWN, "unsteered", None, state="unchanged", distance=0.0)


def finding(mode: int, verdict: str, vectors: tuple[int, ...], n: int, example: int, label: str) -> Finding:
    p = None if verdict == "unchanged" else 0.0003
    return Finding(
        mode=mode,
        label=label,
        verdict=verdict,
        level=LEVELS.get(verdict),
        vectors=vectors,
        bank=share(len(vectors), n),
        null=share(0, n),
        p=p,
        adjusted_p=p,
        sampled=share(2, 96),
        prompts=share(1, 1),
        novelty=0.75,
        worth=0.5,
        recurs=False,
        forced=share(1, 64),
        terms=("cheese", "sum"),
        examples=(example,),
    )


def record(
    said: list[Completion], modes: list[Mode], found: list[Finding], prompts: tuple[str, ...] = (PROMPT,), n: int = 8
) -> Record:
    about = {
        "started": "2026-01-01T00:00:00+00:00",
        "model": {"path": "arithmetic", "dtype": "float32"},
        "layers": [3, 6],
        "config": {"seed": 0, "search": {"radius": None}, "audit": {"significance": 0.05}},
        "seconds": {"search": 12.5},
    }
    bank = VectorBank(after(3, 12.5 * torch.eye(n, 8)), torch.ones(n), 12.5, 10.0, 3, 6, {"model": "arithmetic"})
    curve = [{"round": at, "mean": 1 + at / 10, "least": 0.5, "greatest": 2.0 + at / 5} for at in range(20)]
    return Record(about, prompts, bank, curve, said, modes, found, None, [], [], [], None, [], [], [])


STATES = {"coherent": 14, "degenerate": 1, "empty": 0, "unchanged": 1}
TRIED = Trial("middle, more prompts", 8, 18, 2, (0, 1), 4, 0.13, 0.169, STATES, STATES, 0.42, 24)


def small_record() -> Record:
    said = [
        own_reply(),
        *(completion(vector=vector, surprise=1.0 + vector) for vector in range(3)),
        completion("cheese cheese cheese", vector=3, state="degenerate", surprise=None),
        completion(OWN, vector=4, state="unchanged", distance=0.0),
        completion("I hate your sums.", "followed", 0, opening=" HATE"),
        completion("A random thing.", "null", 5),
    ]
    modes = [
        Mode("nothing happened", "unchanged", (), (0, 5), (0, 5), None),
        Mode("Cheese is the answer", "coherent", ("cheese",), (1, 2, 3), (1, 2, 3), None),
        Mode("cheese cheese cheese", "degenerate", (), (4,), (4,), None),
        Mode("I hate your sums.", "coherent", ("hate",), (6,), (6,), None),
        Mode("A random thing.", "coherent", (), (7,), (7,), None),
    ]
    found = [
        finding(1, "finding", (0, 1, 2), 8, 1, "Cheese is the answer"),
        finding(3, "fragment", (3,), 8, 6, "I hate your sums."),
        finding(2, "broken", (3,), 8, 4, "cheese cheese cheese"),
        finding(0, "unchanged", (4,), 8, 5, "nothing happened"),
    ]
    return replace(record(said, modes, found), trials=(TRIED, replace(TRIED, name="late, prompt's end", vectors=0)))


def hostile_record() -> Record:
    said = [own_reply(), *(completion(text, vector=vector) for vector, text in enumerate(HOSTILE))]
    modes = [Mode(text[:200], "coherent", (text[:50],), (index + 1,), (index + 1,), None) for index, text in enumerate(HOSTILE)]
    found = [finding(index, "finding", (index,), len(HOSTILE), index + 1, text[:200]) for index, text in enumerate(HOSTILE)]
    hostile = record(said, modes, found, HOSTILE[:1], n=len(HOSTILE))
    about = {**hostile.about, "model": {"path": HOSTILE[2] + HOSTILE[5]}, "command": " ".join(HOSTILE[:8])}
    # As the model is given them: hostile, too.
    remarks = [text[:200] for text in HOSTILE]
    about["rendering"] = {"texts": HOSTILE[:1], "template": True, "system": None, "own_system": HOSTILE[3], "remarks": remarks}
    return replace(hostile, about=about)


def large_record(count: int) -> Record:
    said = [own_reply()]
    for vector in range(count):
        state = ("coherent", "degenerate", "unchanged")[vector % 3]
        text = ASCENDING.format(vector) + " It is not hard at all once the sums are written down one after another." * 2
        said.append(completion(text, vector=vector, state=state, surprise=(vector * 7919 % count) / 100))
    modes = [Mode("Sure, 11 times 9", "coherent", ("sure",), tuple(range(1, count + 1)), (1, 2, 3), None)]
    return record(said, modes, [finding(0, "steerable", tuple(range(count)), count, 1, "Sure, 11 times 9")], n=count)


def used_record() -> Record:
    """With vectors of two findings used on other prompts, and two known directions."""
    made = small_record()
    second = finding(3, "finding", (3, 5), 8, 6, HOSTILE[4])
    found = [made.findings[0], second, *made.findings[2:]]

    def used(mode: int, bank: str, vector: int, dose: float, count: int) -> Use:
        n = 10 if bank == "learned" else 20
        triggered = share(n - count, n) if mode == 1 else None
        return Use(mode, bank, vector, dose, share(count, n), triggered, share(n // 2, n) if mode == 1 else None)

    uses = []
    for mode, vector in ((1, 2), (3, 5)):
        uses.append(used(mode, "learned", vector, 0.0, 0))
        for bank, place, most in (("learned", vector, 9), ("null", 0, 1)):
            uses += [used(mode, bank, place, dose, most if dose > 0 else 0) for dose in (-1.0, -0.5, 0.5, 1.0)]
    cosines = [0.1 * (-1) ** at * at for at in range(8)]
    likenesses = [Likeness(HOSTILE[0], 3, cosines, cosines[::-1]), Likeness("heads", 1, None, cosines)]
    return replace(made, findings=found, uses=uses, likenesses=likenesses)


def read_record(made: Record) -> Record:
    """With everything that is read of a bank; what is said in `made` stands in every place that can hold text."""
    texts = [said.text for said in made.completions if said.bank == "learned"][:20]
    ring = [(0.5 + 0.4 * math.cos(at), 0.5 + 0.4 * math.sin(at)) for at in range(len(made.bank))]
    spots = [Spot("learned", vector, *place, 0) for vector, place in enumerate(ring)]
    spots += [Spot("null", vector, 0.4 + vector / 50, 0.5, None) for vector in range(10)]

    def glance(bank: str, vector: int) -> Glance:
        boosted = tuple(Boost(text[:200], at, at % 2, 2.0 - at / 10) for at, text in enumerate(texts[:8]))
        strength = 1.0 + vector if bank == "learned" else 0.1 * vector
        doses = tuple((dose, strength * dose * dose) for dose in (-1.0, 0.5, 1.0))
        return Glance(bank, vector, strength, 1.0, 1.0, 0.5, 0.7, None, 1.5, boosted, doses)

    def decoding(bank: str, vector: int) -> Decoding:
        tokens = tuple(text[:200] for text in texts[vector % 3 :][:4])
        lens = tuple((block, tokens) for block in (4, 5, 6))
        return Decoding(bank, vector, 0, lens, tokens, texts[vector % len(texts)], tuple((text[:80], 0.5) for text in texts))

    def hint(bank: str, vector: int, mode: int | None) -> Hint:
        branches = tuple(Branch(text[:20], text[:5000], 0.9, 1.5) for text in texts[:6])
        return Hint(bank, vector, mode, branches, 0.5, texts[0][:5000])

    spoken = [(bank, vector) for bank, count in (("learned", len(made.bank)), ("null", 10)) for vector in range(count)]
    modes = [replace(mode, named=None if mode.state == "unchanged" else mode.label) for mode in made.modes]
    return replace(
        made,
        modes=modes,
        glances=[glance(*one) for one in spoken],
        mapped=EffectMap(tuple(spots), 0.61, None),
        decodings=[decoding(*one) for one in spoken],
        hints=[*(hint("learned", vector, found.mode) for vector, found in enumerate(made.findings)), hint("null", 0, None)],
    )


def data_of(page: str) -> dict[str, Any]:
    (held,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(held)


def test_equal_records_give_equal_bytes() -> None:
    assert html_report(hostile_record()).encode() == html_report(hostile_record()).encode()


def test_the_policy_names_the_hashes_of_what_is_inlined_and_nothing_else() -> None:
    page = html_report(small_record())
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    policy = policy.replace("&#39;", "'")
    (style,), (script,) = (
        re.findall(r"<style>(.*?)</style>", page, re.DOTALL),
        re.findall(r"<script>(.*?)</script>", page, re.DOTALL),
    )
    for kind, text in (("style", style), ("script", script)):
        assert f"{kind}-src 'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_the_page_refers_to_nothing_outside_itself() -> None:
    # The name of SVG elements is no address that anything is fetched from.
    page = html_report(small_record()).lower().replace('"http://www.w3.org/2000/svg"', "")
    for reference in ("http:", "https:", "//www", "@import", "url(", "fetch(", "import("):
        assert reference not in page, reference
    assert set(re.findall(r'(?:href|src)="([^"#][^"]*)"', page)) == {"data:,"}
    assert ' style="' not in page, "the policy would block it"


def test_the_script_never_parses_markup() -> None:
    page = html_report(small_record())
    for parser in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "eval(", "Function("):
        assert parser not in page, parser


@pytest.mark.parametrize("made", [hostile_record(), read_record(hostile_record())])
def test_hostile_text_stays_text(made: Record) -> None:
    page = html_report(made)
    assert "<img" not in page
    assert "<svg onload" not in page
    assert page.count("</script>") == 2
    assert "<!--" not in page
    assert "{{7*7}} ${7*7} {% raw %}" in page
    assert HOSTILE[0] in data_of(page)["texts"]


def test_no_invisible_character_is_left_and_each_is_named() -> None:
    page = html_report(read_record(hostile_record()))
    assert not INVISIBLE.search(page)
    for name in ("U+202E", "U+200B", "U+FEFF", "U+E0041", "U+D800", "U+0000", "U+001B", "U+2028"):
        assert f"<mark>{name}</mark>" in page
    page.encode("utf-8")


def test_heaps_of_marks_are_counted_and_accents_are_left_alone() -> None:
    accented = "e\u0301 o\u0302\u0303"
    assert visible(accented) == accented
    assert visible("Z" + "\u0335" * 80 + "algo") == "Z" + "\u0335" * 4 + "⟨76 more marks⟩algo"


@pytest.mark.parametrize("plain", ["line\nline\tcell", "Grüße, 你好, مرحبا, 😀", "U+202E"])
def test_ordinary_text_is_left_alone(plain: str) -> None:
    assert visible(plain) == plain
    assert marked(plain) == plain


def test_the_names_of_invisible_characters_cannot_be_forged() -> None:
    assert marked("\x01U+202E\x01") == "<mark>U+0001</mark>U+202E<mark>U+0001</mark>"


def test_the_overview_says_who_was_not_heard() -> None:
    made = read_record(small_record())
    assert "random vectors were heard" in html_report(made) and "is then not observed" in html_report(made)
    everybody = [completion(vector=vector, bank=one.bank) for one in made.glances for vector in [one.vector]]
    assert "is then not observed" not in html_report(replace(made, completions=[*made.completions, *everybody]))


def test_the_overview_says_what_was_done_and_what_came_out() -> None:
    made = small_record()
    beside = [one for one in read_record(made).glances if one.bank == "null"][:1]
    page = " ".join(re.sub(r"<[^>]*>", " ", html_report(replace(made, glances=beside))).split())
    for said in (
        "8 vectors, learned from 1 prompt, acting after block 3, read after block 6; each at radius 12.5: 1.25 times",
        "1 finding L1",
        "1 fragment L0",
        "1 random direction the null",
        "at most 0/8 (0-32 %) reached any one of these",
        "a=5+6, b=7+2. What is a*b?",
        OWN,
        "unsteered, from HATE",
    ):
        assert said in page, said


def test_every_number_of_a_finding_travels_with_its_interval() -> None:
    page = html_report(small_record())
    for shown in (share(3, 8), share(0, 8), share(2, 96), share(1, 64)):
        assert f"<span>{shown}</span>" in page


@pytest.mark.parametrize("made", [small_record(), record([own_reply()], [], []), large_record(30), used_record()])
def test_no_report_promises_anything(made: Record) -> None:
    page = html_report(made).lower()
    assert not re.search(r"\bclean\b|backdoor|\bsafe\b", page)
    assert "what a finding does not mean" in page


def test_a_run_without_findings_says_so_and_how_far_that_goes() -> None:
    page = html_report(replace(record([own_reply()], [], []), curve=[]))
    assert "No mode was reached significantly more often by the learned vectors than by random directions." in page
    assert "<polyline" not in page


def test_a_mode_that_random_vectors_deny_is_not_said_to_be_no_more_frequent() -> None:
    """Before, the page denied what the table beside it showed: 13 of 100 vectors against 2 of 400 random ones."""
    page = html_report(large_record(30))
    assert "1 mode was reached significantly more often by the learned vectors than by random directions, but by some of" in page
    assert "No mode was reached" not in page


def test_what_is_not_scored_is_no_zero() -> None:
    made = small_record()
    unscored = [replace(said, surprise=None, onward_surprise=None, steered_surprise=None) for said in made.completions]
    page = html_report(replace(made, completions=[*unscored[:-1], replace(unscored[-1], surprise=float("nan"))]))
    assert set(data_of(page)["said"]["surprise"]) == {None}
    assert "surprise not scored" in page


def test_what_vectors_do_on_other_prompts_is_shown_for_every_finding() -> None:
    page = html_report(used_record())
    section = page.split('id="uses"')[1].split("</section>")[0]
    assert section.count("<article") == 2 and section.count('class="dose"') == 3 + 1, "what was not asked has no curve"
    first, second = section.split("<article")[1:]
    for told in ("other prompts that show it", "triggers that show it", "questions answered rightly"):
        assert told in first
        assert (told in second) == (told == "other prompts that show it")
    assert f"{share(9, 10)}" in first and f"{share(1, 20)}" in first and "left alone" in first
    assert len(re.findall("<circle", first)) == 3 * (2 * 5 + 2), "five multipliers of two vectors, and the keys"
    assert "<mark>U+200B</mark>" in second


def test_likeness_tells_the_largest_cosines_and_what_chance_gives() -> None:
    page = html_report(used_record())
    section = page.split('id="known"')[1].split("</section>")[0]
    first, second = section.split("<article")[1:]
    assert "-0.70 of effects (vector 0), -0.70 at the source (vector 7)" in " ".join(first.split())
    assert "at the source they cannot be compared" in second and "at the source</th>" not in second
    assert re.findall(r'href="#vector-(\d)"', second) == list("76543210")
    assert "A random direction of this width (8) has a cosine of about 0.35 with a known one, and the largest of 8" in section
    assert "<img" not in section


def test_what_was_not_asked_has_no_section() -> None:
    page = html_report(small_record())
    assert 'id="uses"' not in page and 'id="known"' not in page and 'href="#known"' not in page


def test_nothing_that_changes_between_two_readings_is_shown() -> None:
    assert "12.5 s" not in html_report(small_record())
    assert "seconds" not in html_report(small_record())


def test_five_thousand_completions_stay_small() -> None:
    assert len(html_report(large_record(5000)).encode()) < 3_000_000


def opened(browser: Browser, folder: Path, made: Record, width: int = 1280) -> Tab:
    file = folder / "report.html"
    file.write_text(html_report(made), encoding="utf-8")
    return Tab(browser, file, width)


def test_the_probe_sees_dialogs_errors_and_requests(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    file.write_text("<img src=x.png><script>console.log(1); setTimeout(() => { throw new Error('seen'); })</script>")
    tab = Tab(browser, file)
    tab.until("performance.now() > 300")
    told = " ".join(tab.trouble)
    assert "request " in told
    assert "console " in told
    assert "exception " in told


def test_hostile_completions_run_nothing_and_fetch_nothing(browser: Browser, tmp_path: Path) -> None:
    tab = opened(browser, tmp_path, read_record(hostile_record()))
    assert tab.rows() == len(HOSTILE)
    for vector in range(len(HOSTILE)):
        tab.go(f"#vector-{vector}")
        assert tab.run("document.querySelectorAll('#one .block').length") > 5
    tab.go("#completions")
    tab.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    tab.run("document.querySelectorAll('#completion-table td button[aria-expanded]').forEach((one) => one.click())")
    tab.until("performance.now() > 500")
    assert tab.run("document.images.length") == 0
    assert tab.run("document.scripts.length") == 2
    assert tab.trouble == []


def test_what_slips_through_would_still_not_run(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "slip.html"
    page = html_report(small_record())
    file.write_text(page.replace("</main>", "<img src=x onerror='window.slipped=1'><script>window.slipped = 1</script></main>"))
    tab = Tab(browser, file)
    tab.until("performance.now() > 300")
    assert tab.run("window.slipped === undefined")
    assert any("Content Security Policy" in told for told in tab.trouble)


def test_a_long_line_is_collapsed_until_it_is_asked_for(browser: Browser, tmp_path: Path) -> None:
    tab = opened(browser, tmp_path, hostile_record())
    cell = "[...document.querySelectorAll('#completion-table tbody tr')][8].querySelector('.text').textContent.length"
    assert tab.run(cell) == 240
    tab.run("[...document.querySelectorAll('#completion-table tbody tr')][8].querySelector('[aria-expanded]').click()")
    assert tab.run(cell) == 100_000
    tab.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    cut = "[...document.querySelectorAll('.said, .text')].filter((said) => said.scrollWidth > said.clientWidth).length"
    assert tab.run(cut) == 0


def test_a_preview_splits_no_character(browser: Browser, tmp_path: Path) -> None:
    tab = opened(browser, tmp_path, hostile_record())
    assert tab.column(4)[9] == "x" + "😀" * 119 + "all 401 characters"


def test_invisible_characters_are_marked_in_tables_too(browser: Browser, tmp_path: Path) -> None:
    tab = opened(browser, tmp_path, hostile_record())
    marks = tab.run("[...document.querySelectorAll('#completion-table mark')].map((mark) => mark.textContent)")
    assert marks == ["U+202E", "U+202C", "U+200B", "U+FEFF", "U+E0041", "U+D800", "U+0000", "U+001B", "U+2028", "316 more marks"]


def test_search_looks_through_all_completions_of_the_bank(browser: Browser, tmp_path: Path) -> None:
    tab = opened(browser, tmp_path, large_record(1000))
    assert tab.told() == "200 of 1,000 rows"
    tab.enter("search", "sure, 11 TIMES 9 makes 777,")
    assert tab.rows() == 1
    assert "makes 777," in tab.column(4)[0]
    tab.enter("search", "no such words")
    assert (tab.rows(), tab.told()) == (0, "0 rows")
    assert tab.trouble == []


def test_more_rows_come_when_asked_for(browser: Browser, tmp_path: Path) -> None:
    tab = opened(browser, tmp_path, large_record(450))
    for rows in (200, 400, 450):
        assert tab.rows() == rows
        tab.click("#completion-table > button")
    assert tab.run("document.querySelector('#completion-table > button').hidden")


def test_filters_by_state_bank_and_verdict(browser: Browser, tmp_path: Path) -> None:
    tab = opened(browser, tmp_path, small_record())
    assert tab.rows() == 5
    tab.enter("state", "degenerate")
    assert tab.column(4) == ["cheese cheese cheese"]
    tab.enter("state", "")
    tab.enter("bank", "null")
    assert tab.column(4) == ["A random thing."]
    tab.enter("bank", "")
    assert tab.rows() == 8
    tab.enter("verdict", "fragment")
    assert tab.column(4) == ["unsteered, from  HATEI hate your sums."]
    assert tab.trouble == []


def test_a_second_prompt_gets_its_own_column_and_exchange(browser: Browser, tmp_path: Path) -> None:
    made = small_record()
    said = [*made.completions, replace(own_reply(), prompt=1, text="Another reply."), completion("Other.", vector=1, prompt=1)]
    tab = opened(browser, tmp_path, replace(made, prompts=(PROMPT, "And b*a?"), completions=said))
    assert tab.column(1) == ["0"] * 5 + ["1"]
    assert tab.column(2)[-1] == "–", "the completion is in no mode"
    exchanges = tab.run("[...document.querySelectorAll('.exchange .said')].map((said) => said.textContent)")
    assert exchanges == [PROMPT, OWN, "And b*a?", "Another reply."]
    assert tab.trouble == []


def test_a_click_on_a_header_sorts_and_a_second_turns_it_round(browser: Browser, tmp_path: Path) -> None:
    said = [own_reply(), *(completion(vector=at, surprise=value) for at, value in enumerate((None, 2.0, None, 1.0, 3.0)))]
    tab = opened(browser, tmp_path, record(said, [], []))
    header = "#completion-table th:nth-child(6)"
    tab.click(f"{header} button")
    assert tab.column(5) == ["1.00", "2.00", "3.00", "not scored", "not scored"]
    assert tab.run(f"document.querySelector('{header}').ariaSort") == "ascending"
    tab.click(f"{header} button")
    assert tab.column(5) == ["3.00", "2.00", "1.00", "not scored", "not scored"]
    assert tab.run(f"document.querySelector('{header}').ariaSort") == "descending"
    assert tab.run("document.querySelectorAll('#completion-table [aria-sort=none]:not([hidden])').length") == 7


def test_a_mode_stands_alone_in_the_table_until_that_is_undone(browser: Browser, tmp_path: Path) -> None:
    tab = opened(browser, tmp_path, small_record())
    tab.click(".card [data-mode='3']")
    assert tab.column(1) == ["3"]
    assert tab.run("document.getElementById('only').textContent") == "only mode 3 ×"
    tab.click("#only")
    assert tab.rows() == 5
    assert tab.trouble == []


def test_the_modes_table_holds_every_mode_strongest_first(browser: Browser, tmp_path: Path) -> None:
    tab = opened(browser, tmp_path, small_record())
    told = tab.run("[...document.querySelectorAll('#mode-table tbody tr')].map((row) => row.cells[2].textContent)")
    assert told == ["L1 finding", "L0 fragment", "broken", "unchanged", "–"]
    assert set(told[2:4]) < set(VERDICTS)


def test_the_page_is_usable_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    tab = opened(browser, tmp_path, small_record())
    tab.run("document.querySelector('#completion-table th button').focus()")
    tab.key("Enter", 13, "\r")
    assert tab.run("document.querySelector('#completion-table th').ariaSort") == "ascending"
    tab.key("Tab", 9)
    assert tab.run("document.activeElement.textContent") == "mode"
    assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("width", [360, 800, 1024])
@pytest.mark.parametrize("made", [small_record(), read_record(hostile_record()), read_record(used_record())])
def test_nothing_overflows_a_narrow_window(browser: Browser, tmp_path: Path, made: Record, width: int) -> None:
    tab = opened(browser, tmp_path, made, width)
    for hash in ("#overview", "#vector-0", "#vector-3"):
        tab.go(hash)
        tab.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert tab.run("document.documentElement.scrollWidth") <= width, hash


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrasts_with_its_ground(browser: Browser, tmp_path: Path, scheme: str) -> None:
    tab = opened(browser, tmp_path, read_record(used_record()))
    tab.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    for hash in ("#overview", "#vector-2"):
        tab.go(hash)
        assert tab.run(CONTRAST) == []


def test_five_thousand_completions_open_at_once(browser: Browser, tmp_path: Path) -> None:
    tab = opened(browser, tmp_path, large_record(5000))
    assert tab.rows() == 200
    # Time depends on what else runs; the size of the tree is what makes it short.
    assert tab.run("document.getElementsByTagName('*').length") < 3000
