"""Two systems on the same cases: paired counts, groups, confusions, and misses that a browser can show."""

from elm_helpers.board_plots import plot_confusions, plot_ladder
from elm_helpers.cases import Case
from elm_helpers.compare import (
    compare_answers,
    count_chances,
    count_confusions,
    group_scores,
    name_register,
    name_tool,
    render_misses_html,
)
from elm_helpers.judge import Answer, Miss
from elm_helpers.tool_calls import ToolCall, format_tool_call

import pytest

STOCK, INFO = ToolCall("get_inventory", {"product": "mug"}), ToolCall("get_product_info", {"product": "mug"})


def build_answers(*texts):
    """Answers to six cases: two about stock, two about a product, one that lacks something, one that needs no call."""
    kinds = [STOCK, STOCK, INFO, INFO, "ask_back", "no_call"]
    answers = []
    for number, (kind, text) in enumerate(zip(kinds, texts, strict=True)):
        calls = ((kind,),) if isinstance(kind, ToolCall) else ()
        talk = ({"role": "user", "content": "the mug"},)
        case = Case(str(number), "call" if calls else kind, None, talk, "", calls, "terse" if number % 2 else "polite")
        answers.append(Answer(case, format_tool_call(text) if isinstance(text, ToolCall) else text, None))
    return answers


GOOD = build_answers(STOCK, STOCK, INFO, INFO, "Which one?", "You're welcome.")
POOR = build_answers(STOCK, INFO, STOCK, "<tool_call>nonsense", STOCK, "You're welcome.")


def test_the_paired_test_counts_only_cases_that_differ():
    better = compare_answers(GOOD, POOR, "tool_name")
    assert (better.n, better.both, better.only_first, better.only_second) == (4, 1, 3, 0) and better.p == 0.25
    calls = compare_answers(GOOD, POOR, "over_call")
    assert (calls.n, calls.only_first, calls.only_second) == (2, 1, 0)
    assert compare_answers(GOOD, GOOD, "tool_exact").p == 1.0


@pytest.mark.parametrize(("fewer", "n", "p"), [(0, 5, 0.0625), (5, 10, 1.0), (2, 20, 0.0004), (0, 1, 1.0)])
def test_the_exact_test_has_the_values_of_the_binomial_distribution(fewer, n, p):
    assert count_chances(fewer, n) == p


def test_different_cases_and_a_metric_that_nobody_has_are_refused():
    with pytest.raises(ValueError, match="different cases"):
        compare_answers(GOOD, POOR[:3], "tool_name")
    with pytest.raises(ValueError, match="category"):
        compare_answers(GOOD, POOR, "category")


def test_rates_fall_into_groups():
    by_tool = group_scores(POOR, "tool_name", name_tool)
    assert {name: (m.value, m.n) for name, m in by_tool.items()} == {
        "get_inventory": (0.5, 2),
        "get_product_info": (0, 2),
    }
    assert {name: m.n for name, m in group_scores(POOR, "tool_name", name_register).items()} == {
        "polite": 2,
        "terse": 2,
    }


def test_confusions_name_what_was_called_and_what_could_not_be_run():
    found = count_confusions(POOR)
    assert found["get_inventory", "get_product_info"] == 1 and found["get_product_info", "malformed"] == 1
    assert found["ask_back", "get_inventory"] == 1 and found["no_call", "no call"] == 1 and sum(found.values()) == 6
    figure = plot_confusions(found)
    assert "mixed up" in figure.axes[0].get_title(loc="left") and len(figure.axes[0].texts) == len(found)
    with pytest.raises(ValueError, match="nothing|no confusions"):
        plot_confusions({})
    assert plot_confusions(count_confusions(GOOD)).axes[0].get_title(loc="left") == "Nothing was mixed up"


def test_misses_are_heaps_of_escaped_text():
    page = render_misses_html(
        [Miss("1", "over_call", "<script>x</script>", "ask", "b"), Miss("2", "tool_name", "a", "b", "c")]
    )
    assert page.count("<details>") == 2 and "<script>" not in page and "&lt;script&gt;" in page
    assert render_misses_html([]) == "<p>no misses</p>"


def test_the_ladder_shows_every_system_that_was_timed():
    rate, wait = ({"value": v, "low": v, "high": v, "n": 1} for v in (0.5, 0.2))
    board = {
        "systems": [
            {"system": "a", "metrics": {"tool_exact": rate, "latency_p50_s": wait}},
            {"system": "b", "metrics": {}},
        ]
    }
    axis = plot_ladder(board).axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a"] and "a: 50%" in axis.get_title(
        loc="left"
    )
    with pytest.raises(ValueError, match="tool_exact"):
        plot_ladder({"systems": []})
