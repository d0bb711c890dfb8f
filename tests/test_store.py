"""The shop keeps its counts, its order numbers and its splits, whatever text a customer or a model sends."""

import re
import sqlite3
from collections import Counter
from datetime import date

from elm_helpers.catalogue import CATEGORIES
from elm_helpers.store import (
    build_store,
    find_order,
    find_products,
    find_zone,
    index_products,
    open_store,
    read_split,
    resolve_product,
    split_of,
)

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TINY = """\
category: Electronics
kinds:
  - kind: wireless headphones
    also: [bluetooth headphones]
    variants: {colour: [dark green, dark grey]}
    products:
      - {name: Corvane Hush 40 Headphones, brand: Corvane, price: 89, specs: &s {fit: big}, description: For trains.}
      - {name: Corvane Hush 60 Headphones, brand: Corvane, price: 129, specs: *s, description: For planes.}
      - {name: Telvik Drift Headphones, brand: Telvik, price: 49.5, specs: *s, description: "Not by Hush."}
    reviews:
      - [1, "Broke."]
  - kind: desk lamps
    products:
      - {name: Ossara Glow NEAR Lamp, brand: Ossara, price: 20, specs: *s, description: AND it dims.}
    reviews:
      - [5, "Bright."]
"""
HOSTILE = [
    "", " ", "\0", "\ud800", "*", '"', '""', "'", "NEAR(", "NEAR(a b, 2)", "AND", "NOT", "a AND", "name:hush", "^hush",
    "hush*", "-hush", "+", "(", "'; DROP TABLE products; --", '" OR 1=1 --', "hush\0lamp", "{name}: x", "²", "_", "ª ½",
    "é", "\u0301", "%", "a" * 10**6, "hush " * 10**6, "9" * 10**6, " ".join(f"word{n}" for n in range(5000)), "?",
    "🎧", ":text", "\n", "耳机", "#", "##", "P0001\0",
]  # fmt: skip


@pytest.fixture(scope="module")
def shop():
    return build_store()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalogue")
    (folder / "electronics.yaml").write_text(TINY, encoding="utf-8")
    return build_store(folder=folder)


def count(conn, table):
    return conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def list_names(rows):
    return [row["name"] for row in rows]


# What is in it


def test_the_shop_has_600_products_of_18_categories_300_customers_and_1500_orders_in_every_status(shop):
    assert count(shop, "products") >= 600
    assert {row[0] for row in shop.execute("SELECT DISTINCT category FROM products")} == set(CATEGORIES)
    assert (count(shop, "customers"), count(shop, "orders")) == (300, 1500)
    statuses = Counter(row[0] for row in shop.execute("SELECT status FROM orders"))
    assert set(statuses) == {"processing", "shipped", "delivered", "cancelled", "returned"}
    assert min(statuses.values()) >= 80


def test_stock_is_12_percent_zero_with_a_restock_date_and_5_percent_unknown(shop):
    rows = shop.execute("SELECT units, restock_date FROM stock").fetchall()
    assert 0.10 < sum(row["units"] == 0 for row in rows) / len(rows) < 0.14
    assert 0.03 < sum(row["units"] is None for row in rows) / len(rows) < 0.07
    assert all((row["units"] == 0) == (row["restock_date"] is not None) for row in rows)
    assert all(row["restock_date"] is None or row["restock_date"] > "2026-11-02" for row in rows)


def test_every_variant_has_stock_at_three_shops_and_online(shop):
    locations = {row[0] for row in shop.execute("SELECT DISTINCT location FROM stock")}
    assert len(locations) == 4
    assert "online" in locations
    assert count(shop, "stock") == 4 * count(shop, "variants")


def test_a_rating_is_the_mean_of_its_reviews_and_lies_between_3_1_and_4_9(shop):
    rows = shop.execute(
        "SELECT rating, avg(stars) FROM products JOIN reviews ON product_id = products.id GROUP BY 1, product_id"
    )
    ratings = [tuple(row) for row in rows]
    assert len(ratings) == count(shop, "products")
    assert all(3.1 <= rating <= 4.9 and abs(rating - mean) < 0.051 for rating, mean in ratings)


def test_order_numbers_have_twelve_shapes_and_some_begin_with_zeros(shop):
    patterns = (r"[1-9]\d{4}", r"W\d{5}", r"ORD-\d{5}", r"00\d{3}", r"EC-\d{5}-[A-D]", r"SO202[56]\d{4}", r"#\d{4}")
    patterns += (r"\d{3}(-\d{7}){2}", r"WEB\d{8}", r"202[56]/\d{5}", r"[XKTR]\d\d[BHMZ]\d{3,4}", r"[1-9]\d{8}")
    shapes = Counter(
        next(p for p in patterns if re.fullmatch(p, row["id"])) for row in shop.execute("SELECT id FROM orders")
    )
    assert len(shapes) == 12
    assert min(shapes.values()) > 60


