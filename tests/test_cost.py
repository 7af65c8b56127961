"""A run says what it costs before it begins: counts times measured rates, and a size that fits into the time there is."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import PROMPTS

from discover.choices import Device, Diversity, Layers, Solver, TrackingMode
from discover.cli import main
from discover.config import (
    AuditConfig,
    Config,
    ModelConfig,
    PilotConfig,
    PromptConfig,
    ReadConfig,
    RunConfig,
    SearchConfig,
    SpeechConfig,
    TrackingConfig,
)
from discover.errors import UsageError
from discover.inputs import heard_batch, prompt_batch
from discover.model.loading import LoadedModel
from discover.pilot.cost import GROWN, LEAST_TOKENS, LEAST_VECTORS, Cost, cost, in_sizes, sized, sizes_of
from discover.pilot.plan import Plan, leads_followed, learned_vectors, null_vectors, planned, samples
from discover.pilot.rates import Rates, measured
from discover.pipeline import estimate, run
from discover.read.effects import load_map

NONE = Rates(0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def config(checkpoint: Callable[[str], Path]) -> Config:
    return Config(
        model=ModelConfig(path=str(checkpoint("llama")), device=Device.cpu),
        prompts=PromptConfig(texts=list(PROMPTS), neutral=1),
        tracking=TrackingConfig(mode=TrackingMode.disabled),
    )


@pytest.fixture(scope="module")
def plan(config: Config, llama: LoadedModel) -> Plan:
    return planned_with(config, llama)


def planned_with(config: Config, loaded: LoadedModel) -> Plan:
    batch = prompt_batch(config, loaded)
    return planned(config, loaded, batch, heard_batch(config, loaded, batch), None)


def seconds(plan: Plan, **rates: float) -> dict[str, float]:
    """Return what each stage costs where only the named pieces of work take time."""
    found = cost(plan, plan.config, 0, replace(NONE, **rates))
    return {name: value for name, value in found.seconds.items() if value}


def test_speech_is_pieces_and_rows_and_prompts() -> None:
    rates = replace(NONE, piece=2.0, row=0.1, prompt=0.5, length=0.5)
    assert rates.speech(10, 8, 4, steered=False) == pytest.approx(8 * (3 * 2.0 + 10 * 0.5 * 0.1))
    assert rates.speech(10, 8, 4, steered=True) == pytest.approx(rates.speech(10, 8, 4, False) + 10 * 0.5)


def test_a_stage_costs_what_it_is_made_of(plan: Plan, llama: LoadedModel) -> None:
    heard, asked = len(PROMPTS) + 1, len(PROMPTS)
    spoken = seconds(plan, row=1.0)
    assert spoken["unsteered"] == 32 * (64 + 1) * heard and "search" not in spoken
    assert spoken["speech"] == 32 * ((64 + 128) * heard + asked * 32 + 16 * 5)
    gradients = seconds(plan, gradient=1.0)
    assert {"pilot", "search", "map"} == gradients.keys()
    by_hand = replace(plan.config, search=SearchConfig(source_layer=1, target_layer=2, relative_radius=0.5, rounds=3))
    one = planned_with(by_hand, llama)
    # Three rounds of 64 vectors and a last look at each, over two blocks and every token that is learned from.
    work = one.grounds[0].longer.input_ids.numel() * 2
    assert seconds(one, gradient=1.0)["search"] == pytest.approx(work * 64 * (3 + 1 / 3), rel=1e-3)
    assert "pilot" not in seconds(one, gradient=1.0, row=1.0)
    nothing = replace(one.config, search=replace(by_hand.search, rounds=None, solver=Solver.random))
    assert seconds(planned_with(nothing, llama), gradient=1.0)["search"] == pytest.approx(work * 64 / 3, rel=1e-3)


def test_what_is_left_out_costs_nothing(config: Config, llama: LoadedModel) -> None:
    bare = replace(config, read=ReadConfig(decoded=0, mapped=False), audit=AuditConfig(used=0))
    left = seconds(planned_with(bare, llama), row=1.0, gradient=1.0, prompt=1.0)
    assert not {"map", "decoders", "uses"} & left.keys()


def test_everything_follows_the_size_of_the_bank(plan: Plan, llama: LoadedModel) -> None:
    """Before, 160 followed openings and ten decoded random vectors stood beside a bank of any size."""
    small = replace(plan.config, search=replace(plan.config.search, vectors=8))
    assert (null_vectors(small), samples(small), leads_followed(small), learned_vectors(small)) == (16, 8, 2, 8)
    assert leads_followed(replace(small, speech=SpeechConfig(followed=5))) == 5
    rates = Rates(0.1, 0.0, 0.1, 1.0, 0.001, 1.0)
    large, less = (cost(plan, one, 0, rates).seconds for one in (plan.config, small))
    for name in ("search", "triage", "map"):
        assert less[name] == pytest.approx(large[name] / 8, rel=0.1), name
    assert (
        less["decoders"] < large["decoders"] / 2
        and max(less["speech"] / large["speech"], less["unsteered"] / large["unsteered"]) < 1 / 4
    )


def test_the_sentence_names_the_dearest_stages_and_the_memory() -> None:
    told = Cost({"pilot": 59.6, "search": 2.0, "speech": 130.4, "map": 0.2}, 3 * 2**29, 2**33)
    cost_told = "3 min 12 s (speech 2 min 10 s, pilot 1 min 0 s, search 2 s) and 1.5 GiB of memory, 8.0 GiB being free"
    assert str(told) == f"Cost, estimated: {cost_told}."


RATES = Rates(0.01, 0.001, 0.002, 0.02, 1e-6, 1.0)


@pytest.mark.parametrize("minutes", [3.0, 10.0, 20.0])
def test_a_run_is_sized_to_the_time_there_is(plan: Plan, minutes: float) -> None:
    found, expected = sized(plan, 0, RATES, minutes)
    assert 0.75 * 60 * minutes <= expected.total <= 60 * minutes
    assert expected.total == cost(plan, found, 0, RATES).total
    assert found.search.vectors >= LEAST_VECTORS and LEAST_TOKENS <= found.speech.tokens <= 32
    assert null_vectors(found) == 2 * found.search.vectors and samples(found) == found.search.vectors


def test_more_time_never_gives_less_and_no_more_than_can_be_orthogonal(plan: Plan) -> None:
    sizes = [sized(plan, 0, RATES, minutes)[0].search.vectors for minutes in (2, 4, 8, 16, 32, 1e6)]
    assert sizes == sorted(sizes) and sizes[-1] == 64 * GROWN
    apart = replace(plan.config, search=replace(plan.config.search, vectors=64, diversity=Diversity.orthogonal))
    assert sized(replace(plan, config=apart), 0, RATES, 1e6)[0].search.vectors == 64, "twice as many as dimensions already"


def test_no_run_is_small_enough_for_no_time(plan: Plan) -> None:
    with pytest.raises(UsageError, match=r"run.minutes=0.01 is too little: the smallest run takes about .*; give run.minutes="):
        sized(plan, 0, RATES, 0.01)


def test_what_is_given_by_hand_stays(config: Config, llama: LoadedModel) -> None:
    given = replace(
        config, search=SearchConfig(vectors=20), speech=SpeechConfig(tokens=24), audit=AuditConfig(null_vectors=7, samples=3)
    )
    found, _ = sized(planned_with(given, llama), 0, RATES, 1e6)
    assert (found.search.vectors, found.speech.tokens, null_vectors(found), samples(found)) == (20, 24, 7, 3)


def test_sizes_are_kept_for_a_run_that_goes_on(plan: Plan) -> None:
    found, _ = sized(plan, 0, RATES, 3.0)
    assert in_sizes(plan.config, sizes_of(found)) == found != plan.config
    assert in_sizes(plan.config, {}) == plan.config


def test_rates_are_measured_and_leave_every_draw_as_it_was(plan: Plan) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    begun = time.perf_counter()
    found = measured(plan)
    spent = time.perf_counter() - begun
    assert torch.equal(before, torch.get_rng_state())
    assert 0 < found.length <= 1 and min(found.prompt, found.piece, found.row) >= 0 < min(found.reading, found.gradient)
    assert max(found.prompt, found.piece, found.row, found.reading, found.gradient) < spent


def test_a_run_of_given_minutes_goes_on_in_the_same_size(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second start measures nothing: other rates would have given another size."""
    asked = replace(
        config, run=RunConfig(minutes=5.0), pilot=PilotConfig(vectors=1, tokens=8, kept=2), read=ReadConfig(mapped=False)
    )
    monkeypatch.setattr("discover.pipeline.measured", lambda _: replace(RATES, row=0.02))
    run(asked, tmp_path)
    about = json.loads((tmp_path / "run.json").read_text())
    vectors = about["sizes"]["search.vectors"]
    assert vectors < 64 == about["config"]["search"]["vectors"]
    assert sum(about["cost"]["seconds"].values()) <= 300 and about["cost"]["memory"] > 0
    (tmp_path / "bank.safetensors").unlink()
    (tmp_path / "triage.jsonl").unlink()
    monkeypatch.setattr("discover.pipeline.measured", lambda _: pytest.fail("measured again"))
    run(asked, tmp_path)
    assert len((tmp_path / "triage.jsonl").read_text().splitlines()) == 3 * vectors
    assert load_map(tmp_path / "map.json") is None and "Map of vectors" not in (tmp_path / "report.html").read_text()


