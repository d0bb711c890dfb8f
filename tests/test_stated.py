"""What a customer's words settle without a model, and what the grammar makes of it."""

from elm_helpers.grammar import build_copying_gbnf
from elm_helpers.prompts import build_conversation
from elm_helpers.stated import find_codes, list_amounts, read_settled

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
    assert lines["high"] == '"20"' and lines["count"] == '"3"' and lines["speed"] == r'"\"overnight\""'
    assert "low" not in lines and '", " "max_price=" high ", " "limit=" count' in lines["search-products"]
    assert (
        '"A17"' in lines["ordered"] and "mugs" not in lines["ordered"] and "min_price" not in lines["search-products"]
    )


def test_an_order_number_that_nobody_stated_may_be_any_words_so_that_it_is_seen_to_be_missing():
    rules = build_copying_gbnf(build_conversation({"text": "the kettle goes back"}))
    lines = dict(line.split(" ::= ", 1) for line in rules.splitlines() if " ::= " in line)
    assert "ordered" not in lines and '"order_id=" named' in lines["initiate-return"]
    assert "order_id" not in lines["get-customer-orders"]
