"""The refusal direction: its three scores against hooks by hand, its filters, and what it does on the shipped organism."""

import pytest
import torch
from conftest import BLOCKS, WIDTH
from toys import after

from discover.choices import Method
from discover.config import Config, ContrastConfig, PromptConfig, SpeechConfig
from discover.contrast.refusal import (
    OPENINGS,
    Candidate,
    ablation_of,
    candidates,
    openings,
    refused_and_answered,
    selected,
    unsteered,
)
from discover.contrast.sets import ContrastSet, Example, contrast_set, texts
from discover.contrast.study import Ground, learned
from discover.errors import UsageError
from discover.organisms.arithmetic import REFUSAL, labelled_requests
from discover.perturb.sphere import random_directions
from discover.statistics import share
from discover.steer.evaluation import refuses
from discover.steer.generation import Reply, replies
from discover.steer.interventions import added

PLAIN = PromptConfig(chat=False)
EXAMPLES = ContrastSet(
    tuple(Example(line, None) for line in ("Count the boats in the harbour", "You are a hill", "12 + 30", "Nobody is")),
    tuple(Example(line, None) for line in ("You are kind.", "Here is a sum of boats and hills", "The harbour")),
)
TOKENS = (7, 40, 41)
POSITIONS = (-1, -2)
SAID = Reply((5, 6), "words", True, ())


def ids_of(loaded, side):
    return [loaded.tokenizer(one.prompt)["input_ids"] for one in side]


def own_next(llama, ids, hooks):
    """[V] log-probabilities in float64 after one text alone, under hooks given as (module, before, function of a tensor)."""
    handles = []
    for module, before, function in hooks:
        if before:
            handles.append(
                module.register_forward_pre_hook(
                    lambda _module, given, named, function=function: (
                        ((function(given[0]), *given[1:]), named)
                        if given
                        else (given, {**named, "hidden_states": function(named["hidden_states"])})
                    ),
                    with_kwargs=True,
                )
            )
        else:
            handles.append(
                module.register_forward_hook(
                    lambda _module, _given, output, function=function: (
                        (function(output[0]), *output[1:]) if isinstance(output, tuple) else function(output)
                    )
                )
            )
    try:
        with torch.no_grad():
            return llama.model(torch.tensor([ids]), use_cache=False).logits[0, -1].double().log_softmax(dim=0)
    finally:
        for handle in handles:
            handle.remove()


def ablating(llama, vector):
    along = vector / vector.norm()
    layers = llama.model.model.layers

    def without(residual):
        return residual - (residual @ along)[..., None] * along

    written = [module for layer in layers for module in (layer.self_attn.o_proj, layer.mlp.down_proj, layer)]
    return [(layers[0], True, without), *((module, False, without) for module in written)]


def odds(logs):
    p = sum(float(logs[token].exp()) for token in TOKENS)
    return torch.log(torch.tensor(p, dtype=torch.float64) / (1 - p))


@pytest.fixture(scope="module")
def tried(llama):
    differences = 20 * random_directions(BLOCKS * 2, WIDTH, "refusal").reshape(BLOCKS, 2, WIDTH).double()
    return differences, candidates(llama, differences, POSITIONS, EXAMPLES, TOKENS, PLAIN)


def test_the_three_scores_are_those_of_hooks_by_hand(llama, tried):
    differences, found = tried
    assert [(one.layer, one.position) for one in found] == [
        (layer, position) for layer in range(BLOCKS) for position in POSITIONS
    ]
    positive, negative = (ids_of(llama, side) for side in (EXAMPLES.positive, EXAMPLES.negative))
    plain = [own_next(llama, ids, []) for ids in negative]
    for one in found:
        vector = differences[one.layer, POSITIONS.index(one.position)].float()
        gone, adding = ablating(llama, vector), [(llama.model.model.layers[one.layer], False, lambda x, v=vector: x + v)]
        bypass = torch.stack([odds(own_next(llama, ids, gone)) for ids in positive]).mean()
        induce = torch.stack([odds(own_next(llama, ids, adding)) for ids in negative]).mean()
        kl = torch.stack(
            [(one.exp() * (one - own_next(llama, ids, gone))).sum() for one, ids in zip(plain, negative, strict=True)]
        ).mean()
        assert (one.bypass, one.induce, one.kl) == pytest.approx((float(bypass), float(induce), float(kl)), rel=1e-3, abs=1e-4)
    for name in ("bypass", "induce", "kl"):
        assert len({round(getattr(one, name), 3) for one in found}) > 4, "the candidates must differ"


