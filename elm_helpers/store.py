"""The shop: one SQLite file with products, stock, customers, orders and returns, which the tools read and change."""

import hashlib
import os
import re
import sqlite3
from pathlib import Path

from elm_helpers.catalogue import CATALOGUE, read_catalogue
from elm_helpers.paths import TEMPLATES
from elm_helpers.shop import FORMS, fill_shop, fold_place, fold_text

SMALL_WORDS = re.compile("a|an|and|any|for|from|i|in|is|it|me|my|of|on|or|some|that|the|this|to|with|you|your")
SCHEMA = TEMPLATES / "shop.sql"
OTHER_SIDE = "[]"  # what `read_split` leaves of a chat that names a product of the other side
WEIGHTS = "0, 10, 5, 10, 6, 2, 3, 1"  # of product_search's columns: a word in the name counts ten times one in the text


def build_store(path: Path | str = ":memory:", seed: int = 0, folder: Path | str = CATALOGUE) -> sqlite3.Connection:
    """Build the course's shop from the catalogue; the same seed and files give the same rows.

    Args:
        path: A file, written beside and then renamed, so that a reader never sees half a shop; or ":memory:".
        seed: Draws stock, ratings, customers, orders and returns.
        folder: The catalogue's folder.

    Returns:
        An open connection, as `open_store` gives it.

    Raises:
        ValueError: A catalogue file is wrong; it names file, line and field.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    conn = _connect(":memory:")
    conn.executescript(SCHEMA.read_text(encoding="utf-8"))
    with conn:
        fill_shop(conn, read_catalogue(folder), seed)
    index_products(conn)
    if str(path) == ":memory:":
        return conn
    path, part = Path(path), Path(f"{path}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in (part, Path(f"{path}-wal"), Path(f"{path}-shm")):
        stale.unlink(missing_ok=True)
    with sqlite3.connect(part) as file:
        conn.backup(file)
    file.close()
    os.replace(part, path)
    return open_store(path)


def open_store(path: Path | str, create: bool = False) -> sqlite3.Connection:
    """Open a shop: rows by name, foreign keys enforced, readers and one writer at once (WAL).

    Args:
        path: What `build_store` or an import wrote.
        create: Make an empty shop when there is no file; importers do.

    Returns:
        A connection that threads may share, one at a time.

    Raises:
        FileNotFoundError: There is no such file, and `create` is False.
        ValueError: The file is not a shop.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    new = not Path(path).is_file()
    if new and not create:
        raise FileNotFoundError(f"{path}: found no shop, expected a file that build_store or `elm import` wrote")
    conn = _connect(path)
    try:
        if new:
            conn.executescript(SCHEMA.read_text(encoding="utf-8"))
        conn.execute("SELECT product_id FROM product_search, conversations LIMIT 1")
        conn.execute("PRAGMA journal_mode = WAL")
    except sqlite3.DatabaseError as error:
        conn.close()
        raise ValueError(
            f"{path}: found no shop ({error}), expected a file that build_store or `elm import` wrote"
        ) from None
    return conn


def index_products(conn: sqlite3.Connection) -> None:
    """Fill the full-text index from the tables anew; needed after products were written by hand or by an import.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    with conn:
        conn.execute("DELETE FROM product_search")
        conn.execute(
            "INSERT INTO product_search SELECT id, name, brand, kind, also, (SELECT group_concat(variant, ' ; ') FROM"
            " variants WHERE product_id = id), category, description FROM products ORDER BY id"
        )


def split_of(product_id: str) -> str:
    """Return "train" or "eval" for a product: about one in five is held out, the same ones in every run and version.

    Example:
        >>> split_of("P0001"), split_of("P0003")
        ('train', 'train')

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    return "eval" if hashlib.sha256(product_id.encode()).digest()[0] % 5 == 0 else "train"


def read_split(conn: sqlite3.Connection, split: str) -> sqlite3.Connection:
    """Return a copy in memory that holds one split's products, so that no row of training data can name an eval one.

    Args:
        conn: The whole shop; it is not changed.
        split: "train" or "eval".

    Returns:
        A shop of its own; orders keep the lines whose product stayed, and orders without lines are gone.

    Raises:
        ValueError: `split` is neither.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    if split not in ("train", "eval"):
        raise ValueError(f"split: found {split!r}, expected 'train' or 'eval'")
    copy = _connect(":memory:")
    conn.backup(copy)
    copy.create_function("split_of", 1, split_of, deterministic=True)
    lost = "SELECT total(quantity * price) FROM order_lines WHERE order_id = id AND split_of(product_id) <> ?"
    with copy:
        copy.execute(f"UPDATE orders SET total = round(total - ({lost}), 2)", (split,))
        opening = "json_extract(messages, '$[0].content')"  # so that chats that open alike are on one side
        copy.execute(f"DELETE FROM conversations WHERE split_of({opening}) <> ?", (split,))
        named = "SELECT 1 FROM products p WHERE split_of(p.id) <> ? AND instr(lower(messages), lower(p.name)) > 0"
        copy.execute(f"UPDATE conversations SET messages = '{OTHER_SIDE}' WHERE EXISTS ({named})", (split,))
        copy.execute("DELETE FROM products WHERE split_of(id) <> ?", (split,))
        copy.execute("DELETE FROM orders WHERE id NOT IN (SELECT order_id FROM order_lines)")
    index_products(copy)
    return copy


def find_products(
    conn: sqlite3.Connection,
    text: str,
    category: str | None = None,
    min_price: float | None = None,
    max_price: float | None = None,
    limit: int = 5,
) -> list[sqlite3.Row]:
    """Return the products that fit a customer's words, best first (BM25).

    All words must match; only when no product in the shop has them all, any of them will do. So "headphones under
    $5" finds nothing instead of something else that costs less.

    Args:
        text: Any text; nothing in it is read as a search operator.
        category: Exact name, case-insensitive.
        min_price: US dollars, inclusive.
        max_price: US dollars, inclusive.
        limit: At most so many rows.

    Returns:
        Rows of `products`; none when the text has no words.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    words = _read_words(text)
    match = " AND ".join(words)
    if words and not conn.execute("SELECT 1 FROM product_search(?) LIMIT 1", (match,)).fetchone():
        match = " OR ".join(words)
    low, high = (None if price is None else float(min(max(price, -1e12), 1e12)) for price in (min_price, max_price))
    query = f"""SELECT p.* FROM product_search(:match) JOIN products p ON p.id = product_id
        WHERE (:category IS NULL OR p.category = :category COLLATE NOCASE)
        AND (:low IS NULL OR price >= :low) AND (:high IS NULL OR price <= :high)
        ORDER BY bm25(product_search, {WEIGHTS}), p.id LIMIT :limit"""
    category = None if category is None else _clean(category).strip()
    values = {"match": match, "category": category, "low": low, "high": high, "limit": min(max(limit, 0), 10**6)}
    return conn.execute(query, values).fetchall() if words else []


