"""Figures of the scoreboard: the ladder of systems, and which tool was taken for which."""

from collections.abc import Mapping

from elm_helpers.plots import COLOURS, open_figure

from matplotlib.figure import Figure


def plot_ladder(scoreboard: Mapping, metric: str = "tool_exact") -> Figure:
    """Plot accuracy against the wait for one call: up and to the left is better.

    Args:
        scoreboard: What ``scoreboard.json`` holds.
        metric: A rate in which more is better.

    Raises:
        ValueError: No system has both the metric and a latency.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    found = [(s["system"], s["metrics"]) for s in scoreboard["systems"]]
    found = [(name, m[metric], m["latency_p50_s"]) for name, m in found if m.get(metric) and m.get("latency_p50_s")]
    if not found:
        raise ValueError(f"no system has both {metric} and latency_p50_s")
    with open_figure(height=4) as (figure, (axis,)):
        for number, (name, rate, wait) in enumerate(found):
            value, low, high = (100 * rate[key] for key in ("value", "low", "high"))
            spread = [[max(0, value - low)], [max(0, high - value)]]
            look = {"color": COLOURS[number % len(COLOURS)], "marker": "osD^vPX"[number % 7], "capsize": 3}
            axis.errorbar([max(wait["value"], 1e-4)], [value], yerr=spread, label=name, linestyle="", **look)
        best = max(found, key=lambda one: one[1]["value"])
        axis.set(xscale="log", xlabel="seconds for one call, median (log scale)", ylim=(0, 100))
        axis.set_ylabel(f"{metric.replace('_', ' ')}, %, with 95 % interval")
        axis.set_title(f"{best[0]}: {best[1]['value']:.0%} at {best[2]['value']:.2g} s a call", pad=26)
        axis.legend(ncols=len(found), loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, borderaxespad=0.2)
    return figure


def plot_confusions(confusions: Mapping[tuple[str, str], int]) -> Figure:
    """Plot which tool was called (across) where which was right (down), as shares of each row.

    Args:
        confusions: (right, found) -> cases, from `count_confusions`.

    Raises:
        ValueError: There is nothing to plot.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    if not confusions:
        raise ValueError("no confusions to plot")
    rows = sorted({right for right, _ in confusions}, key=lambda name: (name in ("ask_back", "no_call"), name))
    columns = sorted({found for _, found in confusions}, key=lambda name: (name in ("malformed", "no call"), name))
    totals = {row: sum(n for (right, _), n in confusions.items() if right == row) for row in rows}
    shares = [[confusions.get((row, column), 0) / totals[row] for column in columns] for row in rows]
    missed = {pair: n for pair, n in confusions.items() if pair[0] != pair[1] and pair[1] != "no call"}
    missed |= {
        pair: n for pair, n in confusions.items() if pair[1] == "no call" and pair[0] not in ("ask_back", "no_call")
    }
    with open_figure(height=4.4) as (figure, (axis,)):
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                if n := confusions.get((row, column), 0):
                    axis.text(j, i, n, ha="center", va="center", color="white" if shares[i][j] > 0.6 else "black")
        axis.set_xticks(range(len(columns)), [name.replace("_", "\n") for name in columns], fontsize=8)
        axis.set_yticks(range(len(rows)), [f"{row} ({totals[row]})" for row in rows], fontsize=8)
        axis.set(xlabel="what was called", ylabel="what was right (cases)")
        axis.grid(visible=False)
        (right, found), n = max(missed.items(), key=lambda pair: pair[1], default=(("", ""), 0))
        axis.set_title(f"Most often mixed up: {found} for {right}, {n} cases" if n else "Nothing was mixed up")
    return figure
