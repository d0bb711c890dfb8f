"""Writes imported things into the store's tables: what is known by id, SKU or handle is renewed, the rest is added."""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable

from elm_helpers.fields import RowError
from elm_helpers.goods import Product
from elm_helpers.layouts import Rejected
from elm_helpers.sales import Customer, Line, Order, Promotion, Review
from elm_helpers.shelves import build_id, find_category, find_kind
from elm_helpers.tables import Record

WHOLE = "id IN (SELECT product_id FROM specifications)"  # every product has some, but those only orders know
BY_NAME = """SELECT id, NULL FROM products WHERE id = :name OR sku = :name UNION ALL
    SELECT product_id, variant FROM variants WHERE sku = :name UNION ALL
    SELECT id, NULL FROM (SELECT id FROM products WHERE name = :name ORDER BY id) LIMIT 1"""


def empty_shop(conn: sqlite3.Connection) -> None:
    """Delete what a shop sells, has sold and has promised to whom; policies and delivery stay.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    tables = ("returns", "orders", "reviews", "products", "customers", "promotions")
    for table in tables + (("conversations",) if _has_table(conn, "conversations") else ()):
        conn.execute(f"DELETE FROM {table}")
    conn.execute("DELETE FROM meta WHERE key IN ('today', 'seed', 'locations')")


def write_product(conn: sqlite3.Connection, product: Product, batch: set[str], remarks: list[str]) -> str:
    """Write a product with its variants, stock and specifications, and return its id in the store.

    Args:
        conn: Inside a transaction.
        product: Its price in the store is that of its cheapest variant.
        batch: Ids of the products that this import has written so far; they are never taken for this one.
        remarks: Gets a sentence about each SKU that another product has already.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    key = _find_known(conn, product, batch)
    conn.execute("DELETE FROM variants WHERE product_id = ?", (key,))
    conn.execute("DELETE FROM specifications WHERE product_id = ?", (key,))
    conn.execute("INSERT OR IGNORE INTO products (id, name) VALUES (?, ?)", (key, product.name))
    _absorb_sold(conn, product, key)
    sku = _claim_sku(conn, product.sku, key, product.name, remarks)
    price = min(variant.price for variant in product.variants)
    values = (sku, product.name, product.brand, product.category, product.kind, price, product.description, key)
    conn.execute(
        "UPDATE products SET (sku, name, brand, category, kind, price, description) = (?, ?, ?, ?, ?, ?, ?)"
        " WHERE id = ?",
        values,
    )
    rows = [(key, *pair) for pair in product.specifications.items()]
    conn.executemany("INSERT INTO specifications VALUES (?, ?, ?)", rows)
    for variant in product.variants:
        sku = _claim_sku(conn, variant.sku, key, product.name, remarks)
        conn.execute("INSERT INTO variants VALUES (?, ?, ?)", (key, variant.name, sku))
        rows = [(key, variant.name, place, units) for place, units in variant.stock.items()]
        conn.executemany("INSERT INTO stock VALUES (?, ?, ?, ?, NULL)", rows)
    return key


def write_customer(conn: sqlite3.Connection, customer: Customer) -> str | None:
    """Write a customer and return the id in the store: an e-mail where the export has none; None for a guest.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    if customer.id is None and customer.email is None:
        return None
    query = "SELECT id FROM customers WHERE email = ? UNION ALL SELECT id FROM customers WHERE id = ?"
    known = conn.execute(query, (customer.email, customer.id)).fetchone()
    if known is None:
        values = (customer.id or customer.email, customer.name, customer.email)
        conn.execute("INSERT INTO customers (id, name, email) VALUES (?, ?, ?)", values)
        return values[0]
    query = "UPDATE customers SET name = coalesce(?, name), email = coalesce(?, email) WHERE id = ?"
    conn.execute(query, (customer.name, customer.email, known[0]))
    return known[0]


def write_order(conn: sqlite3.Connection, order: Order, rejected: Rejected) -> str | None:
    """Write an order and return its customer's id; a product that only orders know is added, with its stock unknown.

    Raises:
        RowError: None of its lines can be kept; the others are added to `rejected`.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    lines = []
    for line in order.lines:
        try:
            product, variant, price = _find_sold(conn, line)
            lines.append((order.id, len(lines) + 1, product, variant, line.quantity, price))
        except RowError as error:
            rejected.append((line.record, str(error)))
    if not lines:
        raise RowError("found no line that can be kept")
    customer = write_customer(conn, order.customer)
    total = round(sum(row[4] * row[5] for row in lines), 2) if order.total is None else order.total
    values = (order.id, customer, order.status, order.placed_on, order.delivered_on, total, order.tracking)
    conn.execute(
        """INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET customer_id =
        excluded.customer_id, status = excluded.status, placed_on = excluded.placed_on, delivered_on =
        excluded.delivered_on, total = excluded.total, tracking = excluded.tracking""",
        values,
    )
    held = conn.execute("SELECT * FROM order_lines WHERE order_id = ? ORDER BY line", (order.id,)).fetchall()
    if list(map(tuple, held)) != lines:  # else returns that the agent wrote would go with the old lines
        conn.execute("DELETE FROM order_lines WHERE order_id = ?", (order.id,))
        conn.executemany("INSERT INTO order_lines VALUES (?, ?, ?, ?, ?, ?)", lines)
    return customer


