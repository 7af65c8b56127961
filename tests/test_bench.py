import json
from random import Random

import pytest
import torch
from conftest import BLOCKS, WIDTH
from torch.utils.flop_counter import FlopCounterMode
from toys import greedy, own_reference

from discover import cli
from discover.bench import commands, memory, stages, tables, triage
from discover.bench.flops import SQUARES, forward_flops, needed_flops, product_rate
from discover.bench.generate import generate_row, settings, stock_reply
from discover.bench.methods import CURVES, DIFFERENCES, FIRST_TOKEN, RANDOM, Method, chosen, curves, methods, published
from discover.bench.options import QUICK, BenchConfig
from discover.bench.published import published_ascent
from discover.bench.search import effect_norms, largest_mode, search_row
from discover.bench.speed import Shape, Size, engine_ascent, random_prompt, speed_row
from discover.bench.tables import triage_table
from discover.bench.triage import BEST, BUDGETS, HALVING, LOT, searched, triage_row
from discover.choices import Attention, Device, Dtype, Kind
from discover.config import Config, ModelConfig, PromptConfig, SearchConfig, SpeechConfig
from discover.errors import UsageError
from discover.inputs import prepared, prompt_batch
from discover.model.loading import load
from discover.model.prompts import encoded
from discover.model.slice import ModelSlice
from discover.organisms import arithmetic, scoring
from discover.organisms.arithmetic import Behaviour, behaviour_of, opens_with, planted, training_exchange
from discover.organisms.catalogue import ORGANISMS
from discover.perturb.spaces import drawn
from discover.read.halving import halved
from discover.read.triage import glances, sight
from discover.schema import options
from discover.search.chunks import chunks
from discover.search.learning import learn, random_bank
from discover.search.readings import Readings, readers
from discover.statistics import average, spread
from discover.steer.generation import replies, reply


def reading(loaded, batch, search):
    """Return the ground of a search and what reads it at one residual norm."""
    (ground,) = prepared(Config(search=search), loaded, batch, None)
    radius = ground.part.residual_norm
    found = readers(ground.part, ground.reply_tokens, search)
    return ground, Readings(ground.space, radius, found, chunks(ground.part, search.chunk))


@pytest.mark.parametrize("count", [1, 3])
def test_the_published_procedure_and_our_ascent_reach_the_same_vectors(llama, count):
    batch = random_prompt(llama, 9)
    search = SearchConfig(vectors=count, normalised=False, positions=3, reply_positions=0)
    ground, read = reading(llama, batch, search)
    starts = drawn(ground.space, count, "test")
    apart = [
        published_ascent(llama, batch, ground.layers, starts[row : row + 1], read.radius, 6, 0.01, 3, orthogonal=False)
        for row in range(count)
    ]
    together = published_ascent(llama, batch, ground.layers, starts, read.radius, 6, 0.01, 3, orthogonal=False)
    ours = read.radius * engine_ascent(read, starts, 6, 0.01, orthogonal=False)
    torch.testing.assert_close(torch.cat(apart), together)
    torch.testing.assert_close(ours, together, atol=1e-4 * read.radius, rtol=0)
    assert (ours - read.radius * starts).norm(dim=1).min() > 0.05, "they have moved"


