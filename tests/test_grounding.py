"""An answer is shown only if this conversation's tool results carry it."""

import json
import sqlite3

from elm_helpers.agent import Conversation, run_turn
from elm_helpers.engines import Completion, Engine
from elm_helpers.generate import write_dataset
from elm_helpers.grounding import find_price_limits, find_ungrounded, find_wrong_states, list_prices
from elm_helpers.limits import MONEY, read_number
from elm_helpers.metrics import write_digits
from elm_helpers.stated import read_limits
from elm_helpers.store import SCHEMA, index_products
from elm_helpers.tools import Session

import pytest
from hypothesis import given, settings
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


ORDERED = {"orders": [{"order_id": "W1", "status": "shipped", "items": []}, {"order_id": "W2", "status": "delivered"}]}
STOCK = {"product": "Oldo Mini", "stock": [{"variant": "red", "units": {"online": 3, "Northgate": 4}}]}
STOCK["restock_date"] = "2026-11-05"


@pytest.mark.parametrize(
    "answer",
    [
        *("Order W1 is shipped.", "W2: delivered", "W1 is on its way.", "W2 was delivered. It can be returned."),
        *("Once your order has been cancelled, you get the money back.", "Nothing has been returned."),
        *("We have 3 online.", "3 in stock online and 4 at Northgate.", "It is back on November 5.", "5 Nov it is."),
        *("The **Oldo Mini** is in stock.", "Monday to Friday", "I see the Oldo Mini I think."),
    ],
)
def test_a_state_a_stock_figure_and_a_day_of_the_results_pass(answer):
    assert check(answer, [FOUND, ORDERED, STOCK]) == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Order W1 is delivered.", "delivered is the state of no order here"),
        ("W1: returned", "returned"),
        ("Your order has been cancelled.", "cancelled"),
        ("It's now returned.", "returned"),
        ("W2 is on its way.", "on its way"),
        ("We have 2 units left.", "2 is no stock figure"),
        ("7 in stock.", "7 is no stock figure"),
        ("Red: 3 at Northgate.", "3 is not what Northgate has"),
        ("It is back on November 6.", "November 6 is in no tool result"),
        ("It arrives on the 2nd of May.", "2nd of May"),
        ("Try the Bose QuietComfort Ultra.", "Bose QuietComfort Ultra is no product's whole name"),
        ("You may like the Sony.", "Sony is no product's whole name"),
        ("It costs one hundred and fifty dollars.", "150 dollars is in no tool result"),
        ("It was sent to Jane Miller.", "Jane Miller"),
        ("Tess\u200bmar **Bolt** it is.", "Tessmar Bolt was returned by no tool"),
        ("Ｔessmar  Bolt", "Tessmar Bolt was returned by no tool"),
    ],
)
def test_a_state_a_stock_figure_a_day_and_a_name_of_nowhere_are_named(answer, reason):
    assert any(reason in found for found in check(answer, [FOUND, ORDERED, STOCK]))


def test_a_return_that_was_made_may_be_called_returned_and_approved():
    made = {"return_id": "RET-W2-1", "order_id": "W2", "items": [], "refund": 9.0, "status": "approved"}
    assert check("W2 is returned: RET-W2-1 is approved.", [ORDERED, made]) == []
    assert check("Done, W2 has been returned.", [ORDERED])


def test_a_product_of_unknown_price_is_no_reason_to_fail():
    unpriced = {"products": [{"name": "Oldo Mini", "price": None}]}
    assert check("The Oldo Mini.", [unpriced], limits=(None, 100.0)) == []


def test_a_product_that_the_customer_named_may_cost_more_than_they_asked_for():
    spoken = ["Is the Oldo Mini under $100?"]
    assert check("The Oldo Mini costs $129.00.", spoken=spoken, limits=(None, 100.0)) == []


def test_the_courses_own_answers_pass_the_check(tmp_path, shop):
    """The check is no use if it sends true answers back: of the training rows' answers it may refuse 1 in 100."""
    write_dataset(tmp_path, 600, 0, seed=5)
    prices = dict(map(tuple, shop.execute("SELECT name, price FROM products")))
    seen = refused = 0
    for line in (tmp_path / "ecommerce_train.json").read_text(encoding="utf-8").splitlines():
        results, spoken = [], []
        for message in json.loads(line)["messages"]:
            if message["role"] == "tool":
                results.append(json.loads(message["content"]))
            elif message["role"] == "user":
                spoken.append(message["content"])
            elif results and "<tool_call>" not in message["content"]:
                seen += 1
                reasons = find_ungrounded(message["content"], results, spoken, prices, read_limits(spoken[-1]))
                refused += bool(reasons)
    assert seen > 50
    assert refused <= seen / 100


