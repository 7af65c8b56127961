"""What the unsteered model says, greedy and sampled: the reference that every reply is held against."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

from discover.config import SpeechConfig
from discover.model.loading import LoadedModel
from discover.model.prompts import PromptBatch
from discover.perturb.sphere import seed_of
from discover.read.signals import Bounds, bounds
from discover.steer.generation import NOTHING, Drawing, Reply, continued, reply
from discover.storage import read_json, write_json


@dataclass(frozen=True)
class UnsteeredReference:
    """The unsteered model's replies to B prompts."""

    replies: tuple[Reply, ...]
    """The greedy reply to each prompt."""
    samples: tuple[tuple[Reply, ...], ...]
    """[S][B] replies drawn at temperature 1, a different seed each."""
    limits: Bounds = field(compare=False)
    """Where degenerate begins, by these samples."""

    def truncated(self, loaded: LoadedModel, tokens: int) -> "UnsteeredReference":
        """Return the reference with greedy replies cut to their first `tokens` tokens, for replies heard only that far."""
        cut = tuple(reply(loaded, one.tokens[:tokens]) for one in self.replies)
        return UnsteeredReference(cut, self.samples, self.limits)

    def prompts(self, number: slice) -> "UnsteeredReference":
        """Return the reference for the prompts that `number` names, under the same bounds."""
        return UnsteeredReference(self.replies[number], tuple(each[number] for each in self.samples), self.limits)


def unsteered_reference(
    loaded: LoadedModel,
    batch: PromptBatch,
    begun: Sequence[Reply],
    speech: SpeechConfig,
    samples: int,
    seed: int,
    tick: Callable[[int], None],
) -> UnsteeredReference:
    """Return what the unsteered model says to B prompts: one greedy reply each, and `samples` drawn ones.

    Args:
        loaded: the model.
        batch: B prompts.
        begun: what of the greedy replies is there already; `NOTHING` for each where nothing is.
        speech: length of a reply and rows of a piece.
        samples: S, at least 1.
        seed: of the run; every sampled reply has a seed of its own made from it.
        tick: called with the number of rows after each piece of generation.
    """
    greedy = continued(loaded, batch, begun, (), None, speech.tokens, speech.rows, tick)
    prompts = len(batch.input_ids)
    rows = batch.repeated(samples)
    seeds = [seed_of("sample", seed, *divmod(row, prompts)) for row in range(samples * prompts)]
    drawn = continued(loaded, rows, [NOTHING] * len(seeds), (), Drawing(1.0, seeds), speech.tokens, speech.rows, tick)
    each = tuple(tuple(drawn[start : start + prompts]) for start in range(0, len(drawn), prompts))
    return UnsteeredReference(tuple(greedy), each, _bounds(greedy, each))


def save_reference(path: Path, reference: UnsteeredReference) -> None:
    """Write the reference as JSON."""
    write_json(path, asdict(reference))


def load_reference(path: Path) -> UnsteeredReference:
    """Read what `save_reference` wrote."""
    saved = read_json(path)
    greedy = tuple(map(_reply, saved["replies"]))
    samples = tuple(tuple(map(_reply, each)) for each in saved["samples"])
    return UnsteeredReference(greedy, samples, Bounds(**saved["limits"]))


def _bounds(greedy: Sequence[Reply], samples: Sequence[Sequence[Reply]]) -> Bounds:
    said = [(one.tokens, one.surprises) for one in chain.from_iterable(samples)]
    return bounds(said, [one.tokens for _ in samples for one in greedy])


def _reply(saved: dict[str, object]) -> Reply:
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}
    return Reply(**values)  # type: ignore[arg-type]
