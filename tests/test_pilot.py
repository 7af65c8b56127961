"""A pilot chooses by what it hears: its rules in closed form, and a small model on which no piece size changes anything."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import CONTEXT, PROMPTS
from toys import LIMITS

from discover.bank import VectorBank
from discover.choices import Calibration, Device, Diversity, Kind, Layers, Prompts, Solver, Target, TrackingMode
from discover.config import (
    AuditConfig,
    Config,
    ModelConfig,
    PilotConfig,
    PromptConfig,
    SearchConfig,
    SpeechConfig,
    TrackingConfig,
)
from discover.errors import UsageError
from discover.inputs import Ground, grounded, heard_batch, neutral_beside, openings, prompt_batch
from discover.model.loading import LoadedModel
from discover.pilot import choice
from discover.pilot.arms import Arm, by_speech, distinct, is_open, portfolio
from discover.pilot.budget import budget
from discover.pilot.choice import BEARABLE, GRID, HEARD, LEAST, QUIET, SCOUTS, STEP, kept_grounds, listened, pilot
from discover.pilot.choice import tried as tried_once
from discover.pilot.plan import planned
from discover.pilot.trial import STATES, Listener, counted, share_of, yields
from discover.pipeline import run
from discover.read.novelty import ordinary_of
from discover.read.reference import UnsteeredReference, unsteered_reference
from discover.read.signals import Bounds, Completion, completion
from discover.read.speech import scored
from discover.read.trials import Trial, load_trials, save_trials
from discover.search.learning import learn, way_seed
from discover.steer.generation import Reply, replies
from discover.steer.interventions import added

BASE = completion("pilot", 0, 0, Reply((1,), "", True, ()), None, Reply((), "x", True, ()), LIMITS, [1.0], None)
USER, NEUTRAL = (0, 1), (2, 3, 4)


def said(text: str, vector: int = 0, state: str = "coherent", settled: float = 0.0) -> Completion:
    return replace(BASE, text=text, vector=vector, state=state, settled_surprise=settled)


def states(**counts: int) -> list[Completion]:
    return [said("a b", state=state) for state, count in counts.items() for _ in range(count)]


# Arms


@pytest.mark.parametrize("blocks", [2, 3, 4, 6, 8, 12, 18, 30, 48])
def test_arms_fit_every_model_and_none_is_another_by_a_second_name(blocks: int) -> None:
    arms = portfolio(SearchConfig(), blocks, USER, NEUTRAL)
    for arm in arms:
        assert arm.search.source_layer is not None and arm.search.target_layer is not None
        assert 0 <= arm.search.source_layer < arm.search.target_layer < blocks
        assert arm.search.radius is arm.search.relative_radius is None and arm.search.learned_from[:2] == [0, 1]
    searches = [arm.search for arm in arms]
    assert all(one not in searches[:place] for place, one in enumerate(searches)) and len({arm.name for arm in arms}) == len(arms)
    # They differ in solver and rounds, in where effects are read, and in the prompts that are learned from.
    assert len({search.chosen_rounds for search in searches if search.solver is Solver.fixed_point}) == 2
    assert {search.solver for search in searches} == {Solver.fixed_point, Solver.power}
    assert {search.reply_positions == 0 for search in searches} == {True, False}
    assert any(search.learned_from == [0, 1] for search in searches)
    more = [search.learned_from[2:] for search in searches if len(search.learned_from) > 2]
    assert more and all(set(some) < set(NEUTRAL) for some in more), "some neutral prompts are heard and not learned from"


def test_arms_of_few_blocks_collapse() -> None:
    arms = {blocks: portfolio(SearchConfig(), blocks, USER, NEUTRAL) for blocks in (2, 4, 32)}
    depths = {blocks: {(arm.search.source_layer, arm.search.target_layer) for arm in found} for blocks, found in arms.items()}
    counts = {blocks: len(found) for blocks, found in arms.items()}
    assert depths[2] == {(0, 1)} and len(depths[32]) == 3
    assert counts[2] < counts[4] <= counts[32]
    by_rule = {blocks: [arm for arm in found if arm.search.solver is Solver.fixed_point] for blocks, found in arms.items()}
    assert len(by_rule[32]) == 3 * len(by_rule[2]), "at one depth in place of three"


def test_a_model_of_one_kind_of_prompt_has_no_arm_that_learns_from_others() -> None:
    arms = portfolio(SearchConfig(), 12, USER, ())
    assert {tuple(arm.search.learned_from) for arm in arms} == {USER}
    assert 0 < len(arms) < len(portfolio(SearchConfig(), 12, USER, NEUTRAL))


@pytest.mark.parametrize(
    "given",
    [
        {"rounds": 3},
        {"reply_positions": 2},
        {"span": [-2, 1]},
        {"vectors": 7, "perturbation": Kind.bias},
        {"normalised": False},
        {"chunk": 4},
        {"settled": 0.05},
        {"prompts": Prompts.sum},
        {"target": Target.logits},
        {"steered_positions": 3},
        {"positions": 2},
    ],
)
def test_what_is_given_by_hand_holds_in_every_arm(given: dict[str, object]) -> None:
    """An option that one solver has no use for leaves that arm out, and is not refused."""
    search = SearchConfig(**given)  # type: ignore[arg-type]
    assert is_open(search)
    for arm in portfolio(search, 12, USER, NEUTRAL):
        for name, value in given.items():
            assert getattr(arm.search, name) == value, (arm.name, name)
        untouched = {one.name for one in fields(SearchConfig)} - {
            *("source_layer", "target_layer", "learned_from", "reply_positions", "rounds", "solver"),
        }
        assert all(getattr(arm.search, name) == getattr(search, name) for name in untouched)


@pytest.mark.parametrize(
    "given",
    [
        {"source_layer": 1},
        {"target_layer": 3},
        {"radius": 2.0},
        {"relative_radius": 0.5},
        {"layers": Layers.depth},
        {"layers": Layers.auto},
        {"calibration": Calibration.turn},
        {"calibration": Calibration.departure},
        {"mixture": [{}, {"rounds": 3}]},
        {"learned_from": [0]},
        {"both_signs": True},
        {"perturbation": Kind.adapter},
        {"perturbation": Kind.factor},
        {"perturbation": Kind.head},
        {"solver": Solver.random},
        {"solver": Solver.ascent, "normalised": False},
        {"diversity": Diversity.orthogonal},
    ],
)
def test_the_pilot_chooses_nothing_where_something_it_chooses_is_given(given: dict[str, object]) -> None:
    assert is_open(SearchConfig()) and not is_open(SearchConfig(**given))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given,listens",
    [
        ({}, True),
        ({"source_layer": 1, "target_layer": 3}, True),
        ({"layers": Layers.depth}, True),
        ({"solver": Solver.random}, True),
        ({"both_signs": True}, True),
        ({"radius": 2.0}, False),
        ({"relative_radius": 0.5}, False),
        ({"calibration": Calibration.turn}, False),
        ({"calibration": Calibration.departure}, False),
        ({"perturbation": Kind.adapter}, False),
        ({"perturbation": Kind.factor}, False),
        ({"solver": Solver.ascent, "normalised": False}, False),
    ],
)
def test_a_radius_that_is_not_given_is_what_speech_can_bear(given: dict[str, object], listens: bool) -> None:
    assert by_speech(SearchConfig(**given)) is listens  # type: ignore[arg-type]


def test_the_first_of_equal_arms_stays() -> None:
    one, other = SearchConfig(source_layer=1, target_layer=2), SearchConfig(source_layer=1, target_layer=3)
    arms = [Arm("a", one), Arm("b", other), Arm("c", replace(one)), Arm("d", replace(other, rounds=9))]
    assert [arm.name for arm in distinct(arms)] == ["a", "b", "d"]


@pytest.mark.parametrize(
    "given,told",
    [
        ({"vectors": 0}, r"pilot\.vectors=0"),
        ({"tokens": 0}, r"pilot\.tokens=0"),
        ({"tokens": 7}, r"pilot\.tokens=7 must be 8 or more"),
        ({"kept": 0}, r"pilot\.kept=0"),
    ],
)
def test_a_pilot_that_cannot_be_is_refused(given: dict[str, int], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        PilotConfig(**given)
    with pytest.raises(UsageError, match=r"prompts\.neutral=99 must be 0 to"):
        PromptConfig(neutral=99)


# Radius


def test_the_radius_is_the_last_before_the_first_that_breaks_too_much() -> None:
    well, barely, broken = 0.0, BEARABLE, BEARABLE + 0.01
    count = len(GRID)
    assert list(GRID) == sorted(GRID) and GRID[0] > 0
    assert choice._largest([well] * count) == choice._largest([barely] * count) == GRID[-1]
    for first in range(1, count):
        assert choice._largest([well] * first + [broken] * (count - first)) == GRID[first - 1]
        # What seems to be borne beyond a radius that is not is luck.
        assert choice._largest([barely] * first + [broken] + [well] * (count - first - 1)) == GRID[first - 1]
    assert choice._largest([broken] * count) == GRID[0], "there is none below the first"


@pytest.mark.parametrize("state", ["degenerate", "empty"])
def test_a_radius_is_smaller_the_more_replies_break(state: str) -> None:
    few = int(BEARABLE * 16)
    kept = choice._mended(0.4, states(coherent=16 - few, **{state: few}))
    radii = [choice._mended(0.4, states(coherent=16 - count, **{state: count})) for count in range(few + 1, 17)]
    assert kept == 0.4 and all(radius <= 0.4 / STEP + 1e-12 for radius in radii)
    assert radii == sorted(radii, reverse=True)
    assert all(radius == pytest.approx(0.4 / STEP ** round(_steps(radius))) for radius in radii), "by whole steps"


def _steps(radius: float) -> float:
    return float(torch.log(torch.tensor(0.4 / radius)) / torch.log(torch.tensor(STEP)))


def test_a_radius_at_which_most_stays_as_it_was_is_made_larger_if_it_is_borne_well() -> None:
    quiet = int(QUIET * 16) + 1
    assert choice._mended(0.4, states(unchanged=quiet, coherent=16 - quiet)) == pytest.approx(0.4 * STEP)
    assert choice._mended(0.4, states(unchanged=quiet - 1, coherent=17 - quiet)) == 0.4
    at_the_edge = int(BEARABLE * 16)
    assert choice._mended(0.4, states(unchanged=16 - at_the_edge, degenerate=at_the_edge)) == 0.4


# Shares


@pytest.mark.parametrize("kept", [1, 2, 4, 8])
@pytest.mark.parametrize("vectors", [1, 3, 4, 7, 16, 96, 97, 1000])
def test_shares_add_up_and_none_that_is_kept_has_less_than_the_least(vectors: int, kept: int) -> None:
    generator = torch.Generator().manual_seed(vectors)
    for worths in (torch.rand(9, generator=generator).tolist(), [0.0] * 9, [0.0] * 8 + [1.0], [0.5] * 9):
        shares = choice._shares(vectors, worths, kept)
        assert sum(shares) == vectors and len(shares) == 9 and min(shares) >= 0
        best = sorted(range(9), key=lambda arm: -worths[arm])[: min(kept, vectors)]
        assert {arm for arm, count in enumerate(shares) if count} == set(best), "of a small bank too"
        assert all(shares[arm] >= int(LEAST * vectors) for arm in best)


def test_shares_are_proportional_to_worth_beyond_the_least() -> None:
    worths = [0.1, 0.0, 0.3, 0.2]
    shares = choice._shares(10**6, worths, 3)
    free = 1 - 3 * LEAST
    assert shares[1] == 0
    for arm in (0, 2, 3):
        assert shares[arm] == pytest.approx(10**6 * (LEAST + free * worths[arm] / 0.6), abs=3)
    assert choice._shares(90, [0.0, 0.0, 0.0], 3) == [30, 30, 30], "nothing heard of any: evenly"
    assert choice._shares(10, [0.2, 0.7], 1) == [0, 10]


@pytest.mark.parametrize("kept", [9, 12, 20])
def test_many_kept_arms_leave_no_share_negative_or_upside_down(kept: int) -> None:
    worths = [place / 20 for place in range(20)]
    shares = choice._shares(4000, worths, kept)
    assert sum(shares) == 4000 and min(shares) >= 0 and sum(map(bool, shares)) == kept
    held = [count for count in shares if count]
    assert all(one <= other for one, other in pairwise(held)), "who is worth more has no less"


# Yield

NOTHING_KNOWN = ordinary_of(["the usual reply"])


def test_an_arm_yields_the_mean_of_the_best_of_each_of_its_vectors() -> None:
    heard = [
        *(said("a b c", 0, settled=1.0), said("d e f", 0, settled=0.0)),
        *(said("the usual g", 1, settled=0.0), said("the usual reply", 1, settled=0.0)),
        *(said("h i j", 2, "degenerate"), said("k l m", 2, "unchanged")),
        said("", 3, "empty"),
    ]
    assert yields([heard], NOTHING_KNOWN) == [pytest.approx((1.0 + 0.5) / 4)]


def test_what_two_arms_say_is_paid_once_and_to_the_surer() -> None:
    """Before, arms that come to one and the same reply shared the bank among them."""
    alone = yields([[said("a b c", settled=0.5)]], NOTHING_KNOWN)[0]
    first, second = yields([[said("a b c", settled=0.5)], [said("a b c", settled=0.1)]], NOTHING_KNOWN)
    assert first == 0.0 and second == pytest.approx(2.718281828**-0.1)
    assert alone == pytest.approx(2.718281828**-0.5)
    # Another reply of the arm that lost is still its own; half of a reply is paid half.
    lost, won = yields([[said("a b c", 0, settled=0.5), said("x y z", 1)], [said("a b c", 0)]], NOTHING_KNOWN)
    assert (lost, won) == (pytest.approx(1 / 2), 1.0)
    half, whole = yields([[said("a b d", settled=0.5)], [said("a b c")]], NOTHING_KNOWN)
    assert (half, whole) == (pytest.approx(0.5 * 2.718281828**-0.5), 1.0)


def test_what_random_vectors_or_samples_say_yields_nothing() -> None:
    assert yields([[said("the usual reply")], []], NOTHING_KNOWN) == [0.0, 0.0]


def test_replies_are_counted_by_state() -> None:
    heard = states(coherent=3, degenerate=1, unchanged=4)
    assert counted(heard) == {"coherent": 3, "degenerate": 1, "empty": 0, "unchanged": 4} and tuple(counted(heard)) == STATES
    assert share_of("unchanged", heard) == 1 / 2 and share_of("empty", heard) == 0.0 == share_of("coherent", [])


# A small model

SPEECH = SpeechConfig(tokens=8, rows=64)


def configured(path: Path, **search: object) -> Config:
    return Config(
        seed=3,
        model=ModelConfig(path=str(path), device=Device.cpu),
        prompts=PromptConfig(texts=list(PROMPTS), neutral=2),
        search=SearchConfig(vectors=10, **search),  # type: ignore[arg-type]
        pilot=PilotConfig(vectors=2, tokens=8, kept=2),
        speech=SPEECH,
        audit=AuditConfig(null_vectors=6, samples=4, forced_tokens=2, used=0),
        tracking=TrackingConfig(mode=TrackingMode.disabled),
    )


Stand = tuple[Config, list[Arm], list[Ground], Listener]


def standing(config: Config, loaded: LoadedModel, arms: int | None, speech: SpeechConfig) -> Stand:
    batch = prompt_batch(config, loaded)
    every = heard_batch(config, loaded, batch)
    found = portfolio(config.search, len(loaded.anatomy.blocks), range(len(PROMPTS)), range(len(PROMPTS), len(every.prompts)))
    begun = openings([arm.search for arm in found], loaded, every, 64)
    grounds = [grounded(arm.search, loaded, every, begun, None) for arm in found[:arms]]
    reference = unsteered_reference(loaded, every, begun, speech, 4, config.seed, lambda _: None)
    return config, found[:arms], grounds, Listener(loaded, every, reference, speech, lambda _: None)


@pytest.fixture(scope="module")
def stand(checkpoint: Callable[[str], Path], llama: LoadedModel) -> Stand:
    return standing(configured(checkpoint("llama")), llama, 4, SPEECH)


@pytest.fixture(scope="module")
def trials(stand: Stand) -> tuple[Trial, ...]:
    return tried(stand)


def tried(stand: Stand) -> tuple[Trial, ...]:
    config, arms, grounds, listener = stand
    return pilot(config, arms, grounds, True, listener)


def test_every_arm_is_tried_and_told(stand: Stand, trials: tuple[Trial, ...]) -> None:
    config, arms, grounds, _ = stand
    assert [one.name for one in trials] == [arm.name for arm in arms]
    for one, ground in zip(trials, grounds, strict=True):
        assert (one.source_layer, one.target_layer) == ground.layers and one.learned_from == tuple(ground.search.learned_from)
        assert 0.0 <= one.worth <= 1.0
        assert sum(one.learned.values()) == config.pilot.vectors * HEARD
        assert 0 < sum(one.null.values()) <= config.pilot.vectors * HEARD
    assert sum(one.vectors for one in trials) == 10 and sum(one.vectors > 0 for one in trials) <= config.pilot.kept


def test_equal_seeds_give_equal_trials_and_another_gives_others(stand: Stand, trials: tuple[Trial, ...]) -> None:
    assert tried(stand) == trials
    config, arms, grounds, listener = stand
    other = pilot(replace(config, seed=4), arms, grounds, True, listener)
    assert [(one.worth, one.learned) for one in other] != [(one.worth, one.learned) for one in trials]


@pytest.mark.usefixtures("alike_rows")
def test_sizes_of_pieces_change_nothing(trials: tuple[Trial, ...], checkpoint: Callable[[str], Path], llama: LoadedModel) -> None:
    other = tried(standing(configured(checkpoint("llama"), chunk=1), llama, 4, replace(SPEECH, rows=7)))
    for one, again in zip(trials, other, strict=True):
        assert replace(again, worth=0.0) == replace(one, worth=0.0)
        assert again.worth == pytest.approx(one.worth, rel=1e-3)


def test_what_a_pilot_hears_is_what_each_vector_says_alone(stand: Stand, llama: LoadedModel) -> None:
    _, _, grounds, listener = stand
    some = listener.first(2)
    banks = [choice._learned(ground, 2, 0.3, 3, "trial") for ground in grounds[:2]]
    heard = some.hear(banks)
    assert [len(own) for own in heard] == [4, 4] and len(some.batch.prompts) == len(some.reference.replies) == 2
    for bank, own in zip(banks, heard, strict=True):
        assert [(one.vector, one.prompt) for one in own] == [(0, 0), (0, 1), (1, 0), (1, 1)]
        for vector in range(2):
            steering = [added(bank.perturbations.rows([vector])).repeated(2)]
            alone = replies(llama, some.batch, steering, SPEECH.tokens, 64, lambda _: None)
            expected = scored(llama, some.batch, some.reference, "pilot", alone, False, None)
            told = own[2 * vector : 2 * vector + 2]
            assert [(one.text, one.state) for one in told] == [(one.text, one.state) for one in expected]


def test_the_borne_radius_is_that_at_which_scouts_still_speak(stand: Stand) -> None:
    """By hand, for one arm: its scouts at every radius of the grid."""
    config, _, grounds, listener = stand
    ground = grounds[0]
    (borne,) = choice._borne(config, [ground], listener)
    scouts = choice._learned(ground, SCOUTS, choice.START, config.seed, "scout")
    assert scouts.relative_radius == pytest.approx(choice.START)
    shares = []
    for radius in GRID:
        (heard,) = listener.first(1).hear([scouts.void(scouts.perturbations.scaled(radius / choice.START), 0)])
        shares.append(sum(one.state in ("degenerate", "empty") for one in heard) / SCOUTS)
    assert borne == choice._largest(shares)


def test_a_radius_that_breaks_everything_is_not_borne(stand: Stand) -> None:
    """Before, an angle of the residual stream chose a radius at which every reply was broken."""
    config, _, grounds, listener = stand
    reference = listener.reference
    strict = UnsteeredReference(reference.replies, reference.samples, replace(reference.limits, surprise=0.0))
    (least,) = choice._borne(config, grounds[:1], replace(listener, reference=strict))
    # Where nothing may be said but what is always said, a radius is borne at which most say just that.
    ground = grounds[0]
    scouts = choice._learned(ground, SCOUTS, choice.START, config.seed, "scout")
    turned = [
        scouts.void(scouts.perturbations.scaled(radius / choice.START), 0) for radius in (least, GRID[GRID.index(least) + 1])
    ]
    still, broken = (sum(one.state == "unchanged" for one in said) / SCOUTS for said in listener.first(1).hear(turned))
    assert still >= 1 - BEARABLE > broken
    patient = UnsteeredReference(reference.replies, reference.samples, replace(reference.limits, surprise=1e9, repetition=1e9))
    assert choice._borne(config, grounds[:1], replace(listener, reference=patient))[0] == GRID[-1]


def cosines(bank: VectorBank, other: VectorBank) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(bank.vectors[:, None], other.vectors[None], dim=2)


def test_what_a_pilot_drew_is_no_part_of_the_bank(stand: Stand) -> None:
    config, _, grounds, _ = stand
    ground = grounds[0]
    search = replace(ground.search, vectors=4, relative_radius=0.3, solver=Solver.random)
    drawing = replace(ground, search=search)
    scout, trial = (choice._learned(drawing, 4, 0.3, config.seed, name) for name in ("scout", "trial"))
    for number in range(len(grounds)):
        seed = way_seed(config.seed, number)
        bank = learn(search, ground.part, ground.space, ground.reply_tokens, ground.layers, seed, {}, lambda _: None).bank
        assert float(cosines(bank, trial).max()) < 0.9 and float(cosines(bank, scout).max()) < 0.9
        assert torch.equal(
            bank.vectors,
            learn(search, ground.part, ground.space, ground.reply_tokens, ground.layers, seed, {}, lambda _: None).bank.vectors,
        )
    assert float(cosines(scout, trial).max()) < 0.9 and float(cosines(trial, trial).max()) > 0.999


def test_kept_arms_are_learned_at_their_radii_and_nothing_changes_without_a_pilot(
    stand: Stand, trials: tuple[Trial, ...]
) -> None:
    _, arms, grounds, _ = stand
    kept = kept_grounds(arms, grounds, trials)
    chosen = [one for one in trials if one.vectors]
    assert [(one.search.vectors, one.search.relative_radius) for one in kept] == [
        (one.vectors, one.kept_radius) for one in chosen
    ]
    assert [one.layers for one in kept] == [(one.source_layer, one.target_layer) for one in chosen]
    assert kept_grounds(arms, grounds, ()) == grounds


def test_a_search_by_hand_keeps_its_vectors_and_has_its_radius_heard(stand: Stand, trials: tuple[Trial, ...]) -> None:
    config, arms, grounds, listener = stand
    by_hand = pilot(config, arms[:2], grounds[:2], False, listener)
    assert [one.vectors for one in by_hand] == [arm.search.vectors for arm in arms[:2]]
    assert [one.relative_radius for one in by_hand] == [one.relative_radius for one in trials[:2]]


def test_trials_survive_their_file(trials: tuple[Trial, ...], tmp_path: Path) -> None:
    save_trials(tmp_path / "pilot.json", trials)
    assert load_trials(tmp_path / "pilot.json") == trials
    save_trials(tmp_path / "pilot.json", ())
    assert load_trials(tmp_path / "pilot.json") == ()


def test_an_arm_that_breaks_is_tried_once_more_at_a_radius_it_can_bear(stand: Stand) -> None:
    """With bounds that nothing keeps every arm breaks, and breaks again."""
    config, arms, grounds, listener = stand
    heard: list[int] = []
    strict = replace(listener.reference, limits=Bounds(0.0, 0.0))
    trials = pilot(config, arms, grounds, True, replace(listener, reference=strict, tick=heard.append))
    prompts = len(listener.batch.prompts)
    assert sum(heard) == listened(config, arms, prompts) + tried_once(config, arms, prompts)
    borne = choice._borne(config, grounds, replace(listener, reference=strict))
    for one, first in zip(trials, borne, strict=True):
        assert one.kept_radius < one.relative_radius < first
        assert one.learned["degenerate"] + one.learned["empty"] > BEARABLE * sum(one.learned.values())


def test_a_pilot_hears_no_more_than_it_says_beforehand(stand: Stand) -> None:
    config, arms, grounds, listener = stand
    heard: list[int] = []
    pilot(config, arms, grounds, True, replace(listener, tick=heard.append))
    prompts = len(listener.batch.prompts)
    assert listened(config, arms, prompts) <= sum(heard)
    plan = planned(config, listener.loaded, prompt_batch(config, listener.loaded), listener.batch, None)
    plan = replace(plan, arms=arms)
    spent = budget(plan)
    assert sum(heard) * config.pilot.tokens <= spent.pilot_tokens
    assert f"the pilot {spent.pilot_steps:,} vector-steps and {spent.pilot_tokens:,} tokens" in str(spent)
    by_hand = replace(config, search=replace(config.search, relative_radius=0.3))
    without = budget(planned(by_hand, listener.loaded, plan.batch, plan.every, None))
    assert (without.pilot_steps, without.pilot_tokens) == (0, 0) and "pilot" not in str(without)


def test_the_neutral_prompts_are_not_those_of_the_user(checkpoint: Callable[[str], Path], llama: LoadedModel) -> None:
    config = configured(checkpoint("llama"))
    beside = neutral_beside(config, PROMPTS)
    assert len(beside) == 2 and neutral_beside(config, [*PROMPTS, beside[0]])[0] == beside[1]
    every = heard_batch(config, llama, prompt_batch(config, llama))
    assert every.prompts == (*PROMPTS, *beside)
    alone = replace(config, prompts=replace(config.prompts, neutral=0))
    batch = prompt_batch(alone, llama)
    assert heard_batch(alone, llama, batch) is batch
    # What leaves no room for a reply is left out.
    lengths = {prompt: len(llama.tokenizer(prompt)["input_ids"]) for prompt in every.prompts}
    longest = max(lengths[prompt] for prompt in PROMPTS)
    fitting = [prompt for prompt in beside if lengths[prompt] <= longest]
    long = replace(config, speech=replace(SPEECH, tokens=CONTEXT - longest))
    assert heard_batch(long, llama, prompt_batch(long, llama)).prompts == (*PROMPTS, *fitting) != every.prompts


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("piloted") / "run"
    run(configured(checkpoint("llama")), folder)
    return folder


def test_a_run_learns_from_the_arms_that_the_pilot_kept(folder: Path) -> None:
    trials = [one for one in load_trials(folder / "pilot.json") if one.vectors]
    bank = VectorBank.load(folder)
    ways = list(bank.ways)
    assert [(len(way), way.source_layer, way.target_layer) for way in ways] == [
        (one.vectors, one.source_layer, one.target_layer) for one in trials
    ]
    for way, one in zip(ways, trials, strict=True):
        assert way.relative_radius == pytest.approx(one.kept_radius, rel=1e-4)
        assert way.origin["learned_from"] == list(one.learned_from) and way.origin["rounds"] == one.rounds
    about = json.loads((folder / "run.json").read_text())
    assert about["layers"] == [min(one.source_layer for one in trials), max(one.target_layer for one in trials)]
    assert (about["asked"], len(about["prompts"])) == (2, 4)


def test_the_report_tells_of_every_arm(folder: Path) -> None:
    markdown, page = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    for one in load_trials(folder / "pilot.json"):
        assert one.name in markdown and one.name in page.replace("&#39;", "'")


def test_a_run_that_goes_on_after_the_pilot_does_not_pilot_again(folder: Path, checkpoint: Callable[[str], Path]) -> None:
    """Nor does it draw from the unsteered model again; what follows comes out the same to the byte."""
    kept = {name: (folder / name).read_bytes() for name in ("bank.safetensors", "completions.jsonl", "findings.json")}
    before = (folder / "pilot.json").stat().st_mtime_ns
    for name in (*kept, "null.safetensors", "triage.jsonl", "clusters.json", "map.json", "decodings.jsonl", "hints.json"):
        (folder / name).unlink(missing_ok=True)
    log = (folder / "discover.log").read_text()
    run(configured(checkpoint("llama")), folder)
    told = (folder / "discover.log").read_text()[len(log) :]
    assert "pilot: read from" in told and "unsteered: read from" in told and "search: read from" not in told
    assert (folder / "pilot.json").stat().st_mtime_ns == before
    assert {name: (folder / name).read_bytes() for name in kept} == kept
