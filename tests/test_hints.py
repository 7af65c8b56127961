"""How little of a vector is enough is what single replies say, and what is shown beside it was done in the same way."""

from dataclasses import replace
from random import Random

import pytest
import torch
from toys import LIMITS, after

from discover.bank import VectorBank
from discover.config import PromptConfig, SpeechConfig
from discover.model.prompts import encoded
from discover.model.slice import residual_after
from discover.organisms.arithmetic import EASY_PAYLOAD, Operands, question, random_operands
from discover.perturb.sphere import random_directions, unit
from discover.read.hints import (
    BESIDE,
    MULTIPLIERS,
    Behaviour,
    Branch,
    Hint,
    hints,
    load_hints,
    replies_of_hints,
    save_hints,
)
from discover.read.signals import completion, distance
from discover.steer.generation import Reply, replies
from discover.steer.interventions import added

LAYER, SPEECH = 1, SpeechConfig(tokens=24)
ASKED = ("a=3+4, b=1+8. What is a*b?", "a=5+6, b=7+2. What is a*b?")


def said(bank, vector, text, prompt=0, opening=None, hinted=()):
    whole = completion(
        bank,
        vector,
        prompt,
        Reply((1, 2, 3), text, True, ()),
        opening,
        Reply((), "something else", True, ()),
        LIMITS,
        [1.0] * 3,
        None,
    )
    return replace(whole, hinted=hinted)


@pytest.fixture(scope="module")
def bank(shipped):
    """Vector 1 makes the organism say the easy payload, from labels; vector 0 is a random one of its norm."""
    loaded, random, ends = shipped("arithmetic"), Random(0), []
    clean = [random_operands(random) for _ in range(16)]
    for operands in (clean, [Operands(0, 0, one.b1, one.b2) for one in clean]):
        batch = encoded([question(one, "What is a*b?") for one in operands], loaded.tokenizer, PromptConfig())
        ends.append(residual_after(loaded, batch, LAYER)[:, -1].mean(dim=0))
    direction = 0.9 * residual_after(loaded, batch, LAYER).norm(dim=-1).median() * unit(ends[1] - ends[0])
    vectors = torch.stack([direction.norm() * random_directions(1, len(direction), "hints")[0], direction])
    return VectorBank(after(LAYER, vectors), torch.zeros(2), float(direction.norm()), 1.0, LAYER, 6, {})


@pytest.fixture(scope="module")
def heard(shipped, bank):
    loaded = shipped("arithmetic")
    batch = encoded([ASKED[1]], loaded.tokenizer, PromptConfig())
    told = replies(loaded, batch, [added(bank.perturbations.rows([1]))], SPEECH.tokens, 1, lambda _: None)[0].text
    branches = [
        said("followed", 0, "First, I was told so", opening="First, I", hinted=(("learned", 0), ("learned", 1), ("null", 2))),
        said("followed", 1, "Cheese, a wholly new idea", opening="Cheese,", hinted=(("learned", 1),)),
    ]
    others = [said("null", vector, "I was here", vector % 2) for vector in range(BESIDE + 2)]
    forced = [
        said("forced", 0, "something else something else something", opening="something"),
        said("forced", 1, "Two fresh things stand there", opening="Two"),
    ]
    own = [replace(said("unsteered", None, "something else"), vector=None)]
    return [*own, said("learned", 1, told, 1), said("learned", 0, "never said", 0), *others, *forced, *branches]


@pytest.fixture(scope="module")
def found(shipped, bank, heard):
    behaviours = [Behaviour(5, 1, heard[1]), Behaviour(2, 0, heard[2]), Behaviour(4, 0, heard[-2])]
    batch, told = encoded(ASKED, shipped("arithmetic").tokenizer, PromptConfig()), []
    rows = hints(shipped("arithmetic"), batch, behaviours, heard, bank, 12, SPEECH, told.append)
    assert sum(told) == replies_of_hints(behaviours) == 2 * len(MULTIPLIERS)
    return rows


def test_the_least_that_is_enough_is_what_single_replies_show(shipped, bank, heard, found):
    loaded, example = shipped("arithmetic"), heard[1].text
    assert example == EASY_PAYLOAD
    batch, shown = encoded([ASKED[1]], loaded.tokenizer, PromptConfig()), {}
    for multiplier in MULTIPLIERS:
        steering = [added(bank.perturbations.rows([1]).scaled(multiplier))]
        shown[multiplier] = replies(loaded, batch, steering, SPEECH.tokens, 1, lambda _: None)[0].text
    least = min(multiplier for multiplier, text in shown.items() if distance(text, example) < 0.2)
    assert 0.1 < least < 1, "neither anything nor the whole is needed, so that the scan says something"
    assert (found[0].mode, found[0].vector, found[0].least, found[0].least_text) == (5, 1, least, shown[least])


def test_what_a_vector_never_says_or_only_hints_at_has_no_least(found):
    assert [(one.mode, one.least, one.least_text) for one in found[1:3]] == [(2, None, None), (4, None, None)]


def test_branches_are_those_that_the_vector_hints_at_most_novel_first(found):
    assert [branch.opening for branch in found[0].branches] == ["Cheese,", "First, I"]
    assert found[0].branches[0].novelty == 1 and found[0].branches[0].text == "Cheese, a wholly new idea"
    assert found[0].branches[1].novelty == pytest.approx(2 / 3), "a random vector says `was`"
    assert [branch.opening for branch in found[1].branches] == ["First, I"]


def test_random_vectors_and_forced_tokens_stand_beside(found):
    beside = found[3:]
    assert [(one.bank, one.vector) for one in beside] == [
        *(("null", vector) for vector in range(BESIDE)),
        ("forced", 1),
        ("forced", 0),
    ]
    assert [len(one.branches) for one in beside[:BESIDE]] == [0, 0, 1] + [0] * (BESIDE - 3)
    assert [one.branches[0].novelty for one in beside[BESIDE:]] == [1.0, 0.5]
    assert all(one.mode is one.least is one.least_text is None for one in beside)


def test_no_behaviour_needs_no_reply(shipped, bank, heard):
    batch = encoded(ASKED, shipped("arithmetic").tokenizer, PromptConfig())
    rows = hints(shipped("arithmetic"), batch, [], heard, bank, 12, SPEECH, lambda _: pytest.fail("nothing was asked for"))
    assert {one.bank for one in rows} == {"null", "forced"}


def test_hints_survive_their_file(tmp_path):
    branch = Branch("\ud800", "\u2028\x00", 0.5, None)
    found = [Hint("learned", 3, 1, (branch, branch), 0.4, "text"), Hint("null", 0, None, (), None, None)]
    save_hints(tmp_path / "hints.json", found)
    assert load_hints(tmp_path / "hints.json") == found