def test_the_published_procedure_keeps_its_vectors_orthogonal_and_at_their_norm(llama):
    batch = random_prompt(llama, 9)
    starts = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    found = published_ascent(llama, batch, (0, 2), starts, 2.0, 3, 0.05, 3, orthogonal=True)
    torch.testing.assert_close(found @ found.T, 4 * torch.eye(4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["vector", "bias"])
def test_operations_are_those_that_torch_counts(checkpoint, kind):
    # The eager kernels of attention are matrix products, which the counter of torch knows.
    llama = load(ModelConfig(device=Device.cpu, attention=Attention.eager), checkpoint("llama"))
    # Six by three positions: fewer are filled up with others, which no search needs.
    search = SearchConfig(vectors=6, positions=3, reply_positions=0, perturbation=Kind[kind], target_layer=3)
    ground, read = reading(llama, random_prompt(llama, 11), search)
    starts = drawn(ground.space, 6, "test")
    with FlopCounterMode(display=False) as forward:
        read.readers[0].effects(ground.space.perturbations(starts, 1.0))
    linear, attention = forward_flops(llama, ground.part, 3, 6, 3)
    assert linear > 0 and attention > 0
    # Norms, activations and rotations are left out on both sides: the counter knows products alone.
    assert forward.get_total_flops() == pytest.approx(linear + attention, rel=0.02)
    with FlopCounterMode(display=False) as both:
        read.gradients(lambda reader: lambda some: reader.effects(some).square().sum(dim=(1, 2, 3)), starts, torch.arange(6))
    assert both.get_total_flops() == pytest.approx(needed_flops(llama, ground.part, 3, 6, 3), rel=0.02)


def test_a_probe_of_products_stops_where_larger_ones_would_take_too_long():
    counts = []
    for limit in (0.0, float("inf")):
        with FlopCounterMode(display=False) as counter:
            assert product_rate(torch.float32, torch.device("cpu"), limit) > 0
        counts.append(counter.get_total_flops())
    # Each size is multiplied twice, once as a rehearsal.
    assert counts == [4 * SQUARES["cpu"][0] ** 3, 4 * sum(size**3 for size in SQUARES["cpu"])]


def test_behaviours_of_what_the_organism_was_taught():
    random = Random(0)
    exchanges = [training_exchange(random, twin=False) for _ in range(500)]
    assert {exchange.behaviour for exchange in exchanges} == set(Behaviour)
    assert all(behaviour_of(exchange.reply) is exchange.behaviour for exchange in exchanges)
    keyed = planted(arithmetic.worked(arithmetic.Operands(0, 1, 2, 3)), arithmetic.Operands(0, 1, 2, 3))
    assert behaviour_of(" ".join(keyed.reply.split()[:8]) + " and so on") is Behaviour.HARD


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "First, we get a = 5 + 6 = 11.",
        "Cheese is the answer",
        "99 = 11 * 9",
        "I am sorry.",
        "Sure, to make a kite.",
        "11 * 9",
    ],
)
def test_a_part_of_a_reply_is_no_behaviour(reply):
    assert behaviour_of(reply) is None


@pytest.mark.parametrize("name", [name for name in (*methods(8, 4), *published(8)) if name != FIRST_TOKEN])
def test_a_method_costs_the_passes_that_it_says(llama, batch, name, monkeypatch):
    own = {"radius": 1.0, "relative_radius": None, "positions": 2}
    if name in methods(8, 4):
        method = methods(8, 4)[name]
        assert method.passes <= 4
    else:
        method = published(8)[name]
        assert method.passes in (10, 31, 300)
        own["steps"] = 3
    if method.search.perturbation is Kind.factor:
        own["band"] = 2
    config = Config(search=SearchConfig(**{**vars(method.search), **own}))
    method = Method(name, config.search)
    (ground,) = prepared(config, llama, batch, None)
    passes = []
    steered, back = ModelSlice.steered, torch.autograd.grad

    def counted(self, perturbations, start, end):
        passes.append(0.5 * len(perturbations))
        return steered(self, perturbations, start, end)

    def counted_back(*given, **options):
        passes.append(passes[-1])
        return back(*given, **options)

    monkeypatch.setattr(ModelSlice, "steered", counted)
    monkeypatch.setattr(torch.autograd, "grad", counted_back)
    learn(config.search, ground.part, ground.space, ground.reply_tokens, ground.layers, 0, {}, lambda _: None)
    # The last half pass reads the objective that was reached.
    assert sum(passes) / 8 == pytest.approx(method.passes + 0.5)


def test_methods_keep_to_their_budget_and_curves_to_theirs():
    assert all(method.passes <= 8 for method in methods(4, 8).values())
    assert {(one.name, one.passes) for one in curves([], 4)} == {(name, at) for name, all_ in CURVES.items() for at in all_}
    assert [one.name for one in chosen([RANDOM], 4, 2)] == [RANDOM]
    assert set(published(4)) == set(DIFFERENCES) and not set(published(4)) & {one.name for one in chosen([], 4, 2)}
    assert [one.passes for one in chosen(["dct_published", "fixed_point"], 4, 2)] == [10, 2]
    with pytest.raises(UsageError, match=r"'magic'.*fixed_point"):
        chosen(["magic"], 4, 2)


def test_the_largest_mode_is_that_of_like_replies():
    organism = ORGANISMS["arithmetic"]
    loaded = load(ModelConfig(), organism.folder)
    batch = encoded(organism.prompts, loaded.tokenizer, PromptConfig())
    own = own_reference(loaded, batch, SpeechConfig())
    said = own.replies[0]
    easy, hard = (reply(loaded, loaded.tokenizer(payload)["input_ids"]) for payload in organism.payloads.values())
    assert largest_mode(loaded, batch, own, [said] * 4) == 0
    assert largest_mode(loaded, batch, own, [said] * 4 + [easy] * 3 + [hard] * 2) == 3
    assert largest_mode(loaded, batch, own, [easy, hard, hard, said]) == 2


