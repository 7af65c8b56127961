"""What unit parameters stand for has the size that is stated, and what cancels within them makes no difference."""

import copy
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from conftest import HEADS, WIDTH
from torch.utils._python_dispatch import TorchDispatchMode
from toys import KINDS, kind, part_and_space
from transformers.pytorch_utils import Conv1D

from discover.errors import UsageError
from discover.model.anatomy import Place, Site, anatomy
from discover.model.hooks import hidden
from discover.model.prompts import left_padded
from discover.perturb import spaces
from discover.perturb.spaces import PIECE, HeadSpace, LowRankSpace, VectorSpace, drawn, held, space_of, tangent
from discover.perturb.sphere import orthonormalised, random_directions, random_rows, unit

LOW_RANK = [name for name in KINDS if "rank" in name or "factor" in name]


def toy_space(weighed=False, rank=2):
    """Two places that read other widths than they write, and an even number of tokens."""
    given = tuple((1 + index) * random_rows(10, size, "inputs").float() for index, size in enumerate((7, 5)))
    return LowRankSpace((Place(1, Site.attention), Place(2, Site.mlp)), given, 6, rank, weighed, False)


def terms_of(space, row):
    """The rank-one terms (reads, writes) of a row of parameters, place by place, cut out by hand."""
    found, start = [], 0
    for given in space.inputs:
        size = given.shape[1]
        reads = [row[start + term * size :][:size] for term in range(space.rank)]
        start += space.rank * size
        writes = [row[start + term * space.width :][: space.width] for term in range(space.rank)]
        start += space.rank * space.width
        found.append(list(zip(reads, writes, strict=True)))
    assert start == len(row)
    return found


def weights_of(perturbations, row):
    return [change.up[row].double() @ change.down[row].double() for change in perturbations.changes]


def dense(space, row):
    """The changed weights of a row of parameters as one long vector, before any scale."""
    products = [sum(torch.outer(write, read) for read, write in terms) for terms in terms_of(space, row.double())]
    return torch.cat([product.flatten() for product in products])


