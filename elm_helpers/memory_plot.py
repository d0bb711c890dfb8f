"""Memory as bars, part by part, predicted and measured; and as curves, by the length of a batch."""

from collections.abc import Mapping, Sequence
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


def plot_reach(
    peaks: Mapping[str, Mapping[str, Sequence[float]]], tokens: Sequence[int], cards: Mapping[str, float]
) -> Figure:
    """Plot predicted peaks against the tokens of a batch, a panel a method, a curve a model; cards are lines across.

    Args:
        peaks: Method -> model -> bytes for each number of tokens.
        tokens: Tokens of a batch, ascending.
        cards: Name of a card -> its bytes.

    Shown in ``notebooks/09_scale_up.ipynb``.
    """
    name, limit = max(cards.items(), key=lambda pair: pair[1])
    fitting = {way: sum(curve[0] < limit for curve in models.values()) for way, models in peaks.items()}
    shown = ", ".join(f"{count} with {way}" for way, count in fitting.items())
    sizes = [size / 1e9 for models in peaks.values() for curve in models.values() for size in curve]
    with open_figure(len(peaks), height=4.2) as (figure, axes):
        for axis, (way, models) in zip(axes, peaks.items(), strict=True):
            for at, (model, curve) in enumerate(models.items()):
                axis.plot(tokens, [size / 1e9 for size in curve], color=COLOURS[at], marker="os^Dv*"[at], label=model)
            for card, size in cards.items():
                axis.axhline(size / 1e9, color="#777777", linestyle="--", linewidth=0.8)
                axis.annotate(card, (tokens[0], size / 1e9), fontsize=8, va="bottom")
            axis.set(xscale="log", yscale="log", ylim=(min(sizes) * 0.8, max(sizes) * 1.3), title=way)
            axis.set_xlabel("tokens in a batch")
            axis.set_xticks(tokens, [f"{n // 1024}k" for n in tokens])
            axis.minorticks_off()
            axis.yaxis.set_major_formatter("{x:g}")
        axes[0].set_ylabel("memory at the peak (GB)")
        axes[-1].legend(fontsize=8, loc="lower right")
        models = len(next(iter(peaks.values())))
        figure.suptitle(f"Of {models} models, one {name} holds {shown}", x=0.01, ha="left", fontsize=11)
    return figure