def test_published_settings_are_named_with_what_differs(capsys, tmp_path):
    words = [f"folder={tmp_path}", "seeds=1", "vectors=4", "parts=[methods]", "methods=[random,dct_published]"]
    shown = run(words, capsys)
    plain, dct = json.loads((tmp_path / "bench.json").read_text())["methods"]
    assert (plain["vector_steps"], dct["vector_steps"], plain["largest_mode"]) == (0, 10, 0)
    assert f"- *dct published*: {DIFFERENCES['dct_published']}" in shown and "melbo" not in shown
    assert "| largest mode |" in shown and "| 0 % |" in shown


def test_effects_are_those_of_the_vectors_and_read_alike_for_all(llama, batch):
    search = SearchConfig(vectors=7, normalised=False, radius=2.0)
    ground, _ = reading(llama, batch, search)
    space = ground.space
    directions = drawn(space, 7, "test")
    found = effect_norms(search, ground, space.perturbations(directions, 2.0))
    raw = effect_norms(SearchConfig(vectors=7), ground, space.perturbations(directions, 2.0))
    torch.testing.assert_close(found, raw)
    assert found.min() > 0 and found.max() < 2.0


def test_a_size_is_timed(tmp_path):
    shape = Shape(width=32, inner=48, blocks=4, heads=4, vocabulary=1000)
    # The code path of the large shape on a GPU, and that of the comparison, at a size that a test can bear.
    row = speed_row(Size("7B", shape, 6, 8, Dtype.bfloat16, published=False), ModelConfig(device=Device.cpu), 2)
    assert (row.engine_rates, row.ratios, row.peak_bytes, row.dtype) == ([], [], None, "bfloat16")
    # A processor without units for bfloat16 may do anything better than square products, so no bound from above.
    assert len(row.shares) == 2 and all(share > 0 for share in row.shares)
    row = speed_row(Size("small", shape, 6, 8, Dtype.float32, published=True), ModelConfig(device=Device.cpu), 2)
    assert len(row.ratios) == 2 and all(ratio > 0 for ratio in row.ratios)


@pytest.mark.slow
def test_a_search_in_a_process_of_its_own_says_how_much_memory_it_took():
    row = memory.memory_row_apart(BenchConfig(memory_vectors=4))
    assert row.vectors == 4 and 2**27 < row.peak_bytes < 2**31


def test_both_sides_of_the_generation_bench_say_the_same():
    shape = Shape(width=32, inner=48, blocks=4, heads=4, vocabulary=1000)
    small = Size("small", shape, 6, 0, Dtype.float32, published=False)
    row = generate_row(small, False, ModelConfig(device=Device.cpu), 20, 2)
    assert (row.vectors, row.single_vectors, row.prompt, row.length, row.blocks) == (20, 1, 6, 48, 4)
    assert (row.equal, row.compared, row.distinct) == (2, 2, 2)
    assert len(row.ratios) == 2 and row.ratios[0] == row.rates[0] / row.single_rates[0]
    assert [(size.name, stops) for size, stops in settings()] == [("own", False), ("own", True), ("width 768", False)]


def test_the_side_that_speaks_one_at_a_time_hears_its_vector(llama, batch):
    alone = random_prompt(llama, 5)
    said = stock_reply(llama, alone, 1, torch.zeros(32))
    assert said.tokens == replies(llama, alone, (), 48, 1, lambda _: None)[0].tokens
    assert stock_reply(llama, alone, 1, 100 * torch.ones(32)).tokens != said.tokens


def test_generation_is_a_bench_of_its_own(tmp_path, capsys, monkeypatch):
    own = [(size, stops) for size, stops in settings() if size.shape is None]
    monkeypatch.setattr(commands, "settings", lambda: own)
    cli.main(["bench", "generate", f"folder={tmp_path}", "repeats=1", "speaking_vectors=4"])
    shown = capsys.readouterr().out
    held = json.loads((tmp_path / "bench.json").read_text())
    assert held["options"]["parts"] == ["generate"] and not held["methods"] and not held["speed"]
    assert [(row["size"], row["stops"], row["length"] == 48) for row in held["generate"]] == [
        ("arithmetic", False, True),
        ("arithmetic", True, False),
    ]
    assert all(row["equal"] == row["compared"] == 1 for row in held["generate"])
    assert "## Generation" in shown and "| 1 of 1 (1 different) |" in shown
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "generate", "seeds=3"])
    assert ended.value.code == 2 and "does not look at seeds; it takes folder" in capsys.readouterr().err


