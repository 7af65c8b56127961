"""The solvers reach what mathematics says they reach, and pieces and order never change it."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import WIDTH
from toys import (
    GENEROUS,
    KINDS,
    alone,
    entering,
    kind,
    last_positions,
    linear_slice,
    part_and_space,
    reading,
    slice_between,
    with_singular_values,
)

from discover.choices import Similarity
from discover.config import SearchConfig
from discover.errors import UsageError
from discover.model.anatomy import anatomy
from discover.model.hooks import hidden
from discover.perturb.spaces import drawn, held
from discover.perturb.sphere import orthonormalised, random_directions, unit
from discover.search.chunks import Chunks
from discover.search.effects import mean_norm, melbo
from discover.search.readings import Readings, readers
from discover.search.solvers import (
    BETAS,
    PATIENCE,
    Softly,
    ascent,
    cpe,
    deflated,
    fixed_point,
    group_means,
    one_by_one,
    orthogonal,
    power,
    unbound,
    unhindered,
)

VALUES = torch.tensor([4.0, 2.5, 1.5, 1.0, 0.5, 0.2])
RADIUS = 2.0
MELBO = partial(melbo, power=2.0, q=1.0)


def silent(_number, _values):
    pass


def fixed(directions, rounds, read, apart=unbound, progress=silent, settled=0.0, aim=mean_norm):
    return fixed_point(aim, directions, torch.arange(len(directions)), rounds, settled, apart, read, progress)


def climbed(directions, steps, read, angle=0.05, rate=None, apart=unbound, progress=silent, settled=0.0, aim=MELBO):
    rows = torch.arange(len(directions))
    return ascent(aim, directions, rows, steps, angle, rate, settled, apart, unhindered, read, progress)


def start(count, width=WIDTH, seed=0):
    return random_directions(count, width, "start", seed)


@pytest.fixture
def linear():
    """Readings through a map with known singular vectors, and its right singular vectors as rows."""
    matrix, _, right = with_singular_values(VALUES)
    return reading(last_positions(linear_slice(matrix, rows=2, tokens=3), 1, False), RADIUS), right


@pytest.fixture(scope="module")
def curved(llama, batch):
    """Readings through the small Llama, at a radius of one residual norm."""
    part = slice_between(llama, batch, 1, 3)
    return reading(last_positions(part, 0, True), part.residual_norm)


@pytest.fixture(scope="module")
def double(llama):
    """The small Llama in float64."""
    model = copy.deepcopy(llama.model).double()
    return replace(llama, model=model, anatomy=anatomy(model, None))


def value(aim, read, directions):
    """The objective at directions, from the one reader itself."""
    reader = read.readers[0]
    return aim(reader)(entering(reader.slice, read.radius * directions))


def cosines(first, second):
    return (unit(first) @ unit(second).T).abs()


def test_fixed_point_finds_the_top_right_singular_vector(linear):
    read, right = linear
    begun, told = start(5, 6), []
    found = fixed(begun, 40, read, progress=lambda number, values: told.append((number, values.clone())))
    assert cosines(begun, right[:1]).max() < 0.95
    assert cosines(found, right[:1]).min() > 1 - 1e-5
    assert [number for number, _ in told] == list(range(40))
    torch.testing.assert_close(told[0][1], value(mean_norm, read, begun))
    torch.testing.assert_close(told[-1][1], torch.full((5,), RADIUS * 4.0), rtol=1e-4, atol=0)


def test_fixed_point_with_orthogonality_finds_them_all_in_order(linear):
    read, right = linear
    found = fixed(start(3, 6), 60, read, apart=orthogonal)
    torch.testing.assert_close(cosines(found, right[:3]), torch.eye(3), atol=2e-3, rtol=0)


def test_deflation_finds_what_the_plain_search_does_not(linear):
    read, right = linear
    begun, numbers = start(4, 6), []
    found = deflated(begun, 40, 0.0, read, lambda number, _: numbers.append(number))
    assert cosines(fixed(begun, 40, read), right[1:2]).max() < 1e-2
    torch.testing.assert_close(cosines(found, right[:4]), torch.eye(4), atol=1e-2, rtol=0)
    assert numbers == list(range(160)), "rounds are counted through all waves"


def test_deflation_reads_more_positions_than_there_are(linear):
    """Asking for 16 positions of a prompt of 3 once ended in a shape error."""
    read, right = linear
    read = replace(read, readers=readers(read.readers[0].slice, 0, SearchConfig(positions=16, normalised=False)))
    found = deflated(start(4, 6), 40, 0.0, read, silent)
    assert cosines(found[1:2], right[1:2]) > 0.99


def test_effects_of_one_kind_are_claimed_once():
    effects = unit(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.9, 0.3, 0], [-1, 0, 0], [0, 0.8, 0.1]]))
    means = group_means(effects, 0.5)
    assert len(means) == 3, "an opposite effect is another one"
    torch.testing.assert_close(means[0], unit(effects[0] + effects[2]))
    torch.testing.assert_close(means[2], effects[3])


@pytest.mark.parametrize("apart", [unbound, orthogonal])
def test_ascent_climbs_at_a_fixed_norm(curved, apart):
    seen = []

    def watched(reader):
        objective = MELBO(reader)

        def value(perturbations):
            seen.append(perturbations.changes[0].bias.detach().norm(dim=1) / curved.radius - 1)
            return objective(perturbations)

        return value

    begun = start(6) if apart is unbound else orthonormalised(start(6))
    found = climbed(begun, 30, curved, apart=apart, aim=watched)
    assert torch.stack(seen).abs().max() < 1e-6 and (found.norm(dim=1) - 1).abs().max() < 1e-6
    before, after = value(MELBO, curved, begun), value(MELBO, curved, found)
    assert (after > before).all() and after.sum() > 1.3 * before.sum()
    assert torch.allclose(found @ found.T, torch.eye(6), atol=1e-5) == (apart is orthogonal)


@pytest.mark.parametrize("rate", [None, 0.02, 0.3])
def test_ascent_is_amsgrad_of_pytorch_on_the_sphere(curved, rate):
    """Without a rate it is an angle; with one, that of AdamW in residual units, as published."""
    begun, angle, radius = start(1, seed=3), 0.05, curved.radius
    found = climbed(begun, 25, curved, angle=angle, rate=rate)

    vector = torch.nn.Parameter(radius * begun[0])
    pace = angle * radius / WIDTH**0.5 if rate is None else rate
    optimizer = torch.optim.AdamW([vector], lr=pace, betas=BETAS, eps=1e-8, weight_decay=0.0, amsgrad=True)
    reader = curved.readers[0]
    for _ in range(25):
        (gradient,) = torch.autograd.grad(MELBO(reader)(entering(reader.slice, vector[None])).sum(), vector)
        normal = vector.detach() / vector.detach().norm()
        vector.grad = -(gradient - (gradient @ normal) * normal)
        optimizer.step()
        vector.data *= radius / vector.data.norm()
    assert float(begun @ found.T) < 0.98, "it must have moved for the comparison to say anything"
    torch.testing.assert_close(radius * found[0], vector.detach(), rtol=1e-3, atol=1e-4 * radius)


def test_ascent_moves_every_part_by_the_angle(llama, batch):
    """The first step of Adam has the size of its learning rate in every coordinate: parts of any length turn alike."""
    part, space = part_and_space(llama, batch, kind("adapter of rank 1"), 1, 3)
    read = Readings(space, part.residual_norm, (last_positions(part, 0, True),), GENEROUS)
    begun = drawn(space, 4, "start", 0)
    moved = climbed(begun, 1, read, angle=0.03)
    for before, after in zip(begun.split(list(space.lengths), 1), moved.split(list(space.lengths), 1), strict=True):
        angles = (before * after).sum(dim=1).clamp(max=1).acos()
        torch.testing.assert_close(angles, torch.full((4,), 0.03), rtol=0.1, atol=0)


def test_a_step_of_the_ascent_is_an_angle(curved):
    """The first step of Adam has the size of its learning rate in every coordinate."""
    begun = start(4)
    for factor in (0.5, 2.0):
        moved = climbed(begun, 1, replace(curved, radius=factor * curved.radius), angle=0.03)
        torch.testing.assert_close((begun * moved).sum(dim=1).clamp(max=1).acos(), torch.full((4,), 0.03), rtol=0.1, atol=0)


def test_settled_rows_stop_while_others_go_on(linear):
    """The first row begins where the iteration ends; the second has far to go."""
    read, right = linear
    begun = torch.stack([right[0], unit(right[1] + 0.1 * right[0])])
    told = []
    found = fixed(begun, 30, read, settled=1e-3, progress=lambda _, values: told.append(len(values)))
    assert told[:2] == [2, 2] and set(told[2:]) == {1}, "a gain is known from the second round on"
    assert len(told) < 30, "the second row settles as well, and then nothing is left to do"
    torch.testing.assert_close(found[0], fixed(begun, 1, read)[0])
    assert float(found[1] @ right[0]) > 0.99
    # Rows that go on are those that a search of them alone would have found.
    torch.testing.assert_close(found[1:], fixed(begun[1:], len(told) - 1, read))
    told.clear()
    assert torch.equal(fixed(begun, 30, read, progress=lambda _, values: told.append(len(values))), fixed(begun, 30, read))
    assert told == [2] * 30, "0 never stops any"


def test_the_ascent_settles_over_ten_steps(linear):
    read, right = linear
    begun, told = torch.stack([right[0], unit(right[1] + 0.3 * right[0])]), []
    found = climbed(begun, 60, read, settled=1e-2, progress=lambda _, values: told.append(len(values)))
    assert told[: PATIENCE + 1] == [2] * (PATIENCE + 1) and told[PATIENCE + 1] == 1
    torch.testing.assert_close(found[0], climbed(begun, PATIENCE, read)[0])
    told.clear()
    climbed(begun, 30, read, progress=lambda _, values: told.append(len(values)))
    assert told == [2] * 30, "0 never stops any"


def explicitly_orthogonal(vector, earlier):
    """What is left of a vector outside the span of earlier ones, by least squares in float64."""
    if not len(earlier):
        return unit(vector)
    basis = torch.stack(earlier).double().T
    return unit(vector.double() - basis @ torch.linalg.lstsq(basis, vector.double()[:, None]).solution[:, 0]).float()


def test_one_by_one_is_one_ascent_after_another(curved):
    """Against AMSGrad written once more, for one vector, with the published projections of every gradient and every step."""
    begun, numbers, steps, angle = start(4), [], 12, 0.05

    def learner(directions, rows, apart, free, progress):
        return ascent(MELBO, directions, rows, steps, angle, None, 0.0, apart, free, curved, progress)

    found = one_by_one(learner, begun, steps, lambda number, values: numbers.append((number, len(values))))
    assert numbers == [(number, 1) for number in range(4 * steps)]
    reader, earlier, pace = curved.readers[0], [], angle / WIDTH**0.5
    for vector in begun:
        vector = explicitly_orthogonal(vector, earlier)
        first = second = largest = torch.zeros(WIDTH)
        for step in range(1, steps + 1):
            moving = (curved.radius * vector).requires_grad_(True)
            (gradient,) = torch.autograd.grad(MELBO(reader)(entering(reader.slice, moving[None])).sum(), moving)
            for other in earlier:
                gradient = gradient - (gradient @ other) * other
            gradient = gradient - (gradient @ vector) * vector
            first = 0.9 * first + 0.1 * gradient
            second = 0.98 * second + 0.02 * gradient**2
            largest = torch.maximum(largest, second)
            vector = vector + pace * (first / (1 - 0.9**step)) / ((largest / (1 - 0.98**step)).sqrt() + 1e-8)
            vector = explicitly_orthogonal(vector, earlier)
        earlier.append(vector)
    torch.testing.assert_close(found, torch.stack(earlier), atol=1e-3, rtol=0)
    torch.testing.assert_close(found @ found.T, torch.eye(4), atol=1e-5, rtol=0)
    assert cosines(found, begun).diagonal().max() < 0.97, "every one has moved"


def test_one_by_one_holds_fixed_points_orthogonal_to_earlier_ones(curved):
    """Every round of a row begins outside the span of what earlier rows have become."""
    begun, rounds = start(4), 3

    def learner(directions, rows, apart, _free, progress):
        return fixed_point(mean_norm, directions, rows, rounds, 0.0, apart, curved, progress)

    found = one_by_one(learner, begun, rounds, silent)
    reader, earlier = curved.readers[0], []
    for vector in begun:
        for _ in range(rounds):
            vector = explicitly_orthogonal(vector, earlier).requires_grad_(True)
            added = entering(reader.slice, curved.radius * vector[None])
            (vector,) = torch.autograd.grad(mean_norm(reader)(added).sum(), vector)
        earlier.append(explicitly_orthogonal(vector, earlier))
    torch.testing.assert_close(found, torch.stack(earlier), atol=1e-3, rtol=0)
    torch.testing.assert_close(found @ found.T, torch.eye(4), atol=1e-5, rtol=0)


def jacobian_in_float64(double, batch, normalised):
    """The Jacobian [D, D] at zero of the last position's mean over prompts after block 3, to a vector after block 1."""
    blocks = double.anatomy.blocks

    def read(vector):
        seen = []
        handles = [
            blocks[1].register_forward_hook(lambda _m, _i, output: output + vector),
            blocks[3].register_forward_hook(lambda _m, _i, output: seen.append(hidden(output))),
        ]
        double.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids)
        for handle in handles:
            handle.remove()
        target = seen[0][:, -1]
        return (unit(target) if normalised else target).mean(dim=0)

    return torch.autograd.functional.jacobian(read, torch.zeros(WIDTH, dtype=torch.float64))