@pytest.mark.parametrize("name", KINDS)
def test_every_part_of_a_row_has_norm_one_and_its_own_seed(llama, batch, name):
    _, space = part_and_space(llama, batch, kind(name), 1, 3)
    space = space.sized(9)
    rows = drawn(space, 9, "start", 1)
    for part in rows.split(list(space.lengths), dim=1):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(9))
    assert torch.equal(drawn(space, 4, "start", 1), rows[:4])
    assert not torch.isclose(drawn(space, 9, "start", 2), rows).all(dim=1).any()
    again = held(space, rows * torch.rand(9, 1, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(again, rows)
    leaving = tangent(space, random_rows(9, rows.shape[1], "gradient").float(), rows)
    for part, along in zip(leaving.split(list(space.lengths), 1), rows.split(list(space.lengths), 1), strict=True):
        assert (part * along).sum(dim=1).abs().max() < 1e-5 and part.norm() > 1


@pytest.mark.parametrize("name", ["vector", "bias"])
def test_a_vector_is_its_radius_times_its_direction(llama, batch, name):
    _, space = part_and_space(llama, batch, kind(name), 1, 3)
    directions = drawn(space, 5, "vectors")
    (change,) = space.perturbations(directions, -2.0).changes
    assert torch.equal(change.bias, -2 * directions) and change.down.numel() == change.up.numel() == 0
    assert change.place == Place(1, Site.residual if name == "vector" else Site.mlp)


def head_columns(loaded, block, head):
    """What one head writes through, in float64: its columns of the attention output projection."""
    module = loaded.anatomy.module(Place(block, Site.attention))
    weight = (module.weight.T if isinstance(module, Conv1D) else module.weight).detach().double()
    size = weight.shape[1] // HEADS
    return weight[:, head * size : (head + 1) * size]


def test_a_head_vector_is_what_its_head_could_write(loaded, batch):
    _, space = part_and_space(loaded, batch, kind("head", vectors=10), 1, 3)
    (change,) = space.perturbations(drawn(space, 10, "heads"), 2.5).changes
    assert change.place == Place(1, Site.attention) and change.down.numel() == 0
    torch.testing.assert_close(change.bias.norm(dim=1), torch.full((10,), 2.5))
    for head, vector in zip(space.heads.tolist(), change.bias.double(), strict=True):
        for other in range(HEADS):
            columns = head_columns(loaded, 1, other)
            residue = vector - columns @ torch.linalg.lstsq(columns, vector[:, None]).solution[:, 0]
            assert (residue.norm() < 1e-5) == (other == head)


def test_every_head_gets_its_share_and_keeps_its_rows(llama, batch):
    _, space = part_and_space(llama, batch, kind("head", vectors=11), 1, 3)
    assert len(space.heads) == 11
    for count in (1, HEADS, 2 * HEADS + 3):
        shares = space.sized(count).heads.bincount(minlength=HEADS)
        assert shares.sum() == count and shares.max() - shares.min() <= 1
    assert torch.equal(space.sized(50).heads[:11], space.heads)
    runs = space.sized(100 * HEADS).heads.view(100, HEADS)
    assert len({tuple(run) for run in runs.tolist()}) > 1, "each run has an order of its own"
    assert torch.equal(space.rows(torch.tensor([7, 2])).heads, space.heads[[7, 2]])
    assert torch.equal(space.rows(slice(2, 5)).heads, space.heads[2:5])


def test_likeness_of_heads_is_the_cosine_in_the_residual_stream(llama, batch):
    _, space = part_and_space(llama, batch, kind("head", vectors=9), 1, 3)
    directions = drawn(space, 9, "heads")
    written = space.perturbations(directions, 3.0).changes[0].bias.double()
    torch.testing.assert_close(space.likeness(directions).double(), unit(written) @ unit(written).T, atol=1e-6, rtol=0)
    weights = torch.rand(9, 9, generator=torch.Generator().manual_seed(0))
    for row, pulled in enumerate(space.pulled(weights, directions)):
        same = [other for other in range(9) if space.heads[other] == space.heads[row]]
        torch.testing.assert_close(pulled, sum(weights[row, other] * directions[other] for other in same))


class Watched(TorchDispatchMode):
    """Notes the length of the longest tensor that any operation returns, by number format."""

    def __init__(self):
        super().__init__()
        self.longest = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.longest[tensor.dtype] = max(self.longest[tensor.dtype], tensor.numel())
        return result


@pytest.mark.parametrize("name", ["low rank", "head"])
def test_a_large_bank_holds_little_beside_what_is_returned(name):
    """Eighteen million norms, and as many numbers of bases, once stood in memory at once; rows are what each is by itself."""
    if name == "head":
        heads = torch.zeros(0, dtype=torch.long)
        space = HeadSpace(Place(1, Site.attention), random_rows(8 * 300, 200, "bases").view(8, 300, 200), heads).sized(300)
    else:
        space = LowRankSpace((Place(1, Site.mlp),), (random_rows(60_000, 3, "inputs").float(),), 4, 1, False, False)
    with Watched() as seen:
        directions = drawn(space, 300, "null")
        assert seen.longest[torch.float64] <= directions.shape[1]
        (change,) = space.perturbations(directions, 2.0).changes
    assert 300 * 60_000 == 300 * 300 * 200 > 4 * PIECE >= 4 * max(seen.longest.values())
    for row in (0, 69, 70, 299):
        (alone,) = space.rows(slice(row, row + 1)).perturbations(directions[row : row + 1], 2.0).changes
        torch.testing.assert_close(change.up[row], alone.up[0], rtol=1e-6, atol=0)
        torch.testing.assert_close(change.bias[row], alone.bias[0], rtol=1e-5, atol=1e-6)


def test_pieces_change_nothing(llama, batch, monkeypatch):
    """To the bit for what is drawn, and to rounding for what it stands for."""
    for name in KINDS:
        _, space = part_and_space(llama, batch, kind(name, vectors=7), 1, 3)
        directions = drawn(space, 7, "null", 3)
        assert torch.equal(directions, held(space, random_rows(7, directions.shape[1], "null", 3)).float())
        whole = space.perturbations(directions, 2.0)
        with monkeypatch.context() as patch:
            patch.setattr(spaces, "PIECE", 1)
            pieces = space.perturbations(directions, 2.0)
        for one, other in zip(whole.changes, pieces.changes, strict=True):
            torch.testing.assert_close(one.bias, other.bias, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(one.up, other.up, rtol=1e-6, atol=1e-6)


def test_a_projection_that_is_no_row_of_heads_is_refused(llama, batch):
    narrow = copy.deepcopy(llama.model)
    narrow.config.num_attention_heads = 5
    with pytest.raises(UsageError, match=r"block 1 reads 32 channels, which are not 5 heads; use another search\.perturbation"):
        part_and_space(replace(llama, model=narrow, anatomy=anatomy(narrow, None)), batch, kind("head"), 1, 3)


@pytest.mark.parametrize("radius", [0.7, -3.0])
@pytest.mark.parametrize("rank", [1, 3])
def test_nine_tokens_in_ten_are_given_at_most_the_radius(rank, radius):
    space = toy_space(rank=rank)
    directions = drawn(space, 4, "low rank")
    found = space.perturbations(directions, radius)
    for row in range(4):
        weights = weights_of(found, row)
        norms = []
        for token in range(10):
            squares = [float((weight @ given[token].double()).square().sum()) for weight, given in zip(weights, space.inputs)]
            norms.append(sum(squares) ** 0.5)
        loud, loudest = sorted(norms)[8:]
        assert loud + 0.1 * (loudest - loud) == pytest.approx(abs(radius), rel=1e-5), "between the ninth and the tenth of ten"
        # All of a row under one scale: the changed weights are those of the parameters, times one number.
        told, whole = dense(space, directions[row]), torch.cat([weight.flatten() for weight in weights])
        torch.testing.assert_close(whole, float(whole @ told / (told @ told)) * told, rtol=1e-4, atol=1e-6)
        assert whole @ told * radius > 0
    torch.testing.assert_close(
        space.perturbations(directions, -radius).changes[1].up, found.scaled(-1.0).changes[1].up, rtol=0, atol=0
    )
    assert all(not change.bias.any() for change in found.changes)


@pytest.mark.parametrize("name", LOW_RANK)
def test_what_reaches_the_residual_stream_has_the_radius(llama, batch, name):
    """In the model itself: what the changed projections put out beyond what they would, at every token that is no padding."""
    _, space = part_and_space(llama, batch, kind(name), 1, 3)
    some, given = space.perturbations(drawn(space, 3, "written"), 2.0), {}
    with ExitStack() as stack, torch.no_grad():
        for change in some.changes:
            module = llama.anatomy.module(change.place)
            stack.callback(module.register_forward_hook(lambda one, inputs, _: given.update({one: inputs[0]})).remove)
        llama.forward(batch)
    keep = batch.attention_mask.bool()
    for row in range(3):
        squared = sum(
            (given[llama.anatomy.module(change.place)][keep].double() @ weight.T).square().sum(dim=1)
            for change, weight in zip(some.changes, weights_of(some, row), strict=True)
        )
        loud = squared.sqrt().max() if "adapter" in name else squared.sqrt().quantile(0.9)
        assert float(loud) == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize("name", ["adapter of rank 3", "factor on mlp"])
def test_a_token_whose_residual_stream_is_far_longer_says_nothing_of_an_adapter_s_radius(llama, batch, name):
    """As the first token's is in many models: held at what they write there, adapters would write nothing elsewhere."""
    config = kind(name)
    part, space = part_and_space(llama, batch, config, 1, 3)
    directions = drawn(space, 9, "massive")
    one = space.perturbations(directions, 2.0).changes[0].up

    def heard(residual, given):
        longer, louder = (torch.ones(*part.mask.shape, 1) for _ in range(2))
        longer[0, -1], louder[0, -1] = residual, given
        inputs = {place: louder * each for place, each in part.inputs.items()}
        changed = replace(part, source=longer * part.source, inputs=inputs)
        return space_of(config, llama, changed, 1).perturbations(directions, 2.0).changes[0].up

    quiet = heard(100.0, 0.0)
    torch.testing.assert_close(heard(100.0, 1e4), quiet if "adapter" in name else heard(1.0, 1e4))
    if "adapter" in name:
        assert (quiet.norm(dim=(1, 2)) >= one.norm(dim=(1, 2))).all(), "one token less can only leave more room"
        assert heard(1.0, 1e4).norm() < 0.01 * one.norm(), "an ordinary residual stream is heard however loud"


def test_terms_of_an_adapter_are_kept_apart():
    """Once all of them became copies of the best; now they are the best in a row, as the singular vectors have it."""
    place, given = Place(1, Site.mlp), random_rows(10, 7, "inputs").float()
    left, right = (torch.linalg.qr(random_rows(size, size, "gradient"))[0] for size in (6, 7))
    values = torch.tensor([5.0, 3.0, 2.0, 0.5, 0.2, 0.1], dtype=torch.float64)
    gradient = (left * values) @ right[:6]  # [D, F] of <change of the weight, gradient>.

    def climbed(weighed):
        space = LowRankSpace((place,), (given,), 6, 3, weighed, True)
        rows = drawn(space, 4, "apart")
        for _ in range(60):
            down, up = rows[:, :21].double().unflatten(1, (3, 7)), rows[:, 21:].double().unflatten(1, (3, 6))
            rows = held(space, torch.cat([(up @ gradient).flatten(1), (down @ gradient.T).flatten(1)], dim=1).float())
        return rows[:, :21].double().unflatten(1, (3, 7)), rows[:, 21:].double().unflatten(1, (3, 6))

    reads, writes = climbed(weighed=False)
    torch.testing.assert_close((reads @ right[:3].T).abs(), torch.eye(3, dtype=torch.float64).expand(4, 3, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close((writes @ left[:, :3]).abs(), torch.eye(3, dtype=torch.float64).expand(4, 3, 3), atol=1e-4, rtol=0)
    reads, _ = climbed(weighed=True)
    torch.testing.assert_close((reads @ right[0]).abs(), torch.ones(4, 3, dtype=torch.float64), atol=1e-4, rtol=0)


def test_keeping_terms_apart_leaves_the_first_and_needs_room_for_the_others(llama, batch):
    _, space = part_and_space(llama, batch, kind("adapter of rank 3"), 1, 3)
    rows = torch.cat([unit(part) for part in random_rows(5, sum(space.lengths), "free").float().split(list(space.lengths), 1)], 1)
    apart, width = space.apart(rows), space.lengths[0]
    reads, before = apart[:, : 3 * width].unflatten(1, (3, width)), rows[:, : 3 * width].unflatten(1, (3, width))
    torch.testing.assert_close(reads @ reads.mT, torch.eye(3).expand(5, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(reads[:, 0], before[:, 0])
    assert ((reads * before).sum(dim=2) > 0).all() and torch.equal(apart[:, 3 * width :], rows[:, 3 * width :])
    with pytest.raises(UsageError, match=rf"search\.rank={width + 1} terms cannot be kept apart in .* reads {width} channels"):
        part_and_space(llama, batch, kind("adapter of rank 3", rank=width + 1), 1, 3)
    assert part_and_space(llama, batch, kind("adapter of rank 3", rank=width + 1, weighed=True), 1, 3)[1].rank == width + 1


@pytest.mark.parametrize("radius", [0.7, -3.0])
def test_weighed_terms_have_the_radius_as_their_spectral_norm(radius):
    space = toy_space(weighed=True, rank=3)
    for change in space.perturbations(held_by_term(space, drawn(space, 4, "weighed")), radius).changes:
        for down, up in zip(change.down.double(), change.up.double(), strict=True):
            for term in range(3):
                assert float(torch.linalg.matrix_norm(torch.outer(up[:, term], down[term]), 2)) == pytest.approx(abs(radius))


def held_by_term(space, directions):
    """Nothing more than the parameters: each reading row and writing column is a part, and has norm one, already."""
    for row in directions:
        for terms in terms_of(space, row):
            for pair in terms:
                assert [float(vector.norm()) for vector in pair] == pytest.approx([1, 1])
    return directions


def turned_round(space, directions, row, place, term):
    """The same parameters with both vectors of one term of one row turned round."""
    changed = directions.clone()
    for vector in terms_of(space, changed[row])[place][term]:
        vector.neg_()
    assert not torch.equal(changed, directions)
    return changed


@pytest.mark.parametrize("place,term", [(0, 0), (0, 1), (1, 1)])
def test_turning_both_vectors_of_a_term_changes_nothing(place, term):
    space = toy_space()
    directions = drawn(space, 5, "signs")
    other = turned_round(space, directions, 2, place, term)
    torch.testing.assert_close(space.likeness(other), space.likeness(directions))
    for row in range(5):
        for one, two in zip(
            weights_of(space.perturbations(directions, 1.0), row), weights_of(space.perturbations(other, 1.0), row), strict=True
        ):
            torch.testing.assert_close(one, two)
    weights = torch.rand(5, 5, generator=torch.Generator().manual_seed(0)).fill_diagonal_(0)
    expected = turned_round(space, space.pulled(weights, directions), 2, place, term)
    torch.testing.assert_close(space.pulled(weights, other), expected)


@pytest.mark.parametrize("rank", [1, 2])
def test_likeness_is_the_cosine_between_changed_weights(rank):
    space = toy_space(rank=rank)
    directions = drawn(space, 6, "likeness")
    weights = torch.stack([dense(space, row) for row in directions])
    torch.testing.assert_close(space.likeness(directions).double(), unit(weights) @ unit(weights).T, atol=1e-6, rtol=0)


def test_pulled_is_a_mean_of_terms_turned_to_the_row_s_side():
    space = toy_space()
    directions = drawn(space, 5, "pulled")
    weights = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    signs = set()
    for row in range(5):
        expected = torch.zeros_like(directions[0])
        for place, terms in enumerate(terms_of(space, expected)):
            for term, (reads, writes) in enumerate(terms):
                own = terms_of(space, directions[row])[place][term]
                for other in range(5):
                    theirs = terms_of(space, directions[other])[place][term]
                    sign = 1 if float(own[0] @ theirs[0] + own[1] @ theirs[1]) >= 0 else -1
                    signs.add(sign)
                    reads.add_(sign * weights[row, other] * theirs[0])
                    writes.add_(sign * weights[row, other] * theirs[1])
        torch.testing.assert_close(space.pulled(weights, directions)[row], expected, atol=1e-6, rtol=1e-5)
    assert signs == {1, -1}


def test_vectors_are_alike_by_their_cosine_and_opposites_are_not():
    space, directions = VectorSpace(Place(0, Site.residual), 6), random_directions(4, 6, "vectors")
    directions[3] = -directions[0]
    assert float(space.likeness(directions)[0, 3]) == pytest.approx(-1)
    weights = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([sum(weights[row, other] * directions[other] for other in range(4)) for row in range(4)])
    torch.testing.assert_close(space.pulled(weights, directions), expected)


@pytest.mark.parametrize("name", KINDS)
def test_gradients_equal_central_differences_at_a_fixed_scale(loaded_family, batch, name):
    plain = loaded_family("gpt2")  # The one family whose norms are computed in float64 where that is given.
    model = copy.deepcopy(plain.model).double()
    double = replace(plain, model=model, anatomy=anatomy(model, None))
    part, space = part_and_space(double, batch, kind(name), 1, 3)
    space, tokens = space.sized(2), batch.input_ids.shape[1]
    directions = drawn(space, 2, "gradient").double()
    aim = random_rows(2, WIDTH, "aim")[:, None, None]
    moving = directions.clone().requires_grad_(True)
    sliced = part.steered(space.perturbations(moving, 1.5), tokens - 1, tokens)
    (gradient,) = torch.autograd.grad((sliced * aim).sum(), moving)
    # Every writing column has norm one before its scale.
    scales = [change.up[:, :, :1].norm(dim=(1, 2)) for change in space.perturbations(directions, 1.5).changes]

    def reached(rows):
        return (residual_by_hand(double, batch, space, rows, scales)[:, :, -1:] * aim).sum(dim=(1, 2, 3))

    for towards in random_rows(3, directions.shape[1], "towards"):
        step = 1e-5 * towards
        difference = (reached(directions + step) - reached(directions - step)) / 2e-5
        torch.testing.assert_close(gradient @ towards, difference, rtol=1e-4, atol=1e-4 * float(gradient.norm(dim=1).max()))


def residual_by_hand(loaded, batch, space, rows, scales):
    """The residual stream [N, B, T, D] after block 3, under parameters that hooks written here put to work at fixed scales."""

    def hook_of(place, row, scale):
        def hook(_module, inputs, output):
            if isinstance(space, LowRankSpace):
                added = sum(scale * (inputs[0] @ read)[..., None] * write for read, write in terms_of(space, row)[place])
            elif isinstance(space, VectorSpace):
                added = 1.5 * row
            else:
                added = 1.5 * space.bases[space.heads[index]].double() @ row
            return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

        return hook

    found = []
    for index, row in enumerate(rows):
        seen = []
        with ExitStack() as stack, torch.no_grad():
            for place, at in enumerate(space.places):
                hook = hook_of(place, row, scales[place][index])
                stack.callback(loaded.anatomy.module(at).register_forward_hook(hook).remove)
            last = loaded.anatomy.blocks[3]
            stack.callback(last.register_forward_hook(lambda _m, _i, output, seen=seen: seen.append(hidden(output))).remove)
            loaded.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids)
        found.append(seen[0])
    return torch.stack(found)


def test_the_spaces_of_one_family_differ_in_what_they_read(llama):
    """Padding is no token: the inputs that hold a scale are those of the prompts alone."""
    ids = [[5, 6, 7, 8], [9, 10]]
    batch = left_padded(("", ""), ids, 0)
    _, space = part_and_space(llama, batch, kind("factor on mlp"), 0, 3)
    assert [given.shape for given in space.inputs] == [(6, 48)] * 2
    single = [part_and_space(llama, left_padded(("",), [row], 0), kind("factor on mlp"), 0, 3)[1] for row in ids]
    for place in range(2):
        torch.testing.assert_close(space.inputs[place], torch.cat([one.inputs[place] for one in single]), atol=1e-4, rtol=1e-4)


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
    assert (random_directions(3, 512, "a", 1) @ random_directions(3, 512, "a", 2).T).abs().max() < 0.3
    space, directions = VectorSpace(Place(0, Site.residual), 8), random_directions(5, 8, "tangent")
    assert (tangent(space, torch.ones(5, 8), directions) * directions).sum(dim=1).abs().max() < 1e-6
