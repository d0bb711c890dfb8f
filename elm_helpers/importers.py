"""Imports a shop's exports: detect, read, check, and write all of it into a store in one transaction, or nothing."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from elm_helpers import chat_logs, writers
from elm_helpers.fields import RowError, read_names, read_text
from elm_helpers.goods import build_product
from elm_helpers.layouts import Rejected, Unit, attach_children, find_layout, find_type, group_orders, group_products
from elm_helpers.redact import build_redactor, redact_text
from elm_helpers.sales import build_customer, build_order, build_promotion, build_review
from elm_helpers.shop import fill_rules
from elm_helpers.store import index_products, open_store
from elm_helpers.tables import Record, StoreFileError, fold_name, read_table

GRAPHQL = {"Product": "products", "Order": "orders", "Customer": "customers"}
GENERIC = {"reviews", "orders", "products", "coupons", "customers"}


@dataclass(frozen=True)
class Report:
    """What an import brought; every row of the file is in one of the counts' things, or in `rejected` with its line."""

    format: str
    products: int
    variants: int
    orders: int
    customers: int
    reviews: int
    conversations: int
    rejected: tuple[dict, ...]
    promotions: int
    unmapped: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """Everything that was read from the files, sorted by what it is: units of one record, chats by their format."""

    units: dict[str, list[Unit]]
    chats: dict[str, list[Record]]
    formats: list[str]
    rejected: Rejected
    remarks: list[str]


def list_formats() -> list[str]:
    """Return the formats of shop exports that are known; those of chat logs are `chat_logs`'s.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    return list(dict.fromkeys(label for label, _, _ in read_names()["layouts"]))


def import_path(
    path: Path | str,
    store_path: Path | str,
    form: str = "auto",
    empty: bool = False,
    mapping: dict[str, str] | None = None,
) -> Report:
    """Import a file, or all files of a folder, into a store; a store that doesn't exist is made, beside first.

    Args:
        path: The export. A folder's products are written before its orders, and those before its reviews.
        store_path: SQLite file of the shop.
        form: One of `list_formats()`, or "auto" to find it from the columns or keys.
        empty: Delete what the shop sells and has sold first, in the same transaction.
        mapping: Field of data/templates/imports.yaml -> the column that holds it, as {"name": "Titel"}.

    Raises:
        FileNotFoundError: There is no such path.
        StoreFileError: Nothing in it can be imported, or the store can't be written; it is as it was.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    reading = read_exports(Path(path), form, mapping or {})
    store_path = Path(store_path)
    part = store_path if store_path.exists() else store_path.with_name(f".{store_path.name}.part")
    if part != store_path:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
    try:
        report = _write_all(part, reading, empty, new=part != store_path)
        if part != store_path:
            os.replace(part, store_path)
    except sqlite3.Error as error:
        raise StoreFileError(f"{store_path}: found a store that can't be written ({error})") from None
    finally:
        if part != store_path:
            part.unlink(missing_ok=True)
    return report


