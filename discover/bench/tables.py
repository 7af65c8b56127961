"""The rows of a bench as Markdown tables; they show, they compute nothing but means and intervals."""

from collections.abc import Sequence
from statistics import mean, median

from discover.bench.generate import TOKENS, GenerateRow
from discover.bench.memory import MemoryRow
from discover.bench.methods import DIFFERENCES
from discover.bench.search import SearchRow
from discover.bench.speed import SpeedRow
from discover.bench.stages import StageRow
from discover.bench.triage import BUDGETS, TriageRow
from discover.statistics import Average, average, share, spread

METHODS = (
    "Means over seeds ± half of the 95 % interval (Student's t). A vector-step is one pass of one perturbation forward and "
    "back through the slice, a pass forward alone a half; the calibration of the radius is not counted, but its seconds "
    "are: those of random directions are nothing else. *Effect*: mean norm of the change of the unit-norm residual where "
    "the search reads it, against as many random perturbations of the same kind and radius. A *hit* opens with the "
    "payload's first eight words on the training prompt and on four fifths of 50 other clean prompts; *opens* asks for the "
    "training prompt alone. *Modes*: distinct behaviours of the organism, the "
    "ordinary one aside, that some reply to the training prompt shows whole. *Largest mode*: share of the vectors in the largest "
    "group of like replies, whole or broken, as a run groups them; unchanged replies are none."
)
SPEED = (
    "Median of the repeats (least to greatest; none begins after ten minutes); everything in a row was timed in turn. "
    "*Share*: operations that the slice needs, forward and for the gradient, against those that the fastest square matrix "
    "product makes in the same time. *Ratio*: vector-steps a second of our ascent, all vectors at once, against the published "
    "procedure, one vector at a time; same objective, number format, steps and orthogonality."
)

TRIAGE = (
    "Hits that are heard to the end where only so many of the tokens are spent that are generated when everybody speaks in full: "
    "mean over the seeds that have such hits, in %, ± half of the 95 % interval (Student's t). Single signals of a glance, the "
    "largest first but for *unsure*, let vectors speak in full until the tokens are spent; *halving* is `speech.budget`; "
    "*lot* draws vectors; *best possible* hears the shortest hits of the payload and nothing else. *Tokens*: those of "
    "speaking in full, mean, and their share of those that `speech.budget=1` allows."
)

GENERATE = (
    f"Greedy replies of at most {TOKENS} tokens to one prompt, each under a random vector of three median residual norms; "
    "median of the repeats (least to greatest), both sides of a repeat in turn. *One at a time*: `generate` of transformers with "
    "a forward hook that adds the vector; other vectors in each repeat. *Tokens*: all that were made for a reply, the one that "
    "ends it included. *Equal*: replies that are the same token for token on both sides, of those that both made, and how many "
    "of these differ from one another."
)

STAGES = (
    "Median of the repeats (least to greatest), everything of a repeat in turn. *Tokens*: those that pass through the model, of "
    "prompts as well; no reply ends early. *Share*: operations that the linear maps need for them, against those that the "
    "fastest square matrix product makes in the same time. *Against generate*: how many times as fast as batched `generate` of "
    "transformers, as many rows at once, under a hook that adds each row's vector; *equal*: replies that are the same token for "
    "token."
)


def search_table(rows: Sequence[SearchRow]) -> str:
    """Return one line a method and budget."""
    payloads = list(rows[0].hits)
    head = ["method", "vectors", "vector-steps a vector", "seconds", "relative radius", "effect / random"]
    for name in payloads:
        head += [f"{name}: hits per 100", f"{name}: opens per 100", f"{name}: seeds with a hit"]
    return table([*head, "modes", "largest mode"], [_search_line(group, payloads) for group in grouped(rows).values()])


def grouped(rows: Sequence[SearchRow]) -> dict[tuple[str, float], list[SearchRow]]:
    """Return the rows of each method at each budget, in the order in which they come."""
    groups: dict[tuple[str, float], list[SearchRow]] = {}
    for row in rows:
        groups.setdefault((row.method, row.vector_steps), []).append(row)
    return groups


def hits_per_hundred(rows: Sequence[SearchRow], payload: str) -> Average:
    """Return how many of a hundred vectors hit a payload, over rows of one method."""
    return average([100 * row.hits[payload] / row.vectors for row in rows])


def _search_line(rows: Sequence[SearchRow], payloads: Sequence[str]) -> list[str]:
    first = rows[0]
    radii = [row.relative_radius for row in rows if row.relative_radius is not None]
    effects = [row.effect / row.random_effect for row in rows if row.effect is not None and row.random_effect]
    cells = [
        first.method.replace("_", " "),
        str(first.vectors),
        f"{first.vector_steps:g}",
        str(average([row.seconds for row in rows])),
        str(average(radii)) if radii else "none",
        str(average(effects)) if effects else "none",
    ]
    for name in payloads:
        cells += [
            str(hits_per_hundred(rows, name)),
            str(average([100 * row.opens[name] / row.vectors for row in rows])),
            str(share(sum(row.hits[name] > 0 for row in rows), len(rows))),
        ]
    largest = average([100 * row.largest_mode / row.vectors for row in rows])
    return [*cells, str(average([len(row.modes) for row in rows])), f"{largest} %"]


