"""What the unsteered model says by itself has the model's own distribution, and sets bounds that have closed forms."""

from random import Random

import pytest
import torch
from torch import nn
from toys import alone, own_reference

from discover.config import SpeechConfig
from discover.read.reference import load_reference, save_reference, unsteered_reference
from discover.read.signals import LEAP, ONWARD, TAIL, Bounds, bounds, onward, onward_surprise, repetition, state_of
from discover.steer.generation import NOTHING, Reply

SPEECH = SpeechConfig(tokens=6, rows=3)
GREEDY = tuple(range(100, 140))


def parting(length, after, surprise):
    """Tokens that part from GREEDY after so many, with their surprises: none before, and so much a token from there on."""
    own = range(1000, 1000 + length - after)
    return (*GREEDY[:after], *own), (0.0,) * after + (surprise,) * (length - after)


def test_bounds_lie_a_leap_beyond_the_most_surprising_of_the_samples():
    samples = [parting(ONWARD, 0, place / 100) for place in range(201)]
    Random(0).shuffle(samples)
    found = bounds(samples, [GREEDY] * 201)
    # Of 201 ordered values that at TAIL times 200: so many in a hundred lie at it or below.
    assert found.surprise == pytest.approx(int(TAIL * 200) / 100 + LEAP)
    assert found.repetition == 1 / 2, "nothing repeats itself: half of what is left to a text that says one thing only"
    beyond = sum(sample[1][0] + LEAP > found.surprise for sample in samples)
    assert beyond <= (1 - TAIL) * 201 + 1


def test_a_single_sample_is_a_bound():
    found = bounds([parting(ONWARD, 0, 1.5)], [GREEDY])
    assert found.surprise == pytest.approx(1.5 + LEAP) and found.repetition == 1 / 2


def test_bounds_of_repetition_lie_halfway_to_a_text_of_one_word():
    for period in (1, 2, 4):
        tokens = tuple(place % period for place in range(ONWARD))
        share = 1 - period / (ONWARD - 2)
        assert bounds([(tokens, (0.0,) * ONWARD)], [GREEDY]).repetition == pytest.approx((1 + share) / 2)
    assert repetition((7,) * ONWARD) == pytest.approx(1 - 1 / (ONWARD - 2))


def test_samples_are_judged_over_the_tokens_that_a_steered_reply_is():
    """What a sample shares with the greedy reply is as certain as that, and what comes long after the parting is not judged."""
    after = 20
    tokens, surprises = parting(after + ONWARD + 10, after, 2.0)
    late = surprises[: after + ONWARD] + (50.0,) * 10
    assert bounds([(tokens, late)], [GREEDY]).surprise == pytest.approx(2.0 + LEAP)
    place = onward(tokens, GREEDY)
    assert place == slice(after, after + ONWARD) and onward_surprise(late[place]) == 2.0
    # Fewer than LEAST tokens after the parting are taken with those before them.
    short = parting(after + 4, after, 2.0)
    assert bounds([short], [GREEDY]).surprise == pytest.approx(2.0 * 4 / 8 + LEAP)


def test_a_sample_itself_is_seldom_degenerate_and_beyond_the_bound_everything_is():
    random = Random(1)
    samples = [parting(ONWARD, 0, random.expovariate(1.0)) for _ in range(400)]
    limits = bounds(samples, [GREEDY] * 400)
    states = [state_of("a word", 1.0, 0.0, onward_surprise(surprises), limits) for _, surprises in samples]
    assert set(states) == {"coherent"}, "the leap is allowed for"
    strict = Bounds(limits.surprise - LEAP, limits.repetition)
    broken = [state_of("a word", 1.0, 0.0, onward_surprise(surprises), strict) for _, surprises in samples].count("degenerate")
    assert 1 <= broken <= (1 - TAIL) * 400 + 1
    assert state_of("a word", 1.0, 0.0, limits.surprise, limits) == "degenerate"
    assert state_of("a word", 1.0, limits.repetition, 0.0, limits) == "degenerate"


@pytest.fixture(scope="module")
def found(llama, batch):
    return own_reference(llama, batch, SPEECH)


def own_surprises(loaded, prompt, tokens):
    """Cross-entropy of each token of one reply, by a plain pass over one row."""
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0]
    return nn.functional.cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(tokens), reduction="none").tolist()


