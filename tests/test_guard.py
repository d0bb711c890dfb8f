"""Tools that hang, raise or return garbage, and a process that is killed in the middle of a return."""

import functools
import random
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from elm_helpers import guard
from elm_helpers.agent import Conversation, run_turn
from elm_helpers.engines import Completion, Engine
from elm_helpers.guard import run_guarded
from elm_helpers.store import build_store, open_store
from elm_helpers.tool_calls import ToolCall, format_tool_call
from elm_helpers.tools import TOOLS, Session

import pytest

STOCK = ToolCall("get_inventory", {"product": "P0001"})
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def replace_tool(monkeypatch, name, behave):
    """Put other behaviour behind a tool's signature."""
    monkeypatch.setitem(TOOLS, name, functools.wraps(TOOLS[name])(behave))


def script(*texts):
    left = list(texts)

    def complete(messages, **_options):
        return Completion(left.pop(0) if len(left) > 1 else left[0], 1, 1, 0.0, 0.0)

    return Engine("script", complete)


def test_a_query_that_never_ends_is_stopped_and_the_shop_goes_on(own_shop, monkeypatch):
    replace_tool(monkeypatch, "get_inventory", lambda session, **_: dict(session.store.execute(ENDLESS).fetchone()))
    found = run_guarded(Session(own_shop), STOCK, seconds=0.2)
    assert found == {"error": "get_inventory failed"}  # it was interrupted, so it ended
    assert run_guarded(Session(own_shop), ToolCall("get_product_info", {"product": "P0001"}))["id"] == "P0001"


def test_a_tool_that_sleeps_is_left_behind_with_a_clear_message(own_shop, monkeypatch):
    replace_tool(monkeypatch, "get_inventory", lambda session, **_: time.sleep(30))
    monkeypatch.setattr(guard, "LAST_CHANCE", 0.05)
    assert run_guarded(Session(own_shop), STOCK, seconds=0.1) == {"error": "get_inventory took longer than 0.1 seconds"}


def test_a_write_that_hangs_is_rolled_back(own_shop, monkeypatch):
    def hang(session, **_):
        with session.store as conn:
            conn.execute("UPDATE orders SET total = 0")
            conn.execute(ENDLESS).fetchone()

    replace_tool(monkeypatch, "initiate_return", hang)
    before = own_shop.execute("SELECT total(total) FROM orders").fetchone()[0]
    found = run_guarded(Session(own_shop), ToolCall("initiate_return", {"order_id": "1"}), seconds=0.2)
    assert "look at the order before trying again" in found["error"]
    assert own_shop.execute("SELECT total(total) FROM orders").fetchone()[0] == before > 0


@pytest.mark.parametrize(
    "behave",
    [
        lambda session, **_: 1 / 0,
        lambda session, **_: (_ for _ in ()).throw(RecursionError()),
        lambda session, **_: None,
        lambda session, **_: ["a", "list"],
        lambda session, **_: {"products": object()},
        lambda session, **_: {"text": float},
        lambda session, **_: dict.fromkeys(range(99), "x" * 999),
        lambda session, **_: session.store.execute("SELECT * FROM nowhere"),
    ],
)
def test_a_tool_that_raises_or_returns_garbage_becomes_an_error(own_shop, monkeypatch, behave):
    replace_tool(monkeypatch, "get_inventory", behave)
    assert run_guarded(Session(own_shop), STOCK)["error"].startswith("get_inventory")


@pytest.mark.parametrize("garbage", [{"products": 7}, {"products": [None]}, {"orders": [{}]}, {"stock": {"a": []}}, {}])
@pytest.mark.parametrize("name", sorted(TOOLS))
def test_a_turn_survives_a_result_of_another_shape(own_shop, monkeypatch, name, garbage):
    replace_tool(monkeypatch, name, lambda session, **_: garbage)
    required = {"search_products": "query", "calculate_shipping": "destination", "initiate_return": "order_id"}
    key = required.get(name, "product")
    arguments = "" if name in ("get_customer_orders", "get_discount_eligibility") else f'{key}="W1"'
    engine = script(f"<tool_call>{name}({arguments})</tool_call>", "It costs $1.23.")
    _, turn = run_turn(engine, Session(own_shop, "C0001"), Conversation(), "return W1")
    assert turn.answer
    assert "1.23" not in turn.answer


def test_a_long_text_and_a_long_list_are_cut(own_shop, monkeypatch):
    long = {"description": "x" * 50_000, "stock": [{"variant": str(i)} for i in range(500)]}
    replace_tool(monkeypatch, "get_inventory", lambda session, **_: long)
    found = run_guarded(Session(own_shop), STOCK)
    assert (len(found["description"]), len(found["stock"])) == (1000, 20)


def test_a_connection_of_this_thread_only_is_used_in_this_thread(shop, monkeypatch):
    own = sqlite3.connect(":memory:")
    shop.backup(own)
    own.row_factory = sqlite3.Row
    assert run_guarded(Session(own), ToolCall("get_product_info", {"product": "P0001"}))["id"] == "P0001"
    replace_tool(monkeypatch, "get_inventory", lambda session, **_: dict(session.store.execute(ENDLESS).fetchone()))
    assert run_guarded(Session(own), STOCK, seconds=0.2) == {"error": "get_inventory failed"}


