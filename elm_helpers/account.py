"""What a signed-in customer may see and change: the tools for orders, returns and discounts, and who is asking."""

import re
import sqlite3
from dataclasses import dataclass
from datetime import date, timedelta

from elm_helpers.signatures import format_call, shorten
from elm_helpers.store import SMALL_WORDS, find_order, resolve_product

STATUSES = ("processing", "shipped", "delivered", "cancelled", "returned")
TIERS = ("none", "bronze", "silver", "gold")
MOST_ORDERS = 5  # a longer result would push the conversation out of a small model's context


@dataclass(frozen=True)
class Session:
    """Who asks: identity and consent come from here, never from the model.

    `confirmed` is the exact text (`format_tool_call(call)`) of the writing call that the customer said yes to.
    """

    store: sqlite3.Connection
    customer_id: str | None = None
    confirmed: str | None = None


def get_customer_orders(
    session: Session, order_id: str | None = None, status: str | None = None, customer_id: str | None = None
) -> dict:
    """Show the signed-in customer's orders, newest first, with items, status and tracking.

    Args:
        order_id: One order's number, as the customer wrote it.
        status: processing, shipped, delivered, cancelled or returned.
        customer_id: The customer's id or e-mail, if they gave it.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    customer = _check_customer(session, customer_id)
    if isinstance(customer, dict):
        return customer
    if status is not None and status.strip().casefold() not in STATUSES:
        return {"error": f"there is no status {shorten(status)}; it is one of {', '.join(STATUSES)}"}
    query = "SELECT * FROM orders WHERE customer_id = ? ORDER BY placed_on DESC, rowid DESC"
    orders = session.store.execute(query, (customer["id"],)).fetchall()
    if order_id is not None:
        order = _find_own_order(session, customer, order_id)
        if isinstance(order, dict):
            return order
        orders = [order]
    found = []
    for order in [one for one in orders if status is None or one["status"] == status.strip().casefold()][:MOST_ORDERS]:
        items = [{key: line[key] for key in ("name", "quantity", "price")} for line in _read_lines(session, order)]
        entry = {"order_id": order["id"], "status": order["status"], "date": order["placed_on"]}
        found.append(entry | {"total": order["total"], "items": items, "tracking": order["tracking"]})
    return {"orders": found}


def initiate_return(session: Session, order_id: str, product: str | None = None, reason: str | None = None) -> dict:
    """Return a delivered order, or one product of it, for a refund; needs the customer's confirmation.

    Args:
        order_id: The order's number, as the customer wrote it.
        product: Which product of the order; leave out for all of it.
        reason: Why, in the customer's words.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    customer = _check_customer(session)
    order = customer if isinstance(customer, dict) else _find_own_order(session, customer, order_id)
    lines = order if isinstance(order, dict) else _choose_lines(session, order, product)
    if isinstance(lines, dict):
        return lines
    today, allowed = read_today(session), int(read_meta(session, "return_days", "30"))
    arrived = (order["delivered_on"] or order["placed_on"])[:10]
    lines = [line for line in lines if line["return_id"] is None]
    if not lines or order["status"] == "returned":
        return {"error": f"this was already returned; order {order['id']} has nothing else to return here"}
    if order["status"] != "delivered":
        return {"error": f"order {order['id']} is {order['status']}; only delivered orders can be returned"}
    if today - date.fromisoformat(arrived) > timedelta(days=allowed):
        return {"error": f"too late: order {order['id']} arrived on {arrived}, more than {allowed} days ago"}
    refund = round(sum(line["price"] * line["quantity"] for line in lines), 2)
    found = {"order_id": order["id"], "items": [line["name"] for line in lines], "refund": refund}
    given = {"order_id": order_id, "product": product, "reason": reason}
    if session.confirmed != format_call(initiate_return, {key: given[key] for key in given if given[key] is not None}):
        return {"status": "needs_confirmation"} | found
    return_id = _write_return(session, order, lines, reason, str(today))
    if return_id is None:
        return {"error": f"order {order['id']} was already returned"}
    return {"return_id": return_id} | found | {"status": "approved"}


def get_discount_eligibility(session: Session, promo_code: str | None = None, customer_id: str | None = None) -> dict:
    """Tell the customer's loyalty tier, the promotion codes they can use, and why others don't apply.

    Args:
        promo_code: The one code to check.
        customer_id: The customer's id or e-mail, if they gave it.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    guest = session.customer_id is None and customer_id is None
    customer = None if guest else _check_customer(session, customer_id)
    if isinstance(customer, dict):
        return customer
    tier, own_id = (customer["tier"], customer["id"]) if customer else ("none", None)
    query = "SELECT count(*) FROM orders WHERE customer_id = ? AND status != 'cancelled'"
    orders = session.store.execute(query, (own_id,)).fetchone()[0]
    code = None if promo_code is None else promo_code.strip()
    found: dict = {"tier": tier, "eligible": [], "not_eligible": []}
    query = "SELECT * FROM promotions WHERE ? IS NULL OR code = ? ORDER BY ends, code"
    for row in session.store.execute(query, (code, code)).fetchall():
        if why := _find_obstacle(row, tier, orders, str(read_today(session))):
            found["not_eligible"].append({"code": row["code"], "why": why})
        else:
            found["eligible"].append({"code": row["code"], "discount": _describe(row), "ends": row["ends"]})
    if code is not None and not found["eligible"] + found["not_eligible"]:
        found["not_eligible"].append({"code": code[:40], "why": "there is no such code"})
    return found


def offer_candidates(rows: list) -> dict:
    """Return the products that a text may mean, so that the model asks instead of guessing.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    shown = [{key: row[key] for key in ("id", "name", "price")} for row in rows]
    return {"candidates": shown, "message": "several products match, ask which one"}


