"""The wheel that is built works from any directory: configs and organisms travel in it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_an_installed_wheel_runs_elsewhere(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "discover/conf/config.yaml" in names
    assert {"discover/sweeps/seeds.yaml", "discover/sweeps/wandb/layers.yaml"} <= set(names)
    assert "discover/organisms/weights/arithmetic/model.safetensors" in names
    assert not [name for name in names if name.startswith(("tests", "outputs"))]
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(site)
    elsewhere.mkdir()
    # The environment's own editable install must not be what answers.
    where = "import sys; sys.path.insert(0, sys.argv.pop(1)); import discover; assert sys.path[0] in discover.__file__; "
    command = [sys.executable, "-c", where + "from discover.cli import main; main(sys.argv[1:])", str(site)]
    words = [
        "search.vectors=2",
        "search.rounds=1",
        "speech.tokens=4",
        "audit.forced_tokens=0",
        "audit.samples=2",
        "search.layers=depth",
        "search.calibration=turn",
        "prompts.neutral=0",
        "tracking.mode=disabled",
        "folder=run",
    ]
    ran = subprocess.run([*command, *words], cwd=elsewhere, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (elsewhere / "run" / "report.html").exists()
