"""How much memory one search takes, measured in a process of its own."""

import json
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from discover.bench.options import BenchConfig
from discover.config import Config, SearchConfig
from discover.errors import UsageError
from discover.inputs import prepared, prompt_batch
from discover.model.loading import load
from discover.organisms.catalogue import checkpoint
from discover.search.learning import learn


@dataclass(frozen=True)
class MemoryRow:
    """The most memory that a process held which did nothing but one search."""

    model: str
    vectors: int
    peak_bytes: int


def memory_row(options: BenchConfig) -> MemoryRow:
    """Run one search in this process and return the most memory that this process has ever held, model and torch included.

    Raises:
        UsageError: the search cannot be done on this model.
    """
    config = Config(model=options.model, seed=options.first_seed, search=SearchConfig(vectors=options.memory_vectors))
    loaded = load(config.model, checkpoint(config.model.path))
    (ground,) = prepared(config, loaded, prompt_batch(config, loaded), None)
    learn(config.search, ground.part, ground.space, ground.reply_tokens, ground.layers, config.seed, {}, lambda _: None)
    return MemoryRow(options.model.path, options.memory_vectors, peak_bytes())


def peak_bytes() -> int:
    """Return the most resident memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux hands `ru_maxrss` on through fork and exec: a small child of a large process would look as large as that.
        return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def memory_row_apart(options: BenchConfig) -> MemoryRow:
    """Return what `discover bench memory` measures in a fresh process.

    Raises:
        UsageError: it ended with a sentence of its own.
    """
    model = options.model
    words = [f"model.{name}={getattr(value, 'value', value)}" for name, value in vars(model).items() if value is not None]
    words += [f"memory_vectors={options.memory_vectors}", f"first_seed={options.first_seed}"]
    done = subprocess.run(
        [sys.executable, "-m", "discover", "bench", "memory", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UsageError(f"The search whose memory is measured ended with {done.stderr.strip().splitlines()[-1:]}.")
    return MemoryRow(**json.loads(done.stdout))


def print_memory(options: BenchConfig) -> None:
    """Measure a search in this process and print one line of JSON."""
    print(json.dumps(asdict(memory_row(options))))
