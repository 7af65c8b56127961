"""Every option of `discover bench` as a dataclass field; imports no torch."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from discover.config import ModelConfig
from discover.errors import UsageError


class Part(Enum):
    """A question that a bench answers."""

    methods = "methods"
    """Which method finds what, all at one budget?"""
    budgets = "budgets"
    """What do the main methods find at other budgets?"""
    speed = "speed"
    """How fast is the engine, against the published procedure and against what the machine can do?"""
    memory = "memory"
    """How much memory does a search take?"""
    triage = "triage"
    """What share of hits is kept where tokens are spent on some of the vectors?"""
    generate = "generate"
    """How fast does the model speak under many vectors at once, against one vector at a time?"""
    run = "run"
    """How fast is each stage of a run on any model, against what the machine can do, and against batched `generate`?"""


@dataclass
class BenchConfig:
    """One bench."""

    folder: str = "outputs/bench"
    model: ModelConfig = field(default_factory=ModelConfig)
    parts: list[Part] = field(default_factory=lambda: [part for part in Part if part is not Part.run])
    methods: list[str] = field(default_factory=list)
    """Names of the methods that are compared; none means all but those at published settings, which take minutes a seed."""
    seeds: int = 10
    """Runs of each method."""
    first_seed: int = 100
    """Seed of the first; those from 100 on are for development."""
    vectors: int = 64
    """N of every method."""
    steps: int = 2
    """Budget of the methods table in vector-steps a vector: passes of one perturbation forward and back through the slice."""
    repeats: int = 5
    """Times that everything timed is timed, in turn with what it is held against."""
    memory_vectors: int = 4096
    """N of the search whose memory is measured."""
    speaking_vectors: int = 128
    """N of the vectors under which the model speaks."""
    quick: bool = False
    """Whether to begin from small numbers (`QUICK`) instead of these defaults."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        for name in ("seeds", "vectors", "steps", "repeats", "memory_vectors", "speaking_vectors"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)} must be 1 or more.")
        if not self.parts:
            raise UsageError(f"parts=[] leaves nothing to do; use some of {', '.join(part.value for part in Part)}.")


QUICK: dict[str, Any] = {
    **{"seeds": 2, "vectors": 16, "memory_vectors": 512, "speaking_vectors": 32},
    "parts": ["methods", "speed", "memory", "generate"],
}
"""What `quick=true` puts in the place of the defaults; options that are given still count."""
OF_SPEECH = ("folder", "model", "repeats", "speaking_vectors", "quick")
"""The options that `discover bench generate` and `discover bench run` take."""

USAGE = """discover bench: which method finds what, and at what cost, on this machine

  discover bench search                     every part; an interrupted bench goes on where it stood
  discover bench search quick=true          a few minutes: 2 seeds, 16 vectors, no budgets
  discover bench memory                     one search in this process, and the most memory it took
  discover bench generate                   tokens a second under many vectors at once, against one vector at a time
  discover bench run model.path=…           each stage of a run on any model: seconds, and share of what the machine can do

Options, as key=value; `generate` and `run` take folder, model.*, repeats, speaking_vectors and quick:
  folder=outputs/bench     where bench.json, bench.md, budgets.png and rows/ go
  model.path=arithmetic    a built-in organism (`run`: any model); the other options of model.* as in a run
  parts=[methods,budgets,speed,memory,triage,generate]
  methods=[…]              names of the methods to compare; unless given, all that keep to the budget, and so not those
                           at published settings: melbo_published, melbo_published_angle, dct_published, cpe_published
  seeds=10 first_seed=100  runs of each method
  vectors=64               of every method
  steps=2                  vector-steps a vector in the methods table
  repeats=5                of everything that is timed
  memory_vectors=4096      vectors of the search whose memory is measured
  speaking_vectors=128     vectors under which the model speaks
  quick=false              begin from small numbers
"""
