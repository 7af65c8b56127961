"""Everything that a report shows; the reports compute nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from discover.audit.findings import Finding
from discover.audit.known import Likeness
from discover.audit.uses import Use
from discover.bank import VectorBank
from discover.model.anatomy import Site
from discover.read.modes import Mode
from discover.read.signals import Completion
from discover.report.text import one_line
from discover.search.atlas import Atlas


@dataclass(frozen=True)
class Record:
    """One finished run."""

    about: dict[str, Any]
    """run.json: config, versions, model, layers, self-test."""
    prompts: Sequence[str]
    """The B prompts."""
    bank: VectorBank
    curve: Sequence[dict[str, float]]
    """Per round its number and the mean, least and greatest objective."""
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

    @property
    def read_at(self) -> str:
        """Where the effects of the vectors were read."""
        origin, block = self.bank.origin, self.bank.target_layer
        into, span = origin.get("reply_tokens", 0), origin.get("span", [])
        deeper = f", half of them up to {into} tokens into the reply" if into else ""
        if span:
            deeper = f", at positions {span[0]} to {span[1]} (-1 is the prompt's last token)"
        what = {"attention": f"from the attention of block {block}", "logits": "from the logits"}
        return f"read {what.get(origin.get('target', ''), f'after block {block}')}{deeper}"

    @property
    def learned(self) -> str:
        """How many of what kind were learned."""
        kinds = {"adapter": "adapters", "factor": "factors", "head": "head vectors"}
        return f"{len(self.bank)} {kinds.get(self.bank.origin.get('perturbation', ''), 'vectors')}"

    @property
    def acting(self) -> str:
        """Where they act."""
        places = [change.place for change in self.bank.perturbations.changes]
        blocks = str(places[0].block) if len(places) == 1 else f"{places[0].block} to {places[-1].block}"
        told = "after block" if places[0].site is Site.residual else f"on the {places[0].site.value} output of block"
        last = self.bank.perturbations.last
        ends = f", at the prompt's last {last} positions and all that is said" if last else ""
        return f"{told}{'s' if len(places) > 1 else ''} {blocks}{ends}"

    def unsteered_from(self, said: Completion) -> str | None:
        """Return how a completion that no vector steered began: with which token in the model's mouth; None where one did."""
        return None if said.opening is None else f'unsteered, from "{one_line(said.opening, 30)}"'

    def unsteered(self, prompt: int) -> Completion:
        """Return the model's own reply to a prompt."""
        return next(said for said in self.completions if said.bank == "unsteered" and said.prompt == prompt)
