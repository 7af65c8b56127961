"""Everything that a report shows; the reports compute nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from discover.audit.findings import Finding
from discover.audit.known import Likeness
from discover.audit.uses import Use
from discover.bank import VectorBank
from discover.model.anatomy import Site
from discover.read.decoders import Decoding
from discover.read.effects import EffectMap
from discover.read.hints import Hint
from discover.read.modes import Mode
from discover.read.signals import Completion
from discover.read.triage import Glance
from discover.read.trials import Trial
from discover.report.text import one_line
from discover.search.atlas import Atlas
from discover.statistics import Share, random_cosine

QUESTIONS = {
    "clean": "other prompts that show it",
    "triggered": "triggers that show it",
    "right": "questions answered rightly",
}
"""What is counted where a vector is used, by its field."""
ABOUT_USES = (
    "A reply shows the behaviour if it has the words of the finding's example but for a fifth. A vector that fires it on other "
    "prompts when added is sufficient for it; one that keeps it away from its triggers when subtracted is necessary there. "
    "Multiplier 0 is the model left alone; the random vectors are of the same kind, place and norm."
)
"""What the shares of uses are."""
NEAREST = 10
"""Vectors shown beside each known direction."""


@dataclass(frozen=True)
class Used:
    """What the vector of one finding does on other prompts."""

    place: int
    """Of the finding in the report, from 1."""
    finding: Finding
    rows: tuple[Use, ...]
    """By multiplier, the learned vector before the random ones."""
    asked: tuple[str, ...]
    """The fields of QUESTIONS that were asked."""

    @property
    def vector(self) -> int:
        """The vector."""
        return next(one.vector for one in self.rows if one.bank == "learned")

    def who(self, row: Use) -> str:
        """Return whose row it is."""
        if not row.multiplier:
            return "left alone"
        return f"vector {row.vector}" if row.bank == "learned" else "random vectors"

    def doses(self, question: str, bank: str) -> list[tuple[float, Share]]:
        """Return the share at every multiplier, the model left alone included."""
        rows = [(row.multiplier, getattr(row, question)) for row in self.rows if row.bank == bank or not row.multiplier]
        return [(multiplier, share) for multiplier, share in rows if share is not None]


@dataclass(frozen=True)
class Nearest:
    """The largest cosines of a bank's vectors with one known direction."""

    known: Likeness
    effect: int
    """Vector whose effect resembles that of the direction most, or opposes it most."""
    source: int | None
    """Vector that itself does; None where that cannot be compared."""
    most: tuple[int, ...]
    """Vectors whose effects do, most first."""
    every: tuple[int, ...]
    """All vectors in that order."""