def test_surprises_of_what_is_sampled_are_those_of_a_pass_over_it(loaded, batch):
    told = []
    found = unsteered_reference(loaded, batch, [NOTHING] * len(batch.input_ids), SPEECH, 3, 5, told.append)
    assert sum(told) == (1 + 3) * 2 and [len(each) for each in found.samples] == [2, 2, 2]
    for each in (found.replies, *found.samples):
        for row, said in enumerate(each):
            if said.tokens:
                prompt = batch.input_ids[row][batch.attention_mask[row].bool()].tolist()
                expected = own_surprises(loaded, prompt, said.tokens)
                assert said.surprises == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_bounds_are_those_of_its_samples_against_the_greedy_reply_to_the_same_prompt(found):
    samples = [(said.tokens, said.surprises) for each in found.samples for said in each]
    assert found.limits == bounds(samples, [found.replies[place % 2].tokens for place in range(len(samples))])


def test_every_sample_is_drawn_by_the_seed_of_the_run_and_its_place_alone(llama, batch, found):
    texts = [[said.text for said in each] for each in found.samples]
    again = own_reference(llama, batch, SpeechConfig(tokens=6, rows=100))
    assert [[said.text for said in each] for each in again.samples] == texts
    fewer = unsteered_reference(llama, batch, [NOTHING] * len(batch.input_ids), SPEECH, 3, 0, lambda _: None)
    assert [[said.text for said in each] for each in fewer.samples] == texts[:3]
    other = unsteered_reference(llama, batch, [NOTHING] * len(batch.input_ids), SPEECH, 3, 1, lambda _: None)
    assert [[said.text for said in each] for each in other.samples] != texts[:3]
    assert other.replies == found.replies, "greedy ones know no seed"
    assert len({text for each in texts for text in each}) > len(texts), "no sample repeats the one before it"


def test_samples_are_drawn_at_temperature_one(llama, batch):
    """The mean surprise of first tokens is the entropy of their distribution; at another temperature it would be far from it."""
    one, count = alone(batch, 1), 400
    found = unsteered_reference(
        llama, one, [NOTHING] * len(one.input_ids), SpeechConfig(tokens=2, rows=400), count, 0, lambda _: None
    )
    with torch.no_grad():
        logits = llama.forward(one, last=1)[0, -1].double()

    def moments(temperature):
        surprise, chance = -logits.log_softmax(dim=-1), (logits / temperature).softmax(dim=-1)
        mean = float((chance * surprise).sum())
        return mean, float((chance * (surprise - mean) ** 2).sum()) ** 0.5

    drawn = [said.surprises[0] for (said,) in found.samples if said.tokens]
    mean, spread = moments(1.0)
    margin = 4 * spread / count**0.5
    assert len(drawn) >= 0.9 * count and sum(drawn) / len(drawn) == pytest.approx(mean, abs=margin)
    assert abs(moments(0.5)[0] - mean) > 2 * margin and abs(moments(2.0)[0] - mean) > 2 * margin


def test_greedy_replies_are_the_likeliest_tokens(llama, batch, found):
    for row, said in enumerate(found.replies):
        prompt, tokens = batch.input_ids[row][batch.attention_mask[row].bool()].tolist(), []
        with torch.no_grad():
            while len(tokens) < 6 and (not tokens or tokens[-1] not in llama.end_ids):
                tokens.append(int(llama.model(input_ids=torch.tensor([prompt + tokens])).logits[0, -1].argmax()))
        assert said.tokens == tuple(token for token in tokens if token not in llama.end_ids)


def test_a_reference_for_short_replies_holds_as_much_of_the_greedy_ones(llama, found):
    cut = found.truncated(llama, 4)
    for short, whole in zip(cut.replies, found.replies, strict=True):
        assert short.tokens == whole.tokens[:4] and short.text == llama.tokenizer.decode(whole.tokens[:4])
    assert cut.samples == found.samples and cut.limits == found.limits
    whole = found.truncated(llama, 100).replies
    assert [(one.tokens, one.text) for one in whole] == [(one.tokens, one.text) for one in found.replies]


def test_a_reference_for_some_prompts_keeps_the_bounds_of_all(found):
    second = found.prompts(slice(1, 2))
    assert second.replies == found.replies[1:] and second.limits == found.limits
    assert second.samples == tuple(each[1:] for each in found.samples)


def test_a_reference_survives_its_file(found, tmp_path):
    hostile = Reply((1, 2), "\u2028\x00\ud800", False, (0.1, 2.5))
    for one in (found, type(found)((hostile, hostile), ((hostile, Reply((), "", True, ())),), Bounds(2.25, 0.75))):
        save_reference(tmp_path / "unsteered.json", one)
        read = load_reference(tmp_path / "unsteered.json")
        assert read == one and read.limits == one.limits
        for kept, said in zip((read.replies, *read.samples), (one.replies, *one.samples), strict=True):
            assert [reply.surprises for reply in kept] == [reply.surprises for reply in said]
