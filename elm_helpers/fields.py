"""Fields of exports, by whatever name a shop system gives them, and their values in plain form."""

import html
import math
import re
from datetime import date
from functools import cache

from elm_helpers.paths import TEMPLATES
from elm_helpers.tables import clean_text

import yaml
from bs4 import BeautifulSoup
from bs4.exceptions import ParserRejectedMarkup

MOST_NAME = 200  # characters of a name; a longer cell is refused, never stored as one
MOST_TEXT = 4000  # characters of a description or review, more is cut: a small model could not read it either


class RowError(ValueError):
    """Why a row isn't imported."""


@cache
def read_names() -> dict:
    """Return data/templates/imports.yaml: what other systems call fields, formats and statuses.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    names = yaml.safe_load((TEMPLATES / "imports.yaml").read_text(encoding="utf-8"))
    names["aliases"] = {name: [f"={name}", *listed.split()] for name, listed in names["aliases"].items()}
    return names


def find_value(fields: dict, name: str):
    """Return what a record holds under any alias of a field, or None where all are missing or blank.

    Example:
        >>> find_value({"variantprice": "", "price": "4.50"}, "price")
        '4.50'

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    values = (fields.get(alias) for alias in read_names()["aliases"].get(name, [name]))
    return next((value for value in values if value is not None and value != "" and value != []), None)


def read_text(fields: dict, name: str, most: int = MOST_NAME) -> str | None:
    """Return a field as one line of plain text; an object or list counts as missing.

    Raises:
        RowError: It is longer than `most` characters.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    value = find_value(fields, name)
    if isinstance(value, (dict, list, bool)) or value is None:
        return None
    text = " ".join(clean_text(str(value) if isinstance(value, (str, int)) else f"{value:.15g}").split())
    if len(text) > most:
        raise RowError(f"{name}: found {len(text):,} characters, at most {most} are right")
    return text or None


def read_body(fields: dict, name: str) -> str | None:
    """Return a field as plain text without HTML, cut to what a description may have.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    value = find_value(fields, name)
    return strip_html(value)[:MOST_TEXT] or None if isinstance(value, str) else None


def read_key(fields: dict, name: str) -> str | None:
    """Return an id, SKU or handle as text; zeros, # and letters stay, the apostrophe of a spreadsheet and gid:// go.

    Example:
        >>> [read_key({"id": value}, "id") for value in ("'0012", "gid://shopify/Product/7", 7, "#1001")]
        ['0012', '7', '7', '#1001']

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    value = find_value(fields, name)
    text = read_text({name: str(value)} if isinstance(value, int) else fields, name)
    return re.sub(r"^gid://shopify/\w+/(\d+).*", r"\1", text.removeprefix("'")) or None if text else None


def read_money(fields: dict, name: str) -> float | None:
    """Return a price as a number: "$1,299.00", "1.299,00 €", 12.5, {"amount": "12.50"}; None where there is none.

    Raises:
        RowError: It is no price, or negative.

    Example:
        >>> [read_money({"price": text}, "price") for text in ("$1,299.00", "1.299,00 €", "4,50", "1,299", "")]
        [1299.0, 1299.0, 4.5, 1299.0, None]

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    value = find_value(fields, name)
    while isinstance(value, dict):
        value = value.get("amount", value.get("shopmoney", value.get("presentmentmoney")))
    text = "" if value is None else clean_text(str(value)).replace("\xa0", "").replace(" ", "").replace("'", "")
    found = re.fullmatch(r"[^\W\d_]{0,4}\.?[$€£¥₹]?(-?\d[\d.,]*)[^\W\d_]{0,4}[$€£¥₹]?", text)
    if not text:
        return None
    number = found[1] if found else ""
    if number.rfind(",") > number.rfind("."):
        thousands = "." if "." in number or not re.fullmatch(r"-?\d{1,3}(,\d{3})+", number) else ","
        number = number.replace(thousands, "").replace(",", ".")
    try:
        amount = round(float(number.replace(",", "")), 2)
    except ValueError:
        amount = math.nan
    if not 0 <= amount < 1e9:
        raise RowError(f"{name}: found {clean_text(str(value))!r:.40}, expected a price of 0 or more")
    return amount


def read_count(fields: dict, name: str) -> int | None:
    """Return a number of pieces, None where it is blank.

    Raises:
        RowError: It is no whole number.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    text = read_text(fields, name)
    if text is not None and not re.fullmatch(r"[+-]?\d{1,9}([.,]0+)?", text):
        raise RowError(f"{name}: found {text!r:.40}, expected a whole number")
    return None if text is None else int(re.split("[.,]", text)[0])


def read_date(fields: dict, name: str) -> str | None:
    """Return the day of a date as ISO text; 03/04/2026 is the 4th of March, 03.04.2026 the 3rd of April.

    Raises:
        RowError: It is no date.

    Example:
        >>> [read_date({"date": text}, "date") for text in ("2026-03-04 10:12:33 -0500", "3/4/2026", "04.03.2026")]
        ['2026-03-04', '2026-03-04', '2026-03-04']

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    text = read_text(fields, name)
    if text is None:
        return None
    iso = re.match(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)", text)
    other = re.match(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})(?!\d)", text)
    year, month, day = iso.groups() if iso else (other[4], other[1], other[3]) if other else ("0", "0", "0")
    if other and (other[2] == "." or int(month) > 12):
        month, day = day, month
    try:
        return date(int(year), int(month), int(day)).isoformat()
    except ValueError:
        raise RowError(f"{name}: found {text!r:.40}, expected a date such as 2026-03-04") from None


def strip_html(text: str) -> str:
    """Return a body's words: tags go, script and style with what is in them, and blocks end in a space.

    Example:
        >>> strip_html("<p>Oak &amp; steel.</p><script>alert(1)</script><ul><li>40 cm</li></ul>")
        'Oak & steel. 40 cm'

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    if "<" in text:
        text = re.sub(r"<\?.*?\?>", "", re.sub(r"(?i)<(?=br|/p|/li|/div|/h\d|/t[dr])", " <", text))
        try:
            soup = BeautifulSoup(text, "html.parser")
            for tag in soup(["script", "style", "template", "noscript", "iframe"]):
                tag.decompose()
            text = soup.get_text()
        except (ParserRejectedMarkup, AssertionError):  # such as "<![x": no HTML at all
            text = re.sub("<[^>]*>?", " ", text)
    return " ".join(clean_text(html.unescape(text)).split())
