"""Progress is a bar where somebody looks on, and lines that can be read afterwards anywhere else."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from discover.choices import Device
from discover.config import ModelConfig
from discover.model.loading import load
from discover.report import progress
from discover.report.progress import bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_there_is_a_line_every_half_minute_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, a run under nohup wrote nothing at all for as long as it took."""
    now = [1000.0]
    with bar("speech", 1200) as shown:
        monkeypatch.setattr(shown, "_time", lambda: now[0])
        monkeypatch.setattr(progress.time, "time", lambda: now[0])
        shown.start_t = shown.last_print_t = now[0]
        for _ in range(12):
            now[0] += 10.0
            shown.update(100)
    assert capsys.readouterr().err.splitlines() == [
        "speech: 300 of 1,200 after 0:00:30, about 0:01:30 left",
        "speech: 600 of 1,200 after 0:01:00, about 0:01:00 left",
        "speech: 900 of 1,200 after 0:01:30, about 0:00:30 left",
        "speech: 1,200 of 1,200 after 0:02:00, about 0:00:00 left",
        "speech: 1,200 of 1,200 in 0:02:00",
    ]


def test_a_stage_that_does_nothing_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("uses", 0):
        pass
    with pytest.raises(KeyboardInterrupt), bar("hints", 4) as shown:
        shown.update(1)
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "hints: 1 of 4 in 0:00:00\n", "what was stopped says how far it came"


def test_a_stage_that_needs_less_than_it_said_ends_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, a pilot that tried no arm twice ended at 64 %."""
    with bar("pilot", 660) as shown:
        shown.update(420)
    assert capsys.readouterr().err == "pilot: 420 of 420 in 0:00:00\n"
    monkeypatch.setattr(sys, "stderr", Terminal())
    with bar("pilot", 660) as shown:
        shown.update(420)
    assert "100%" in sys.stderr.getvalue() and "420/420" in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with bar("speech", 4) as shown:
        shown.update(4)
    assert "speech    : 100%" in sys.stderr.getvalue() and "4/4" in sys.stderr.getvalue()


def test_a_checkpoint_is_loaded_without_bars_of_another_library(
    checkpoint: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint("llama")
    capfd.readouterr()
    load(ModelConfig(device=Device.cpu), folder)
    assert "%" not in capfd.readouterr().err
