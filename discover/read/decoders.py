"""What a vector is about, in tokens: lenses of its effects, the model's own description, and where it acts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from discover.bank import VectorBank
from discover.config import Config, SpeechConfig
from discover.model.loading import LoadedModel
from discover.model.memory import in_pieces
from discover.model.prompts import PromptBatch, left_padded
from discover.model.slice import residual_after
from discover.perturb.sphere import unit
from discover.read.lens import Lens, lens
from discover.read.patchscope import descriptions
from discover.steer.evaluation import LOGIT_BYTES
from discover.steer.generation import Reply, replies
from discover.steer.interventions import Intervention, added, intervened
from discover.storage import read_json_lines, write_json_lines

NAMED = 5
"""Tokens named a block, and beside a vector."""
BESIDE, SHARE = 10, 4
"""Random vectors that are decoded as well: one for every four learned ones, ten at most."""
ROWS = 64
"""Texts read at once."""

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Decoding:
    """What the decoders say about one vector."""

    bank: str
    """`learned`, or `null` for the random vectors that the others are held against."""
    vector: int
    position: int
    """Where its lens is read: 0 is the end of the prompt, j the token j of the unsteered reply; where it changes the distribution
    of the next token most (KL divergence, mean over prompts)."""
    lens: tuple[tuple[int, tuple[str, ...]], ...]
    """Blocks from the source on, each with the tokens that the effect after it pushes up most: the log-probabilities that the
    model's own final norm and unembedding make of the steered residual stream minus those of the unsteered one, mean over
    prompts. After the last block that is the change of the model's own log-probabilities."""
    nearest: tuple[str, ...]
    """Tokens whose input embeddings are nearest to the vector itself, by cosine: it acts early, where the residual stream is
    still made of these. Empty for what is no vector."""
    described: str | None
    """What the model says when its effect at the target stands in the place of a word that it is asked for (patchscope); None
    where that was not tried."""
    heat: tuple[tuple[str, float], ...]
    """Tokens of the first prompt and the steered reply to it, each with the norm of the effect at the target there, in median
    norms of the unsteered residual stream over the same tokens; empty where that was not tried."""


def decodings(
    loaded: LoadedModel,
    batch: PromptBatch,
    own: Sequence[Reply],
    banks: Mapping[str, VectorBank],
    chosen: Sequence[int],
    positions: int,
    config: Config,
    tick: Tick,
) -> list[Decoding]:
    """Return what every vector of the learned bank is about in tokens, and beside them some of the null bank.

    Args:
        loaded: the model.
        batch: B prompts.
        own: the unsteered replies to them.
        banks: `learned` and `null`.
        chosen: rows of the learned bank that the model describes itself, and whose heat is mapped, as are the random ones'.
        positions: how many the lens may be read at: the end of the prompt, and so many tokens of the unsteered reply less one.
        config: what asks for a description, the chat template, and the length of replies.
        tick: called with the number of vectors after each piece of the lens.
    """
    beside, found = banks["null"].some(beside_of(len(banks["learned"]))), []
    random = banks["null"].subset(beside)
    for name, bank, rows in (("learned", banks["learned"], chosen), ("null", random, range(len(random)))):
        seen = lens(loaded, batch, own, bank.perturbations, (bank.source_layer, bank.target_layer), positions, NAMED, tick)
        near = nearest(loaded, bank)
        begins, numbers = bank.perturbations.begins, beside if name == "null" else range(len(bank))
        decoded = [
            Decoding(name, number, *_named(loaded, seen, row, begins[row]), near[row], None, ())
            for row, number in enumerate(numbers)
        ]
        if rows:
            texts = descriptions(loaded, seen.effects[list(rows)], bank.source_layer, config.read.patchscope, config.prompts)
            maps = heat(loaded, batch.rows(slice(1)), bank.subset(rows), config.speech)
            for row, text, tokens in zip(rows, texts, maps, strict=True):
                decoded[row] = replace(decoded[row], described=text, heat=tokens)
        found += decoded
    return found


