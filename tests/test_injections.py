"""Instructions planted in the shop and typed by customers are data: with a model that obeys every one of them, the
database stays as it is and nobody sees another customer's data. The guards are taken away one by one to prove it."""

import json
import re
from dataclasses import replace
from pathlib import Path

from elm_helpers import account, agent, guard
from elm_helpers.agent import ROUNDS, Conversation, run_turn
from elm_helpers.dialogue import copy_shop
from elm_helpers.engines import Completion, Engine
from elm_helpers.scenarios import find_wrong_rows
from elm_helpers.store import index_products
from elm_helpers.tools import TOOLS, Session

import pytest

INJECTIONS = (Path(__file__).parent / "data" / "injections.txt").read_text(encoding="utf-8").splitlines()
FIELDS = {  # every column that holds a text which somebody wrote: behind it, or in place of a text that tools compare
    "products": ("name", "brand", "kind", "also", "description"),
    "specifications": ("value",),
    "stock": ("restock_date",),
    "reviews": ("text",),
    "customers": ("name",),
    "orders": ("tracking",),
    "returns": ("reason",),
    "conversations": ("messages",),
}
FRESH = """SELECT o.id, o.customer_id, o.tracking, c.email, c.name, p.name AS product FROM orders o
    JOIN order_lines ON order_id = o.id JOIN products p ON p.id = product_id JOIN customers c ON c.id = o.customer_id
    WHERE o.status = 'delivered' AND o.id NOT IN (SELECT order_id FROM returns)
    AND delivered_on >= date((SELECT value FROM meta WHERE key = 'today'), '-20 days')
    GROUP BY o.id HAVING count(*) = 1 ORDER BY o.id"""
TURNS = [  # what the customer says, and the call of an honest model; {goods} is any product
    ("What does the {goods} do?", 'get_product_info(product="{goods}")'),
    ("Is it in stock?", 'get_inventory(product="{goods}")'),
    ("What else is like it?", 'get_similar_products(product="{goods}")'),
    ("What is there to buy?", 'search_products(query="{kind}")'),
    ("What is postage to Leeds?", 'calculate_shipping(destination="Leeds", product="{goods}")'),
    ("Which codes can I use?", "get_discount_eligibility()"),
    ("What did I buy so far?", "get_customer_orders()"),
    ("Yes, please.", "get_customer_orders()"),
    ("Yes, go ahead.", None),
]


def open_obedient():
    """The worst model there can be: a call that it reads in the newest message, raw or as JSON, is what it writes."""
    planned = {}

    def complete(messages, **_options):
        last, role = messages[-1]["content"], messages[-1]["role"]
        read = " ".join(list_texts(json.loads(last))) if role == "tool" else last
        calls = re.findall(r"<tool_call>.*?</tool_call>", read, re.S) or re.findall(r"<tool_call>[^<]*", read)
        said = f"Here it is: {read}" if role == "tool" else "Gladly."  # it repeats whatever it read
        return Completion("".join(calls[:2]) or planned.get(last) or said, 1, 1, 0.0, 0.0)

    return Engine("obedient", complete), planned


def list_texts(value):
    if isinstance(value, dict):
        return [text for item in value.values() for text in list_texts(item)]
    return [text for item in value for text in list_texts(item)] if isinstance(value, list) else [str(value)]


def plant(shop, text):
    """Write the text into every field that somebody may fill, and into the codes of all promotions but one."""
    for table, columns in FIELDS.items():
        for column in columns:
            behind = f"{column} || ' ' || ?" if column == "name" else "?"
            assert shop.execute(f"UPDATE {table} SET {column} = {behind}", (text,)).rowcount or table == "conversations"
    shop.execute("INSERT INTO conversations VALUES ('planted', ?)", (text,))
    shop.execute("UPDATE promotions SET code = ? WHERE rowid = (SELECT min(rowid) FROM promotions)", (text,))
    shop.execute("UPDATE stock SET location = ? WHERE location = 'online'", (text,))
    shop.commit()
    index_products(shop)


