"""What the model is sent of a long conversation."""

import json

from elm_helpers.context import cut_text, measure_memory, measure_text, summarise_result, trim_memory
from elm_helpers.tools import TOOLS, Session, format_result, run_tool

import pytest
from hypothesis import given
from hypothesis import strategies as st

CALL = '<tool_call>search_products(query="mug")</tool_call>'
FOUND = json.dumps({"products": [{"id": f"P{i}", "name": f"Mug {i}", "price": 9.5 + i} for i in range(9)], "total": 9})


def build_talk(turns, tools=1):
    messages = [{"role": "system", "content": "S"}]
    for i in range(turns):
        messages.append({"role": "user", "content": f"question {i}"})
        for _ in range(tools):
            messages += [{"role": "assistant", "content": CALL}, {"role": "tool", "content": FOUND}]
        messages.append({"role": "assistant", "content": f"answer {i}"})
    return [*messages, {"role": "user", "content": "last"}]


def test_what_fits_is_sent_as_it_is():
    talk = build_talk(3)
    assert trim_memory(talk, 10**6) == talk


def test_the_oldest_result_is_summarised_first_and_only_as_many_as_needed():
    talk = build_talk(5)
    size = measure_memory(talk)
    assert size > 2000
    kept = trim_memory(talk, size - 1)
    short = [i for i, message in enumerate(kept) if message != talk[i]]
    assert short == [3]  # system, question, call, result
    assert json.loads(kept[3]["content"]) == {
        "summary": "search_products: 9 products: Mug 0 $9.5; Mug 1 $10.5; Mug 2 $11.5, total 9"
    }


def test_turns_go_when_summaries_are_not_enough_and_the_newest_stays():
    talk = build_talk(20)
    kept = trim_memory(talk, 1500)
    assert measure_memory(kept) <= 1500
    assert (kept[0]["content"], kept[1]["role"], kept[-1]["content"]) == ("S", "user", "last")
    assert all("summary" in message["content"] for message in kept if message["role"] == "tool")
    assert int(kept[1]["content"].split()[1]) > 5


def test_the_results_of_this_turn_are_summarised_last_and_the_newest_never():
    talk = build_talk(0) + build_talk(1, tools=8)[2:-2]  # one question, eight tools
    kept = trim_memory(talk, 2000)
    results = [message["content"] for message in kept if message["role"] == "tool"]
    assert len(results) == 8
    assert "summary" in results[0]
    assert results[-1] == FOUND


@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), st.text(max_size=300)), max_size=30),
    st.integers(0, 3000),
)
def test_any_talk_can_be_trimmed_and_keeps_its_prompt_and_its_question(talk, budget):
    messages = [{"role": "system", "content": "S"}, *({"role": r, "content": t} for r, t in talk)]
    messages.append({"role": "user", "content": "last"})
    kept = trim_memory(messages, budget)
    assert (kept[0], kept[-1]) == (messages[0], messages[-1])
    assert measure_memory(kept) <= max(budget, measure_memory(messages))
    assert [m["role"] for m in kept].count("system") == 1


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        ("search_products", {"query": "wireless headphones"}, ["Corvane Hush 40 Wireless Headphones $89", "total"]),
        ("get_product_info", {"product": "P0001"}, ["P0001", "price"]),
        ("get_inventory", {"product": "P0001"}, ["3 stock: ", " online"]),
        ("calculate_shipping", {"destination": "Leeds"}, ["cost", "United Kingdom"]),
        ("get_customer_orders", {}, ["orders:", "delivered"]),
        ("initiate_return", {"order_id": "nothing"}, ["error"]),
        ("get_discount_eligibility", {}, ["eligible", "tier"]),
        ("get_similar_products", {"product": "P0001"}, ["similar:", "$"]),
    ],
)
def test_a_summary_of_each_tool_names_what_later_turns_refer_to(shop, name, arguments, wanted):
    assert set(TOOLS) >= {name}
    content = format_result(run_tool(Session(shop, "C0008"), name, arguments))
    summary = json.loads(summarise_result(name, content))["summary"]
    assert all(part in summary for part in (name, *wanted)), summary
    assert len(summary) <= 300


@given(st.text(max_size=500), st.integers(8, 400))
def test_a_cut_text_fits_and_begins_as_before(text, most):
    cut = cut_text(text, most)
    assert cut == text or (measure_text(cut) <= max(most, 12) and text.startswith(cut[:-1]))


def test_letters_outside_ascii_count_by_their_bytes():
    assert measure_text("café") == 3 + 4 * 2
    assert len(cut_text("茶" * 5000, 2000)) < 170