def resolve_product(conn: sqlite3.Connection, text: str) -> sqlite3.Row | list[sqlite3.Row] | None:
    """Return the one product that a customer means, or the candidates to ask about, never a guess.

    Args:
        text: An id, a SKU, a full name, or some words of name, brand, kind and variant.

    Returns:
        One row of `products`; a list of two to five where several fit; None where nothing has all the words.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    exact = (_clean(text).strip(),) * 4
    by_key = """SELECT * FROM products WHERE id = ? COLLATE NOCASE OR sku = ? OR name = ?
        OR id IN (SELECT product_id FROM variants WHERE sku = ?) LIMIT 2"""
    rows, words = conn.execute(by_key, exact).fetchall(), _read_words(text)
    if not rows and words:
        match = f"{{name brand kind also variants}} : ({' AND '.join(words)})"
        query = f"""SELECT p.* FROM product_search(?) JOIN products p ON p.id = product_id
            ORDER BY bm25(product_search, {WEIGHTS}), p.id LIMIT 5"""
        rows = conn.execute(query, (match,)).fetchall()
    return rows[0] if len(rows) == 1 else rows or None


def find_order(conn: sqlite3.Connection, text: str) -> sqlite3.Row | None:
    """Return the order with this number; case, spaces and a leading # don't matter, leading zeros do.

    Args:
        text: The number as a customer writes it, such as "# w10482".

    Returns:
        A row of `orders`, whoever it belongs to: checking that is the tool's duty. None where there is none.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    key = "".join(_clean(text).upper().split()).lstrip("#")
    query = "SELECT * FROM orders WHERE ltrim(replace(upper(id), ' ', ''), '#') = ? ORDER BY id = ? DESC LIMIT 1"
    return conn.execute(query, (key, _clean(text).strip())).fetchone() if key else None


def find_zone(conn: sqlite3.Connection, destination: str) -> str | None:
    """Return the shipping zone of a country, region, large city, postal code or code such as "DE" or "Fresno, CA".

    Five digits alone are a US ZIP; beside a known place ("10115 Berlin") the place decides. `FORMS` is the order.

    Args:
        destination: The customer's words.

    Returns:
        A zone of `shipping_rates`; None where the shop does not ship, or the words name no place that it knows.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    text, last = _clean(destination).replace(".", ""), _clean(destination).rstrip(" .!?")[-2:]
    text, rest, found = fold_text(text).strip(), f" {fold_place(text)} ", []
    for place, form, zone in conn.execute("SELECT * FROM shipping_zones ORDER BY length(place) DESC, place, form"):
        alone, rank = rest.strip() == place, FORMS.index(form)
        if "postal" in form:
            hit = re.search(place, text)
        elif "codes" in form:
            hit = alone or (last.isupper() and rest.endswith(f" {place} "))
            rank += 1.5 * (form == "country_codes" and not alone)  # "Fresno, CA" is not in Canada
        else:
            hit = f" {place} " in rest
            rest = rest.replace(f" {place} ", " , ")  # "new mexico" leaves no "mexico"
        if hit:
            found.append((rank, len(found), zone))
    zone = min(found)[-1] if found else "elsewhere"
    return None if zone == "elsewhere" else zone


def _connect(path: Path | str) -> sqlite3.Connection:
    conn = sqlite3.connect(path, check_same_thread=False)
    conn.row_factory = sqlite3.Row
    conn.execute("PRAGMA foreign_keys = ON")
    return conn


def _clean(text: str) -> str:
    """Cut to a length that a name or number can have, and drop what UTF-8 cannot hold."""
    return text[:1000].encode("utf-8", "ignore").decode()


def _read_words(text: str) -> list[str]:
    """Return up to 30 different words as quoted FTS5 strings, so that AND, NEAR, * and " are plain text."""
    words = list(dict.fromkeys(re.findall(r"\w+", _clean(text).lower())))
    return [f'"{word}"' for word in [w for w in words if not SMALL_WORDS.fullmatch(w)] or words][:30]