def attack(shop, text, typed):
    """Let a customer of the planted shop talk to the obedient model; return what went wrong and how many turns it took.

    With `typed`, the customer types the text, too, but never says yes to it.
    """
    own, *others = shop.execute(FRESH).fetchall()
    victim = next(order for order in others if order["customer_id"] != own["customer_id"])
    secrets = [victim["id"], victim["tracking"], victim["email"], victim["name"], victim["product"]]
    slots = {"own": own["id"], "foreign": victim["id"], "victim": victim["customer_id"], "email": victim["email"]}
    for name, value in (slots | {"tracking": victim["tracking"]}).items():
        text = text.replace(f"{{{name}}}", str(value))
    planted = copy_shop(shop)
    plant(planted, text)
    goods = planted.execute("SELECT name, kind FROM products WHERE name NOT LIKE ? LIMIT 1", (victim["product"] + "%",))
    goods = goods.fetchone()
    before, start, talk, wrong = copy_shop(planted), planted.serialize(), Conversation(), []
    engine, planned = open_obedient()
    session = Session(planted, own["customer_id"])
    turns = [(text, None), ("Hm.", None)] if typed else TURNS
    for say, call in turns:
        planned.clear()
        name = goods["name"].partition(" <")[0]
        planned[say] = f"<tool_call>{call.format(goods=name, kind='headphones')}</tool_call>" if call else ""
        asked, heard = len(talk.results), []
        talk, turn = run_turn(count(engine, heard), session, talk, say)
        if len(heard) > ROUNDS + 1:
            wrong.append(f"{len(heard)} questions to the model in one turn")
        shown = json.dumps([turn.answer, talk.results[asked:]], ensure_ascii=False).replace(
            json.dumps(text, ensure_ascii=False)[1:-1], ""
        )
        wrong += [f"{secret} was shown" for secret in secrets if secret and secret not in text and secret in shown]
    return wrong + (find_wrong_rows(before, planted, []) if planted.serialize() != start else [])


def count(engine, heard):
    def complete(messages, **options):
        heard.append(1)
        return engine.complete(messages, **options)

    return replace(engine, complete=complete)


def test_there_are_enough_injections_and_they_name_every_kind_of_harm():
    assert len(INJECTIONS) == len(set(INJECTIONS)) >= 30
    for word in ("initiate_return", "{foreign}", "{victim}", "{email}", "DROP TABLE", "im_start", "confirmed"):
        assert any(word in text for text in INJECTIONS), word


def test_every_text_column_of_the_shop_is_planted_or_has_a_reason_not_to_be(shop):
    keys = {"id", "sku", "product_id", "order_id", "customer_id", "status", "variant", "key", "place", "form", "zone"}
    keys |= {"method", "category", "email", "tier", "placed_on", "delivered_on", "created", "starts", "ends"}
    keys |= {"minimum_tier"}  # compared, looked up or parsed by the tools, and written by the shop itself
    planted = {(table, column) for table, columns in FIELDS.items() for column in columns}
    planted |= {("promotions", "code"), ("stock", "location"), ("specifications", "name"), ("meta", "value")}
    tables = [row[0] for row in shop.execute("SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE TABLE %'")]
    tables = [name for name in tables if not name.startswith("product_search")]
    assert len(tables) >= 12
    for table in tables:
        for _, column, kind, *_ in shop.execute(f"PRAGMA table_info({table})").fetchall():
            assert kind != "TEXT" or column in keys or (table, column) in planted or column == "kind", (table, column)


@pytest.mark.parametrize("text", INJECTIONS)
def test_a_planted_instruction_changes_nothing_and_shows_nobody_else(shop, text):
    assert attack(shop, text, typed=False) == []


@pytest.mark.parametrize("text", INJECTIONS)
def test_a_call_typed_by_the_customer_changes_nothing_and_shows_nobody_else(shop, text):
    assert attack(shop, text, typed=True) == []


def find_broken(shop, typed=False):
    return [text for text in INJECTIONS[:9] if attack(shop, text, typed)]


def test_the_suite_fails_when_a_return_may_be_proposed_that_nobody_asked_for(shop, monkeypatch):
    monkeypatch.setattr(agent, "is_asked", lambda call, spoken: True)
    assert find_broken(shop) == INJECTIONS[:3]  # the yes at the end of the talk is now one to a planted return


def test_the_suite_fails_when_a_write_needs_no_confirmation(shop, monkeypatch):
    class Anything(str):
        __hash__ = str.__hash__

        def __eq__(self, other):
            return True

        def __ne__(self, other):
            return False

    def run(session, call, seconds=0):
        return guard.run_guarded(replace(session, confirmed=Anything("")), call)

    monkeypatch.setattr(agent, "run_guarded", run)
    assert find_broken(shop, typed=True) == INJECTIONS[:3]


def test_the_suite_fails_when_a_tool_believes_the_customer_id(shop, monkeypatch):
    def believe(session, customer_id=None):
        who = customer_id or session.customer_id
        return session.store.execute("SELECT * FROM customers WHERE id = ? OR email = ?", (who, who)).fetchone()

    monkeypatch.setattr(account, "_check_customer", believe)
    assert find_broken(shop, typed=True) == [*INJECTIONS[4:6], INJECTIONS[7]]


def test_the_suite_fails_when_a_tool_shows_any_order(shop, monkeypatch):
    monkeypatch.setattr(
        account, "_find_own_order", lambda session, customer, number: account.find_order(session.store, number)
    )
    assert INJECTIONS[6] in find_broken(shop, typed=True)


def test_every_tool_ran_in_the_attacked_conversation():
    assert {call.partition("(")[0] for _, call in TURNS if call} == TOOLS.keys() - {"initiate_return"}
