"""Imported orders, customers, reviews and promotions, built from the records of any export and checked."""

import re
from dataclasses import dataclass

from elm_helpers.fields import (
    RowError,
    find_value,
    read_body,
    read_count,
    read_date,
    read_key,
    read_money,
    read_names,
    read_text,
)
from elm_helpers.layouts import Rejected, Unit, list_nodes
from elm_helpers.tables import Record, fold_name


@dataclass(frozen=True)
class Customer:
    """Somebody with an id, an e-mail or both."""

    id: str | None
    name: str | None
    email: str | None


@dataclass(frozen=True)
class Line:
    """One line of an order: what was bought by all the names it has, and the price of one piece."""

    record: Record
    product_id: str | None
    sku: str | None
    name: str | None
    variant: str | None
    quantity: int
    price: float | None


@dataclass(frozen=True)
class Order:
    """An order; dates are ISO texts, the status is one of the store's five."""

    id: str
    customer: Customer
    status: str
    placed_on: str
    delivered_on: str | None
    total: float | None
    tracking: str | None
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Review:
    """Stars and words about the product that `product` names, by id, SKU, handle or name."""

    product: tuple[str, ...]
    stars: int
    text: str | None
    author: str | None


@dataclass(frozen=True)
class Promotion:
    """A code that gives percent or amount off, or free shipping."""

    code: str
    kind: str
    value: float
    minimum_order: float | None
    ends: str | None


def build_order(unit: Unit, rejected: Rejected) -> Order:
    """Return an order with its lines; a line that can't be read is added to `rejected`.

    Raises:
        RowError: Status, date or total can't be read, or no line is left.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    fields, lines = unit.main.fields, []
    placed = read_date(fields, "date")
    if placed is None:
        raise RowError("found no date")
    shipments = list_nodes(fields.get("fulfillments"))
    arrived = [
        one for one in shipments if str(one.get("shipmentstatus", one.get("displaystatus"))).casefold() == "delivered"
    ]
    status = "delivered" if arrived else _read_status(fields)
    delivered = read_date(fields, "delivered") or (read_date(arrived[0], "updatedat") if arrived else None)
    for part in unit.parts:
        named = any(find_value(part.fields, name) for name in ("item", "sku", "productid"))
        try:
            if named or len(unit.rows) == 1:
                lines.append(_build_line(part))
        except RowError as error:
            rejected.append((part, str(error)))
    if not lines:
        raise RowError("found no line that can be read")
    return Order(
        id=read_key(fields, "orderid"),
        customer=_read_buyer(fields),
        status=status,
        placed_on=placed,
        delivered_on=(delivered or (placed if status == "delivered" else None)),
        total=read_money(fields, "total"),
        tracking=read_key(fields, "tracking")
        or next((t for one in shipments if (t := read_key(one, "tracking"))), None),
        lines=tuple(lines),
    )


def build_customer(unit: Unit, rejected: Rejected) -> Customer:
    """Return a customer.

    Raises:
        RowError: There is neither an id nor an e-mail.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    fields = unit.main.fields
    customer = _read_person(fields, read_key(fields, "customerid") or read_key(fields, "id"))
    if customer.id is None and customer.email is None:
        raise RowError("found neither a customer id nor an e-mail")
    return customer


def build_review(unit: Unit, rejected: Rejected) -> Review:
    """Return a review.

    Raises:
        RowError: It has no whole stars from 1 to 5, names no product, or was not published.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    fields = unit.main.fields
    status = " ".join(read_text(fields, name) or "" for name in ("status", "curated")).casefold().strip()
    if status in ("spam", "trash", "hold", "unapproved", "pending", "not-yet"):
        raise RowError(f"not published: status is {status!r}")
    stars = re.fullmatch(r"([1-5])(?:[.,]0+)?(?: ?/ ?5| ?stars?)?", read_text(fields, "stars") or "", re.I)
    if not stars:
        raise RowError(f"stars: found {read_text(fields, 'stars')!r:.40}, expected 1 to 5")
    names = [read_key(fields, name) for name in ("handle", "productid", "sku")]
    names += [read_text(fields, name) for name in ("product", "productname", "producttitle")]
    if not any(names):
        raise RowError("found no product")
    title = read_text(fields, "title") if "body" in fields or "review" in fields else None
    words = read_body(fields, "review")
    text = f"{title}. {words}" if title and words and title[-1] not in ".!?" else " ".join(filter(None, (title, words)))
    author = read_text(fields, "customer") or read_text(fields, "reviewer") or read_text(fields, "nickname")
    return Review(tuple(filter(None, names)), int(stars[1]), text or None, author)


def build_promotion(unit: Unit, rejected: Rejected) -> Promotion:
    """Return a promotion from a coupon.

    Raises:
        RowError: It has no code, or no worth that the store can hold.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    fields = unit.main.fields
    code, value = read_key(fields, "code"), read_money(fields, "amount") or 0.0
    kind = "percent" if "percent" in (read_text(fields, "discount") or "") else "amount"
    if not value and str(fields.get("freeshipping")).casefold() in ("true", "1", "yes"):
        kind = "free_shipping"
    elif not code or not value or (kind == "percent" and value > 100):
        raise RowError(f"found code {code!r} with an amount of {value:g}, expected a code and what it is worth")
    ends = read_date(fields, "dateexpires") or read_date(fields, "ends")
    return Promotion(code, kind, value, read_money(fields, "minimumamount") or None, ends)


def _build_line(part: Record) -> Line:
    fields, count = part.fields, read_count(part.fields, "quantity")
    if count is not None and count <= 0:
        raise RowError(f"quantity: found {count}, expected 1 or more")
    product_id, sku = (read_key(fields, name) for name in ("productid", "sku"))
    name, variant = read_text(fields, "item"), read_text(fields, "variant")
    return Line(part, product_id, sku, name, variant, count or 1, read_money(fields, "price"))


def _read_buyer(fields: dict) -> Customer:
    """Return who bought: the fields of the order, and of its billing address and customer where those are objects."""
    person = {}
    for name in ("billing", "billingaddress", "customer"):
        person |= {k: v for k, v in (fields[name] if isinstance(fields.get(name), dict) else {}).items() if v}
    key = read_key(person, "id") or read_key(fields, "customerid")
    flat = {name: value for name, value in fields.items() if name not in ("name", "id")}
    return _read_person(flat | person, None if key == "0" else key)


def _read_person(fields: dict, key: str | None) -> Customer:
    first, last = read_text(fields, "firstname"), read_text(fields, "lastname")
    name = " ".join(filter(None, (first, last))) or read_text(fields, "customer")
    name = name or read_text({"name": fields.get("name")}, "name")
    email = read_text(fields, "email") or ""
    return Customer(key, name, email if re.fullmatch(r"[^@\s]+@[^@\s]+", email) else None)


def _read_status(fields: dict) -> str:
    """Return the store's status: what was cancelled or paid back first, then how far the delivery is.

    Shopify's "fulfilled" means handed to the carrier, so it is shipped; "completed" elsewhere is delivered.
    """
    if find_value(fields, "cancelledat"):
        return "cancelled"
    words = [read_text(fields, name) or "" for name in ("financial", "status")]
    known = {word: status for status, listed in read_names()["statuses"].items() for word in listed.split()}
    found = [known.get(fold_name(word).removeprefix("wc") or "processing") for word in words]
    for status in ("cancelled", "returned"):
        if status in found:
            return status
    if found[1] is None:
        raise RowError(f"status: found {words[1]!r:.40}, expected one of {', '.join(read_names()['statuses'])}")
    return found[1]