def write_reviews(
    conn: sqlite3.Connection, pairs: list[tuple[Record, Review]], redact: Callable[[str], str], rejected: Rejected
) -> int:
    """Write reviews, their texts redacted, renew the ratings, and return how many reviews there were.

    A review that the store already holds as often as the export has it isn't written again.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    counts = Counter()
    for record, review in pairs:
        found = _find_product(conn, review.product)
        if found is None:
            rejected.append((record, f"product {review.product[0]!r:.80} is not in the store"))
        else:
            counts[found[0], review.stars, redact(review.text) if review.text else None] += 1
    query = "SELECT count(*) FROM reviews WHERE product_id = ? AND stars = ? AND text IS ?"
    for row, count in counts.items():
        missing = count - conn.execute(query, row).fetchone()[0]
        conn.executemany("INSERT INTO reviews (product_id, stars, text) VALUES (?, ?, ?)", [row] * max(missing, 0))
    average = "SELECT round(avg(stars), 1) FROM reviews WHERE product_id = products.id"
    conn.executemany(f"UPDATE products SET rating = ({average}) WHERE id = ?", [(row[0],) for row in counts])
    return counts.total()


def write_promotion(conn: sqlite3.Connection, promotion: Promotion) -> None:
    """Write a promotion.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    values = (promotion.code, promotion.kind, promotion.value, None, promotion.minimum_order, None, promotion.ends, 0)
    conn.execute("INSERT OR REPLACE INTO promotions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)


def _has_table(conn: sqlite3.Connection, name: str) -> bool:
    return conn.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None


def _find_known(conn: sqlite3.Connection, product: Product, batch: set[str]) -> str:
    """Return the id under which the store has the product: its own, or that of an earlier import with its SKU."""
    if conn.execute("SELECT 1 FROM products WHERE id = ?", (product.id,)).fetchone():
        return product.id
    skus = json.dumps([sku for sku in (product.sku, *(variant.sku for variant in product.variants)) if sku])
    query = f"""SELECT id FROM products WHERE sku IN (SELECT value FROM json_each(:skus)) AND {WHOLE} UNION ALL SELECT
        product_id FROM variants WHERE sku IN (SELECT value FROM json_each(:skus)) AND product_id IN
        (SELECT product_id FROM specifications)"""
    found = [row[0] for row in conn.execute(query, {"skus": skus})]
    return next((key for key in found if key not in batch), product.id)


def _absorb_sold(conn: sqlite3.Connection, product: Product, key: str) -> None:
    """Let a product take the place of those that are only known from orders of it."""
    names = [(product.name, product.variants[0].name if len(product.variants) == 1 else None)]
    for variant in product.variants:
        names += [(variant.sku, variant.name), (f"{product.name} - {variant.name}", variant.name)]
    for name, variant in names:
        query = f"SELECT id FROM products WHERE (id = ? OR name = ?) AND id <> ? AND NOT {WHOLE}"
        for (old,) in conn.execute(query, (name, name, key)).fetchall():
            conn.execute("UPDATE order_lines SET product_id = ?, variant = ? WHERE product_id = ?", (key, variant, old))
            conn.execute("UPDATE reviews SET product_id = ? WHERE product_id = ?", (key, old))
            conn.execute("DELETE FROM products WHERE id = ?", (old,))


def _claim_sku(conn: sqlite3.Connection, sku: str | None, key: str, name: str, remarks: list[str]) -> str | None:
    query = "SELECT name FROM products JOIN variants ON product_id = id WHERE variants.sku = :sku UNION ALL"
    query += " SELECT name FROM products WHERE sku = :sku AND id <> :key"
    taken = conn.execute(query, {"sku": sku, "key": key}).fetchone()
    if taken:
        remarks.append(f"{name!r:.80} is in the store without the SKU {sku!r}, which {taken[0]!r:.80} has already")
    return None if taken else sku


def _find_product(conn: sqlite3.Connection, names: tuple[str | None, ...]) -> tuple[str, str | None] | None:
    """Return product and variant of the first name that fits an id, SKU or product name."""
    for name in filter(None, names):
        if row := conn.execute(BY_NAME, {"name": name}).fetchone():
            return tuple(row)
    return None


def _find_sold(conn: sqlite3.Connection, line: Line) -> tuple[str, str | None, float]:
    base, _, rest = (line.name or "").rpartition(" - ")
    found = _find_product(conn, (line.sku, line.product_id, line.name, base))
    price = line.price
    if found is None:
        if not line.name or price is None:
            raise RowError(f"product {line.sku or line.product_id or line.name!r:.80} is not in the store")
        found = (build_id(line.name, line.sku), None)
        values = (*found[:1], line.name, find_category([line.name]), find_kind("", line.name), price)
        conn.execute("INSERT INTO products (id, name, category, kind, price) VALUES (?, ?, ?, ?, ?)", values)
        conn.execute("INSERT INTO variants VALUES (?, 'standard', ?)", (found[0], line.sku))
        conn.execute("INSERT INTO stock VALUES (?, 'standard', 'online', NULL, NULL)", (found[0],))
    if price is None:
        price = conn.execute("SELECT price FROM products WHERE id = ?", (found[0],)).fetchone()[0]
    if found[1] is None:
        query = "SELECT variant FROM variants WHERE product_id = ? AND (variant = ? OR variant IN (?, 'standard'))"
        variant = conn.execute(query, (found[0], line.variant, rest)).fetchone()
        found = (found[0], variant[0] if variant else line.variant)
    return *found, price
