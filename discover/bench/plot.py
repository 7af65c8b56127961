"""Hits against budget, as a picture."""

from collections.abc import Sequence
from pathlib import Path

from discover.bench.search import SearchRow
from discover.bench.tables import grouped, hits_per_hundred
from discover.storage import whole_file


def plot_budgets(rows: Sequence[SearchRow], path: Path) -> None:
    """Write a PNG: one panel a payload, one line a method, hits per 100 vectors against vector-steps a vector."""
    import matplotlib

    matplotlib.use("Agg")  # Most machines that run a bench have no screen.
    from matplotlib import pyplot

    payloads = list(rows[0].hits)
    figure, axes = pyplot.subplots(1, len(payloads), figsize=(5 * len(payloads), 4), squeeze=False, layout="constrained")
    for panel, payload in zip(axes[0], payloads, strict=True):
        for method in dict.fromkeys(row.method for row in rows):
            groups = [group for (name, _), group in grouped(rows).items() if name == method]
            groups.sort(key=lambda group: group[0].vector_steps)
            found = [hits_per_hundred(group, payload) for group in groups]
            panel.errorbar(
                [group[0].vector_steps for group in groups],
                [one.mean for one in found],
                yerr=[one.half or 0.0 for one in found],
                marker="o",
                capsize=3,
                label=method.replace("_", " "),
            )
        panel.set(title=f"{payload} payload", xscale="log", xlabel="vector-steps a vector", ylabel="hits per 100 vectors")
        panel.set_ylim(bottom=0)
    axes[0][-1].legend(fontsize="small")
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
    pyplot.close(figure)
