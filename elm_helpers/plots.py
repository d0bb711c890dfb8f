"""The course's figures: one look, colours that colour-blind readers can tell apart, titles computed from the data."""

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median

from elm_helpers.scoreboard import LOWER_IS_BETTER

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

# Okabe & Ito 2008, without its yellow, which is too faint on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
STYLE: dict = {
    **{"figure.dpi": 100, "figure.facecolor": "white", "axes.facecolor": "white", "font.size": 10},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3},
    **{"axes.axisbelow": True, "axes.titlesize": 11, "axes.titlelocation": "left", "legend.frameon": False},
    "axes.prop_cycle": plt.cycler(color=COLOURS),
}
CALL = re.compile(r"<tool_call>(\w+)\(")


@contextmanager
def open_figure(panels: int = 1, height: float = 3.6, rows: int = 1) -> Iterator[tuple[Figure, list]]:
    """Give (figure, its axes) in the course's look; pyplot forgets the figure afterwards, so none stays open.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, panels, figsize=(9, height), layout="constrained", squeeze=False)
        try:
            yield figure, list(axes.flat)
        finally:
            plt.close(figure)


def render_png(figure: Figure) -> bytes:
    """Return a figure as PNG at 100 dots an inch.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _draw_bars(axis, counts: Mapping[str, float], unit: str, colour: str, label: str = "{:,.0f}") -> None:
    bars = axis.barh(list(counts), list(counts.values()), color=colour)
    axis.bar_label(bars, [label.format(value) for value in counts.values()], padding=3)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.15)
    axis.set_xlabel(unit)


def plot_mix(rows: Sequence[Mapping]) -> Figure:
    """Plot how many rows each task has, and how many rows call each tool.

    Args:
        rows: Rows with ``task`` and ``messages``.

    Raises:
        ValueError: There are no rows.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    if not rows:
        raise ValueError("there are no rows to plot")
    tasks, tools = Counter(row["task"] for row in rows), Counter()
    for row in rows:
        said = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
        tools.update(set(CALL.findall("\n".join(said))))
    with open_figure(2 if tools else 1) as (figure, axes):
        task, count = tasks.most_common(1)[0]
        _draw_bars(axes[0], dict(tasks.most_common()), "rows", COLOURS[0])
        axes[0].set_title(f"{len(rows):,} rows, {100 * count / len(rows):.0f} % {task.replace('_', ' ')}")
        if tools:
            _draw_bars(axes[1], dict(tools.most_common()), "rows that call it", COLOURS[2])
            axes[1].set_title(f"{min(tools.values()):,} rows or more for each of {len(tools)} tools")
    return figure


def plot_lengths(
    lengths_by_task: Mapping[str, Sequence[int]], max_length: int | None = None, unit: str = "tokens"
) -> Figure:
    """Plot the spread of lengths per task: box from 25 to 75 %, whiskers from 1 to 99 %.

    Args:
        lengths_by_task: Length of each row, by task.
        max_length: What training keeps of a row, drawn as a line.
        unit: What the lengths count.

    Raises:
        ValueError: A task has no rows.

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    if not lengths_by_task or not all(len(lengths) for lengths in lengths_by_task.values()):
        raise ValueError("every task needs at least one row")
    middle = {task: median(lengths) for task, lengths in lengths_by_task.items()}
    longest, every = max(middle, key=middle.__getitem__), [n for lengths in lengths_by_task.values() for n in lengths]
    title = f"Half of the rows have {median(every):.0f} {unit} or fewer; the longest has {max(every):,}"
    with open_figure() as (figure, (axis,)):
        names = [f"{task.replace('_', ' ')}\n{len(lengths):,} rows" for task, lengths in lengths_by_task.items()]
        boxes = axis.boxplot(
            [list(lengths) for lengths in lengths_by_task.values()],
            **{"orientation": "horizontal", "tick_labels": names, "whis": (1, 99), "patch_artist": True},
            **{"medianprops": {"color": "black"}, "flierprops": {"markersize": 2}},
        )
        for box in boxes["boxes"]:
            box.set_facecolor(COLOURS[5])
        if max_length:
            axis.axvline(max_length, color=COLOURS[3], linestyle="--", label=f"cut at {max_length:,}")
            axis.legend()
        axis.set_xlabel(f"{unit} in a row")
        axis.set_title(f"{title}\n{longest.replace('_', ' ')} is the longest task (median {middle[longest]:.0f})")
    return figure


