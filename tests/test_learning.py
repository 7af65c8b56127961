"""A search ends in a bank that says what it is, refuses what cannot be, and holds what its options promise."""

from dataclasses import replace

import pytest
import torch
from conftest import WIDTH
from toys import KINDS, kind, last_positions, part_and_space, reading, slice_between

from discover.bank import VectorBank
from discover.choices import Diversity, Kind, Projection, Prompts, Similarity, Solver, Target
from discover.config import SearchConfig
from discover.errors import UsageError
from discover.perturb.sphere import unit
from discover.search.effects import mean_norm, melbo, norm_sum
from discover.search.learning import chosen_layers, gradients_of, learn

QUICK = {"vectors": 4, "relative_radius": 0.8, "rounds": 2, "steps": 2, "reply_positions": 0}


@pytest.fixture(scope="module")
def part(llama, batch):
    return slice_between(llama, batch, 1, 3)


def learned(config, part, space, seed=7, told=None):
    return learn(config, part, space, 0, (1, 3), seed, {"model": "tiny"}, (lambda _: None) if told is None else told)


def vectors(part):
    return reading(last_positions(part, 1, True), 1.0).space


@pytest.mark.parametrize("solver", [Solver.fixed_point, Solver.ascent])
def test_more_orthogonal_vectors_than_dimensions_are_refused(part, solver):
    config = SearchConfig(solver=solver, diversity=Diversity.orthogonal, vectors=WIDTH + 1, radius=1.0, rounds=1, steps=1)
    with pytest.raises(UsageError, match=f"search.vectors={WIDTH + 1} orthogonal directions do not exist .* width {WIDTH}"):
        learned(config, part, vectors(part))


@pytest.mark.parametrize("solver", list(Solver))
def test_learning_returns_a_bank_that_says_what_it_is(part, solver):
    told = []
    config = SearchConfig(solver=solver, vectors=6, relative_radius=0.8, rounds=4, steps=4)
    search = learned(config, part, vectors(part), told=told.append)
    bank = search.bank
    assert len(bank) == 6 and bank.vectors.dtype == torch.float32
    torch.testing.assert_close(bank.vectors.norm(dim=1), torch.full((6,), bank.radius))
    assert bank.relative_radius == pytest.approx(0.8) and bank.radius == pytest.approx(0.8 * part.residual_norm)
    assert (bank.source_layer, bank.target_layer) == (1, 3)
    assert bank.origin == {
        "model": "tiny",
        "perturbation": "vector",
        "solver": solver.value,
        "rounds": config.chosen_rounds,
        "target": "residual",
        "seed": 7,
        "learned_from": [],
        "span": [],
        "reply_tokens": 0,
    }
    assert len(search.curve) == (0 if solver is Solver.random else 4)
    assert sum(told) == gradients_of(config)
    again = learned(config, part, vectors(part))
    assert torch.equal(bank.vectors, again.bank.vectors)
    assert not torch.equal(bank.vectors, learned(config, part, vectors(part), seed=8).bank.vectors)


@pytest.mark.parametrize(
    "solver,diversity,passes",
    [
        (Solver.fixed_point, Diversity.none, 2),
        (Solver.fixed_point, Diversity.deflation, 2),
        (Solver.fixed_point, Diversity.sequential, 2),
        (Solver.ascent, Diversity.sequential, 3),
        (Solver.cpe, Diversity.soft, 3),
        (Solver.power, Diversity.none, 1),
        (Solver.random, Diversity.none, 0),
    ],
)
def test_the_progress_bar_is_told_of_every_piece(part, solver, diversity, passes):
    config = SearchConfig(**{**QUICK, "steps": 3}, solver=solver, diversity=diversity, chunk=3)
    told = []
    learned(config, part, vectors(part), told=told.append)
    assert sum(told) == gradients_of(config) == passes * config.vectors
    assert not told or max(told) <= 3, "a bar that waited for a round would stand still"


