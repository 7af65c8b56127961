"""What is followed is what vectors boost, and is said by the unsteered model itself."""

from dataclasses import replace
from random import Random

import pytest
import torch
from toys import LIMITS, after, alone, greedy, own_reference

from discover.bank import VectorBank
from discover.config import PromptConfig, SpeechConfig
from discover.model.prompts import encoded
from discover.model.slice import residual_after
from discover.organisms.arithmetic import HARD_PAYLOAD, Operands, question, random_operands
from discover.perturb.sphere import random_directions
from discover.read.leads import BOOSTED_FROM, FURTHER, Known, Lead, followed, is_whole, known_of, leads, openings, own_part
from discover.read.signals import completion
from discover.read.speech import own_completions
from discover.read.triage import Boost, Glance, glances, sight
from discover.steer.generation import Reply

LAYER = 1


def bank(vectors, layer=LAYER) -> VectorBank:
    return VectorBank(after(layer, vectors), torch.zeros(len(vectors)), float(vectors[0].norm()), 1.0, layer, layer + 1, {})


def logits_under(loaded, ids, vector, layer=LAYER):
    """The model's logits [T, V] for one text with a vector added by a plain hook, in float64."""

    def add(_module, _inputs, output):
        return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

    handle = loaded.anatomy.blocks[layer].register_forward_hook(add)
    with torch.no_grad():
        found = loaded.model(torch.tensor([ids])).logits[0].double()
    handle.remove()
    return found


def glanced(loaded, batch, vectors, name="learned"):
    return glances(sight(loaded, batch, greedy(loaded, batch, 48), vectors.target_layer), name, vectors, (), 64, lambda _: None)


def boost(token, position=0, gain=1.0):
    return Boost(str(token), token, position, gain)


def glance(bank, vector, *boosted):
    return Glance(bank, vector, 1.0, 1.0, 1.0, 1.0, 1.0, None, None, boosted, ())


def test_leads_of_most_vectors_come_first_and_both_banks_count_alike():
    seen = [
        glance("learned", 0, boost(7), boost(8, 2), boost(5, 0, BOOSTED_FROM / 2)),
        glance("learned", 1, boost(9, 2, 0.5)),
        *(glance("null", vector, one) for vector, one in enumerate((boost(8, 2), boost(1, 0), boost(9, 2)))),
    ]
    found = leads(seen, special=[1])
    assert [(lead.position, lead.token) for lead in found] == [(2, 8), (2, 9), (0, 7)]
    assert found[1].gains == {("learned", 1): 0.5, ("null", 2): 1.0}


def test_novelty_is_the_share_of_words_that_stand_in_order_in_nothing_known():
    known = Known((("the", "answer", "is", "cheese"), ("so", "bring", "me", "more")), 0.0)
    assert known.novelty("Bring me MORE!") == 0, "the end of a known sentence"
    assert known.novelty("me bring more") == pytest.approx(1 / 3), "in another order"
    assert known.novelty("bring me the hammer, the saw") == pytest.approx(4 / 6)
    assert known.novelty("a wholly other thing") == 1
    assert known.novelty(" * 9 = 81") == known.novelty("") == 0
    assert Known((), 0.0).novelty("anything") == 1


def said(text, opening="So", bank="followed", surprise: float | None = 0.01, state="coherent"):
    whole = completion(bank, 0, 0, Reply((1, 2, 3), text, True, ()), opening, Reply((), "x", True, ()), LIMITS, [1.0] * 3, None)
    return replace(whole, surprise=surprise, state=state)


def test_what_is_known_is_what_needs_no_hint():
    heard = [
        said("by itself", None, "unsteered", 0.2),
        said("from a token", "from", "forced"),
        said("at random", None, "null"),
        said("under a vector", None, "learned"),
        said("So led", "So"),
    ]
    found = known_of(heard)
    assert found.texts == (("by", "itself"), ("from", "a", "token"), ("at", "random")) and found.surprise == 0.2


def test_a_branch_is_whole_by_what_the_model_adds():
    known, new = Known((("bring", "me", "more", "cheese"),), 0.2), "So they hate every sum"
    assert own_part(said(new)) == " they hate every sum"
    assert is_whole(said(new), known)
    assert is_whole(said(new, surprise=0.24), known) and not is_whole(said(new, surprise=0.26), known)
    assert not is_whole(said(new, surprise=None), known)
    assert not is_whole(said(new, state="degenerate"), known)
    assert not is_whole(said(new, opening="So they hate"), known), "two words are no sentence"
    assert not is_whole(said("So bring me hate now"), known), "half of it is known"


