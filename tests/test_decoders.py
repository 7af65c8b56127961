"""What decoders say is what the model's own parts say, by plain hooks and closed forms."""

import math
from dataclasses import replace

import pytest
import torch
from toys import after, alone, greedy, part_and_space
from toys import kind as config_of

import discover.read.decoders as module
import discover.read.lens as lens_module
from discover.bank import VectorBank
from discover.config import Config, PromptConfig, ReadConfig, SpeechConfig
from discover.errors import UsageError
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch
from discover.model.slice import head_of, residual_after
from discover.perturb.spaces import drawn
from discover.perturb.sphere import random_directions
from discover.read.decoders import BESIDE, NAMED, Decoding, beside_of, decodings, heat, load_decodings, nearest, save_decodings
from discover.read.lens import lens
from discover.read.patchscope import TOKENS, descriptions, prompt_with_place
from discover.steer.generation import replies
from discover.steer.interventions import added

SOURCE, TARGET, LAST, POSITIONS = 1, 2, 3, 3
FORM = PromptConfig()
PATCHSCOPE = ReadConfig().patchscope


def bank(vectors, source=SOURCE, target=TARGET) -> VectorBank:
    return VectorBank(after(source, vectors), torch.zeros(len(vectors)), float(vectors[0].norm()), 1.0, source, target, {})


def streams_under(loaded: LoadedModel, ids: list[int], vector, layer=SOURCE):
    """[T, D] after every block, and the logits [T, V], with a vector added by a plain hook, one text alone."""
    seen = {}

    def add(_module, _inputs, output):
        return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

    def keep(block):
        return lambda _module, _inputs, output: seen.update({block: (output[0] if isinstance(output, tuple) else output)[0]})

    handles = [loaded.anatomy.blocks[layer].register_forward_hook(add)]
    handles += [block.register_forward_hook(keep(number)) for number, block in enumerate(loaded.anatomy.blocks)]
    with torch.no_grad():
        logits = loaded.model(torch.tensor([ids])).logits[0]
    for handle in handles:
        handle.remove()
    return seen, logits.double()


def texts_of(loaded, batch):
    """Per prompt its tokens without padding, and the first tokens of the unsteered reply."""
    own = replies(loaded, batch, (), POSITIONS - 1, 8, lambda _: None)
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
    return [(prompt, list(one.tokens)) for prompt, one in zip(prompts, own, strict=True)]


def test_after_the_last_block_the_lens_is_the_change_of_the_models_own_log_probabilities(loaded, batch):
    vectors = 20 * random_directions(4, loaded.anatomy.width, "lens")
    seen = lens(loaded, batch, greedy(loaded, batch), after(SOURCE, vectors), (SOURCE, TARGET), POSITIONS, NAMED, lambda _: None)
    assert seen.blocks == (1, 2, 3) and seen.tokens.shape == (4, 3, NAMED)
    texts = texts_of(loaded, batch)
    assert all(len(begun) == POSITIONS - 1 for _, begun in texts)
    for row, vector in enumerate(vectors):
        changes, effects, apart = [], [], []
        for prompt, begun in texts:
            (plain, before), (steered, under) = (streams_under(loaded, prompt + begun, some) for some in (0 * vector, vector))
            p, q = under[-POSITIONS:].log_softmax(dim=-1), before[-POSITIONS:].log_softmax(dim=-1)
            changes.append(p - q)
            effects.append((steered[TARGET] - plain[TARGET])[-POSITIONS:])
            apart.append((p.exp() * (p - q)).sum(dim=-1))
        position = int(torch.stack(apart).mean(dim=0).argmax())
        assert seen.positions[row] == position
        change = torch.stack(changes).mean(dim=0)[position]
        # What is told is the true change of the tokens that are told, and no other token rose by more.
        assert change[seen.tokens[row, -1]].tolist() == pytest.approx(seen.rises[row, -1].tolist(), rel=1e-3, abs=1e-3)
        assert seen.rises[row, -1].tolist() == pytest.approx(change.topk(NAMED).values.tolist(), rel=1e-3, abs=1e-3)
        torch.testing.assert_close(seen.effects[row], torch.stack(effects).mean(dim=0)[position], rtol=1e-3, atol=1e-3)


def test_in_between_it_is_what_norm_and_unembedding_make_of_both_streams(llama, batch):
    vector = 20 * random_directions(1, llama.anatomy.width, "between")[0]
    one = alone(batch, 0)
    seen = lens(llama, one, greedy(llama, one), after(SOURCE, vector[None]), (SOURCE, TARGET), 1, NAMED, lambda _: None)
    (plain, _), (steered, _) = (streams_under(llama, one.input_ids[0].tolist(), some) for some in (0 * vector, vector))
    for place, block in enumerate(seen.blocks):
        with torch.no_grad():
            p, q = (llama.model.lm_head(llama.model.model.norm(some[block][-1])).log_softmax(dim=-1) for some in (steered, plain))
        assert seen.tokens[0, place].tolist() == (p - q).topk(NAMED).indices.tolist()
        assert seen.rises[0, place].tolist() == pytest.approx((p - q).topk(NAMED).values.tolist(), rel=1e-3)


