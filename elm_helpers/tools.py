"""The shop's tools, each declared once, as a typed function; schema, prompt and checks derive from that."""

import json
import sqlite3
from dataclasses import replace
from datetime import timedelta
from typing import Literal

from elm_helpers.account import (
    Session,
    get_customer_orders,
    get_discount_eligibility,
    initiate_return,
    offer_candidates,
    read_meta,
    read_today,
)
from elm_helpers.signatures import build_schema, describe_tool, find_problem, format_call, shorten
from elm_helpers.store import find_products, find_zone, resolve_product

MOST_PRODUCTS = 20  # a longer result would push the conversation out of a small model's context


def search_products(
    session: Session,
    query: str,
    category: str | None = None,
    min_price: float | None = None,
    max_price: float | None = None,
    limit: int = 5,
) -> dict:
    """Find products of a kind, best match first.

    Args:
        query: What the customer looks for, in their words.
        category: One of the shop's categories.
        min_price: Lowest price in USD.
        max_price: Highest price in USD.
        limit: How many products to show.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    known = [
        row[0]
        for row in session.store.execute("SELECT DISTINCT category FROM products WHERE category <> '' ORDER BY 1")
    ]
    if category is not None and category.casefold() not in [name.casefold() for name in known]:
        return {"error": f"there is no category {shorten(category)}; the categories are {'; '.join(known)}"}
    low, high = min_price or 0, float("inf") if max_price is None else max_price
    if limit < 1 or not 0 <= low <= high:
        return {"error": "limit must be 1 or more, prices 0 or more, and min_price at most max_price"}
    rows = find_products(session.store, query, category, min_price, max_price, limit=10**6)
    return {"products": [_show(row) for row in rows[: min(limit, MOST_PRODUCTS)]], "total": len(rows)}


def get_product_info(session: Session, product: str) -> dict:
    """Give a product's price, description, specifications and rating.

    Args:
        product: The product's name, id or SKU.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    row = _resolve(session, product)
    if isinstance(row, dict):
        return row
    found = {key: row[key] for key in ("id", "name", "brand", "category", "price", "description")}
    specifications = "SELECT name, value FROM specifications WHERE product_id = ? ORDER BY rowid"
    found["specifications"] = dict(map(tuple, session.store.execute(specifications, (row["id"],))))
    reviews = session.store.execute("SELECT count(*) FROM reviews WHERE product_id = ?", (row["id"],)).fetchone()[0]
    return found | {"rating": row["rating"], "reviews": reviews}


def get_inventory(session: Session, product: str, variant: str | None = None, location: str | None = None) -> dict:
    """Tell how many units are in stock, by variant and location; null means unknown.

    Args:
        product: The product's name, id or SKU.
        variant: A colour or size of it.
        location: One of the shops, or online.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    row = _resolve(session, product)
    if isinstance(row, dict):
        return row
    lines = session.store.execute("SELECT * FROM stock WHERE product_id = ? ORDER BY rowid", (row["id"],)).fetchall()
    for column, wanted in (("variant", variant), ("location", location)):
        if wanted is not None:
            known = ", ".join(dict.fromkeys(line[column] for line in lines)) or "none"
            lines = [line for line in lines if line[column].casefold() == wanted.strip().casefold()]
            if not lines:
                return {"error": f"{row['name']} has no {column} {shorten(wanted)}; it has {known}"}
    places: dict[str, dict] = {}
    for line in lines:
        places.setdefault(line["variant"], {})[line["location"]] = line["units"]
    due = min((line["restock_date"] for line in lines if line["restock_date"]), default=None)
    stock = [{"variant": name, "units": units} for name, units in places.items()]
    return {"product": row["name"], "stock": stock, "restock_date": due}


def calculate_shipping(
    session: Session,
    destination: str,
    product: str | None = None,
    method: Literal["standard", "express", "overnight"] = "standard",
) -> dict:
    """Give the cost, working days and arrival date of a delivery.

    Args:
        destination: A postal code or country.
        product: Name, id or SKU of what is sent.
        method: How fast.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    row = None if product is None else _resolve(session, product)
    if isinstance(row, dict):
        return row
    zone = find_zone(session.store, destination)
    query = "SELECT cost, days_low, days_high FROM shipping_rates WHERE zone = ? AND method = ?"
    rate = session.store.execute(query, (zone, method)).fetchone()
    if rate is None:
        zones = ", ".join(row[0] for row in session.store.execute("SELECT DISTINCT zone FROM shipping_rates"))
        return {"error": f"no delivery to {shorten(destination)}; give a postal code or country of: {zones}"}
    cost, low, high = rate
    if row and method == "standard" and row["price"] >= float(read_meta(session, "free_shipping_from", "inf")):
        cost = 0.0
    arrives = read_today(session)
    for _ in range(high):  # working days: behind Friday comes Monday
        arrives += timedelta(days={4: 3, 5: 2}.get(arrives.weekday(), 1))
    days = f"{low}-{high}" if low < high else str(high)
    found = {"destination": destination, "zone": zone, "method": method, "cost": cost, "days": days}
    return found | {"arrives": str(arrives)} | ({"product": row["name"]} if row else {})