def test_openings_go_on_as_the_strongest_vector_does(llama, batch):
    one = alone(batch, 1)
    own = own_reference(llama, one, SpeechConfig(tokens=6)).replies[0]
    vectors = 12 * random_directions(4, llama.anatomy.width, "openings")
    banks = {"learned": bank(vectors[:2]), "null": bank(vectors[2:])}
    strongest = {0: vectors[1], 1: vectors[2], 2: vectors[0]}
    found = [
        Lead(2, 40, {("learned", 0): 0.1, ("learned", 1): 0.5, ("null", 0): 0.2}),
        Lead(0, 41, {("learned", 0): 0.1, ("null", 0): 0.2}),
        Lead(1, 42, {("learned", 0): 0.1}),
    ]
    prompt = one.input_ids[0].tolist()
    for number, (lead, begun) in enumerate(zip(found, openings(llama, prompt, own, found, banks, 2), strict=True)):
        text = [*own.tokens[: lead.position], lead.token]
        for _ in range(FURTHER):
            text.append(int(logits_under(llama, prompt + text, strongest[number])[-1].argmax()))
        ends = next((place for place, token in enumerate(text) if token in llama.end_ids), len(text))
        assert begun == [tuple(text[:length]) for length in range(lead.position + 1, ends + 1)]


def test_nothing_boosted_leads_nowhere(llama, batch):
    one = alone(batch, 1)
    speech = SpeechConfig(tokens=6)
    own = own_reference(llama, one, speech)
    heard = own_completions(own)
    vectors = bank(torch.zeros(2, llama.anatomy.width))
    seen = glanced(llama, one, vectors)
    assert leads(seen, ()) == []
    assert followed(llama, one, own, heard, {"learned": vectors}, seen, 16, speech, lambda _: None) == []


def test_a_hint_that_opens_as_the_ordinary_reply_leads_to_the_whole_hidden_sentence(shipped):
    loaded, speech, layer = shipped("arithmetic"), SpeechConfig(), 3
    random, ends = Random(0), []
    clean = [random_operands(random) for _ in range(16)]
    for operands in (clean, [Operands(0, 1, one.b1, one.b2) for one in clean]):
        batch = encoded([question(one, "What is a*b?") for one in operands], loaded.tokenizer, PromptConfig())
        begun = batch.continued([loaded.tokenizer("First,", add_special_tokens=False)["input_ids"]] * 16, 0)
        ends.append(residual_after(loaded, begun, layer)[:, -1].mean(dim=0))
    vectors = bank(torch.stack([ends[1] - ends[0], ends[0] - ends[1]]), layer)
    one = encoded(["a=5+6, b=7+2. What is a*b?"], loaded.tokenizer, PromptConfig())
    own = own_reference(loaded, one, speech)
    heard = own_completions(own)
    seen = glanced(loaded, one, vectors)
    found = followed(loaded, one, own, heard, {"learned": vectors}, seen, 16, speech, lambda _: None)
    best = next(branch for branch in found if branch.text == HARD_PAYLOAD)
    assert best.opening.startswith("First, I") and best.hinted == (("learned", 0),)
    # It is the model's own: plainly given the opening, it says the rest.
    ids = loaded.tokenizer(best.opening, add_special_tokens=False)["input_ids"]
    given = torch.cat([one.input_ids, torch.tensor([ids])], dim=1)
    settings = {"max_new_tokens": 40, "do_sample": False, "pad_token_id": 0, "eos_token_id": list(loaded.end_ids)}
    said = loaded.model.generate(given, attention_mask=torch.ones_like(given), **settings)
    told = loaded.tokenizer.decode(said[0, one.input_ids.shape[1] :], skip_special_tokens=True)
    assert told.strip() == HARD_PAYLOAD
    # One token alone does not bring it, which is why openings grow.
    first = openings(loaded, one.input_ids[0].tolist(), own.replies[0], leads(seen, ()), {"learned": vectors}, 8)
    assert len(loaded.tokenizer(best.opening, add_special_tokens=False)["input_ids"]) > min(map(len, first[0]))