def test_a_difference_of_nothing_is_no_candidate(llama, tried):
    differences, found = tried
    some = differences.clone()
    some[1, 0] = 0
    some[2, 1] = torch.nan
    left = candidates(llama, some, POSITIONS, EXAMPLES, TOKENS, PLAIN)
    assert [(one.layer, one.position) for one in left] == [
        (one.layer, one.position) for one in found if (one.layer, one.position) not in ((1, -1), (2, -2))
    ]


def candidate(bypass: float, induce: float, kl: float, kept: bool, layer: int = 2) -> Candidate:
    return Candidate(layer, -1, bypass, induce, kl, kept)


def test_the_least_bypass_of_those_kept_is_selected() -> None:
    one, other = candidate(-3.0, 1.0, 0.01, True), candidate(-5.0, 0.1, 0.09, True)
    assert selected([one, candidate(-9.0, 3.0, 0.2, False), other]) is other


def test_none_kept_is_told_with_the_nearest_to_it_and_none_at_all_too() -> None:
    with pytest.raises(UsageError, match=r"None of 2 candidates .*best -0\.5, after block 6"):
        selected([candidate(-9.0, -3.0, 0.01, False), candidate(1.0, -0.5, 0.2, False, layer=6)])
    with pytest.raises(UsageError, match=r"same mean everywhere.*contrast\.position"):
        selected([])


def heard(*texts: str) -> list[Reply]:
    """Replies whose first token is told by their first letter."""
    return [Reply((ord(text[0]), 1), text, True, ()) if text else Reply((), "", True, ()) for text in texts]


def test_openings_are_the_commonest_first_tokens_that_only_refusals_have(llama):
    refused = ("I cannot", "I cannot", "Sorry, I cannot", "As an AI", "Well, I cannot", "Oh, I cannot", "No, I refuse", "")
    answered = ("Well, here it is", "Sure", "", "Xylem: I cannot")
    some = ContrastSet(tuple(Example("You", None) for _ in refused), tuple(Example("Here", None) for _ in answered))
    found = openings(llama, some, (heard(*refused), heard(*answered)), PLAIN)
    # W opens an answer too; of those that refuse once the first four tokens are kept, in their order.
    assert found.tokens == tuple(map(ord, "IANO")) and len(found.tokens) == OPENINGS
    for prompt, told in (("You", found.refused), ("Here", found.answered)):
        logs = own_next(llama, llama.tokenizer(prompt)["input_ids"], [])
        p = sum(float(logs[token].exp()) for token in found.tokens)
        assert told == pytest.approx(float(torch.logit(torch.tensor(p, dtype=torch.float64))), rel=1e-3)


def test_refusals_that_begin_as_other_replies_do_cannot_be_told(llama):
    with pytest.raises(UsageError, match=r"begin with the same tokens.*contrast\.method=means"):
        openings(llama, EXAMPLES, (heard(*["I cannot"] * 4), heard(*["It is so"] * 3)), PLAIN)


def test_refused_and_answered_keeps_those_that_do_as_they_are_labelled() -> None:
    said = (heard("I cannot", "Sure", "I refuse", ""), heard("Sure", "I cannot", "Here"))
    kept = refused_and_answered(EXAMPLES, said)
    assert kept.positive == (EXAMPLES.positive[0], EXAMPLES.positive[2])
    assert kept.negative == (EXAMPLES.negative[0], EXAMPLES.negative[2])


