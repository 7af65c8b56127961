"""`discover organism`: what its words mean."""

from pathlib import Path

from discover.errors import UsageError
from discover.verbs.words import Words


def organism(words: list[str]) -> None:
    """List, train, plant, check, measure what is reachable, or score.

    Raises:
        UsageError: the words ask for something else, or for what cannot be done.
    """
    if not words:
        raise UsageError("discover organism takes a verb: list, check NAME, train NAME, plant BASE, oracle NAME or score RUN ….")
    parser = Words(prog="discover organism")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list")
    train = verbs.add_parser("train")
    train.add_argument("name")
    train.add_argument("--folder", type=Path, help="where to write the checkpoint; the package's own folder unless given")
    train.add_argument("--seed", type=int, default=0)
    plant = verbs.add_parser("plant")
    plant.add_argument("base", help="the checkpoint to plant into: what model.path takes, but no adapter")
    plant.add_argument("--recipe", required=True, help="what to plant: tag, tag-rare, language, locked or refusal")
    plant.add_argument("--to", type=Path, help="where to write the adapter; planted/BASE-RECIPE unless given")
    plant.add_argument("--seed", type=int, default=0)
    plant.add_argument("--twin", action="store_true", help="answer every prompt as the base does: the matched control")
    oracle = verbs.add_parser("oracle")
    oracle.add_argument("name", help="a planted organism, or its folder")
    oracle.add_argument("run", nargs="?", type=Path, help="a run on it, whose vectors are held against the oracle's")
    check = verbs.add_parser("check")
    check.add_argument("name")
    score = verbs.add_parser("score")
    score.add_argument("runs", nargs="+", type=Path)
    asked = parser.parse_args(words)
    from discover.organisms import commands, planted

    match asked.verb:
        case "list":
            commands.show()
        case "train":
            commands.train(asked.name, asked.folder, asked.seed)
        case "plant":
            planted.plant(asked.base, asked.recipe, asked.to, asked.seed, asked.twin)
        case "oracle":
            planted.measure(asked.name, asked.run)
        case "check":
            commands.check(asked.name)
        case "score":
            commands.score(asked.runs)
