"""What a vector is about, in tokens: lenses of its effects, the model's own description, and where it acts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from discover.storage import read_json_lines, write_json_lines


@dataclass(frozen=True)
class Decoding:
    """What the decoders say about one vector on the first prompt."""

    bank: str
    """`learned`, or `null` for the random vectors that the others are held against."""
    vector: int
    lens: tuple[tuple[int, tuple[str, ...]], ...]
    """Blocks from the source on, each with the tokens that the effect after it pushes up most through the unembedding."""
    nearest: tuple[str, ...]
    """Tokens whose embeddings are nearest to the vector itself, by cosine; empty for what is no vector."""
    described: str | None
    """What the model says when its effect stands in the place of a word that it is asked to explain (patchscope)."""
    heat: tuple[tuple[str, float], ...]
    """Tokens of prompt and steered reply, each with the norm of the effect at the target there, in median residual norms."""


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
