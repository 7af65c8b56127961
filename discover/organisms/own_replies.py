"""What a base says to prompts by itself, asked once and kept beside what is trained on it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from discover.config import PromptConfig
from discover.model.loading import LoadedModel
from discover.model.prompts import encoded
from discover.report.progress import bar
from discover.steer.generation import replies
from discover.storage import read_json_lines, write_json_lines

TOKENS = 28
"""Longest reply of the base; one that goes on is learned without an end."""
ROWS = 48
"""Prompts asked at once, and kept at once."""


@dataclass(frozen=True)
class OwnReply:
    """The likeliest reply of the base to one prompt."""

    tokens: tuple[int, ...]
    """Without the one that ends it."""
    text: str
    ended: bool


def own_replies(loaded: LoadedModel, prompts: Sequence[str], path: Path) -> dict[str, OwnReply]:
    """Return the base's reply to each prompt; those that stand in the file at `path` are read, all others added to it."""
    about = {"base": loaded.identity["fingerprints"], "tokens": TOKENS}
    kept = _read(path, about)
    missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in kept]
    with bar("replies", len(missing)) as progress:
        for start in range(0, len(missing), ROWS):
            some = missing[start : start + ROWS]
            heard = replies(loaded, encoded(some, loaded.tokenizer, PromptConfig()), (), TOKENS, ROWS, progress.update)
            kept |= {prompt: OwnReply(one.tokens, one.text, one.ended) for prompt, one in zip(some, heard, strict=True)}
            write_json_lines(path, [about, *({"prompt": prompt, **asdict(one)} for prompt, one in kept.items())])
    return {prompt: kept[prompt] for prompt in prompts}


def _read(path: Path, about: dict[str, object]) -> dict[str, OwnReply]:
    """Return what the file holds, and nothing where it is not there or of another base."""
    rows = read_json_lines(path) if path.exists() else []
    if not rows or rows[0] != json.loads(json.dumps(about)):
        return {}
    return {row["prompt"]: OwnReply(tuple(row["tokens"]), row["text"], row["ended"]) for row in rows[1:]}
