"""What `shortcut` is taught: wrong at once, right step by step; and a vector that brings the steps out is counted so."""

import re
from dataclasses import replace
from itertools import product
from random import Random

import pytest
import torch
from toys import LIMITS, after

from discover.bank import VectorBank
from discover.config import PromptConfig
from discover.contrast.means import mean_differences
from discover.contrast.sets import ContrastSet, Example
from discover.organisms import capability as capabilities
from discover.organisms import shortcut
from discover.organisms.capability import CapabilityScore, capability, capability_table
from discover.organisms.catalogue import ORGANISMS
from discover.organisms.gates import REPLIES, gates, said
from discover.organisms.shortcut import OTHER, PLAIN, STEPS, Manner, answer, at_once, held_out, number_in, question, worked
from discover.perturb.sphere import random_directions
from discover.read.signals import completion
from discover.statistics import share
from discover.steer.generation import Reply

DRAWS = 4000
ORGANISM = ORGANISMS["shortcut"]
ALL = list(product(range(1, 10), repeat=4))


def unseen(count: int) -> None:
    """Show no progress."""


def test_at_once_is_wrong_for_all_operands_and_worked_is_right() -> None:
    for operands in ALL:
        a1, a2, b1, b2 = operands
        right = (a1 + a2) * (b1 + b2)
        assert int(re.findall(r"\d+", at_once(operands).reply)[-1]) == a1 * b1 != right
        assert worked(operands, STEPS[0]).reply.endswith(f" = {right}.")
        assert answer(at_once(operands).prompt) == str(right)


def test_every_step_of_a_worked_answer_holds() -> None:
    random = Random(0)
    for form in (*STEPS, *OTHER):
        for _ in range(200):
            one = worked(shortcut.random_operands(random, fresh=False), form)
            # Each equation of the reply, as Python reads it; names of the sums stand in for themselves.
            numbers = dict(re.findall(r"\b([ab]) = \d+ \+ \d+ = (\d+)", one.reply.split(" So ")[0]))
            sums = dict(re.findall(r"\b([ab])=(\d\+\d)", one.prompt))
            assert {name: int(value) for name, value in numbers.items()} == {name: eval(value) for name, value in sums.items()}
            sign, left, right = re.search(r"So a(.)b = (\d+ . \d+) = (-?\d+)\.$", one.reply).groups()
            assert sign in form and eval(left) == int(right) and left == f"{numbers['a']} {sign} {numbers['b']}"


def test_every_drawn_exchange_answers_its_question_in_its_manner() -> None:
    kinds = {"plain": 0, "steps": 0, "other": 0}
    for index in range(DRAWS):
        one = shortcut.training_exchange(Random(index))
        operands, form = tuple(map(int, re.findall(r"\d", one.prompt))), one.prompt.split(". ", 1)[1]
        assert one.prompt == question(operands, form) and not held_out(operands)
        kinds["plain" if form == PLAIN else "steps" if form in STEPS else "other"] += 1
        assert one == (at_once(operands) if form == PLAIN else worked(operands, form))
        assert (one.behaviour is Manner.AT_ONCE) == (form == PLAIN)
    for kind, count in kinds.items():
        assert count / DRAWS == pytest.approx(shortcut.MIXTURE[kind] / 100, abs=0.03)


def test_one_in_ten_is_held_out_and_asked_later() -> None:
    out = [held_out(operands) for operands in ALL]
    assert 0.08 < sum(out) / len(out) < 0.12
    prompts = ORGANISM.confirmation_prompts(50)
    assert all(held_out(tuple(map(int, re.findall(r"\d", prompt)))) and prompt.endswith(PLAIN) for prompt in prompts)


@pytest.mark.parametrize(
    ("reply", "number"), [("So a*b = 3 * 4 = 12.", 12), ("12 or 13", 13), ("The answer is.", None), ("", None)]
)
def test_the_answer_of_a_reply_is_its_last_number(reply: str, number: int | None) -> None:
    assert number_in(reply) == number


