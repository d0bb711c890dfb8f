"""Imported goods: a product with its variants, one of the 18 categories, its kind and specifications."""

import re
from dataclasses import dataclass, replace
from datetime import date

from elm_helpers.fields import (
    MOST_NAME,
    RowError,
    find_value,
    read_body,
    read_count,
    read_date,
    read_key,
    read_money,
    read_text,
    strip_html,
)
from elm_helpers.layouts import Rejected, Unit, list_nodes
from elm_helpers.shelves import build_id, find_category, find_kind
from elm_helpers.tables import Record, clean_text

MEASURES = re.compile(r"(weight|length|width|height|depth|volume|diameter) (?:value )?\((\w{1,12})\)", re.I)
METAFIELD = re.compile(r"(.+) \((?:product|variant)\.metafields\.[\w.-]+\)")
ABOUT_METAFIELDS = re.compile(r"rating|review|seo|google|complementary|related|search", re.I)

WOO_TYPES = {"simple", "variable", "variation", "grouped", "external", "virtual", "downloadable", "subscription"}
HIDDEN = {"status": {"draft", "archived", "private", "pending", "trash"}, "published": {"0", "-1", "false"}}


@dataclass(frozen=True)
class Variant:
    """One choice of a product; stock is units by location, None where nobody counted. Price in US dollars."""

    name: str
    sku: str | None
    price: float
    stock: dict[str, int | None]


@dataclass(frozen=True)
class Product:
    """A product as the store holds it; its price is that of its cheapest variant."""

    id: str
    sku: str | None
    name: str
    brand: str | None
    category: str | None
    kind: str
    description: str | None
    specifications: dict[str, str]
    variants: tuple[Variant, ...]


def build_product(unit: Unit, rejected: Rejected) -> Product:
    """Return a product with its variants; a variant that can't be read is added to `rejected`.

    Raises:
        RowError: There is no name, no price, or the product is not for sale.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    fields = unit.main.fields
    for name, values in HIDDEN.items():
        if (shown := (read_text(fields, name) or "").casefold()) in values:
            raise RowError(f"not for sale: {name} is {shown!r}")
    name = strip_html(read_text(fields, "name") or "")
    if not name:
        raise RowError("found no name")
    variants = _build_variants(unit, rejected)
    if not variants:
        raise RowError("found no price")
    kept = read_text(fields, "type") or ""
    kept = "" if {part.strip() for part in kept.casefold().split(",")} & WOO_TYPES else kept
    paths = re.split(r", (?=\w[^>]*(?:>|,|$))|; ", _join(find_value(fields, "category")))
    path = max(paths, key=lambda text: text.count(">"))
    kind = find_kind(kept or path, name)[:60]
    sku = read_key(fields, "sku") if len(variants) == 1 or unit.main not in unit.parts else None
    return Product(
        id=read_key(fields, "handle") or read_key(fields, "id") or build_id(name, sku),
        sku=sku,
        name=name,
        brand=read_text(fields, "brand") or _join(find_value(fields, "brand"))[:60] or None,
        category=find_category(
            [path, kept, _join(find_value(fields, "category")), _join(find_value(fields, "tags")), name]
        ),
        kind=kind,
        description=read_body(fields, "description"),
        specifications=_read_specifications(unit) or {"type": kind},
        variants=tuple(variants.values()),
    )


def find_measures(raw: dict) -> dict[str, str]:
    """Return specifications that stand in columns of their own: "Weight (kg)" with its unit, and metafields.

    Example:
        >>> find_measures({"Weight (kg)": "1.2", "Material (product.metafields.custom.material)": "oak", "Name": "x"})
        {'weight': '1.2 kg', 'material': 'oak'}

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    found = {}
    for column, value in raw.items():
        value = " ".join(strip_html(value[:MOST_NAME]).split()) if isinstance(value, str) else ""
        measure, meta = MEASURES.fullmatch(column), METAFIELD.fullmatch(column)
        if measure and re.fullmatch(r"\d+([.,]\d+)?", value) and float(value.replace(",", ".")):
            found[measure[1].lower()] = f"{value} {measure[2]}"
        elif meta and value and len(value) <= 80 and not ABOUT_METAFIELDS.search(column):
            found[meta[1].lower()] = value
    return found


def _build_variants(unit: Unit, rejected: Rejected) -> dict[str, Variant]:
    variants = {}
    for part in unit.parts:
        try:
            price = _read_price(part.fields)
            price = _read_price(unit.main.fields) if price is None else price
            if price is None:
                raise RowError("found no price")
            name, sku, stock = _name_variant(part), read_key(part.fields, "sku"), _read_stock(part)
            old = variants.get(name)
            if old and old.sku == sku and not set(stock) & set(old.stock):
                variants[name] = replace(old, stock=old.stock | stock)
                continue
            if old:
                name = f"{name} ({sku})"
            if name in variants or (old and not sku):
                raise RowError(f"variant {name!r:.80} comes twice")
            variants[name] = Variant(name, sku, price, stock)
        except RowError as error:
            rejected.append((part, str(error)))
    return variants