def beside_of(learned: int) -> int:
    """Return how many random vectors are decoded beside so many learned ones."""
    return min(BESIDE, -(-learned // SHARE))


def _named(loaded: LoadedModel, seen: Lens, row: int, begins: int) -> tuple[int, tuple[tuple[int, tuple[str, ...]], ...]]:
    """Return where a vector's lens is read, and the tokens after every block from the first in which it acts."""
    told = (tuple(loaded.tokenizer.batch_decode(tokens[:, None])) for tokens in seen.tokens[row])
    pairs = zip(seen.blocks, told, strict=True)
    return int(seen.positions[row]), tuple((block, words) for block, words in pairs if block >= begins)


def nearest(loaded: LoadedModel, bank: VectorBank) -> list[tuple[str, ...]]:
    """Return the tokens whose input embeddings have the largest cosine with each of N vectors; none for what is no vector."""
    changes = bank.perturbations.changes
    biases = torch.stack([change.bias for change in changes])  # [places, N, D]
    low_rank = torch.stack([change.up.flatten(1).any(dim=1) for change in changes]).any(dim=0)
    # In a mixture, a vector stands beside other kinds, and is nothing where these act.
    vectors = (biases.any(dim=2).sum(dim=0) == 1) & ~low_rank
    rows = unit(loaded.model.get_input_embeddings().weight.float())
    size = max(1, LOGIT_BYTES // (4 * len(rows)))
    with torch.no_grad():
        tokens = torch.cat([(unit(some.to(rows)) @ rows.T).topk(NAMED).indices.cpu() for some in biases.sum(dim=0).split(size)])
    named = [tuple(loaded.tokenizer.batch_decode(row[:, None])) for row in tokens]
    return [words if vector else () for words, vector in zip(named, vectors.tolist(), strict=True)]


def heat(loaded: LoadedModel, batch: PromptBatch, bank: VectorBank, speech: SpeechConfig) -> list[tuple[tuple[str, float], ...]]:
    """Return for each of N vectors the tokens of one prompt and the steered reply to it, each with the norm of the effect there.

    The unsteered model is given the steered reply, so that only the vector sets the two apart. The norm is that of the effect
    after the target block, in median norms of the unsteered residual stream over the same tokens.
    """
    steering, rows = added(bank.perturbations), batch.repeated(len(bank))
    said = [list(one.tokens) for one in replies(loaded, rows, [steering], speech.tokens, speech.rows, lambda _: None)]
    prompt = batch.input_ids[0][batch.attention_mask[0].bool()].tolist()
    texts = [prompt + tokens for tokens in said]

    def piece(some: slice) -> list[tuple[tuple[str, float], ...]]:
        longer, found = left_padded([""] * len(texts[some]), texts[some], loaded.tokenizer.pad_token_id), []
        plain = _target(loaded, longer, [], bank.target_layer, None)
        steered = _target(loaded, longer, [steering.rows(some)], bank.target_layer, [len(tokens) for tokens in said[some]])
        for text, first, second in zip(texts[some], plain, steered, strict=True):
            first, second = first[-len(text) :], second[-len(text) :]
            norms = (second - first).norm(dim=-1) / first.norm(dim=-1).median()
            found.append(tuple(zip(loaded.tokenizer.batch_decode([[token] for token in text]), norms.tolist(), strict=True)))
        return found

    pieces, _ = in_pieces(piece, len(texts), ROWS, "give shorter prompts, or read.decoded=0")
    return list(chain.from_iterable(pieces))


def _target(
    loaded: LoadedModel, longer: PromptBatch, interventions: Sequence[Intervention], layer: int, said: Sequence[int] | None
) -> Tensor:
    """Return the residual stream [R, T, D] after a block."""
    with intervened(loaded, interventions, said):
        return residual_after(loaded, longer, layer)


def save_decodings(path: Path, decodings: Sequence[Decoding]) -> None:
    """Write one decoding a line."""
    write_json_lines(path, map(asdict, decodings))


def load_decodings(path: Path) -> list[Decoding]:
    """Read what `save_decodings` wrote."""
    return [
        Decoding(
            **{
                **row,
                "lens": tuple((block, tuple(tokens)) for block, tokens in row["lens"]),
                "nearest": tuple(row["nearest"]),
                "heat": tuple((token, norm) for token, norm in row["heat"]),
            }
        )
        for row in read_json_lines(path)
    ]
