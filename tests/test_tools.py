"""What the eight tools promise: right results, errors that a model can act on, and nobody else's data."""

import json
import sqlite3
import threading
from dataclasses import replace
from datetime import date, timedelta

from elm_helpers.signatures import read_parameters
from elm_helpers.store import build_store, open_store
from elm_helpers.tool_calls import ToolCall, format_tool_call, parse_tool_calls
from elm_helpers.tools import (
    TOOLS,
    WRITES,
    Session,
    build_json_schema,
    check_arguments,
    format_result,
    list_signatures,
    run_tool,
)

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HUSH, DRIFT = "Corvane Hush 40 Wireless Headphones", "Telvik Drift On-Ear Bluetooth Headphones"
SIGNATURES = {  # the contract, DESIGN 5: required first, "?" may be None, "=" has a default
    "search_products": "query:string category:string? min_price:number? max_price:number? limit:integer=5",
    "get_product_info": "product:string",
    "get_inventory": "product:string variant:string? location:string?",
    "calculate_shipping": "destination:string product:string? method:string=standard",
    "get_customer_orders": "order_id:string? status:string? customer_id:string?",
    "initiate_return": "order_id:string product:string? reason:string?",
    "get_discount_eligibility": "promo_code:string? customer_id:string?",
    "get_similar_products": "product:string limit:integer=3",
}
PRODUCT_TOOLS = ["get_product_info", "get_inventory", "get_similar_products"]


@pytest.fixture
def guest(shop):
    return Session(shop)


def add_order(conn, order_id, customer="C0001", status="delivered", days_ago=5, products=("P0001",), prices=(10.0,)):
    """Write an order with known lines into the test's own copy of the shop; two of each product."""
    arrived = date(2026, 11, 2) - timedelta(days=days_ago)
    total = sum(2 * price for price in prices)
    row = (order_id, customer, status, str(arrived - timedelta(days=4)), str(arrived), total, "TRK1")
    with conn:
        conn.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        for number, (name, price) in enumerate(zip(products, prices, strict=True), 1):
            product = find_product(conn, name)["id"]
            variant = conn.execute("SELECT variant FROM variants WHERE product_id = ?", (product,)).fetchone()[0]
            line = (order_id, number, product, variant, price)
            conn.execute("INSERT INTO order_lines VALUES (?, ?, ?, ?, 2, ?)", line)


def find_product(conn, product):
    return conn.execute("SELECT * FROM products WHERE id = ? OR name = ?", (product, product)).fetchone()


def confirm(session, **arguments):
    return replace(session, confirmed=format_tool_call(ToolCall("initiate_return", arguments)))


def dump(conn):
    return list(conn.iterdump())


# The declarations and what derives from them


def test_the_tools_are_the_eight_of_the_contract_with_its_parameters_in_order():
    found = {}
    for name, tool in TOOLS.items():
        texts = []
        for one in read_parameters(tool):
            end = "" if one.required else "?" if one.default is None else f"={one.default}"
            texts.append(f"{one.name}:{one.kind}{end}")
        found[name] = " ".join(texts)
    assert found == SIGNATURES
    assert {"initiate_return"} == WRITES


def test_every_tool_and_parameter_is_described():
    for name in TOOLS:
        function = build_json_schema(name)["function"]
        assert function["name"] == name
        assert function["description"].endswith(".")
        assert all(len(one["description"]) > 5 for one in function["parameters"]["properties"].values())


def test_the_session_is_no_parameter_of_the_model():
    assert "session" not in json.dumps([build_json_schema(name) for name in TOOLS])
    assert "session" not in list_signatures()