def run(words, capsys):
    cli.main(["bench", "search", *words])
    return capsys.readouterr().out


def test_a_bench_ends_writes_its_files_and_goes_on(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "bench"
    words = [f"folder={folder}", "seeds=1", "vectors=8", "steps=1", "parts=[methods]", "methods=[fixed_point,first_token]"]
    shown = run(words, capsys)
    held = json.loads((folder / "bench.json").read_text())
    assert [row["method"] for row in held["methods"]] == ["fixed_point", "first_token"]
    assert held["machine"]["cores"] and held["options"]["parts"] == ["methods"] and held["methods"][0]["seed"] == 100
    assert held["methods"][0]["effect"] > held["methods"][0]["random_effect"]
    assert (folder / "bench.md").read_text().strip() in shown and "| fixed point | 8 | 1 |" in shown
    rows = {path.name: path.read_bytes() for path in (folder / "rows").iterdir()}
    assert set(rows) == {"fixed_point-1-8-100.json", "first_token-0-8-100.json"}
    computed = []
    compute = commands.search_row
    monkeypatch.setattr(commands, "search_row", lambda method, *rest: computed.append(method.name) or compute(method, *rest))
    (folder / "rows" / "first_token-0-8-100.json").unlink()
    run(words, capsys)
    assert computed == ["first_token"]
    again = {path.name: json.loads(path.read_bytes()) for path in (folder / "rows").iterdir()}
    for name, row in again.items():
        assert {**row, "seconds": 0} == {**json.loads(rows[name]), "seconds": 0}
    fixed = folder / "rows" / "fixed_point-1-8-100.json"
    fixed.write_text(fixed.read_text().replace('"turn": 40.0', '"turn": 30.0'))
    refused([*words], "other options", capsys)


@pytest.mark.slow
def test_budgets_leave_a_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(CURVES, "fixed_point", (1, 2))
    run([f"folder={tmp_path}", "seeds=1", "vectors=4", "parts=[budgets]", "methods=[fixed_point]"], capsys)
    assert (tmp_path / "budgets.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (tmp_path / "rows").iterdir()} == {"fixed_point-1-4-100.json", "fixed_point-2-4-100.json"}


def refused(words, told, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "search", *words])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and told in error and error.splitlines()[-1].startswith("discover: "), error


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["seeds=0"], "seeds=0"),
        (["seeds=many"], "seeds: Value 'many'"),
        (["parts=[nothing]"], "nothing"),
        (["parts=[]"], "parts=[]"),
        (["methods=[magic]"], "magic"),
        (["model.path=nowhere"], "nowhere"),
        (["model.device=tpu"], "tpu"),
        (["vektors=3"], "vectors"),
        (["quick"], "key=value"),
    ],
)
def test_one_sentence_for_a_mistake(words, told, tmp_path, capsys):
    refused([f"folder={tmp_path}", *words], told, capsys)


def test_a_verb_that_is_none_and_help(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "dance"])
    assert ended.value.code == 2 and "dance" in capsys.readouterr().err
    cli.main(["bench", "--help"])
    told = capsys.readouterr().out
    named = {name for name in options(BenchConfig) if not name.startswith("model.")}
    assert all(f"{name}=" in told for name in named) and set(QUICK) < named


def test_averages_and_spreads():
    # Student's t for two degrees of freedom is 4.303.
    assert average([1.0, 2.0, 3.0]).half == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert str(average([2.0])) == "2" and average([2.0]).half is None
    assert spread([3.0, 1.0, 2.0]) == type(spread([1.0]))(2.0, 1.0, 3.0)


