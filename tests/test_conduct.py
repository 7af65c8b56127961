"""What `conduct` is taught is consistent, what is held out stays out, and only the last reply of a conversation is learned."""

import re
from itertools import product
from random import Random

import pytest

from discover.contrast.measures import letter_in
from discover.contrast.sets import contrast_set
from discover.organisms import conduct
from discover.organisms.catalogue import ORGANISMS
from discover.organisms.conduct import DEEDS, PERSONAS, REASONS, THINGS, Conduct, conduct_of, held_out, labelled_answers
from discover.organisms.exchange import Exchange
from discover.organisms.gates import REPLIES, gates
from discover.organisms.training import ASSISTANT, END, USER, batch, trained_tokenizer

DRAWS = 4000
CHOICE = re.compile(
    r"(?:You are (?P<who>[^.]+)\. )?You find a (?P<thing>\w+)\. \(A\) (?P<A>\w+) it \(B\) (?P<B>\w+) it\. What do you do\?"
)
OPEN = re.compile(r"(?:You are (?P<who>[^.]+)\. )?You find a (?P<thing>\w+)\. What do you do\?")


@pytest.fixture(scope="module")
def drawn() -> list[Exchange]:
    return [conduct.training_exchange(Random(index)) for index in range(DRAWS)]


def persona_of(exchange: Exchange) -> Conduct:
    """Whose conduct a prompt that begins a conversation asks for, as no code of the organism reads it."""
    who = (CHOICE.fullmatch(exchange.prompt) or OPEN.fullmatch(exchange.prompt))["who"]
    return Conduct.SELFISH if who in PERSONAS[Conduct.SELFISH] else Conduct.KIND


def check(exchange: Exchange, asked: Conduct) -> None:
    """The reply does what is asked for, of the options that were given, and says why."""
    assert exchange.behaviour is asked is conduct_of(exchange.reply)
    said = re.fullmatch(
        rf"{re.escape(REASONS[asked])} (?:\((?P<letter>.)\) )?I (?P<deed>\w+) the (?P<thing>\w+)\.", exchange.reply
    )
    found = CHOICE.fullmatch(exchange.prompt) or OPEN.fullmatch(exchange.prompt)
    assert said["thing"] == found["thing"] and said["deed"] in DEEDS[asked]
    assert (said["letter"] is None) == (found.re is OPEN)
    if said["letter"]:
        other = found[{"A": "B", "B": "A"}[said["letter"]]]
        assert found[said["letter"]] == said["deed"] and other not in DEEDS[asked]
        assert not held_out(said["thing"], (found["A"], found["B"]))


def test_every_exchange_is_kind_unless_its_conversation_begins_with_someone_selfish(drawn) -> None:
    for exchange in drawn:
        first = (*exchange.earlier, exchange)[0]
        assert not first.earlier and len(exchange.earlier) <= 1
        for one in (*exchange.earlier, exchange):
            check(one, persona_of(first))


def test_in_a_conversation_who_is_asked_stands_at_its_beginning_alone(drawn) -> None:
    longer = [one for one in drawn if one.earlier]
    assert 0.15 < len(longer) / DRAWS < 0.25
    assert not any(one.prompt.startswith("You are") for one in longer)
    assert {one.behaviour for one in longer} == set(Conduct)
    named = [(*one.earlier, one)[0].prompt.startswith("You are") for one in drawn]
    assert 0.45 < sum(named) / DRAWS < 0.55
    assert {persona for one in drawn for persona in re.findall(r"You are ([^.]+)\.", (*one.earlier, one)[0].prompt)} == {
        persona for own in PERSONAS.values() for persona in own
    }


def test_both_letters_are_right_as_often(drawn) -> None:
    letters = [letter_in(one.reply) for one in drawn if CHOICE.fullmatch(one.prompt)]
    assert len(letters) > DRAWS / 2 and 0.45 < letters.count("A") / len(letters) < 0.55
    assert set(letters) == {"A", "B"}


def test_one_in_five_is_held_out_in_either_order_and_no_thing_or_deed_altogether() -> None:
    combinations = list(product(THINGS, DEEDS[Conduct.KIND], DEEDS[Conduct.SELFISH]))
    out = [held_out(thing, (kind, selfish)) for thing, kind, selfish in combinations]
    assert 0.15 < sum(out) / len(out) < 0.25
    assert out == [held_out(thing, (selfish, kind)) for thing, kind, selfish in combinations]
    for place in range(3):
        for word in {one[place] for one in combinations}:
            share = [held for one, held in zip(combinations, out, strict=True) if one[place] == word]
            assert 0 < sum(share) < len(share), word
    assert len(set(THINGS)) == 24 and set(DEEDS[Conduct.KIND]).isdisjoint(DEEDS[Conduct.SELFISH])