def read_meta(session: Session, key: str, default: str) -> str:
    """Return one of the shop's settings; an imported shop may lack it.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    row = session.store.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return row[0] if row else default


def read_today(session: Session) -> date:
    """Return the day it is in the shop: fixed in the course's, so that results repeat, and real in an imported one.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    return date.fromisoformat(read_meta(session, "today", str(date.today())))


def _check_customer(session: Session, customer_id: str | None = None) -> sqlite3.Row | dict:
    """Return the session's customer, or a refusal that says nothing about anybody else."""
    customer = session.store.execute("SELECT * FROM customers WHERE id = ?", (session.customer_id,)).fetchone()
    if customer is None:
        return {"error": "the customer is not signed in; ask them to sign in first"}
    own = {customer["id"].casefold(), (customer["email"] or customer["id"]).casefold()}
    if customer_id is not None and customer_id.strip().casefold() not in own:
        return {"error": "only the signed-in customer's own account can be seen; leave customer_id out"}
    return customer


def _find_own_order(session: Session, customer: sqlite3.Row, order_id: str) -> sqlite3.Row | dict:
    order = find_order(session.store, order_id)
    if order is None or order["customer_id"] != customer["id"]:
        return {"error": f"this customer has no order {shorten(order_id)}; ask them to check the number"}
    return order


def _read_lines(session: Session, order: sqlite3.Row) -> list[sqlite3.Row]:
    query = """SELECT l.*, p.name, p.kind, r.id AS return_id FROM order_lines l JOIN products p ON p.id = product_id
        LEFT JOIN returns r ON r.order_id = l.order_id AND r.line = l.line WHERE l.order_id = ? ORDER BY l.line"""
    return session.store.execute(query, (order["id"],)).fetchall()


def _choose_lines(session: Session, order: sqlite3.Row, product: str | None) -> list[sqlite3.Row] | dict:
    """Find the lines that the customer means; within one order "the headphones" is enough."""
    lines = _read_lines(session, order)
    if product is None:
        return lines
    words = {word for word in _split_words(product) if not SMALL_WORDS.fullmatch(word)}
    told = [f"{line['name']} {line['kind']} {line['variant']}" for line in lines]
    chosen = [line for line, text in zip(lines, told, strict=True) if words and words <= _split_words(text)]
    if not chosen:
        found = resolve_product(session.store, product)
        ids = {found["id"]} if isinstance(found, sqlite3.Row) else {row["id"] for row in found or []}
        chosen = [line for line in lines if line["product_id"] in ids]
    if not chosen:
        held = "; ".join(line["name"] for line in lines)
        return {"error": f"order {order['id']} has no product {shorten(product)}; it holds {held}"}
    chosen = [line for line in chosen if line["return_id"] is None] or chosen
    goods = {line["product_id"]: dict(line) | {"id": line["product_id"]} for line in chosen}
    return offer_candidates(list(goods.values())) if len(goods) > 1 else chosen


def _write_return(session: Session, order: sqlite3.Row, lines: list, reason: str | None, today: str) -> str | None:
    """Write all of a return or nothing; None where the table's key says that somebody returned a line meanwhile."""
    return_id = f"RET-{order['id']}-{lines[0]['line']}"
    try:
        with session.store as conn:
            for line in lines:
                paid = round(line["price"] * line["quantity"], 2)
                row = (return_id, order["id"], line["line"], reason, paid, "approved", today)
                conn.execute("INSERT INTO returns VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            if all(line["return_id"] for line in _read_lines(session, order)):
                conn.execute("UPDATE orders SET status = 'returned' WHERE id = ?", (order["id"],))
    except sqlite3.IntegrityError:
        return None
    return return_id


def _split_words(text: str) -> set[str]:
    return {word.rstrip("s") for word in re.findall(r"\w+", text.casefold())}


def _find_obstacle(row: sqlite3.Row, tier: str, orders: int, today: str) -> str | None:
    """Tell why a promotion does not apply today to a customer of this tier with so many orders, or None."""
    if row["starts"] and today < row["starts"]:
        return f"starts on {row['starts']}"
    if row["ends"] and today > row["ends"]:
        return f"ended on {row['ends']}"
    if TIERS.index(tier) < TIERS.index(row["minimum_tier"] or "none"):
        return f"needs tier {row['minimum_tier']} or higher"
    return "only for a first order" if row["first_order_only"] and orders else None


def _describe(row: sqlite3.Row) -> str:
    value, least = f"{row['value']:g}", row["minimum_order"]
    text = {"percent": f"{value} % off", "amount": f"${value} off", "free_shipping": "free shipping"}[row["kind"]]
    return f"{text} on orders from ${least:g}" if least else text
