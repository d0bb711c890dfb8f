"""Fetches a live shop page by page into a folder that the importer reads; a fetch that was cut off goes on there."""

import json
import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from elm_helpers.fields import read_names
from elm_helpers.paths import ROOT
from elm_helpers.redact import build_redactor, redact_text
from elm_helpers.tables import StoreFileError

import httpx

RAW = ROOT / "data" / "raw"
TRIES, LONGEST_WAIT = 6, 60.0  # of one request; seconds between two of them at most
VERSION = "2026-07"  # of Shopify's Admin API
PAGE = "pageInfo { hasNextPage endCursor }"
WOOCOMMERCE = ("customers", "products", "orders", "coupons", "reviews")
Ask = Callable[..., tuple]  # method, path and httpx's options -> JSON and headers


def fetch_shop(address: str, folder: Path = RAW, sleep: Callable[[float], None] = time.sleep) -> Path:
    """Fetch products, customers, orders, and from WooCommerce coupons and reviews, and return the folder of the pages.

    Args:
        address: shopify://SHOP or woocommerce://HOST. https, except for a server on this machine.
        folder: Gets a folder for the shop; pages that are in it from a fetch that was cut off aren't fetched again.
        sleep: Waits for seconds, when the shop asks for it or fails.

    Raises:
        StoreFileError: The token is not in the environment, or the shop refuses it.
        ConnectionError: The shop can't be reached, or answers nonsense, six times in a row.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    system, _, place = address.partition("://")
    host = urlsplit(f"//{place}").hostname or ""
    if system not in ("shopify", "woocommerce") or not host or "@" in place:
        raise StoreFileError(f"{system}://{host}: expected shopify://SHOP or woocommerce://HOST")
    local = host in ("127.0.0.1", "localhost", "::1")
    place = place.rstrip("/") if local or "." in host or system == "woocommerce" else f"{host}.myshopify.com"
    names = ("SHOPIFY_TOKEN",) if system == "shopify" else ("WOOCOMMERCE_KEY", "WOOCOMMERCE_SECRET")
    secrets = [os.environ.get(name, "") for name in names]
    if not all(secrets):
        raise StoreFileError(f"{address}: found no token, expected it in the environment as {' and '.join(names)}")
    signed = {"headers": {"X-Shopify-Access-Token": secrets[0]}} if system == "shopify" else {"auth": tuple(secrets)}
    spool = folder / re.sub(r"[^\w.-]+", "_", place)
    spool.mkdir(parents=True, exist_ok=True)
    with httpx.Client(base_url=f"{'http' if local else 'https'}://{place}", timeout=30, **signed) as client:

        def ask(method: str, path: str, **options) -> tuple:
            return _ask(client, names, sleep, method, path, options)

        (_fetch_shopify if system == "shopify" else _fetch_woocommerce)(ask, spool, sleep)
    return spool


def _ask(client: httpx.Client, names: tuple, sleep: Callable, method: str, path: str, options: dict) -> tuple:
    """Return a response's JSON and headers, after as many tries as it takes; nothing that is raised holds a secret."""
    said = ""
    for attempt in range(TRIES):
        wait = 2.0**attempt
        try:
            response = client.request(method, path, **options)
            said = f"status {response.status_code}"
            if response.status_code in (401, 403):
                raise StoreFileError(f"{client.base_url.host}: refused the token ({said}); check {' and '.join(names)}")
            if response.status_code < 400:
                return response.json(), response.headers
            if response.status_code != 429 and response.status_code < 500:
                raise StoreFileError(f"{client.base_url.host}: {path} answered {said}, expected 200")
            wait = _read_wait(response.headers.get("Retry-After", ""), wait)
        except (httpx.TransportError, json.JSONDecodeError, UnicodeDecodeError) as error:
            said = type(error).__name__
        if attempt < TRIES - 1:
            sleep(min(wait, LONGEST_WAIT))
    raise ConnectionError(
        f"{client.base_url.host}: {path} failed {TRIES} times, last with {said}; run it again to go on"
    )


def _read_wait(text: str, default: float) -> float:
    return float(text) if re.fullmatch(r"\d{1,5}(\.\d+)?", text) else default


