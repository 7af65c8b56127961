"""A conversation says, token by token, what the model says under the same interventions at once, and each side for itself."""

from dataclasses import replace
from itertools import zip_longest

import pytest
import torch
from conftest import BLOCKS, CONTEXT, PROMPTS, WIDTH
from toys import KINDS, after, hooks_on, kind, part_and_space

from discover.bank import VectorBank
from discover.config import PromptConfig
from discover.errors import UsageError
from discover.model.change import Perturbations, mixed
from discover.model.prompts import encoded
from discover.model.slice import residual_after
from discover.perturb.spaces import drawn
from discover.perturb.sphere import random_directions
from discover.steer.combination import check_fits, combined, directions
from discover.steer.conversation import Speaker, _pieces
from discover.steer.generation import replies
from discover.steer.interventions import EVERYWHERE, Ablation, Addition, Condition, Rotation, Window, added
from discover.steer.request import Manner, Request, Waiting

GREEDY = Manner(tokens=8, temperature=0.0, seed=0)
NOTHING = {"add": {}, "ablate": (), "orthogonalise": (), "rotate": {}, "window": None, "waiting": None}


def bank_of(perturbations: Perturbations, layer: int = 1, **origin) -> VectorBank:
    return VectorBank(
        perturbations, torch.zeros(len(perturbations)), 1.0, 1.0, layer, layer + 1, {"perturbation": "some", **origin}
    )


def strong(loaded, batch, count=3, layer=1):
    norm = residual_after(loaded, batch, layer)[batch.attention_mask.bool()].norm(dim=-1).median()
    return 2 * norm * random_directions(count, WIDTH, "conversation")


def asked(**given) -> Request:
    return Request(**{**NOTHING, **given})


def said(speaker: Speaker, prompt: str = PROMPTS[0], manner: Manner = GREEDY) -> str:
    return "".join(speaker.reply(prompt, manner))


def at_once(loaded, interventions, prompt: str = PROMPTS[0], tokens: int = GREEDY.tokens) -> str:
    (reply,) = replies(loaded, encoded([prompt], loaded.tokenizer, PromptConfig()), interventions, tokens, 1, lambda _: None)
    return reply.text


def interventions_on(loaded, batch, what):
    vectors = strong(loaded, batch)
    bank = bank_of(after(1, vectors))
    window = (-2, 3)
    seen = residual_after(loaded, batch, 1)
    toward = Condition(1, seen[0, -1], 0.3, what == "held")
    return {
        "nothing": (),
        "added": combined(bank, asked(add={0: 1.0, 2: -0.5})),
        "in a window": combined(bank, asked(add={0: 1.0}, window=window)),
        "ablated": combined(bank, asked(ablate=(0, 1))),
        "turned": combined(bank, asked(rotate={1: 50.0}, window=(0, None))),
        "waiting": [replace(one, condition=toward) for one in combined(bank, asked(add={1: 1.0}))],
        "held": [replace(one, condition=toward) for one in combined(bank, asked(add={1: 1.0}))],
        "everything": combined(bank, asked(add={0: 1.0}, ablate=(1,), rotate={2: 30.0}, window=window)),
    }[what]


@pytest.mark.parametrize("what", ["nothing", "added", "in a window", "ablated", "turned", "waiting", "held", "everything"])
def test_it_says_what_generation_says(loaded, batch, what):
    interventions = interventions_on(loaded, batch, what)
    apart = loaded.apart()
    here, there = Speaker(loaded, (), PromptConfig()), Speaker(apart, interventions, PromptConfig())
    for prompt in PROMPTS:
        expected = [at_once(loaded, (), prompt), at_once(loaded, interventions, prompt)]
        # Both at a time, a token of each in turn: what is done to one must not reach the other.
        pieces = list(zip_longest(here.reply(prompt, GREEDY), there.reply(prompt, GREEDY), fillvalue=""))
        assert ["".join(side) for side in zip(*pieces)] == expected
    assert hooks_on(loaded.model) == hooks_on(apart.model) == 0


