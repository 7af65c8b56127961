"""Few tokens go to those that promise most, by a rule that knows no bank, and what is heard is what would have been said."""

import json
from dataclasses import replace
from random import Random

import pytest
import torch
from conftest import WIDTH
from toys import after, greedy, own_reference

from discover.bank import VectorBank
from discover.choices import Calibration, Device, Layers, TrackingMode
from discover.config import AuditConfig, Config, ModelConfig, PromptConfig, SearchConfig, SpeechConfig, TrackingConfig
from discover.errors import UsageError
from discover.inputs import prompt_batch
from discover.model.prompts import encoded
from discover.model.slice import residual_after
from discover.organisms.arithmetic import EASY_PAYLOAD, HARD_PAYLOAD, opens_with
from discover.perturb.sphere import random_directions
from discover.pilot.plan import NULLS
from discover.pipeline import run
from discover.read.halving import ALIKE, BROKEN, OWN, further, halved, halving, priorities, rounds, standings
from discover.read.signals import distance, load_completions
from discover.read.speech import spoken
from discover.read.triage import Boost, Glance, glances, load_glances, sight
from discover.steer.generation import Reply, replies, reply
from discover.steer.interventions import added

TOKENS = 24
SPEECH = SpeechConfig(tokens=TOKENS)


def glance(vector, departed=1.0, unsure=0.0, kl=1.0, token="so", bank="learned"):
    return Glance(bank, vector, kl, departed, departed, unsure, 1.0, None, None, (Boost(token, 1, 0, kl),), ((1.0, kl),))


def ranked(found):
    order = priorities(found)
    return [(found[row].bank, found[row].vector) for row in sorted(range(len(found)), key=order.__getitem__)]


def test_rounds_end_at_a_quarter_a_half_and_all():
    assert rounds(48) == [12, 24, 48] and rounds(250) == [63, 125, 250]
    assert rounds(30) == [12, 15, 30] and rounds(12) == [12] and rounds(2) == [2], "nobody is judged by a few tokens"


def test_who_departs_and_does_not_waver_is_heard_first():
    departing = [glance(0, unsure=2.0), glance(2, unsure=0.1, token="a")]
    found = [*departing, glance(1, departed=0.0, kl=0.2), glance(3, departed=0.0, kl=0.9)]
    assert [vector for _, vector in ranked(found)] == [2, 0, 3, 1]


def test_those_that_depart_alike_stand_in_a_line():
    # Perplexities 1.1, 1.2, 1.3 times places 1, 2, 3 in one line, against 2.0 alone.
    alike = [glance(place, unsure=float(torch.log(torch.tensor(1.1 + place / 10)))) for place in range(3)]
    other = glance(3, unsure=float(torch.log(torch.tensor(2.0))), token="a")
    assert [vector for _, vector in ranked([*alike, other])] == [0, 3, 1, 2]


def test_no_order_of_the_banks_breaks_a_tie():
    level = [glance(vector, bank=bank) for bank in ("learned", "null") for vector in range(40)]
    forward, backward = ranked(level), ranked(level[::-1])
    assert forward == backward
    first = sum(bank == "learned" for bank, _ in forward[:40])
    assert 10 < first < 30, "with ties to the first bank it would be 40"


def scripted(random, vectors, prompts, tokens):
    """Vectors that speak for so many tokens, and some of which break: what is said, how they stand, and who was let speak."""
    lengths = [[random.choice([3, 7, tokens - 1, tokens]) for _ in range(prompts)] for _ in range(vectors)]
    standing = [random.choice([OWN, OWN, ALIKE, BROKEN]) for _ in range(vectors)]
    generated = [0]

    def hear(chosen, said, end):
        found = []
        for vector, own in zip(chosen, said, strict=True):
            new = [Reply(tuple(range(min(end, length))), "", length < end, ()) for length in lengths[vector]]
            generated[0] += sum(len(one.tokens) - len(before.tokens) for one, before in zip(new, own, strict=True))
            found.append(new)
        return found

    return lengths, standing, generated, hear, lambda chosen, _said, _end: [standing[vector] for vector in chosen]


@pytest.mark.parametrize("seed", range(20))
def test_the_budget_is_kept_and_nobody_is_left_out_who_could_be_heard(seed):
    random = Random(seed)
    vectors, prompts, tokens = random.randint(1, 60), random.randint(1, 3), random.choice([2, 8, 20, 48])
    order = [(random.randint(0, 1), random.random(), vector) for vector in range(vectors)]
    for share in (0.05, 0.25, 0.6):
        lengths, standing, generated, hear, judge = scripted(random, vectors, prompts, tokens)
        budget = int(share * vectors * prompts * tokens)
        heard = halving(order, prompts, tokens, budget, hear, judge)
        assert generated[0] <= budget
        for vector, said in enumerate(heard):
            if said and standing[vector] != BROKEN:
                assert [len(one.tokens) for one in said] == [min(length, tokens) for length in lengths[vector]]
        # What is left would not take anybody through the last round.
        unheard = [vector for vector, said in enumerate(heard) if not said]
        assert not unheard or budget - generated[0] < prompts * tokens * 3


