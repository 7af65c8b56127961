"""A bank comes back as it was saved, and its null is a bank of the same kind."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from toys import after

from discover.bank import VectorBank
from discover.errors import UsageError
from discover.model.anatomy import Place, Site
from discover.model.change import Change, Perturbations
from discover.perturb.sphere import random_directions, random_rows
from discover.storage import write_tensors

RADIUS = 0.1 + 0.2


def low_rank(sizes):
    """Six changes of rank 2 and 1 to projections that read other widths than they write."""
    places = (Place(3, Site.attention), Place(4, Site.mlp))
    return Perturbations(
        tuple(
            Change(place, torch.zeros(6, 16), random_rows(6 * rank, size, "down", size).view(6, rank, size).float(),
                   random_rows(6 * 16, rank, "up", size).view(6, 16, rank).float())
            for place, rank, size in zip(places, (2, 1), sizes, strict=True)
        )
    )  # fmt: skip


KINDS = {"vector": after(3, RADIUS * random_directions(6, 16, "bank")), "factor": low_rank((8, 24))}


@pytest.fixture(params=KINDS)
def bank(request):
    return VectorBank(
        perturbations=KINDS[request.param],
        objective=torch.tensor([0.1, 1 / 3, torch.nan, torch.inf, -0.0, 5.0]),
        radius=RADIUS,
        residual_norm=2 / 3,
        source_layer=3,
        target_layer=6,
        origin={"perturbation": request.param, "model": "tiny \u2028\x00", "seed": 2**62, "fingerprints": {"b": "2", "a": "1"}},
    )


def same(first, second):
    """Whether two sets of perturbations are equal bit for bit, at the same places."""
    pairs = list(zip(first.changes, second.changes, strict=True))
    parts = [(getattr(one, name), getattr(other, name)) for one, other in pairs for name in ("bias", "down", "up")]
    return all(one.place == other.place for one, other in pairs) and all(torch.equal(one, other) for one, other in parts)


def test_round_trip_is_exact(bank, tmp_path):
    bank.save(tmp_path / "bank.safetensors")
    for path in (tmp_path, str(tmp_path / "bank.safetensors")):
        held = VectorBank.load(path)
        assert same(held.perturbations, bank.perturbations)
        assert torch.equal(held.objective.view(torch.int32), bank.objective.view(torch.int32)), "bit for bit, NaN included"
        for name in ("radius", "residual_norm", "source_layer", "target_layer", "origin"):
            assert getattr(held, name) == getattr(bank, name)


def test_equal_banks_give_equal_bytes(bank, tmp_path):
    bank.save(tmp_path / "first")
    VectorBank.load(tmp_path / "first").save(tmp_path / "second")
    content = (tmp_path / "first").read_bytes()
    assert content == (tmp_path / "second").read_bytes()
    VectorBank.save_as(tmp_path / "second", bank.subset([0, 1]))
    assert content != (tmp_path / "second").read_bytes()


@pytest.mark.parametrize("bank", ["vector"], indirect=True)
def test_vectors_are_what_is_added(bank):
    torch.testing.assert_close(bank.vectors, bank.radius * random_directions(6, 16, "bank"))
    assert bank.relative_radius == pytest.approx(0.45)


@pytest.mark.parametrize("bank", ["factor"], indirect=True)
def test_low_rank_changes_are_no_vectors(bank):
    first, second = bank.perturbations.changes
    for changes in ((first, second), (first,)):
        with pytest.raises(UsageError, match="This bank holds perturbations of kind factor, not vectors"):
            _ = replace(bank, perturbations=Perturbations(changes)).vectors
    # Two places have no single vector even where both changes are biases.
    both = Perturbations(tuple(after(block, torch.ones(6, 16)).changes[0] for block in (3, 4)))
    with pytest.raises(UsageError, match="not vectors"):
        _ = replace(bank, perturbations=both).vectors


TENSORS = {"0.bias": torch.ones(1, 2), "0.down": torch.ones(1, 0, 0), "0.up": torch.ones(1, 2, 0), "objective": torch.ones(1)}


def not_safetensors(path):
    path.write_text("{}")


def no_header(path):
    save_file(TENSORS, path)


def other_tensors(path):
    write_tensors(path, {"weight": torch.ones(2)}, {"format": "discover.bank/2", "places": [[3, "residual"]]})


def later_format(path):
    write_tensors(path, TENSORS, {"format": "discover.bank/9", "places": [[3, "residual"]], "extra": 1})


def no_format(path):
    write_tensors(path, TENSORS, {"places": [[3, "residual"]]})


def unknown_place(path):
    write_tensors(path, TENSORS, {"format": "discover.bank/2", "places": [[3, "elbow"]]})


def header_is_no_json(path):
    save_file(TENSORS, path, metadata={"about": "{"})


@pytest.mark.parametrize(
    "write", [not_safetensors, no_header, other_tensors, later_format, no_format, unknown_place, header_is_no_json, None]
)
def test_refuses_what_is_no_bank(tmp_path, write):
    path = tmp_path / "file.safetensors"
    if write is not None:
        write(path)
    with pytest.raises(UsageError, match=r"file.safetensors holds no vector bank .*; give a run's folder"):
        VectorBank.load(path)


def test_refuses_a_folder_without_a_bank(tmp_path):
    with pytest.raises(UsageError, match=r"bank.safetensors holds no vector bank"):
        VectorBank.load(tmp_path)


def test_a_void_bank_has_the_same_place_and_radius_and_other_perturbations(bank):
    others = bank.perturbations.repeated(7).scaled(0.5)
    void = bank.void(others, seed=5)
    for name in ("radius", "residual_norm", "source_layer", "target_layer"):
        assert getattr(void, name) == getattr(bank, name)
    assert len(void) == 42 and torch.isnan(void.objective).all()
    assert same(void.perturbations, others)
    assert void.origin == {**bank.origin, "solver": "null", "seed": 5}


def test_the_subset_of_a_subset_is_saved_and_read(bank, tmp_path):
    bank.subset([5, 2, 0]).subset([1]).save(tmp_path / "bank.safetensors")
    assert same(VectorBank.load(tmp_path).perturbations, bank.perturbations.rows([2]))


def test_a_subset_keeps_its_rows_in_the_order_asked_for(bank):
    part = bank.subset([4, 1])
    assert same(part.perturbations, bank.perturbations.rows([4, 1])) and torch.equal(part.objective, bank.objective[[4, 1]])
    assert part.radius == bank.radius and len(bank.subset([])) == 0


@pytest.mark.parametrize("index", [-1, 6])
def test_a_subset_of_rows_that_are_not_there_is_refused(bank, index):
    with pytest.raises(UsageError, match=f"There is no vector {index} in this bank; it holds vectors 0 to 5"):
        bank.subset([0, index])