def test_a_dry_run_tells_the_cost_and_writes_nothing(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["discover"])
    main(["--dry-run", f"model.path={config.model.path}", 'prompts.texts=["Count the boats."]', f"folder={tmp_path / 'run'}"])
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told] == ["Budget, at most", "Cost, estimated"]
    assert not list(tmp_path.iterdir())


def test_an_estimate_refuses_what_the_run_would(config: Config, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no vector bank"):
        estimate(replace(config, audit=AuditConfig(known=[str(tmp_path / "none")])))


def test_minutes_are_more_than_none() -> None:
    with pytest.raises(UsageError, match=r"run.minutes=0"):
        RunConfig(minutes=0)


def test_memory_holds_the_model_and_grows_with_what_is_said_at_once(plan: Plan) -> None:
    weights = sum(one.numel() * one.element_size() for one in plan.loaded.model.parameters())
    few, many = (cost(plan, replace(plan.config, speech=SpeechConfig(rows=rows)), 0, RATES).memory for rows in (64, 2**20))
    # Keys and values of two heads of eight dimensions in four blocks, for every position.
    columns = plan.every.input_ids.shape[1] + 32
    assert few > weights and many - few > 0.8 * 2**20 * columns * 2 * 4 * 2 * 8 * 4


def test_the_layers_of_an_atlas_stay_where_a_run_is_sized(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the sized plan forgot the atlas, and was learned between other layers than a resumed run goes on with."""
    search = SearchConfig(vectors=2, layers=Layers.auto, relative_radius=0.5, rounds=1)
    asked = replace(config, run=RunConfig(minutes=5.0), search=search, speech=SpeechConfig(tokens=4), read=ReadConfig(decoded=0))
    planning: list[object] = []
    monkeypatch.setattr("discover.pipeline.measured", lambda _: RATES)
    monkeypatch.setattr("discover.pipeline.planned", lambda *given: (planning.append(given[-1]), planned(*given))[1])
    run(asked, tmp_path)
    assert len(planning) == 2 and planning[0] is planning[1] is not None


def test_as_many_prompts_as_rows_leave_rates_that_can_be(config: Config, llama: LoadedModel) -> None:
    """Once the difference of two timings of the same width was taken for what one row costs."""
    many = replace(config, prompts=PromptConfig(texts=[f"Count {number} boats." for number in range(30)], neutral=0))
    begun = time.perf_counter()
    found = measured(planned_with(replace(many, speech=SpeechConfig(rows=32, tokens=4)), llama))
    assert found.piece == 0 and 0 < found.row < (time.perf_counter() - begun) / 30


def test_a_dry_run_is_for_runs_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["discover"])
    with pytest.raises(SystemExit):
        main(["atlas", "--dry-run"])
    assert "leave it out here" in capsys.readouterr().err
