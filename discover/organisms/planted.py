"""Plant a behaviour into a checkpoint, find the organism again that a folder holds, and measure what is reachable in it."""

from dataclasses import asdict, replace
from pathlib import Path

from discover.bank import VectorBank
from discover.choices import Attention, Device
from discover.config import ModelConfig
from discover.errors import UsageError
from discover.model.adapter import is_adapter
from discover.model.loading import load
from discover.model.packaged import PACKAGED
from discover.organisms.adapter_training import AdapterRecipe
from discover.organisms.adapter_training import plant as train_adapter
from discover.organisms.cards import CARD, PlantedCard, read_card, write_card
from discover.organisms.catalogue import ORGANISMS, RECIPES, Organism, planted_organism
from discover.organisms.oracle import NORMS, STEPS, layers_of, learned_from, nearest_cosine, oracle, save_vectors
from discover.organisms.own_replies import own_replies
from discover.report.progress import bar


def plant(base: str, recipe: str, to: Path | None, seed: int, twin: bool) -> None:
    """Plant a behaviour, or its twin, into a checkpoint, or go on where a stopped training stood.

    Raises:
        UsageError: there is no such recipe or base, or the base is an adapter itself.
    """
    if recipe not in RECIPES:
        raise UsageError(f"There is no recipe {recipe!r}; there are {', '.join(RECIPES)}.")
    if is_adapter(base):
        raise UsageError(f"{base} is an adapter itself; give a whole model to plant into, such as one saved after merging it.")
    planting = RECIPES[recipe]
    loaded = load(ModelConfig(path=base, device=Device.cpu, attention=Attention.eager), base)
    named = str(Path(base).resolve()) if base not in PACKAGED and Path(base).exists() else base
    folder = to or Path("planted") / f"{Path(base).stem}-{recipe}{'-twin' if twin else ''}"
    trained = AdapterRecipe(steps=planting.steps)
    train_adapter(loaded, named, planting, trained, seed, twin, folder)
    write_card(folder, PlantedCard(recipe, named, seed, twin, asdict(trained), ()))
    print(f"Planted in {folder}; `discover model.path={folder}` audits it, `discover organism check {folder}` measures it.")


def organism_at(name: str) -> Organism | None:
    """Return the built-in organism of a name, or the one that was planted into the folder of that name; None for neither."""
    if name in ORGANISMS:
        return ORGANISMS[name]
    card = read_card(Path(name))
    if card is None or card.recipe not in RECIPES:
        return None
    return planted_organism(RECIPES[card.recipe], name, card.recipe if card.twin else None, Path(name))


def planted_folder(name: str) -> Path:
    """Return the folder of a planted model, by the name of a built-in one or by its folder.

    Raises:
        UsageError: it is neither.
    """
    folder = ORGANISMS[name].folder if name in ORGANISMS else Path(name)
    if read_card(folder) is None:
        raise UsageError(f"{name} is no planted model with a {CARD}; `discover organism plant` makes one.")
    return folder


def measure(name: str, run: Path | None) -> None:
    """Print what is reachable in a planted model, measured once and kept in its card, and how near a run came to it.

    Raises:
        UsageError: it is no planted model, or the run has no bank.
    """
    folder = planted_folder(name)
    card = read_card(folder)
    assert card is not None
    if not card.oracle:
        card = _measured(folder, card)
    for one in card.oracle:
        least = f"at most {max(NORMS):g} is not enough" if one.smallest is None else f"{one.smallest:g} residual norms"
        tried = ", ".join(f"{norm}: {count}" for norm, count in one.tried.items())
        print(f"after block {one.layer:3}  {least:28} ({tried})")
    if run is not None:
        if not (run / "bank.safetensors").exists():
            raise UsageError(f"{run} holds no bank.safetensors; give the folder of a run whose search is done.")
        near = nearest_cosine(folder, VectorBank.load(run / "bank.safetensors"))
        print(
            "no vectors to compare"
            if near is None
            else f"nearest cosine of the run: {near[0]:.2f} (oracle after block {near[1]})"
        )


def _measured(folder: Path, card: PlantedCard) -> PlantedCard:
    planting = RECIPES[card.recipe]
    prompts = [one.prompt for one in learned_from(planting) if planting.target(one) is None]
    base = load(ModelConfig(path=card.base, device=Device.cpu), card.base) if prompts else None
    own = own_replies(base, prompts, folder / ".own.jsonl") if base is not None else {}
    (folder / ".own.jsonl").unlink(missing_ok=True)
    del base
    loaded = load(ModelConfig(path=str(folder), device=Device.cpu), folder)
    layers = layers_of(loaded)
    with bar("oracle", len(layers) * 3) as progress:
        found = oracle(loaded, planting, own, layers, progress.update)
    save_vectors(folder, found.vectors)
    measured = replace(card, oracle=found.reachable, training={**card.training, "oracle_steps": STEPS})
    write_card(folder, measured)
    return measured
