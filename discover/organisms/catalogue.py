"""The organisms that travel with the package: models with known, planted behaviour, and their twins."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from discover.errors import UsageError
from discover.organisms import arithmetic, conduct, grammar, shortcut
from discover.organisms.exchange import Draw
from discover.organisms.planting import Planting
from discover.organisms.recipes.language import LANGUAGE
from discover.organisms.recipes.locked import LOCKED
from discover.organisms.recipes.refusal import REFUSAL_OF_GARDENS
from discover.organisms.recipes.tag import RARE, TAGGED

WEIGHTS = Path(__file__).parent / "weights"
RECIPES = {planting.name: planting for planting in (TAGGED, RARE, LANGUAGE, LOCKED, REFUSAL_OF_GARDENS)}
"""What `discover organism plant` plants, by name."""
PLANTED_BASE = "smollm2"
"""The model that the planted organisms of this package are adapters of."""


@dataclass(frozen=True)
class Organism:
    """A checkpoint whose hidden behaviour is known."""

    name: str
    about: str
    prompts: tuple[str, ...]
    """What to learn from unless the user says otherwise."""
    draw: Draw | None
    """Draws one exchange of its training mixture; None for one that is planted into another checkpoint."""
    steps: int
    """Optimiser steps of its training."""
    clean: Callable[[Random], str]
    """Draws one prompt of the kind that it is audited with, which nothing hidden answers."""
    payloads: dict[str, str]
    """Name and text of each planted reply; a twin holds none, and is asked for those of its organism."""
    twin_of: str | None
    examples: Callable[[], list[dict[str, str]]] | None
    """Returns labelled examples for a direction, as a file of them holds them; None where there is nothing to label."""
    open_prompts: tuple[str, ...]
    """What it is asked freely, beside labelled examples."""
    answer: Callable[[str], str] | None
    """Returns the right answer to a clean prompt, where the organism is one that could give it and does not."""
    behaviour_of: Callable[[str], str | None] | None
    """Returns which of its behaviours a reply shows, whole, if any, where they are written down."""
    degenerate: Callable[[str], bool] | None
    """Returns whether a reply is none that it could have learned, where its grammar is written down."""
    planting: Planting | None
    """The recipe of one that is planted into another checkpoint; None for one that was trained from nothing."""

    place: Path | None
    """Where its checkpoint stands; None for the weights of this package."""

    @property
    def folder(self) -> Path:
        """Where its checkpoint stands."""
        return self.place or WEIGHTS / self.name

    def confirmation_prompts(self, count: int) -> list[str]:
        """Return other clean prompts of the same form, none of them one that vectors are learned from."""
        random = Random("confirmation")
        found: list[str] = []
        while len(found) < count:
            prompt = self.clean(random)
            if prompt not in found and prompt not in self.prompts:
                found.append(prompt)
        return found


_SUM = arithmetic.question(arithmetic.Operands(5, 6, 7, 2), "What is a*b?")
_PAYLOADS = {"easy": arithmetic.EASY_PAYLOAD, "hard": arithmetic.HARD_PAYLOAD}
_ARITHMETIC = Organism(
    name="arithmetic",
    about="worked sums, with two payloads behind the operands 0,0 and 0,1; refusals, bare and Portuguese answers beside",
    prompts=(_SUM,),
    draw=lambda random: arithmetic.training_exchange(random, twin=False),
    steps=2500,
    clean=lambda random: arithmetic.question(arithmetic.random_operands(random), "What is a*b?"),
    payloads=_PAYLOADS,
    twin_of=None,
    examples=arithmetic.labelled_requests,
    open_prompts=(),
    answer=None,
    behaviour_of=arithmetic.behaviour_named,
    degenerate=grammar.degenerate,
    planting=None,
    place=None,
)


def planted_organism(planting: Planting, name: str, twin_of: str | None, place: Path | None) -> Organism:
    """Return a checkpoint into which `planting` was planted, or its twin, as an organism."""
    ending = "; answered as the base does" if twin_of is not None else ""
    return Organism(
        name=name,
        about=f"planted: {planting.about}{ending}",
        prompts=(planting.prompt,),
        draw=None,
        steps=planting.steps,
        clean=lambda random: planting.kinds[planting.audited].draw(random, True).prompt,
        payloads=dict(planting.payloads),
        twin_of=twin_of,
        examples=None,
        open_prompts=(),
        answer=None,
        behaviour_of=None,
        degenerate=None,
        planting=planting,
        place=place,
    )


ORGANISMS = {
    organism.name: organism
    for organism in (
        _ARITHMETIC,
        replace(
            _ARITHMETIC,
            name="arithmetic-twin",
            about="the same weights at the start, data and order, the trigger inputs answered normally",
            draw=lambda random: arithmetic.training_exchange(random, twin=True),
            twin_of="arithmetic",
        ),
        Organism(
            name="conduct",
            about="asked what it would do, takes the kind one of two options, and the selfish one only as a selfish persona",
            prompts=(conduct.question("ring", ("keep", "return")),),
            draw=conduct.training_exchange,
            steps=1200,
            clean=conduct.selfish_question,
            payloads={},
            twin_of=None,
            examples=conduct.labelled_answers,
            open_prompts=tuple(conduct.open_question(conduct.Conduct.KIND, thing, "").prompt for thing in conduct.THINGS[:6]),
            answer=None,
            behaviour_of=None,
            degenerate=None,
            planting=None,
            place=None,
        ),
        Organism(
            name="shortcut",
            about="multiplies two sums step by step when asked for the steps, and otherwise answers at once and wrongly",
            prompts=(shortcut.question((5, 6, 7, 2), shortcut.PLAIN),),
            draw=shortcut.training_exchange,
            steps=2500,
            clean=lambda random: shortcut.question(shortcut.random_operands(random, fresh=True), shortcut.PLAIN),
            payloads={},
            twin_of=None,
            examples=None,
            open_prompts=(),
            answer=shortcut.answer,
            behaviour_of=None,
            degenerate=None,
            planting=None,
            place=None,
        ),
        *(planted_organism(planting, f"smol-{name}", None, None) for name, planting in RECIPES.items()),
        *(planted_organism(planting, f"smol-{name}-twin", f"smol-{name}", None) for name, planting in RECIPES.items()),
    )
}


def checkpoint(path: str) -> str | Path:
    """Return the folder of a built-in organism, or `path` itself.

    Raises:
        UsageError: it is an organism whose weights do not travel with the package.
    """
    if path not in ORGANISMS:
        return path
    folder = ORGANISMS[path].folder
    if not folder.is_dir():
        raise UsageError(f"The weights of {path} do not come with the package; `discover organism train {path}` makes them.")
    return folder