@pytest.mark.parametrize("normalised", [False, True])
def test_power_finds_the_singular_vectors_of_the_jacobian(llama, double, batch, normalised):
    """After 15 rounds as near as subspace iteration with the Jacobian itself comes, after 40 within one part in a hundred."""
    part = slice_between(llama, batch, 1, 3)
    read, told, found = reading(last_positions(part, 1, normalised), 1.0), [], {}
    for rounds in (15, 40):
        found[rounds] = power(start(6), rounds, read, lambda _, values: told.append(values))
    jacobian, basis = jacobian_in_float64(double, batch, normalised), start(6).double()
    _, values, right = torch.linalg.svd(jacobian)
    for _ in range(14):
        basis = torch.linalg.qr(jacobian.T @ jacobian @ basis.T).Q.T
    left, dense, _ = torch.linalg.svd(basis @ jacobian.T, full_matrices=False)
    torch.testing.assert_close(told[14].double(), dense, rtol=0.01, atol=0)
    assert cosines(found[15].double(), left.T @ basis).diagonal().min() > 0.99
    torch.testing.assert_close(told[14][:4].double(), values[:4], rtol=0.01, atol=0)
    torch.testing.assert_close(told[-1].double(), values[:6], rtol=0.01, atol=0)
    torch.testing.assert_close(cosines(found[40].double(), right[:6]), torch.eye(6).double(), atol=0.02, rtol=0)
    for vectors in found.values():
        torch.testing.assert_close(vectors @ vectors.T, torch.eye(6), atol=1e-5, rtol=0)


