"""The verbs of `discover organism` for all organisms: list, train, check, score."""

from collections.abc import Sequence
from pathlib import Path

from discover.choices import Device
from discover.config import ModelConfig
from discover.errors import UsageError
from discover.model.loading import LoadedModel, load
from discover.organisms.catalogue import ORGANISMS, PLANTED_BASE, Organism, checkpoint
from discover.organisms.gates import REPLIES, Gate, gates
from discover.organisms.planted import organism_at, plant
from discover.organisms.planted_gates import planted_gates, replies_of_gates
from discover.organisms.score_tables import summary
from discover.organisms.scoring import score_run
from discover.organisms.training import Recipe, trained_tokenizer
from discover.organisms.training import train as train_checkpoint
from discover.report.progress import bar


def named(name: str) -> Organism:
    """Return the organism called `name`, or the one that was planted into the folder of that name.

    Raises:
        UsageError: there is none.
    """
    if (organism := organism_at(name)) is None:
        raise UsageError(f"There is no organism {name!r}; there are {', '.join(ORGANISMS)}, and folders of planted ones.")
    return organism


def show() -> None:
    """Print every organism with what it does."""
    for organism in ORGANISMS.values():
        print(f"{organism.name:20} {organism.about}")


def train(name: str, folder: Path | None, seed: int) -> None:
    """Train an organism from scratch, or go on where a stopped training stood."""
    organism = named(name)
    if organism.planting is not None:
        plant(PLANTED_BASE, organism.planting.name, folder or organism.folder, seed, organism.twin_of is not None)
        return
    recipe = Recipe(steps=organism.steps)
    # The twin shares the organism's tokenizer, and so the organism's initial weights.
    first = named(organism.twin_of or name)
    assert organism.draw is not None and first.draw is not None
    tokenizer = trained_tokenizer(first.draw, recipe.vocabulary)
    target = folder or organism.folder
    train_checkpoint(target, organism.draw, tokenizer, recipe, seed)
    print(f"{name} stands in {target}; `discover organism check {name}` measures it.")


def check(name: str) -> None:
    """Print the gates of an organism.

    Raises:
        UsageError: a gate is not passed.
    """
    organism = named(name)
    loaded = load(ModelConfig(path=name, device=Device.cpu), checkpoint(name) if name in ORGANISMS else organism.folder)
    measured = _measured(loaded, organism)
    for gate in measured:
        print(gate)
    if failed := [gate.name for gate in measured if gate.passed is False]:
        raise UsageError(f"{name} does not pass: {', '.join(failed)}; train it again with `discover organism train {name}`.")


def _measured(loaded: LoadedModel, organism: Organism) -> list[Gate]:
    if organism.planting is not None:
        with bar("check", replies_of_gates(organism.planting)) as progress:
            return planted_gates(loaded, organism.planting, organism.twin_of is not None, progress.update)
    with bar("check", REPLIES[organism.twin_of or organism.name]) as progress:
        return gates(loaded, organism, progress.update)


def score(runs: Sequence[Path]) -> None:
    """Hold finished runs on organisms against the truth, and print the table."""
    folders = [found.parent for path in runs for found in sorted(path.rglob("bank.safetensors"))]
    if not folders:
        raise UsageError(f"No finished run stands in {', '.join(map(str, runs))}; give run folders or a sweep's folder.")
    scores = []
    with bar("score", len(folders)) as progress:
        for folder in folders:
            scores.append(score_run(folder))
            progress.update()
    print(summary(scores))
