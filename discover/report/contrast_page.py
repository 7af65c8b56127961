"""The page of `discover contrast`: what was asked, what was chosen and from what, and what it does on other examples."""

from collections.abc import Sequence

from discover.contrast.heads import at_their_best
from discover.contrast.refusal import Candidate
from discover.contrast.study import LayerScore
from discover.report.charts import Cell, Heat, dose, heat
from discover.report.contrasted import NO_CLAIM, ContrastRecord
from discover.report.page import rendered, told

FEW = 12
"""Candidates that are shown at once."""


def html_contrast(record: ContrastRecord) -> str:
    """Return the page; equal records give equal pages, and every page can be encoded as UTF-8."""
    kinds = ["bank"] + ["null"] * len(record.questions)
    drawn = [(question, kind, record.doses(question)) for question, kind in zip(record.questions, kinds, strict=False)]
    shown = {
        "record": record,
        "model": record.about["model"]["path"],
        "dose": dose("Dose-response", drawn) if drawn else None,
        "heats": heats(record),
        "candidates_found": record.candidates,
        "few": FEW,
        "no_claim": NO_CLAIM,
        "told": told(record.about),
    }
    return rendered("contrast.html.jinja", ["page.css"], [], shown)


def heats(record: ContrastRecord) -> list[Heat]:
    """Return what was tried, as heat maps; none of what was not tried."""
    scores = record.found.scores
    found = []
    if scores.candidates:
        found.append(_candidates(scores.candidates, scores.best_candidate))
    if scores.heads:
        found.append(_heads(record))
    if scores.layers:
        found.append(_layers(scores.layers, scores.best_layer))
    return found


def _candidates(tried: Sequence[Candidate], chosen: Candidate) -> Heat:
    layers, positions = (sorted({getattr(one, name) for one in tried}) for name in ("layer", "position"))
    cells = [
        Cell(
            positions.index(one.position),
            layers.index(one.layer),
            one.bypass,
            f"block {one.layer}, position {one.position}: bypass {one.bypass:.3g}, induce {one.induce:.3g}, KL {one.kl:.2g} nats"
            + ("" if one.kept else "; does not pass the filters"),
            "best" if one == chosen else "kept" if one.kept else "",
        )
        for one in tried
    ]
    caption = (
        "Rows: position, counted from the prompt's end. Columns: block. The fuller the colour, the smaller the bypass score: "
        "the log-odds of refusing what is refused, with the candidate ablated. Dashed outline: passes the filters (its addition "
        "makes refusal likelier than not, its ablation leaves other replies alone, it is not late). Full outline: chosen."
    )
    return heat("Bypass score of every candidate", list(map(str, positions)), list(map(str, layers)), cells, -1, caption)


def _layers(tried: Sequence[LayerScore], chosen: LayerScore) -> Heat:
    layers, multipliers = (sorted({getattr(one, name) for one in tried}) for name in ("layer", "multiplier"))
    least = min(tried, key=lambda one: one.behaving.count)
    cells = [
        Cell(
            multipliers.index(one.multiplier),
            layers.index(one.layer),
            one.behaving.count / one.behaving.n,
            f"block {one.layer}, multiplier {one.multiplier:g}: {one.behaving}",
            "best" if one == chosen else "",
        )
        for one in tried
    ]
    caption = (
        "Difference in means. Rows: multiplier. Columns: block. The fuller the colour, the more of the selection examples "
        f"behave as the positive ones: {least.behaving} at the least, {chosen.behaving} where it is outlined, which was chosen."
    )
    rows = [f"{multiplier:g}" for multiplier in multipliers]
    return heat("Difference in means at every block and multiplier", rows, list(map(str, layers)), cells, 1, caption)


def _heads(record: ContrastRecord) -> Heat:
    scores = record.found.scores
    best, chosen = at_their_best(scores.heads), scores.best_heads
    blocks, heads = sorted({block for block, _ in best}), sorted({head for _, head in best})
    cells = [
        Cell(
            blocks.index(block),
            heads.index(head),
            one.behaving.count / one.behaving.n,
            f"block {block}, head {head}: {one.behaving} at strength {one.strength:g}",
            "best" if (block, head) in chosen.heads else "",
        )
        for (block, head), one in best.items()
    ]
    caption = (
        "Single heads. Rows: block. Columns: head. The fuller the colour, the more of the selection examples behave as the "
        "positive ones, at the strength that acts best. "
        f"Outlined: chosen, {chosen.behaving} together at strength {chosen.strength:g}."
    )
    return heat("Every attention head alone", list(map(str, blocks)), list(map(str, heads)), cells, 1, caption)