def test_power_is_exact_where_the_map_is_linear(linear):
    """Signs are free, and the radius of the search does not enter."""
    read, right = linear
    told = []
    for radius in (RADIUS, 17.0):
        found = power(start(4, 6), 40, replace(read, radius=radius), lambda _, values: told.append(values))
        torch.testing.assert_close(cosines(found, right[:4]), torch.eye(4), atol=1e-3, rtol=0)
        torch.testing.assert_close(told[-1], VALUES[:4], rtol=1e-4, atol=0)
    assert len(told) == 80


def two_places():
    """Two readers of one slice whose last token goes through another map, and the right singular vectors of both maps."""
    matrices, rights = zip(*[(matrix, right) for matrix, _, right in (with_singular_values(VALUES), other_map())], strict=True)

    class Two(torch.nn.Module):
        def forward(self, residual):
            return torch.stack([residual[:, place] @ matrices[place].T for place in range(2)], dim=1)

    part = linear_slice(torch.eye(6), 1, 2)
    part = replace(part, blocks=(Two(),), target=Two()(part.source))
    return readers(part, 1, SearchConfig(positions=1, normalised=False)), rights


def test_deflation_claims_at_each_place_of_reading_by_itself():
    """A wave of two, one read here and one there: each goes as if the other place were not there."""
    both, _ = two_places()
    begun, read = start(8, 6), reading(both[0], 1.0)
    found = deflated(begun, 40, 0.0, replace(read, readers=both), silent)
    for place in range(2):
        alone = deflated(begun[place::2], 40, 0.0, replace(read, readers=both[place : place + 1]), silent)
        torch.testing.assert_close(found[place::2], alone, atol=1e-4, rtol=0)


