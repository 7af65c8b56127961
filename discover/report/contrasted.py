"""Everything that the reports of `discover contrast` show; they compute nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from discover.contrast.heads import at_their_best
from discover.contrast.outcomes import Outcome
from discover.contrast.refusal import Candidate
from discover.contrast.study import Learned
from discover.statistics import Share

NAMES = {"means": "Difference in means", "refusal": "Refusal direction", "heads": "Attention heads"}
PLACES = {"everywhere": "at every position", "prompt": "at the positions of the prompt", "said": "at what is generated alone"}
NO_CLAIM = (
    "Shares are of test examples that nothing was learned or chosen from, and speak of examples of this kind alone.",
    "That a direction moves a behaviour does not say that the model itself uses it, nor that it is the only one that does.",
    "Refused means that the reply holds a phrase that refusals hold; what a reply does to anybody is another question.",
    "Damage is measured on the model's own unsteered replies to neutral prompts: what little it costs there may cost more "
    "elsewhere.",
)
"""What must stand beside the numbers."""


@dataclass(frozen=True)
class Figure:
    """One number of what was chosen."""

    value: str
    name: str
    about: str


@dataclass(frozen=True)
class ContrastRecord:
    """One finished run of `discover contrast`."""

    about: dict[str, Any]
    """run.json: config, versions, model."""
    found: Learned
    outcomes: Sequence[Outcome]
    """The unsteered model first."""
    said: Sequence[dict[str, str]]
    """Per open prompt what was said: `prompt`, `unsteered`, `steered`."""

    @property
    def options(self) -> dict[str, Any]:
        """The options of the contrast."""
        return self.about["config"]["contrast"]

    @property
    def method(self) -> str:
        """The method by its option."""
        return self.options["method"]

    @property
    def asked(self) -> str:
        """What was asked for, as a sentence."""
        counts = self.options
        return (
            f"{NAMES[self.method]}, learned from {counts['training']} positive and {counts['training']} negative examples, "
            f"chosen on {counts['selection']} others of each and measured on {counts['test']} others again."
        )

    @property
    def counted(self) -> str:
        """What was counted, as a sentence; empty where nothing was."""
        return f"Counted: {', '.join(self.questions)}." if self.questions else ""

    @property
    def acting(self) -> str:
        """What was chosen and where it acts, as a sentence."""
        bank = self.found.bank
        what = f"The direction is added after block {bank.source_layer}"
        if self.method == "heads":
            what = f"Directions are added to what is written by {self.chosen_heads}"
        size = f"at multiplier 1 with norm {bank.radius:.4g} ({bank.relative_radius:.3g} median residual norms)"
        ablated = "; it is ablated everywhere" if self.method == "refusal" else ""
        return f"{what}, {PLACES[self.options['where']]}, {size}{ablated}."

    @property
    def choice(self) -> str:
        """What was chosen and by what, in one line."""
        scores = self.found.scores
        match self.method:
            case "refusal":
                one = scores.best_candidate
                scored = f"bypass {one.bypass:.3g}, induce {one.induce:.3g}, KL {one.kl:.2g} nats"
                times = f"added {scores.best_layer.multiplier:g} times below (published: once)"
                return f"block {one.layer}, position {one.position}: {scored}; {times}"
            case "heads":
                heads = scores.best_heads
                return f"{self.chosen_heads}, strength {heads.strength:g}: {heads.behaving} of the selection examples behave"
            case _:
                best = scores.best_layer
                place = f"block {best.layer}, position {self.position}, {best.multiplier:g} times the difference"
                return f"{place}: {best.behaving} of the selection examples behave"

    @property
    def chosen_heads(self) -> str:
        """The heads that were chosen, in the order in which rows of the table number them."""
        return ", ".join(f"head {head} of block {block}" for block, head in self.found.scores.best_heads.heads)

    @property
    def position(self) -> int:
        """Where a difference in means was taken, counted from the end of the example."""
        given = self.options["position"]
        return -1 if given is None else given

    @property
    def chosen(self) -> tuple[Figure, ...]:
        """What was chosen, in four numbers."""
        scores = self.found.scores
        match self.method:
            case "refusal":
                one = scores.best_candidate
                return (
                    Figure(f"{one.layer}", "block", f"position {one.position}, counted from the prompt's end"),
                    Figure(f"{one.bypass:.3g}", "bypass", "log-odds of refusing what is refused, when it is ablated"),
                    Figure(f"{one.induce:.3g}", "induce", "log-odds of refusing what is not, when it is added"),
                    Figure(f"{one.kl:.2g}", "KL", "nats by which ablating it changes other replies' first token"),
                )
            case "heads":
                most = scores.best_heads
                tried, bank = len(at_their_best(scores.heads)), self.found.bank
                return (
                    Figure(f"{len(most.heads)}", "steered at once", f"of {tried} attention heads"),
                    Figure(f"{most.strength:g}", "strength", "standard deviations of projections onto a head's direction"),
                    Figure(f"{bank.radius:.4g}", "norm", f"{bank.relative_radius:.3g} median residual norms"),
                    _selected(most.behaving),
                )
            case _:
                best = scores.best_layer
                return (
                    Figure(f"{best.layer}", "block", "after which it is taken and added"),
                    Figure(f"{self.position}", "position", "counted from the end of the example"),
                    Figure(f"{best.multiplier:g}", "times", "the difference, which is multiplier 1 below"),
                    _selected(best.behaving),
                )

    @property
    def candidates(self) -> list[Candidate]:
        """The candidates as a table has them: those that pass the filters first, and of these the least bypass score."""
        return sorted(self.found.scores.candidates, key=lambda one: (not one.kept, one.bypass))

    @property
    def questions(self) -> list[str]:
        """What was counted."""
        return list(self.outcomes[0].shares) if self.outcomes else []

    @property
    def odds(self) -> list[str]:
        """Of what the log-odds of a refusing first token were read."""
        return list(self.outcomes[0].log_odds) if self.outcomes else []

    @property
    def damaged(self) -> int:
        """Tokens on which damage was measured; 0 where it was not."""
        return max((one.damage.tokens for one in self.outcomes if one.damage), default=0)

    @property
    def compared(self) -> bool:
        """Whether replies under one intervention were compared with those under another."""
        return any(one.agrees for one in self.outcomes)

    def doses(self, question: str) -> list[tuple[float, Share]]:
        """Return the share of a question at every multiplier of the chosen direction, 0 being the model left alone."""
        return sorted(((one.dose, one.shares[question]) for one in self.outcomes if one.dose is not None), key=lambda one: one[0])


def _selected(share: Share) -> Figure:
    spread = f"{100 * share.low:.0f}-{100 * share.high:.0f} %"
    return Figure(f"{share.count}/{share.n}", "selection examples", f"behave as the positive ones ({spread})")