@pytest.mark.parametrize("solver", [Solver.fixed_point, Solver.ascent, Solver.cpe])
@pytest.mark.parametrize("name", KINDS)
def test_a_bank_of_every_kind_holds_what_was_learned(llama, batch, name, solver, tmp_path):
    """The objective that a bank states is that of the perturbations it holds, also after it was saved and read."""
    config = kind(name, **QUICK, solver=solver)
    part, space = part_and_space(llama, batch, config, 1, 3)
    bank = learned(config, part, space).bank
    bank.save(tmp_path / "bank.safetensors")
    held = VectorBank.load(tmp_path)
    reader = last_positions(part, 1, True)
    objective = melbo(reader, 2.0, 1.0) if solver is Solver.ascent else mean_norm(reader)
    with torch.no_grad():
        torch.testing.assert_close(objective(held.perturbations), bank.objective, rtol=1e-4, atol=0)
        nothing = learned(replace(config, solver=Solver.random), part, space).bank
        if solver is not Solver.cpe:  # Which need not climb in every round: its effects and directions are a round apart.
            assert objective(held.perturbations).mean() > objective(nothing.perturbations).mean(), "better than the start"
    assert held.origin["perturbation"] == config.perturbation.value and len(held) == 4
    if "rank" in name or "factor" in name:
        with pytest.raises(UsageError, match=f"kind {config.perturbation.value}, not vectors"):
            _ = held.vectors
    else:
        torch.testing.assert_close(held.vectors.norm(dim=1), torch.full((4,), held.radius))


@pytest.mark.parametrize("name", ["vector", "head", "adapter of rank 3", "factor on attention"])
def test_both_signs_are_twice_as_many_with_objectives_of_their_own(llama, batch, name):
    config = kind(name, **QUICK, both_signs=True)
    part, space = part_and_space(llama, batch, config, 1, 3)
    bank, single = learned(config, part, space).bank, learned(replace(config, both_signs=False), part, space).bank
    assert len(bank) == 8 == len(bank.objective)
    first, second = bank.perturbations.rows(slice(0, 4)), bank.perturbations.rows(slice(4, 8))
    for one, other, alone in zip(first.changes, second.changes, single.perturbations.changes, strict=True):
        assert torch.equal(one.bias, alone.bias) and torch.equal(one.up, alone.up) and torch.equal(one.down, alone.down)
        assert torch.equal(other.bias, -one.bias) and torch.equal(other.up @ other.down, -(one.up @ one.down))
        assert (one.bias.abs().sum() + one.up.abs().sum()) > 0
    with torch.no_grad():
        expected = mean_norm(last_positions(part, 1, True))(bank.perturbations)
    torch.testing.assert_close(bank.objective, expected, rtol=1e-4, atol=0)
    assert ((bank.objective[4:] - bank.objective[:4]).abs() > 1e-3 * bank.objective[:4]).all(), "an opposite has its own"


def test_the_sum_over_prompts_is_another_aim_than_their_mean(part):
    mean, total = (
        learned(SearchConfig(**QUICK, prompts=prompts), part, vectors(part)).bank for prompts in (Prompts.mean, Prompts.sum)
    )
    with torch.no_grad():
        expected = norm_sum(last_positions(part, 1, True))(total.perturbations)
    torch.testing.assert_close(total.objective, expected, rtol=1e-4, atol=0)
    assert (unit(mean.vectors) * unit(total.vectors)).sum(dim=1).max() < 0.999


def test_a_span_is_what_is_read(part):
    bank = learned(SearchConfig(**QUICK, span=[-3, -2], normalised=False), part, vectors(part)).bank
    tokens = part.target.shape[1]
    with torch.no_grad():
        effects = part.steered(bank.perturbations, 0, tokens) - part.target
    assert part.mask[:, -3:].all(), "both prompts are long enough"
    read = effects[:, :, -3:-1].mean(dim=1).flatten(1).norm(dim=1)
    torch.testing.assert_close(bank.objective, read, rtol=1e-4, atol=0)


def test_layers_stand_at_an_eighth_and_a_half_unless_given():
    assert chosen_layers(SearchConfig(), 8, None) == (1, 4)
    assert chosen_layers(SearchConfig(), 32, None) == (4, 16)
    assert chosen_layers(SearchConfig(), 2, None) == (0, 1)
    assert chosen_layers(SearchConfig(source_layer=0, target_layer=1), 8, None) == (0, 1)
    assert chosen_layers(SearchConfig(source_layer=5), 8, None) == (5, 6)
    assert chosen_layers(kind("factor on mlp", source_layer=5, band=2), 8, None) == (5, 7), "after the last block of the band"