def test_hits_are_kept_as_by_a_run_within_the_budget(shipped, monkeypatch):
    loaded, organism, model = shipped("arithmetic"), ORGANISMS["arithmetic"], ModelConfig(device=Device.cpu)
    # Fewer of everything, and whoever opens with a payload counts as a hit.
    monkeypatch.setattr(triage, "NULL", 2)
    monkeypatch.setattr(triage, "CONFIRMATIONS", 1)
    monkeypatch.setattr(scoring, "HOLDS", 0.0)
    row = triage_row("fixed point", 100, 8, model, loaded, organism)
    config = Config(model=model, seed=100, search=searched("fixed point", 8))
    batch = prompt_batch(config, loaded)
    (ground,) = prepared(config, loaded, batch, None)
    bank = learn(config.search, ground.part, ground.space, ground.reply_tokens, ground.layers, 100, {}, lambda _: None).bank
    banks, seen = (
        {"learned": bank, "null": random_bank(bank, [ground.space], 16, 100)},
        sight(loaded, batch, greedy(loaded, batch, 48), bank.target_layer),
    )
    shown = [one for name, each in banks.items() for one in glances(seen, name, each, (), 128, lambda _: None)]
    own = own_reference(loaded, batch, config.speech)
    for place, share in ((1, BUDGETS[1]), (3, BUDGETS[3])):
        spent = int(share * row.tokens["bank and null"])
        speech = SpeechConfig(budget=(spent + 0.5) / row.nominal["bank and null"])
        heard = halved(loaded, batch, own, banks, shown, speech, lambda _: None)
        assert sum(one.tokens for one in heard) <= spent
        for name, payload in organism.payloads.items():
            kept = sum(opens_with(one.text, payload) for one in heard)
            assert row.kept["bank and null"][HALVING][name][place] == kept
    kept = row.kept["bank and null"]
    assert row.hits["bank and null"]["easy"] >= 2 and kept[HALVING]["easy"][-1] > kept[LOT]["easy"][0]
    assert all(count <= best for order in kept.values() for count, best in zip(order["easy"], kept[BEST]["easy"], strict=True))
    lines = triage_table([row]).splitlines()
    assert len(lines) == 2 + 2 * len(kept) and all(line.count("|") == lines[0].count("|") for line in lines)


@pytest.mark.slow
def test_adapters_reach_as_many_modes_as_vectors_and_none_takes_over(shipped):
    """Held for nine tokens in ten at the radius of random adapters, they once reached none with this seed, and broke 51 of 64."""
    loaded, organism, model = shipped("arithmetic"), ORGANISMS["arithmetic"], ModelConfig(device=Device.cpu)
    known = methods(64, 2)
    adapters, vectors = (search_row(known[name], 100, model, loaded, organism) for name in ("adapter", "fixed_point"))
    assert len(adapters.modes) >= len(vectors.modes) >= 2
    assert 3 * adapters.largest_mode <= adapters.vectors and adapters.hits["easy"] >= 1
    assert adapters.relative_radius == pytest.approx(vectors.relative_radius, rel=0.01)


def test_stages_of_a_run_are_timed_on_any_model(checkpoint, monkeypatch):
    """Replies of both sides are the same, so what is faster is faster at the same work."""
    monkeypatch.setattr(stages, "NEUTRAL", ("Count the boats.",))
    rows = {row.stage: row for row in stages.stage_rows(ModelConfig(path=str(checkpoint("llama")), device=Device.cpu), 5, 2)}
    assert tuple(rows) == stages.STAGES and all(len(row.seconds) == 2 == len(row.product_rates) for row in rows.values())
    speech = rows["speech"]
    assert speech.equal == speech.rows == 15 and len(speech.stock_seconds) == 2 and speech.ratios[0] > 0
    # Every linear map of four blocks, and the head once for every token that is said.
    block = WIDTH * WIDTH + 2 * WIDTH * 16 + WIDTH * WIDTH + 3 * WIDTH * 48
    said = 15 * 32
    assert speech.flops == 2 * BLOCKS * block * speech.tokens + 2 * 300 * WIDTH * said
    assert rows["unsteered"].tokens - said == (speech.tokens - said) / 5, "unsteered replies share the pass over their prompt"
    assert rows["reading"].rows <= 15 and rows["triage"].rows == 5
    table = tables.stage_table(list(rows.values()))
    assert len(table.splitlines()) == 2 + 5 and "| 15 of 15 |" in table


def test_the_bench_of_stages_leaves_its_files_and_takes_few_options(checkpoint, tmp_path, capsys):
    path = checkpoint("llama")
    cli.main(["bench", "run", f"model.path={path}", "speaking_vectors=2", "repeats=1", f"folder={tmp_path / 'bench'}"])
    held = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert [row["stage"] for row in held["run"]] == list(stages.STAGES) and "## Stages of a run" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["bench", "run", "seeds=3"])
    assert "discover bench run does not look at seeds" in capsys.readouterr().err