def plot_training(history: Sequence[Mapping], title: str | None = None) -> Figure:
    """Plot how a run goes: loss on trained and held-out rows, learning rate and gradient, speed, memory.

    Args:
        history: Lines of ``training_history.csv``; what no line holds gets no panel.
        title: A line above all panels.

    Raises:
        ValueError: No loss was logged.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    lines = [line for line in history if "loss" in line]
    if not lines:
        raise ValueError("no loss was logged: the run had fewer steps than logging_steps")
    logged = {key: _read_curve(history, key) for key in CURVES}
    panels = [key for key in CURVES if key in ("loss", "learning_rate") or logged[key][0]]
    panels = [key for key in panels if key not in ("eval_loss", "grad_norm")]
    with open_figure(2, 2.6 * ((len(panels) + 1) // 2), rows=(len(panels) + 1) // 2) as (figure, axes):
        for axis, key in zip(axes, panels, strict=False):
            axis.plot(*logged[key], label=CURVES[key][0], marker="o" if len(lines) < 20 else None)
            axis.set(xlabel="step", ylabel=CURVES[key][0], ylim=(0, None))
            axis.set_title(CURVES[key][1](logged[key][1], logged[key][0]))
        for axis in axes[len(panels) :]:
            axis.remove()
        if logged["eval_loss"][0]:
            axes[0].plot(*logged["eval_loss"], label="held-out loss", marker="o", color=COLOURS[1])
            axes[0].legend()
        if logged["grad_norm"][0]:
            norm = axes[1].twinx()
            norm.plot(*logged["grad_norm"], color=COLOURS[1], linestyle="--")
            norm.set(ylabel="gradient norm (dashed)", ylim=(0, None))
            norm.grid(visible=False)
            norm.spines["right"].set_visible(True)
        if title:
            figure.suptitle(title, fontsize=10)
    return figure


def _read_curve(history: Sequence[Mapping], key: str) -> tuple[list[int], list[float]]:
    points = [(int(line["step"]), CURVES[key][2] * line[key]) for line in history if key in line]
    return [step for step, _ in points], [value for _, value in points]


def _title_loss(values: Sequence[float], steps: Sequence[int]) -> str:
    verb = "falls" if values[-1] < values[0] else "does not fall:"
    return f"The loss {verb} from {values[0]:.2f} to {values[-1]:.2f} in {steps[-1]:,} steps"


# What is plotted of a run: label, title from (values, steps), scale.
CURVES: dict[str, tuple] = {
    "loss": ("loss (nats a token)", _title_loss, 1),
    "eval_loss": ("held-out loss", None, 1),
    "learning_rate": ("learning rate", lambda values, _: f"The learning rate peaks at {max(values):.1e}", 1),
    "grad_norm": ("gradient norm", None, 1),
    "tokens_per_second": ("tokens a second", lambda values, _: f"Half of the time above {median(values):,.0f}", 1),
    "memory_bytes": ("memory (GB)", lambda values, _: f"Memory peaks at {max(values):.2f} GB", 1e-9),
}


def _rank_value(value) -> tuple:
    """Return what puts numbers in their order, and words after them in theirs."""
    number = isinstance(value, (int, float))
    return not number, value if number else 0, str(value)


def plot_runs(runs: Sequence[Mapping], by: str) -> Figure:
    """Plot the losses of several runs over one another, named by the hyperparameter that you ask about.

    Args:
        runs: As `read_runs` gives them; one without a logged loss is left out.
        by: Name of a fact, such as ``lora_rank`` or ``learning_rate``.

    Raises:
        ValueError: No run has a history, or none has such a fact.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    drawn = [run for run in runs if any("loss" in line for line in run["history"])]
    if not drawn or not any(by in run["facts"] for run in drawn):
        known = sorted({name for run in drawn for name in run["facts"]})
        raise ValueError(f"none of {len(drawn)} runs with a history says its {by!r}; known are {', '.join(known)}")
    with open_figure(2) as (figure, axes):
        for number, run in enumerate(sorted(drawn, key=lambda run: _rank_value(run["facts"].get(by)))):
            colour, label = COLOURS[number % len(COLOURS)], f"{run['facts'].get(by, '–')}   ({run['name']})"
            for axis, key in zip(axes, ("loss", "eval_loss"), strict=True):
                axis.plot(*_read_curve(run["history"], key), color=colour, label=label, marker=".")
        for axis, what in zip(axes, ("loss", "held-out loss"), strict=True):
            axis.set(xlabel="step", ylabel=f"{what} (nats a token)", ylim=(0, None))
        best = min(drawn, key=lambda run: [line["loss"] for line in run["history"] if "loss" in line][-1])
        axes[0].set_title(f"The loss ends lowest with {by} = {best['facts'].get(by, '–')}")
        axes[1].set_title(f"{len(drawn)} runs")
        axes[1].legend(title=by, fontsize=7)
    return figure


