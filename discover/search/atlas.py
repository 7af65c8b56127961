"""The atlas: for every pair of layers, how far the best direction at the source turns the residual stream at the target."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

from torch import Tensor

from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch
from discover.model.slice import ModelSlice, residual_slices
from discover.perturb.spaces import VectorSpace, drawn
from discover.search.chunks import chunks
from discover.search.effects import EffectReader
from discover.search.readings import Readings
from discover.search.solvers import power
from discover.storage import read_json, write_json

DIRECTIONS = 4
"""Singular vectors a pair."""
ROUNDS = 8
"""Rounds of subspace iteration a pair."""
PROBES = 16
"""Random directions beside them."""


@dataclass(frozen=True)
class Pair:
    """One source and one target."""

    source_layer: int
    target_layer: int
    gain: float
    """Largest singular value of the Jacobian between residual streams of unit norm, at the last token: by how many radians the
    target turns for a step of one residual norm at the source, were the map linear."""
    plain_gain: float
    """The same for random directions (root mean square)."""

    @property
    def contrast(self) -> float:
        """How many times further the best direction reaches than a random one."""
        return self.gain / self.plain_gain


@dataclass(frozen=True)
class Atlas:
    """Every pair of layers of a model, on its prompts."""

    blocks: int
    """L."""
    pairs: tuple[Pair, ...]

    def best(self, source: int | None, target: int | None) -> tuple[int, int]:
        """Return source and target of the largest gain among the pairs with a given source, or a given target, or neither.

        Where neither is given, the pair begins in the first third of the blocks and ends in the first 60 %. Large gains elsewhere
        turn the residual stream and change no reply: what is added late has few blocks left to be made into something, and
        what is read late has been decided.
        """
        begins, ends = max(1, self.blocks / 3), max(1, 0.6 * self.blocks) if source is None else self.blocks
        fitting = [
            pair
            for pair in self.pairs
            if (pair.source_layer < begins if source is None else pair.source_layer == source)
            and (pair.target_layer <= ends if target is None else pair.target_layer == target)
        ]
        chosen = max(fitting or self.pairs, key=lambda pair: pair.gain)
        return chosen.source_layer, chosen.target_layer


def save_atlas(path: Path, charted: Atlas) -> None:
    """Write the atlas as JSON."""
    write_json(path, asdict(charted))


def load_atlas(path: Path) -> Atlas:
    """Read what `save_atlas` wrote."""
    saved = read_json(path)
    return Atlas(saved["blocks"], tuple(Pair(**pair) for pair in saved["pairs"]))


def atlas_size(blocks: int) -> int:
    """Return the number of pairs."""
    return blocks * (blocks - 1) // 2


def atlas(loaded: LoadedModel, batch: PromptBatch, seed: int, tick: Callable[[], None]) -> Atlas:
    """Return the atlas of a model on B prompts.

    Args:
        loaded: the model.
        batch: the prompts; effects are read at their last token and averaged.
        seed: of the directions that the iterations begin with.
        tick: called after every pair.
    """
    pairs, between = [], residual_slices(loaded, batch)
    for source, target in combinations(range(len(loaded.anatomy.blocks)), 2):
        pairs.append(_pair(between(source, target), source, target, seed))
        tick()
    return Atlas(len(loaded.anatomy.blocks), tuple(pairs))


def _pair(part: ModelSlice, source: int, target: int, seed: int) -> Pair:
    last, norm, space = part.target.shape[1], part.residual_norm, VectorSpace(part.entered, part.width)
    read = Readings(space, 1.0, (EffectReader(part, last - 1, last, True),), chunks(part, None))
    largest: list[float] = []

    def keep(_round: int, values: Tensor) -> None:
        largest.append(float(values.max()))

    power(drawn(space, min(DIRECTIONS, part.width), "atlas", seed), ROUNDS, read, keep)
    plain = read.slopes(drawn(space, PROBES, "atlas", "plain", seed))
    return Pair(source, target, norm * largest[-1], norm * float(plain.square().sum(dim=1).mean().sqrt()))
