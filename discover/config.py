"""Every option of a run as a dataclass field, with its unit and its rule; imports no torch and no Hydra.

The YAML in `conf/` holds only what differs from these defaults.
"""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

from discover.choices import (
    Attention,
    Calibration,
    Device,
    Diversity,
    Dtype,
    Kind,
    Layers,
    Measured,
    Method,
    Moment,
    Projection,
    Prompts,
    Similarity,
    Solver,
    Target,
    TrackingMode,
    Where,
)
from discover.errors import UsageError
from discover.schema import check_option, positive, value_of


@dataclass
class ModelConfig:
    """The checkpoint under audit."""

    path: str = "arithmetic"
    """A built-in name, a local checkpoint's folder, a GGUF file, a folder with a PEFT adapter, or a hub id."""
    base: str | None = None
    """The model that an adapter is for, named as in `path`; null means what the adapter's config says."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: Dtype = Dtype.auto
    """`auto` is the checkpoint's own on a GPU and float32 on a CPU."""
    device: Device = Device.auto
    """`auto` is a GPU where there is one."""
    attention: Attention = Attention.auto
    """`auto` is sdpa where the architecture has it and eager elsewhere."""
    blocks_path: str | None = None
    """Dotted path of the list of decoder blocks, where it cannot be found by structure."""


NEUTRAL = (
    "What should I do this evening?",
    "How do bees make honey?",
    "Tell me about a place that is worth a visit.",
    "What is a good way to learn a new language?",
    "Can you explain how a bicycle stays upright?",
    "What should I cook for my friends?",
)
"""Prompts about nothing in particular, unlike one another."""


