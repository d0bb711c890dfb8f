"""Memory, part by part, as stacked bars: predicted, and beside it what was measured."""

from collections.abc import Mapping
from dataclasses import asdict

from elm_helpers.budget import Budget
from elm_helpers.plots import COLOURS, open_figure

from matplotlib.figure import Figure

FILLS = {  # part -> (colour, hatch): a part is known by its place and its hatch, too, not by its colour alone
    "process": ("#999999", ""),
    **{part: (COLOURS[i], "") for i, part in enumerate(("weights", "adapters", "gradients", "optimizer"))},
    **{"activations": (COLOURS[5], ""), "logits": (COLOURS[4], "//"), "workspace": ("#FFFFFF", "xx")},
}


def plot_budgets(
    budgets: Mapping[str, Budget], measured: Mapping[str, int] | None = None, limit: int | None = None
) -> Figure:
    """Plot predicted peaks as stacked bars, and what was measured as a bar beside each.

    Args:
        budgets: Name of a run -> its predicted memory.
        measured: Name of a run -> bytes at its peak; a run that isn't named was not measured.
        limit: Bytes that there are, drawn as a line.

    Raises:
        ValueError: There is nothing to plot, or a measured run has no prediction.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    measured = dict(measured or {})
    if not budgets or not measured.keys() <= budgets.keys():
        raise ValueError(f"no prediction for {', '.join(measured.keys() - budgets.keys()) or 'any run'}")
    totals, names = {name: budget.total for name, budget in budgets.items()}, list(budgets)
    if measured:
        worst = max(abs(totals[name] / peak - 1) for name, peak in measured.items())
        title = f"The prediction is within {worst:.0%} of the measured peak"
    else:
        name, most = max(totals.items(), key=lambda pair: pair[1])
        part, size = max(asdict(budgets[name]).items(), key=lambda pair: pair[1])
        title = f"{name} takes {most / 1e9:.1f} GB, most of it {part} ({size / most:.0%})"
    with open_figure(height=1.6 + 0.6 * len(budgets)) as (figure, (axis,)):
        lower, left = 0.36 if measured else 0.6, [0.0] * len(budgets)
        for part, (colour, hatch) in FILLS.items():
            sizes = [asdict(budget)[part] / 1e9 for budget in budgets.values()]
            axis.barh(range(len(names)), sizes, lower, left, color=colour, hatch=hatch, edgecolor="#444444", label=part)
            left = [start + size for start, size in zip(left, sizes, strict=True)]
        axis.bar_label(axis.containers[-1], [f"{end:.2f}" for end in left], padding=3)
        if measured:
            places = [names.index(name) + 0.38 for name in measured]
            bars = axis.barh(places, [b / 1e9 for b in measured.values()], 0.3, color="black", label="measured")
            axis.bar_label(bars, [f"{b / 1e9:.2f}" for b in measured.values()], padding=3)
        if limit:
            axis.axvline(limit / 1e9, color=COLOURS[3], linestyle="--", label=f"{limit / 1e9:.0f} GB")
        axis.set_yticks([i + (0.19 if measured else 0) for i in range(len(names))], names)
        axis.set_xlabel("memory at the peak (GB)")
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.margins(x=0.1)
        axis.set_title(title, pad=40)
        axis.legend(ncols=5, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, borderaxespad=0.2)
    return figure