def test_an_order_costs_the_sum_of_its_lines(shop):
    sums = "SELECT total, sum(quantity * price) FROM orders JOIN order_lines ON order_id = id GROUP BY id"
    rows = shop.execute(sums).fetchall()
    assert len(rows) == 1500
    assert all(abs(total - lines) < 0.005 for total, lines in rows)


def test_only_what_arrived_has_a_delivery_date_and_nothing_arrives_in_the_future(shop):
    for row in shop.execute("SELECT * FROM orders"):
        arrived = row["delivered_on"]
        assert (arrived is not None) == (row["status"] in ("delivered", "returned"))
        assert arrived is None or row["placed_on"] < arrived <= "2026-11-02"
        assert (row["tracking"] is not None) == (row["status"] in ("shipped", "delivered", "returned"))


def test_many_delivered_orders_can_still_be_returned_and_many_cannot(shop):
    days = [
        date(2026, 11, 2) - date.fromisoformat(r[0])
        for r in shop.execute("SELECT delivered_on FROM orders WHERE status = 'delivered'")
    ]
    assert sum(each.days <= 30 for each in days) > 200
    assert sum(each.days > 30 for each in days) > 150


def test_a_returned_order_has_every_line_returned(shop):
    query = """SELECT count(*) FROM orders JOIN order_lines l ON l.order_id = orders.id LEFT JOIN returns r
        ON r.order_id = l.order_id AND r.line = l.line WHERE orders.status = 'returned' AND r.id IS NULL"""
    assert shop.execute(query).fetchone()[0] == 0
    assert shop.execute("SELECT count(*) FROM returns WHERE created > '2026-11-02'").fetchone()[0] == 0


def test_some_customers_have_never_ordered_and_every_tier_is_there(shop):
    idle = "SELECT count(*) FROM customers WHERE id NOT IN (SELECT customer_id FROM orders)"
    assert shop.execute(idle).fetchone()[0] >= 30
    tiers = Counter(row[0] for row in shop.execute("SELECT tier FROM customers"))
    assert set(tiers) == {"none", "bronze", "silver", "gold"}
    assert all(re.fullmatch(r"[a-z.]+\d*@example\.com", row[0]) for row in shop.execute("SELECT email FROM customers"))


def test_promotions_cover_running_coming_and_ended_ones(shop):
    rows = shop.execute("SELECT * FROM promotions").fetchall()
    assert {row["kind"] for row in rows} == {"percent", "amount", "free_shipping"}
    assert any(row["starts"] > "2026-11-02" for row in rows)
    assert any(row["ends"] < "2026-11-02" for row in rows)
    assert any(row["first_order_only"] for row in rows)


def test_every_zone_has_all_three_methods(shop):
    rows = shop.execute(
        "SELECT zone, group_concat(method, ' ') FROM (SELECT * FROM shipping_rates ORDER BY method) GROUP BY 1"
    )
    assert {methods for _, methods in map(tuple, rows)} == {"express overnight standard"}
    zones = {row[0] for row in shop.execute("SELECT DISTINCT zone FROM shipping_zones")}
    assert zones - {row[0] for row in shop.execute("SELECT zone FROM shipping_rates")} == {"elsewhere"}


# How it is built and opened


def test_the_same_seed_gives_the_same_shop_and_another_seed_another(shop):
    lines = list(shop.iterdump())
    assert lines == list(build_store(seed=0).iterdump())
    assert lines != list(build_store(seed=1).iterdump())


def test_building_over_an_open_store_leaves_a_whole_one_and_no_remains(tmp_path):
    path = tmp_path / "new" / "shop.db"
    old = build_store(path)
    with old:
        old.execute("DELETE FROM returns")
    assert count(old, "returns") == 0
    new = build_store(path, seed=3)
    assert count(new, "returns") > 0
    assert new.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert not (tmp_path / "new" / "shop.db.part").exists()
    assert new.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_a_failed_build_leaves_the_old_store(tmp_path):
    path = tmp_path / "shop.db"
    build_store(path).close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match="found no products"):
        build_store(path, folder=tmp_path)
    assert path.read_bytes() == before


def test_opening_what_is_missing_or_no_shop_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="found no shop"):
        open_store(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "text.db").write_text("not a database, but a longer text than a header " * 9)
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE products (id)")
    for name in ("text.db", "other.db"):
        with pytest.raises(ValueError, match=f"{name}: found no shop"):
            open_store(tmp_path / name)


