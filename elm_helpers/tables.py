"""Any export file as records with line numbers, whatever its encoding, delimiter or form, or a refusal."""

import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

LONGEST_CELL = 100_000  # characters; what lies behind is cut, since no field of a shop needs it
MAGIC = {
    b"PK\x03\x04": "a ZIP archive or Excel workbook; save it as CSV, or unpack it",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save it as CSV",
    b"SQLite format 3": "a database",
}


class StoreFileError(ValueError):
    """A file that can't be imported; the message names file, place, what was found and what is right."""


@dataclass(frozen=True)
class Record:
    """One row or object: its line (its number in a JSON array), cells by their names and by folded names, its file."""

    line: int
    raw: dict
    fields: dict
    file: str = ""


@dataclass(frozen=True)
class Table:
    """What a file holds: records, the (line, reason) of those that can't be read, and remarks for the report."""

    records: tuple[Record, ...]
    rejected: tuple[tuple[int, str], ...]
    remarks: tuple[str, ...]


def fold_name(name: str) -> str:
    """Return a column's or key's name without case, spaces and signs, so that spellings of one name meet.

    Example:
        >>> fold_name("Body (HTML)"), fold_name("body_html"), fold_name("bodyHtml")
        ('bodyhtml', 'bodyhtml', 'bodyhtml')

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    return re.sub(r"[\W_]+", "", name.casefold())


def fold_fields(value):
    """Return a JSON value with the names in it folded, at every depth.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    if isinstance(value, dict):
        return {fold_name(str(key)): fold_fields(item) for key, item in reversed(value.items())}  # the first name wins
    return [fold_fields(item) for item in value] if isinstance(value, list) else value


def clean_text(text: str) -> str:
    """Return a cell without control characters and halves of UTF-16 pairs, which SQLite and terminals choke on.

    Example:
        >>> clean_text(" Blue\\x00 mug\\u200b\\ufeff ")
        'Blue mug'

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    text = text[:LONGEST_CELL].encode("utf-8", "ignore").decode()
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2028\u2029\ufeff]", "", text).strip()


def decode_text(data: bytes) -> tuple[str, str]:
    """Return a file's text and its encoding: UTF-8, UTF-16 with or without a mark, else Windows-1252 or Latin-1.

    Example:
        >>> decode_text("café".encode("utf-16-le"))[0], decode_text("café".encode("cp1252"))
        ('café', ('café', 'cp1252'))

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace"), "utf-16"
    half = len(data) // 2 or 1
    for encoding, high, low in (("utf-16-le", data[1::2], data[::2]), ("utf-16-be", data[::2], data[1::2])):
        if high.count(0) > 0.4 * half and low.count(0) < 0.01 * half:
            return data.decode(encoding, "replace"), encoding
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1"), "latin-1"