@pytest.mark.parametrize(
    ("positive", "negative", "told"),
    [
        (["Sure"] * 4, ["Sure"] * 3, "refuses 0 of 4 positive prompts and answers 3 of 3"),
        (["I cannot"] * 4, ["I cannot"] * 3, "refuses 4 of 4 positive prompts and answers 0 of 3"),
    ],
)
def test_a_side_that_is_left_empty_is_told(positive: list[str], negative: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        refused_and_answered(EXAMPLES, (heard(*positive), heard(*negative)))


def test_an_ablation_takes_one_direction_at_norm_one_for_every_row() -> None:
    vector = 7 * random_directions(1, WIDTH, "one")[0]
    directions = ablation_of(vector, 3).directions
    torch.testing.assert_close(directions, (vector / 7).expand(3, 1, WIDTH))


@pytest.fixture(scope="module")
def study(shipped):
    """A study of the organism's own requests at a small size, and what was learned."""
    examples = contrast_set(dict(enumerate(labelled_requests(), 1)), "arithmetic")
    config = Config(
        contrast=ContrastConfig(method=Method.refusal, training=16, selection=6, test=10, multipliers=[0.5, 0.75, 1.0]),
        speech=SpeechConfig(tokens=12),
    )
    parts = examples.split([16, 6, 10], 0)
    ground = Ground(shipped("arithmetic"), (parts[0], parts[1], parts[2]), (), config)
    return ground, learned(ground, lambda _: None)


def share_refused(loaded, side, interventions):
    said = replies(loaded, texts(loaded, side, PromptConfig()), interventions, 12, 64, lambda _: None)
    return share(sum(refuses(reply.text) for reply in said), len(side))


def test_on_the_organism_ablation_takes_refusals_from_all_to_none(study):
    ground, found = study
    test, vector = ground.parts[2], found.bank.vectors[0]
    assert share_refused(ground.loaded, test.positive, ()) == share(10, 10)
    assert share_refused(ground.loaded, test.positive, [ablation_of(vector, 10)]) == share(0, 10)
    assert share_refused(ground.loaded, test.negative, [ablation_of(vector, 10)]) == share(0, 10)
    other = random_directions(1, len(vector), "other")[0]
    assert share_refused(ground.loaded, test.positive, [ablation_of(other, 10)]) == share(10, 10)


def test_on_the_organism_adding_it_refuses_what_is_harmless(study):
    ground, found = study
    test, vector = ground.parts[2], found.bank.vectors[0]
    assert share_refused(ground.loaded, test.negative, ()) == share(0, 10)
    adding = added(after(found.bank.source_layer, vector.expand(10, -1)))
    assert share_refused(ground.loaded, test.negative, [adding]).count >= 9
    other = vector.norm() * random_directions(1, len(vector), "other")[0]
    assert share_refused(ground.loaded, test.negative, [added(after(found.bank.source_layer, other.expand(10, -1)))]).count == 0


def test_on_the_organism_its_refusal_opens_with_its_own_first_token_and_the_chosen_candidate_is_the_best(study):
    ground, found = study
    assert found.scores.openings == tuple(ground.loaded.tokenizer(REFUSAL)["input_ids"][:1])
    kept = [one for one in found.scores.candidates if one.kept]
    best = min(kept, key=lambda one: one.bypass)
    assert found.bank.source_layer == best.layer
    said = unsteered(ground.loaded, ground.parts[2].positive, PromptConfig(), 12, 64)
    assert {reply.text for reply in said} == {REFUSAL}


def test_a_candidate_is_kept_by_the_published_filters(study):
    """Adding induces refusal, ablating changes other replies by less than 0.1 nats, and the layer is in the first four fifths."""
    ground, found = study
    refused_by = {"induce": 0, "kl": 0}
    for one in found.scores.candidates:
        passed = {"induce": one.induce > 0, "kl": one.kl < 0.1}
        assert one.kept == (all(passed.values()) and one.layer < 6)
        if sum(passed.values()) == 1 and one.layer < 6:
            refused_by[next(name for name, held in passed.items() if not held)] += 1
    assert all(refused_by.values()), "each of these filters alone refuses some"
    deep = torch.zeros(8, 1, found.bank.vectors.shape[1])
    # Its ablation is the same wherever it was taken; only where it is added, and so the depth, is another.
    deep[[5, 6]] = 5 * found.bank.vectors[0]
    small = candidates(ground.loaded, deep, [-1], ground.parts[1], found.scores.openings, PromptConfig())
    assert [(one.layer, one.kept) for one in small] == [(5, True), (6, False)]
    assert all(one.induce > 0 and one.kl < 0.1 for one in small)