def test_an_importer_can_start_from_an_empty_shop(tmp_path):
    conn = open_store(tmp_path / "mine.db", create=True)
    with conn:
        conn.execute("INSERT INTO products (id, name) VALUES ('gid/1', 'Blue Kettle')")
    assert find_products(conn, "kettle") == []
    index_products(conn)
    assert list_names(find_products(conn, "KETTLES")) == ["Blue Kettle"]
    assert resolve_product(conn, "GID/1")["name"] == "Blue Kettle"
    assert conn.execute("SELECT value FROM meta WHERE key = 'today'").fetchone() is None


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO order_lines VALUES ('nobody', 1, 'P0001', NULL, 1, 1)",
        "INSERT INTO orders VALUES ('1', 'C9999', 'shipped', '2026-01-01', NULL, 1, NULL)",
        "INSERT INTO orders VALUES ('1', 'C0001', 'lost', '2026-01-01', NULL, 1, NULL)",
        "INSERT INTO returns VALUES ('R1', 'nobody', 1, 'no', 1, 'approved', '2026-01-01')",
        "INSERT INTO returns SELECT * FROM returns LIMIT 1",
        "INSERT INTO stock VALUES ('P0001', 'no such variant', 'online', 1, NULL)",
        "INSERT INTO reviews VALUES (NULL, 'P0001', 6, 'too good')",
    ],
)
def test_the_database_refuses_rows_that_belong_to_nothing(shop, statement):
    with pytest.raises(sqlite3.IntegrityError), shop:
        shop.execute(statement)


# Splits


def test_the_splits_share_no_product_and_lose_none(shop):
    found = {
        name: {row[0] for row in read_split(shop, name).execute("SELECT id FROM products")}
        for name in ("train", "eval")
    }
    everything = {row[0] for row in shop.execute("SELECT id FROM products")}
    assert found["train"].isdisjoint(found["eval"])
    assert found["train"] | found["eval"] == everything
    assert 0.15 < len(found["eval"]) / len(everything) < 0.25
    assert all(split_of(each) == "eval" for each in found["eval"])


@pytest.mark.parametrize("name", ["train", "eval"])
def test_a_split_is_a_whole_shop_that_mentions_no_other_product(shop, name):
    before = list(shop.iterdump())
    copy = read_split(shop, name)
    assert copy.execute("PRAGMA foreign_key_check").fetchall() == []
    for table in ("order_lines", "stock", "variants", "specifications", "reviews", "product_search"):
        assert {split_of(row[0]) for row in copy.execute(f"SELECT product_id FROM {table}")} == {name}
    sums = "SELECT total, (SELECT sum(quantity * price) FROM order_lines WHERE order_id = id) FROM orders"
    assert all(abs(total - lines) < 0.005 for total, lines in copy.execute(sums))
    copy.execute("DELETE FROM orders")
    assert list(shop.iterdump()) == before


def test_a_split_that_does_not_exist_is_refused(shop):
    with pytest.raises(ValueError, match="found 'test'"):
        read_split(shop, "test")


# Finding


def test_all_words_must_match_before_any_word_may(tiny):
    assert list_names(find_products(tiny, "hush 60")) == ["Corvane Hush 60 Headphones"]
    assert set(list_names(find_products(tiny, "hush lamp"))) == set(list_names(find_products(tiny, "hush"))) | {
        "Ossara Glow NEAR Lamp"
    }


def test_plurals_case_and_small_words_do_not_matter(tiny):
    assert list_names(find_products(tiny, "a LAMP for the desk")) == ["Ossara Glow NEAR Lamp"]
    assert list_names(find_products(tiny, "lamps")) == ["Ossara Glow NEAR Lamp"]


def test_a_word_in_the_name_outranks_one_in_the_description(tiny):
    assert list_names(find_products(tiny, "hush"))[-1] == "Telvik Drift Headphones"


def test_prices_are_inclusive_and_nothing_cheaper_is_passed_off_as_a_match(tiny):
    assert list_names(find_products(tiny, "headphones", min_price=49.5, max_price=49.5)) == ["Telvik Drift Headphones"]
    assert find_products(tiny, "headphones", max_price=20) == []
    assert len(find_products(tiny, "headphones", min_price=-(10**400), max_price=10**400)) == 3
    assert find_products(tiny, "headphones", min_price=float("nan")) in ([], find_products(tiny, "headphones"))


def test_the_category_filter_takes_any_case_and_the_limit_any_number(tiny):
    assert len(find_products(tiny, "headphones", category="electronics", limit=2)) == 2
    assert find_products(tiny, "headphones", category="Media") == []
    assert find_products(tiny, "headphones", category="\ud800") == []
    assert find_products(tiny, "headphones", limit=-1) == []
    assert len(find_products(tiny, "headphones", limit=10**30)) == 3


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text(tiny, text):
    before = count(tiny, "products")
    assert isinstance(find_products(tiny, text), list)
    found = resolve_product(tiny, text)
    assert found is None or isinstance(found, (list, sqlite3.Row))
    assert find_order(tiny, text) is None
    assert find_zone(tiny, text) is None
    assert count(tiny, "products") == before