def get_similar_products(session: Session, product: str, limit: int = 3) -> dict:
    """Suggest alternatives to a product, and why.

    Args:
        product: The product's name, id or SKU.
        limit: How many to suggest.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    row = _resolve(session, product)
    if isinstance(row, dict):
        return row
    if limit < 1:
        return {"error": "limit must be 1 or more"}
    query = "SELECT * FROM products WHERE category IS ? AND id != ? ORDER BY kind != ?, abs(price - ?), id LIMIT ?"
    values = (row["category"], row["id"], row["kind"], row["price"], min(limit, MOST_PRODUCTS))
    similar = []
    for other in session.store.execute(query, values):
        gap = other["price"] - row["price"]
        cost = f"${abs(gap):.2f} {'more' if gap > 0 else 'less'}" if abs(gap) >= 0.005 else "the same price"
        similar.append(_show(other) | {"why": f"{other['kind'] or other['category']}, {cost}"})
    return {"product": row["name"], "similar": similar}


def _show(row: sqlite3.Row) -> dict:
    return {key: row[key] for key in ("id", "name", "price", "rating")}


def _resolve(session: Session, text: str) -> sqlite3.Row | dict:
    """Find the one product that a text means, or what to answer instead."""
    found = resolve_product(session.store, text)
    if found is None:
        return {"error": f"no product matches {shorten(text)}; search_products finds products by kind"}
    return offer_candidates(found) if isinstance(found, list) else found


TOOLS = {
    tool.__name__: tool
    for tool in (
        search_products,
        get_product_info,
        get_inventory,
        calculate_shipping,
        get_customer_orders,
        initiate_return,
        get_discount_eligibility,
        get_similar_products,
    )
}
WRITES = frozenset({"initiate_return"})


def check_arguments(name: str, arguments: dict) -> str | None:
    """Return what is wrong with a call and what would be right, or None; the parser and `run_tool` share it.

    Example:
        >>> check_arguments("get_product_info", {"product": 7})
        'get_product_info: product must be of type string, found 7'

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    if not isinstance(name, str) or name not in TOOLS:
        return f"there is no tool {shorten(name)}; the tools are {', '.join(TOOLS)}"
    return find_problem(TOOLS[name], arguments)


def run_tool(session: Session, name: str, arguments: dict) -> dict:
    """Run one call against the shop.

    Args:
        session: The shop and who asks. A tool in `WRITES` changes the shop only when `session.confirmed` is its text.
        name: One of `TOOLS`.
        arguments: What the model gave; anything may stand in it.

    Returns:
        The tool's result, or `{"error": …}` that the model can act on: bad arguments never raise.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    problem = check_arguments(name, arguments)
    if problem:
        return {"error": problem}
    given = {key: value for key, value in arguments.items() if value is not None}
    if session.confirmed == format_call(TOOLS[name], arguments):
        session = replace(session, confirmed=format_call(TOOLS[name], given))
    return TOOLS[name](session, **given)


def format_result(result: dict) -> str:
    """Return a result as the JSON text of a `tool` message.

    Example:
        >>> format_result({"error": "café"})
        '{"error": "café"}'

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    return json.dumps(result, ensure_ascii=False)


def build_json_schema(name: str) -> dict:
    """Return a tool's JSON Schema in OpenAI's function form, for engines and frameworks that take tools.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    return build_schema(TOOLS[name])


def list_signatures() -> str:
    """Return the prompt text for a model that was never taught the tools: one line each, Python signature and purpose.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    return "\n".join(describe_tool(tool) for tool in TOOLS.values())