OURS = {"messages", "conversation", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"}
"""Arguments of a chat template that are not the user's to give."""


@dataclass
class PromptConfig:
    """The prompts that the vectors are learned from and speak to."""

    texts: list[str] = field(default_factory=list)
    """Prompts; with neither these nor a file, a built-in organism brings its own."""
    file: str | None = None
    """A UTF-8 file: a prompt a line, or rows of .jsonl, .json or .csv; a prompt is a text or a list of chat messages."""
    column: str | None = None
    """Under which name a row has its prompt; null means `prompt` or `messages`."""
    chat: bool | None = None
    """Whether to use the chat template; null means if there is one."""
    template: str | None = None
    """Name of the chat template, where the tokenizer has several; null means that called default."""
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Values that the chat template reads, for example {enable_thinking: false}."""
    system: str | None = None
    """A system message, where the chat template takes one."""
    reply_prefix: str = ""
    """How every reply begins: it stands behind the prompt, and the model goes on from there."""
    neutral: int = 2
    """Bundled everyday prompts that every vector speaks to as well (of a built-in organism, clean prompts of its own): a planted
    reply comes back on unlike prompts in the same words. They are learned from only where the pilot finds that it pays."""

    def __post_init__(self) -> None:
        """Refuse a number of prompts that there are not, and options of a template where none is used."""
        of_template = {"system": self.system, "template": self.template, "template_kwargs": self.template_kwargs or None}
        for name in [name for name, value in of_template.items() if value is not None]:
            if self.chat is False:
                raise UsageError(
                    f"prompts.{name} is for a chat template, and prompts.chat=false uses none; leave one of them out."
                )
        for name in sorted(OURS & self.template_kwargs.keys()):
            raise UsageError(f"prompts.template_kwargs holds {name}, which is set for every prompt; leave it out.")
        if not 0 <= self.neutral <= len(NEUTRAL):
            raise UsageError(f"prompts.neutral={self.neutral} must be 0 to {len(NEUTRAL)}, the bundled prompts there are.")


DIVERSITIES = {
    Solver.fixed_point: (Diversity.none, Diversity.orthogonal, Diversity.sequential, Diversity.soft, Diversity.deflation),
    # Soft diversity undoes the small steps of an ascent: it moves directions by far more than these do.
    Solver.ascent: (Diversity.none, Diversity.orthogonal, Diversity.sequential),
    Solver.power: (Diversity.none,),
    Solver.cpe: (Diversity.none, Diversity.soft),
    Solver.random: tuple(Diversity),
}
"""Which means of keeping vectors apart each solver has; singular vectors are apart by themselves."""
WHOLE = {
    "mixture": "is a mixture within a mixture; name its ways side by side",
    "steered_positions": "is none: search.steered_positions says where the whole bank acts",
    "both_signs": "is none: search.both_signs says what the whole bank holds",
}
"""What no way of a mixture has of its own, and why."""
ROUNDS = {Solver.fixed_point: 2, Solver.power: 15, Solver.cpe: 10}
"""Rounds where none are given."""


@dataclass
class SearchConfig:
    """How steering vectors are learned."""

    perturbation: Kind = Kind.vector
    solver: Solver = Solver.fixed_point
    vectors: int = 64
    """N, of whatever kind."""
    mixture: list[dict[str, Any]] = field(default_factory=list)
    """Ways to learn that share one bank: each names the options of this section in which it differs. Those without `vectors`
    share evenly what the others leave of N."""
    learned_from: list[int] = field(default_factory=list)
    """Numbers of the prompts that are learned from, the first 0, the bundled neutral ones last; none means all but these. Vectors
    speak to every prompt."""
    both_signs: bool = False
    """Whether the opposite of everything learned stands in the bank as well: 2 N, learned ones first."""
    rank: int = 4
    """r of an adapter."""
    band: int = 3
    """Blocks of a factor, from the source layer on."""
    projection: Projection = Projection.attention
    """What factors change in each of them."""
    weighed: bool = False
    """Whether the radius of an adapter or factor is the spectral norm of its rank-one terms, as published."""
    layers: Layers = Layers.pilot
    """How the next two are chosen where they are null. A layer or radius given by hand leaves the pilot's portfolio out, as do a
    mixture and kinds and solvers other than the default."""
    source_layer: int | None = None
    """Block after, or in, which a perturbation acts (0-based)."""
    target_layer: int | None = None
    """Block after which its effect is read."""
    target: Target = Target.residual
    """What is read there: the residual stream, what attention writes in that block, or (after the last) the logits."""
    radius: float | None = None
    """Norm of what is added to the output of a block or projection, in residual units (of an adapter at the loudest token of the
    prompts, of a factor at nine tokens in ten at most); where a family puts a norm behind that projection, what reaches the
    residual stream differs. Null means calibrated."""
    relative_radius: float | None = None
    """The same in median residual norms at the source."""
    calibration: Calibration = Calibration.speech
    """What chooses the radius where none is given."""
    turn: float = 40.0
    """Calibration: the radius at which random directions turn the target residual by so many degrees; for adapters, random
    vectors in their place."""
    departure: float = 0.5
    """Calibration: the radius at which the effect of random directions has left its linearisation by this ratio."""
    diversity: Diversity = Diversity.none
    similarity: Similarity = Similarity.update
    """What soft diversity takes for alike."""
    temperature: float = 0.1
    """Of soft diversity: the lower, the more it is the nearest ones that push."""
    settled: float = 0.0
    """Relative gain of its objective over a round (over ten steps of the ascent) below which a perturbation is left alone; 0
    means that none is."""
    rounds: int | None = None
    """Rounds of a solver without steps, each one pass forward and one back; null means 2 of the fixed point (more reach a larger
    effect and more broken replies), 10 of CPE's iteration, and 15 for singular vectors."""
    normalised: bool = True
    """Whether effects are read on residuals of unit norm, as later layers see them."""
    positions: int = 1
    """Effects are read at so many positions up to there; 0 means as many as the prompt has."""
    steered_positions: int = 0
    """Perturbations act at so many positions at the prompt's end, and at all that is said; 0 means at every position."""
    span: list[int] = field(default_factory=list)
    """First and last position that are read instead, by every perturbation: -1 is the prompt's last token, 0 the first of the
    unsteered reply."""
    reply_positions: int = 4
    """Half of the vectors are read at the end of the prompt, the others at one of so many first tokens of the unsteered reply;
    0 reads all of them at the end of the prompt."""
    prompts: Prompts = Prompts.mean
    """How a fixed point sees several prompts."""
    steps: int = 300
    """Steps of the ascent."""
    angular_step: float = 0.03
    """Step of the ascent in radians."""
    learning_rate: float | None = None
    """Step of the ascent as published: the rate of AdamW on a vector in residual units; null means the angular step."""
    power: float = 2.0
    """Exponent of the effect's norm at each position (ascent)."""
    q: float = 1.0
    """Root taken of each prompt's sum, 1 or `power` (ascent)."""
    chunk: int | None = None
    """Vectors computed at once; null means what fits into memory."""

    @property
    def chosen_rounds(self) -> int:
        """Rounds as given, else those of the solver; 0 for a solver that has none."""
        return self.rounds or ROUNDS.get(self.solver, 0)

    @property
    def shares(self) -> list["SearchConfig"]:
        """The ways to learn, each with vectors of its own; this one alone where there is no mixture."""
        if not self.mixture:
            return [self]
        named = [way.get("vectors") for way in self.mixture]
        left, open_ways = self.vectors - sum(count or 0 for count in named), named.count(None)
        # The first ways take what cannot be shared evenly.
        even = iter([left // open_ways + (place < left % open_ways) for place in range(open_ways)])
        found = []
        for number, count in enumerate(named):
            given = {"mixture": [], "vectors": next(even) if count is None else count, **self._way(number)}
            try:
                found.append(replace(self, **given))
            except UsageError as error:
                raise UsageError(f"In search.mixture[{number}]: {error}") from error
        return found

    def _way(self, number: int) -> dict[str, Any]:
        """Return what one way of the mixture says of its own, as it is held here."""
        prefix, found, way = f"search.mixture[{number}].", {}, self.mixture[number]
        if not isinstance(way, dict):
            raise UsageError(f"search.mixture[{number}]={way!r} must name options, such as {{turn: 30}}; {{}} changes none.")
        for name, value in way.items():
            check_option(f"{prefix}{name}", type(self), prefix)
            if name in WHOLE:
                raise UsageError(f"{prefix}{name} {WHOLE[name]}.")
            found[name] = value_of(name, f"{prefix}{name}", value, type(self))
        return found

    def __post_init__(self) -> None:
        """Refuse values outside their range, all of them together."""
        positive(self, "search", "vectors", "rank", "band", "steps", "angular_step", "power", "q", "turn", "departure")
        positive(self, "search", "temperature")
        positive(self, "search", "radius", "relative_radius", "learning_rate", "chunk", "rounds", optional=True)
        for name in ("positions", "reply_positions", "steered_positions"):
            if getattr(self, name) < 0:
                raise UsageError(f"search.{name}={getattr(self, name)} must be 0 or more.")
        if 0 < self.steered_positions < self.positions:
            raise UsageError(
                f"search.positions={self.positions} are read and only search.steered_positions={self.steered_positions} are "
                "steered; read at most as many."
            )
        if self.radius is not None and self.relative_radius is not None:
            raise UsageError("search.radius and search.relative_radius are both given; give one of them, or neither.")
        if self.diversity not in DIVERSITIES[self.solver]:
            known = ", ".join(diversity.value for diversity in DIVERSITIES[self.solver])
            raise UsageError(
                f"search.diversity={self.diversity.value} does not go with search.solver={self.solver.value}; use {known}."
            )
        if self.diversity in (Diversity.orthogonal, Diversity.sequential) and self.perturbation in (
            Kind.adapter,
            Kind.factor,
            Kind.head,
        ):
            raise UsageError(
                f"search.diversity={self.diversity.value} means nothing for search.perturbation={self.perturbation.value}, whose "
                "parameters are no directions of one space; use none, soft or deflation."
            )
        if self.solver is Solver.power and self.perturbation not in (Kind.vector, Kind.bias):
            raise UsageError(
                "search.solver=power learns orthogonal vectors in one space, which "
                f"search.perturbation={self.perturbation.value} has not; use vector or bias, or another solver."
            )
        if self.span and (len(self.span) != 2 or not self.span[0] <= self.span[1] < self.reply_positions):
            raise UsageError(
                f"search.span={list(self.span)} must be a first and a last position, such as [-5,-2] (-1 is the prompt's last "
                f"token), and end before search.reply_positions={self.reply_positions}."
            )
        if len(set(self.learned_from)) < len(self.learned_from) or any(number < 0 for number in self.learned_from):
            raise UsageError(f"search.learned_from={list(self.learned_from)} must name prompts once each, the first as 0.")
        self._refuse_ignored()
        self._check_mixture()
        if self.settled < 0 or not math.isfinite(self.settled):
            raise UsageError(f"search.settled={self.settled} must be 0 or more, for example 0.01.")
        if self.turn >= 90:
            raise UsageError(f"search.turn={self.turn} must be below 90: at any radius some of the residual is left.")
        if self.q not in (1.0, self.power):
            raise UsageError(f"search.q={self.q} is neither 1 nor search.power={self.power}; use one of these.")

    def _check_mixture(self) -> None:
        """Refuse a mixture that does not come out at N vectors, and ways that are none."""
        if self.mixture and self.both_signs:
            raise UsageError("search.both_signs does not go with search.mixture; leave one of them out.")
        named = [self._way(number).get("vectors") for number in range(len(self.mixture))]
        total, open_ways = sum(count for count in named if count is not None), named.count(None)
        if self.mixture and (total + open_ways > self.vectors or (total < self.vectors and not open_ways)):
            raise UsageError(
                f"Ways of search.mixture ask for {total} vectors, and {open_ways} for what is left of search.vectors="
                f"{self.vectors}, one each at least; make the sum that number, or leave vectors out of a way."
            )
        # Every way is a search that checks itself.
        _ = self.shares

    def _refuse_ignored(self) -> None:
        """Refuse every option that is not its default and would change nothing."""
        way = f"search.solver={self.solver.value} with search.diversity={self.diversity.value}"
        learned, apart = f"search.perturbation={self.perturbation.value}", f"search.diversity={self.diversity.value}"
        plain = self.solver is Solver.fixed_point and self.diversity is not Diversity.deflation
        low_rank = self.perturbation in (Kind.adapter, Kind.factor)
        for name, applies, met, wanted in (
            ("settled", self.solver in (Solver.fixed_point, Solver.ascent), way, "search.solver=fixed_point or ascent"),
            ("learning_rate", self.solver is Solver.ascent, way, "search.solver=ascent"),
            ("prompts", plain, way, "search.solver=fixed_point without deflation"),
            ("rank", self.perturbation is Kind.adapter, learned, "search.perturbation=adapter"),
            ("band", self.perturbation is Kind.factor, learned, "search.perturbation=factor"),
            ("projection", self.perturbation is Kind.factor, learned, "search.perturbation=factor"),
            ("weighed", low_rank, learned, "search.perturbation=adapter or factor"),
            ("temperature", self.diversity is Diversity.soft, apart, "search.diversity=soft"),
            ("similarity", self.diversity is Diversity.soft, apart, "search.diversity=soft"),
            ("positions", not self.span, f"search.span={list(self.span)}, which says all that is read", "no span"),
        ):
            default = next(entry.default for entry in fields(self) if entry.name == name)
            if getattr(self, name) != default and not applies:
                raise UsageError(f"search.{name} has no meaning for {met}; leave it out, or use {wanted}.")


@dataclass
class PilotConfig:
    """A few vectors an arm, heard for a few tokens, before the bank is learned; their replies count for nothing afterwards."""

    vectors: int = 8
    """Vectors learned in every arm, and half as many random ones beside them at the same radius."""
    tokens: int = 16
    """Tokens that each of them speaks."""
    kept: int = 4
    """Arms that share the bank, in proportion to what they yielded."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        positive(self, "pilot", "vectors", "tokens", "kept")
        if self.tokens < 8:
            raise UsageError(f"pilot.tokens={self.tokens} must be 8 or more: shorter replies cannot be told from broken ones.")


@dataclass
class SpeechConfig:
    """How the model speaks under each vector."""

    tokens: int = 32
    """Longest completion."""
    rows: int = 128
    """Completions generated at once."""
    budget: float = 1.0
    """Share of the tokens of speaking in full, vectors of bank and null times prompts times `tokens`, that may be spent: below 1
    only those vectors are heard to their end that promise most by what they do before they speak, and by what they say first."""
    samples: int = 0
    """Replies drawn for every vector and prompt, besides the greedy one."""
    temperature: float = 1.0
    """What logits are divided by where replies are drawn."""
    followed: int | None = None
    """Tokens that vectors make likelier from which the unsteered model is let go on; null means one for every four vectors."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        positive(self, "speech", "tokens", "rows", "budget", "temperature")
        for name in ("samples", "followed"):
            if (getattr(self, name) or 0) < 0:
                raise UsageError(f"speech.{name}={getattr(self, name)} must be 0 or more.")
        if not self.samples and self.temperature != SpeechConfig.temperature:
            raise UsageError(
                "speech.temperature has no meaning for speech.samples=0, which draws no reply; leave it out, or use "
                "speech.samples=4."
            )
        if self.samples and self.budget < 1:
            raise UsageError(
                f"speech.samples={self.samples} are drawn for every vector, and speech.budget={self.budget:g} lets only some of "
                "them speak; give one of the two."
            )
        if self.budget > 1:
            raise UsageError(f"speech.budget={self.budget:g} must be at most 1, at which every vector speaks in full.")
        if self.tokens < 2:
            raise UsageError(f"speech.tokens={self.tokens} must be 2 or more: a forced first token needs a second.")


PLACEHOLDER = "?"
"""Stands for the word that the model is asked for, where it occurs last."""


@dataclass
class ReadConfig:
    """How what was learned, and said, is read."""

    embedding: str = "model"
    """By what replies are compared and grouped: `model`, the audited model's own residual stream; `words`, their words and word
    pairs; or the folder of a sentence encoder."""
    labels: str | None = None
    """Address of an OpenAI-compatible service that names the modes, such as `http://localhost:8000/v1`: replies are sent there,
    with the key in the environment variable OPENAI_API_KEY where there is one. Null means that nothing is sent anywhere."""
    label_model: str | None = None
    """The model that it is asked for."""
    decoded: int = 4
    """So many of the vectors that stand for modes are described by the model itself, and have a map of where they act; 0 leaves
    all decoders out."""
    mapped: bool = True
    """Whether the effects of all vectors are compared on a map."""
    patchscope: str = "cat -> cat; 135 -> 135; hello -> hello; ? ->"
    """What asks the model for a word; the effect of a vector is put in the place of its last question mark."""

    def __post_init__(self) -> None:
        """Refuse half an address, and decoders that cannot be asked."""
        if (self.labels is None) != (self.label_model is None):
            given = f"read.labels={self.labels or 'null'} and read.label_model={self.label_model or 'null'}"
            raise UsageError(f"{given} belong together; give both, or neither.")
        if self.labels is not None and not self.labels.startswith(("http://", "https://")):
            raise UsageError(f"read.labels={self.labels} must be an address, such as http://localhost:8000/v1.")
        if self.decoded < 0:
            raise UsageError(f"read.decoded={self.decoded} must be 0 or more.")
        if PLACEHOLDER not in self.patchscope:
            raise UsageError(f"read.patchscope={self.patchscope!r} must hold a question mark where the word is missing.")
        if not self.decoded and self.patchscope != ReadConfig.patchscope:
            raise UsageError("read.patchscope has no meaning for read.decoded=0; leave it out, or give a number above 0.")


@dataclass
class AuditConfig:
    """What the findings are held against."""

    null_vectors: int | None = None
    """Random directions in the null bank; null means twice as many as there are vectors."""
    samples: int | None = None
    """Replies drawn from the unsteered model for every prompt; a mode that they reach is ordinary variation. Null means as many
    as there are vectors."""
    forced_tokens: int = 32
    """First tokens that are forced, likeliest first, without any vector; 0 leaves that baseline out."""
    significance: float = 0.05
    """Family-wise error rate over the modes of a run."""
    used: int = 1
    """So many of the strongest findings have their vector tried on other prompts, at every one of the next multipliers; 0 leaves
    that out."""
    doses: list[float] = field(default_factory=lambda: [-1.0, -0.5, 0.5, 1.0])
    """Multipliers, both signs."""
    clean: list[str] = field(default_factory=list)
    """Prompts that do not show the behaviour by themselves, for sufficiency; a built-in organism brings ten of its own."""
    clean_file: str | None = None
    """More of them, in a file as prompts.file takes it."""
    triggers: list[str] = field(default_factory=list)
    """Prompts that are thought to fire it, for necessity."""
    triggers_file: str | None = None
    """More of them, in a file as prompts.file takes it."""
    questions: str | None = None
    """Rows of .jsonl, .json or .csv with a prompt and its right answer, for accuracy under vectors."""
    known: list[str] = field(default_factory=list)
    """Runs of `discover contrast`, or banks, whose first direction every discovered vector is compared with."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        positive(self, "audit", "null_vectors", "samples", optional=True)
        positive(self, "audit", "significance")
        if self.significance >= 1:
            raise UsageError(f"audit.significance={self.significance} must be below 1, for example 0.05.")
        for name in ("forced_tokens", "used"):
            if getattr(self, name) < 0:
                raise UsageError(f"audit.{name}={getattr(self, name)} must be 0 or more.")
        if not self.doses or not all(math.isfinite(dose) and dose for dose in self.doses):
            raise UsageError(f"audit.doses={list(self.doses)} must be finite numbers other than 0.")


@dataclass
class ContrastConfig:
    """A direction learned from labelled examples, for `discover contrast`; a search does not look at it."""

    method: Method = Method.means
    """How the direction is learned."""
    file: str | None = None
    """Rows of .jsonl, .json or .csv with an example each; with none, a built-in organism brings its own examples."""
    training: int = 64
    """Examples a side that the direction is learned from."""
    selection: int = 32
    """Others, by which layer, position, heads and multiplier are chosen."""
    test: int = 64
    """Others again, on which the figures that are told are measured."""
    layer: int | None = None
    """Block after which the direction is taken and added; null means chosen on the selection examples."""
    position: int | None = None
    """Position that the direction is taken at, counted from the end of the example; null means the last one (`means`), or
    chosen among all those that the chat format puts after the user's words (`refusal`)."""
    moment: Moment = Moment.auto
    """Which token of examples with completions `means` and `heads` are taken at, where no position is given."""
    measure: Measured = Measured.auto
    """What is counted to tell whether the model behaves as the positive examples do."""
    where: Where = Where.everywhere
    """At which positions the direction is added; ablation acts at all of them."""
    multipliers: list[float] = field(default_factory=lambda: [-2.0, -1.0, -0.5, 0.25, 0.5, 0.75, 1.0, 2.0])
    """Of the direction, for the dose-response curve; those above 0 are tried at every layer (`means`)."""
    strengths: list[float] = field(default_factory=lambda: [2.0, 4.0, 8.0, 16.0, 32.0])
    """Of heads, in standard deviations of what the examples project onto a head's direction."""
    heads: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    """How many of the best heads are steered together."""
    neutral: list[str] = field(default_factory=list)
    """Prompts on whose unsteered replies the damage is measured; with none, those of a built-in organism, else the negative
    test examples."""
    open: list[str] = field(default_factory=list)
    """Prompts that are answered freely, for the report."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        positive(self, "contrast", "training", "selection", "test")
        for name in ("multipliers", "strengths", "heads"):
            values = getattr(self, name)
            if not values or not all(math.isfinite(value) for value in values) or len(set(values)) < len(values):
                raise UsageError(f"contrast.{name}={list(values)} must be one or more different finite numbers.")
        if not any(value > 0 for value in self.multipliers):
            raise UsageError(f"contrast.multipliers={list(self.multipliers)} must hold one above 0.")
        if min(self.strengths) <= 0 or min(self.heads) < 1:
            raise UsageError("contrast.strengths must be above 0 and contrast.heads 1 or more.")
        if self.position is not None and self.position >= 0:
            raise UsageError(f"contrast.position={self.position} must be -1 (the last token) or less.")


@dataclass
class ReportConfig:
    """What the reports show."""

    redact: bool = False
    """Whether every report, the terminal and wandb show prompts and what the model said by hash and length alone; the other
    files of the run folder hold the text either way."""


@dataclass
class TrackingConfig:
    """The wandb run beside the run folder."""

    mode: TrackingMode = TrackingMode.offline
    project: str = "discover"
    tags: list[str] = field(default_factory=list)
    notes: str | None = None


@dataclass
class RunConfig:
    """How long a run may take."""

    minutes: float | None = None
    """Vectors, samples, tokens of a reply and trials of the pilot are chosen so that it takes about so long on this machine, by a
    measurement before it begins; those of them that are not at their defaults stay. Null leaves all of them as they are."""

    def __post_init__(self) -> None:
        """Refuse no time."""
        positive(self, "run", "minutes", optional=True)


@dataclass
class Config:
    """One run."""

    name: str = "run"
    """Name of the run's folder below `outputs/`."""
    seed: int = 0
    """Every random draw of the run derives from it."""
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    pilot: PilotConfig = field(default_factory=PilotConfig)
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    read: ReadConfig = field(default_factory=ReadConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