def _spool(spool: Path, name: str, start, read_page: Callable) -> list[dict]:
    """Read the pages that are missing, each written beside and then renamed, and return what is on all of them."""
    pages = sorted(spool.glob(f"{name}-*.json"))
    known = [json.loads(page.read_text(encoding="utf-8")) for page in pages]
    place = known[-1]["next"] if known else start
    while place is not None:
        items, place = read_page(place)
        known.append({"items": items, "next": place})
        path = spool / f"{name}-{len(known):05}.json"
        part = path.with_suffix(".part")
        if items or place is not None:
            part.write_text(json.dumps(known[-1]), encoding="utf-8")
            os.replace(part, path)
    return [item for page in known for item in page["items"]]


def _fetch_shopify(ask: Ask, spool: Path, sleep: Callable[[float], None]) -> None:
    for name, asked in read_names()["shopify"].items():
        inner = asked.get("inner", "")
        part = f"{inner}(first: 50, after: $inner) {{ nodes {{ {asked['inside']} }} {PAGE} }}" if inner else ""
        query = f"query($after: String{', $inner: String' if inner else ''}) {{ {name}(first: 15, after: $after)"
        query += f" {{ nodes {{ {asked['fields']} {part} }} {PAGE} }} }}"
        more = f"query($id: ID!, $inner: String) {{ node(id: $id) {{ ... on {asked['type']} {{ {part} }} }} }}"

        def read_page(after, name=name, inner=inner, query=query, more=more) -> tuple:
            found = _query(ask, sleep, query, {"after": after or None})[name]
            for node in found["nodes"] if inner else ():
                while node[inner]["pageInfo"]["hasNextPage"]:
                    values = {"id": node["id"], "inner": node[inner]["pageInfo"]["endCursor"]}
                    rest = _query(ask, sleep, more, values)["node"][inner]
                    node[inner] = {"nodes": node[inner]["nodes"] + rest["nodes"], "pageInfo": rest["pageInfo"]}
            return found["nodes"], found["pageInfo"]["endCursor"] if found["pageInfo"]["hasNextPage"] else None

        _spool(spool, name, "", read_page)


def _query(ask: Ask, sleep: Callable[[float], None], query: str, variables: dict) -> dict:
    """Return a query's data; where Shopify's bucket of query cost is empty, wait until it has filled up again."""
    for _ in range(TRIES):
        answer, _ = ask("POST", f"/admin/api/{VERSION}/graphql.json", json={"query": query, "variables": variables})
        cost = answer.get("extensions", {}).get("cost", {})
        status, errors = cost.get("throttleStatus", {}), answer.get("errors") or []
        missing = cost.get("requestedQueryCost", 0) - status.get("currentlyAvailable", 0)
        if missing > 0:
            sleep(min(missing / status.get("restoreRate", 50.0), LONGEST_WAIT))
        if not errors and answer.get("data"):
            return answer["data"]
        if not any(error.get("extensions", {}).get("code") == "THROTTLED" for error in errors):
            raise StoreFileError(f"Shopify: found {json.dumps(errors):.300}, expected data; may the token read it?")
    raise ConnectionError(f"Shopify: too many requests, {TRIES} times in a row; run it again to go on")


def _fetch_woocommerce(ask: Ask, spool: Path, sleep: Callable[[float], None]) -> None:
    people: list[str] = []
    for name in WOOCOMMERCE:
        path = "products/reviews" if name == "reviews" else name
        items = _spool(spool, name, 1, partial(_read_woo, ask, path, people))
        if name == "customers":
            people += [f"{one.get('first_name', '')} {one.get('last_name', '')}".strip() for one in items]
        for item in items if name == "products" else ():
            if item.get("type") == "variable":
                path = f"products/{item['id']}/variations"
                _spool(spool, f"variations-{item['id']}", 1, partial(_read_woo, ask, path, people))


def _read_woo(ask: Ask, path: str, people: list[str], page: int) -> tuple[list[dict], int | None]:
    """Return a page and the number of the next; reviews are redacted before they lie in a file."""
    items, headers = ask("GET", f"/wp-json/wc/v3/{path}", params={"per_page": 100, "page": page})
    if "/variations" in path:
        items = [item | {"parent_id": int(path.split("/")[1]), "type": "variation"} for item in items]
    if path == "products/reviews":
        redactor = build_redactor([*people, *(str(item.get("reviewer", "")) for item in items)])
        kept = ("id", "product_id", "status", "rating")
        items = [
            {name: item.get(name) for name in kept}
            | {"reviewer": "", "review": redact_text(redactor, str(item.get("review", "")))}
            for item in items
        ]
    pages = headers.get("X-WP-TotalPages", "")
    last = page >= int(pages) if pages.isdigit() else len(items) < 100
    return items, None if last else page + 1
