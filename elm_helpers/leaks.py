"""What must not leave this machine: secrets and personal data, looked for in every file that a push would send."""

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from elm_helpers.redact import Redactor, redact_text
from elm_helpers.store import open_store

SECRETS = {  # what it is -> (how it starts, the whole)
    "a Hugging Face token": (b"hf_", rb"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{20,}"),
    "an API key (sk-…)": (b"sk-", rb"(?<![A-Za-z0-9_-])sk-(?=[A-Za-z_-]{0,99}[0-9])[A-Za-z0-9_-]{20,}"),
    "an AWS key": (b"AKIA", rb"(?<![A-Za-z0-9])AKIA[0-9A-Z]{16}(?![0-9A-Za-z])"),
    "a GitHub token": (b"gh", rb"(?<![A-Za-z0-9])gh[pousr]_[A-Za-z0-9]{36}"),
    "a Shopify token": (b"shp", rb"(?<![A-Za-z0-9])shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    "a WooCommerce key": (b"ck_", rb"(?<![A-Za-z0-9])ck_[0-9a-f]{40}"),
    "a WooCommerce secret": (b"cs_", rb"(?<![A-Za-z0-9])cs_[0-9a-f]{40}"),
    "a private key": (b"-----BEGIN ", rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----"),
}
TEXTS = (".json", ".csv", ".md", ".txt", ".jinja", ".py", ".model")
LONGEST = 256  # bytes of a secret that can lie over the edge of two reads
RUN = 16  # characters of readable text in a row that are looked at in weights, pictures and vocabularies
READABLE = bytes(97 if 32 <= byte < 127 else 0 for byte in range(256))  # "a" for what can be read
RESERVED = re.compile(r"@(?:[\w-]+\.)*(?:example(?:\.(?:com|net|org))?|test|invalid)\b", re.I)  # RFC 2606: nobody's
KINDS = {"EMAIL": "an e-mail address", "IBAN": "an IBAN", "CARD": "a card number", "PHONE": "a phone number"}
PLACEHOLDER = re.compile(r"\[[A-Z]+_\d+\]")
FOUND = re.compile(rf"(?<![\w-])\[({'|'.join(KINDS)})_\d+\](?!-?\d)")  # digits behind it: an order number
MAYBE = re.compile(r"@|\bat\b|(?:\d\D{0,4}){7}|[^\x00-\x7f]", re.I)  # without any of these there is none


def find_secret(data: bytes) -> str | None:
    """Return what kind of secret some bytes hold; the first characters are sought first, which is fast on weights.

    Example:
        >>> find_secret(b"token: hf_" + b"A" * 34), find_secret(b"from huggingface_hub import hf_hub_download")
        ('a Hugging Face token', None)

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    for kind, (start, whole) in SECRETS.items():
        pattern, at = re.compile(whole), data.find(start)
        while at >= 0:
            if pattern.match(data, at):
                return kind
            at = data.find(start, at + 1)
    return None


def find_personal(redactor: Redactor, text: str) -> str | None:
    """Return what kind of personal data a text holds: e-mail, IBAN, card, phone, or the name of a known customer.

    Placeholders of an earlier redaction and addresses of nobody (``…@shop.example``) are none. Postal addresses are
    not looked for: a "pedal bin 30 l soft close" reads like one.

    Example:
        >>> from elm_helpers.redact import build_redactor
        >>> redactor = build_redactor(["Jane Miller"])
        >>> [find_personal(redactor, text) for text in ("I am jane miller", "ann@mail.com", "[EMAIL_1]", "a@x.example")]
        ["a customer's name", 'an e-mail address', None, None]

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    if not (redactor.people or MAYBE.search(text)):
        return None
    redactor = replace(redactor, seen={})
    clean = redact_text(redactor, PLACEHOLDER.sub(" ", RESERVED.sub(" ", text)))
    if found := FOUND.search(clean):
        return KINDS[found[1]]
    return "a customer's name" if redactor.seen["PERSON"].keys() & set(redactor.people.values()) else None


def read_customers(path: Path) -> list[str]:
    """Return the names of a shop's real customers; the course's own have addresses at example.com.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    if not path.is_file():
        return []
    found = open_store(path).execute("SELECT name, email FROM customers").fetchall()
    return [row["name"] for row in found if row["name"] and not RESERVED.search(row["email"] or "")]


def scan_file(path: Path, redactor: Redactor) -> tuple[int, str]:
    """Return a file's bytes and SHA-256, or refuse it.

    Every byte of every file is searched for secrets. Personal data is looked for in texts, and in weights and pictures
    wherever 16 readable characters stand in a row: a format's own notes, or what somebody put behind the numbers.

    Raises:
        ValueError: Names the file, the line where it has lines, and the kind of thing found, never the thing itself.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    digest, tail, size, seen, texts = hashlib.sha256(), b"", 0, set(), path.suffix in TEXTS
    with open(path, "rb") as file:
        while chunk := file.read(1 << 24):
            digest.update(chunk)
            size += len(chunk)
            _refuse(path, find_secret(tail + chunk))
            for run in () if texts else _find_runs(tail + chunk):
                _refuse(path, find_personal(redactor, run))
            tail = chunk[-LONGEST:]
    for place, text in _read_texts(path) if texts else ():
        if text not in seen:
            seen.add(text)
            _refuse(f"{path}{place}", find_secret(text.encode(errors="replace")) or find_personal(redactor, text))
    return size, digest.hexdigest()


def _refuse(place: Path | str, kind: str | None) -> None:
    if kind:
        todo = "take it out" if kind in (*KINDS.values(), "a customer's name") else "take it out and revoke it"
        raise ValueError(f"{place} holds what looks like {kind}; {todo} before you push")


def _find_runs(data: bytes) -> Iterator[str]:
    """Yield readable text of at least `RUN` characters; two passes in C, so that a gigabyte takes seconds."""
    marks, start = data.translate(READABLE), 0
    while (start := marks.find(b"a" * RUN, start)) >= 0:
        end = marks.find(b"\0", start)
        end = len(data) if end < 0 else end
        yield data[start:end].decode("ascii")
        start = end


def _read_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, text) of a text file: what JSON and CSV hold as text, not their numbers; else line by line."""
    try:
        if path.suffix == ".json":
            least = RUN if path.name == "tokenizer.json" else 1  # a vocabulary is no text
            yield from ((place, text) for place, text in _read_json_texts(path) if len(text) >= least)
            return
        with open(path, newline="", encoding="utf-8") as file:
            for number, line in enumerate(csv.reader(file) if path.suffix == ".csv" else ([line] for line in file), 1):
                yield from ((f", line {number}", text) for text in line if not _is_number(text))
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no UTF-8 text, so nothing can be looked for in it") from None


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"\s*-?\d*\.?\d*(?:e[+-]?\d+)?\s*", text, re.I))


def _read_json_texts(path: Path) -> Iterator[tuple[str, str]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                found = json.loads(line)
            except ValueError:
                break  # not one object a line
            yield from ((f", line {number}", text) for text in _list_texts(found))
        else:
            return
    try:
        yield from (("", text) for text in _list_texts(json.loads(path.read_text(encoding="utf-8"))))
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None


def _list_texts(value) -> Iterable[str]:
    if isinstance(value, str):
        return [value]
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in _list_texts(part)]
