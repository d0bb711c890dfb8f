"""The invented shop around the catalogue: stock, customers, orders, promotions and delivery, drawn by a seed."""

import json
import random
import re
import sqlite3
import unicodedata
from datetime import date, timedelta

from elm_helpers.catalogue import Catalogue, build_code
from elm_helpers.paths import TEMPLATES

import yaml

# The forms a destination takes, best evidence first; data/templates/shop.yaml lists the places of each.
FORMS = ("countries", "regions", "strong_postal_codes", "cities", "country_codes", "state_codes", "weak_postal_codes")
AGES = ((9, 30), (9, 30), (45, 400))  # days since delivered orders were placed: two in three can still be returned
MOODS = ((70, 20, 6, 4), (50, 30, 12, 8), (30, 35, 20, 15), (15, 35, 30, 20))  # shares of 5, 4, 3 and 2 stars


def fill_shop(conn: sqlite3.Connection, catalogue: Catalogue, seed: int) -> None:
    """Fill an empty store: 300 customers and 1,500 orders of the catalogue's products; the same seed, the same rows.

    Args:
        conn: Has the tables of data/templates/shop.sql, and a transaction that the caller commits.
        catalogue: What the shop sells.
        seed: Draws stock, ratings, customers, orders and returns.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    shop, names = (yaml.safe_load((TEMPLATES / f"{x}.yaml").read_text(encoding="utf-8")) for x in ("shop", "customers"))
    rng = random.Random(seed)
    _fill_rules(conn, shop, seed)
    _fill_products(conn, catalogue, shop, rng)
    _fill_customers(conn, shop, names, rng)
    _fill_orders(conn, shop, rng)


def fill_rules(conn: sqlite3.Connection) -> None:
    """Fill an empty store that an import will fill with goods: delivery and policies; no promotions, and the real date.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    shop = yaml.safe_load((TEMPLATES / "shop.yaml").read_text(encoding="utf-8"))
    _fill_rules(conn, shop | {"promotions": [], "facts": shop["facts"] | {"today": ""}}, 0)
    conn.execute("DELETE FROM meta WHERE key IN ('today', 'seed', 'locations')")


def fold_text(text: str) -> str:
    """Return the text in lower case without accents, so that Malmö and malmo are one place.

    Example:
        >>> fold_text("Malmö")
        'malmo'

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    plain = unicodedata.normalize("NFKD", text.casefold().translate(str.maketrans("øıł", "oil")))
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


def fold_place(text: str) -> str:
    """Return the folded words of a place's name, one space between them.

    Example:
        >>> fold_place("St. Louis,  MO")
        'st louis mo'

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    return " ".join(re.findall(r"\w+", fold_text(text)))


def _insert(conn: sqlite3.Connection, table: str, rows: list[tuple]) -> None:
    if rows:
        conn.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)


def _fill_rules(conn: sqlite3.Connection, shop: dict, seed: int) -> None:
    meta = {"seed": seed, "locations": json.dumps([*shop["shops"], "online"]), **shop["facts"], **shop["numbers"]}
    meta |= {f"policy_{name}": text for name, text in shop["policies"].items()}
    _insert(conn, "meta", [(key, str(value)) for key, value in meta.items()])
    fields = ("code", "kind", "value", "minimum_tier", "minimum_order", "starts", "ends", "first_order_only")
    blank = dict.fromkeys(fields) | {"first_order_only": False}
    _insert(conn, "promotions", [tuple((blank | each).values()) for each in shop["promotions"]])
    for zone, methods in shop["rates"].items():
        _insert(conn, "shipping_rates", [(zone, method, *rate) for method, rate in methods.items()])
    for form in FORMS:
        for zone, places in shop[form].items():
            plain = places if "postal" in form else [fold_place(place) for place in places]
            _insert(conn, "shipping_zones", [(place, form, zone) for place in plain])


def _fill_products(conn: sqlite3.Connection, catalogue: Catalogue, shop: dict, rng: random.Random) -> None:
    kinds, today = {kind.name: kind for kind in catalogue.kinds}, date.fromisoformat(shop["facts"]["today"])
    for p in catalogue.products:
        kind = kinds[p.kind]
        reviews: list[tuple[int, str | None]] = list(rng.sample(kind.reviews, rng.randint(1, len(kind.reviews))))
        reviews += [(stars, None) for stars in rng.choices((5, 4, 3, 2), rng.choice(MOODS), k=rng.randint(8, 60))]
        while not 3.1 <= (rating := round(sum(stars for stars, _ in reviews) / len(reviews), 1)) <= 4.9:
            reviews.append((4, None))
        also = ", ".join(kind.also)
        row = (p.id, p.sku, p.name, p.brand, p.category, p.kind, also, p.price, rating, p.description)
        _insert(conn, "products", [row])
        _insert(conn, "specifications", [(p.id, *pair) for pair in p.specifications.items()])
        _insert(conn, "reviews", [(None, p.id, *review) for review in reviews])
        codes = [build_code(variant, 6) for variant in p.variants] or ["STD"]
        skus = [f"{p.sku}-{code}{n if codes.count(code) > 1 else ''}" for n, code in enumerate(codes, 1)]
        for variant, sku in zip(p.variants or ("standard",), skus, strict=True):
            _insert(conn, "variants", [(p.id, variant, sku)])
            for location in (*shop["shops"], "online"):
                luck, more = rng.random(), str(today + timedelta(days=rng.randint(3, 28)))  # 12 % sold out, 5 % unknown
                units = (0, more) if luck < 0.12 else (None, None) if luck < 0.17 else (rng.randint(1, 40), None)
                _insert(conn, "stock", [(p.id, variant, location, *units)])