def plot_scoreboard(scoreboard: Mapping, metrics: Sequence[str]) -> Figure:
    """Plot metrics of all systems as bars with their 95 % intervals; a missing bar was not measured.

    Args:
        scoreboard: What ``scoreboard.json`` holds.
        metrics: Names of rates, or of latencies (``…_s``); one figure has one unit.

    Raises:
        ValueError: The metrics mix rates and seconds, or none of them was measured.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    systems = scoreboard["systems"]
    seconds, scale = metrics[0].endswith("_s"), 1 if metrics[0].endswith("_s") else 100
    if any(metric.endswith("_s") != seconds for metric in metrics):
        raise ValueError(f"{', '.join(metrics)}: plot rates (%) and latencies (_s) apart")
    wins = Counter()
    for metric in metrics:
        found = {s["system"]: s["metrics"][metric]["value"] for s in systems if s["metrics"].get(metric)}
        best = (min if metric in LOWER_IS_BETTER else max)(found.values(), default=None)
        wins.update(name for name, value in found.items() if value == best)
    if not wins:
        raise ValueError(f"the scoreboard holds none of {', '.join(metrics)}")
    with open_figure(height=4) as (figure, (axis,)):
        width = 0.8 / len(systems)
        for number, system in enumerate(systems):
            measured = [(i, system["metrics"][m]) for i, m in enumerate(metrics) if system["metrics"].get(m)]
            values = [scale * m["value"] for _, m in measured]
            low = [max(0, v - scale * m["low"]) for v, (_, m) in zip(values, measured, strict=True)]
            high = [max(0, scale * m["high"] - v) for v, (_, m) in zip(values, measured, strict=True)]
            places = [i - 0.4 + width * (number + 0.5) for i, _ in measured]
            colour = {"color": COLOURS[number % len(COLOURS)], "label": system["system"]}
            axis.bar(places, values, width * 0.9, yerr=[low, high], error_kw={"elinewidth": 1, "alpha": 0.6}, **colour)
        arrows = [f"{m.replace('_', ' ')} {'↓' if m in LOWER_IS_BETTER else '↑'}" for m in metrics]
        axis.set_xticks(range(len(metrics)), [arrow.replace(" ", "\n", 1) for arrow in arrows])
        axis.set(ylabel="seconds" if seconds else "% of cases, with 95 % interval", ylim=(0, None if seconds else 100))
        name, count = wins.most_common(1)[0]
        axis.set_title(f"{name} is best in {count} of {len(metrics)} metrics (ties count for each)", pad=26)
        axis.legend(ncols=len(systems), loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, borderaxespad=0.2)
    return figure


def plot_engines(table: Sequence[Mapping]) -> Figure:
    """Plot how many tokens a second each engine writes.

    Args:
        table: ``{"engine": name, "tokens_per_second": number}`` each.

    Raises:
        ValueError: The table is empty, or a speed is not above 0.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    speeds = {row["engine"]: row["tokens_per_second"] for row in sorted(table, key=lambda r: -r["tokens_per_second"])}
    if not speeds or min(speeds.values()) <= 0:
        raise ValueError("the table needs at least one engine, and each tokens_per_second above 0")
    (best, fastest), (last, slowest) = [*speeds.items()][0], [*speeds.items()][-1]
    more = f", {fastest / slowest:.1f} × {last}" if len(speeds) > 1 else ""
    with open_figure(height=1.2 + 0.5 * len(speeds)) as (figure, (axis,)):
        _draw_bars(axis, speeds, "tokens a second", COLOURS[0], "{:,.1f}")
        axis.set_title(f"{best} writes {fastest:,.1f} tokens a second{more}")
    return figure