def test_search_operators_are_words(tiny):
    assert list_names(find_products(tiny, "glow NEAR lamp")) == ["Ossara Glow NEAR Lamp"]
    assert find_products(tiny, "hush NOT headphones") != []
    assert resolve_product(tiny, "lam*") is None


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=80))
def test_no_text_makes_a_lookup_fail(tiny, text):
    find_products(tiny, text), resolve_product(tiny, text), find_order(tiny, text), find_zone(tiny, text)


@pytest.mark.parametrize(
    "text",
    [
        "P0001",
        "p0001",
        " P0001 ",
        "cor-hush40",
        "COR-HUSH40-DARKGR1",
        "corvane hush 40 headphones",
        "the hush 40",
    ],
)
def test_an_id_a_sku_a_name_or_its_rare_words_mean_one_product(tiny, text):
    assert resolve_product(tiny, text)["id"] == "P0001"


def test_several_fitting_products_are_candidates_and_none_is_guessed(tiny):
    assert {row["id"] for row in resolve_product(tiny, "corvane hush")} == {"P0001", "P0002"}
    assert len(resolve_product(tiny, "headphones")) == 3
    assert resolve_product(tiny, "hush 50") is None
    assert resolve_product(tiny, "trains") is None  # only a description has that word


def test_every_product_of_the_shop_is_found_by_its_full_name_and_sku(shop):
    for row in shop.execute("SELECT * FROM products").fetchall():
        assert resolve_product(shop, row["name"].upper())["id"] == row["id"]
        assert resolve_product(shop, row["sku"].lower())["id"] == row["id"]


def test_order_numbers_ignore_case_spaces_and_hash_but_not_leading_zeros(shop):
    for row in shop.execute("SELECT id FROM orders").fetchall():
        assert find_order(shop, row["id"])["id"] == row["id"]
    order = shop.execute("SELECT id FROM orders WHERE id GLOB '00*'").fetchone()[0]
    assert find_order(shop, f" # {order[:2]} {order[2:]} ")["id"] == order
    assert find_order(shop, order.lstrip("0")) is None
    assert find_order(shop, f"0{order}") is None
    mixed = shop.execute("SELECT id FROM orders WHERE id LIKE 'EC-%'").fetchone()[0]
    assert find_order(shop, mixed.lower())["id"] == mixed
    assert find_order(shop, mixed + "' OR '1'='1") is None


def test_of_two_imported_numbers_that_look_alike_the_exact_one_wins(tmp_path):
    conn = open_store(tmp_path / "mine.db", create=True)
    conn.executemany(
        "INSERT INTO orders VALUES (?, NULL, 'shipped', '2026-01-01', NULL, 1, NULL)", [("#1001",), ("1001",)]
    )
    assert find_order(conn, "#1001")["id"] == "#1001"
    assert find_order(conn, "1001")["id"] == "1001"


PLACES = {
    "United States": "90210|10001-1234|10001|us|USA|U.S.A.|United States|new mexico|Fresno, CA|Los Angeles, CA|"
    "Austin TX 78701|Wilmington, DE 19801|Cambridge, MA 02139|texas|Paris, Texas|New York 10001|Birmingham, Alabama",
    "Canada": "Canada|canada!|K1A 0B1|k1a0b1|K1A-0B1|CA|Toronto|Québec|London, Ontario|Vancouver, BC|M5V",
    "United Kingdom": "UK|gb|SW1A 1AA|sw1a1aa|M1 1AE|EC1A 1BB|London|Northern Ireland|SW1A|London UK|Great Britain",
    "European Union": "Germany|DE|de|Deutschland|MÜNCHEN|Munich, Germany|10115 Berlin|75001 Paris, France|Ireland|GRC|"
    "D02 AF30|1012 AB|1012AB|00-950|1000-001|110 00|D-10115|LV-1010|Österreich|Hamburg, DE|the Netherlands|Brno|Malmö",
}  # fmt: skip


@pytest.mark.parametrize(
    ("place", "zone"), [(place, zone) for zone, places in PLACES.items() for place in places.split("|")]
)
def test_a_destination_is_known_by_country_code_city_or_postal_code(shop, place, zone):
    assert find_zone(shop, place) == zone


@pytest.mark.parametrize(
    "place",
    ["Mexico", "Australia 20000", "Japan", "Zürich, Schweiz", "Norway", "the moon", "send it to us", "1234", "123456"],
)
def test_a_place_that_is_not_served_or_not_known_has_no_zone(shop, place):
    assert find_zone(shop, place) is None
