"""The atlas holds what a dense decomposition of each Jacobian says, and chooses by its rule."""

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
import torch
from conftest import BLOCKS
from toys import slice_between

from discover import pipeline
from discover.cli import main
from discover.errors import UsageError
from discover.model.change import biases
from discover.perturb.sphere import unit
from discover.search.atlas import Atlas, Pair, atlas, atlas_size, load_atlas, save_atlas


def dense_gain(llama, batch, source, target):
    """Largest singular value and root mean square gain of the mean over prompts of the unit target's Jacobian, by autograd."""
    part = slice_between(llama, batch, source, target)
    last = part.target.shape[1]

    def read(vector):
        return unit(part.steered(biases(part.entered, vector[None]), last - 1, last))[0, :, 0].mean(dim=0)

    jacobian = torch.autograd.functional.jacobian(read, torch.zeros(part.width))
    values = torch.linalg.svdvals(jacobian.double())
    return part.residual_norm * float(values[0]), part.residual_norm * float(values.square().sum().sqrt()) / part.width**0.5


def test_gains_are_those_of_the_dense_jacobian(llama, batch):
    told = []
    charted = atlas(llama, batch, 0, lambda: told.append(1))
    assert [(pair.source_layer, pair.target_layer) for pair in charted.pairs] == list(combinations(range(BLOCKS), 2))
    assert len(told) == atlas_size(BLOCKS) == len(charted.pairs)
    for pair in charted.pairs[:: BLOCKS - 1]:
        gain, plain = dense_gain(llama, batch, pair.source_layer, pair.target_layer)
        assert pair.gain == pytest.approx(gain, rel=0.02)
        assert pair.plain_gain == pytest.approx(plain, rel=0.3), "sixteen random directions"
        assert pair.contrast == pytest.approx(pair.gain / pair.plain_gain)


def flat(blocks, **gains):
    """An atlas in which every gain is 1 but those that are named, such as s2t3=9."""
    named = {(int(name[1]), int(name[3])): gain for name, gain in gains.items()}
    return Atlas(blocks, tuple(Pair(*pair, named.get(pair, 1.0), 0.5) for pair in combinations(range(blocks), 2)))


def test_the_best_pair_begins_in_the_first_third_and_ends_in_the_first_60_percent():
    assert flat(8, s2t3=2.0, s3t4=9.0, s1t5=9.0).best(None, None) == (2, 3)
    assert flat(8, s0t4=1.5).best(None, None) == (0, 4)
    assert flat(2).best(None, None) == (0, 1)


def test_a_layer_that_is_given_is_kept():
    charted = flat(8, s2t3=2.0, s3t6=9.0, s1t5=4.0)
    assert charted.best(3, None) == (3, 6), "wherever it ends"
    assert charted.best(None, 5) == (1, 5)
    assert charted.best(4, 7) == (4, 7)


def test_it_is_read_as_it_was_written(tmp_path):
    charted = flat(5, s1t2=1 / 3)
    save_atlas(tmp_path / "atlas.json", charted)
    assert load_atlas(tmp_path / "atlas.json") == charted


def test_the_command_leaves_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["atlas", f"folder={tmp_path / 'run'}"])
    saved = json.loads((tmp_path / "run" / "atlas.json").read_text())
    assert saved["blocks"] == 8 and len(saved["pairs"]) == 28
    checks = json.loads((tmp_path / "run" / "run.json").read_text())["self_test"]
    assert max(value for name, value in checks.items() if name != "tolerance") < checks["tolerance"]
    source, target = load_atlas(tmp_path / "run" / "atlas.json").best(None, None)
    page = (tmp_path / "run" / "atlas.html").read_text()
    assert page.count("<rect") == 28 and page.count('class="best"') == 1
    main(["resume", str(tmp_path / "run")])
    assert not (tmp_path / "run" / "bank.safetensors").exists(), "an atlas goes on as an atlas"
    assert f"search.layers=auto takes source {source} and target {target}." in capsys.readouterr().out


def test_a_model_that_cannot_be_trusted_is_not_charted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise UsageError("The self-test failed.")

    monkeypatch.setattr(pipeline, "self_test", refused)
    with pytest.raises(SystemExit) as ended:
        main(["atlas", f"folder={tmp_path / 'run'}"])
    assert ended.value.code == 2 and not (tmp_path / "run" / "atlas.json").exists()


def test_a_run_can_take_its_layers_from_it(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [f"model.path={checkpoint('llama')}", 'prompts.texts=["Count the boats."]', f"folder={folder}", "search.layers=auto"]
    few = ["search.vectors=2", "search.rounds=1", "audit.forced_tokens=0", "tracking.mode=disabled", "speech.tokens=4"]
    few += ["prompts.neutral=0", "audit.samples=4", "pilot.vectors=2", "pilot.tokens=8"]
    main([*words, *few])
    about = json.loads((folder / "run.json").read_text())
    assert tuple(about["layers"]) == load_atlas(folder / "atlas.json").best(None, None)
    assert '<svg class="heat"' in (folder / "report.html").read_text()
