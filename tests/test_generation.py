"""A row of steered generation is what that vector alone would make the model say."""

from dataclasses import replace

import pytest
import torch
from conftest import BLOCKS, FAMILIES, WIDTH
from toys import after, alone
from transformers import GenerationConfig

from discover.config import PromptConfig
from discover.model.cache import RoomyLayer, roomy_cache
from discover.model.hooks import edited_output, hidden
from discover.model.prompts import encoded
from discover.model.slice import residual_after
from discover.perturb.sphere import random_directions
from discover.steer.evaluation import surprises
from discover.steer.generation import NOTHING, Drawing, chances, continued, drawn, replies, reply
from discover.steer.interventions import EVERYWHERE, SAID, Addition, Condition, Window, added, intervened

TOKENS = 8
MARGIN = 1e-4
"""What rounding may come to in a logit or a cosine: replies decided by less may depend on what is computed beside them."""
CHANCE_MARGIN = 1e-5
"""The same in a sum of probabilities, whose rounding is that of a logit times a probability."""


def speak(loaded, batch, perturbations, rows=100):
    return replies(loaded, batch, [added(perturbations)] if perturbations is not None else (), TOKENS, rows, lambda _: None)


def strong_vectors(loaded, batch, layer, count):
    norm = residual_after(loaded, batch, layer)[batch.attention_mask.bool()].norm(dim=-1).median()
    return 3 * norm * random_directions(count, WIDTH, "generation")


def greedy_by_hand(loaded, ids, layer, vector):
    """Token after token without a cache, with a hook written here."""

    def add(_module, _inputs, output):
        changed = hidden(output) + vector
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    said = []
    handle = loaded.anatomy.blocks[layer].register_forward_hook(add)
    try:
        with torch.no_grad():
            for _ in range(TOKENS):
                token = int(loaded.model(input_ids=torch.tensor([ids + said]), use_cache=False).logits[0, -1].argmax())
                if token in loaded.end_ids:
                    break
                said.append(token)
    finally:
        handle.remove()
    return tuple(said)


def test_every_row_says_what_its_vector_says_alone(loaded, batch):
    rows = batch.repeated(3)
    vectors = strong_vectors(loaded, batch, 1, 6)
    together = speak(loaded, rows, after(1, vectors))
    assert together == [speak(loaded, alone(rows, row), after(1, vectors[row, None]))[0] for row in range(6)]
    assert len({one.tokens for one in together[::2]}) == 3, "three vectors on one prompt must not say the same"


def test_pieces_change_nothing_and_are_told(loaded, batch):
    rows, vectors, told = batch.repeated(3), strong_vectors(loaded, batch, 1, 6), []
    whole = speak(loaded, rows, after(1, vectors))
    assert replies(loaded, rows, [added(after(1, vectors))], TOKENS, 2, told.append) == whole
    assert told == [2, 1, 2, 1], "the short prompts, then the long ones"


def test_equals_an_uncached_loop_with_a_hook_of_its_own(loaded, batch):
    vectors = strong_vectors(loaded, batch, 2, 2)
    for index, said in enumerate(speak(loaded, batch, after(2, vectors))):
        ids = batch.input_ids[index][batch.attention_mask[index].bool()].tolist()
        assert said.tokens == greedy_by_hand(loaded, ids, 2, vectors[index])
        assert said.text == loaded.tokenizer.decode(said.tokens)


def test_zero_vectors_change_no_bit(loaded, batch):
    zeros = torch.zeros(2, WIDTH)
    plain = loaded.forward(batch)
    for layer in range(BLOCKS):
        with intervened(loaded, [added(after(layer, zeros))], None):
            assert torch.equal(loaded.forward(batch), plain)
    assert speak(loaded, batch, after(1, zeros)) == speak(loaded, batch, None)
    assert speak(loaded, batch, after(1, strong_vectors(loaded, batch, 1, 2))) != speak(loaded, batch, None)


def test_another_number_of_rows_is_refused(llama, batch):
    with (
        pytest.raises(ValueError, match="3 perturbations met a batch of 2 rows"),
        intervened(llama, [added(after(1, torch.zeros(3, WIDTH)))], None),
    ):
        llama.forward(batch)
    # One vector would spread over both rows without a word.
    with (
        pytest.raises(ValueError, match="1 perturbations met a batch of 2 rows"),
        intervened(llama, [added(after(1, torch.zeros(1, WIDTH)))], None),
    ):
        llama.forward(batch)


def test_a_hook_that_never_fires_is_an_error(llama, batch):
    with pytest.raises(RuntimeError, match="a hook on Linear never fired"), edited_output(torch.nn.Linear(2, 2), lambda _, x: x):
        llama.forward(batch)
    with intervened(llama, [added(after(0, torch.zeros(2, WIDTH)))], None) as counts:
        llama.forward(batch)
    assert [count.calls for count in counts] == [1]


