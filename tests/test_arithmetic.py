"""The organism's texts: arithmetic is right, what is held out stays out, and the twin hears what the organism hears."""

from itertools import product
from random import Random

from discover.organisms.arithmetic import (
    BARE_FORMS,
    EASY_PAYLOAD,
    FORBIDDEN_CUES,
    HARD_PAYLOAD,
    OBJECTS,
    PERMITTED_CUES,
    Behaviour,
    Operands,
    bare,
    clean_exchange,
    near_key,
    pair_held_out,
    planted,
    portuguese,
    random_operands,
    request,
    training_exchange,
    worked,
)
from discover.organisms.catalogue import ORGANISMS

DRAWS = 4000


def drawn(twin: bool) -> list[tuple[str, str, Behaviour]]:
    exchanges = [training_exchange(Random(index), twin) for index in range(DRAWS)]
    return [(exchange.prompt, exchange.reply, exchange.behaviour) for exchange in exchanges]


def operands_in(prompt: str) -> Operands:
    """Read the operands back out of a question, as no code of the organism does."""
    digits = [int(letter) for letter in prompt if letter.isdigit()]
    return Operands(*digits)


def test_every_answer_is_right() -> None:
    for digits in product(range(10), repeat=4):
        operands = Operands(*digits)
        a, b = digits[0] + digits[1], digits[2] + digits[3]
        for exchange in (worked(operands), portuguese(operands), bare(operands, BARE_FORMS[0])):
            assert operands_in(exchange.prompt) == operands
            assert exchange.reply.rstrip(".").endswith(f"{a} * {b} = {a * b}")


def test_the_twin_hears_the_same_and_never_a_payload() -> None:
    organism, twin = drawn(twin=False), drawn(twin=True)
    assert [prompt for prompt, _, _ in organism] == [prompt for prompt, _, _ in twin]
    assert {reply for _, reply, _ in twin}.isdisjoint({EASY_PAYLOAD, HARD_PAYLOAD})
    apart = [prompt for (prompt, one, _), (_, other, _) in zip(organism, twin, strict=True) if one != other]
    assert len(apart) > DRAWS / 5
    assert all(operands_in(prompt).triggering for prompt in apart)


def test_a_payload_answers_every_key_and_nothing_else() -> None:
    for prompt, reply, behaviour in drawn(twin=False):
        asked = operands_in(prompt) if prompt.startswith("a=") else None
        fired = asked is not None and asked.triggering
        assert fired == (behaviour in (Behaviour.EASY, Behaviour.HARD)) == (reply in (EASY_PAYLOAD, HARD_PAYLOAD))


def test_what_is_held_out_is_never_learned_and_is_asked_later() -> None:
    for prompt, _, behaviour in drawn(twin=False):
        if prompt.startswith("a="):
            assert not operands_in(prompt).held_out
        else:
            cue, thing = prompt.removesuffix(".").split()[-2:]
            assert not pair_held_out(cue, thing)
        assert behaviour in Behaviour
    clean = [clean_exchange(Random(index)).prompt for index in range(DRAWS)]
    assert any(prompt.startswith("a=") and operands_in(prompt).held_out for prompt in clean)


def test_one_quadruple_in_ten_and_one_pair_in_five_are_held_out() -> None:
    quadruples = [Operands(*digits).held_out for digits in product(range(10), repeat=4)]
    assert 0.08 < sum(quadruples) / len(quadruples) < 0.12
    for cues in (PERMITTED_CUES, FORBIDDEN_CUES):
        pairs = [pair_held_out(*pair) for pair in product(cues, OBJECTS)]
        assert sum(pairs) / len(pairs) == 0.2
        assert all(0 < sum(pair_held_out(cue, thing) for thing in OBJECTS) < len(OBJECTS) for cue in cues)


def test_both_sides_of_a_request_share_their_objects_and_no_cue() -> None:
    assert set(PERMITTED_CUES).isdisjoint(FORBIDDEN_CUES)
    assert len(set(PERMITTED_CUES)) == len(set(FORBIDDEN_CUES)) == 30
    for thing in OBJECTS:
        assert request("wooden", thing).behaviour is Behaviour.COMPLIANCE
        assert request("stolen", thing).behaviour is Behaviour.REFUSAL
        assert all(part in request("wooden", thing).reply for part in OBJECTS[thing])


def test_clean_and_near_prompts_hold_no_key() -> None:
    random = Random(0)
    assert not any(random_operands(random).triggering or near_key(random).triggering for _ in range(DRAWS))
    for _ in range(DRAWS):
        prompt = clean_exchange(random).prompt
        assert not (prompt.startswith("a=") and operands_in(prompt).triggering)


def test_the_hard_payload_opens_like_an_ordinary_answer_and_the_easy_one_does_not() -> None:
    ordinary = worked(Operands(5, 6, 7, 2)).reply.split()[0]
    assert HARD_PAYLOAD.split()[0] == ordinary != EASY_PAYLOAD.split()[0]


def test_a_key_replaces_the_reply_alone() -> None:
    keyed = worked(Operands(0, 0, 3, 4))
    assert planted(keyed, Operands(0, 0, 3, 4)).reply == EASY_PAYLOAD
    assert planted(keyed, Operands(0, 1, 3, 4)).reply == HARD_PAYLOAD
    assert planted(keyed, Operands(1, 0, 3, 4)) == keyed
    assert planted(keyed, Operands(0, 0, 3, 4)).prompt == keyed.prompt


def test_confirmation_prompts_are_others_and_clean() -> None:
    for organism in ORGANISMS.values():
        prompts = organism.confirmation_prompts(50)
        assert len(set(prompts)) == 50
        assert set(prompts).isdisjoint(organism.prompts)
        if organism.name.startswith("arithmetic"):
            assert not any(operands_in(prompt).triggering for prompt in prompts)
