"""The shapes that pages draw: curves, heat maps and dose-response curves, as coordinates without any style."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from discover.search.atlas import Atlas
from discover.statistics import Share

LABELS = 16
"""Most labels along a side of a heat map; with more rows or columns every second, third … has one."""
CELL, WIDEST = 40, 640
"""Largest width of a cell, and of a heat map, in pixels."""
MARGIN = 4.0
"""Room at the left and right edge of a dose-response curve, in percent of its width."""
APART = 9.0
"""Least distance of two labels below it, in percent of its width."""


@dataclass(frozen=True)
class Curve:
    """The objective over the rounds, as points of an SVG of 100 x 100 units."""

    mean: str
    """Line of the mean over the vectors."""
    band: str
    """Outline of least to greatest."""
    low: float
    """Objective at the lower edge."""
    high: float
    """Objective at the upper edge."""
    first: int
    last: int
    """Rounds at the left and the right edge."""


@dataclass(frozen=True)
class Cell:
    """One value of a heat map."""

    row: int
    column: int
    value: float
    told: str
    """What it is, in words."""
    mark: str
    """`best`, `kept`, or nothing."""


@dataclass(frozen=True)
class Heat:
    """A heat map of R rows and C columns."""

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, float], ...]
    """Each with its shade between 0 (least of all) and 1 (most)."""
    caption: str

    @property
    def width(self) -> int:
        """Pixels."""
        return min(WIDEST, CELL * (len(self.columns) + 1))

    @property
    def row_labels(self) -> list[tuple[int, str]]:
        """Rows that have a label."""
        return _thinned(self.rows)

    @property
    def column_labels(self) -> list[tuple[int, str]]:
        """Columns that have a label."""
        return _thinned(self.columns)

    @property
    def letter(self) -> float:
        """Size of the labels, in cells: readable wherever the map is as wide as it may be."""
        return round(0.3 * max(1.0, len(self.columns) / LABELS), 2)


@dataclass(frozen=True)
class Point:
    """One share at one multiplier; every coordinate in percent of the figure, from its upper left corner."""

    x: float
    y: float
    low: float
    high: float
    told: str


@dataclass(frozen=True)
class Series:
    """One share over the multipliers."""

    name: str
    kind: str
    """`bank` or `null`: how it is drawn."""
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Dose:
    """Shares over multipliers."""

    name: str
    series: tuple[Series, ...]
    ticks: tuple[tuple[float, str], ...]
    """Places of multipliers in percent of the width; the label is empty where there is no room for one."""
    zero: float
    """Place of the model left alone."""


def curve(rounds: Sequence[dict[str, float]]) -> Curve | None:
    """Return the curve; None where there are not two rounds to join."""
    if len(rounds) < 2:
        return None
    low, high = min(one["least"] for one in rounds), max(one["greatest"] for one in rounds)
    height = (high - low) or 1.0
    step = 100 / (len(rounds) - 1)

    def points(name: str) -> list[str]:
        return [f"{step * place:.2f},{100 - 100 * (one[name] - low) / height:.2f}" for place, one in enumerate(rounds)]

    band = " ".join([*points("greatest"), *reversed(points("least"))])
    return Curve(" ".join(points("mean")), band, low, high, int(rounds[0]["round"]), int(rounds[-1]["round"]))


def heat(name: str, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Cell], sign: int, caption: str) -> Heat:
    """Return a heat map in which the largest value is darkest, or with sign -1 the smallest."""
    values = [sign * cell.value for cell in cells]
    low = min(values, default=0.0)
    width = (max(values, default=0.0) - low) or 1.0
    shaded = tuple((cell, (value - low) / width) for cell, value in zip(cells, values, strict=True))
    return Heat(name, tuple(rows), tuple(columns), shaded, caption)


def atlas_heat(charted: Atlas) -> Heat:
    """Return the gain of every pair of layers: a row a source, a column a target."""
    best = charted.best(None, None)
    cells = [
        Cell(
            pair.source_layer,
            pair.target_layer - 1,
            pair.gain,
            f"source {pair.source_layer}, target {pair.target_layer}: gain {pair.gain:.3g}, random {pair.plain_gain:.3g}",
            "best" if (pair.source_layer, pair.target_layer) == best else "",
        )
        for pair in charted.pairs
    ]
    caption = (
        "Rows: source layer. Columns: target layer. The fuller the colour, the further the best direction turns the residual "
        "stream at the target for a step of one residual norm at the source, to first order. "
        f"Outlined: source {best[0]}, target {best[1]}, the largest gain that begins in the first third of the blocks "
        "and ends in the first 60 %."
    )
    layers = [str(layer) for layer in range(charted.blocks)]
    return heat("Gain of every pair of layers", layers[:-1], layers[1:], cells, 1, caption)


def dose(name: str, series: Sequence[tuple[str, str, Sequence[tuple[float, Share]]]]) -> Dose:
    """Return a dose-response curve of one or more series: its name, how it is drawn, and a share at each multiplier."""
    multipliers = sorted({0.0, *(multiplier for _, _, shares in series for multiplier, _ in shares)})
    width = (multipliers[-1] - multipliers[0]) or 1.0

    def place(multiplier: float) -> float:
        return round(MARGIN + (100 - 2 * MARGIN) * (multiplier - multipliers[0]) / width, 2)

    def point(multiplier: float, share: Share) -> Point:
        high, low, middle = (round(100 * (1 - part), 2) for part in (share.high, share.low, share.count / share.n))
        return Point(place(multiplier), middle, low, high, f"{name}, multiplier {multiplier:g}: {share}")

    drawn = [
        Series(label, kind, tuple(point(*one) for one in sorted(shares, key=lambda one: one[0])))
        for label, kind, shares in series
    ]
    return Dose(name, tuple(drawn), _ticks(multipliers, place), place(0.0))


def _ticks(multipliers: Sequence[float], place: Callable[[float], float]) -> tuple[tuple[float, str], ...]:
    """Return where the multipliers are, with labels for as many as have room; 0 and the outermost ones come first."""
    first = [0.0, multipliers[0], multipliers[-1]]
    labelled: list[float] = []
    for multiplier in dict.fromkeys([*first, *sorted(multipliers, key=abs)]):
        if all(abs(place(multiplier) - place(other)) >= APART for other in labelled):
            labelled.append(multiplier)
    return tuple((place(one), f"{one:g}".replace("-", "−") if one in labelled else "") for one in multipliers)


def _thinned(labels: Sequence[str]) -> list[tuple[int, str]]:
    step = -(-len(labels) // LABELS)
    return list(enumerate(labels))[::step] if labels else []
