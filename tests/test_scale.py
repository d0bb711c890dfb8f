"""Published speeds with their sources, estimates that say so, and how many cards a model needs."""

from dataclasses import replace

from elm_helpers.budget import Budget, Setting, predict_memory
from elm_helpers.memory_plot import plot_reach
from elm_helpers.paths import TEMPLATES
from elm_helpers.scale import FILL, REFERENCE, count_cards, find_speed, read_cards

import pytest
import yaml
from test_budget import GPU, LLAMA

CARDS, PUBLISHED = read_cards()


def test_every_figure_has_its_source():
    data = yaml.safe_load((TEMPLATES / "cards.yaml").read_text(encoding="utf-8"))
    assert set(data) == {"cards", "published"}
    assert list(data["cards"]) == ["T4", "L4", "RTX 4090", "A100", "H100"]
    for one in data["cards"].values():
        assert set(one) == {"memory_gb", "peak_tflops", "source"} and one["source"].startswith("https://")
    for one in data["published"]:
        assert set(one) == {"card", "method", "tokens_per_second", "run", "source"}
        assert one["card"] in data["cards"] and one["method"] in ("QLoRA", "LoRA")
        assert one["source"].startswith("https://") and len(one["run"]) > 20
    assert len(PUBLISHED) == len(data["published"]) >= 5, "one speed a card and method"


def test_a_published_speed_is_given_with_its_address():
    speed = find_speed("RTX 4090", "QLoRA")
    assert (speed.tokens_per_second, speed.is_measured) == (2413, True)


@pytest.mark.parametrize("method", ["QLoRA", "LoRA"])
@pytest.mark.parametrize("card", CARDS)
def test_an_estimate_says_that_it_is_one_and_can_be_computed_again(card, method):
    speed = find_speed(card, method)
    if (card, method) in PUBLISHED:
        assert speed == PUBLISHED[card, method]
        return
    assert not speed.is_measured and " x " in speed.how
    if (card, "LoRA") in PUBLISHED:  # by the ratio of the two methods
        ratio = PUBLISHED[REFERENCE, method].tokens_per_second / PUBLISHED[REFERENCE, "LoRA"].tokens_per_second
        assert speed.tokens_per_second == round(PUBLISHED[card, "LoRA"].tokens_per_second * ratio)
    else:  # by the ratio of the peaks
        ratio = CARDS[card].peak / CARDS[REFERENCE].peak
        assert speed.tokens_per_second == round(PUBLISHED[REFERENCE, method].tokens_per_second * ratio)


def test_an_unknown_card_or_method_is_no_number():
    with pytest.raises(KeyError):
        find_speed("V100", "QLoRA")
    with pytest.raises(KeyError):
        find_speed("T4", "full")


def test_one_card_is_enough_exactly_when_the_budget_fits_it():
    budget = predict_memory(LLAMA, GPU)
    assert count_cards(budget, budget.total / FILL + 10) == 1
    assert count_cards(budget, budget.total / FILL - 1e6) == 2


@pytest.mark.parametrize("memory", [16e9, 24e9, 48e9])
def test_the_cards_counted_hold_their_shares_and_one_fewer_would_not(memory):
    setting = replace(GPU, rank=0, quantized=False, optimizer="adamw_torch")
    budget = predict_memory(LLAMA, setting)
    shared = budget.weights + budget.adapters + budget.gradients + budget.optimizer
    count = count_cards(budget, memory)
    own = budget.total - shared
    assert shared / count + own <= FILL * memory < shared / (count - 1) + own


def test_a_batch_that_fits_no_card_is_not_saved_by_more_of_them():
    budget = predict_memory(LLAMA, Setting(tokens=65536, keys=8192, scored=65536, attention="sdpa"))
    assert count_cards(budget, 16e9) is None
    assert count_cards(Budget(1, 0, 0, 0, 0, 0, 0, 0), 100) == 1


def test_the_plots_title_counts_the_models_that_fit_the_largest_card():
    peaks = {
        "QLoRA": {"small": [1e9, 2e9], "large": [9e9, 30e9]},
        "all weights": {"small": [9e9, 9e9], "large": [2e11, 3e11]},
    }
    figure = plot_reach(peaks, [1024, 4096], {"T4": 16e9, "A100": 80e9})
    assert figure.get_suptitle() == "Of 2 models, one A100 holds 2 with QLoRA, 1 with all weights"
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["QLoRA", "all weights"]
    assert [len(axis.lines) for axis in figure.axes] == [4, 4]