def test_the_head_is_the_models_own(loaded, batch):
    """Scaled, capped and normed as the family does it."""
    with torch.no_grad():
        logits = head_of(loaded, batch)(residual_after(loaded, batch, LAST).to(loaded.model.dtype))
        torch.testing.assert_close(logits, loaded.forward(batch))


def test_a_row_of_the_unembedding_is_first_in_its_own_lens(llama, batch):
    rows = llama.model.lm_head.weight.detach()
    token = int(rows.norm(dim=1).argmax())
    # What the final norm scales by is taken out before, so that the longest row is what stands behind it.
    vector = 1e4 * rows[token] / llama.model.model.norm.weight.detach()
    seen = lens(llama, batch, greedy(llama, batch), after(LAST, vector[None]), (LAST, LAST), POSITIONS, 1, lambda _: None)
    after_it = llama.model.lm_head(llama.model.model.norm(vector))
    assert seen.blocks == (LAST,) and int(after_it.argmax()) == token
    assert llama.tokenizer.decode(seen.tokens[0, 0]) == llama.tokenizer.decode([token])


@pytest.mark.parametrize("name", ["adapter of rank 3", "factor on mlp", "head"])
def test_other_kinds_have_a_lens_and_no_nearest_tokens(llama, batch, name):
    config = config_of(name, vectors=3)
    _, space = part_and_space(llama, batch, config, SOURCE, LAST)
    found = replace(bank(torch.zeros(1, llama.anatomy.width)), perturbations=space.perturbations(drawn(space, 3, name), 20.0))
    seen = lens(llama, batch, greedy(llama, batch), found.perturbations, (SOURCE, LAST), POSITIONS, NAMED, lambda _: None)
    assert (seen.rises[:, -1, 0] > 0).all()
    # An entry alone, computed in another piece, says the same.
    single = lens(
        llama, batch, greedy(llama, batch), found.perturbations.rows([2]), (SOURCE, LAST), POSITIONS, NAMED, lambda _: None
    )
    assert single.tokens[0].tolist() == seen.tokens[2].tolist() and single.positions[0] == seen.positions[2]
    assert [bool(one) for one in nearest(llama, found)] == [name == "head"] * 3
    assert len(heat(llama, alone(batch, 1), found, SpeechConfig(tokens=4))) == 3


def test_a_vector_that_is_an_embedding_is_nearest_to_its_token(loaded):
    rows = loaded.model.get_input_embeddings().weight.detach().float()
    tokens = [70, 80, 290]
    found = nearest(loaded, bank(3 * rows[tokens] + 1e-3))
    assert [one[0] for one in found] == [loaded.tokenizer.decode([token]) for token in tokens]
    cosines = torch.nn.functional.cosine_similarity(rows[80][None], rows).topk(NAMED).indices
    assert list(found[1]) == [loaded.tokenizer.decode([token]) for token in cosines.tolist()]


def test_a_placeholder_is_found_wherever_the_tokenizer_puts_it(loaded):
    for text, after_it in ((PATCHSCOPE, " ->"), ("What does ? mean? Say: ?", ""), ("? is", " is")):
        prompt, place = prompt_with_place(loaded, text, FORM)
        ids = prompt.input_ids[0].tolist()
        assert loaded.tokenizer.decode(ids) == text
        assert "?" in loaded.tokenizer.decode(ids[place]) and loaded.tokenizer.decode(ids[place:]).endswith("?" + after_it)


def test_a_placeholder_is_found_in_a_chat(llama):
    tokenizer = type(llama.tokenizer)(
        tokenizer_object=llama.tokenizer.backend_tokenizer, pad_token="<|pad|>", eos_token="<|end|>"
    )
    tokenizer.chat_template = "{% for m in messages %}Sum: {{ m.content }} are kind?<|end|>{% endfor %}"
    prompt, place = prompt_with_place(replace(llama, tokenizer=tokenizer), "Name ? now", FORM)
    ids = prompt.input_ids[0].tolist()
    assert tokenizer.decode(ids) == "Sum: Name ? now are kind?<|end|>"
    assert "?" in tokenizer.decode(ids[place]) and tokenizer.decode(ids[:place]).rstrip() == "Sum: Name"