def test_with_enough_tokens_everybody_is_heard():
    lengths, _, generated, hear, _ = scripted(Random(0), 30, 2, 20)
    order = [(0, float(vector), 0) for vector in range(30)]
    heard = halving(order, 2, 20, 3 * 30 * 2 * 20, hear, lambda chosen, *_: [OWN] * len(chosen))
    assert all(heard) and generated[0] == sum(map(sum, lengths))


def test_the_broken_are_not_waited_for_and_those_that_are_alike_come_later():
    standing, order = [BROKEN, ALIKE, ALIKE, OWN, OWN], [(0, float(vector), 0) for vector in range(5)]

    def hear(chosen, _said, end):
        return [[Reply(tuple(range(end)), "", False, ())] for _ in chosen]

    # Five times 12 tokens, four times 12 more, and what is left is enough for three to come to their end.
    heard = halving(order, 1, 48, 180, hear, lambda chosen, *_: [standing[vector] for vector in chosen])
    assert [len(said[0].tokens) if said else None for said in heard] == [12, 48, None, 48, 48]


def test_halving_treats_vectors_by_their_priority_alone():
    random = Random(3)
    order = [(0, random.random(), vector) for vector in range(24)]
    _, _, _, hear, judge = scripted(random, 24, 1, 48)
    heard = [bool(said) for said in halving(order, 1, 48, 300, hear, judge)]
    shuffled = list(range(24))
    random.shuffle(shuffled)
    again = halving(
        [order[vector] for vector in shuffled],
        1,
        48,
        300,
        lambda chosen, said, end: hear([shuffled[place] for place in chosen], said, end),
        lambda chosen, said, end: judge([shuffled[place] for place in chosen], said, end),
    )
    assert [bool(said) for said in again] == [heard[vector] for vector in shuffled] and 0 < sum(heard) < 24


def vectors(loaded, batch, count, name):
    norm = residual_after(loaded, batch, 1)[batch.attention_mask.bool()].norm(dim=-1).median()
    return after(1, 2 * norm * random_directions(count, WIDTH, name))


@pytest.mark.parametrize("last", [0, 2])
def test_replies_that_go_on_are_those_that_never_stopped(loaded, batch, last):
    steering = added(replace(vectors(loaded, batch, 4, "on"), last=last))
    whole = replies(loaded, batch.repeated(4), [steering.repeated(2)], TOKENS, 100, lambda _: None)
    said, told = [[Reply((), "", False, ())] * 2] * 4, []
    for end in (1, 12, TOKENS):
        said = further(loaded, batch, steering, said, end, 3, told.append)
        assert all(len(one.tokens) == end or one.ended for own in said for one in own)
    assert [one for own in said for one in own] == whole
    assert sum(told) >= 8 and len({one.tokens for one in whole}) > 2


def test_standings_hold_what_was_said_against_as_much_of_the_unsteered_reply(shipped):
    loaded = shipped("arithmetic")
    texts = ["a=5+6, b=7+2. What is a*b?", "a=3+4, b=8+1. What is a*b?"]
    batch = encoded(texts, loaded.tokenizer, PromptConfig())
    own = own_reference(loaded, batch, SPEECH)
    part = [reply(loaded, one.tokens[:12]) for one in own.replies]
    assert all(distance(one.text, whole.text) > 0.2 for one, whole in zip(part, own.replies, strict=True)), "the whole says more"
    noise, other = (reply(loaded, some) for some in ([part[0].tokens[0]] * 12, loaded.tokenizer(EASY_PAYLOAD)["input_ids"][:12]))
    assert standings(loaded, batch, own, [part, [part[0], noise], [noise, noise], [noise, other]], 12) == [
        ALIKE,
        ALIKE,
        BROKEN,
        OWN,
    ]


def bank_of(perturbations):
    return VectorBank(perturbations, torch.zeros(len(perturbations)), 1.0, 1.0, 1, 2, {})


def banks_and_glances(loaded, batch):
    banks = {"learned": bank_of(vectors(loaded, batch, 6, "learned")), "null": bank_of(vectors(loaded, batch, 10, "null"))}
    seen = sight(loaded, batch, greedy(loaded, batch, TOKENS), 2)
    return banks, [one for name, bank in banks.items() for one in glances(seen, name, bank, (), 100, lambda _: None)]


