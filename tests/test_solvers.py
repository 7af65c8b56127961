"""The solvers reach what mathematics says they reach, and pieces never change it."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import WIDTH
from toys import linear_slice, slice_through, with_singular_values

from discover.config import Diversity, SearchConfig, Solver
from discover.errors import UsageError
from discover.model.slice import model_slice
from discover.perturb.sphere import orthonormalised, random_directions, tangent, unit
from discover.search.chunks import Chunks, chunks
from discover.search.effects import EffectReader, mean_norm, melbo
from discover.search.learning import default_layers, learn
from discover.search.readings import Readings, readings
from discover.search.solvers import BETAS, ascent, deflated, fixed_point, group_means, starting_directions

VALUES = torch.tensor([4.0, 2.5, 1.5, 1.0, 0.5, 0.2])
RADIUS = 2.0
GENEROUS = Chunks(1000)
MELBO = partial(melbo, power=2.0, q=1.0)


def reading(reader, pieces=GENEROUS):
    """Every vector is read by one reader."""
    return Readings((reader,), pieces)


def silent(_number, _values):
    pass


@pytest.fixture
def linear():
    """A reader through a map with known singular vectors, and its right singular vectors as rows."""
    matrix, _, right = with_singular_values(VALUES)
    return EffectReader(linear_slice(matrix, rows=2, tokens=3), 1, False), right


@pytest.fixture(scope="module")
def curved(llama, batch):
    """A reader through the small Llama, and a radius of one residual norm."""
    part = model_slice(llama, batch, 1, 3)
    return EffectReader(part, 0, True), part.residual_norm


def cosines(first, second):
    return (unit(first) @ unit(second).T).abs()


def test_fixed_point_finds_the_top_right_singular_vector(linear):
    reader, right = linear
    start, told = starting_directions(5, 6, seed=0), []
    read = reading(reader)
    found = fixed_point(mean_norm, start, RADIUS, 40, False, read, lambda number, values: told.append((number, values)))
    assert cosines(start, right[:1]).max() < 0.95
    assert cosines(found, right[:1]).min() > 1 - 1e-5
    assert [number for number, _ in told] == list(range(40))
    torch.testing.assert_close(told[0][1], mean_norm(reader)(RADIUS * start))
    torch.testing.assert_close(told[-1][1], torch.full((5,), RADIUS * 4.0), rtol=1e-4, atol=0)


def test_fixed_point_with_orthogonality_finds_them_all_in_order(linear):
    reader, right = linear
    found = fixed_point(mean_norm, starting_directions(3, 6, 0), RADIUS, 60, True, reading(reader), silent)
    torch.testing.assert_close(cosines(found, right[:3]), torch.eye(3), atol=2e-3, rtol=0)


def test_deflation_finds_what_the_plain_search_does_not(linear):
    reader, right = linear
    start = starting_directions(4, 6, 0)
    plain = fixed_point(mean_norm, start, RADIUS, 40, False, reading(reader), silent)
    numbers = []
    found = deflated(start, RADIUS, 40, reading(reader), lambda number, _: numbers.append(number))
    assert cosines(plain, right[1:2]).max() < 1e-2
    torch.testing.assert_close(cosines(found, right[:4]), torch.eye(4), atol=1e-2, rtol=0)
    assert numbers == list(range(160)), "rounds are counted through all waves"


def test_deflation_reads_more_positions_than_there_are(linear):
    """Asking for 16 positions of a prompt of 3 once ended in a shape error."""
    reader, right = linear
    found = deflated(starting_directions(4, 6, 0), RADIUS, 40, reading(EffectReader(reader.slice, 16, False)), silent)
    assert cosines(found[1:2], right[1:2]) > 0.99


def test_effects_of_one_kind_are_claimed_once():
    effects = unit(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.9, 0.3, 0], [-1, 0, 0], [0, 0.8, 0.1]]))
    means = group_means(effects, 0.5)
    assert len(means) == 3, "an opposite effect is another one"
    torch.testing.assert_close(means[0], unit(effects[0] + effects[2]))
    torch.testing.assert_close(means[2], effects[3])


@pytest.mark.parametrize("orthogonal", [False, True])
def test_ascent_climbs_at_a_fixed_norm(curved, orthogonal):
    reader, radius = curved
    objective, seen = melbo(reader, 2.0, 1.0), []

    def watched(vectors):
        seen.append(vectors.detach().norm(dim=1) / radius - 1)
        return objective(vectors)

    start = orthonormalised(starting_directions(6, WIDTH, 0)) if orthogonal else starting_directions(6, WIDTH, 0)
    found = ascent(lambda _: watched, start, radius, 30, 0.05, orthogonal, reading(reader), silent)
    assert torch.stack(seen).abs().max() < 1e-6 and (found.norm(dim=1) - 1).abs().max() < 1e-6
    before, after = objective(radius * start), objective(radius * found)
    assert (after > before).all() and after.sum() > 1.3 * before.sum()
    assert torch.allclose(found @ found.T, torch.eye(6), atol=1e-5) == orthogonal


def test_ascent_is_amsgrad_of_pytorch_on_the_sphere(curved):
    reader, radius = curved
    objective, start, angle = melbo(reader, 2.0, 1.0), starting_directions(1, WIDTH, 3), 0.05
    found = ascent(lambda _: objective, start, radius, 25, angle, False, reading(reader), silent)

    vector = torch.nn.Parameter(radius * start[0])
    rate = angle * radius / WIDTH**0.5
    optimizer = torch.optim.AdamW([vector], lr=rate, betas=BETAS, eps=1e-8, weight_decay=0.0, amsgrad=True)
    for _ in range(25):
        (gradient,) = torch.autograd.grad(objective(vector[None]).sum(), vector)
        normal = vector.detach() / vector.detach().norm()
        vector.grad = -(gradient - (gradient @ normal) * normal)
        optimizer.step()
        vector.data *= radius / vector.data.norm()
    assert float(start @ found.T) < 0.9, "it must have moved for the comparison to say anything"
    torch.testing.assert_close(radius * found[0], vector.detach(), rtol=1e-3, atol=1e-4 * radius)


def test_a_step_of_the_ascent_is_an_angle(curved):
    """The first step of Adam has the size of its learning rate in every coordinate."""
    reader, radius = curved
    start = starting_directions(4, WIDTH, 0)
    for factor in (0.5, 2.0):
        moved = ascent(MELBO, start, factor * radius, 1, 0.03, False, reading(reader), silent)
        torch.testing.assert_close((start * moved).sum(dim=1).clamp(max=1).acos(), torch.full((4,), 0.03), rtol=0.1, atol=0)


@pytest.mark.parametrize("search", ["fixed_point", "orthogonal", "deflated", "ascent"])
def test_pieces_change_nothing(curved, search):
    reader, radius = curved
    start = starting_directions(5, WIDTH, 0)

    def run(size):
        pieces = reading(reader, Chunks(size))
        match search:
            case "deflated":
                return deflated(start, radius, 3, pieces, silent)
            case "ascent":
                return ascent(MELBO, start, radius, 4, 0.03, False, pieces, silent)
            case _:
                return fixed_point(mean_norm, start, radius, 3, search == "orthogonal", pieces, silent)

    whole = run(5)
    for size in (1, 3):
        assert ((run(size) - whole).norm(dim=1) / whole.norm(dim=1)).max() <= 1e-5


def three_tokens_in(curved):
    """Readings through the small Llama at the end of the prompt and at two tokens of the reply."""
    return readings(curved[0].slice, 2, SearchConfig(positions=1), GENEROUS)


def test_half_of_the_vectors_are_read_at_the_end_of_the_prompt(curved):
    read, vectors = three_tokens_in(curved), curved[1] * random_directions(9, WIDTH, "readings")
    assert [reader.unread for reader in read.readers] == [2, 1, 0]
    own = [0, 1, 0, 2, 0, 1, 0, 2, 0]
    expected = torch.cat([read.readers[place].mean_effects(vectors[[row]]) for row, place in enumerate(own)])
    torch.testing.assert_close(read.mean_effects(vectors), expected)
    torch.testing.assert_close(read.values(mean_norm, vectors), expected.norm(dim=1))
    values, gradients = read.gradients(mean_norm, vectors)
    torch.testing.assert_close(values, expected.norm(dim=1))
    alone = Chunks(1).gradients(mean_norm(read.readers[2]), vectors[[3]])[1]
    torch.testing.assert_close(gradients[[3]], alone)


def test_fewer_vectors_than_readers_are_read_at_the_end_of_the_prompt_first(curved):
    read, vector = three_tokens_in(curved), curved[1] * random_directions(1, WIDTH, "readings")
    torch.testing.assert_close(read.mean_effects(vector), read.readers[0].mean_effects(vector))


def test_a_reader_sees_nothing_of_what_comes_after_it(curved):
    """Blocks are causal, and each reader stops at its token: what follows the prompt cannot change what is read there."""
    part = curved[0].slice
    vectors = curved[1] * random_directions(3, WIDTH, "readings")
    source = part.source.clone()
    source[:, -2:] += 1.0
    changed = replace(part, source=source)
    torch.testing.assert_close(changed.steered(vectors)[:, :, :-2], part.steered(vectors)[:, :, :-2])
    assert not torch.allclose(changed.steered(vectors)[:, :, -1], part.steered(vectors)[:, :, -1])


def test_all_positions_means_as_many_as_the_prompt_has(curved):
    part = curved[0].slice
    read = readings(part, 2, SearchConfig(positions=0), GENEROUS)
    assert {reader.last for reader in read.readers} == {part.target.shape[1] - 2}
    assert [reader.end for reader in read.readers] == [part.target.shape[1] - left for left in (2, 1, 0)]


def test_only_reading_into_the_reply_sees_what_parts_there():
    """A vector that changes one position alone is found by the reader that reads there, and by no other."""
    source = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
    hidden = random_directions(1, 6, "hidden")[0]

    class ThirdOnly(torch.nn.Module):
        def forward(self, residual):
            there = torch.tensor([0.0, 0.0, 1.0, 0.0])[:, None]
            return residual + there * (residual @ hidden)[..., None] * hidden * 5

    part = slice_through(ThirdOnly(), source, torch.ones(1, 4, dtype=torch.long))
    read = readings(part, 2, SearchConfig(positions=1, normalised=False), GENEROUS)
    found = fixed_point(mean_norm, starting_directions(8, 6, 0), 1.0, 30, False, read, silent)
    near = (found @ hidden).abs()
    assert near[1::4].min() > 0.99, "read at the first token of the reply, where it acts"
    assert torch.cat([near[0::2], near[3::4]]).max() < 0.95


@pytest.mark.parametrize("solver", [Solver.fixed_point, Solver.ascent])
def test_more_orthogonal_vectors_than_dimensions_are_refused(curved, solver):
    config = SearchConfig(solver=solver, diversity=Diversity.orthogonal, vectors=WIDTH + 1, radius=1.0, rounds=1, steps=1)
    with pytest.raises(UsageError, match=f"search.vectors={WIDTH + 1} orthogonal directions do not exist .* width {WIDTH}"):
        learn(config, curved[0].slice, 0, (1, 3), 0, {}, lambda: None)


def test_an_ascent_with_deflation_is_refused_instead_of_ignored():
    with pytest.raises(UsageError, match=r"search\.diversity=deflation needs search\.solver=fixed_point"):
        SearchConfig(solver=Solver.ascent, diversity=Diversity.deflation)


@pytest.mark.parametrize("solver", list(Solver))
def test_learning_returns_a_bank_that_says_what_it_is(curved, solver):
    part, told = curved[0].slice, []
    config = SearchConfig(solver=solver, vectors=6, relative_radius=0.8, rounds=4, steps=4)
    search = learn(config, part, 0, (1, 3), 7, {"model": "tiny"}, lambda: told.append(1))
    bank = search.bank
    assert len(bank) == 6 and bank.directions.dtype == torch.float32
    assert bank.relative_radius == pytest.approx(0.8) and bank.radius == pytest.approx(0.8 * part.residual_norm)
    assert (bank.source_layer, bank.target_layer) == (1, 3)
    assert bank.origin == {"model": "tiny", "solver": solver.value, "seed": 7, "reply_tokens": 0}
    assert len(search.curve) == len(told) == (0 if solver is Solver.random else 4)
    again = learn(config, part, 0, (1, 3), 7, {"model": "tiny"}, lambda: None)
    assert torch.equal(bank.directions, again.bank.directions)
    assert not torch.equal(bank.directions, learn(config, part, 0, (1, 3), 8, {}, lambda: None).bank.directions)


def test_layers_stand_at_an_eighth_and_a_half_unless_given():
    assert default_layers(SearchConfig(), 8) == (1, 4)
    assert default_layers(SearchConfig(), 32) == (4, 16)
    assert default_layers(SearchConfig(), 2) == (0, 1)
    assert default_layers(SearchConfig(source_layer=0, target_layer=1), 8) == (0, 1)


def test_a_value_that_is_not_finite_stops_with_its_vector():
    vectors = torch.ones(5, 3)
    vectors[3] = -1.0
    with pytest.raises(FloatingPointError, match="not finite for vector 3"):
        Chunks(2).gradients(lambda rows: rows.sum(dim=1).sqrt(), vectors)
    vectors[3] = 0.0  # The value exists here, its gradient does not.
    with pytest.raises(FloatingPointError, match="not finite for vector 3"):
        Chunks(2).gradients(lambda rows: rows.sum(dim=1).sqrt(), vectors)


def test_gradients_of_pieces_are_those_of_the_whole():
    vectors = random_directions(7, 3, "gradients")
    values, gradients = Chunks(3).gradients(lambda rows: rows.pow(3).sum(dim=1), vectors)
    torch.testing.assert_close(values, vectors.pow(3).sum(dim=1))
    torch.testing.assert_close(gradients, 3 * vectors.square())


def allocates_beyond_the_machine(rows):
    """A petabyte, which no machine has: torch raises here as it does on a machine that is full."""
    return torch.empty(2**50, dtype=torch.uint8)


def out_of_memory(_rows):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("fail", [out_of_memory, allocates_beyond_the_machine])
def test_a_piece_too_large_is_halved_and_stays_so(fail):
    sizes = []

    def function(rows):
        sizes.append(len(rows))
        return fail(rows) if len(rows) > 3 else 2 * rows

    vectors, pieces = random_directions(11, 4, "memory"), Chunks(8)
    assert torch.equal(pieces.over(function, vectors), 2 * vectors)
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 1] and pieces.size == 2
    with pytest.raises(UsageError, match="not enough memory for a single row; give fewer"):
        pieces.over(fail, vectors)


def test_another_error_is_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        Chunks(4).over(lambda rows: rows @ rows, torch.zeros(4, 3))


def test_the_estimate_respects_a_wish_and_is_never_below_one(curved):
    part = curved[0].slice
    assert chunks(part, 5).size == 5
    assert 1 <= chunks(part, None).size <= 4096


def test_gram_schmidt_keeps_the_first_direction_and_its_side():
    rows = random_directions(4, 6, "gram")
    basis = orthonormalised(rows)
    torch.testing.assert_close(basis @ basis.T, torch.eye(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(basis[0], rows[0])
    assert ((basis * rows).sum(dim=1) > 0).all()
    dependent = orthonormalised(torch.stack([rows[0], rows[1], torch.zeros(6)]))
    torch.testing.assert_close(dependent @ dependent.T, torch.eye(3), atol=1e-6, rtol=0)


def test_directions_depend_on_their_own_seed_alone():
    torch.testing.assert_close(random_directions(3, 8, "a", 1), random_directions(9, 8, "a", 1)[:3], rtol=0, atol=0)
    assert cosines(random_directions(3, 512, "a", 1), random_directions(3, 512, "a", 2)).max() < 0.3
    directions = random_directions(5, 8, "tangent")
    assert (tangent(torch.ones(5, 8), directions) * directions).sum(dim=1).abs().max() < 1e-6