def generated(loaded, ids, place, vector, layer):
    """What the model goes on to say, greedily and without a cache, with a vector in the place of one residual."""

    def put(_module, _inputs, output):
        changed = (output[0] if isinstance(output, tuple) else output).clone()
        changed[:, len(ids) + place] = vector
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    said = []
    handle = loaded.anatomy.blocks[layer].register_forward_hook(put)
    with torch.no_grad():
        while len(said) < TOKENS and (not said or said[-1] not in loaded.end_ids):
            said.append(int(loaded.model(torch.tensor([ids + said])).logits[0, -1].argmax()))
    handle.remove()
    return loaded.tokenizer.decode([token for token in said if token not in loaded.end_ids])


@pytest.mark.parametrize("text", [PATCHSCOPE, "You are ?"])
def test_a_description_is_what_the_model_says_with_the_vector_in_the_words_place(loaded, text):
    prompt, place = prompt_with_place(loaded, text, FORM)
    ids, stood = prompt.input_ids[0].tolist(), residual_after(loaded, prompt, SOURCE)[0, place]
    vectors = torch.cat([random_directions(3, loaded.anatomy.width, "patch"), stood[None]])
    found = descriptions(loaded, 7 * vectors, SOURCE, text, FORM)
    for vector, said in zip(vectors, found, strict=True):
        assert said == generated(loaded, ids, place, stood.norm() * vector / vector.norm(), SOURCE)
    # What stood there before says what the model says of the placeholder itself.
    assert found[3] == replies(loaded, prompt, (), TOKENS, 1, lambda _: None)[0].text
    # From the last token on, where it is all that is read, another vector says something else.
    assert place < -1 or len(set(found)) > 1


def test_no_room_for_a_description_is_a_mistake(llama):
    with pytest.raises(UsageError, match=r"read.patchscope has \d+ tokens.*at most 128"):
        descriptions(llama, torch.ones(1, llama.anatomy.width), SOURCE, "You are kind. " * 40 + "?", FORM)


def test_where_a_vector_is_added_the_heat_is_its_norm(loaded, batch):
    one, vectors = alone(batch, 1), 20 * random_directions(2, loaded.anatomy.width, "heat")
    for vector, tokens in zip(vectors, heat(loaded, one, bank(vectors, SOURCE, SOURCE), SpeechConfig(tokens=5)), strict=True):
        steering = [added(after(SOURCE, vector[None]))]
        said = replies(loaded, one, steering, 5, 1, lambda _: None)[0].tokens
        ids = [*one.input_ids[0].tolist(), *said]
        assert [token for token, _ in tokens] == [loaded.tokenizer.decode([token]) for token in ids]
        plain, _ = streams_under(loaded, ids, 0 * vector)
        wanted = 20 / float(plain[SOURCE].norm(dim=-1).median())
        assert [norm for _, norm in tokens] == pytest.approx([wanted] * len(ids), rel=1e-4)


def test_further_on_the_heat_is_the_norm_of_the_effect(loaded, batch, monkeypatch):
    one, vectors = alone(batch, 1), 20 * random_directions(3, loaded.anatomy.width, "heat")
    monkeypatch.setattr(module, "ROWS", 2)
    found = heat(loaded, one, bank(vectors), SpeechConfig(tokens=5))
    for vector, tokens in zip(vectors, found, strict=True):
        said = replies(loaded, one, [added(after(SOURCE, vector[None]))], 5, 1, lambda _: None)[0].tokens
        (plain, _), (steered, _) = (
            streams_under(loaded, [*one.input_ids[0].tolist(), *said], some) for some in (0 * vector, vector)
        )
        norms = (steered[TARGET] - plain[TARGET]).norm(dim=-1) / plain[TARGET].norm(dim=-1).median()
        assert [norm for _, norm in tokens] == pytest.approx(norms.tolist(), rel=1e-3)


@pytest.fixture
def banks(llama):
    vectors = 20 * random_directions(5 + BESIDE + 2, llama.anatomy.width, "decoded")
    return {"learned": bank(vectors[:5]), "null": bank(vectors[5:])}


CONFIG = Config(speech=SpeechConfig(tokens=4))