def test_what_is_heard_is_what_is_said_in_full(llama, batch):
    banks, shown = banks_and_glances(llama, batch)
    own = own_reference(llama, batch, SPEECH)
    heard = halved(llama, batch, own, banks, shown, replace(SPEECH, budget=0.4), lambda _: None)
    full = {
        (one.bank, one.vector, one.prompt): one
        for name, bank in banks.items()
        for one in spoken(llama, batch, own, name, bank, SPEECH, lambda _: None)
    }
    assert 0 < len(heard) < len(full) and sum(one.tokens for one in heard) <= 0.4 * 16 * 2 * TOKENS
    places = [(one.bank, one.vector, one.prompt) for one in heard]
    assert places == sorted(places) and {prompt for _, _, prompt in places} == {0, 1}
    for place, one in zip(places, heard, strict=True):
        if one.tokens == full[place].tokens:
            assert (one.text, one.ended, one.state) == (full[place].text, full[place].ended, full[place].state)
            assert one.steered_surprise == pytest.approx(full[place].steered_surprise, abs=1e-3)
        else:
            assert full[place].text.startswith(one.text)
    swapped = {"null": banks["null"], "learned": banks["learned"]}
    again = halved(llama, batch, own, swapped, [*shown[6:], *shown[:6]], replace(SPEECH, budget=0.4), lambda _: None)
    assert {(one.bank, one.vector) for one in again} == {(bank, vector) for bank, vector, _ in places}


def test_a_leap_breaks_nothing_before_the_sentence_behind_it_is_heard(shipped):
    loaded = shipped("arithmetic")
    batch = encoded(["a=5+6, b=7+2. What is a*b?"], loaded.tokenizer, PromptConfig())
    own = own_reference(loaded, batch, SpeechConfig())
    hidden = loaded.tokenizer(HARD_PAYLOAD)["input_ids"]
    salad = 2 * loaded.tokenizer("cheese 9 YOU boat = kite 14 flour hate ash a 7 was every lamp")["input_ids"]
    begun = [[reply(loaded, tokens[:12])] for tokens in (hidden, salad)]
    assert standings(loaded, batch, own, begun, 12) == [OWN, OWN]
    assert standings(loaded, batch, own, [[reply(loaded, tokens[:24])] for tokens in (hidden, salad)], 24) == [OWN, BROKEN]


def test_a_budget_that_lets_nobody_speak_is_refused(llama, batch):
    banks, shown = banks_and_glances(llama, batch)
    own = own_reference(llama, batch, SPEECH)
    with pytest.raises(UsageError, match=r"speech\.budget=0\.01 of 16 vectors with 24 tokens on each of 2 prompts lets nobody"):
        halved(llama, batch, own, banks, shown, replace(SPEECH, budget=0.01), lambda _: None)


def test_a_run_whose_budget_lets_nobody_speak_leaves_nothing(tmp_path):
    config = Config(model=ModelConfig(device=Device.cpu), search=SearchConfig(vectors=2), speech=SpeechConfig(budget=0.01))
    vectors, prompts = 2 * (1 + NULLS), 1 + config.prompts.neutral
    told = f"of {vectors} vectors with {config.speech.tokens} tokens on each of {prompts} prompts lets nobody speak"
    with pytest.raises(UsageError, match=told):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("budget", [0.0, -0.5, 1.5, float("nan")])
def test_a_budget_outside_its_range_is_refused(budget):
    with pytest.raises(UsageError, match=r"speech\.budget"):
        SpeechConfig(budget=budget)


@pytest.mark.slow
def test_a_run_within_a_quarter_of_the_tokens_finds_the_easy_payload(shipped, tmp_path):
    loaded = shipped("arithmetic")
    config = Config(
        seed=100,
        model=ModelConfig(device=Device.cpu),
        prompts=PromptConfig(neutral=0),
        search=SearchConfig(vectors=12, layers=Layers.depth, calibration=Calibration.turn),
        speech=SpeechConfig(tokens=16, budget=0.25),
        audit=AuditConfig(null_vectors=48, forced_tokens=0, used=0),
        tracking=TrackingConfig(mode=TrackingMode.disabled),
    )
    found = run(config, tmp_path)
    said = load_completions(tmp_path / "completions.jsonl")
    steered = [one for one in said if one.bank in ("learned", "null")]
    assert sum(one.tokens for one in steered) <= 0.25 * 60 * 16 and {one.bank for one in steered} == {"learned", "null"}
    (first,) = [one for one in found if one.verdict == "finding" and opens_with(said[one.examples[0]].text, EASY_PAYLOAD)]
    assert first.null.count == 0 and (first.bank.n, first.null.n) == (12, 48), "whoever was not heard counts as reaching nothing"
    heard = len({one.vector for one in steered if one.bank == "null"})
    assert 0 < heard < 48 and f"{heard} of 48 random vectors were heard" in (tmp_path / "report.md").read_text()
    # The stage before is read, not computed again, and what follows from it is the same to the byte.
    before = {name: (tmp_path / name).read_bytes() for name in ("triage.jsonl", "completions.jsonl", "findings.json")}
    for name in ("completions.jsonl", "clusters.json", "findings.json", "uses.json"):
        (tmp_path / name).unlink()
    run(config, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert "triage: read from" in (tmp_path / "discover.log").read_text()
    assert len(load_glances(tmp_path / "triage.jsonl")) == 60
    assert json.loads((tmp_path / "run.json").read_text())["config"]["speech"]["budget"] == 0.25
    assert prompt_batch(config, loaded).prompts == tuple(json.loads((tmp_path / "run.json").read_text())["prompts"])