def test_what_is_done_changes_what_is_said(llama, batch):
    plain = at_once(llama, ())
    for what in ("added", "in a window", "ablated", "turned", "everything"):
        assert at_once(llama, interventions_on(llama, batch, what)) != plain, what


def test_a_model_apart_has_the_same_weights_and_modules_of_its_own(loaded, batch):
    apart = loaded.apart()
    own, shared = dict(loaded.model.named_parameters()), dict(apart.model.named_parameters())
    assert own.keys() == shared.keys() and all(own[name] is shared[name] for name in own)
    assert not set(loaded.model.modules()) & set(apart.model.modules())
    assert {*apart.anatomy.blocks, *(one.projection for one in apart.anatomy.mlps)} <= set(apart.model.modules())
    plain = loaded.forward(batch)
    with torch.no_grad():
        handle = apart.anatomy.blocks[1].register_forward_hook(lambda _m, _i, output: 0 * output)
        assert not torch.equal(apart.forward(batch), plain)
        assert torch.equal(loaded.forward(batch), plain)
        handle.remove()
        assert torch.equal(apart.forward(batch), plain)


def test_each_turn_follows_all_that_was_said(llama, batch):
    speaker = Speaker(llama, [added(mixed(after(1, strong(llama, batch)), {0: 1.0}))], PromptConfig())
    first = said(speaker)
    assert speaker.said == [], "whoever asks notes what was said"
    speaker.said += [PROMPTS[0], first]
    assert said(speaker, "And?") == at_once(llama, speaker.interventions, f"{PROMPTS[0]}{first}\nAnd?")


def test_a_reply_that_is_stopped_lets_go_of_the_model(llama, batch):
    speaker = Speaker(llama, [added(mixed(after(1, strong(llama, batch)), {0: 1.0}))], PromptConfig())
    pieces = speaker.reply(PROMPTS[0], GREEDY)
    next(pieces)
    assert hooks_on(llama.model) > 0 and torch.is_grad_enabled()
    pieces.close()
    assert hooks_on(llama.model) == 0


def test_drawing_repeats_with_its_seed_and_approaches_the_likeliest(llama, batch):
    speaker = Speaker(llama, (), PromptConfig())
    drawn_once = [said(speaker, manner=replace(GREEDY, temperature=2.0, seed=seed)) for seed in (0, 0, 1)]
    assert drawn_once[0] == drawn_once[1] != drawn_once[2]
    assert said(speaker, manner=replace(GREEDY, temperature=1e-300)) == said(speaker) != drawn_once[0]
    speaker.said += ["Hello.", "You."]
    following = said(speaker, manner=replace(GREEDY, temperature=2.0))
    speaker.said += ["Hello.", "You."]
    assert said(speaker, manner=replace(GREEDY, temperature=2.0)) != following, "every turn draws its own numbers"


def test_draws_follow_the_distribution(llama):
    ids = encoded([PROMPTS[1]], llama.tokenizer, PromptConfig())
    wanted = (llama.forward(ids)[0, -1].double() / 1.5).softmax(dim=0)
    speaker, count = Speaker(llama, (), PromptConfig()), 400
    found = torch.zeros_like(wanted)
    for seed in range(count):
        found[list(speaker._tokens(ids.input_ids[0].tolist(), Manner(1, 1.5, seed), 1))] += 1 / count
    likely = wanted.argsort(descending=True)[:5]
    assert found[likely].sum() == pytest.approx(float(wanted[likely].sum()), abs=4 * (0.25 / count) ** 0.5)
    for token in likely:
        assert found[token] == pytest.approx(float(wanted[token]), abs=4 * float(wanted[token] / count) ** 0.5)


def test_a_character_of_several_tokens_comes_whole(tokenizer):
    text = "naïve 日本 😀 \ufffd ok"
    ids = tokenizer(text)["input_ids"]
    pieces = list(_pieces(tokenizer, iter(ids)))
    assert "".join(pieces) == text and len(pieces) == len(ids) + 1
    assert [piece for piece in pieces if "\ufffd" in piece] == ["\ufffd "] or "\ufffd" in "".join(pieces)
    assert "".join(_pieces(tokenizer, iter(ids[:-8]))) == tokenizer.decode(ids[:-8])
    assert list(_pieces(tokenizer, iter(()))) == [""]
    half = tokenizer("😀")["input_ids"][:-1]
    assert list(_pieces(tokenizer, iter(half)))[:-1] == [""] * len(half)