def test_every_vector_has_a_lens_and_those_that_are_chosen_the_rest(llama, batch, banks):
    told: list[int] = []
    found = decodings(llama, batch, greedy(llama, batch), banks, [3, 1], POSITIONS, CONFIG, told.append)
    assert sum(told) == 5 + beside_of(5)
    assert [(one.bank, one.vector) for one in found] == [("learned", row) for row in range(5)] + [
        ("null", row) for row in range(beside_of(5))
    ]
    described = [one for one in found if one.described is not None]
    assert [one.vector for one in described] == [1, 3, *range(beside_of(5))]
    assert all(bool(one.heat) == (one.described is not None) for one in found)
    assert all([block for block, _ in one.lens] == [1, 2, 3] and len(one.nearest) == NAMED for one in found)
    texts = descriptions(
        llama,
        lens(
            llama, batch, greedy(llama, batch), banks["learned"].perturbations, (SOURCE, TARGET), POSITIONS, 1, lambda _: None
        ).effects,
        *(SOURCE, PATCHSCOPE, FORM),
    )
    assert (found[1].described, found[3].described) == (texts[1], texts[3])
    none = decodings(llama, batch, greedy(llama, batch), banks, [], POSITIONS, CONFIG, told.append)
    assert [one.described for one in none[:5]] == [None] * 5 and none[6] == found[6]


def test_pieces_change_nothing(llama, batch, banks, monkeypatch):
    whole = decodings(llama, batch, greedy(llama, batch), banks, [3, 1], POSITIONS, CONFIG, lambda _: None)
    monkeypatch.setattr(lens_module, "ROWS", 4)
    monkeypatch.setattr(module, "ROWS", 3)
    pieces = decodings(llama, batch, greedy(llama, batch), banks, [3, 1], POSITIONS, CONFIG, lambda _: None)
    for one, other in zip(whole, pieces, strict=True):
        assert replace(one, heat=()) == replace(other, heat=())
        assert [norm for _, norm in one.heat] == pytest.approx([norm for _, norm in other.heat], rel=1e-4)


def test_a_reply_that_ends_at_once_is_read_at_the_end_of_the_prompt(llama, batch):
    ending = replace(llama, end_ids=tuple(range(len(llama.tokenizer))))
    vectors = 20 * random_directions(2, llama.anatomy.width, "ends")
    seen = lens(ending, batch, greedy(ending, batch), after(SOURCE, vectors), (SOURCE, TARGET), POSITIONS, 1, lambda _: None)
    assert seen.positions.tolist() == [0, 0] and bool(torch.isfinite(seen.rises).all())


def test_replies_of_different_length_are_read_where_there_are_any(llama, batch):
    """The second prompt's reply ends after a token: what stands behind it is padding, and read nowhere."""
    (_, first), (_, second) = texts_of(llama, batch)
    ending = replace(llama, end_ids=(second[1],))
    assert second[1] not in first and second[0] != second[1]
    vectors = 20 * random_directions(6, llama.anatomy.width, "ragged")
    seen = lens(ending, batch, greedy(ending, batch), after(SOURCE, vectors), (SOURCE, TARGET), POSITIONS, 1, lambda _: None)
    prompts = texts_of(ending, batch)
    for row, vector in enumerate(vectors):
        changes = []
        for prompt, begun in prompts:
            (_, before), (_, under) = (streams_under(llama, prompt + begun, some) for some in (0 * vector, vector))
            changes.append((under.log_softmax(dim=-1) - before.log_softmax(dim=-1))[len(prompt) - 1 :])
        position = int(seen.positions[row])
        there = torch.stack([change[position] for change in changes if len(change) > position]).mean(dim=0)
        assert seen.rises[row, -1].tolist() == pytest.approx(there.topk(1).values.tolist(), rel=1e-3)


def test_on_the_organism_the_lens_names_what_the_vector_brings(shipped):
    loaded = shipped("arithmetic")
    token = loaded.tokenizer("Cheese", add_special_tokens=False)["input_ids"]
    vector = 3000 * torch.nn.functional.normalize(loaded.model.get_output_embeddings().weight[token[0]].detach(), dim=0)
    ids = loaded.tokenizer("a=5+6, b=7+2. What is a*b?", return_tensors="pt")
    batch = PromptBatch(("a",), ids["input_ids"], ids["attention_mask"])
    seen = lens(loaded, batch, greedy(loaded, batch), after(5, vector[None]), (5, 6), 1, 1, lambda _: None)
    assert [loaded.tokenizer.decode(tokens) for tokens in seen.tokens[0]] == ["Cheese"] * 3


def test_decodings_survive_their_file(tmp_path):
    whole = Decoding("learned", 3, 1, ((1, ("\ud800", "b")), (2, ())), ("c",), "\u2028\x00", (("d", 0.5),))
    found = [whole, Decoding("null", 0, 0, (), (), None, ())]
    save_decodings(tmp_path / "decodings.jsonl", found)
    assert load_decodings(tmp_path / "decodings.jsonl") == found


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"decoded": -1}, "read.decoded=-1"),
        ({"patchscope": "no word is missing"}, "question mark"),
        ({"decoded": 0, "patchscope": "Say ?"}, "no meaning for read.decoded=0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, told):
    with pytest.raises(UsageError, match=told):
        ReadConfig(**options)
    assert math.isfinite(ReadConfig(decoded=0).decoded)