def read_exports(path: Path, form: str = "auto", mapping: dict[str, str] | None = None) -> Reading:
    """Return what a file or folder holds, sorted by what it is, before any of it is checked.

    Args:
        path: The export.
        form: As for `import_path`.
        mapping: As for `import_path`.

    Raises:
        FileNotFoundError: There is no such path.
        StoreFileError: No file in it is a known export; the message names the columns found and the formats known.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    if form not in ("auto", *list_formats()) and not form.startswith("chat"):
        raise StoreFileError(f"--format: found {form!r}, expected auto, {', '.join(list_formats())} or a chat format")
    names = {fold_name(name): column for name, column in (mapping or {}).items()}
    if unknown := set(names) - set(read_names()["aliases"]):
        raise StoreFileError(
            f"--map: found {sorted(unknown)}, expected fields out of {', '.join(read_names()['aliases'])}"
        )
    files = [path] if not path.is_dir() else sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in files if not file.name.startswith(".")] or [path / "*"]
    if not files[0].is_file():
        raise FileNotFoundError(f"{files[0]}: found no file, expected an export or a folder of exports")
    reading = Reading({}, {}, [], [], [])
    for file in files:
        label = file.relative_to(path).as_posix() if path.is_dir() else ""
        try:
            _read_file(file, label, form, names, reading)
        except StoreFileError as error:
            if len(files) == 1:
                raise
            reading.rejected.append((Record(0, {}, {}, label), str(error)))
    if not reading.formats:
        raise StoreFileError(f"{path}: found no known export; first, {reading.rejected[0][1]}")
    return reading


def describe_report(report: Report, as_json: bool = False) -> list[str]:
    """Return the report as lines for people, and as the one JSON line of the command's contract after them.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    names = ("products", "variants", "orders", "customers", "reviews", "conversations")
    counts = {name: getattr(report, name) for name in names}
    lines = [f"{report.format}: " + ", ".join(f"{count} {name}" for name, count in counts.items())]
    lines += [f"{report.promotions} promotions"] if report.promotions else []
    if names := report.unmapped:
        lines += [f"{len(names)} products fit none of the 18 categories, such as {names[0]!r:.80}; no rows are made"]
        lines[-1] += (
            " about them until the export gives a category or type, or category_words.yaml a word of their names"
        )
    lines += [f"note: {remark}" for remark in report.remarks]
    lines += [f"rejected, line {entry['line']}: {entry['reason']}" for entry in report.rejected]
    shown = {"format": report.format, **counts, "rejected": list(report.rejected)}
    return lines + ([json.dumps(shown, ensure_ascii=False)] if as_json else [])


def _read_file(path: Path, label: str, form: str, names: dict[str, str], reading: Reading) -> None:
    table, unknown = read_table(path), []
    records = [_map_fields(replace(record, file=label), names) for record in table.records]
    if records and (missing := set(names.values()) - set(records[0].raw)):
        raise StoreFileError(f"{path}: --map: found no column {sorted(missing)}, only {', '.join(records[0].raw)}")
    reading.rejected.extend((Record(line, {}, {}, label), reason) for line, reason in table.rejected)
    for unit in attach_children(records, reading.rejected):
        found = _find_format(unit, form)
        if found is None:
            unknown.append(unit)
            continue
        name, kind = found
        if name.startswith("shopify") and kind == "orders" and "=orderid" not in unit.main.fields:
            unit.main.fields["=orderid"] = unit.main.fields.get("name")  # "#1001", not the number behind it
        if kind == "chats":
            reading.chats.setdefault(name, []).append(unit.main)
        else:
            reading.units.setdefault(kind, []).append(unit)
        if name not in reading.formats:
            reading.formats.append(name)
    first = f"no known export, but {', '.join(unknown[0].main.raw)!r:.300}" if unknown else "nothing that can be read"
    if len(unknown) == len(records) or not records:
        raise StoreFileError(
            f"{path}: found {first}; expected the columns of {', '.join(list_formats())} or of a chat log"
        )
    reading.rejected.extend((row, f"found {first}") for unit in unknown for row in unit.rows)
    reading.remarks.extend(table.remarks)


def _map_fields(record: Record, names: dict[str, str]) -> Record:
    mapped = {f"={name}": record.raw.get(column) for name, column in names.items()}
    return replace(record, fields=record.fields | mapped)


def _find_format(unit: Unit, form: str) -> tuple[str, str] | None:
    """Return format and kind of a record; chat logs come before the formats that only share common names with it."""
    kind = GRAPHQL.get(find_type(unit.main))
    if kind and form in ("auto", "shopify-json", "shopify-bulk"):
        return "shopify-bulk" if len(unit.rows) > 1 else "shopify-json", kind
    found = find_layout(frozenset(unit.main.fields), form)
    if found is None or found[0] in GENERIC:
        chat = form if form.startswith("chat") else chat_logs.find_chat_format(list(unit.main.raw))
        if chat and form in ("auto", chat):
            return chat, "chats"
    return found