@pytest.mark.parametrize(
    "options,told",
    [
        ({"solver": Solver.ascent, "diversity": Diversity.deflation},
         r"search\.diversity=deflation does not go with search\.solver=ascent; use none, orthogonal, sequential\."),
        ({"solver": Solver.power, "diversity": Diversity.soft},
         r"search\.diversity=soft does not go with search\.solver=power; use none\."),
        ({"solver": Solver.cpe, "diversity": Diversity.orthogonal},
         r"search\.diversity=orthogonal does not go with search\.solver=cpe; use none, soft\."),
        ({"perturbation": Kind.adapter, "diversity": Diversity.orthogonal},
         r"search\.diversity=orthogonal means nothing for search\.perturbation=adapter, .*; use none, soft or deflation\."),
        ({"perturbation": Kind.factor, "diversity": Diversity.sequential},
         r"search\.diversity=sequential means nothing for search\.perturbation=factor"),
        ({"perturbation": Kind.adapter, "solver": Solver.power},
         r"search\.perturbation=adapter has not; use vector or bias, or another solver\."),
        ({"perturbation": Kind.head, "solver": Solver.power}, r"search\.perturbation=head has not"),
        ({"span": [-3]}, r"search\.span=\[-3\] must be a first and a last position"),
        ({"span": [-2, -3]}, r"search\.span=\[-2, -3\] must be a first"),
        ({"span": [-2, 4]}, r"search\.span=\[-2, 4\] must .* end before search\.reply_positions=4"),
        ({"span": [-3, -2, -1]}, r"search\.span=\[-3, -2, -1\] must be a first"),
        ({"settled": -0.1}, r"search\.settled=-0\.1 must be 0 or more"),
        ({"settled": float("nan")}, r"search\.settled=nan must be 0 or more"),
        ({"rank": 0}, r"search\.rank=0 must be a finite number above 0"),
        ({"band": 0}, r"search\.band=0 must be"),
        ({"temperature": 0.0}, r"search\.temperature=0\.0 must be"),
        ({"perturbation": Kind.head, "diversity": Diversity.orthogonal}, r"means nothing for search\.perturbation=head"),
        ({"solver": Solver.cpe, "settled": 0.1}, r"search\.settled has no meaning for search\.solver=cpe"),
        ({"learning_rate": 0.1}, r"search\.learning_rate has no meaning for search\.solver=fixed_point"),
        ({"solver": Solver.ascent, "prompts": Prompts.sum}, r"search\.prompts has no meaning for search\.solver=ascent"),
        ({"diversity": Diversity.deflation, "prompts": Prompts.sum}, r"with search\.diversity=deflation; leave it out"),
        ({"rank": 3}, r"search\.rank has no meaning for search\.perturbation=vector; leave it out, or use .*=adapter\."),
        ({"perturbation": Kind.factor, "rank": 1}, r"search\.rank has no meaning for search\.perturbation=factor"),
        ({"perturbation": Kind.adapter, "band": 2}, r"search\.band has no meaning for search\.perturbation=adapter; .*=factor\."),
        ({"projection": Projection.mlp}, r"search\.projection has no meaning for search\.perturbation=vector"),
        ({"perturbation": Kind.head, "weighed": True}, r"search\.weighed has no meaning for .*=head; .*adapter or factor\."),
        ({"temperature": 1.0}, r"search\.temperature has no meaning for search\.diversity=none; leave it out, or use .*=soft\."),
        ({"diversity": Diversity.deflation, "similarity": Similarity.parts}, r"search\.similarity has no meaning"),
        ({"span": [-3, -2], "positions": 2}, r"search\.positions has no meaning for search\.span=\[-3, -2\], .* no span\."),
        ({"rounds": 0}, r"search\.rounds=0 must be a finite number above 0 or null"),
        ({"learning_rate": 0.0}, r"search\.learning_rate=0\.0 must be a finite number above 0 or null"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(options, told):
    with pytest.raises(UsageError, match=told):
        SearchConfig(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"perturbation": Kind.factor, "solver": Solver.cpe, "diversity": Diversity.soft},
        {"perturbation": Kind.head, "diversity": Diversity.deflation},
        {"perturbation": Kind.bias, "solver": Solver.power},
        {"perturbation": Kind.factor, "band": 2, "projection": Projection.mlp, "weighed": True},
        {"perturbation": Kind.adapter, "rank": 2, "weighed": True},
        {"diversity": Diversity.soft, "temperature": 1.0, "similarity": Similarity.weights},
        {"positions": 3},
        {"span": [-2, -2]},
        {"settled": 0.0},
    ],
)
def test_their_neighbours_are_taken(options):
    assert all(getattr(SearchConfig(**options), name) == value for name, value in options.items())


def test_logits_are_read_after_the_last_block():
    assert chosen_layers(SearchConfig(target=Target.logits), 8, None) == (1, 7)
    assert chosen_layers(SearchConfig(target=Target.logits, target_layer=5), 8, None) == (1, 5), "refused by the slice"


def test_every_solver_has_rounds_of_its_own_unless_given():
    assert [SearchConfig(solver=solver).chosen_rounds for solver in Solver] == [2, 0, 15, 10, 0]
    assert SearchConfig(solver=Solver.power, rounds=3).chosen_rounds == 3
