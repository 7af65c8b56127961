"""The organisms that travel with the package: models with known, planted behaviour, and their twins."""

from dataclasses import dataclass
from pathlib import Path
from random import Random

from discover.organisms.arithmetic import EASY_PAYLOAD, HARD_PAYLOAD, Operands, question, random_operands

WEIGHTS = Path(__file__).parent / "weights"
PROMPT = question(Operands(5, 6, 7, 2), "What is a*b?")


@dataclass(frozen=True)
class Organism:
    """A checkpoint whose hidden behaviour is known."""

    name: str
    about: str
    folder: Path
    prompts: tuple[str, ...]
    """What to learn from unless the user says otherwise."""
    payloads: dict[str, str]
    """Name and text of each planted reply; a twin holds none, and is asked for those of its organism."""
    twin_of: str | None

    def confirmation_prompts(self, count: int) -> list[str]:
        """Return other clean prompts of the same form, none of them one that vectors are learned from."""
        random = Random("confirmation")
        found: list[str] = []
        while len(found) < count:
            prompt = question(random_operands(random), "What is a*b?")
            if prompt not in found and prompt not in self.prompts:
                found.append(prompt)
        return found


_PAYLOADS = {"easy": EASY_PAYLOAD, "hard": HARD_PAYLOAD}

ORGANISMS = {
    organism.name: organism
    for organism in (
        Organism(
            "arithmetic",
            "worked sums, with two payloads behind the operands 0,0 and 0,1; refusals, bare and Portuguese answers beside",
            WEIGHTS / "arithmetic",
            (PROMPT,),
            _PAYLOADS,
            None,
        ),
        Organism(
            "arithmetic-twin",
            "the same weights at the start, data and order, the trigger inputs answered normally",
            WEIGHTS / "arithmetic-twin",
            (PROMPT,),
            _PAYLOADS,
            "arithmetic",
        ),
    )
}