def read_table(path: Path) -> Table:
    """Return a file's records, whatever its name says it is.

    Args:
        path: CSV with commas, semicolons, tabs or pipes, JSON, or JSON Lines.

    Returns:
        The table; a record that can't be read is in `rejected`, never lost.

    Raises:
        FileNotFoundError: There is no such file.
        StoreFileError: It is empty, or no text, or an HTML page; the message says what it is.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    data = path.read_bytes()
    kind = next((kind for magic, kind in MAGIC.items() if data.startswith(magic)), None)
    text, encoding = decode_text(data)
    text = text.replace("\0", "").lstrip("\ufeff")
    start = text.lstrip()[:1]
    if kind is None and sum(not letter.isprintable() and letter not in "\t\r\n" for letter in text[:5000]) > 250:
        kind = "no text"
    if kind is None and start == "<":
        kind = "an HTML page or XML, perhaps a sign-in or error page saved under this name; export the file again"
    if kind or not start:
        raise StoreFileError(f"{path}: found {kind or 'an empty file'}, expected CSV, JSON or JSON Lines")
    read = _read_json if start in "[{" else _read_csv
    records, rejected = read(path, text)
    if not records and not rejected:
        raise StoreFileError(f"{path}: found no rows, expected some below the header")
    utf = encoding.startswith("utf")
    return Table(tuple(records), tuple(rejected), () if utf else (f"{path.name}: no UTF-8, read as {encoding}",))


def _read_csv(path: Path, text: str) -> tuple[list, list]:
    limit = csv.field_size_limit(2**31 - 1)
    try:
        return _read_rows(path, text)
    except csv.Error as error:
        raise StoreFileError(f"{path}: found a table that can't be read ({error}), expected CSV") from None
    finally:
        csv.field_size_limit(limit)


def _read_rows(path: Path, text: str) -> tuple[list, list]:
    lines = list(io.StringIO(text, newline=""))
    mark = re.match(r"sep=(.)\s*$", lines[0])  # Excel's way to name the delimiter
    first = next((line for line in lines[bool(mark) :] if line.strip()), "")
    delimiter = mark[1] if mark else max(",;\t|", key=lambda sign: len(next(csv.reader([first], delimiter=sign), [])))
    reader, header, records, rejected, end = csv.reader(lines, delimiter=delimiter), None, [], [], 0
    for row in reader:
        line, end = end + 1, reader.line_num
        if not any(cell.strip() for cell in row) or (mark and line == 1):
            continue
        if header is None:
            header = _name_columns(row)
        elif (end > line or end == len(lines)) and _is_torn(lines[line - 1 : end], delimiter):
            told = f"a quote opens here and doesn't close where a cell ends, so lines {line}-{end} can't be read"
            rejected.append((line, told))
        elif any(cell.strip() for cell in row[len(header) :]):
            rejected.append((line, f"found {len(row)} cells, the header names {len(header)}"))
        else:
            cells = [clean_text(cell) for cell in row[: len(header)]]
            raw = dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=True))
            records.append(Record(line, raw, fold_fields(raw)))
    return records, rejected


def _name_columns(row: list[str]) -> list[str]:
    """Return unique names: the second "Name" becomes "Name (2)", a blank one "column 3"."""
    names = []
    for number, cell in enumerate(row, 1):
        name = cell = clean_text(cell)[:200] or f"column {number}"
        while name in names:
            name = f"{cell} ({int(name.removeprefix(cell).strip(' ()') or 1) + 1})"
        names.append(name)
    return names


def _is_torn(lines: list[str], delimiter: str) -> bool:
    """Tell whether a quote joined lines that are not one record; within one line that is harmless: 27" Screen."""
    try:
        list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        return len(lines) > 1 or "unexpected end" in str(error)
    return False


def _read_json(path: Path, text: str) -> tuple[list, list]:
    try:
        items, rejected = _list_objects(json.loads(text, parse_constant=lambda _: None)), []
    except (ValueError, RecursionError) as error:
        items, rejected = _read_json_lines(text)
        if not items:
            raise StoreFileError(f"{path}: found broken JSON ({error}), expected JSON or JSON Lines") from None
    records = []
    for line, item in items:
        item = item["node"] if isinstance(item, dict) and set(item) == {"node"} else item
        try:
            if not isinstance(item, dict) or not item:
                raise ValueError(f"found {json.dumps(item):.40}, expected an object with names and values")
            records.append(Record(line, item, fold_fields(item)))
        except (ValueError, RecursionError) as error:
            rejected.append((line, str(error)))
    return records, rejected


def _list_objects(document) -> list[tuple[int, object]]:
    """Return the objects of a document: its array, the arrays under its names ("products": […]), or itself."""
    while isinstance(document, dict) and len(document) == 1 and isinstance(next(iter(document.values())), dict):
        document = next(iter(document.values()))  # {"data": {"products": {"nodes": […]}}}, {"product": {…}}
    if isinstance(document, dict):
        entries = document.items()
        named = [value for key, value in entries if isinstance(value, list) and fold_name(key) in LISTS]
        known = "id" in document or "name" in document or "title" in document
        document = [document] if known or not named else [item for value in named for item in value]
    return list(enumerate(document, 1)) if isinstance(document, list) else [(1, document)]


LISTS = {"products", "orders", "customers", "reviews", "variations", "coupons", "nodes", "edges", "data", "items"}
LISTS |= {"results", "conversations", "chats", "tickets"}


def _read_json_lines(text: str) -> tuple[list, list]:
    items, rejected = [], []
    for line, row in enumerate(re.split("\r\n|\r|\n", text), 1):
        if row.strip():
            try:
                items.append((line, json.loads(row, parse_constant=lambda _: None)))
            except (ValueError, RecursionError) as error:
                rejected.append((line, f"not JSON ({error})"))
    return items, rejected
