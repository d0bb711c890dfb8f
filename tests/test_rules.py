"""The rules are a fair baseline: plain requests reach the right tool, and no text makes them fail."""

from elm_helpers.catalogue import CATEGORIES
from elm_helpers.prompts import build_system
from elm_helpers.rules import answer_by_rules, open_rules
from elm_helpers.sheets import find_covered, find_made_up, parse_sheet
from elm_helpers.tool_calls import parse_tool_calls

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

# request, whether signed in, the call
CALLS = [
    ("Where is my order W10482?", False, 'get_customer_orders(order_id="W10482")'),
    ("status of #00731 please", True, 'get_customer_orders(order_id="#00731")'),
    ("any news on EC-99182-A", False, 'get_customer_orders(order_id="EC-99182-A")'),
    ("When will order SO20251187 be delivered?", True, 'get_customer_orders(order_id="SO20251187")'),
    ("Show me my orders", True, "get_customer_orders()"),
    ("which of my orders are shipped", True, 'get_customer_orders(status="shipped")'),
    ("track my parcel", True, "get_customer_orders()"),
    ("I want to return order ORD-22107", True, 'initiate_return(order_id="ORD-22107")'),
    (
        "Please refund 10482 because it doesn't fit",
        True,
        'initiate_return(order_id="10482", reason="it doesn\'t fit")',
    ),
    ("How much is shipping to Germany?", False, 'calculate_shipping(destination="Germany")'),
    ("delivery to 02139", False, 'calculate_shipping(destination="02139")'),
    ("What does overnight to SW1A 1AA cost?", False, 'calculate_shipping(destination="SW1A 1AA", method="overnight")'),
    ("do you ship to Austin, TX by express", False, 'calculate_shipping(destination="Austin, TX", method="express")'),
    ("Does the code SAVE20 still work?", True, 'get_discount_eligibility(promo_code="SAVE20")'),
    ("any vouchers for me?", True, "get_discount_eligibility()"),
    ("is the Corvane Hush 40 in stock", False, 'get_inventory(product="Corvane Hush 40")'),
    ("Corvane Hush 40, any left?", False, 'get_inventory(product="Corvane Hush 40")'),
    ("What are the specs of the Corvane Hush 40?", False, 'get_product_info(product="Corvane Hush 40")'),
    ("How heavy is the Corvane Hush 40?", False, 'get_product_info(product="Corvane Hush 40")'),
    ("corvane hush 40", False, 'get_product_info(product="corvane hush 40")'),
    ("anything similar to the Corvane Hush 40?", False, 'get_similar_products(product="Corvane Hush 40")'),
    ("alternatives to Corvane Hush 40 please", False, 'get_similar_products(product="Corvane Hush 40")'),
    ("I'm looking for wireless headphones", False, 'search_products(query="wireless headphones")'),
    ("wireless headphones under $100", False, 'search_products(query="wireless headphones", max_price=100.0)'),
    (
        "show me wireless earbuds for fifty dollars max",
        False,
        'search_products(query="wireless earbuds", max_price=50.0)',
    ),
    ("do you sell earbuds over 20 bucks", False, 'search_products(query="earbuds", min_price=20.0)'),
    (
        "earbuds between 20 and 30 dollars",
        False,
        'search_products(query="earbuds", min_price=20.0, max_price=30.0)',
    ),
    (
        "show me 3 earbuds in Electronics",
        False,
        'search_products(query="earbuds", category="Electronics", limit=3)',
    ),
]
ASKS = [
    ("I want my money back", True, "order number"),
    ("can I send this back?", True, "order number"),
    ("where is my order", False, "order number"),
    ("how much is shipping?", True, "postal code"),
    ("is it in stock?", False, "product"),
    ("anything similar?", False, "product"),
]
NO_CALLS = [
    "cancel order 10482 please",
    "I want to talk to a human",
    "Thanks!",
    "what's your return policy",
    "Tell me a joke",
    "can I exchange it for a bigger one",
    "What is the warranty on headphones?",
    "is there a newsletter? unsubscribe me",
    "",
]


@pytest.mark.parametrize(("text", "signed_in", "call"), CALLS, ids=[text for text, *_ in CALLS])
def test_a_plain_request_becomes_the_right_call(text, signed_in, call):
    assert answer_by_rules(text, signed_in) == f"<tool_call>{call}</tool_call>"


@pytest.mark.parametrize(("text", "signed_in", "wanted"), ASKS, ids=[text for text, *_ in ASKS])
def test_what_is_missing_is_asked_for(text, signed_in, wanted):
    reply = answer_by_rules(text, signed_in)
    assert "<tool_call>" not in reply and wanted in reply and ("?" in reply or "Please" in reply)


@pytest.mark.parametrize("text", NO_CALLS)
def test_a_request_that_no_tool_can_do_gets_no_call(text):
    assert parse_tool_calls(answer_by_rules(text, True)) == []


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("Which category is this? NEW! Wireless Headphones Over-Ear Black", "Electronics"),
        ('Classify the product "Dog bed, washable, XL"', "Animals & Pet Supplies"),
        ("acoustic guitar strings - which category?", "Arts & Entertainment"),
    ],
)
def test_a_title_gets_the_category_that_shares_its_words(text, category):
    assert answer_by_rules(text, False) == f"Category: {category}"


def test_a_title_without_a_known_word_still_gets_one_of_the_18_names():
    assert answer_by_rules("Which category is this? Qzx 900", False).removeprefix("Category: ") in CATEGORIES


@pytest.mark.parametrize("shape", ["\n{}", "\n- {}", "{}; "])
def test_a_description_says_every_fact_and_adds_none(shape):
    facts = ["Name: Oak Desk", "Brand: Arlo", "Price: $1299.00", "Drawers: 2", "Cable tray: no", "Legs: steel, black"]
    text = "Describe it." + (
        "\n" + "; ".join(facts) if "; " in shape else "".join(shape.format(fact) for fact in facts)
    )
    sheet, reply = parse_sheet(text), answer_by_rules(text, False)
    assert len(sheet) == 6 and all(find_covered(sheet, reply)) and not find_made_up(sheet, reply, ["Arlo"])


@given(st.text() | st.text('$<>()"\\-A1 order code', max_size=300))
@settings(max_examples=200)
def test_any_text_gets_a_reply_whose_calls_can_be_read(text):
    reply = answer_by_rules(text, True)
    assert reply.strip()
    if reply.startswith("<tool_call>"):
        assert len(parse_tool_calls(reply)) == 1


def test_a_huge_price_or_half_a_character_is_no_reason_to_fail():
    for text in ("earbuds under " + "9" * 500, "is the \ud800 in stock", "A-" * 50_000, "<tool_call>" * 9):
        assert answer_by_rules(text, True)


def test_the_engine_reads_the_last_message_and_who_is_signed_in():
    engine, pieces = open_rules(), []
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}]
    question = {"role": "user", "content": "where is my order"}
    guest = engine.complete([{"role": "system", "content": build_system(None)}, *talk, question], on_text=pieces.append)
    known = engine.complete([{"role": "system", "content": build_system("C0001")}, *talk, question])
    assert engine.name == "rules" and pieces == [guest.text] and guest.seconds > 0
    assert "order number" in guest.text and known.text == "<tool_call>get_customer_orders()</tool_call>"