def test_the_json_schema_agrees_with_the_checker():
    schema = build_json_schema("calculate_shipping")["function"]["parameters"]
    assert schema["required"] == ["destination"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["method"]["enum"] == ["standard", "express", "overnight"]
    assert schema["properties"]["method"]["default"] == "standard"
    assert "default" not in schema["properties"]["product"]
    jsonschema = pytest.importorskip("jsonschema")
    for name in TOOLS:
        schema = build_json_schema(name)["function"]["parameters"]
        jsonschema.Draft202012Validator.check_schema(schema)
        for value in ("x", 1, 2.5, True, [], {}, "express"):
            for one in read_parameters(TOOLS[name]):
                arguments = {other.name: "x" for other in read_parameters(TOOLS[name]) if other.required}
                arguments[one.name] = value
                valid = jsonschema.Draft202012Validator(schema).is_valid(arguments)
                assert valid == (check_arguments(name, arguments) is None), (name, arguments)


def test_the_prompt_text_has_one_python_signature_a_line():
    lines = list_signatures().splitlines()
    assert [line.split("(")[0] for line in lines] == list(TOOLS)
    start = "search_products(query: str, category: str = None, min_price: number = None, max_price: number = None, "
    assert lines[0].startswith(start + "limit: int = 5)  # ")
    assert 'method: "standard" | "express" | "overnight" = "standard"' in lines[3]


def test_a_result_is_json_that_keeps_every_letter():
    assert format_result({"name": 'Café 15 "in" ☕', "units": None}) == '{"name": "Café 15 \\"in\\" ☕", "units": null}'


# Bad arguments


@pytest.mark.parametrize(
    ("name", "arguments", "hint"),
    [
        ("find_products", {}, "search_products"),
        (None, {}, "no tool"),
        (["x"], {}, "no tool"),
        ("search_products", None, "mapping"),
        ("search_products", ["mug"], "mapping"),
        ("search_products", {}, "needs query"),
        ("search_products", {"query": "mug", 5: 1}, "takes query"),
        ("search_products", {"query": "mug", "session": None}, "takes query"),
        ("search_products", {"query": None}, "string"),
        ("search_products", {"query": 5}, "string"),
        ("search_products", {"query": "mug", "limit": 2.0}, "integer"),
        ("search_products", {"query": "mug", "limit": True}, "integer"),
        ("search_products", {"query": "mug", "limit": None}, "integer"),
        ("search_products", {"query": "mug", "limit": 0}, "1 or more"),
        ("search_products", {"query": "mug", "limit": -(10**200)}, "1 or more"),
        ("search_products", {"query": "mug", "limit": 10**5000}, "integer"),
        ("search_products", {"query": "mug", "max_price": "20"}, "number"),
        ("search_products", {"query": "mug", "max_price": float("nan")}, "number"),
        ("search_products", {"query": "mug", "max_price": [10**5000]}, "number"),
        ("search_products", {"query": "mug", "max_price": -1}, "0 or more"),
        ("search_products", {"query": "mug", "min_price": -0.01}, "0 or more"),
        ("search_products", {"query": "mug", "min_price": 20, "max_price": 10}, "min_price at most max_price"),
        ("search_products", {"query": "mug", "category": "Gadgets"}, "Electronics"),
        ("search_products", {"query": "mug", "category": ""}, "Electronics"),
        ("get_product_info", {"product": "\ud83d"}, "string"),
        ("get_inventory", {"product": HUSH, "variant": "tartan"}, "black"),
        ("get_inventory", {"product": HUSH, "location": "Paris"}, "online"),
        ("calculate_shipping", {"destination": "the moon"}, "United States"),
        ("calculate_shipping", {"destination": ""}, "United States"),
        ("calculate_shipping", {"destination": "10001", "method": "fast"}, "standard or express or overnight"),
        ("calculate_shipping", {"destination": "10001", "product": "qwertz"}, "no product"),
        ("get_customer_orders", {"status": "lost"}, "delivered"),
        ("get_customer_orders", {"order_id": "nope-1"}, "no order"),
        ("get_customer_orders", {"order_id": ""}, "no order"),
        ("initiate_return", {}, "needs order_id"),
        ("initiate_return", {"order_id": "nope-1"}, "no order"),
        ("get_discount_eligibility", {"promo_code": 10}, "string"),
        ("get_similar_products", {"product": HUSH, "limit": 0}, "1 or more"),
        *((name, {"product": "qwertz"}, "no product matches 'qwertz'") for name in PRODUCT_TOOLS),
        *((name, {"product": ""}, "no product") for name in PRODUCT_TOOLS),
    ],
)
def test_bad_arguments_give_an_error_that_says_what_would_be_right(shop, name, arguments, hint):
    result = run_tool(Session(shop, "C0001"), name, arguments)
    assert list(result) == ["error"]
    assert hint in result["error"]
    assert len(result["error"]) < 500


ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)
NASTY = st.sampled_from(
    ['"', "' OR 1=1 --", "NEAR(", "*", "a AND", "\0", "-", "^", "{name}: x", "%", "_", "P0001", "#"]
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_arguments_at_all_make_a_tool_raise_or_write(shop, data):
    name = data.draw(st.sampled_from(list(TOOLS)))
    keys = [one.name for one in read_parameters(TOOLS[name])]
    arguments = data.draw(st.dictionaries(st.sampled_from(keys), NASTY | ANY | st.text(max_size=9)))
    changes = shop.total_changes
    result = run_tool(Session(shop, data.draw(st.sampled_from([None, "C0001", "", "nobody"]))), name, arguments)
    assert json.loads(format_result(result)) == result
    assert shop.total_changes == changes


# Products


def test_a_search_shows_the_best_products_within_the_price(guest):
    result = run_tool(guest, "search_products", {"query": "wireless headphones", "max_price": 50})
    assert list(result) == ["products", "total"]
    assert result["total"] >= len(result["products"]) >= 1
    assert all(list(one) == ["id", "name", "price", "rating"] for one in result["products"])
    assert all(one["price"] <= 50 for one in result["products"])
    dearer = run_tool(guest, "search_products", {"query": "wireless headphones", "min_price": 50})
    assert all(one["price"] >= 50 for one in dearer["products"])


def test_a_search_shows_five_by_default_and_never_more_than_twenty(guest):
    assert len(run_tool(guest, "search_products", {"query": "set"})["products"]) == 5
    assert len(run_tool(guest, "search_products", {"query": "set", "limit": 2})["products"]) == 2
    result = run_tool(guest, "search_products", {"query": "set", "limit": 10**30})
    assert len(result["products"]) == 20 < result["total"]


def test_a_category_is_matched_in_any_case_and_kept(guest, shop):
    result = run_tool(guest, "search_products", {"query": "headphones", "category": "electronics", "limit": 20})
    assert result["products"]
    assert {find_product(shop, one["id"])["category"] for one in result["products"]} == {"Electronics"}


def test_a_search_without_a_match_is_an_empty_list_and_no_error(guest):
    for query in ("qwertzuiop", "", "!?"):
        assert run_tool(guest, "search_products", {"query": query}) == {"products": [], "total": 0}


def test_a_product_is_found_by_id_sku_or_name_in_any_case(guest, shop):
    row = find_product(shop, HUSH)
    for text in (row["id"], row["sku"].lower(), row["name"].upper(), "Corvane Hush 40"):
        assert run_tool(guest, "get_product_info", {"product": text})["id"] == row["id"]


def test_product_info_has_facts_specifications_and_how_many_reviews(guest, shop):
    result = run_tool(guest, "get_product_info", {"product": HUSH})
    keys = ["id", "name", "brand", "category", "price", "description", "specifications", "rating", "reviews"]
    assert list(result) == keys
    assert result["specifications"]["connection"] == "Bluetooth 5.3"
    stars = [row[0] for row in shop.execute("SELECT stars FROM reviews WHERE product_id = ?", (result["id"],))]
    assert result["reviews"] == len(stars)
    assert result["rating"] == pytest.approx(sum(stars) / len(stars), abs=0.051)


@pytest.mark.parametrize("name", [*PRODUCT_TOOLS, "calculate_shipping"])
def test_an_ambiguous_product_gives_candidates_instead_of_a_guess(guest, name):
    extra = {"destination": "10001"} if name == "calculate_shipping" else {}
    result = run_tool(guest, name, {"product": "headphones"} | extra)
    assert list(result) == ["candidates", "message"]
    assert 2 <= len(result["candidates"]) <= 5
    assert all(list(one) == ["id", "name", "price"] for one in result["candidates"])


def test_inventory_shows_every_variant_and_location_and_unknown_is_not_zero(own_shop):
    row = find_product(own_shop, HUSH)
    own_shop.execute("UPDATE stock SET units = NULL, restock_date = NULL WHERE product_id = ?", (row["id"],))
    own_shop.execute(
        "UPDATE stock SET units = 0, restock_date = '2026-11-09' WHERE variant = 'sand' AND location = 'online'"
    )
    result = run_tool(Session(own_shop), "get_inventory", {"product": HUSH})
    assert list(result) == ["product", "stock", "restock_date"]
    assert result["product"] == HUSH
    assert [one["variant"] for one in result["stock"]] == ["black", "sand", "navy"]
    assert result["stock"][1]["units"]["online"] == 0
    assert result["stock"][0]["units"] == {"Harbour Lane": None, "Northgate": None, "Mill Square": None, "online": None}
    assert result["restock_date"] == "2026-11-09"


def test_inventory_can_be_narrowed_to_a_variant_and_a_location(guest, shop):
    arguments = {"product": HUSH, "variant": "Black", "location": " northgate "}
    result = run_tool(guest, "get_inventory", arguments)
    query = "SELECT units FROM stock WHERE product_id = ? AND variant = 'black' AND location = 'Northgate'"
    units = shop.execute(query, (find_product(shop, HUSH)["id"],)).fetchone()[0]
    assert result["stock"] == [{"variant": "black", "units": {"Northgate": units}}]


def test_a_product_whose_stock_was_never_counted_has_an_empty_list(own_shop):
    own_shop.execute("DELETE FROM stock")
    result = run_tool(Session(own_shop), "get_inventory", {"product": HUSH})
    assert result == {"product": HUSH, "stock": [], "restock_date": None}


def test_alternatives_are_other_products_of_the_category_same_kind_first(guest, shop):
    result = run_tool(guest, "get_similar_products", {"product": HUSH})
    kinds = [find_product(shop, one["id"])["kind"] for one in result["similar"]]
    assert result["product"] == HUSH
    assert len(result["similar"]) == 3
    assert HUSH not in [one["name"] for one in result["similar"]]
    assert kinds[:2] == [find_product(shop, HUSH)["kind"]] * 2
    for one in result["similar"]:
        assert list(one) == ["id", "name", "price", "rating", "why"]
        gap = one["price"] - find_product(shop, HUSH)["price"]
        assert f"${abs(gap):.2f} {'more' if gap > 0 else 'less'}" in one["why"]
    assert len(run_tool(guest, "get_similar_products", {"product": HUSH, "limit": 1})["similar"]) == 1
    assert len(run_tool(guest, "get_similar_products", {"product": HUSH, "limit": 10**9})["similar"]) == 20


def test_a_product_that_is_alone_in_its_category_has_no_alternatives(own_shop):
    own_shop.execute("UPDATE products SET category = 'Alone' WHERE name = ?", (HUSH,))
    assert run_tool(Session(own_shop), "get_similar_products", {"product": HUSH})["similar"] == []


# Shipping


@pytest.mark.parametrize(
    ("destination", "method", "cost", "days", "arrives"),
    [  # 2 November 2026 is a Monday
        ("10001", "standard", 5.95, "3-5", "2026-11-09"),
        ("US", "express", 14.95, "2", "2026-11-04"),
        ("United States", "overnight", 29.95, "1", "2026-11-03"),
        ("SW1A 1AA", "standard", 11.95, "5-9", "2026-11-13"),
        ("Canada", "express", 24.95, "2-4", "2026-11-06"),
        ("Germany", "standard", 12.95, "6-10", "2026-11-16"),
    ],
)
def test_shipping_counts_working_days_from_the_shops_today(guest, destination, method, cost, days, arrives):
    result = run_tool(guest, "calculate_shipping", {"destination": destination, "method": method})
    assert list(result) == ["destination", "zone", "method", "cost", "days", "arrives"]
    assert result["destination"] == destination
    assert (result["cost"], result["days"], result["arrives"]) == (cost, days, arrives)


@pytest.mark.parametrize("today", ["2026-11-06", "2026-11-07", "2026-11-08"])
def test_what_leaves_at_a_weekend_arrives_behind_it(own_shop, today):
    own_shop.execute("UPDATE meta SET value = ? WHERE key = 'today'", (today,))
    result = run_tool(Session(own_shop), "calculate_shipping", {"destination": "US", "method": "overnight"})
    assert result["arrives"] == "2026-11-09"


def test_standard_shipping_is_free_from_75_dollars_and_express_is_not(own_shop):
    for price, method, cost in ((75.0, "standard", 0.0), (74.99, "standard", 5.95), (75.0, "express", 14.95)):
        own_shop.execute("UPDATE products SET price = ? WHERE name = ?", (price, HUSH))
        arguments = {"destination": "10001", "product": HUSH, "method": method}
        result = run_tool(Session(own_shop), "calculate_shipping", arguments)
        assert (result["cost"], result["product"]) == (cost, HUSH)


def test_an_imported_shop_lives_today(own_shop):
    own_shop.execute("DELETE FROM meta")
    result = run_tool(Session(own_shop), "calculate_shipping", {"destination": "US"})
    assert date.fromisoformat(result["arrives"]) > date.today()


# Orders and who may see them


def test_orders_come_newest_first_at_most_five_with_items_and_tracking(own_shop):
    own_shop.execute("DELETE FROM orders WHERE customer_id = 'C0001'")
    for days in range(7):
        add_order(own_shop, f"T{days}", days_ago=days, products=("P0001", "P0002"), prices=(10.0, 2.5))
    orders = run_tool(Session(own_shop, "C0001"), "get_customer_orders", {})["orders"]
    assert [one["order_id"] for one in orders] == ["T0", "T1", "T2", "T3", "T4"]
    assert list(orders[0]) == ["order_id", "status", "date", "total", "items", "tracking"]
    name = find_product(own_shop, "P0001")["name"]
    assert orders[0]["items"][0] == {"name": name, "quantity": 2, "price": 10.0}
    assert (orders[0]["total"], orders[0]["tracking"], orders[0]["date"]) == (25.0, "TRK1", "2026-10-29")


def test_orders_can_be_filtered_by_status_and_none_is_an_empty_list(own_shop):
    own_shop.execute("DELETE FROM orders WHERE customer_id = 'C0001'")
    add_order(own_shop, "T1", status="shipped")
    add_order(own_shop, "T2", status="delivered")
    session = Session(own_shop, "C0001")
    shipped = run_tool(session, "get_customer_orders", {"status": "Shipped"})["orders"]
    assert [one["order_id"] for one in shipped] == ["T1"]
    assert run_tool(session, "get_customer_orders", {"status": "cancelled"}) == {"orders": []}
    assert run_tool(session, "get_customer_orders", {"status": "shipped", "order_id": "T2"}) == {"orders": []}


@pytest.mark.parametrize("order_id", ["00731", "#W77777", "EC-77777-A", "77 777"])
def test_an_order_number_may_be_written_with_hash_spaces_and_in_lower_case(own_shop, order_id):
    own_shop.execute("DELETE FROM orders WHERE id = ?", (order_id,))  # the shop's own, if it drew the same number
    add_order(own_shop, order_id.strip("#").replace(" ", ""))
    result = run_tool(Session(own_shop, "C0001"), "get_customer_orders", {"order_id": order_id.lower()})
    assert len(result["orders"]) == 1


def test_leading_zeros_of_an_order_number_count(own_shop):
    add_order(own_shop, "0099887")
    assert "error" in run_tool(Session(own_shop, "C0001"), "get_customer_orders", {"order_id": "99887"})


ACCOUNT_CALLS = [
    ("get_customer_orders", {}),
    ("get_customer_orders", {"order_id": "MINE"}),
    ("get_customer_orders", {"customer_id": "C0001"}),
    ("get_discount_eligibility", {"customer_id": "C0001"}),
    ("initiate_return", {"order_id": "MINE"}),
]


@pytest.mark.parametrize("customer", [None, "", "nobody", "%", "C0001' --"])
@pytest.mark.parametrize(("name", "arguments"), ACCOUNT_CALLS)
def test_a_guest_is_asked_to_sign_in(own_shop, customer, name, arguments):
    add_order(own_shop, "MINE")
    result = run_tool(confirm(Session(own_shop, customer), order_id="MINE"), name, arguments)
    assert list(result) == ["error"]
    assert "sign in" in result["error"]
    assert own_shop.execute("SELECT count(*) FROM returns WHERE order_id = 'MINE'").fetchone()[0] == 0


@pytest.mark.parametrize("name", ["get_customer_orders", "initiate_return"])
def test_somebody_elses_order_looks_like_one_that_does_not_exist(own_shop, name):
    add_order(own_shop, "THEIRS", customer="C0002")
    before = dump(own_shop)
    session = confirm(Session(own_shop, "C0001"), order_id="THEIRS")
    theirs = run_tool(session, name, {"order_id": "THEIRS"})
    missing = run_tool(session, name, {"order_id": "NOBODY"})
    assert list(theirs) == ["error"]
    assert theirs["error"].replace("THEIRS", "") == missing["error"].replace("NOBODY", "")
    assert dump(own_shop) == before


def test_an_order_without_a_customer_belongs_to_nobody(own_shop):
    add_order(own_shop, "COUNTER", customer=None)
    for customer in (None, "C0001"):
        assert "error" in run_tool(Session(own_shop, customer), "get_customer_orders", {"order_id": "COUNTER"})


@pytest.mark.parametrize("name", ["get_customer_orders", "get_discount_eligibility"])
def test_somebody_elses_id_or_email_is_refused_like_one_that_does_not_exist(shop, name):
    email = shop.execute("SELECT email FROM customers WHERE id = 'C0002'").fetchone()[0]
    texts = ["C0002", "c0002", email, email.upper(), "nobody@example.com", "", "C0001 C0002", "%"]
    results = [run_tool(Session(shop, "C0001"), name, {"customer_id": text}) for text in texts]
    assert list(results[0]) == ["error"]
    assert results == results[:1] * len(texts)


@pytest.mark.parametrize("name", ["get_customer_orders", "get_discount_eligibility"])
def test_ones_own_id_or_email_changes_nothing(shop, name):
    email = shop.execute("SELECT email FROM customers WHERE id = 'C0001'").fetchone()[0]
    for session in (Session(shop, "C0001"), Session(shop, "c0001")):
        for text in ("C0001", "c0001", email, f" {email.upper()} "):
            assert run_tool(session, name, {"customer_id": text}) == run_tool(session, name, {})
    assert "error" not in run_tool(Session(shop, "C0001"), name, {})


# Returns


@pytest.fixture
def buyer(own_shop):
    add_order(own_shop, "W77777", products=("P0001", "P0004", HUSH), prices=(10.1, 2.2, 89.0))
    return Session(own_shop, "C0001")


def test_a_return_that_nobody_confirmed_writes_nothing(buyer):
    before = dump(buyer.store)
    result = run_tool(buyer, "initiate_return", {"order_id": "w77777", "reason": "too small"})
    assert list(result) == ["status", "order_id", "items", "refund"]
    assert (result["status"], result["order_id"], len(result["items"])) == ("needs_confirmation", "W77777", 3)
    assert dump(buyer.store) == before


@pytest.mark.parametrize(
    "confirmed",
    [
        {"order_id": "W77778"},
        {"order_id": "w77777"},
        {"order_id": "W77777", "reason": "broken"},
        {"order_id": "W77777", "product": "P0004"},
        None,
    ],
)
def test_a_yes_to_another_call_is_no_yes_to_this_one(buyer, confirmed):
    before = dump(buyer.store)
    session = confirm(buyer, **confirmed) if confirmed else replace(buyer, confirmed="yes")
    result = run_tool(session, "initiate_return", {"order_id": "W77777"})
    assert result["status"] == "needs_confirmation"
    assert dump(buyer.store) == before


def test_a_yes_counts_for_the_function_itself_too(buyer):
    result = TOOLS["initiate_return"](replace(buyer, confirmed="yes"), "W77777")
    assert result["status"] == "needs_confirmation"


def test_a_confirmed_return_is_written_once_with_the_price_that_was_paid(buyer):
    buyer.store.execute("UPDATE products SET price = price * 2")  # prices moved after the order
    arguments = {"order_id": "#w77777", "reason": 'it says "M" but is S'}
    result = run_tool(confirm(buyer, **arguments), "initiate_return", arguments)
    assert list(result) == ["return_id", "order_id", "items", "refund", "status"]
    assert (result["refund"], result["status"], result["order_id"]) == (202.6, "approved", "W77777")
    rows = buyer.store.execute("SELECT * FROM returns WHERE id = ? ORDER BY line", (result["return_id"],)).fetchall()
    assert [(row["line"], row["refund"]) for row in rows] == [(1, 20.2), (2, 4.4), (3, 178.0)]
    assert {(row["reason"], row["created"], row["status"]) for row in rows} == {
        (arguments["reason"], "2026-11-02", "approved")
    }
    assert run_tool(buyer, "get_customer_orders", {"order_id": "W77777"})["orders"][0]["status"] == "returned"
    before = dump(buyer.store)
    again = run_tool(confirm(buyer, **arguments), "initiate_return", arguments)
    assert "already returned" in again["error"]
    assert dump(buyer.store) == before


def test_a_call_that_spells_out_none_runs_when_confirmed(buyer):
    (call,) = parse_tool_calls('<tool_call>initiate_return(order_id="W77777", product=None)</tool_call>')
    session = replace(buyer, confirmed=format_tool_call(call))
    assert run_tool(session, call.name, call.arguments)["status"] == "approved"


@pytest.mark.parametrize("product", ["headphones", "the headphones", "Corvane Hush 40", HUSH, "id", "sku", "the Hush"])
def test_one_product_of_an_order_is_returned_by_what_tells_it_from_the_others(buyer, product):
    if product in ("id", "sku"):
        product = find_product(buyer.store, HUSH)[product]
    arguments = {"order_id": "W77777", "product": product}
    result = run_tool(confirm(buyer, **arguments), "initiate_return", arguments)
    assert (result["items"], result["refund"], result["status"]) == ([HUSH], 178.0, "approved")
    assert run_tool(buyer, "get_customer_orders", {"order_id": "W77777"})["orders"][0]["status"] == "delivered"
    assert "already returned" in run_tool(confirm(buyer, **arguments), "initiate_return", arguments)["error"]
    rest = run_tool(confirm(buyer, order_id="W77777"), "initiate_return", {"order_id": "W77777"})
    assert rest["refund"] == 24.6
    assert len(rest["items"]) == 2


def test_a_product_that_is_not_in_the_order_is_refused_with_what_is_in_it(buyer):
    for product in ("ukulele", DRIFT, "P0600", "", "the", "!"):
        result = run_tool(buyer, "initiate_return", {"order_id": "W77777", "product": product})
        assert list(result) == ["error"]
        assert HUSH in result["error"]


def test_words_that_fit_several_products_of_the_order_give_candidates(own_shop):
    add_order(own_shop, "W77777", products=(HUSH, DRIFT), prices=(89.0, 44.95))
    result = run_tool(Session(own_shop, "C0001"), "initiate_return", {"order_id": "W77777", "product": "headphones"})
    assert [one["name"] for one in result["candidates"]] == [HUSH, DRIFT]


@pytest.mark.parametrize(
    ("status", "days", "hint"),
    [
        ("processing", 1, "only delivered"),
        ("shipped", 1, "only delivered"),
        ("cancelled", 1, "only delivered"),
        ("returned", 1, "already returned"),
        ("delivered", 31, "30 days"),
    ],
)
def test_what_cannot_be_returned_is_refused_even_when_confirmed(own_shop, status, days, hint):
    add_order(own_shop, "W77777", status=status, days_ago=days)
    before = dump(own_shop)
    result = run_tool(confirm(Session(own_shop, "C0001"), order_id="W77777"), "initiate_return", {"order_id": "W77777"})
    assert list(result) == ["error"]
    assert hint in result["error"]
    assert dump(own_shop) == before


def test_the_thirtieth_day_is_in_time(own_shop):
    add_order(own_shop, "W77777", days_ago=30)
    result = run_tool(Session(own_shop, "C0001"), "initiate_return", {"order_id": "W77777"})
    assert result["status"] == "needs_confirmation"


def test_a_return_that_fails_halfway_leaves_nothing_behind(buyer):
    buyer.store.execute(
        "CREATE TRIGGER stop BEFORE INSERT ON returns WHEN new.line = 3 BEGIN SELECT raise(ABORT, 'was faster'); END"
    )
    before = dump(buyer.store)
    result = run_tool(confirm(buyer, order_id="W77777"), "initiate_return", {"order_id": "W77777"})
    assert "already returned" in result["error"]
    assert dump(buyer.store) == before
    assert not buyer.store.in_transaction


def test_of_two_returns_at_the_same_moment_one_is_written(tmp_path):
    build_store(tmp_path / "shop.db").close()
    stores = [open_store(tmp_path / "shop.db") for _ in range(2)]
    add_order(stores[0], "W77777", products=("P0001", "P0002"), prices=(10.0, 5.0))
    gate, results = threading.Barrier(2), []

    def send(store: sqlite3.Connection) -> None:
        session = confirm(Session(store, "C0001"), order_id="W77777")
        gate.wait()
        results.append(run_tool(session, "initiate_return", {"order_id": "W77777"}))

    threads = [threading.Thread(target=send, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted("error" in result for result in results) == [False, True]
    assert stores[0].execute("SELECT count(*) FROM returns WHERE order_id = 'W77777'").fetchone()[0] == 2
    for store in stores:
        store.close()


def test_only_a_confirmed_return_changes_the_shop(buyer):
    before = dump(buyer.store)
    session = confirm(buyer, order_id="W77777")
    for name in set(TOOLS) - WRITES:
        values = {"query": "mug", "product": HUSH, "destination": "US", "order_id": "W77777"}
        given = {one.name: values[one.name] for one in read_parameters(TOOLS[name]) if one.required}
        assert "error" not in run_tool(session, name, given)
    assert dump(buyer.store) == before


# Discounts


def set_customer(conn, tier, orders):
    conn.execute("UPDATE customers SET tier = ? WHERE id = 'C0001'", (tier,))
    conn.execute("DELETE FROM orders WHERE customer_id = 'C0001'")
    for number in range(orders):
        add_order(conn, f"T{number}")
    return Session(conn, "C0001")


def list_codes(result, key="eligible"):
    return {one["code"] for one in result[key]}


@pytest.mark.parametrize(
    ("tier", "codes"),
    [
        ("none", set()),
        ("bronze", {"BRONZE5"}),
        ("silver", {"BRONZE5", "SILVER10"}),
        ("gold", {"BRONZE5", "SILVER10", "GOLD20", "GOLDSHIP"}),
    ],
)
def test_a_tier_opens_its_codes_and_those_below(own_shop, tier, codes):
    result = run_tool(set_customer(own_shop, tier, 1), "get_discount_eligibility", {})
    assert result["tier"] == tier
    assert list_codes(result) == {"FREESHIP", "AUTUMN15", "TAKE5"} | codes
    every = {row[0] for row in own_shop.execute("SELECT code FROM promotions")}
    assert list_codes(result) | list_codes(result, "not_eligible") == every


def test_a_first_order_code_is_gone_after_the_first_order(own_shop):
    first = run_tool(set_customer(own_shop, "none", 0), "get_discount_eligibility", {})
    assert "WELCOME10" in list_codes(first)
    later = run_tool(set_customer(own_shop, "none", 1), "get_discount_eligibility", {"promo_code": "welcome10"})
    assert later["not_eligible"] == [{"code": "WELCOME10", "why": "only for a first order"}]
    own_shop.execute("UPDATE orders SET status = 'cancelled' WHERE customer_id = 'C0001'")
    again = run_tool(Session(own_shop, "C0001"), "get_discount_eligibility", {"promo_code": "WELCOME10"})
    assert list_codes(again) == {"WELCOME10"}


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("SUMMER25", "ended on 2026-08-31"),
        ("BLACKFRIDAY30", "starts on 2026-11-27"),
        (" gold20 ", "needs tier gold or higher"),
        ("SAVE99", "there is no such code"),
        ("", "there is no such code"),
        ("%", "there is no such code"),
    ],
)
def test_a_code_that_does_not_apply_says_why(own_shop, code, why):
    result = run_tool(set_customer(own_shop, "bronze", 1), "get_discount_eligibility", {"promo_code": code})
    assert result["eligible"] == []
    assert [one["why"] for one in result["not_eligible"]] == [why]


@pytest.mark.parametrize(
    ("code", "discount", "ends"),
    [
        ("take5", "$5 off on orders from $30", "2026-12-20"),
        ("AUTUMN15", "15 % off on orders from $100", "2026-11-15"),
        ("BRONZE5", "5 % off", "2026-12-31"),
        ("FREESHIP", "free shipping on orders from $40", "2026-11-30"),
    ],
)
def test_a_code_that_applies_says_what_it_gives_and_until_when(own_shop, code, discount, ends):
    result = run_tool(set_customer(own_shop, "bronze", 1), "get_discount_eligibility", {"promo_code": code})
    assert result == {
        "tier": "bronze",
        "eligible": [{"code": code.upper(), "discount": discount, "ends": ends}],
        "not_eligible": [],
    }


@pytest.mark.parametrize(
    ("today", "eligible"), [("2026-09-14", False), ("2026-09-15", True), ("2026-11-15", True), ("2026-11-16", False)]
)
def test_a_code_applies_on_its_first_and_last_day(own_shop, today, eligible):
    own_shop.execute("UPDATE meta SET value = ? WHERE key = 'today'", (today,))
    result = run_tool(Session(own_shop, "C0001"), "get_discount_eligibility", {"promo_code": "AUTUMN15"})
    assert bool(result["eligible"]) == eligible


def test_a_guest_sees_the_codes_that_need_no_tier(guest):
    result = run_tool(guest, "get_discount_eligibility", {})
    assert result["tier"] == "none"
    assert list_codes(result) == {"FREESHIP", "AUTUMN15", "TAKE5", "WELCOME10"}


def test_a_shop_without_promotions_has_no_codes(own_shop):
    own_shop.execute("DELETE FROM promotions")
    result = run_tool(Session(own_shop, "C0001"), "get_discount_eligibility", {})
    assert result["eligible"] == result["not_eligible"] == []
