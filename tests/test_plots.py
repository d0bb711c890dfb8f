"""The figures: titles that the data decides, and nothing left behind in pyplot."""

from elm_helpers import plots

import matplotlib.pyplot as plt
import pytest

CALL = '<tool_call>search_products(query="mug")</tool_call>'
HISTORY = [
    {"step": 5, "loss": 2.5, "learning_rate": 1e-3, "grad_norm": 2.0, "tokens_per_second": 90.0, "memory_bytes": 1e9},
    {"step": 10, "loss": 0.5, "eval_loss": 0.7, "learning_rate": 0.0, "tokens_per_second": 80.0, "memory_bytes": 2.4e9},
]
RUNS = [
    {
        "name": f"2026-{rank}",
        "facts": {"lora_rank": rank, "seed": 0},
        "history": [*HISTORY[:1], HISTORY[1] | {"loss": end}],
    }
    for rank, end in ((16, 0.5), (4, 0.9))
]


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
    "training": lambda: plots.plot_training(HISTORY, "step 10 of 10"),
    "runs": lambda: plots.plot_runs(RUNS, "lora_rank"),
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


def test_the_training_titles_say_when_the_loss_does_not_fall_and_where_memory_peaks():
    figure = plots.plot_training(HISTORY)
    assert "The loss falls from 2.50 to 0.50 in 10 steps" in read_titles(figure)
    assert "Memory peaks at 2.40 GB" in read_titles(figure)
    assert "does not fall" in read_titles(plots.plot_training(HISTORY[::-1]))


def test_the_training_figure_shows_loss_held_out_loss_rate_gradient_speed_and_memory():
    figure = plots.plot_training(HISTORY)
    labels = " | ".join(axis.get_ylabel() for axis in figure.axes)
    for what in ("loss", "learning rate", "gradient norm", "tokens a second", "memory (GB)"):
        assert what in labels
    assert [line.get_label() for line in figure.axes[0].lines] == ["loss (nats a token)", "held-out loss"]
    assert list(figure.axes[0].lines[1].get_ydata()) == [0.7]


def test_a_history_without_speed_and_memory_gets_no_empty_panels():
    old = [{"step": 5, "loss": 2.5, "learning_rate": 1e-3}, {"step": 10, "loss": 0.5, "learning_rate": 0.0}]
    assert len(plots.plot_training(old).axes) == 2


def test_runs_lie_over_one_another_named_by_the_hyperparameter_in_the_order_of_its_values():
    figure = plots.plot_runs(RUNS, "lora_rank")
    assert "ends lowest with lora_rank = 16" in read_titles(figure)
    assert [line.get_label().split()[0] for line in figure.axes[0].lines] == ["4", "16"]
    with pytest.raises(ValueError, match="'rank'; known are lora_rank, seed"):
        plots.plot_runs(RUNS, "rank")


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
        lambda: plots.plot_runs([], "lora_rank"),
        lambda: plots.plot_scoreboard(build_board(tuned=0.9), ["tool_name", "latency_p50_s"]),
        lambda: plots.plot_scoreboard(build_board(tuned=0.9), ["category"]),
        lambda: plots.plot_engines([]),
    ],
)
def test_a_figure_of_nothing_is_refused_in_words(draw):
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        draw()
    assert plt.get_fignums() == []
