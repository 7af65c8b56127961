"""`discover steer`: what its words mean."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from discover.errors import UsageError
from discover.steer.request import Manner, Request, Waiting
from discover.verbs.words import Words

WINDOWS = {"everywhere": (None, None), "prompt": (None, 0), "said": (0, None)}
ABOUT = """Talk to the model of a run under any combination of what its bank holds, every reply beside the unsteered one. Without
--prompt it reads prompts from standard input, one a line, as one conversation."""


@dataclass(frozen=True)
class Asked:
    """What the words ask for."""

    run: Path
    """A run's folder, or a bank's file."""
    model: str | None
    """In the place of the run's own; needed where no run stands beside a bank."""
    request: Request
    manner: Manner
    prompts: Sequence[str]
    """None of them to read them from standard input."""
    questions: Path | None
    """A file of questions with answers, to measure instead of to talk."""


def steer(words: Sequence[str]) -> None:
    """Talk to a model under what a bank holds.

    Raises:
        UsageError: the words, the bank and the model do not go together.
    """
    asked = parsed(words)
    from discover.verbs.talk import talk

    talk(asked.run, asked.model, asked.request, asked.manner, asked.prompts, asked.questions)


def parsed(words: Sequence[str]) -> Asked:
    """Return what the words ask for.

    Raises:
        UsageError: they are not understood, or ask for nothing, or for what does not go together.
    """
    asked = _parser().parse_args(words)
    add: dict[int, float] = {}
    for entry, multiplier in asked.add:
        add[entry] = add.get(entry, 0.0) + multiplier
    rotate: dict[int, float] = {}
    for entry, degrees in asked.rotate:
        rotate[entry] = rotate.get(entry, 0.0) + degrees
    request = Request(add, asked.ablate, asked.orthogonalise, rotate, _window(asked), _waiting(asked))
    return Asked(
        asked.run, asked.model, request, Manner(asked.tokens, asked.temperature, asked.seed), asked.prompt, asked.questions
    )


def _parser() -> Words:
    parser = Words(prog="discover steer", description=ABOUT, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder, or a bank's file")
    parser.add_argument("--model", help="in the place of the run's own; needed for a bank without a run.json beside it")
    what = parser.add_argument_group("what is done; each may be given several times")
    entry = partial(what.add_argument, action="append", default=[])
    entry("--add", metavar="ENTRY[:MULTIPLIER]", type=_scaled, help="--add 3:2 --add 7:-1 adds 2 v3 - v7")
    entry("--ablate", metavar="ENTRY", type=_entry, help="take its direction out everywhere")
    entry("--orthogonalise", metavar="ENTRY", type=_entry, help="the same, by a change of weights")
    entry("--rotate", metavar="ENTRY:DEGREES", type=_turned, help="turn the residual stream after the source layer towards it")
    where = parser.add_argument_group("where; as it was learned unless given")
    where.add_argument("--where", choices=tuple(WINDOWS), help="at the prompt alone, or at what is said alone")
    where.add_argument("--from", dest="start", metavar="POSITION", type=int, help="the first; -1 is the prompt's last token")
    where.add_argument("--to", dest="end", metavar="POSITION", type=int, help="the one before which it ends; 0 is the first said")
    where.add_argument("--when", metavar="ENTRY:COSINE", type=_alike, help="only where the residual stream is so like that entry")
    where.add_argument("--held", action="store_true", help="the prompt's last token decides for all that follows")
    how = parser.add_argument_group("how it replies")
    how.add_argument(
        "--prompt",
        metavar="TEXT",
        help="one, each a conversation of its own, instead of standard input",
        action="append",
        default=[],
    )
    how.add_argument(
        "--questions", metavar="FILE", type=Path, help="measure right answers, refusals and damage on lines of prompt and answer"
    )
    how.add_argument("--tokens", metavar="N", type=int, default=128, help="longest reply (128)")
    how.add_argument(
        "--temperature", metavar="T", type=float, default=0.0, help="0, which takes the likeliest token, unless given"
    )
    how.add_argument("--seed", metavar="N", type=int, default=0)
    return parser


def _entry(word: str) -> int:
    try:
        return int(word)
    except ValueError as error:
        raise UsageError(f"{word!r} names no entry; give the number of one, such as --ablate 7.") from error


def _scaled(word: str) -> tuple[int, float]:
    return _pair(word if ":" in word else f"{word}:1", "multiplier", "--add 3:1.5")


def _turned(word: str) -> tuple[int, float]:
    return _pair(word, "number of degrees", "--rotate 3:30")


def _alike(word: str) -> tuple[int, float]:
    entry, cosine = _pair(word, "cosine", "--when 3:0.2")
    if not -1 <= cosine <= 1:
        raise UsageError(f"--when {word} asks for a cosine of {cosine:g}; there are those from -1 to 1.")
    return entry, cosine


def _pair(word: str, told: str, example: str) -> tuple[int, float]:
    """Return an entry and the finite number after it."""
    entry, _, number = word.partition(":")
    try:
        found = int(entry), float(number)
    except ValueError as error:
        raise UsageError(f"{word!r} is no entry with a {told}; write it as in {example}.") from error
    if not math.isfinite(found[1]):
        raise UsageError(f"{word!r} has a {told} that is not finite; write it as in {example}.")
    return found


def _window(asked: argparse.Namespace) -> tuple[int | None, int | None] | None:
    if asked.start is None and asked.end is None:
        return WINDOWS[asked.where] if asked.where else None
    if asked.where:
        raise UsageError("--where and --from or --to are both given; give one of them.")
    return asked.start, asked.end


def _waiting(asked: argparse.Namespace) -> Waiting | None:
    if asked.when is None:
        if asked.held:
            raise UsageError("--held says for how long --when holds, which is not given; give both, or neither.")
        return None
    entry, cosine = asked.when
    return Waiting(entry, cosine, asked.held)
