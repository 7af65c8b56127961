"""Everything that a report shows; the reports compute nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from discover.audit.findings import Finding
from discover.bank import VectorBank
from discover.read.modes import Mode
from discover.read.signals import Completion
from discover.report.text import one_line


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

    @property
    def read_at(self) -> str:
        """Where the effects of the vectors were read."""
        into = self.bank.origin.get("reply_tokens", 0)
        deeper = f", half of them up to {into} tokens into the reply" if into else ""
        return f"read after block {self.bank.target_layer}{deeper}"

    def unsteered_from(self, said: Completion) -> str | None:
        """Return how a completion that no vector steered began: with which token in the model's mouth; None where one did."""
        return None if said.opening is None else f'unsteered, from "{one_line(said.opening, 30)}"'

    def unsteered(self, prompt: int) -> Completion:
        """Return the model's own reply to a prompt."""
        return next(said for said in self.completions if said.bank == "unsteered" and said.prompt == prompt)
