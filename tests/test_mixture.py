"""A mixture: several ways to learn that share one bank, each from prompts, layers and at a radius of its own."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import PROMPTS
from test_bank import same
from test_html import completion
from torch import Tensor
from toys import KINDS, alone, greedy, kind, part_and_space

from discover.audit.findings import Finding
from discover.audit.uses import Asked, Questions, uses
from discover.bank import VectorBank
from discover.choices import Kind, Layers, Solver
from discover.cli import main
from discover.config import Config, ModelConfig, PromptConfig, SearchConfig
from discover.errors import UsageError
from discover.inputs import Ground, prepared, prompt_batch, sighted
from discover.model.anatomy import Place, Site
from discover.model.change import Perturbations, joined
from discover.model.loading import LoadedModel
from discover.perturb.spaces import drawn
from discover.read.decoders import decodings, nearest
from discover.read.effects import effect_map
from discover.read.modes import Mode
from discover.read.triage import glances, sight
from discover.report.saved import saved_record
from discover.search.chunks import chunks
from discover.search.learning import Search, chosen_layers, learn, random_bank, together, way_seed
from discover.search.readings import whole_reader
from discover.statistics import share
from discover.steer.interventions import added, intervened
from discover.storage import read_json, read_json_lines

WAYS = [
    {"perturbation": "factor", "band": 2, "vectors": 5, "learned_from": [0]},
    {"source_layer": 1, "target_layer": 3, "learned_from": [1], "turn": 30},
    {"perturbation": "adapter", "rank": 2, "source_layer": 1, "target_layer": 2},
]
MIXTURE = {"vectors": 11, "rounds": 1, "source_layer": 0, "target_layer": 3, "mixture": WAYS}


def mixed_config(path: Path, **options: object) -> Config:
    search = SearchConfig(**{**MIXTURE, **options})
    return Config(seed=7, model=ModelConfig(path=str(path)), search=search, prompts=PromptConfig(texts=list(PROMPTS)))


@pytest.fixture(scope="module")
def config(checkpoint: Callable[[str], Path]) -> Config:
    return mixed_config(checkpoint("llama"))


def learned(config: Config, loaded: LoadedModel) -> tuple[list[Ground], Search]:
    grounds = prepared(config, loaded, prompt_batch(config, loaded), None)
    found = [
        learn(one.search, one.part, one.space, one.reply_tokens, one.layers, way_seed(7, number), {}, lambda _: None)
        for number, one in enumerate(grounds)
    ]
    return grounds, together(found)


@pytest.fixture(scope="module")
def made(config: Config, llama: LoadedModel) -> tuple[list[Ground], Search]:
    return learned(config, llama)


def test_ways_take_the_options_around_them_and_what_is_left_of_n():
    given = SearchConfig(**{**MIXTURE, "vectors": 12, "reply_positions": 2})
    first, second, third = given.shares
    assert (first.perturbation, first.band, first.vectors, first.learned_from) == (Kind.factor, 2, 5, [0])
    assert (second.perturbation, second.turn, second.vectors) == (Kind.vector, 30.0, 4)
    assert (third.perturbation, third.rank, third.vectors, third.learned_from) == (Kind.adapter, 2, 3, [])
    assert all(one.rounds == 1 and one.reply_positions == 2 and one.mixture == [] for one in given.shares)
    assert SearchConfig().shares == [SearchConfig()], "no mixture is one way"
    words = SearchConfig(mixture=[{"solver": "ascent", "steps": 3}, {"layers": "middle"}]).shares
    assert [one.solver for one in words] == [Solver.ascent, Solver.fixed_point] and words[1].layers is Layers.middle


@pytest.mark.parametrize(
    "mixture,told",
    [
        ([{"turnn": 3}], r"no option 'search.mixture\[0\].turnn'; did you mean search.mixture\[0\].turn "),
        ([{}, {"turn": "wide"}], r"search.mixture\[1\].turn='wide' must be of kind float"),
        ([{"vectors": True}], r"search.mixture\[0\].vectors=True must be of kind int"),
        ([{"learned_from": 3}], "must be of kind list"),
        ([{"learned_from": [0.5]}, {}], r"search.mixture\[0\].learned_from=\[0.5\] must be a list of kind int"),
        ([{"span": [True, 0]}, {}], "must be a list of kind int"),
        ([{}, 3], r"search.mixture\[1\]=3 must name options"),
        ([{"solver": "magic"}], "is none of fixed_point, ascent, power, cpe, random"),
        ([{"mixture": []}], "a mixture within a mixture"),
        ([{"steered_positions": 2}, {}], "steered_positions says where the whole bank acts"),
        ([{"both_signs": True}, {}], "both_signs says what the whole bank holds"),
        ([{"turn": 95}], r"In search.mixture\[0\]: search.turn=95.0 must be below 90"),
        ([{"rank": 3}], "search.rank has no meaning"),
        ([{"vectors": 9}], "ask for 9 vectors, and 0 for what is left of search.vectors=10"),
        ([{"vectors": 10}, {}], "ask for 10 vectors, and 1 for what is left of search.vectors=10"),
        ([{"learned_from": [0, 0]}], "must name prompts once each"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused_in_one_sentence(mixture: list[dict[str, object]], told: str):
    with pytest.raises(UsageError, match=told):
        SearchConfig(vectors=10, mixture=mixture)


def test_a_mixture_has_no_opposites():
    with pytest.raises(UsageError, match=r"search\.both_signs does not go with search\.mixture"):
        SearchConfig(both_signs=True, mixture=[{}, {"turn": 30}])


def test_a_prompt_that_is_not_there_is_refused(checkpoint: Callable[[str], Path], llama: LoadedModel):
    """Neutral prompts are there as well, if they leave room for a reply."""

    def asked(number: int, neutral: int, tokens: int) -> None:
        config = mixed_config(checkpoint("llama"), mixture=[{"learned_from": [number]}, {}])
        prompts, speech = replace(config.prompts, neutral=neutral), replace(config.speech, tokens=tokens)
        prompt_batch(replace(config, prompts=prompts, speech=speech), llama)

    longest = max(len(llama.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS)
    asked(2, 1, 8)
    asked(1, 0, 8)
    for number, neutral, tokens, last in ((2, 0, 8, 1), (3, 1, 8, 2), (2, 1, llama.context - longest, 1)):
        with pytest.raises(UsageError, match=rf"search\.learned_from names prompt {number}, and there are prompts 0 to {last}"):
            asked(number, neutral, tokens)


def test_chosen_prompts_lose_the_padding_of_the_others(batch):
    short = min(range(len(batch.prompts)), key=lambda row: int(batch.attention_mask[row].sum()))
    one, expected = batch.chosen([short]), alone(batch, short)
    assert one.prompts == expected.prompts
    assert torch.equal(one.input_ids, expected.input_ids) and bool(one.attention_mask.all())
    turned = batch.chosen([1, 0])
    assert torch.equal(turned.input_ids, batch.input_ids[[1, 0]]) and turned.prompts == (batch.prompts[1], batch.prompts[0])


def test_layers_of_the_middle():
    middle = SearchConfig(layers=Layers.middle)
    assert chosen_layers(middle, 8, None) == (3, 5) and chosen_layers(middle, 32, None) == (12, 20)
    assert chosen_layers(replace(middle, target_layer=7), 8, None) == (3, 7)


@pytest.mark.parametrize("one", KINDS)
@pytest.mark.parametrize("other", ["vector", "adapter of rank 3"])
def test_joined_perturbations_do_what_each_does_alone(llama: LoadedModel, batch, one: str, other: str):
    """Before, kinds that act at other places, or with other ranks, could not stand in one bank."""
    held = []
    for name, source in ((one, 0), (other, 1)):
        part, space = part_and_space(llama, batch, kind(name, vectors=2), source, 3)
        held.append(space.perturbations(drawn(space, 2, name), 0.5 * part.residual_norm))
    both = joined(*held)
    orders = [change.place.order for change in both.changes]
    assert len(both) == 4 and orders == sorted(set(orders))

    def logits(some: Perturbations) -> Tensor:
        with intervened(llama, [added(some.repeated(len(batch.prompts)))], None):
            return llama.forward(batch.repeated(len(some)))

    together, apart, plain = logits(both), torch.cat([logits(some) for some in held]), llama.forward(batch.repeated(4))
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)
    assert ((apart - plain).abs().amax(dim=(1, 2)) > 1e-2).all(), "each does something"


def test_a_way_learns_what_it_learns_alone(made, checkpoint: Callable[[str], Path], llama: LoadedModel):
    """With its own prompts alone, and with its own radius."""
    grounds, search = made
    for number, (way, one) in enumerate(zip(search.bank.ways, grounds, strict=True)):
        texts = [PROMPTS[prompt] for prompt in one.search.learned_from or (0, 1)]
        config = replace(
            mixed_config(checkpoint("llama")), prompts=PromptConfig(texts=texts), search=replace(one.search, learned_from=[])
        )
        (ground,) = prepared(config, llama, prompt_batch(config, llama), None)
        seed = way_seed(7, number)
        bank = learn(ground.search, ground.part, ground.space, ground.reply_tokens, ground.layers, seed, {}, lambda _: None).bank
        assert same(way.perturbations, bank.perturbations) and torch.equal(way.objective, bank.objective)
        assert (way.radius, way.residual_norm) == (bank.radius, bank.residual_norm)
        assert (way.source_layer, way.target_layer) == (bank.source_layer, bank.target_layer)
        assert way.origin == {**bank.origin, "learned_from": one.search.learned_from, "seed": 7}


def test_ways_that_are_the_same_learn_other_vectors(checkpoint: Callable[[str], Path], llama: LoadedModel):
    config = mixed_config(checkpoint("llama"), vectors=4, mixture=[{"relative_radius": 1}, {"relative_radius": 1}])
    first, second = learned(config, llama)[1].bank.ways
    cosines = torch.nn.functional.cosine_similarity(first.vectors[:, None], second.vectors[None], dim=2)
    assert first.radius == second.radius and float(cosines.max()) < 0.99


def test_a_mixture_says_what_it_is_and_keeps_it(made, tmp_path: Path):
    bank = made[1].bank
    assert [len(way) for way in bank.ways] == [5, 3, 3] and len(bank) == 11
    assert (bank.source_layer, bank.target_layer) == (0, 3)
    assert "perturbation" not in bank.origin and (bank.origin["solver"], bank.origin["seed"]) == ("fixed_point", 7)
    places = [[change.place for change in way.perturbations.changes] for way in bank.ways]
    assert places == [
        [Place(0, Site.attention), Place(1, Site.attention)],
        [Place(1, Site.residual)],
        [Place(1, Site.mlp)],
    ]
    with pytest.raises(UsageError, match="holds a mixture of ways to learn, not vectors"):
        _ = bank.vectors
    bank.save(tmp_path / "bank.safetensors")
    held = VectorBank.load(tmp_path)
    assert held.shares == bank.shares and same(held.perturbations, bank.perturbations)
    held.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "bank.safetensors").read_bytes()
    way = bank.ways[1]
    assert bank.subset([10, 0]).shares == () and way.shares == () and way.ways[0] is way


def test_every_vector_has_its_way(made):
    bank = made[1].bank
    assert [bank.way_of(row) for row in range(11)] == [0] * 5 + [1] * 3 + [2] * 3
    assert [bank.rows_of(number) for number in range(3)] == [range(5), range(5, 8), range(8, 11)]
    assert bank.some(4) == [0, 1, 5, 6, 8, 9] and bank.some(100) == list(range(11))
    assert bank.ways[0].some(3) == [0, 1, 2] and bank.ways[0].way_of(4) == 0
    assert bank.perturbations.begins == [0] * 5 + [1] * 6
    ratios = sorted(way.radius / way.residual_norm for way in bank.ways for _ in range(len(way)))
    assert bank.relative_radius == ratios[5] and bank.ways[1].relative_radius == pytest.approx(
        bank.ways[1].radius / bank.ways[1].residual_norm
    )


def test_ways_that_share_a_place_come_back_as_they_were(batch, llama: LoadedModel, tmp_path: Path):
    """One beside another of a larger rank is filled up with terms of nothing, which are none of its own."""
    banks = []
    for name, rank in (("bias", 0), ("adapter of rank 3", 3), ("adapter of rank 1", 1)):
        part, space = part_and_space(llama, batch, kind(name, vectors=2), 1, 3)
        perturbations = space.perturbations(drawn(space, 2, name), 1.0)
        assert perturbations.changes[0].down.shape[1] == rank
        banks.append(VectorBank(perturbations, torch.zeros(2), 1.0, part.residual_norm, 1, 3, {"perturbation": name}))
    VectorBank.together(banks).save(tmp_path / "bank.safetensors")
    for way, bank in zip(VectorBank.load(tmp_path).ways, banks, strict=True):
        assert same(way.perturbations, bank.perturbations)
    assert torch.equal(VectorBank.load(tmp_path).ways[0].vectors, banks[0].vectors)


def test_a_vector_is_used_beside_random_ones_of_its_own_way(made, config: Config, llama: LoadedModel):
    grounds, search = made
    null = random_bank(search.bank, [one.space for one in grounds], 22, 7)
    said = [replace(completion("You are kind.", vector=6), prompt=0)]
    evidence = (share(1, 11), share(0, 22), 0.01, 0.01, share(0, 64), share(1, 2), 1.0, 1.0, False)
    finding = Finding(0, "You", "finding", "L1", (6,), *evidence, None, (), (0,))
    asked = Asked(("Count the boats.",), (), Questions((), ()))
    found = uses(llama, [finding], said, (search.bank, null), asked, (1.0,), config.prompts, config.speech, lambda _: None)
    (random,) = [use for use in found if use.bank == "null"]
    assert null.way_of(random.vector) == search.bank.way_of(6) == 1


def test_the_lens_of_a_way_begins_where_it_acts(made, config: Config, llama: LoadedModel):
    grounds, search = made
    null = random_bank(search.bank, [one.space for one in grounds], 22, 7)
    batch = prompt_batch(config, llama)
    found = decodings(llama, batch, greedy(llama, batch), {"learned": search.bank, "null": null}, [], 2, config, lambda _: None)
    begins = {"learned": search.bank.perturbations.begins, "null": null.perturbations.begins}
    assert {one.bank for one in found} == {"learned", "null"}
    for one in found:
        assert min(block for block, _ in one.lens) == begins[one.bank][one.vector]
    assert {null.way_of(one.vector) for one in found if one.bank == "null"} == {0, 1, 2}, "random ones of every way"


def test_the_null_has_of_every_way_its_share_at_its_radius(made):
    grounds, search = made
    spaces = [one.space for one in grounds]
    null = random_bank(search.bank, spaces, 44, 7)
    assert [len(way) for way in null.ways] == [20, 12, 12] and null.objective.isnan().all()
    assert [way.radius for way in null.ways] == [way.radius for way in search.bank.ways]
    assert len({round(way.relative_radius, 3) for way in null.ways}) == 3, "each was calibrated by itself"
    torch.testing.assert_close(null.ways[1].vectors.norm(dim=1), torch.full((12,), search.bank.ways[1].radius))
    assert [len(way) for way in random_bank(search.bank, spaces, 1, 7).ways] == [1, 1, 1], "rounded up"
    alone = random_bank(search.bank.ways[0], spaces[:1], 20, 7)
    assert same(alone.perturbations, null.ways[0].perturbations)


def test_the_map_reads_every_way_at_one_place(made, config: Config, llama: LoadedModel):
    grounds, search = made
    batch = prompt_batch(config, llama)
    views = [
        (whole_reader(one.part, one.reply_tokens), chunks(one.part, None))
        for one in sighted(grounds, llama, batch, greedy(llama, batch))
    ]
    assert {(reader.start, reader.end, reader.size) for reader, _ in views} == {
        (views[0][0].start, views[0][0].end, views[0][0].size)
    }
    assert all(len(reader.slice.target) == len(PROMPTS) for reader, _ in views)
    null = random_bank(search.bank, [one.space for one in grounds], 22, 7)
    found = effect_map(views, (search.bank, null), [], [Mode("a", "coherent", (), (), (), None)], None, lambda _: None)
    assert [(spot.bank, spot.vector) for spot in found.spots] == [
        *(("learned", row) for row in range(11)),
        *(("null", row) for row in range(22)),
    ]
    # A way that is read where all are, by the slice of its own, is read right.
    for (reader, _), way in zip(views, search.bank.ways, strict=True):
        rows = joined(search.bank.ways[0].perturbations, way.perturbations).rows(slice(5, None))
        assert len(rows) == len(way)
        torch.testing.assert_close(reader.mean_effects(way.perturbations).norm(dim=1) > 0, torch.ones(len(way), dtype=torch.bool))
    one = [ground for ground in grounds if not ground.search.learned_from]
    assert sighted(one, llama, batch, 64) == one, "one way from every prompt is read where it was learned"


def test_what_is_told_of_vectors_is_told_of_those_of_a_mixture(made, config: Config, llama: LoadedModel):
    bank, batch = made[1].bank, prompt_batch(config, llama)
    seen = sight(llama, batch, greedy(llama, batch), bank.target_layer)
    told = glances(seen, "learned", bank, (), 64, lambda _: None)
    assert [one.presence is not None for one in told] == [False] * 5 + [True] * 3 + [False] * 3
    (vectors,) = [way for way in bank.ways if way.origin["perturbation"] == "vector"]
    alone = glances(seen, "learned", vectors, (), 64, lambda _: None)
    assert [one.presence for one in told[5:8]] == [one.presence for one in alone]
    words = nearest(llama, bank.subset(range(11)))
    assert words[5:8] == nearest(llama, vectors) and all(words[5:8]) and not any([*words[:5], *words[8:]])


RUN = (
    "search.vectors=10",
    "search.rounds=1",
    "search.relative_radius=1",
    "search.mixture=[{perturbation: factor, band: 2, vectors: 6, learned_from: [0]}, {layers: middle, learned_from: [1]}]",
    "audit.null_vectors=20",
    "audit.forced_tokens=4",
    "speech.tokens=12",
    "prompts.neutral=0",
    "audit.samples=4",
    'prompts.texts=["Count the boats.","You are"]',
)


def test_a_run_of_a_mixture_tells_of_every_way(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["discover"])
    folder = tmp_path / "run"
    words = [f"model.path={checkpoint('llama')}", *RUN, "tracking.mode=disabled"]
    main([*words, f"folder={folder}"])
    terminal, markdown, page = capsys.readouterr().out, (folder / "report.md").read_text(), (folder / "report.html").read_text()
    assert "10 perturbations, learned in 2 ways from 2 prompts" in terminal
    first = "0 to 5: 6 factors of norm"
    second = "after block 1, read after block 2, half of them up to 4 tokens into the reply, learned from prompt 1"
    for text in (terminal, markdown, page.replace("&#39;", "'")):
        assert first in text and "on the attention output of blocks 0 to 1" in text
        assert "6 to 9: 4 vectors of norm" in text and second in text
    assert [row["way"] for row in read_json_lines(folder / "metrics.jsonl")] == [0, 1]
    assert read_json(folder / "run.json")["layers"] == [0, 2]
    assert [len(way) for way in VectorBank.load(folder / "null.safetensors").ways] == [12, 8]
    record = saved_record(folder)
    assert {said.vector for said in record.completions if said.bank == "learned"} == set(range(10))
    before = {
        path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".html", ".md")
    }
    for name in ("map.json", "report.html", "report.md", "bank.safetensors"):
        (folder / name).unlink()
    main(["resume", str(folder)])
    after_it = {name: (folder / name).read_bytes() for name in before}
    assert {name for name in before if before[name] != after_it[name]} <= {"run.json", "status.json"}