def _write_all(path: Path, reading: Reading, empty: bool, new: bool) -> Report:
    conn = open_store(path, create=new)
    try:
        conn.execute("BEGIN IMMEDIATE")
        if new:
            fill_rules(conn)
        if empty:
            writers.empty_shop(conn)
        report = _write_reading(conn, reading)
        index_products(conn)  # commits
        return report
    finally:
        conn.rollback()
        conn.close()


def _write_reading(conn: sqlite3.Connection, reading: Reading) -> Report:
    """Write what was read, things before what refers to them, and count."""
    rejected, remarks, products, customers = list(reading.rejected), list(reading.remarks), {}, set()
    if conn.execute("SELECT 1 FROM meta WHERE key = 'seed'").fetchone():
        remarks.append("the course's shop is in this store too; with --replace it goes first")
    for _, product in _build_all(group_products(reading.units.get("products", []), rejected), build_product, rejected):
        products[writers.write_product(conn, product, set(products), remarks)] = product
    for _, customer in _build_all(reading.units.get("customers", []), build_customer, rejected):
        customers.add(writers.write_customer(conn, customer))
    orders = set()
    for unit, order in _build_all(group_orders(reading.units.get("orders", []), rejected), build_order, rejected):
        try:
            customers.add(writers.write_order(conn, order, rejected))
            orders.add(order.id)
        except RowError as error:
            _reject(unit, error, rejected)
    reviews = [(unit.main, one) for unit, one in _build_all(reading.units.get("reviews", []), build_review, rejected)]
    names = [row[0] for row in conn.execute("SELECT name FROM customers WHERE name IS NOT NULL ORDER BY id")]
    redactor = build_redactor(names + [review.author for _, review in reviews if review.author])
    count = writers.write_reviews(conn, reviews, lambda text: redact_text(redactor, text), rejected)
    coins = {read_text(unit.main.fields, "currency") or "USD" for unit in reading.units.get("orders", [])} - {"USD"}
    if coins:
        remarks.append(f"found orders in {', '.join(sorted(coins))}; the agent will call their amounts dollars")
    coupons = [one for _, one in _build_all(reading.units.get("coupons", []), build_promotion, rejected)]
    for promotion in coupons:
        writers.write_promotion(conn, promotion)
    chats = sum(_write_chats(conn, *entry, redactor, rejected) for entry in reading.chats.items())
    told = dict.fromkeys((row.line, f"{row.file}: {reason}" if row.file else reason) for row, reason in rejected)
    return Report(
        format=", ".join(reading.formats),
        products=len(products),
        variants=sum(len(product.variants) for product in products.values()),
        orders=len(orders),
        customers=len(customers - {None}),
        reviews=count,
        conversations=chats,
        rejected=tuple({"line": line, "reason": reason} for line, reason in sorted(told)),
        promotions=len(coupons),
        unmapped=tuple(product.name for product in products.values() if product.category is None),
        remarks=tuple(remarks),
    )


def _write_chats(conn: sqlite3.Connection, form: str, records: list[Record], redactor, rejected: Rejected) -> int:
    found, bad = chat_logs.read_conversations([(record.line, record.raw) for record in records], form)
    rejected += [(Record(line, {}, {}, records[0].file), reason) for line, reason in bad]
    return chat_logs.write_conversations(conn, found, redactor)


def _build_all(units: list[Unit], build: Callable, rejected: Rejected) -> Iterator[tuple[Unit, Any]]:
    """Yield what can be built; the rows of the rest are rejected, each with its reason."""
    for unit in units:
        told = len(rejected)
        try:
            yield unit, build(unit, rejected)
        except RowError as error:
            _reject(unit, error, rejected, rejected[told:])


def _reject(unit: Unit, error: RowError, rejected: Rejected, told: Iterable[tuple[Record, str]] = ()) -> None:
    lines = {row.line for row, _ in told}
    rejected += [(row, str(error)) for row in unit.rows if row.line not in lines]