# --- a return happens once, whoever asks and whatever dies ---

RETURNABLE = """SELECT o.id, o.customer_id, count(*) AS lines FROM orders o JOIN order_lines l ON l.order_id = o.id
    WHERE o.status = 'delivered' AND delivered_on >= date((SELECT value FROM meta WHERE key = 'today'), '-20 days')
    AND o.id NOT IN (SELECT order_id FROM returns) GROUP BY o.id ORDER BY count(*) DESC, o.id"""
RETURN = """
import os, signal, sys
from elm_helpers.store import open_store
from elm_helpers.tool_calls import ToolCall, format_tool_call
from elm_helpers.tools import Session, run_tool
path, die, *orders = sys.argv[1:]
store, left = open_store(path), int(die)
def count(sql):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
store.set_trace_callback(count)
print("ready", flush=True)
for order in orders:
    number, customer = order.split("=")
    call = ToolCall("initiate_return", {"order_id": number})
    print(run_tool(Session(store, customer, format_tool_call(call)), call.name, call.arguments), flush=True)
"""


@pytest.fixture(scope="module")
def shop_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("shop") / "shop.db"
    build_store(path).close()
    return path


@pytest.fixture
def file(shop_file, tmp_path):
    path = tmp_path / "shop.db"
    path.write_bytes(shop_file.read_bytes())
    return path


def confirm(store, order):
    """Say yes to the return of an order, from a conversation in which it was proposed."""
    call = f'<tool_call>initiate_return(order_id="{order["id"]}")</tool_call>'
    session = Session(store, order["customer_id"])
    waiting, _ = run_turn(script(call, "Shall I?"), session, Conversation(), f"return {order['id']}")
    return waiting, lambda: run_turn(script("Done."), session, waiting, "yes")[1]


def check_intact(store):
    assert store.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert store.execute("PRAGMA foreign_key_check").fetchall() == []


def check_whole(store, order):
    """The order went back whole or not at all; return how many of its lines did."""
    back = store.execute("SELECT count(*) FROM returns WHERE order_id = ?", (order["id"],)).fetchone()[0]
    status = store.execute("SELECT status FROM orders WHERE id = ?", (order["id"],)).fetchone()[0]
    assert (back, status) in {(0, "delivered"), (order["lines"], "returned")}
    return back


def test_a_kill_at_any_statement_of_a_return_leaves_all_of_it_or_nothing_and_the_next_yes_ends_with_one(file):
    store = open_store(file)
    orders = store.execute(RETURNABLE).fetchall()[:14]
    assert orders[0]["lines"] > 1
    returned = []
    for die, order in zip([*range(2, 15), 0], orders, strict=True):  # 0: it may live
        argv = [sys.executable, "-c", RETURN, file, str(die), f"{order['id']}={order['customer_id']}"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode in (-9, 0), done.stderr
        check_intact(store)
        returned.append((done.returncode, check_whole(store, order)))
        call = ToolCall("initiate_return", {"order_id": order["id"]})
        again = run_guarded(Session(store, order["customer_id"], format_tool_call(call)), call)
        assert ("return_id" in again) == (returned[-1][1] == 0)
        assert check_whole(store, order) == order["lines"]
    assert (-9, 0) in returned  # killed before the end of the transaction
    assert returned[-1] == (0, orders[-1]["lines"])
    assert sum(code == -9 for code, _ in returned) >= 8


def test_kills_at_random_moments_leave_the_shop_intact(file):
    store, rng = open_store(file), random.Random(0)
    orders = store.execute(RETURNABLE).fetchall()
    killed, wholes = 0, []
    for part in range(8):
        some = orders[part::8]
        argv = [sys.executable, "-c", RETURN, file, "0", *(f"{one['id']}={one['customer_id']}" for one in some)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(rng.random() * 0.03)
            process.kill()
        killed += process.returncode == -9
        check_intact(store)
        wholes += [check_whole(store, order) for order in some]
    assert len(wholes) == len(orders) > 100
    assert killed >= 4


def test_two_connections_that_confirm_at_once_return_once(file):
    stores = [open_store(file) for _ in range(4)]
    for order in stores[0].execute(RETURNABLE).fetchall()[:6]:
        agrees = [confirm(store, order)[1] for store in stores]
        with ThreadPoolExecutor(4) as pool:
            turns = list(pool.map(lambda agree: agree(), agrees))
        assert sum(len(turn.writes) for turn in turns) == 1
        assert check_whole(stores[0], order) == order["lines"]


def test_a_shop_that_another_program_holds_is_reported_as_busy_and_nothing_is_written(file):
    store, other = open_store(file), open_store(file)
    order = store.execute(RETURNABLE).fetchone()
    _, agree = confirm(store, order)
    store.execute("PRAGMA busy_timeout = 50")
    other.execute("BEGIN IMMEDIATE")
    turn = agree()
    assert turn.writes == ()
    other.rollback()
    assert check_whole(store, order) == 0
    assert len(agree().writes) == 1
