"""Which export a record is from, told by its fields, and which records belong to one product or order."""

import re
from dataclasses import dataclass, replace
from functools import cache

from elm_helpers.fields import RowError, find_value, read_key, read_names, read_text
from elm_helpers.tables import Record

CHILDREN = {"ProductVariant": "variants", "LineItem": "lineitems", "Metafield": "metafields"}
CHILDREN |= {"InventoryLevel": "inventorylevels"}
Rejected = list[tuple[Record, str]]  # rows that are not imported, and why
GOODS = ("sku", "price", "regularprice", "saleprice", "stock", "variant", "option1value", "location")


@dataclass(frozen=True)
class Unit:
    """One product or order: its own record, the records of its variants or lines, and all that it came from."""

    main: Record
    parts: tuple[Record, ...]
    rows: tuple[Record, ...]


@cache
def find_layout(names: frozenset[str], form: str = "auto") -> tuple[str, str] | None:
    """Return the format and the kind of thing that has these folded fields, or None.

    Args:
        names: As `fold_name` writes them.
        form: "auto", or a format of data/templates/imports.yaml, which then is the only one looked for.

    Example:
        >>> find_layout(frozenset({"handle", "title", "variantsku", "variantprice"}))
        ('shopify-products', 'products')

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    layouts = [layout for layout in read_names()["layouts"] if form in ("auto", layout[0])]
    for label, kind, wanted in layouts:
        if all(_has(names, token) for token in wanted.split()):
            return label, kind
    kinds = {(label, kind) for label, kind, _ in layouts}
    return kinds.pop() if form != "auto" and len(kinds) == 1 else None


def list_nodes(value) -> list[dict]:
    """Return the objects of a JSON list, or of GraphQL's {"nodes": […]} and {"edges": [{"node": …}]}.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    if isinstance(value, dict):
        value = value.get("nodes", value.get("edges"))
    nodes = [node.get("node", node) for node in value if isinstance(node, dict)] if isinstance(value, list) else []
    return [node for node in nodes if isinstance(node, dict)]


def attach_children(records: list[Record], rejected: Rejected) -> list[Unit]:
    """Put the child lines of a GraphQL bulk file ("__parentId") into their parents; other records stay alone.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    index, families = {}, {}
    for record in records:
        for owner in (record.fields, *(value for value in record.fields.values() if isinstance(value, dict))):
            if isinstance(owner.get("id"), str) and owner["id"].startswith("gid://"):
                index[owner["id"]] = (owner, record)
    for record in records:
        parent, top = record.fields.get("parentid"), record
        if not isinstance(parent, str) or not parent.startswith("gid://"):
            families.setdefault(id(record), (record, []))
            continue
        if parent not in index or index[parent][1] is record:
            rejected.append((record, f"its parent {parent!r:.60} is not in this file"))
            continue
        name = CHILDREN.get(find_type(record), "others")
        held = index[parent][0].get(name)
        index[parent][0][name] = [*list_nodes(held), record.fields]
        seen = set()
        while top.fields.get("parentid") in index and id(top) not in seen:
            seen.add(id(top))
            top = index[top.fields["parentid"]][1]
        families.setdefault(id(top), (top, []))[1].append(record)
    return [Unit(record, (), (record, *children)) for record, children in families.values()]


def find_type(record: Record) -> str:
    """Return the type in a GraphQL id ("gid://shopify/Order/7" is an Order), or "".

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    key = record.fields.get("id")
    return key.split("/")[3] if isinstance(key, str) and key.startswith("gid://") and key.count("/") > 3 else ""


def group_products(units: list[Unit], rejected: Rejected) -> list[Unit]:
    """Return a unit for each product: its variants are rows with its handle or id, its variations, or in the object.

    A row with nothing but the handle, as Shopify writes for a further image, belongs to its product and is no variant.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    groups, keys, nested = {}, {}, []
    for unit in sorted(units, key=lambda unit: _find_parent(unit.main.fields) is not None):
        fields, parent = unit.main.fields, _find_parent(unit.main.fields)
        inner = list_nodes(fields.get("variants"))
        if inner:
            parts = tuple(Record(unit.main.line, part, part, unit.main.file) for part in inner)
            nested.append(replace(unit, parts=parts))
            continue
        try:
            key = keys.get(parent) if parent else _find_key(fields)
            if key is None:
                found = f"its parent {parent!r} is not in this file"
                raise RowError(found if parent else "found no handle, id, SKU or name")
            for name, value in (("id:", read_key(fields, "id")), ("", read_key(fields, "sku"))):
                if value and not parent:
                    keys.setdefault(name + value, key)
        except RowError as error:
            rejected += [(row, str(error)) for row in unit.rows]
            continue
        groups.setdefault(key, []).extend(unit.rows)
    return nested + [_build_group(rows) for rows in groups.values()]


def group_orders(units: list[Unit], rejected: Rejected) -> list[Unit]:
    """Return a unit for each order: its lines are rows with its number or with none, or stand in the object.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    groups, last = {}, None
    for unit in units:
        fields = unit.main.fields
        try:
            key = read_key(fields, "orderid")
            if key is None and not any(find_value(fields, name) for name in ("date", "email", "total")):
                key = last
            if key is None:
                raise RowError("found no order number")
        except RowError as error:
            rejected += [(row, str(error)) for row in unit.rows]
            continue
        last = key
        groups.setdefault(key, []).extend(unit.rows)
    orders = []
    for rows in groups.values():
        filled = [{k: v for k, v in row.fields.items() if v not in ("", None)} for row in reversed(rows)]
        main = replace(rows[0], fields={name: value for fields in filled for name, value in fields.items()})
        inner = [
            node for name in ("lineitems", "items", "lines", "products") for node in list_nodes(main.fields.get(name))
        ]
        parts = tuple(Record(main.line, node, node, main.file) for node in inner) or tuple(rows)
        orders.append(Unit(main, parts, tuple(rows)))
    return orders


def _has(names: frozenset[str], token: str) -> bool:
    if token.startswith("!"):
        return not _has(names, token[1:])
    options = [option for part in token.split("|") for option in _expand(part)]
    return any(option in names for option in options)


def _expand(part: str) -> list[str]:
    return read_names()["aliases"][part[1:]] if part.startswith("@") else [part]


def _find_parent(fields: dict) -> str | None:
    """Return what a WooCommerce variation names as its parent: "id:12" or a SKU."""
    parent = fields.get("parent") or fields.get("parentid") or ""
    parent = str(parent).strip() if isinstance(parent, str | int) else ""
    if parent in ("", "0") or parent.startswith("gid:"):
        return None
    return (
        parent
        if fields.get("parent") and not re.fullmatch(r"id:\s*\d+", parent)
        else f"id:{parent.removeprefix('id:').strip()}"
    )


def _find_key(fields: dict) -> str | None:
    for name in ("handle", "id"):
        if key := read_key(fields, name):
            return f"{name} {key}"
    names = ("name", "sku") if find_value(fields, "variant") else ("sku", "name")
    return next((f"{name} {key}" for name in names if (key := read_text(fields, name))), None)


def _build_group(rows: list[Record]) -> Unit:
    main = next((row for row in rows if find_value(row.fields, "name")), rows[0])
    children = [row for row in rows if _find_parent(row.fields)]
    parts = children or [row for row in rows if any(find_value(row.fields, name) for name in GOODS)] or [main]
    return Unit(main, tuple(parts), tuple(rows))