# --- the seed's example, over generated catalogues and with a model that says anything ---

BRANDS = st.sampled_from(["Corvane", "Oldo", "Tessmar", "Nuvanta", "Marlow & Finch"])
MODELS = st.sampled_from(["Hush 40", "Lull", "NV-300", "Drift", "Meridian", "One", "Studio ANC"])
PRODUCTS = st.lists(
    st.tuples(BRANDS, MODELS, st.floats(5, 400).map(lambda price: round(price, 2))),
    min_size=2,
    max_size=9,
    unique_by=lambda product: product[:2],
)
QUESTIONS = st.sampled_from(
    [
        "Find wireless headphones under $100",
        "wireless headphones, at most 100 dollars",
        "headphones below one hundred bucks",
    ]
)
LEAD = st.sampled_from(["I found {}", "1. {}\n2. {}", "{}", "Great news! {}.", "**{}**", "Only today:\n- {}\n- {}"])
PRICED = st.sampled_from(
    ["{} – ${:.2f}", "{} ({:.2f})", "{} for {:.0f} dollars", "{1:.2f} buys the {0}", "{}", "${1:.2f}"]
)
CALLS = st.sampled_from(
    [
        'search_products(query="wireless headphones")',
        'search_products(query="headphones", max_price=9999)',
        'search_products(query="headphones", min_price=100)',
        'get_product_info(product="{}")',
        'get_similar_products(product="{}")',
        'get_inventory(product="{}")',
        'calculate_shipping(destination="Leeds", product="{}")',
    ]
)


def open_catalogue(products):
    conn = sqlite3.connect(":memory:", check_same_thread=False)
    conn.row_factory = sqlite3.Row
    conn.executescript(SCHEMA.read_text(encoding="utf-8"))
    for at, (brand, model, price) in enumerate(products):
        name = f"{brand} {model} Wireless Headphones"
        row = (f"P{at}", f"S{at}", name, brand, "Electronics", "wireless headphones", "", price, 4.5, "Nice.")
        conn.execute("INSERT INTO products VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    conn.commit()
    index_products(conn)
    return conn


@settings(max_examples=150)
@given(PRODUCTS, QUESTIONS, st.data())
def test_whatever_the_model_writes_nothing_above_100_dollars_is_shown_to_who_asked_for_less(products, question, data):
    names = [(f"{brand} {model} Wireless Headphones", price) for brand, model, price in products]
    short = [(f"{brand} {model}", price) for brand, model, price in products]
    invented = [("Sony WH-CH720N", 129.0), ("Corvane Hush 99", 99.0), ("JBL Live 660NC", 80.0)]
    offers = st.sampled_from([*names, *short, *invented])

    def complete(messages, **_options):
        if data.draw(st.booleans()):
            call = data.draw(CALLS).format(data.draw(st.sampled_from(names))[0])
            return Completion(f"<tool_call>{call}</tool_call>", 1, 1, 0.0, 0.0)
        lead = data.draw(LEAD)
        said = [data.draw(PRICED).format(*data.draw(offers)) for _ in range(lead.count("{}"))]
        return Completion(lead.format(*said), 1, 1, 0.0, 0.0)

    _, turn = run_turn(Engine("liar", complete), Session(open_catalogue(products)), Conversation(), question)
    answer = turn.answer.casefold()
    dear = [(brand, model) for brand, model, price in products if price > 100]
    assert not [f"{brand} {model}" for brand, model in dear if f"{brand} {model} wireless".casefold() in answer]
    assert not [name for name, _ in invented if name.casefold() in answer]
    said = [read_number(money[1] or money[2]) for money in MONEY.finditer(write_digits(turn.answer))]
    assert all(amount <= 100 for amount in said)


def test_a_tools_own_refusal_may_be_repeated_although_it_names_a_state():
    refused = [{"error": "Order W1 has already been returned."}]
    assert not find_wrong_states("Order W1 has already been returned.", refused, "")
    assert find_wrong_states("Order W1 has been delivered.", [*refused, {"order_id": "W1", "status": "shipped"}], "")
