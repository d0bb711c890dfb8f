"""A call that lacks what nobody said becomes a question."""

from elm_helpers.careful import find_missing, hold_calls, restrain
from elm_helpers.engines import Completion, Engine
from elm_helpers.prompts import build_conversation
from elm_helpers.tool_calls import ToolCall, format_tool_call

import pytest


def open_two_passes(call, seen, takes_grammar=True):
    """An engine that calls under one grammar and asks under the other."""

    def complete(messages, *, max_tokens=200, temperature=0.0, seed=0, grammar=None, on_text=None):
        seen.append(grammar)
        text = call if grammar is None or "<tool_call>" in grammar else "Which order is it?"
        if on_text:
            for piece in (text[:1], text[1:]):
                on_text(piece)
        return Completion(text, 10, 5, 1.0, 0.25)

    return Engine("script", complete, takes_grammar=takes_grammar)


@pytest.mark.parametrize(
    ("name", "arguments", "guest", "missing"),
    [
        ("get_inventory", {"product": "that one"}, False, ["product"]),
        ("get_inventory", {"product": "that kettle"}, False, []),
        ("get_product_info", {"product": "IT"}, False, ["product"]),
        ("calculate_shipping", {"destination": "my place"}, False, ["destination"]),
        ("calculate_shipping", {"destination": "Poland"}, False, []),
        ("initiate_return", {"order_id": "my kettle"}, False, ["order_id"]),
        ("initiate_return", {"order_id": "#W10482"}, False, []),
        ("get_customer_orders", {"order_id": "Boston"}, False, ["order_id"]),
        ("get_customer_orders", {"status": "shipped"}, True, ["order_id"]),
        ("get_customer_orders", {"status": "shipped"}, False, []),
        ("get_customer_orders", {"customer_id": "a@b.example"}, True, []),
        ("get_discount_eligibility", {}, True, []),
        ("search_products", {"query": "something"}, True, ["query"]),
    ],
)
def test_what_a_call_needs_and_nobody_stated_is_named(name, arguments, guest, missing):
    assert find_missing(ToolCall(name, arguments), guest) == missing


@pytest.mark.parametrize(
    ("said", "place", "missing"),
    [
        ("what's shipping on the garden hose?", "garden hose", True),
        ("ship my kettle", "kettle", True),
        ("ship my kettle to Lyon", "Lyon", False),
        ("shipping to the Netherlands?", "Netherlands", False),
        ("send it to the UK please", "UK", False),
        ("the 90210 address", "90210", False),
    ],
)
def test_a_thing_after_an_article_is_no_destination(said, place, missing):
    call = ToolCall("calculate_shipping", {"destination": place})
    assert find_missing(call, said=said) == ["destination"] * missing


def test_a_call_without_its_order_number_becomes_a_question_and_costs_both_passes():
    seen, call = [], format_tool_call(ToolCall("initiate_return", {"order_id": "kettle"}))
    reply = restrain(open_two_passes(call, seen)).complete(build_conversation({"text": "the kettle goes back"}))
    assert reply.text == "Which order is it?" and len(seen) == 2
    assert "initiate-return" in seen[0] and "tool_call" not in seen[1]
    assert (reply.completion_tokens, reply.seconds, reply.first_token_seconds) == (10, 2.0, 1.25)


def test_a_call_that_has_what_it_needs_stays_and_a_given_grammar_is_left_alone():
    seen, call = [], format_tool_call(ToolCall("initiate_return", {"order_id": "W10482"}))
    engine = restrain(open_two_passes(call, seen))
    asked = build_conversation({"text": "return W10482", "customer_id": "C0001"})
    assert engine.complete(asked).text == call and len(seen) == 1
    engine.complete(asked, grammar="root ::= x")
    assert seen[1] == "root ::= x"


def test_a_guests_orders_are_asked_for_by_number():
    call = format_tool_call(ToolCall("get_customer_orders", {}))
    engine = restrain(open_two_passes(call, []))
    assert engine.complete(build_conversation({"text": "where is my order"})).text == "Which order is it?"
    signed_in = build_conversation({"text": "where is my order", "customer_id": "C0001"})
    assert engine.complete(signed_in).text == call


def test_an_engine_without_grammars_is_returned_as_it_is():
    engine = open_two_passes("text", [], takes_grammar=False)
    assert restrain(engine) is engine


def test_text_streams_and_a_call_does_not_unless_it_is_the_reply():
    shown, asked = [], build_conversation({"text": "return W10482", "customer_id": "C0001"})
    lacking = format_tool_call(ToolCall("initiate_return", {"order_id": "kettle"}))
    restrain(open_two_passes(lacking, [])).complete(asked, on_text=shown.append)
    assert "".join(shown) == "Which order is it?"
    whole, shown[:] = format_tool_call(ToolCall("initiate_return", {"order_id": "W10482"})), []
    restrain(open_two_passes(whole, [])).complete(asked, on_text=shown.append)
    assert "".join(shown) == whole
    assert hold_calls(None) is None