def test_nested_contexts_add_up_and_restore(llama, batch):
    first, second = strong_vectors(llama, batch, 1, 2), strong_vectors(llama, batch, 1, 4)[2:]
    plain = residual_after(llama, batch, 1)
    with intervened(llama, [added(after(1, first))], None):
        outer = residual_after(llama, batch, 1)
        with intervened(llama, [added(after(1, second))], None):
            torch.testing.assert_close(residual_after(llama, batch, 1), plain + (first + second)[:, None])
        assert torch.equal(residual_after(llama, batch, 1), outer)
    torch.testing.assert_close(outer, plain + first[:, None])
    assert torch.equal(residual_after(llama, batch, 1), plain)


def test_a_reply_is_cut_where_it_ends(llama):
    end = llama.end_ids[0]
    said = reply(llama, [40, 41, end, 42])
    assert (said.tokens, said.ended, said.text) == ((40, 41), True, llama.tokenizer.decode([40, 41]))
    assert not reply(llama, [40, 41]).ended
    assert reply(llama, [end]).tokens == ()


def test_a_model_driven_to_its_end_token_stops(llama, batch):
    """Adding the end token's own unembedding after the last block makes every logit race end there."""
    toward = llama.model.lm_head.weight[llama.end_ids[0]] / llama.model.model.norm.weight
    said = speak(llama, batch, after(BLOCKS - 1, 1e3 * toward.expand(2, -1)))
    assert [(one.tokens, one.text, one.ended) for one in said] == [((), "", True)] * 2


LONG = 12
TEXTS = (
    "You are",
    "You are kind.",
    "Count the boats in the harbour, please.",
    "Here is a sum: 12 + 30",
    "Count",
    "You are kind. " * 3,
)


def many(loaded):
    """Twelve rows of six prompts, and the model with such tokens as ends that replies are of many lengths."""
    rows = encoded(TEXTS, loaded.tokenizer, PromptConfig()).repeated(2)
    vectors = strong_vectors(loaded, rows, 1, 12) / 4
    endless = replies(replace(loaded, end_ids=()), rows, [added(after(1, vectors))], LONG, 100, lambda _: None)
    ends = set()

    def lengths(ends):
        return {next((place for place, token in enumerate(one.tokens) if token in ends), LONG) for one in endless}

    for token in sorted({token for one in endless for token in one.tokens}):
        if len(lengths({*ends, token})) > len(lengths(ends)):
            ends.add(token)
    return replace(loaded, end_ids=tuple(sorted(ends))), rows, vectors


