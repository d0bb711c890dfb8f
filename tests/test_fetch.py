"""Live fetches from a loopback server that speaks Shopify's and WooCommerce's pages, limits and errors."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from elm_helpers import cli, fetch
from elm_helpers.fetch import fetch_shop
from elm_helpers.importers import import_path
from elm_helpers.store import open_store
from elm_helpers.tables import StoreFileError

import pytest

TOKEN = "shpat_0123456789abcdef"
KEY, SECRET = "ck_key", "cs_secret"


class Server:
    """A loopback shop: `trouble` is a list of responses that come before the right one; `seen` all that was asked."""

    def __init__(self, answer):
        self.trouble, self.seen, self.answer = [], [], answer
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.seen.append((self.path, dict(self.headers), json.loads(body) if body else None))
                headers, trouble = {}, outer.trouble.pop(0) if outer.trouble else None
                if trouble == "closed":
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(b'{"half": ')
                    self.connection.close()
                    return
                if isinstance(trouble, tuple):
                    status, headers, data = trouble
                else:
                    status, headers, data = outer.answer(*outer.seen[-1])
                data = data if isinstance(data, bytes) else json.dumps(data).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = handle_any  # noqa: N815

            def log_message(self, *words):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_port
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


def answer_graphql(path, headers, body):
    """Two pages of products, one with variants on a second page; one order; a customer; the token in its header."""
    if headers.get("X-Shopify-Access-Token") != TOKEN or not path.startswith("/admin/api/"):
        return 401, {}, {"errors": "[API] Invalid API key or access token"}
    query, values = body["query"], body["variables"]
    ends, cost = {"hasNextPage": False, "endCursor": None}, {"requestedQueryCost": 10, "actualQueryCost": 5}
    throttle = {"throttleStatus": {"maximumAvailable": 2000.0, "currentlyAvailable": 1990, "restoreRate": 100.0}}

    def product(number, more):
        variants = [
            {"id": f"gid://shopify/ProductVariant/{number}1", "title": "red", "sku": f"S{number}-R", "price": "5.00"}
        ]
        variants[0] |= {"inventoryQuantity": 3, "inventoryItem": {"tracked": True}}
        variants[0] |= {"selectedOptions": [{"name": "Color", "value": "red"}]}
        page = {"hasNextPage": more, "endCursor": "v1" if more else None}
        fields = {"id": f"gid://shopify/Product/{number}", "title": f"Mug {number}", "handle": f"mug-{number}"}
        fields |= {"vendor": "M", "productType": "Mugs", "status": "ACTIVE", "descriptionHtml": "<p>Round.</p>"}
        return fields | {"options": [{"name": "Color"}], "variants": {"nodes": variants, "pageInfo": page}}

    if "node(id:" in query:
        assert values == {"id": "gid://shopify/Product/2", "inner": "v1"}
        blue = {"id": "gid://shopify/ProductVariant/22", "title": "blue", "sku": "S2-B", "price": "6.00"}
        blue |= {"selectedOptions": [{"name": "Color", "value": "blue"}], "inventoryItem": {"tracked": False}}
        data = {"node": {"variants": {"nodes": [blue | {"inventoryQuantity": 0}], "pageInfo": ends}}}
    elif "products(" in query and values["after"] is None:
        data = {"products": {"nodes": [product(1, False)], "pageInfo": {"hasNextPage": True, "endCursor": "p1"}}}
    elif "products(" in query:
        assert values["after"] == "p1"
        data = {"products": {"nodes": [product(2, True)], "pageInfo": ends}}
    elif "customers(" in query:
        person = {"id": "gid://shopify/Customer/7", "firstName": "Ada", "lastName": "B", "email": "ada@example.com"}
        data = {"customers": {"nodes": [person], "pageInfo": ends}}
    else:
        line = {
            "title": "Mug 2",
            "sku": "S2-B",
            "quantity": 2,
            "discountedUnitPriceSet": {"shopMoney": {"amount": "6.0"}},
        }
        order = {"id": "gid://shopify/Order/9", "name": "#1009", "email": "ada@example.com", "cancelledAt": None}
        order |= {"createdAt": "2026-10-01T10:00:00Z", "displayFinancialStatus": "PAID"}
        order |= {"displayFulfillmentStatus": "FULFILLED", "totalPriceSet": {"shopMoney": {"amount": "12.0"}}}
        order |= {"customer": {"id": "gid://shopify/Customer/7", "email": "ada@example.com"}}
        order |= {"fulfillments": [{"displayStatus": "DELIVERED", "updatedAt": "2026-10-04T10:00:00Z"}]}
        data = {"orders": {"nodes": [order | {"lineItems": {"nodes": [line], "pageInfo": ends}}], "pageInfo": ends}}
    return 200, {}, {"data": data, "extensions": {"cost": cost | throttle}}


def answer_rest(path, headers, body):
    """Two pages of products, variations of one, an order, a customer, a review and a coupon; basic auth."""
    sent = base64.b64encode(f"{KEY}:{SECRET}".encode()).decode()
    if headers.get("Authorization") != f"Basic {sent}":
        return 401, {}, {"code": "woocommerce_rest_cannot_view"}
    parts, page = urlsplit(path), int(parse_qs(urlsplit(path).query)["page"][0])
    name = parts.path.removeprefix("/wp-json/wc/v3/")
    simple = {"id": 1, "name": "Spade", "type": "simple", "sku": "SPA", "price": "9.00", "regular_price": "9.00"}
    simple |= {"stock_quantity": 2, "stock_status": "instock", "categories": [{"name": "Garden"}], "attributes": []}
    many = {
        "id": 2,
        "name": "Gloves",
        "type": "variable",
        "sku": "GLO",
        "price": "5",
        "regular_price": "",
        "attributes": [],
    }
    small = {
        "id": 3,
        "sku": "GLO-S",
        "price": "5",
        "regular_price": "5",
        "stock_quantity": None,
        "stock_status": "instock",
    }
    person = {"id": 4, "email": "bo@example.com", "first_name": "Bo", "last_name": "Castelo", "billing": {}}
    order = {"id": 5, "number": "5", "status": "completed", "date_created": "2026-10-01T10:00:00", "total": "5.00"}
    order |= {"customer_id": 4, "billing": {"email": "bo@example.com"}}
    order |= {"line_items": [{"name": "Gloves - S", "product_id": 2, "sku": "GLO-S", "quantity": 1, "price": 5}]}
    review = {"id": 6, "product_id": 1, "status": "approved", "reviewer": "Bo Castelo", "rating": 4}
    review |= {"reviewer_email": "bo@example.com", "review": "<p>Good. Write to bo@example.com, Bo Castelo</p>"}
    coupon = {"code": "ten", "amount": "10.00", "discount_type": "percent"}
    pages = {"products": [[simple], [many]], "customers": [[person]], "orders": [[order]], "coupons": [[coupon]]}
    pages |= {"products/reviews": [[review]]}
    pages |= {"products/2/variations": [[small | {"attributes": [{"name": "Size", "option": "S"}]}]]}
    if name not in pages:
        return 404, {}, {}
    return 200, {"X-WP-TotalPages": str(len(pages[name]))}, pages[name][page - 1]


@pytest.fixture
def serve(monkeypatch):
    """A starter of loopback shops; the tokens that they take are in the environment."""
    for name, value in (("SHOPIFY_TOKEN", TOKEN), ("WOOCOMMERCE_KEY", KEY), ("WOOCOMMERCE_SECRET", SECRET)):
        monkeypatch.setenv(name, value)
    servers = []

    def start(answer):
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def fetch_from(server, system, folder, waits=None):
    return fetch_shop(f"{system}://127.0.0.1:{server.port}", folder, (waits if waits is not None else []).append)


def test_a_shopify_shop_arrives_with_all_its_pages_and_the_variants_behind_the_first_page(serve, tmp_path):
    spool = fetch_from(serve(answer_graphql), "shopify", tmp_path)
    report = import_path(spool, tmp_path / "store.db")
    counts = (report.products, report.variants, report.orders, report.customers, report.rejected)
    assert (report.format, *counts) == ("shopify-json", 2, 3, 1, 1, ())
    conn = open_store(tmp_path / "store.db")
    stock = "SELECT sku, units FROM variants NATURAL JOIN stock ORDER BY sku"
    assert [tuple(row) for row in conn.execute(stock)] == [("S1-R", 3), ("S2-B", None), ("S2-R", 3)]
    order = "SELECT id, customer_id, status, delivered_on, total FROM orders"
    assert [tuple(row) for row in conn.execute(order)] == [("#1009", "7", "delivered", "2026-10-04", 12.0)]
    assert conn.execute("SELECT product_id, variant FROM order_lines").fetchone()[:] == ("mug-2", "blue")
    conn.close()


def test_a_woocommerce_shop_arrives_with_variations_reviews_and_coupons(serve, tmp_path):
    spool = fetch_from(serve(answer_rest), "woocommerce", tmp_path)
    report = import_path(spool, tmp_path / "store.db")
    counts = (report.products, report.variants, report.orders, report.customers, report.reviews, report.promotions)
    assert (report.format, *counts, report.rejected) == ("woocommerce-json", 2, 2, 1, 1, 1, 1, ())
    conn = open_store(tmp_path / "store.db")
    assert conn.execute("SELECT variant FROM order_lines").fetchone()[0] == "S"
    conn.close()


def test_what_reviews_say_about_people_lies_in_no_file(serve, tmp_path):
    spool = fetch_from(serve(answer_rest), "woocommerce", tmp_path)
    written = [file.read_text() for file in spool.glob("reviews-*.json")]
    assert written
    for text in written:
        assert "bo@example.com" not in text and "Castelo" not in text


@pytest.mark.parametrize(("system", "answer"), [("shopify", answer_graphql), ("woocommerce", answer_rest)])
def test_limits_failures_broken_json_and_cut_connections_are_waited_out(serve, tmp_path, system, answer):
    server, waits = serve(answer), []
    server.trouble = [(429, {"Retry-After": "7"}, b"slow"), (500, {}, b"oops"), (200, {}, b'{"data": '), "closed"]
    spool = fetch_from(server, system, tmp_path, waits)
    assert waits == [7.0, 2.0, 4.0, 8.0]
    assert import_path(spool, tmp_path / "store.db").products == 2


def test_shopifys_bucket_is_waited_for_as_long_as_it_takes_to_fill(serve, tmp_path):
    server, waits = serve(answer_graphql), []
    status = {"maximumAvailable": 1000.0, "currentlyAvailable": 100, "restoreRate": 50.0}
    cost = {"cost": {"requestedQueryCost": 600, "throttleStatus": status}}
    errors = [{"message": "Throttled", "extensions": {"code": "THROTTLED"}}]
    server.trouble = [(200, {}, {"errors": errors, "extensions": cost})]
    fetch_from(server, "shopify", tmp_path, waits)
    assert waits == [10.0]


@pytest.mark.parametrize(("system", "answer"), [("shopify", answer_graphql), ("woocommerce", answer_rest)])
@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_bad_input_and_is_never_shown(serve, tmp_path, capsys, monkeypatch, system, answer, status):
    server = serve(answer)
    server.trouble = [(status, {}, {"errors": f"{TOKEN} {SECRET} is wrong"})]
    monkeypatch.setattr(fetch, "RAW", tmp_path)
    monkeypatch.setattr("elm_helpers.fetch.fetch_shop.__defaults__", (tmp_path, lambda seconds: None))
    words = ["import", f"{system}://127.0.0.1:{server.port}", "--store", str(tmp_path / "store.db")]
    assert cli.main(words) == 2
    out, error = capsys.readouterr()
    assert error.count("\n") == 1 and f"refused the token (status {status})" in error
    assert not any(secret in out + error for secret in (TOKEN, KEY, SECRET))
    assert not (tmp_path / "store.db").exists() and len(server.seen) == 1


def test_a_shop_that_keeps_failing_is_given_up_with_exit_1(serve, tmp_path, capsys, monkeypatch):
    server = serve(lambda *asked: (500, {}, b"oops"))
    monkeypatch.setattr("elm_helpers.fetch.fetch_shop.__defaults__", (tmp_path, lambda seconds: None))
    assert cli.main(["import", f"shopify://127.0.0.1:{server.port}", "--store", str(tmp_path / "store.db")]) == 1
    assert "failed 6 times, last with status 500" in capsys.readouterr().err
    assert len(server.seen) == fetch.TRIES


def test_a_graphql_error_says_what_shopify_said(serve, tmp_path):
    server = serve(lambda *asked: (200, {}, {"errors": [{"message": "Access denied for orders field."}]}))
    with pytest.raises(StoreFileError, match="Access denied for orders field"):
        fetch_from(server, "shopify", tmp_path)


@pytest.mark.parametrize(("system", "answer"), [("shopify", answer_graphql), ("woocommerce", answer_rest)])
def test_a_fetch_that_was_cut_off_goes_on_at_the_next_page(serve, tmp_path, system, answer):
    server = serve(answer)
    whole = fetch_from(server, system, tmp_path / "whole")
    asked = len(server.seen)
    for stop in range(1, asked):
        first, folder = serve(lambda *asked: (0, {}, b"")), tmp_path / f"{stop}"
        first.answer = lambda *seen, first=first, stop=stop: (
            answer(*seen) if len(first.seen) <= stop else (403, {}, b"")
        )
        with pytest.raises(StoreFileError):
            fetch_from(first, system, folder)
        before, first.answer = len(first.seen), answer
        spool = fetch_from(first, system, folder)
        assert not list(spool.glob("*.part"))
        assert {file.name: file.read_text() for file in spool.glob("*.json")} == {
            file.name: file.read_text() for file in whole.glob("*.json")
        }
        assert len(first.seen) - before <= asked - stop + 1  # one page may hold two requests


def test_no_secret_stands_in_a_url_or_file(serve, tmp_path):
    for system, answer in (("shopify", answer_graphql), ("woocommerce", answer_rest)):
        server = serve(answer)
        spool = fetch_from(server, system, tmp_path)
        files = list(spool.iterdir())
        assert files and server.seen
        texts = [path for path, _, _ in server.seen] + [file.read_text() for file in files]
        assert not [text for text in texts for secret in (TOKEN, KEY, SECRET) if secret in text]


def test_the_command_imports_and_leaves_no_pages_behind(serve, tmp_path, capsys, monkeypatch):
    server = serve(answer_graphql)
    monkeypatch.setattr("elm_helpers.fetch.fetch_shop.__defaults__", (tmp_path / "raw", lambda seconds: None))
    words = ["import", f"shopify://127.0.0.1:{server.port}", "--store", str(tmp_path / "store.db"), "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["products"] == 2
    assert not list((tmp_path / "raw").iterdir())


@pytest.mark.parametrize("address", ["ftp://shop", "shopify://", "woocommerce://key:secret@shop.example"])
def test_an_address_that_is_no_shop_is_refused(serve, tmp_path, address):
    with pytest.raises(StoreFileError, match="expected shopify://SHOP or woocommerce://HOST") as error:
        fetch_shop(address, tmp_path)
    assert "secret" not in str(error.value)


def test_a_missing_token_names_the_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("SHOPIFY_TOKEN", raising=False)
    with pytest.raises(StoreFileError, match="in the environment as SHOPIFY_TOKEN"):
        fetch_shop("shopify://demo", tmp_path)


def test_another_machine_is_only_asked_over_https(serve, tmp_path, monkeypatch):
    asked = []

    class Client(fetch.httpx.Client):
        def __init__(self, **options):
            asked.append(options["base_url"])
            super().__init__(**options, transport=fetch.httpx.MockTransport(lambda request: fetch.httpx.Response(403)))

    monkeypatch.setattr(fetch.httpx, "Client", Client)
    for address in ("shopify://demo", "woocommerce://shop.example/sub"):
        with pytest.raises(StoreFileError):
            fetch_shop(address, tmp_path)
    assert asked == ["https://demo.myshopify.com", "https://shop.example/sub"]