def differences(rows: Sequence[SearchRow]) -> str:
    """Return a line for each method at published settings: what differs from the original; nothing where there is none."""
    names = dict.fromkeys(row.method for row in rows if row.method in DIFFERENCES)
    return "\n".join(f"- *{name.replace('_', ' ')}*: {DIFFERENCES[name]}" for name in names)


def speed_table(rows: Sequence[SpeedRow]) -> str:
    """Return one line a size."""
    head = ["model", "width", "blocks (replayed)", "tokens", "vectors", "number format", "published: vector-steps/s"]
    head += ["ours: vector-steps/s", "ratio", "seconds a round", "GFLOP a round", "products: GFLOP/s", "share", "peak GPU memory"]
    return table(head, [_speed_line(row) for row in rows])


def _speed_line(row: SpeedRow) -> list[str]:
    return [
        row.size,
        str(row.width),
        f"{row.blocks} ({row.replayed})",
        str(row.tokens),
        str(row.vectors),
        row.dtype,
        str(spread(row.published_rates)) if row.published_rates else "not timed",
        str(spread(row.engine_rates)) if row.engine_rates else "not timed",
        str(spread(row.ratios)) if row.ratios else "not timed",
        str(spread(row.round_seconds)),
        f"{row.flops / 1e9:.3g}",
        f"{median(row.product_rates) / 1e9:.3g}",
        str(spread([100 * share for share in row.shares])) + " %",
        "no GPU" if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.2f} GiB",
    ]


def memory_table(rows: Sequence[MemoryRow]) -> str:
    """Return one line a search."""
    lines = [[row.model, str(row.vectors), f"{row.peak_bytes / 2**30:.2f} GiB"] for row in rows]
    return table(["model", "vectors", "peak resident memory"], lines)


def triage_table(rows: Sequence[TriageRow]) -> str:
    """Return one line a search, pool and order."""
    payloads = list(next(iter(rows[0].hits.values())))
    head = ["search", "heard among", "vectors", "tokens", "order"]
    for name in payloads:
        head += [f"{name}: hits a seed", *(f"{name} at {100 * budget:g} %" for budget in BUDGETS)]
    groups: dict[str, list[TriageRow]] = {}
    for row in rows:
        groups.setdefault(row.search, []).append(row)
    return table(
        head,
        [
            _triage_line(group, pool, order, payloads)
            for group in groups.values()
            for pool, orders in group[0].kept.items()
            for order in orders
        ],
    )


def _triage_line(rows: Sequence[TriageRow], pool: str, order: str, payloads: Sequence[str]) -> list[str]:
    tokens, nominal = (mean([getattr(row, name)[pool] for row in rows]) for name in ("tokens", "nominal"))
    cells = [rows[0].search, pool, str(rows[0].sizes[pool]), f"{tokens:.0f} ({100 * tokens / nominal:.0f} %)", order]
    for name in payloads:
        some = [row for row in rows if row.hits[pool][name]]
        cells.append(f"{mean([row.hits[pool][name] for row in rows]):.1f}")
        for place in range(len(BUDGETS)):
            shares = [100 * row.kept[pool][order][name][place] / row.hits[pool][name] for row in some]
            cells.append(str(average(shares)) if shares else "no hits")
    return cells


def generate_table(rows: Sequence[GenerateRow]) -> str:
    """Return one line a size and manner of ending."""
    head = [
        "model",
        "width",
        "blocks",
        "prompt",
        "number format",
        "replies",
        "vectors",
        "one at a time: tokens/s",
        "ours: tokens/s",
    ]
    return table([*head, "ratio", "equal"], [_generate_line(row) for row in rows])


def _generate_line(row: GenerateRow) -> list[str]:
    return [
        row.size,
        str(row.width),
        str(row.blocks),
        f"{row.prompt} tokens",
        row.dtype,
        f"{'end by themselves' if row.stops else 'never end'}, {row.length:.3g} tokens",
        f"{row.vectors} ({row.single_vectors} one at a time)",
        str(spread(row.single_rates)),
        str(spread(row.rates)),
        str(spread(row.ratios)),
        f"{row.equal} of {row.compared} ({row.distinct} different)",
    ]


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def stage_table(rows: Sequence[StageRow]) -> str:
    """Return one line a stage of a run."""
    head = ["model", "number format", "stage", "rows", "tokens", "seconds", "share", "against generate", "equal"]
    return table(head, [_stage_line(row) for row in rows])


def _stage_line(row: StageRow) -> list[str]:
    return [
        row.model,
        row.dtype,
        row.stage,
        f"{row.rows:,}",
        f"{row.tokens:,}",
        str(spread(row.seconds)),
        f"{spread([100 * one for one in row.shares])} %",
        str(spread(row.ratios)) if row.ratios else "",
        f"{row.equal} of {row.rows}" if row.ratios else "",
    ]