@dataclass(frozen=True)
class Record:
    """One finished run."""

    about: dict[str, Any]
    """run.json: config, versions, model, layers, self-test."""
    prompts: Sequence[str]
    """The B prompts."""
    bank: VectorBank
    curve: Sequence[dict[str, float]]
    """Per round its number and the mean, least and greatest objective; of a mixture also the number of the way."""
    completions: Sequence[Completion]
    modes: Sequence[Mode]
    findings: Sequence[Finding]
    """One per mode that the bank reaches, strongest first."""
    charted: Atlas | None
    """Every pair of layers, where the run chose its own by it."""
    uses: Sequence[Use]
    """What the vectors of the strongest findings do on other prompts."""
    likenesses: Sequence[Likeness]
    """How much every vector resembles each known direction."""
    glances: Sequence[Glance]
    """What every vector of both banks does before it speaks."""
    mapped: EffectMap | None
    """Every vector by its effect; None where no map was asked for."""
    decodings: Sequence[Decoding]
    """What the decoders say about the vectors that stand for modes, and about some random ones."""
    hints: Sequence[Hint]
    """What the unsteered model goes on to say from what vectors boost."""
    trials: Sequence[Trial]
    """What the pilot heard of every arm; empty where there was none."""

    @property
    def masked(self) -> bool:
        """Whether text stands here only by its hash and length."""
        return bool(self.about["config"].get("report", {}).get("redact"))

    @property
    def given(self) -> str:
        """How the model was given the prompts, in words; empty where that was not noted."""
        noted = self.about.get("rendering")
        if noted is None:
            return ""
        if not noted["template"]:
            return "as raw text, without a chat template"
        if noted["system"] is not None:
            return f'through the chat template, with the system message "{noted["system"]}"'
        own = noted["own_system"]
        return "through the chat template" + (
            "; no system message was given" if own is None else f', which adds a system message of its own, "{own}"'
        )

    def rendered(self, prompt: int) -> str | None:
        """Return a prompt as the model was given it, special tokens included; None where that was not noted."""
        noted = self.about.get("rendering")
        return None if noted is None else noted["texts"][prompt]

    @property
    def learned(self) -> str:
        """How many of what kind were learned, and from what."""
        ways, count = self.bank.ways, len(self.prompts)
        number = len(self.bank.origin.get("learned_from", [])) or count
        whence = f"{number} of {count} prompts" if number < count else f"{count} prompt{'s' if count > 1 else ''}"
        if len(ways) > 1:
            return f"{len(self.bank)} perturbations, learned in {len(ways)} ways from {count} prompt{'s' if count > 1 else ''}"
        return f"{kind_of(ways[0])}, learned from {whence}"

    @property
    def ways(self) -> list[str]:
        """Every way in which vectors of a mixture were learned, as a sentence; empty where there was one way."""
        found, begin = [], 0
        for way in self.bank.ways if self.bank.shares else ():
            found.append(f"{begin} to {begin + len(way) - 1}: {told_of(way)}")
            begin += len(way)
        return found

    @property
    def heard(self) -> str:
        """How many vectors of each bank spoke to the end, in words; empty where all did."""
        spoke = {(said.bank, said.vector) for said in self.completions}
        every = Counter(one.bank for one in self.glances)
        counts = [(bank, sum((bank, vector) in spoke for vector in range(n)), n) for bank, n in every.items()]
        if all(count == n for _, count, n in counts):
            return ""
        told = " and ".join(f"{count} of {n} {'random' if bank == 'null' else bank} vectors" for bank, count, n in counts)
        return f"Within speech.budget, {told} were heard; those that were not count as reaching nothing."

    @property
    def used(self) -> list[Used]:
        """What the vectors of findings do on other prompts, finding by finding."""
        found = []
        for place, finding in enumerate(self.findings, 1):
            own = [use for use in self.uses if use.mode == finding.mode]
            asked = tuple(name for name in QUESTIONS if any(getattr(use, name) is not None for use in own))
            if asked:
                rows = sorted(own, key=lambda use: (use.multiplier, use.bank != "learned"))
                found.append(Used(place, finding, tuple(rows), asked))
        return found

    @property
    def nearest(self) -> list[Nearest]:
        """What resembles each known direction most."""
        found = []
        for known in self.likenesses:
            order = sorted(range(len(known.effect)), key=lambda vector: -abs(known.effect[vector]))
            source = None if known.source is None else _largest(known.source)
            found.append(Nearest(known, order[0], source, tuple(order[:NEAREST]), tuple(order)))
        return found

    @property
    def by_chance(self) -> str:
        """How near random directions of the model's width come to a fixed one, in words."""
        width, count = self.bank.perturbations.changes[0].bias.shape[1], len(self.bank)
        return (
            f"A random direction of this width ({width}) has a cosine of about {1 / sqrt(width):.2g} with a known one, and the "
            f"largest of {count} of about {random_cosine(width, count):.2g}; effects of random vectors resemble each other more."
        )

    def hint(self, finding: Finding) -> Hint | None:
        """Return what the vector of a finding points at; None where none was followed."""
        return next((hint for hint in self.hints if hint.mode == finding.mode), None)

    def unsteered_from(self, said: Completion) -> str | None:
        """Return how a completion that no vector steered began: with what in the model's mouth; None where one did."""
        return None if said.opening is None else f'unsteered, from "{one_line(said.opening, 30)}"'

    def unsteered(self, prompt: int) -> Completion:
        """Return the model's own reply to a prompt."""
        return next(said for said in self.completions if said.bank == "unsteered" and said.prompt == prompt)


def kind_of(bank: VectorBank) -> str:
    """Return how many of what kind a bank of one way holds."""
    kinds = {"adapter": "adapters", "factor": "factors", "head": "head vectors"}
    return f"{len(bank)} {kinds.get(bank.origin.get('perturbation', ''), 'vectors')}"


def size_of(bank: VectorBank) -> str:
    """Return the norm of what a bank of one way adds."""
    return f"of norm {bank.radius:.4g} ({bank.relative_radius:.2f} of the residual stream's)"


def acting(bank: VectorBank) -> str:
    """Return where a bank of one way acts."""
    places = [change.place for change in bank.perturbations.changes]
    blocks = str(places[0].block) if len(places) == 1 else f"{places[0].block} to {places[-1].block}"
    told = "after block" if places[0].site is Site.residual else f"on the {places[0].site.value} output of block"
    last = bank.perturbations.last
    ends = f", at the prompt's last {last} positions and all that is said" if last else ""
    return f"{told}{'s' if len(places) > 1 else ''} {blocks}{ends}"


def read_at(bank: VectorBank) -> str:
    """Return where the effects of a bank of one way were read."""
    origin, block = bank.origin, bank.target_layer
    into, span = origin.get("reply_tokens", 0), origin.get("span", [])
    deeper = f", half of them up to {into} tokens into the reply" if into else ""
    if span:
        deeper = f", at positions {span[0]} to {span[1]} (-1 is the prompt's last token)"
    what = {"attention": f"from the attention of block {block}", "logits": "from the logits"}
    numbers = origin.get("learned_from", [])
    whence = f", learned from prompt{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}" if numbers else ""
    return f"read {what.get(origin.get('target', ''), f'after block {block}')}{deeper}{whence}"


def told_of(bank: VectorBank) -> str:
    """Return a bank of one way in words."""
    return f"{kind_of(bank)} {size_of(bank)} {acting(bank)}, {read_at(bank)}"


def _largest(values: Sequence[float]) -> int:
    """Return the place of the value that is furthest from zero."""
    return max(range(len(values)), key=lambda place: abs(values[place]))
