"""The bars of memory: what is predicted is stacked, what is measured stands beside it, the title says the finding."""

from elm_helpers import plots
from elm_helpers.budget import Budget
from elm_helpers.memory_plot import FILLS, plot_budgets

import matplotlib.pyplot as plt
import pytest

SMALL = Budget(500, 300, 20, 20, 40, 1500, 180, 0)
LARGE = Budget(500, 16000, 0, 16000, 32000, 1100, 2500, 0)


def scale(budget: Budget, factor: int = 10**6) -> Budget:
    return Budget(**{part: size * factor for part, size in vars(budget).items()})


BUDGETS = {"QLoRA": scale(SMALL), "all weights": scale(LARGE)}


def read_title(figure) -> str:
    return figure.axes[0].get_title(loc="left")


def test_every_part_of_the_budget_is_drawn_and_told_apart_without_colour():
    assert set(FILLS) == set(vars(SMALL))
    assert len({colour for colour, _ in FILLS.values()}) == len(FILLS)
    figure = plot_budgets(BUDGETS, limit=16 * 10**9)
    told = {text.get_text() for text in figure.axes[0].get_legend().get_texts()}
    assert told == {*FILLS, "16 GB"}
    assert "GB" in figure.axes[0].get_xlabel()
    assert plt.get_fignums() == []
    assert len(plots.render_png(figure)) < 150_000


def test_the_stack_is_as_long_as_the_predicted_peak():
    figure = plot_budgets({"QLoRA": BUDGETS["QLoRA"]})
    ends = [bar.get_x() + bar.get_width() for bar in figure.axes[0].patches]
    assert max(ends) == pytest.approx(2.56)


def test_the_title_names_the_largest_run_and_its_largest_part():
    assert read_title(plot_budgets(BUDGETS)) == "all weights takes 68.1 GB, most of it optimizer (47%)"


def test_beside_a_measurement_the_title_says_how_far_the_prediction_is_off():
    figure = plot_budgets(BUDGETS, {"QLoRA": 2_000_000_000})
    assert read_title(figure) == "The prediction is within 28% of the measured peak"
    assert "measured" in {text.get_text() for text in figure.axes[0].get_legend().get_texts()}


@pytest.mark.parametrize(("budgets", "measured"), [({}, {}), (BUDGETS, {"LoRA": 1})])
def test_nothing_to_plot_and_a_run_without_a_prediction_are_refused(budgets, measured):
    with pytest.raises(ValueError, match="no prediction for (any run|LoRA)"):
        plot_budgets(budgets, measured)
