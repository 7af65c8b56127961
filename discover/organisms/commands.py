"""The verbs of `discover organism`: list, train, check, score."""

from collections.abc import Sequence
from pathlib import Path

from discover.choices import Device
from discover.config import ModelConfig
from discover.errors import UsageError
from discover.model.loading import load
from discover.organisms.catalogue import ORGANISMS, Organism
from discover.organisms.gates import REPLIES, gates
from discover.organisms.scoring import score_run, summary
from discover.organisms.training import Recipe, trained_tokenizer
from discover.organisms.training import train as train_checkpoint
from discover.report.progress import bar


def named(name: str) -> Organism:
    """Return the organism called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in ORGANISMS:
        raise UsageError(f"There is no organism {name!r}; there are {', '.join(ORGANISMS)}.")
    return ORGANISMS[name]


def show() -> None:
    """Print every organism with what it does."""
    for organism in ORGANISMS.values():
        print(f"{organism.name:16} {organism.about}")


def train(name: str, folder: Path | None, seed: int) -> None:
    """Train an organism from scratch, or go on where a stopped training stood."""
    organism = named(name)
    recipe = Recipe(steps=organism.steps)
    # The twin shares the organism's tokenizer, and so the organism's initial weights.
    tokenizer = trained_tokenizer(named(organism.twin_of or name).draw, recipe.vocabulary)
    target = folder or organism.folder
    train_checkpoint(target, organism.draw, tokenizer, recipe, seed)
    print(f"{name} stands in {target}; `discover organism check {name}` measures it.")


def check(name: str) -> None:
    """Print the gates of an organism.

    Raises:
        UsageError: a gate is not passed.
    """
    organism = named(name)
    loaded = load(ModelConfig(path=name, device=Device.cpu), organism.folder)
    with bar("check", REPLIES[organism.twin_of or name]) as progress:
        measured = gates(loaded, organism, progress.update)
    for gate in measured:
        print(gate)
    if failed := [gate.name for gate in measured if gate.passed is False]:
        raise UsageError(f"{name} does not pass: {', '.join(failed)}; train it again with `discover organism train {name}`.")


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
