"""What a customer's words settle without a model, and what the grammar makes of it."""

import json

from elm_helpers.grammar import build_copying_gbnf
from elm_helpers.prompts import build_conversation
from elm_helpers.stated import find_codes, list_amounts, read_pointed, read_settled

import pytest


@pytest.mark.parametrize(
    ("text", "settled"),
    [
        ("a lamp, upwards of $30 is fine", {"min_price": 30.0}),
        ("a soldering iron between 80 and 150 dollars", {"min_price": 80.0, "max_price": 150.0}),
        ("office chairs under two hundred", {"max_price": 200.0}),
        ("curtains for a 2 meter window", {}),
        ("top 3 earbuds", {"limit": 3}),
        ("give me two substitutes for the kettle", {"limit": 2}),
        ("alternatives to the car seat, maybe five of them", {"limit": 5}),
        ("three mugs for 7 people, and 300 other things", {}),
        ("quote me express freight to Ireland", {"method": "express"}),
        ("overnight to 10001 cost", {"method": "overnight"}),
        ("express or overnight to Leeds, which is cheaper?", {}),
        ("um a lamp for under 50, no wait, yeah under 50", {"max_price": 50.0}),
        ("is the kettle at mill square?", {"location": "mill square"}),
        ("Northgate or Harbour Lane, who has the kettle?", {}),
        ("", {}),
    ],
)
def test_words_that_leave_no_doubt_settle_an_argument(text, settled):
    assert read_settled(text) == settled


def test_sizes_and_times_are_no_prices_and_plain_words_no_codes():
    assert list_amounts("a 65L backpack for 3 days, 50 or so") == [50.0]
    assert find_codes(["rabat", "welcome10", "XMAS", "is", "no-code"], "is rabat welcome10") == [
        "welcome10",
        "XMAS",
        "no-code",
    ]
    assert find_codes(["freeship"], "the coupon freeship") == ["freeship"]


def test_the_grammar_writes_what_is_settled_and_nothing_else_there():
    rules = build_copying_gbnf(
        build_conversation({"text": "red mugs under $20, 3 of them, or order A17 by overnight mail"})
    )
    lines = dict(line.split(" ::= ", 1) for line in rules.splitlines() if " ::= " in line)
    assert lines["high"] == '"20"' and lines["count"] == '"3"' and lines["speed"] == r'"\"" ( "overnight" ) "\""'
    assert "low" not in lines and '", " "max_price=" high ", " "limit=" count' in lines["search-products"]
    assert (
        '"A17"' in lines["ordered"] and "mugs" not in lines["ordered"] and "min_price" not in lines["search-products"]
    )


def test_an_order_number_that_nobody_stated_may_be_any_words_so_that_it_is_seen_to_be_missing():
    rules = build_copying_gbnf(build_conversation({"text": "the kettle goes back"}))
    lines = dict(line.split(" ::= ", 1) for line in rules.splitlines() if " ::= " in line)
    assert "ordered" not in lines and '"order_id=" named' in lines["initiate-return"]
    assert "order_id" not in lines["get-customer-orders"]


def test_an_order_has_a_status_in_the_call_only_if_the_message_names_one():
    def write(text: str) -> str:
        return build_copying_gbnf(build_conversation({"text": text}))

    assert "status" not in write("what have I ordered so far?")
    assert r'state ::= "\"" ( "cancelled" | "shipped" ) "\""' in write("my canceled orders, and those shipped")


FOUND = {"products": [{"name": name, "price": price} for name, price in (("Red", 9.0), ("Tan", 7.5), ("Blue", 9.0))]}
SHOWN = [{"role": "tool", "content": json.dumps(FOUND)}, {"role": "assistant", "content": "I have:\n- Tan\n- Red"}]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("the first one please", "Tan"),
        ("is number 2 in stock?", "Red"),
        ("2", "Red"),
        ("tell me more about the last one", "Red"),
        ("the third one", None),
        ("and the cheapest one?", "Tan"),
        ("more like #1", "Tan"),
        ("is it in stock?", None),
        ("where is order #1200?", None),
        ("this is my first order here", None),
        ("I asked for the second time", None),
        ("what about the cheapest kettle you have", None),
    ],
)
def test_a_place_in_the_list_that_was_shown_points_at_a_product(text, name):
    assert read_pointed([*SHOWN, {"role": "user", "content": text}]) == name


def test_pointing_reads_the_newest_list_and_survives_what_is_none():
    later = [{"role": "tool", "content": '{"name": "Tan", "stock": 3}'}, {"role": "assistant", "content": "3 left."}]
    asked = {"role": "user", "content": "and the second one?"}
    assert read_pointed([*SHOWN, *later, asked]) == "Red"
    assert read_pointed([{"role": "tool", "content": "garbage"}, {"role": "tool", "content": "[1]"}, asked]) is None
    assert read_pointed([]) is None


def test_a_call_about_what_was_pointed_at_is_about_nothing_else():
    grammar = build_copying_gbnf([*SHOWN, {"role": "user", "content": "is the first one in stock?"}])
    assert r'pointed ::= "\"" ( "Tan" ) "\""' in grammar
    assert 'get-inventory ::= "get_inventory(" "product=" pointed' in grammar
