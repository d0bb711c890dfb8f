"""The figures: titles that the data decides, and nothing left behind in pyplot."""

import csv

from elm_helpers import plots

import matplotlib.pyplot as plt
import pytest

CALL = '<tool_call>search_products(query="mug")</tool_call>'
HISTORY = [{"step": "5", "loss": "2.5", "learning_rate": "1e-3"}, {"step": "10", "loss": "0.5", "learning_rate": "0"}]
MEMORY = [{"seconds": "0.1", "resident_bytes": "1000000000"}, {"seconds": "1.2", "resident_bytes": "2400000000"}]


def build_row(task: str, answer: str) -> dict:
    return {"task": task, "messages": [{"role": "user", "content": CALL}, {"role": "assistant", "content": answer}]}


def build_board(**values: float) -> dict:
    def rate(value):
        return {"value": value, "low": value - 0.05, "high": min(1, value + 0.05), "n": 200}

    metrics = {name: {"tool_name": rate(value), "over_call": rate(1 - value)} for name, value in values.items()}
    return {"systems": [{"system": name, "metrics": found} for name, found in metrics.items()]}


ROWS = [build_row("tool_calling", CALL), build_row("conversation", "Hello!"), build_row("conversation", CALL)]
FIGURES = {
    "mix": lambda: plots.plot_mix(ROWS),
    "lengths": lambda: plots.plot_lengths({"conversation": [10, 20, 30], "tool_calling": [5, 6]}, max_length=25),
    "training": lambda: plots.plot_training(HISTORY, MEMORY),
    "scoreboard": lambda: plots.plot_scoreboard(build_board(base=0.4, tuned=0.9), ["tool_name", "over_call"]),
    "engines": lambda: plots.plot_engines([{"engine": "a", "tokens_per_second": 5.0}]),
}


def read_titles(figure) -> str:
    return " | ".join(axis.get_title(loc="left") for axis in figure.axes)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_small_leaves_nothing_in_pyplot_and_names_its_axes(name):
    before = dict(plt.rcParams)
    figure = FIGURES[name]()
    assert plt.get_fignums() == []
    assert dict(plt.rcParams) == before
    png = plots.render_png(figure)
    assert png.startswith(b"\x89PNG")
    assert len(png) < 150_000
    titled = [axis for axis in figure.axes if axis.get_title(loc="left")]
    assert titled
    assert all(axis.get_xlabel() or axis.get_ylabel() for axis in figure.axes)


def test_the_mix_counts_calls_of_the_assistant_only():
    assert read_titles(plots.plot_mix(ROWS)) == ("3 rows, 67 % conversation | 2 rows or more for each of 1 tools")
    assert len(plots.plot_mix([build_row("conversation", "Hello!")]).axes) == 1


def test_the_lengths_title_names_the_longest_task():
    title = read_titles(FIGURES["lengths"]())
    assert "Half of the rows have 10 tokens or fewer; the longest has 30" in title
    assert "conversation is the longest task (median 20)" in title
    figure = plots.plot_lengths({"conversation": [10, 20]}, unit="words")
    assert "15 words or fewer" in read_titles(figure) and figure.axes[0].get_xlabel() == "words in a row"


def test_the_training_title_says_when_the_loss_does_not_fall():
    assert "The loss falls from 2.50 to 0.50 in 10 steps" in read_titles(plots.plot_training(HISTORY, MEMORY))
    assert "Memory peaks at 2.40 GB" in read_titles(plots.plot_training(HISTORY, MEMORY))
    assert "does not fall" in read_titles(plots.plot_training(HISTORY[::-1]))
    assert "peaks" not in read_titles(plots.plot_training(HISTORY))


def test_the_scoreboard_title_knows_where_less_is_better():
    figure = plots.plot_scoreboard(build_board(base=0.4, tuned=0.9), ["tool_name", "over_call"])
    assert read_titles(figure).startswith("tuned is best in 2 of 2 metrics")


def test_a_metric_that_a_system_lacks_leaves_a_gap():
    board = build_board(base=0.4, tuned=0.9)
    del board["systems"][0]["metrics"]["over_call"]
    assert len(plots.plot_scoreboard(board, ["tool_name", "over_call"]).axes[0].patches) == 3


def test_the_engines_title_compares_the_fastest_with_the_slowest():
    table = [{"engine": "transformers", "tokens_per_second": 5.8}, {"engine": "llama.cpp", "tokens_per_second": 75.4}]
    assert read_titles(plots.plot_engines(table)) == "llama.cpp writes 75.4 tokens a second, 13.0 × transformers"


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.plot_mix([]),
        lambda: plots.plot_lengths({"conversation": []}),
        lambda: plots.plot_training([]),
        lambda: plots.plot_scoreboard(build_board(tuned=0.9), ["tool_name", "latency_p50_s"]),
        lambda: plots.plot_scoreboard(build_board(tuned=0.9), ["category"]),
        lambda: plots.plot_engines([]),
    ],
)
def test_a_figure_of_nothing_is_refused_in_words(draw):
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        draw()
    assert plt.get_fignums() == []


def test_a_runs_history_is_read_back_as_numbers(tmp_path):
    for name, rows in (("training_history.csv", HISTORY), ("memory_history.csv", MEMORY)):
        with open(tmp_path / name, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    history, memory = plots.read_history(tmp_path)
    assert history[0] == {"step": 5.0, "loss": 2.5, "learning_rate": 1e-3}
    assert memory[1]["resident_bytes"] == 2.4e9


class Kernel:
    """Stands for the notebook's shell; it has a kernel, as only a notebook's has."""

    kernel = True


class Handle:
    def __init__(self, shown):
        self.shown = shown

    def update(self, image):
        self.shown.append(image)


def run_live_plot(logs: int, seconds: float = 0.0):
    """Drive a live plot as the trainer would."""
    from transformers import TrainerControl, TrainerState, TrainingArguments

    plot, state, control = plots.build_live_plot(seconds), TrainerState(), TrainerControl()
    args = TrainingArguments(output_dir="unused", use_cpu=True, bf16=False)
    for step in range(1, logs + 1):
        state.global_step = step
        plot.on_step_end(args, state, control)
        plot.on_log(args, state, control, logs={"loss": 1 / step, "learning_rate": 0.1})
    plot.on_log(args, state, control, logs={"train_runtime": 1.0})
    plot.on_train_end(args, state, control)


def test_the_live_plot_draws_nothing_outside_a_notebook(monkeypatch):
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: pytest.fail("it displayed"))
    run_live_plot(3)


def test_the_live_plot_updates_one_display_at_most_once_a_second_and_leaves_the_last_state(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.get_ipython", Kernel)
    monkeypatch.setattr("IPython.display.display", lambda image, display_id: shown.append(image) or Handle(shown))
    run_live_plot(4, seconds=60)
    assert len(shown) == 2  # the first, and the one at the end
    assert all(len(image.data) < 150_000 for image in shown)
    assert plt.get_fignums() == []