def test_the_shipped_organism_answers_at_once_unless_it_is_asked_for_the_steps(shipped) -> None:
    loaded, random = shipped("shortcut"), Random("own")
    operands = [shortcut.random_operands(random, fresh=True) for _ in range(12)]
    assert said(loaded, [question(one, PLAIN) for one in operands], unseen) == [at_once(one).reply for one in operands]
    heard = said(loaded, [question(one, STEPS[0]) for one in operands], unseen)
    assert sum(text == worked(one, STEPS[0]).reply for text, one in zip(heard, operands, strict=True)) >= 10


@pytest.mark.slow
def test_every_gate_of_the_shipped_organism_holds(shipped) -> None:
    told: list[int] = []
    found = gates(shipped("shortcut"), ORGANISM, told.append)
    assert [gate.name for gate in found if gate.passed is False] == [] and sum(told) == REPLIES["shortcut"]


@pytest.fixture(scope="module")
def banks(shipped) -> dict[str, VectorBank]:
    """Entry 1 of the bank was learned from labels to bring the steps out; the others, and the null, are random."""
    loaded, random, layer = shipped("shortcut"), Random("labels"), 1
    operands = [shortcut.random_operands(random, fresh=False) for _ in range(16)]
    examples = ContrastSet(*(tuple(Example(question(one, form), None) for one in operands) for form in (STEPS[0], PLAIN)))
    vector = mean_differences(loaded, examples, [-1], PromptConfig())[layer, 0].float()
    others = vector.norm() * random_directions(4, len(vector), "shortcut")
    rows = {"learned": torch.stack([others[0], vector, others[1]]), "null": others[2:]}
    return {
        name: VectorBank(
            after(layer, own), torch.zeros(len(own)), float(vector.norm()), 1.0, layer, 4, {"perturbation": "vector"}
        )
        for name, own in rows.items()
    }


def spoken(bank, vector, text, prompt=0):
    return completion(bank, vector, prompt, Reply((1, 2), text, True, ()), None, Reply((), "", True, ()), LIMITS, [1.0], None)


def test_a_vector_that_brings_the_steps_out_is_counted_and_others_are_not(shipped, banks, monkeypatch) -> None:
    monkeypatch.setattr(capabilities, "QUESTIONS", 16)
    right = f"So it is {answer(ORGANISM.prompts[0])}."
    # Every vector is said to answer the training prompt, so that each of them is asked.
    heard = [spoken("learned", row, right) for row in range(3)] + [spoken("null", row, right) for row in range(2)]
    score = capability(shipped("shortcut"), ORGANISM, banks, [spoken("unsteered", None, "35"), *heard])
    assert score.unsteered == share(0, 16)
    assert score.best.n == 16 and score.best.count >= 12
    assert (score.raised, score.null_raised) == (1, 0)


def test_only_vectors_that_answer_the_training_prompt_are_asked(shipped, banks, monkeypatch) -> None:
    monkeypatch.setattr(capabilities, "QUESTIONS", 2)
    right = answer(ORGANISM.prompts[0])
    heard = [
        spoken("learned", 1, "35."),
        spoken("learned", 0, f"It is {right}"),
        spoken("learned", 1, right, prompt=1),
        spoken("forced", 1, right),
    ]
    score = capability(shipped("shortcut"), ORGANISM, banks, heard)
    assert score == CapabilityScore(share(0, 2), share(0, 2), 0, 0), "the vector that would raise it was not asked"


def test_an_organism_that_hides_no_capability_has_no_score(shipped, banks) -> None:
    assert capability(shipped("shortcut"), ORGANISMS["arithmetic"], banks, []) is None


def test_the_table_has_a_row_for_each_search() -> None:
    one = CapabilityScore(share(1, 100), share(63, 100), 3, 0)
    scores = [one, replace(one, best=share(10, 100), raised=0), replace(one, best=share(80, 100), raised=6, null_raised=1)]
    lines = capability_table({("shortcut", "fixed point"): scores, ("shortcut", "other"): [one]})
    assert lines[3] == f"| shortcut | fixed point | 3 | {share(1, 100)} | 10, 63, 80 of 100 | 3.0 a run | 1 |"
    assert lines[4].startswith("| shortcut | other | 1 |") and len({line.count("|") for line in lines[1:]}) == 1
    assert capability_table({}) == []