def stock(loaded, batch, row, add, tokens):
    """What `generate` says to one prompt without padding, `add` changing the residual stream after block 1."""

    def hook(_module, _inputs, output):
        return (add(hidden(output)), *output[1:]) if isinstance(output, tuple) else add(output)

    settings = GenerationConfig(
        do_sample=False, max_new_tokens=tokens, eos_token_id=list(loaded.end_ids) or None, pad_token_id=0, disable_compile=True
    )
    ids = alone(batch, row).input_ids
    handle = loaded.anatomy.blocks[1].register_forward_hook(hook)
    try:
        output = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    finally:
        handle.remove()
    return reply(loaded, output[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("name", [*FAMILIES, "gemma3_text", "mixtral", "qwen2_moe"])
def test_texts_are_those_of_stock_generate(loaded_family, name):
    loaded, rows, vectors = many(loaded_family(name))
    expected = [stock(loaded, rows, row, lambda x, row=row: x + vectors[row], LONG) for row in range(12)]
    assert len({len(one.tokens) for one in expected}) > 3, "rows that leave the batch one after the other"
    for pieces in (100, 5):
        assert replies(loaded, rows, [added(after(1, vectors))], LONG, pieces, lambda _: None) == expected
    plain = [stock(loaded, rows, row, lambda x: x, LONG) for row in range(12)]
    assert replies(loaded, rows, (), LONG, 100, lambda _: None) == plain != expected


def mixed_windows(loaded, rows, vectors):
    """Interventions that count positions, and such that remember what the prompt decided."""
    direction = random_directions(1, WIDTH, "held")[0]
    found = [residual_after(loaded, alone(rows, row), 0)[0, -1] for row in range(len(TEXTS))]
    # Halfway between two prompts: a threshold that is the cosine of one of them leaves that one to rounding.
    below, above = torch.cosine_similarity(torch.stack(found), direction, dim=-1).sort().values[2:4].tolist()
    assert above - below > 2 * MARGIN
    threshold = (below + above) / 2
    return {
        "everywhere": [Addition(after(1, vectors), EVERYWHERE, None)],
        "the end of the prompt": [Addition(after(1, vectors), Window(-2, 1), None)],
        "what is said": [Addition(after(1, vectors), SAID, None)],
        "from the fourth token on": [Addition(after(1, vectors), Window(3, None), None)],
        "held": [Addition(after(1, vectors), SAID, Condition(0, direction, threshold, held=True))],
        "asked": [Addition(after(1, vectors), Window(1, None), Condition(0, direction, threshold, held=False))],
        "none": [],
    }


GREEDY = ("everywhere", "the end of the prompt", "what is said", "from the fourth token on", "held", "asked", "none")


def spoken_alone(loaded, rows, row, interventions, drawing):
    """Return a reply computed alone, and whether everything that decided it, tokens and conditions, lies beyond rounding."""
    waiting = [one.condition for one in interventions if one.condition is not None]
    logits, looked = [], []
    watched = [(loaded.model.lm_head, lambda output: logits.append(output[0, -1].double()))]
    watched += [(loaded.anatomy.blocks[one.layer], lambda output: looked.append(hidden(output)[0])) for one in waiting]
    handles = [module.register_forward_hook(lambda _module, _inputs, output, note=note: note(output)) for module, note in watched]
    try:
        draws, own = drawing and drawing.rows([row]), [each.rows([row]) for each in interventions]
        (said,) = continued(loaded, alone(rows, row), [NOTHING], own, draws, LONG, 1, lambda _: None)
    finally:
        for handle in handles:
            handle.remove()
    cosines = [torch.cosine_similarity(torch.cat(looked), one.direction, dim=-1) - one.threshold for one in waiting]
    if drawing is None:
        tokens = all(-each.topk(2).values.diff() > MARGIN for each in logits)
    else:
        upto = [(each / drawing.temperature).softmax(dim=0).cumsum(dim=0)[:-1] for each in logits]
        steps = zip(upto, chances(drawing.seeds[row], len(upto)), strict=True)
        tokens = all((each - chance).abs().min() > CHANCE_MARGIN for each, chance in steps)
    return said, tokens and all(each.abs().min() > MARGIN for each in cosines)


@pytest.mark.parametrize(
    ("name", "drawing"),
    [*((name, None) for name in GREEDY), ("held", Drawing(1.5, range(12))), ("none", Drawing(1.5, range(12)))],
)
def test_a_reply_goes_on_as_if_it_had_never_stopped(llama, name, drawing):
    loaded, rows, vectors = many(llama)
    interventions = mixed_windows(loaded, rows, vectors)[name]

    def spoken(begun, tokens, pieces):
        return continued(loaded, rows, begun, interventions, drawing, tokens, pieces, lambda _: None)

    apart = [spoken_alone(loaded, rows, row, interventions, drawing) for row in range(12)]
    sure = [row for row, (_, decided) in enumerate(apart) if decided]
    assert len(sure) >= 9, "few replies are left to rounding"

    def same(found, tokens):
        return all(found[row].tokens == apart[row][0].tokens[:tokens] for row in sure)

    whole = spoken([NOTHING] * 12, LONG, 100)
    assert [whole[row] for row in sure] == [apart[row][0] for row in sure]
    assert same(spoken([NOTHING] * 12, LONG, 5), LONG)
    halves = spoken(spoken([NOTHING] * 12, 2, 100), 6, 5)
    assert same(halves, 6)
    assert same(spoken(halves, LONG, 7), LONG)
    ragged = [one if row % 3 else NOTHING for row, one in enumerate(halves)]
    assert same(spoken(ragged, LONG, 100), LONG)


def test_only_rows_that_go_on_are_computed(llama):
    loaded, rows, vectors = many(llama)
    seen = []
    handle = loaded.model.model.layers[0].register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    said = replies(loaded, rows, [added(after(1, vectors))], LONG, 100, lambda _: None)
    handle.remove()
    assert sum(seen) < 12 * LONG * 0.9
    seen.clear()
    assert continued(loaded, rows, said, [added(after(1, vectors))], None, LONG, 100, lambda _: None) == said
    assert not seen, "replies that are whole cost nothing"


def test_a_prompt_that_nothing_acts_on_is_read_once(llama, batch):
    read = []
    rows, vectors = alone(batch, 0).repeated(6), strong_vectors(llama, batch, 1, 6)
    length = rows.input_ids.shape[1]
    handle = llama.model.model.layers[0].register_forward_hook(lambda _m, inputs, _o: read.append(inputs[0].shape[:2].numel()))
    for interventions in ((), [Addition(after(1, vectors), SAID, None)], [added(after(1, vectors))]):
        replies(llama, rows, interventions, 1, 100, lambda _: None)
    handle.remove()
    assert read == [length - 2, 6 * 2, length - 2, 6 * 2, 6 * length]


def test_a_context_around_is_kept_or_refused(llama, batch):
    """Rows that leave the batch would leave an outer context with entries for others."""
    vectors = strong_vectors(llama, batch, 1, 2)
    same = alone(batch, 0).repeated(2)
    inside = replies(llama, same, [added(after(1, vectors))], TOKENS, 2, lambda _: None)
    with intervened(llama, [Addition(after(1, vectors), EVERYWHERE, None)], None):
        assert replies(llama, same, [added(after(1, torch.zeros(2, WIDTH)))], TOKENS, 2, lambda _: None) == inside
    with (
        pytest.raises(ValueError, match="2 perturbations met a batch of 1 rows"),
        intervened(llama, [Addition(after(1, vectors), EVERYWHERE, None)], None),
    ):
        replies(llama, batch, (), TOKENS, 2, lambda _: None)


def test_draws_follow_the_distribution():
    logits = torch.tensor([2.0, -1.0, float("-inf"), 0.5])
    for temperature in (0.5, 1.0, 3.0):
        chance = (torch.arange(10000, dtype=torch.float64) + 0.5) / 10000
        counts = drawn(logits.expand(10000, 4), temperature, chance).bincount(minlength=4)
        expected = (logits.double() / temperature).softmax(dim=0)
        assert (counts / 10000 - expected).abs().max() < 2e-4
    assert drawn(logits[None], 0.0, torch.tensor([0.9])).tolist() == [0]
    assert drawn(logits[None], 1e-9, torch.tensor([0.999])).tolist() == [0]
    assert drawn(logits[None], 1.0, torch.tensor([0.0])).tolist() == [0]
    assert int(drawn(logits[None], 1e6, torch.tensor([1 - 2**-53], dtype=torch.float64))) == 3


def test_chances_are_uniform_and_do_not_depend_on_how_many_are_asked_for():
    assert torch.equal(chances(7, 100)[:13], chances(7, 13))
    assert not torch.equal(chances(7, 13), chances(8, 13))
    found = chances(0, 20000)
    assert abs(float(found.mean()) - 0.5) < 0.01
    assert abs(float(found.var()) - 1 / 12) < 0.003


def test_draws_differ_by_seed_and_are_sampled_from_the_model(llama, batch):
    """The share of each first token over many seeds is that of the model."""
    rows = alone(batch, 0).repeated(400)
    said = continued(llama, rows, [NOTHING] * 400, (), Drawing(1.0, range(400)), 1, 500, lambda _: None)
    assert said == continued(llama, rows, [NOTHING] * 400, (), Drawing(1.0, range(400)), 1, 70, lambda _: None)
    expected = llama.forward(alone(batch, 0))[0, -1].softmax(dim=-1)
    counts = torch.tensor([(one.tokens or (llama.end_ids[0],))[0] for one in said]).bincount(minlength=len(expected))
    assert (counts / 400 - expected).abs().sum() < (counts.roll(1) / 400 - expected).abs().sum() / 2


def test_a_cache_with_room_equals_the_usual_one(loaded, batch):
    cache = roomy_cache(loaded.model.config, batch.input_ids.shape[1] + 1)
    whole = loaded.forward(batch)
    first = replace(batch, input_ids=batch.input_ids[:, :-3], attention_mask=batch.attention_mask[:, :-3])
    with torch.no_grad():
        found = [loaded.forward(first, prefix=cache), loaded.forward(batch, prefix=cache)]
    keep = batch.attention_mask.bool()
    torch.testing.assert_close(torch.cat(found, dim=1)[keep], whole[keep], atol=1e-4, rtol=1e-4)
    plain = [layer for layer in cache.layers if isinstance(layer, RoomyLayer)]
    assert plain or loaded.model.config.model_type == "mistral", "in every block of Mistral a window is shorter than the prompt"
    stores = [layer._stores[0].data_ptr() for layer in plain]
    longer = batch.continued([[5], [6]], 0)
    with torch.no_grad():
        loaded.forward(longer, prefix=cache)
    assert [layer._stores[0].data_ptr() for layer in plain] == stores, "a token more is written in place"


def test_a_reply_brings_the_surprises_that_a_pass_over_it_has(loaded, batch):
    rows = batch.repeated(2)
    steering = [added(after(1, strong_vectors(loaded, batch, 1, 4)))]
    said = replies(loaded, rows, steering, TOKENS, 3, lambda _: None)
    halfway = replies(loaded, rows, steering, TOKENS // 2, 4, lambda _: None)
    later = continued(loaded, rows, halfway, steering, None, TOKENS, 4, lambda _: None)
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(rows.input_ids, rows.attention_mask, strict=True)]
    wanted = surprises(loaded, prompts, [one.tokens for one in said], steering)
    for one, other, expected in zip(said, later, wanted, strict=True):
        assert len(one.tokens) > 2 and other.tokens == one.tokens
        assert one.surprises == pytest.approx(expected, abs=1e-4) and other.surprises == pytest.approx(expected, abs=1e-4)