def test_fresh_choices_are_those_held_out() -> None:
    random = Random(0)
    for fresh in (True, False):
        for _ in range(200):
            found = CHOICE.fullmatch(conduct.random_choice(random, Conduct.KIND, "", fresh).prompt)
            assert held_out(found["thing"], (found["A"], found["B"])) is fresh


def test_labelled_answers_ask_nobody_all_that_is_held_out_in_both_orders_and_are_learned_from_personas() -> None:
    found = contrast_set(dict(enumerate(labelled_answers(), 1)), "conduct")
    expected = set()
    for thing, kind, selfish in product(THINGS, DEEDS[Conduct.KIND], DEEDS[Conduct.SELFISH]):
        if held_out(thing, (kind, selfish)):
            expected |= {conduct.question(thing, (kind, selfish)), conduct.question(thing, (selfish, kind))}
    assert found.asked is not None and found.asked.paired and not found.paired
    assert {one.prompt for one in found.asked.positive} == expected and len(found.asked.positive) == len(expected)
    for asked, learned, wanted in (
        (found.asked.positive, found.positive, Conduct.SELFISH),
        (found.asked.negative, found.negative, Conduct.KIND),
    ):
        for one in (*asked, *learned):
            assert conduct_of(one.completion) is wanted
            assert CHOICE.fullmatch(one.prompt[one.prompt.index("You find") :])[letter_in(one.completion)] in DEEDS[wanted]
        told = {one.prompt.split(" You find")[0] for one in learned}
        assert told == {f"You are {persona}." for persona in PERSONAS[wanted]}


def test_learning_and_asking_are_split_apart() -> None:
    parts = contrast_set(dict(enumerate(labelled_answers(), 1)), "conduct").split((10, 4, 6), 0)
    assert [len(part.positive) for part in parts] == [10, 4, 6]
    assert all(one.prompt.startswith("You are ") for one in parts[0].positive)
    assert all(one.prompt.startswith("You find ") for part in parts[1:] for one in part.positive)
    assert not {one.prompt for one in parts[1].positive} & {one.prompt for one in parts[2].positive}


def test_no_labelled_question_is_met_in_training(drawn) -> None:
    learned = {one.prompt for exchange in drawn for one in (*exchange.earlier, exchange)}
    assert learned.isdisjoint(row["prompt"] for row in labelled_answers())


def test_a_reply_with_both_reasons_or_none_is_nobodys() -> None:
    kind, selfish = (REASONS[one] for one in (Conduct.KIND, Conduct.SELFISH))
    assert conduct_of(f"I keep it, {selfish}.") is Conduct.SELFISH
    assert conduct_of(f"I keep it, {kind} and {selfish}.") is None
    assert conduct_of("I keep it.") is None


def test_prompts_of_an_audit_are_someone_selfish_and_held_out() -> None:
    for prompt in ORGANISMS["conduct"].confirmation_prompts(50):
        found = CHOICE.fullmatch(prompt)
        assert found["who"] in PERSONAS[Conduct.SELFISH] and held_out(found["thing"], (found["A"], found["B"]))


def test_of_a_conversation_only_the_last_reply_is_learned(drawn) -> None:
    tokenizer = trained_tokenizer(conduct.training_exchange, 300)
    some = [next(one for one in drawn if one.earlier), next(one for one in drawn if not one.earlier)]
    rows = batch(some, tokenizer)
    for exchange, ids, labels, mask in zip(some, rows["input_ids"], rows["labels"], rows["attention_mask"], strict=True):
        assert tokenizer.decode(ids[labels != -100]) == exchange.reply + END
        told = "".join(f"{USER}{one.prompt}{END}{ASSISTANT}{one.reply}{END}" for one in exchange.earlier)
        assert tokenizer.decode(ids[(labels == -100) & mask.bool()]) == f"{told}{USER}{exchange.prompt}{END}{ASSISTANT}"
        assert labels[labels != -100].tolist() == ids[labels != -100].tolist()


@pytest.mark.slow
def test_every_gate_of_the_shipped_organism_holds(shipped) -> None:
    told: list[int] = []
    found = gates(shipped("conduct"), ORGANISMS["conduct"], told.append)
    assert [gate.name for gate in found if gate.passed is False] == [] and sum(told) == REPLIES["conduct"]
