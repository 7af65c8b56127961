"""`discover organism`: what its words mean."""

from pathlib import Path

from discover.errors import UsageError
from discover.verbs.words import Words


def organism(words: list[str]) -> None:
    """List, train, check or score.

    Raises:
        UsageError: the words ask for something else, or for what cannot be done.
    """
    if not words:
        raise UsageError("discover organism takes a verb: list, check NAME, train NAME or score RUN ….")
    parser = Words(prog="discover organism")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list")
    train = verbs.add_parser("train")
    train.add_argument("name")
    train.add_argument("--folder", type=Path, help="where to write the checkpoint; the package's own folder unless given")
    train.add_argument("--seed", type=int, default=0)
    check = verbs.add_parser("check")
    check.add_argument("name")
    score = verbs.add_parser("score")
    score.add_argument("runs", nargs="+", type=Path)
    asked = parser.parse_args(words)
    from discover.organisms import commands

    match asked.verb:
        case "list":
            commands.show()
        case "train":
            commands.train(asked.name, asked.folder, asked.seed)
        case "check":
            commands.check(asked.name)
        case "score":
            commands.score(asked.runs)