def test_power_takes_each_place_of_reading_by_itself():
    both, rights = two_places()
    told = []
    found = power(start(6, 6), 60, replace(reading(both[0], 1.0), readers=both), lambda _, values: told.append(values))
    for number, right in enumerate(rights):
        torch.testing.assert_close(cosines(found[number::2], right[:3]), torch.eye(3), atol=2e-3, rtol=0)
    torch.testing.assert_close(told[-1], torch.tensor([4.0, 9.0, 2.5, 5.0, 1.5, 2.0]), rtol=1e-3, atol=0)


def other_map():
    left, right = (torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(seed)))[0] for seed in (5, 6))
    return left @ torch.diag(torch.tensor([9.0, 5.0, 2.0, 1.0, 0.5, 0.1])) @ right.T, left.T, right.T


def test_power_refuses_more_vectors_than_a_place_of_reading_has_dimensions(linear):
    with pytest.raises(UsageError, match=r"search\.vectors=7 orthogonal directions do not exist"):
        power(start(7, 6), 2, linear[0], silent)


@pytest.mark.parametrize("name", ["vector", "head", "factor on attention", "adapter of rank 3"])
def test_cpe_is_its_loop(llama, batch, name):
    """One row at a time, straight from the paper: U <- normalise(mean effect), V <- normalise(gradient of <effect, U>)."""
    part, space = part_and_space(llama, batch, kind(name), 1, 3)
    read = Readings(space.sized(3), part.residual_norm, (last_positions(part, 2, True),), GENEROUS)
    begun, told, tokens = drawn(read.space, 3, "start", 0), [], part.target.shape[1]
    found = cpe(begun, 4, 7, unbound, read, lambda number, values: told.append((number, values)))
    reached = []
    for row in range(3):
        vector, towards = begun[row], random_directions(3, 2 * WIDTH, "towards", 7)[row]
        for number in range(5):
            moving = vector.clone().requires_grad_(True)
            steered = part.steered(read.space.rows(slice(row, row + 1)).perturbations(moving[None], read.radius), 0, tokens)[0]
            change = unit(steered[:, -2:]) - unit(part.target[:, -2:])
            effect = change.mean(dim=0).flatten()
            product = effect @ towards
            (gradient,) = torch.autograd.grad(product, moving)
            pieces = [piece / piece.norm() for piece in gradient.split(list(space.lengths))]
            for later in range(1, 3 if "adapter" in name else 0):
                rest = pieces[later] - sum((pieces[later] @ pieces[other]) * pieces[other] for other in range(later))
                pieces[later] = rest / rest.norm()
            vector = torch.cat(pieces)
            if number:
                reached.append((row, number - 1, float(product.detach())))
                towards = effect.detach() / effect.detach().norm()
        torch.testing.assert_close(found[row], vector, atol=2e-3, rtol=0)
    assert [number for number, _ in told] == [0, 1, 2, 3]
    for row, number, product in reached:
        assert float(told[number][1][row]) == pytest.approx(product, rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("similarity", list(Similarity))
def test_cpe_pushes_gradients_as_they_come(llama, batch, similarity):
    """As coded, a part that is pulled more weighs more in what is pushed; the parts are held at norm one afterwards."""
    part, space = part_and_space(llama, batch, kind("factor on attention"), 1, 3)
    read = Readings(space.sized(4), part.residual_norm, (last_positions(part, 1, True),), GENEROUS)
    softly, begun = Softly(space, similarity, 0.5), drawn(space, 4, "start", 0)
    # The round before the first one gives directions, and only the first pushes.
    towards = random_directions(4, read.readers[0].size, "towards", 0)
    first = held(space, read.pulls(begun, towards)[1])
    gradients = read.pulls(first, towards)[1]
    torch.testing.assert_close(cpe(begun, 1, 0, softly, read, silent), softly(gradients, gradients.norm(dim=1)))
    parts = gradients.split(list(space.lengths), dim=1)
    assert max(part.norm() for part in parts) > 1.5 * min(part.norm() for part in parts), "else nothing could be told apart"
    other = softly(held(space, gradients), gradients.norm(dim=1))
    assert torch.allclose(softly(gradients, gradients.norm(dim=1)), other, atol=1e-3) == (similarity is not Similarity.weights)


def test_cpe_climbs_the_product_to_the_norm_of_the_effect(linear):
    read, right = linear
    found = cpe(start(3, 6), 40, 0, unbound, read, silent)
    assert cosines(found, right[:1]).min() > 1 - 1e-5


def run(search, read, begun):
    """What a solver makes of directions, in few rounds."""

    def learner(directions, rows, apart, free, progress):
        return ascent(MELBO, directions, rows, 4, 0.03, None, 0.0, apart, free, read, progress)

    match search:
        case "fixed point":
            return fixed(begun, 3, read)
        case "orthogonal":
            return fixed(begun, 3, read, apart=orthogonal)
        case "deflated":
            return deflated(begun, 3, 0.0, read, silent)
        case "ascent":
            return climbed(begun, 4, read, angle=0.03)
        case "one by one":
            return one_by_one(learner, begun, 4, silent)
        case "power":
            return power(begun, 3, read, silent)
        case "cpe":
            return cpe(begun, 3, 0, unbound, read, silent)


MARGIN = 1e-4
"""What three rounds may make of rounding, where a machine rounds a row by what stands beside it; relative to the row."""
FOR_EVERY_KIND = ("fixed point", "deflated", "ascent", "cpe")
SEARCHES = [(name, search) for name in KINDS for search in FOR_EVERY_KIND]
SEARCHES += [(name, search) for name in ("vector", "bias") for search in ("orthogonal", "one by one", "power")]


def relative(one, other):
    return float(((one - other).norm(dim=1) / other.norm(dim=1)).max())


@pytest.mark.parametrize("name,search", SEARCHES)
def test_pieces_and_order_change_nothing(llama, batch, name, search):
    part, space = part_and_space(llama, batch, kind(name), 1, 3)
    space = space.sized(5)
    read = Readings(space, part.residual_norm, (last_positions(part, 0, True),), Chunks(5))
    begun = drawn(space, 5, "start", 0)
    whole = run(search, read, begun)
    assert relative(begun, whole) > 1e-3, "it has moved"
    for size in (1, 3):
        assert relative(run(search, replace(read, chunks=Chunks(size)), begun), whole) <= MARGIN
    if search in ("fixed point", "ascent"):
        order = torch.tensor([3, 0, 4, 2, 1])
        assert relative(run(search, replace(read, space=space.rows(order)), begun[order]), whole[order]) <= MARGIN


LONG = {
    "fixed point": lambda begun, read: fixed(begun, 15, read),
    "fixed point, soft": lambda begun, read: fixed(begun, 15, read, apart=Softly(read.space, Similarity.update, 0.1)),
    "deflated": lambda begun, read: deflated(begun, 15, 0.0, read, silent),
    "ascent": lambda begun, read: climbed(begun, 100, read),
    "cpe": lambda begun, read: cpe(begun, 15, 0, unbound, read, silent),
    "cpe, soft": lambda begun, read: cpe(begun, 15, 0, Softly(read.space, Similarity.update, 0.1), read, silent),
    "orthogonal": lambda begun, read: fixed(begun, 15, read, apart=orthogonal),
    "power": lambda begun, read: power(begun, 15, read, silent),
}
"""Searches at their published length, or the tool's."""
DEAR = ("ascent", "cpe, soft", "deflated")
"""Those of them that take the longest, or differ least from another."""
MAGNIFYING = [("llama", "factor on attention"), ("gpt2", "adapter of rank 1"), ("gemma2", "adapter of rank 3")]
"""Kinds of which one bit was once the whole after fifteen rounds: nothing left in common between two sizes of a piece."""


@pytest.mark.usefixtures("alike_rows")
@pytest.mark.parametrize("search", [pytest.param(name, marks=pytest.mark.slow) if name in DEAR else name for name in LONG])
@pytest.mark.parametrize("family,name", MAGNIFYING)
def test_many_rounds_find_nothing_to_magnify(loaded_family, batch, family, name, search):
    name = "vector" if search in ("orthogonal", "power") else name
    part, space = part_and_space(loaded_family(family), batch, kind(name), 1, 3)
    space = space.sized(5)
    read = Readings(space, part.residual_norm, (last_positions(part, 1, True),), Chunks(5))
    begun = drawn(space, 5, "start", 0)
    whole = LONG[search](begun, read)
    assert relative(begun, whole) > 0.1, "it has moved"
    for size in (1, 3):
        assert relative(LONG[search](begun, replace(read, chunks=Chunks(size))), whole) <= 1e-5
    # What orthogonality, a wave and the first output directions are depends on the order by definition.
    if search in ("fixed point", "fixed point, soft"):
        order = torch.tensor([3, 0, 4, 2, 1])
        assert relative(LONG[search](begun[order], replace(read, space=space.rows(order))), whole[order]) <= 1e-5


def test_a_prompt_twice_over_changes_nothing(llama, batch):
    """The mean effect is that of the one prompt."""
    single = alone(batch, 0)
    once, twice = (
        fixed(start(3), 3, reading(last_positions(slice_between(llama, rows, 1, 3), 1, True), 5.0))
        for rows in (single, single.repeated(2))
    )
    torch.testing.assert_close(once, twice, atol=1e-5, rtol=0)