@pytest.mark.parametrize(
    ("prompt", "told"), [(" \n", "empty"), ("a\udc80b", "not UTF-8"), ("boats " * CONTEXT, "reads at most 128")]
)
def test_prompts_that_cannot_be_said_are_refused(prompt, told, llama):
    with pytest.raises(UsageError, match=told):
        Speaker(llama, (), PromptConfig()).reply(prompt, GREEDY)


def test_a_reply_ends_where_the_context_does(llama):
    speaker = Speaker(llama, (), PromptConfig(chat=False))
    length = len(llama.tokenizer(PROMPTS[0])["input_ids"])
    pieces = list(speaker.reply(PROMPTS[0], replace(GREEDY, tokens=1000)))
    assert len(pieces) - 1 <= CONTEXT - length
    speaker.said += ["boats " * (CONTEXT // 2), "one"]
    with pytest.raises(UsageError, match="/reset forgets what was said before"):
        speaker.reply("boats " * (CONTEXT // 3), GREEDY)


def test_numbers_that_are_not_finite_are_told(llama):
    speaker = Speaker(llama.apart(), combined(bank_of(after(1, torch.ones(1, WIDTH))), asked(add={0: 1e39})), PromptConfig())
    with pytest.raises(UsageError, match="no finite numbers; give smaller multipliers"):
        said(speaker)
    assert hooks_on(speaker.loaded.model) == 0


@pytest.mark.parametrize("name", KINDS)
def test_what_is_added_is_the_mixture_where_it_was_learned(llama, batch, name):
    part, space = part_and_space(llama, batch, kind(name), 1, 3)
    some = replace(space.sized(3).perturbations(drawn(space.sized(3), 3, "talk"), 2 * part.residual_norm), last=2)
    (addition,) = combined(bank_of(some), asked(add={0: 2.0, 2: -1.0}))
    assert isinstance(addition, Addition) and (addition.window, addition.condition) == (Window(-2, None), None)
    for mine, wanted in zip(addition.perturbations.changes, mixed(some, {0: 2.0, 2: -1.0}).changes, strict=True):
        assert torch.equal(mine.bias, wanted.bias) and torch.equal(mine.up @ mine.down, wanted.up @ wanted.down)
    (elsewhere,) = combined(bank_of(some), asked(add={0: 2.0}, window=(None, 0)))
    assert elsewhere.window == Window(None, 0)
    if "rank" in name or "factor" in name:
        for refused in ({"ablate": (0,)}, {"rotate": {0: 10.0}}, {"add": {0: 1.0}, "waiting": Waiting(0, 0.5, False)}):
            with pytest.raises(UsageError, match=r"not vectors. An entry can only be added then; use --add"):
                combined(bank_of(some), asked(**refused))


def test_directions_turn_take_away_and_wait():
    vectors = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))
    bank = bank_of(after(1, vectors))
    waiting = Waiting(3, 0.25, True)
    rotation, addition = combined(bank, asked(add={0: 1.0}, rotate={2: -30.0}, waiting=waiting))
    assert isinstance(rotation, Rotation) and rotation.layer == 1 and rotation.degrees.tolist() == [-30.0]
    torch.testing.assert_close(rotation.directions[0], vectors[2] / vectors[2].norm())
    for one in (rotation, addition):
        assert (one.condition.layer, one.condition.threshold, one.condition.held) == (1, 0.25, True)
        assert torch.equal(one.condition.direction, vectors[3])
    (ablation,) = combined(bank, asked(ablate=(1, 2)))
    assert isinstance(ablation, Ablation) and ablation.window == EVERYWHERE
    basis = ablation.directions[0]
    torch.testing.assert_close(basis @ basis.T, torch.eye(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(vectors[1:3] @ basis.T @ basis, vectors[1:3], atol=1e-5, rtol=0)
    with pytest.raises(UsageError, match="none a mixture of the others"):
        combined(bank, asked(ablate=(1, 1)))
    for refused in (
        {"add": {4: 1.0}},
        {"ablate": (4,)},
        {"rotate": {-1: 1.0}},
        {"add": {0: 1.0}, "waiting": Waiting(9, 0, False)},
    ):
        with pytest.raises(UsageError, match="it holds vectors 0 to 3"):
            combined(bank, asked(**refused))
    with pytest.raises(UsageError, match="it holds vectors 0 to 3"):
        directions(bank, [4])


def test_what_acts_inside_the_block_that_is_looked_at_cannot_wait(llama, batch):
    _part, space = part_and_space(llama, batch, kind("bias"), 1, 3)
    bank = bank_of(space.perturbations(drawn(space, 2, "inside"), 1.0))
    with pytest.raises(UsageError, match="what is added acts before that"):
        combined(bank, asked(add={0: 1.0}, waiting=Waiting(0, 0.5, False)))
    (rotation,) = combined(bank, asked(rotate={0: 10.0}, waiting=Waiting(0, 0.5, False)))
    said(Speaker(llama.apart(), [rotation], PromptConfig()))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "told nothing to do"),
        ({"add": {0: 1.0}, "window": (2, 2)}, "leaves no position"),
        ({"add": {0: 1.0}, "window": (0, -3)}, "leaves no position"),
        ({"orthogonalise": (0,), "window": (0, None)}, "act everywhere"),
        ({"ablate": (0,), "waiting": Waiting(0, 0.5, False)}, "act before that"),
        ({"add": {0: 1.0}, "orthogonalise": (0,), "waiting": Waiting(0, 0.5, False)}, "act before that"),
    ],
)
def test_requests_that_mean_nothing_are_refused(given, told):
    with pytest.raises(UsageError, match=told):
        asked(**given)


def test_a_request_says_what_it_does():
    assert str(asked(add={3: 2.0, 7: -1.0, 1: 0.5}, ablate=(4,), orthogonalise=(5,), rotate={6: 30.0})) == (
        "2 v3 - v7 + 0.5 v1, without v4, without v5, 30° towards v6"
    )
    assert str(asked(add={3: -1.0})) == "- v3"


def test_a_bank_of_another_model_is_refused(llama, batch):
    here = llama.identity["fingerprints"]
    vectors = torch.ones(1, WIDTH)
    check_fits(bank_of(after(BLOCKS - 1, vectors), fingerprints=here), llama)
    check_fits(bank_of(after(0, vectors), fingerprints={}), llama)
    other = dict.fromkeys(here, "0" * 16)
    for bank, told in (
        (bank_of(after(0, vectors), fingerprints=other, model="gpt2"), "was made for gpt2"),
        (bank_of(after(0, torch.ones(1, WIDTH + 1))), f"width {WIDTH + 1}, and .* has {BLOCKS} blocks of width {WIDTH}"),
        (bank_of(after(BLOCKS, vectors)), f"changes block {BLOCKS}"),
    ):
        with pytest.raises(UsageError, match=told):
            check_fits(bank, llama)
    _part, space = part_and_space(llama, batch, kind("adapter of rank 3"), 1, 3)
    some = space.perturbations(drawn(space, 1, "fits"), 1.0)
    check_fits(bank_of(some), llama)
    (change,) = some.changes
    wrong = replace(change, down=change.down[..., :-1])
    with pytest.raises(UsageError, match="reads 47 channels in block 1"):
        check_fits(bank_of(replace(some, changes=(wrong,))), llama)


@pytest.mark.parametrize(
    ("given", "told"), [({"tokens": 0}, "--tokens 0"), ({"temperature": -1.0}, "-1.0"), ({"temperature": float("nan")}, "nan")]
)
def test_manners_outside_their_range_are_refused(given, told):
    with pytest.raises(UsageError, match=told):
        replace(GREEDY, **given)