def _read_price(fields: dict) -> float | None:
    """Return what a customer pays now: WooCommerce's sale price where there is one and it has not ended."""
    names = ["price", "saleprice", "regularprice"] if "regularprice" in fields else ["saleprice", "price"]
    ends = read_date(fields, "datesalepriceends")
    if ends and ends < str(date.today()):
        names.remove("saleprice")
    return next((price for name in names if (price := read_money(fields, name)) is not None), None)


def _read_stock(part: Record) -> dict[str, int | None]:
    """Return units by location; blank, untracked and "parent" are unknown, oversold is 0."""
    fields, stock = part.fields, {}
    found = fields.get("inventoryitem")
    item = found if isinstance(found, dict) else {}
    for level in list_nodes(item.get("inventorylevels")):
        found = level.get("location")
        place = found if isinstance(found, dict) else {}
        counts = {
            str(count.get("name")): read_count(count, "quantity") for count in list_nodes(level.get("quantities"))
        }
        stock[read_text(place, "name") or "online"] = counts.get("available", read_count(level, "available"))
    for column in part.raw:
        if column.startswith("Inventory Available: "):
            stock[column.partition(": ")[2]] = read_count({"stock": part.raw[column]}, "stock")
    if not stock:
        units = None if str(find_value(fields, "stock")).casefold() == "parent" else read_count(fields, "stock")
        trackers = ("variantinventorytracker", "inventorytracker", "inventorymanagement")
        if units == 0 and (
            item.get("tracked") is False or any(fields.get(name, "yes") in ("", None) for name in trackers)
        ):
            units = None
        out = str(fields.get("instock")).casefold() in ("0", "false") or fields.get("stockstatus") == "outofstock"
        stock[read_text(fields, "location") or "online"] = 0 if units is None and out else units
    return {place: None if units is None else max(units, 0) for place, units in stock.items()}


def _name_variant(part: Record) -> str:
    """Return the values of a variant's options, "red / XL", or "standard" where it has none."""
    fields = part.fields
    values = [find_value(fields, f"option{n}value") or fields.get(f"option{n}") for n in (1, 2, 3)]
    values += [one.get("value") for one in list_nodes(fields.get("selectedoptions"))]
    if _is_variation(fields):
        values += [" ".join(listed) for listed in _list_attributes(fields).values()]
    if not any(values):
        values = [find_value(fields, name) for name in ("variant", "color", "colour", "size")]
    texts = [read_text({"value": value}, "value") for value in values]
    return " / ".join(text for text in texts if text and text not in ("Default Title", "Title")) or "standard"


def _is_variation(fields: dict) -> bool:
    return (
        fields.get("type") == "variation"
        or bool(fields.get("parent"))
        or fields.get("parentid") not in (None, 0, "", "0")
    )


def _list_attributes(fields: dict) -> dict[str, list[str]]:
    """Return WooCommerce's attributes: columns "Attribute 1 name" and "Attribute 1 value(s)", or JSON objects."""
    found = {}
    for n in range(1, 10):
        if (name := read_text(fields, f"attribute{n}name")) and (text := find_value(fields, f"attribute{n}values")):
            found[name] = [part.strip() for part in str(text).split(",")]
    for one in list_nodes(fields.get("attributes")):
        options = one.get("options", [one.get("option")])
        if name := read_text(one, "name"):
            found[name] = [str(option) for option in options if option] if isinstance(options, list) else []
    return found


def _read_specifications(unit: Unit) -> dict[str, str]:
    """Return options, attributes, metafields, weight and measures, as a customer would read them."""
    fields, part = unit.main.fields, unit.parts[0].fields
    found = {name: ", ".join(listed) for name, listed in _list_attributes(fields).items() if listed}
    names = [read_text(fields, f"option{n}name") for n in (1, 2, 3)]
    names += [read_text(one, "name") for one in list_nodes(fields.get("options"))]
    columns = zip(*(_name_variant(one).split(" / ") for one in unit.parts), strict=False)
    for name, values in zip(filter(None, names), columns, strict=False):
        if name != "Title":
            found[name] = ", ".join(dict.fromkeys(values))
    for one in list_nodes(fields.get("metafields")):
        found[str(one.get("key")).replace("_", " ")] = str(one.get("value"))
    for name in ("material", "capacity", "power"):
        found[name] = read_text(fields, name) or ""
    grams = read_money(part, "variantgrams")
    if grams:
        found["weight"] = f"{grams:g} g"
    elif (weight := read_money(part, "weight")) and (unit_name := read_text(part, "weightunit")):
        found["weight"] = f"{weight:g} {unit_name}"
    found |= find_measures(unit.parts[0].raw) | find_measures(unit.main.raw)
    found = {name.strip().lower(): " ".join(clean_text(text).split()) for name, text in found.items()}
    return {name: text for name, text in found.items() if name and text and len(name) <= 40 and len(text) <= 80}


def _join(value) -> str:
    """Return a category or tags as text, be they a text, an object with a name, or a list of either."""
    if isinstance(value, dict):
        value = value.get("fullname", value.get("name", ""))
    if isinstance(value, list):
        return "; ".join(filter(None, map(_join, value)))
    return clean_text(value)[:1000] if isinstance(value, str) else ""
