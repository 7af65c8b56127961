"""How far a stage is: a bar with the time left in a terminal or a notebook, and a plain line now and then anywhere else."""

import sys
import time
from datetime import timedelta
from types import TracebackType

from tqdm import tqdm
from tqdm.auto import tqdm as notebook

EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


class Stage:
    """A bar whose total is an estimate: a stage that ends by itself ends at 100 %."""

    n: float
    total: float

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the bar; after an error it stays where the stage stood."""
        if kind is None:
            self.total = self.n
        super().__exit__(kind, error, trace)  # type: ignore[misc]


class Bar(Stage, tqdm):
    """A bar in a terminal."""


class Cell(Stage, notebook):
    """A bar in a notebook."""


class Lines(Stage, tqdm):
    """A bar that is written as lines: one every half minute, and one at its end."""

    disable: bool

    def __init__(self, stage: str, total: int) -> None:
        super().__init__(total=total, desc=stage, disable=False, mininterval=EVERY, maxinterval=EVERY, miniters=1)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:  # noqa: ARG002 - what tqdm would show, and where
        """Write where the stage stands and how long it still takes; nothing where it has only begun."""
        if self.n:
            spent = time.time() - self.start_t
            self._write(f"after {_clock(spent)}, about {_clock(spent * max(0, self.total - self.n) / self.n)} left")
        return True

    def close(self) -> None:
        """Write the last line, once."""
        if not self.disable:
            self.disable = True
            if self.total:
                self._write(f"in {_clock(time.time() - self.start_t)}")

    def _write(self, told: str) -> None:
        print(f"{self.desc}: {self.n:,} of {self.total:,} {told}", file=sys.stderr, flush=True)


def bar(stage: str, total: int) -> tqdm:
    """Return the progress of `total` units of work, on standard error."""
    if "ipykernel" in sys.modules:
        return Cell(total=total, desc=stage, leave=True)
    if not sys.stderr.isatty():
        return Lines(stage, total)
    return Bar(total=total, desc=f"{stage:<10}", leave=True, dynamic_ncols=True)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
