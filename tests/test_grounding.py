"""An answer is shown only if this conversation's tool results carry it."""

from elm_helpers.grounding import find_price_limits, find_ungrounded, list_prices

import pytest
from hypothesis import given
from hypothesis import strategies as st

FOUND = {
    "products": [
        {"id": "P1", "name": "Corvane Hush 40", "price": 89.0},
        {"id": "P2", "name": "Oldo Mini", "price": 129.0},
    ]
}
NAMES = ["Corvane Hush 40", "Oldo Mini", "Tessmar Bolt"]


def check(answer, results=(FOUND,), spoken=("headphones please",), limits=(None, None)):
    return find_ungrounded(answer, list(results), list(spoken), NAMES, limits)


@pytest.mark.parametrize(
    "answer",
    [
        "I found 2 options:\n1. Corvane Hush 40 – $89.00\n2. Oldo Mini – $129.00",
        "The Corvane Hush 40 costs $89.",
        "You can return items within 30 days of delivery.",
        "Standard shipping is free from $75.",
        "Which one do you mean?",
        "All of Corvane's products, and Oldo, are in stock. Oldo Mini. Anything else?",
    ],
)
def test_an_answer_from_the_results_or_the_shops_policies_passes(answer):
    assert check(answer) == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("The Corvane Hush 40 costs $79.", "79"),
        ("The Tessmar Bolt would fit.", "Tessmar Bolt"),
        ("The Corvane Hush 40 costs $129.00.", "does not cost"),
        ("Corvane Hush 40: price: 89.00. Also the Oldo Mini, all for $89.00.", "Oldo Mini does not cost"),
        ("Oldo Mini, Oldo Mini, Oldo Mini.", "over and over"),
        ("Your return RET-99 is on its way.", "RET-99"),
        ("It arrives on 2026-11-30.", "2026"),
        ("I found 7 of them.", "7"),
        ("The Oldo Maxi Mug would fit.", "Oldo Maxi Mug is no product's whole name"),
        ("1. Corvane Headphones ($89.00)", "Corvane Headphones is no product's whole name"),
    ],
)
def test_an_answer_that_adds_something_is_named(answer, reason):
    assert any(reason in found for found in check(answer))


def test_a_product_above_the_customers_limit_may_not_be_offered():
    answer = "1. Corvane Hush 40 – $89.00\n2. Oldo Mini – $129.00"
    assert check(answer, limits=(None, 100.0)) == ["Oldo Mini costs $129.00, outside what was asked for"]


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("Find wireless headphones under $100", (None, 100.0)),
        ("something below 50 please", (None, 50.0)),
        ("not more than 35 bucks", (None, 35.0)),
        ("$20-30 mugs", (20.0, 30.0)),
        ("between 10 and 20 dollars", (10.0, 20.0)),
        ("at least $200, it's a gift", (200.0, None)),
        ("80 dollars or less", (None, 80.0)),
        ("a budget of 1,500 for a laptop", (None, 1500.0)),
        ("a 27 inch monitor", (None, None)),
        ("under 2 kg tent", (None, None)),
        ("where is order 10482", (None, None)),
        ("hello", (None, None)),
        ("nothing above 50", (None, 50.0)),
        ("don't go over $40", (None, 40.0)),
        ("I don't want to pay more than $20", (None, 20.0)),
        ("nothing below 50 please, the cheap ones break", (50.0, None)),
        ("nothing that costs less than 10", (10.0, None)),
        ("a thing that costs less than 10", (None, 10.0)),
        ("min $50 max $70", (50.0, 70.0)),
        ("not less than 20, not more than $40", (20.0, 40.0)),
        ("45-47 wool socks under $40", (None, 40.0)),
        ("upwards of $30 is fine", (30.0, None)),
    ],
)
def test_price_limits_are_read_from_the_customers_words(text, limits):
    assert find_price_limits(text) == limits


@given(st.text(max_size=200))
def test_any_text_has_limits_or_none(text):
    low, high = find_price_limits(text)
    assert all(value is None or value >= 0 for value in (low, high))


@given(st.floats(1, 5000).map(lambda x: round(x, 2)), st.floats(1, 5000).map(lambda x: round(x, 2)))
def test_no_answer_can_offer_a_product_above_the_limit(price, limit):
    found = {"products": [{"name": "Oldo Mini", "price": price}], "total": 1}
    reasons = find_ungrounded(f"Oldo Mini – ${price:.2f}", [found], [f"under {limit}"], NAMES, (None, limit))
    assert bool(reasons) == (price > limit)


def test_prices_are_found_wherever_they_stand_in_a_result():
    nested = {"orders": [{"items": [{"name": "Mug", "price": 9.5, "quantity": 2}]}]}
    assert list_prices(nested) == [("Mug", 9.5)]
