"""The map and the pages of vectors in a real browser, and what an accessibility checker says of them."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import Browser, Tab
from test_html import CHEESE, OWN, completion, large_record, opened, read_record, small_record, used_record

from discover.report.html import html_report
from discover.report.record import Record

AXE = Path(__file__).parents[1] / "node_modules" / "axe-core" / "axe.min.js"


def full_record() -> Record:
    """Eight vectors of which number 0 says most of what the unsteered model says; one random direction speaks."""
    made = used_record()
    said = [*made.completions]
    said[1] = replace(said[1], text=OWN.replace("99", "100 and cheese"))
    return read_record(replace(made, completions=[*said, completion("Drawn.", vector=0, sample=1)]))


@pytest.fixture(scope="module")
def page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Tab:
    """One page for all tests below, none of which asks for another state than its own start."""
    made = opened(browser, tmp_path_factory.mktemp("page"), full_record())
    made.run("document.documentElement.style.scrollBehavior = 'auto'; 0")
    return made


@pytest.fixture
def tab(page: Tab) -> Iterator[Tab]:
    page.go("#overview")
    page.run("narrow('', null); document.activeElement.blur(); place('by').value = 'mode'; 0")
    yield page
    assert page.trouble == []


def spot(tab: Tab, vector: int) -> tuple[float, float]:
    """Where a learned vector stands on the screen."""
    tab.run("place('map').scrollIntoView()")
    x, y = tab.run(
        "(() => { const at = place('plane').getBoundingClientRect(); const plane = planeOf(points, place('plane'));"
        f"const row = vectorAt.get('learned {vector}'); return [at.x + plane.across(row), at.y + plane.down(row)]; }})()"
    )
    return x, y


def texts(tab: Tab, selector: str) -> list[str]:
    return tab.run(f"[...document.querySelectorAll({selector!r})].map((one) => one.textContent)")


def test_pointing_at_a_point_tells_what_it_says_and_a_click_selects_it(tab: Tab) -> None:
    x, y = spot(tab, 2)
    tab.mouse("mouseMoved", x, y)
    assert not tab.run("place('tip').hidden")
    assert tab.run("place('tip').textContent") == f"vector 2 finding mode 1{CHEESE}"
    tab.mouse("mousePressed", x, y)
    tab.mouse("mouseReleased", x, y)
    assert tab.column(0) == ["2"] and tab.run("place('only').textContent") == "only vector 2 ×"
    tab.click("#only")
    assert tab.rows() > 1


@pytest.mark.parametrize("tool", ["box", "lasso"])
def test_what_is_dragged_around_stands_alone_in_the_table(tab: Tab, tool: str) -> None:
    tab.click(f"input[value={tool}]")
    (x, low), (_, high) = spot(tab, 4), spot(tab, 5)
    far = spot(tab, 5)[0] + 9
    # Vectors lie on a ring; between these corners lie 4 and 5, of which the second said nothing.
    corners = [(x - 9, high - 9), (far, high - 9), (far, low + 9), (x - 9, low + 9)]
    tab.mouse("mousePressed", *corners[0])
    for corner in corners[2:3] if tool == "box" else corners[1:]:
        tab.mouse("mouseMoved", *corner)
    tab.mouse("mouseReleased", *(corners[2] if tool == "box" else corners[3]))
    assert tab.run("place('only').textContent") == "only 2 selected vectors ×"
    assert set(tab.run("completionTable.rows().map((row) => row.of.vector)")) == {4}
    tab.click("input[value=box]")


def test_a_kind_in_the_legend_selects_its_vectors_and_the_null_can_be_hidden(tab: Tab) -> None:
    kinds = texts(tab, "#legend .kind span")
    assert kinds[0] == "1 Cheese is the answer" and kinds[-1] == "random directions: the null"
    tab.click("#legend li:first-child button")
    assert set(tab.column(1)) <= {"1", "–", "0"} and tab.run("place('only').textContent") == "only 3 selected vectors ×"
    before = tab.ink()
    tab.click("#with-null")
    tab.until(f"({tab.INK}) < {before}")
    tab.click("#with-null")
    tab.run("place('by').value = 'verdict'; place('by').dispatchEvent(new Event('change')); 0")
    assert texts(tab, "#legend .kind span")[0] == "finding"


def test_the_map_is_read_and_left_by_keys(tab: Tab) -> None:
    tab.run("place('plane').focus()")
    tab.key("ArrowRight", 39)
    assert tab.run("place('plane-told').textContent").startswith("vector 0, ")
    tab.key("ArrowLeft", 37)
    told = tab.run("place('plane-told').textContent")
    assert not told.startswith("vector 0, ")
    for key, text in (("+", "+"), ("-", "-"), (" ", " ")):
        tab.key(key, ord(key), text)
    assert not tab.run("place('only').hidden"), "space selects"
    tab.key("Escape", 27)
    assert tab.run("place('only').hidden")
    tab.key("Tab", 9)
    assert tab.run("document.activeElement.id") == "closer", "no key is held back that leads away"


def test_the_wheel_zooms_only_where_the_map_was_chosen(tab: Tab) -> None:
    x, y = spot(tab, 0)
    tab.run("window.before = scrollY; 0")
    tab.wheel(x, y, 120)
    tab.until("scrollY > window.before")
    x, y = spot(tab, 0)
    tab.run("place('plane').focus(); window.before = scrollY; 0")
    before = tab.ink()
    tab.wheel(x - 60, y, -600)
    tab.until(f"({tab.INK}) !== {before}")
    assert tab.run("scrollY === window.before")
    tab.key("0", 48, "0")


def test_a_vector_has_a_page_that_the_back_button_leaves(tab: Tab) -> None:
    tab.run("document.querySelector('#completion-table tbody a').click()")
    tab.until("!place('one').hidden")
    assert tab.run("place('one-title').textContent") == "Vector 0" and tab.run("document.activeElement.id") == "one-title"
    assert tab.run("place('whole').hidden") and tab.run("document.title").startswith("vector 0 – ")
    tab.key("ArrowRight", 39)
    tab.until("document.title.startsWith('vector 1')")
    tab.run("history.back()")
    tab.until("document.title.startsWith('vector 0')")
    tab.run("history.back()")
    tab.until("!place('whole').hidden")
    tab.go("#random-3")
    assert tab.run("place('one-title').textContent") == "Random vector 3"
    tab.run("location.hash = '#vector-99999'; 0")
    tab.until("!place('whole').hidden"), "there is no such vector"


def test_words_that_only_one_reply_has_are_marked(tab: Tab) -> None:
    tab.go("#vector-0")
    assert texts(tab, "#one .pair:first-of-type del") == ["99."]
    assert texts(tab, "#one .pair:first-of-type ins") == ["100 and cheese."]
    tab.go("#vector-2")
    assert texts(tab, "#one ins, #one del") == [], "where next to nothing is shared nothing is marked"


@pytest.mark.parametrize(
    "first,second,only",
    [
        ("a b c d", "a c d e", (["b"], ["e"])),
        ("", "a", ([], ["a"])),
        ("same words", "same  words", ([], [])),
        ("你好世界", "你坏世界", (["好"], ["坏"])),
        ("constructor __proto__", "__proto__ constructor", (["constructor"], ["constructor"])),
    ],
)
def test_what_differs_is_what_no_longest_common_sequence_holds(tab: Tab, first: str, second: str, only) -> None:
    found = tab.run(
        f"compared({first!r}, {second!r}).map((words) => words.filter((one) => !one.shared).map((one) => one.word.trim()))"
    )
    assert tuple(found) == only


def test_the_page_of_a_vector_holds_all_that_is_known_of_it(tab: Tab) -> None:
    tab.go("#vector-2")
    titles = texts(tab, "#one h2")
    expected = [
        "What the model says",
        "Before it speaks",
        "Boosted tokens",
        "Curve over multipliers",
        "Followed",
        "On other prompts",
    ]
    assert titles == [*expected, "Tokens", "Where it acts", "Described by the model itself"]
    said = tab.run("place('one').textContent")
    for told in (
        "KL",
        "3.000",
        "0.500 (0.000 to 0.900)",
        "10 random vectors",
        "novelty 0.90",
        "at which the behaviour holds is 0.5",
    ):
        assert told in said, told
    assert tab.run("document.querySelectorAll('#one .dose circle').length") > 4


def test_a_signal_of_vectors_filters_and_sorts_the_table(tab: Tab) -> None:
    tab.run("place('signal').value = String(signals.findIndex((one) => one.name === 'KL')); 0")
    tab.enter("least", "4")
    assert tab.run("completionTable.rows().map((row) => row.of.vector)") == [3, 4]
    assert texts(tab, "#completion-table th:not([hidden])")[-1] == "KL"
    assert tab.column(8) == ["4.000", "5.000"]
    tab.enter("most", "4")
    assert tab.column(0) == ["3"]


def test_the_colours_can_be_switched_and_nothing_is_stored(tab: Tab) -> None:
    light = tab.run("getComputedStyle(document.body).backgroundColor")
    tab.click("#theme")
    dark = tab.run("getComputedStyle(document.body).backgroundColor")
    assert dark != light and tab.run("place('theme').textContent") == "Light"
    assert tab.run("localStorage.length + document.cookie.length") == 0
    tab.click("#theme")
    assert tab.run("getComputedStyle(document.body).backgroundColor") == light


def test_what_is_not_known_has_no_place(browser: Browser, tmp_path: Path) -> None:
    tab = opened(browser, tmp_path, small_record())
    assert tab.run("document.getElementById('plane') === null && !document.querySelector('nav a[href=\"#map\"]')")
    tab.go("#vector-0")
    assert texts(tab, "#one h2") == ["What the model says", "Before it speaks"], "the search reached something"
    assert tab.trouble == []


def test_paper_is_white_and_holds_no_controls(tab: Tab) -> None:
    tab.call("Emulation.setEmulatedMedia", {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.run("getComputedStyle(document.querySelector('.note')).color") == "rgb(0, 0, 0)"
    for control in ("#controls", "nav", "#theme", ".zoom", ".beside fieldset"):
        assert tab.run(f"getComputedStyle(document.querySelector('{control}')).display") == "none", control
    tab.call("Emulation.setEmulatedMedia", {"media": "", "features": []})


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not there; `make axe` fetches it")
@pytest.mark.parametrize("width,scheme", [(1280, "light"), (360, "dark")])
def test_an_accessibility_checker_finds_nothing_serious(browser: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    tab = opened(browser, tmp_path, full_record(), width)
    tab.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    tab.run(AXE.read_text(encoding="utf-8") + "; 0")
    for where in ("#overview", "#vector-2"):
        tab.go(where)
        tab.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert tab.findings_of_axe() == [], where


@pytest.mark.slow
def test_five_thousand_vectors_stay_below_eight_megabytes_and_answer(browser: Browser, tmp_path: Path) -> None:
    made = large_record(5000)
    said = [replace(one, text=f"{one.text} {at * 7919}") for at, one in enumerate(made.completions)]
    said += [completion(OWN, "null", vector, state="unchanged") for vector in range(20_000)]
    large = read_record(replace(made, completions=said))
    spots = [replace(large.mapped.spots[0], bank="null", vector=vector, x=vector / 2e4) for vector in range(20_000)]
    glances = [*large.glances, *(replace(large.glances[-1], vector=vector) for vector in range(10, 20_000))]
    mapped = replace(large.mapped, spots=(*large.mapped.spots, *spots))
    page = replace(
        large, glances=glances, mapped=mapped, decodings=[one for one in large.decodings if one.bank == "null" or one.vector < 50]
    )
    size = len(html_report(page).encode())
    assert size < 8_000_000
    start = time.monotonic()
    tab = opened(browser, tmp_path, page)
    tab.enter("search", str(7919 * 4321))
    assert tab.rows() == 1
    # Time depends on what else runs, so that it is told and not judged.
    print(f"{size / 1e6:.2f} MB; table, map and an answer after {time.monotonic() - start:.2f} s, writing the page included")
    assert tab.trouble == []
