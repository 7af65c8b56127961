"""A bank comes back as it was saved, and its null is a bank of the same kind."""

import pytest
import torch
from safetensors.torch import save_file

from discover.bank import VectorBank
from discover.errors import UsageError
from discover.perturb.sphere import random_directions
from discover.storage import write_tensors


@pytest.fixture
def bank():
    return VectorBank(
        directions=random_directions(6, 16, "bank"),
        objective=torch.tensor([0.1, 1 / 3, torch.nan, torch.inf, -0.0, 5.0]),
        radius=0.1 + 0.2,
        residual_norm=2 / 3,
        source_layer=3,
        target_layer=6,
        origin={"model": "tiny \u2028\x00", "seed": 2**62, "fingerprints": {"b": "2", "a": "1"}},
    )


def test_round_trip_is_exact(bank, tmp_path):
    bank.save(tmp_path / "bank.safetensors")
    for path in (tmp_path, str(tmp_path / "bank.safetensors")):
        held = VectorBank.load(path)
        assert torch.equal(held.directions, bank.directions)
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


def test_vectors_have_the_radius(bank):
    torch.testing.assert_close(bank.vectors.norm(dim=1), torch.full((6,), bank.radius))
    assert bank.relative_radius == pytest.approx(0.45)


def not_safetensors(path):
    path.write_text("{}")


def no_header(path):
    save_file({"directions": torch.ones(1, 2), "objective": torch.ones(1)}, path)


def other_tensors(path):
    write_tensors(path, {"weight": torch.ones(2)}, {"format": "discover.bank/1"})


def later_format(path):
    write_tensors(path, {"directions": torch.ones(1, 2), "objective": torch.ones(1)}, {"format": "discover.bank/9", "extra": 1})


def no_format(path):
    write_tensors(path, {"directions": torch.ones(1, 2), "objective": torch.ones(1)}, {"step": 1})


def header_is_no_json(path):
    save_file({"directions": torch.ones(1, 2), "objective": torch.ones(1)}, path, metadata={"about": "{"})


@pytest.mark.parametrize("write", [not_safetensors, no_header, other_tensors, later_format, no_format, header_is_no_json, None])
def test_refuses_what_is_no_bank(tmp_path, write):
    path = tmp_path / "file.safetensors"
    if write is not None:
        write(path)
    with pytest.raises(UsageError, match=r"file.safetensors holds no vector bank .*; give a run's folder"):
        VectorBank.load(path)


def test_refuses_a_folder_without_a_bank(tmp_path):
    with pytest.raises(UsageError, match=r"bank.safetensors holds no vector bank"):
        VectorBank.load(tmp_path)


def test_a_null_has_the_same_place_and_radius_and_other_directions(bank):
    null = bank.null(40, seed=5)
    for name in ("radius", "residual_norm", "source_layer", "target_layer"):
        assert getattr(null, name) == getattr(bank, name)
    assert len(null) == 40 and torch.isnan(null.objective).all()
    torch.testing.assert_close(null.directions.norm(dim=1), torch.ones(40))
    assert (null.directions @ bank.directions.T).abs().max() < 0.99
    assert null.origin == {**bank.origin, "solver": "null", "seed": 5}
    assert torch.equal(bank.null(3, seed=5).directions, null.directions[:3])
    assert not torch.equal(bank.null(40, seed=6).directions, null.directions)


def test_a_null_shares_nothing_with_the_start_of_a_search(bank):
    from discover.search.solvers import starting_directions

    assert (bank.null(6, 0).directions @ starting_directions(6, 16, 0).T).abs().max() < 0.95


def test_a_subset_keeps_its_rows_in_the_order_asked_for(bank):
    part = bank.subset([4, 1])
    assert torch.equal(part.directions, bank.directions[[4, 1]]) and torch.equal(part.objective, bank.objective[[4, 1]])
    assert part.radius == bank.radius and len(bank.subset([])) == 0


@pytest.mark.parametrize("index", [-1, 6])
def test_a_subset_of_rows_that_are_not_there_is_refused(bank, index):
    with pytest.raises(UsageError, match=f"There is no vector {index} in this bank; it holds vectors 0 to 5"):
        bank.subset([0, index])