def _fill_customers(conn: sqlite3.Connection, shop: dict, names: dict, rng: random.Random) -> None:
    used = {}
    for number in range(1, 301):
        name = (rng.choice(names["first"]), rng.choice(names["last"]))
        mailbox = ".".join(re.sub("[^a-z]", "", fold_text(part)) for part in name)
        used[mailbox] = used.get(mailbox, 0) + 1
        email = f"{mailbox}{used[mailbox] if used[mailbox] > 1 else ''}@example.com"
        points = int(rng.expovariate(1 / 700))
        tier = next(tier for tier, needed in shop["tiers"].items() if points >= needed)
        _insert(conn, "customers", [(f"C{number:04}", " ".join(name), email, tier, points)])


def _fill_orders(conn: sqlite3.Connection, shop: dict, rng: random.Random) -> None:
    today, used = date.fromisoformat(shop["facts"]["today"]), {""}
    buyers = [number for number in range(1, 301) if number % 10]  # one customer in ten has never ordered
    query = "SELECT product_id, variant, price FROM variants JOIN products ON id = product_id ORDER BY 1, 2"
    goods = [tuple(row) for row in conn.execute(query)]
    for number in range(1, 1501):
        status = rng.choices(("processing", "shipped", "delivered", "cancelled", "returned"), (12, 15, 50, 9, 14))[0]
        days = {"processing": (0, 2), "shipped": (2, 6), "cancelled": (3, 400)}.get(status) or rng.choice(AGES)
        placed = today - timedelta(days=rng.randint(*days))
        arrived = placed + timedelta(days=rng.randint(2, 7)) if status in ("delivered", "returned") else None
        tracking = f"TRK{rng.randint(10**9, 10**10 - 1)}" if arrived or status == "shipped" else None
        lines = []
        for line in range(1, rng.choices((2, 3, 4, 5), (55, 25, 13, 7))[0]):
            product, variant, price = rng.choice(goods)
            lines.append((line, product, variant, rng.choices((1, 2, 3), (80, 15, 5))[0], price))
        total = round(sum(quantity * price for *_, quantity, price in lines), 2)
        order = ""
        while order in used:
            order = _draw_order_id(placed.year, rng)
        used.add(order)
        row = (order, f"C{rng.choice(buyers):04}", status, str(placed), arrived and str(arrived), total, tracking)
        _insert(conn, "orders", [row])
        _insert(conn, "order_lines", [(order, *line) for line in lines])
        back = lines if status == "returned" else lines[:1] if arrived and lines[1:] and rng.random() < 0.12 else []
        if back and arrived:
            reason = rng.choice(shop["return_reasons"])
            day = str(min(today, arrived + timedelta(days=rng.randint(1, 20))))
            refunds = [(line, reason, round(quantity * price, 2)) for line, _, _, quantity, price in back]
            _insert(conn, "returns", [(f"R{number:05}", order, *refund, "approved", day) for refund in refunds])


def _draw_order_id(year: int, rng: random.Random) -> str:
    """Draw a number as one of the merged systems wrote it; leading zeros, letters and dashes are part of it."""
    n = rng.randint(10000, 99999)
    shapes = (
        f"{n}",
        f"W{n}",
        f"ORD-{n}",
        f"00{n % 900 + 100}",
        f"EC-{n}-{'ABCD'[n % 4]}",
        f"SO{year}{n % 9000 + 1000}",
        f"#{n % 9000 + 1000}",
        f"{n % 900 + 100}-{rng.randint(10**6, 10**7 - 1)}-{rng.randint(10**6, 10**7 - 1)}",
        f"WEB{n:08}",
        f"{year}/{n}",
        f"{'XKTR'[n % 4]}{n % 90 + 10}{'BHMZ'[n % 4]}{n // 90}",
        f"{rng.randint(10**8, 10**9 - 1)}",
    )
    return rng.choice(shapes)
