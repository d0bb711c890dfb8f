"""Imports of real-world exports: every trap either comes in right or is refused with its line, and all or nothing."""

import json
import sqlite3

from elm_helpers import cli
from elm_helpers.catalogue import CATEGORIES
from elm_helpers.fields import read_key, read_money, strip_html
from elm_helpers.importers import describe_report, import_path, list_formats
from elm_helpers.paths import SAMPLE
from elm_helpers.shelves import find_category
from elm_helpers.store import build_store, open_store, resolve_product
from elm_helpers.tables import StoreFileError, read_table
from elm_helpers.tools import TOOLS, Session, run_tool

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

IMPORTS = SAMPLE / "imports"
TABLES = ("meta", "products", "specifications", "variants", "stock", "reviews", "customers", "orders", "order_lines")
TABLES += ("returns", "promotions", "shipping_rates", "shipping_zones")
SHOPIFY = "Handle,Title,Body (HTML),Vendor,Type,Tags,Option1 Name,Option1 Value,Variant SKU,Variant Inventory Qty,"
SHOPIFY += "Variant Price,Image Src\n"
ORDERS = "Name,Email,Financial Status,Fulfillment Status,Total,Created at,Lineitem quantity,Lineitem name,"
ORDERS += "Lineitem price,Lineitem sku,Billing Name,Shipping Zip,Notes,Cancelled at\n"
WOO = "ID,Type,SKU,Name,Published,In stock?,Stock,Weight (kg),Sale price,Regular price,Categories,Parent,"
WOO += "Attribute 1 name,Attribute 1 value(s)\n"


class Shop:
    """A folder with a store in it, and short ways to import text and to look at the rows."""

    def __init__(self, folder):
        self.folder, self.path = folder, folder / "store.db"

    def bring(self, content, name="export.csv", **options):
        file = self.folder / name
        data = content if isinstance(content, str | bytes) else json.dumps(content)
        file.write_bytes(data.encode() if isinstance(data, str) else data)
        return import_path(file, self.path, **options)

    def rows(self, query, *values):
        conn = sqlite3.connect(self.path)
        found = conn.execute(query, values).fetchall()
        conn.close()
        return found

    def dump(self):
        return {table: sorted(self.rows(f"SELECT * FROM {table}"), key=repr) for table in TABLES}


@pytest.fixture
def mine(tmp_path):
    return Shop(tmp_path)


def list_reasons(report):
    return {entry["line"]: entry["reason"] for entry in report.rejected}


# Products: the two Shopify layouts, WooCommerce, JSON


def test_shopifys_old_layout_brings_variants_and_leaves_image_rows_with_their_product(mine):
    report = mine.bring(
        SHOPIFY
        + "mug,Stone Mug,<p>Holds <b>300 ml</b></p>,Morwenna,Mugs,,Color,sand,M-1,5,16.00,a.jpg\n"
        + "mug,,,,,,,slate,M-2,0,14.50,b.jpg\n"
        + "mug,,,,,,,,,,,c.jpg\n"
    )
    assert (report.format, report.products, report.variants, report.rejected) == ("shopify-products", 1, 2, ())
    columns = "id, name, brand, category, kind, price, description"
    product = mine.rows(f"SELECT {columns} FROM products")
    assert product == [("mug", "Stone Mug", "Morwenna", "Home & Garden", "mugs", 14.5, "Holds 300 ml")]
    assert mine.rows("SELECT variant, sku FROM variants") == [("sand", "M-1"), ("slate", "M-2")]
    assert mine.rows("SELECT variant, location, units FROM stock") == [("sand", "online", 5), ("slate", "online", 0)]
    assert mine.rows("SELECT name, value FROM specifications") == [("color", "sand, slate")]


def test_shopifys_new_layout_and_its_weight_column(mine):
    head = "Title,URL handle,Description,Vendor,Product category,Type,Status,SKU,Option1 name,Option1 value,Price,"
    head += "Inventory tracker,Inventory quantity,Weight value (grams),Weight unit for display\n"
    row = "Oak Stool,oak-stool,<p>Oak.</p>,Kantholt,Furniture > Chairs > Stools,,active,K-1,Title,Default Title,"
    report = mine.bring(head + row + "89.00,shopify,4,3800.0,g\n")
    assert (report.format, report.products, report.variants, report.rejected) == ("shopify-products", 1, 1, ())
    columns = "id, sku, name, category, kind, price"
    product = mine.rows(f"SELECT {columns} FROM products")
    assert product == [("oak-stool", "K-1", "Oak Stool", "Furniture", "stools", 89.0)]
    assert mine.rows("SELECT variant, sku FROM variants") == [("standard", "K-1")]
    assert mine.rows("SELECT value FROM specifications WHERE name = 'weight'") == [("3800.0 grams",)]


@pytest.mark.parametrize(
    ("head", "cell"),
    [
        ("Handle,Title,Variant SKU,Variant Price", ""),
        ("Handle,Title,Variant SKU,Variant Price,Variant Inventory Qty", ","),
        ("Handle,Title,Variant SKU,Variant Price,Variant Inventory Qty,Variant Inventory Tracker", ",0,"),
    ],
)
def test_a_missing_blank_or_untracked_quantity_is_unknown_not_0(mine, head, cell):
    mine.bring(f"{head}\nmug,Mug,M-1,16.00{cell}\n")
    assert mine.rows("SELECT units FROM stock") == [(None,)]
    session = Session(open_store(mine.path))
    assert run_tool(session, "get_inventory", {"product": "mug"})["stock"] == [
        {"variant": "standard", "units": {"online": None}}
    ]


def test_sold_out_is_0_and_oversold_is_0(mine):
    mine.bring(SHOPIFY + "a,A Mug,,,,,,,A,0,1.00,\nb,B Mug,,,,,,,B,-3,1.00,\n")
    assert mine.rows("SELECT units FROM stock") == [(0,), (0,)]


def test_woocommerce_variations_find_their_parent_by_id_and_by_sku(mine):
    report = mine.bring(
        WOO
        + '41,variable,GLO,Garden Gloves,1,1,,0.12,,,"Clothing > Gloves, Sale",,Size,"S, M"\n'
        + "51,variation,GLO-S,Garden Gloves - S,1,1,9,,,11.90,,id:41,Size,S\n"
        + "52,variation,GLO-M,Garden Gloves - M,1,0,,,9.90,11.90,,GLO,Size,M\n"
        + "53,variation,GLO-X,Garden Gloves - X,1,1,,,,11.90,,id:99,Size,X\n"
        + '60,simple,SPA,Spade,1,1,parent,1.5,,"1,299.00",Garden,,Handle,ash\n'
    )
    assert (report.format, report.products, report.variants) == ("woocommerce-products", 2, 3)
    assert list_reasons(report) == {5: "its parent 'id:99' is not in this file"}
    assert mine.rows("SELECT id, sku, price, kind FROM products ORDER BY id") == [
        ("41", "GLO", 9.9, "gloves"),
        ("60", "SPA", 1299.0, "garden"),
    ]
    assert mine.rows("SELECT variant, units FROM stock ORDER BY 1") == [("M", 0), ("S", 9), ("standard", None)]
    specs = mine.rows("SELECT product_id, name, value FROM specifications ORDER BY 1, 2")
    assert specs == [("41", "size", "S, M"), ("41", "weight", "0.12 kg")] + [
        ("60", "handle", "ash"),
        ("60", "weight", "1.5 kg"),
    ]


def test_a_sale_that_is_over_no_longer_counts(mine):
    head = "ID,SKU,Name,Published,Sale price,Regular price,Date sale price ends\n"
    mine.bring(head + "1,A,A Mug,1,5,10,2020-01-01\n2,B,B Mug,1,5,10,2999-01-01\n")
    assert mine.rows("SELECT price FROM products ORDER BY id") == [(10.0,), (5.0,)]


def test_woocommerce_json_has_string_prices_blanks_and_any_meta_data(mine):
    products = [
        {
            **{"id": 7, "name": "Zinc Can", "type": "simple", "status": "publish", "sku": "", "price": "27.00"},
            **{"regular_price": "32.00", "sale_price": "27.00", "stock_quantity": None, "stock_status": "instock"},
            **{"categories": [{"id": 1, "name": "Garden"}], "weight": "", "description": "<p>5 litres</p>"},
            **{"attributes": [{"name": "Material", "options": ["zinc"]}], "meta_data": [{"key": "_x", "value": {}}]},
        },
        {
            **{"id": 8, "name": "Gloves", "type": "variable", "status": "publish", "sku": "GLO", "price": "11.90"},
            **{"regular_price": "", "sale_price": "", "stock_status": "instock", "categories": [], "attributes": []},
        },
        {
            **{"id": 9, "name": "Gloves - S", "type": "variation", "parent_id": 8, "sku": "GLO-S", "price": "11.90"},
            **{"regular_price": "11.90", "stock_quantity": 3, "attributes": [{"name": "Size", "option": "S"}]},
        },
        {**{"id": 10, "name": "Grouped", "type": "grouped", "regular_price": "", "price": "", "attributes": []}},
    ]
    report = mine.bring(products, "x.txt")
    assert (report.format, report.products, report.variants) == ("woocommerce-json", 2, 2)
    assert list_reasons(report) == {4: "found no price"}
    assert mine.rows("SELECT id, sku, price, description FROM products ORDER BY id") == [
        ("7", None, 27.0, "5 litres"),
        ("8", "GLO", 11.9, None),
    ]
    assert mine.rows("SELECT variant, sku, units FROM variants NATURAL JOIN stock ORDER BY 1") == [
        ("S", "GLO-S", 3),
        ("standard", None, None),
    ]


def test_shopify_rest_json(mine):
    product = {
        **{"id": 632910392, "title": "IPod", "body_html": "<p>Small.</p>", "vendor": "Lumi", "product_type": "Audio"},
        **{"handle": "ipod", "status": "active", "tags": "", "options": [{"name": "Color", "values": ["Pink", "Red"]}]},
        "variants": [
            {"id": 1, "title": "Pink", "option1": "Pink", "sku": "I-P", "price": "199.00", "inventory_quantity": 10}
            | {"inventory_management": "shopify", "weight": 1.25, "weight_unit": "lb"},
            {"id": 2, "title": "Red", "option1": "Red", "sku": "I-R", "price": "189.00", "inventory_quantity": 0}
            | {"inventory_management": None},
        ],
    }
    report = mine.bring({"products": [product]}, "products.json")
    assert (report.format, report.products, report.variants, report.rejected) == ("shopify-json", 1, 2, ())
    assert mine.rows("SELECT id, category, kind, price FROM products") == [("ipod", "Electronics", "audio", 189.0)]
    assert mine.rows("SELECT variant, units FROM stock ORDER BY 1") == [("Pink", 10), ("Red", None)]
    assert ("weight", "1.25 lb") in mine.rows("SELECT name, value FROM specifications")


def test_graphql_bulk_lines_find_their_parents_and_orphans_are_listed(mine):
    lines = [
        {
            "id": "gid://shopify/Product/1",
            "title": "Mug",
            "handle": "mug",
            "vendor": "M",
            "descriptionHtml": "<i>x</i>",
        },
        {"id": "gid://shopify/ProductVariant/11", "title": "sand", "sku": "M-1", "price": "16.00"}
        | {"inventoryItem": {"id": "gid://shopify/InventoryItem/5", "tracked": True}}
        | {"selectedOptions": [{"name": "Color", "value": "sand"}], "__parentId": "gid://shopify/Product/1"},
        {"location": {"name": "Mill Square"}, "quantities": [{"name": "available", "quantity": 4}]}
        | {"id": "gid://shopify/InventoryLevel/9?inventory_item_id=5", "__parentId": "gid://shopify/InventoryItem/5"},
        {"id": "gid://shopify/MediaImage/3", "__parentId": "gid://shopify/Product/1"},
        {"id": "gid://shopify/ProductVariant/12", "price": "1.00", "__parentId": "gid://shopify/Product/404"},
        {"id": "gid://shopify/Order/2", "name": "#1001", "createdAt": "2026-10-01T10:00:00Z", "email": "a@example.com"}
        | {"displayFulfillmentStatus": "FULFILLED", "totalPriceSet": {"shopMoney": {"amount": "16.0"}}},
        {"id": "gid://shopify/LineItem/3", "title": "Mug", "sku": "M-1", "quantity": 1}
        | {"originalUnitPriceSet": {"shopMoney": {"amount": "16.0"}}, "__parentId": "gid://shopify/Order/2"},
    ]
    report = mine.bring("\n".join(map(json.dumps, lines)), "bulk.jsonl")
    assert (report.format, report.products, report.variants, report.orders) == ("shopify-bulk", 1, 1, 1)
    assert list_reasons(report) == {5: "its parent 'gid://shopify/Product/404' is not in this file"}
    assert mine.rows("SELECT variant, location, units FROM stock") == [("sand", "Mill Square", 4)]
    assert mine.rows("SELECT id, status, total, customer_id FROM orders") == [
        ("#1001", "shipped", 16.0, "a@example.com")
    ]
    assert mine.rows("SELECT product_id, variant, price FROM order_lines") == [("mug", "sand", 16.0)]


def test_products_that_are_not_for_sale_are_listed(mine):
    head = "Handle,Title,Variant SKU,Variant Price,Status\n"
    report = mine.bring(head + "a,A Mug,A,1,active\nb,B Mug,B,1,draft\nb,,B2,1,\nc,C Mug,C,1,archived\n")
    assert report.products == 1
    assert list_reasons(report) == {
        3: "not for sale: status is 'draft'",
        4: "not for sale: status is 'draft'",
        5: "not for sale: status is 'archived'",
    }


def test_a_product_is_in_one_of_the_18_categories_or_in_none_and_the_report_counts_those(mine):
    report = mine.bring("name,price,type\nQuux,1,\nOak Desk,2,\nThing,3,Home & Garden > Lighting > Lamps\n")
    assert report.unmapped == ("Quux",)
    assert "1 products fit none of the 18 categories, such as 'Quux'" in " ".join(describe_report(report))
    found = dict(mine.rows("SELECT name, category FROM products"))
    assert found == {"Quux": None, "Oak Desk": "Furniture", "Thing": "Home & Garden"}
    session = Session(open_store(mine.path))
    assert (
        "categories are Furniture; Home"
        in run_tool(session, "search_products", {"query": "x", "category": "y"})["error"]
    )
    assert run_tool(session, "get_similar_products", {"product": "Quux"}) == {"product": "Quux", "similar": []}


@pytest.mark.parametrize(
    ("texts", "category"),
    [
        (["Animals & Pet Supplies > Pet Supplies > Dog Supplies"], "Animals & Pet Supplies"),
        (["Apparel & Accessories"], "Apparel & Accessories"),
        (["", "T-Shirts"], "Apparel & Accessories"),
        (["", "", "new, wooden toys", "Oak Duck"], "Toys & Games"),
        (["", "Dog Toys"], "Animals & Pet Supplies"),
        (["", "", "", "Leather camera bag"], "Cameras & Optics"),
        (["", "", "", "Hand-thrown coffee mug"], "Home & Garden"),
        (["", "", "", "Xyzzy"], None),
    ],
)
def test_the_category_comes_from_path_type_tags_or_title(texts, category):
    assert find_category(texts) == category
    assert category is None or category in CATEGORIES


# Orders, customers, reviews, coupons


def test_an_order_over_several_lines_keeps_its_number_and_finds_products_by_sku_then_name(mine):
    mine.bring(
        SHOPIFY + "mug,Stone Mug,,,,,Color,sand,M-1,5,16,\nmug,,,,,,,slate,M-2,0,14.50,\nlamp,Lamp,,,,,,,,1,64,\n"
    )
    report = mine.bring(
        ORDERS
        + "#0007,ada@example.com,paid,fulfilled,80.00,2026-10-02 10:12:33 -0500,1,Old name,15.00,M-2,Ada B,'02139,"
        + '"Ring\nthe bell",\n'
        + "#0007,ada@example.com,,,,,2,Stone Mug - sand,16.00,,,,,\n"
        + ",,,,,,1,lamp,64.00,,,,,\n"
        + "#0008,ada@example.com,paid,,9,2026-10-03,1,Gone Vase,9.00,G-1,,,,\n"
        + "#0009,,paid,unfulfilled,64,soon,1,Lamp,64.00,,,,,\n"
        + "#0010,bo@example.com,refunded,fulfilled,64,2026-10-03,1,Lamp,64,,,,,\n"
        + "#0011,bo@example.com,paid,,64,2026-10-03,1,Lamp,64,,,,,2026-10-04\n",
        "orders.csv",
    )
    assert (report.format, report.products, report.orders, report.customers) == ("shopify-orders", 0, 4, 2)
    assert list_reasons(report) == {7: "date: found 'soon', expected a date such as 2026-03-04"}
    lines = mine.rows("SELECT product_id, variant, quantity, price FROM order_lines WHERE order_id = '#0007'")
    assert lines == [("mug", "slate", 1, 15.0), ("mug", "sand", 2, 16.0), ("lamp", "standard", 1, 64.0)]
    assert mine.rows("SELECT id, status, placed_on, total FROM orders ORDER BY 1") == [
        ("#0007", "shipped", "2026-10-02", 80.0),
        ("#0008", "processing", "2026-10-03", 9.0),
        ("#0010", "returned", "2026-10-03", 64.0),
        ("#0011", "cancelled", "2026-10-03", 64.0),
    ]
    assert mine.rows("SELECT id, name FROM customers ORDER BY 1") == [
        ("ada@example.com", "Ada B"),
        ("bo@example.com", None),
    ]
    gone = "SELECT name, price, units FROM products JOIN stock ON product_id = id WHERE sku IS NULL AND id = 'G-1'"
    assert mine.rows(gone) == [("Gone Vase", 9.0, None)]


def test_a_product_known_from_orders_becomes_the_real_one_when_its_export_comes(mine):
    mine.bring(ORDERS + "#1,a@example.com,paid,,9,2026-10-03,1,Tall Vase - blue,9.00,V-1,,,,\n", "orders.csv")
    mine.bring(SHOPIFY + "tall-vase,Tall Vase,Glass.,Gla,Vases,,Color,blue,V-1,5,9,\ntall-vase,,,,,,,red,V-2,5,9,\n")
    assert mine.rows("SELECT name, brand, description FROM products") == [("Tall Vase", "Gla", "Glass.")]
    assert mine.rows("SELECT p.name FROM order_lines JOIN products p ON p.id = product_id") == [("Tall Vase",)]


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_generic_order_history(mine, kind):
    orders = [
        {"order_id": "00123", "customer_email": "a@example.com", "order_date": "03/04/2026", "status": "Completed"}
        | {"product": "Oak Desk", "sku": "", "quantity": 2, "unit_price": "$1,100.00"},
        {"order_id": "00123", "customer_email": "a@example.com", "order_date": "03/04/2026", "status": "Completed"}
        | {"product": "Lamp", "sku": "L1", "quantity": 0, "unit_price": "5"},
        {"order_id": "W-9", "customer_email": "", "order_date": "3.4.2026", "status": "lost"}
        | {"product": "Lamp", "sku": "L1", "quantity": 1, "unit_price": "5"},
    ]
    table = ";".join(orders[0]) + "\n" + "\n".join(";".join(map(str, row.values())) for row in orders)
    report = mine.bring(table if kind == "csv" else orders, "x")
    assert (report.format, report.orders, report.customers) == ("orders", 1, 1)
    assert mine.rows("SELECT id, status, placed_on, delivered_on, total FROM orders") == [
        ("00123", "delivered", "2026-03-04", "2026-03-04", 2200.0)
    ]
    reasons = list(list_reasons(report).values())
    assert reasons[0] == "quantity: found 0, expected 1 or more"
    assert reasons[1].startswith("status: found 'lost', expected one of processing")


def test_woocommerce_orders_customers_reviews_and_coupons(mine):
    mine.bring([{"id": 12, "name": "Hoodie", "sku": "H", "price": "42", "regular_price": "42", "attributes": []}], "p")
    orders = [
        {"id": 727, "number": "727", "status": "completed", "date_created": "2026-03-22T16:28:02", "total": "47.00"}
        | {"customer_id": 5, "billing": {"first_name": "Ada", "last_name": "B", "email": "ada@example.com"}}
        | {
            "line_items": [{"id": 1, "name": "Hoodie - Blue", "parent_name": "Hoodie", "product_id": 12, "quantity": 1}]
        },
        {"id": 728, "number": "728", "status": "on-hold", "date_created": "2026-03-23T16:28:02", "total": "5.00"}
        | {"customer_id": 0, "billing": {"first_name": "Bo", "email": "bo@example.com"}}
        | {"line_items": [{"id": 2, "name": "Gone", "product_id": 99, "quantity": 1, "price": 5.0, "sku": ""}]},
    ]
    assert mine.bring(orders, "o").orders == 2
    assert mine.rows("SELECT id, customer_id, status, total FROM orders ORDER BY 1") == [
        ("727", "5", "delivered", 47.0),
        ("728", "bo@example.com", "processing", 5.0),
    ]
    assert mine.rows("SELECT product_id, price FROM order_lines WHERE order_id = '727'") == [("12", 42.0)]
    people = [{"id": 5, "email": "ADA@example.com", "first_name": "Ada", "last_name": "Bright", "billing": {}}]
    people += [{"id": 6, "email": "cy@example.com", "first_name": "Cy", "last_name": "", "billing": {}}]
    assert mine.bring(people, "c").customers == 2
    assert mine.rows("SELECT id, name FROM customers ORDER BY 1")[:2] == [("5", "Ada Bright"), ("6", "Cy")]
    reviews = [
        {"id": 1, "product_id": 12, "status": "approved", "reviewer": "Zed", "review": "<p>Soft.</p>", "rating": 5},
        {"id": 2, "product_id": 12, "status": "spam", "reviewer": "Zed", "review": "<p>Buy</p>", "rating": 5},
        {"id": 3, "product_id": 404, "status": "approved", "reviewer": "Zed", "review": "", "rating": 4},
    ]
    report = mine.bring(reviews, "r")
    assert (report.format, report.reviews) == ("woocommerce-json", 1)
    assert list_reasons(report) == {2: "not published: status is 'spam'", 3: "product '404' is not in the store"}
    assert mine.rows("SELECT rating FROM products WHERE id = '12'") == [(5.0,)]
    coupons = [
        {"code": "ten", "amount": "10.00", "discount_type": "percent", "minimum_amount": "0.00", "date_expires": None},
        {
            "code": "five",
            "amount": "5",
            "discount_type": "fixed_cart",
            "minimum_amount": "30",
            "date_expires": "2999-01-01T00:00:00",
        },
        {"code": "ship", "amount": "0.00", "discount_type": "fixed_cart", "free_shipping": True},
        {"code": "nothing", "amount": "0.00", "discount_type": "fixed_cart", "free_shipping": False},
    ]
    report = mine.bring(coupons, "k")
    assert report.promotions == 3 and list(list_reasons(report)) == [4]
    assert mine.rows("SELECT code, kind, value, minimum_order, ends FROM promotions ORDER BY value DESC") == [
        ("ten", "percent", 10.0, None, None),
        ("five", "amount", 5.0, 30.0, "2999-01-01"),
        ("ship", "free_shipping", 0.0, None, None),
    ]


def test_shopify_customers_lose_the_apostrophe_before_their_id(mine):
    head = "Customer ID,First Name,Last Name,Email,Accepts Email Marketing,Total Orders\n"
    report = mine.bring(head + "'6940095348758,Ada,B,ada@example.com,yes,3\n,No,Body,,no,0\n")
    assert (report.format, report.customers) == ("shopify-customers", 1)
    assert mine.rows("SELECT id, name, email FROM customers") == [("6940095348758", "Ada B", "ada@example.com")]
    assert list_reasons(report) == {3: "found neither a customer id nor an e-mail"}


@pytest.mark.parametrize(
    "head",
    ["title,body,rating,reviewer_name,reviewer_email,product_handle", "headline,review,stars,author,mail,sku"],
)
def test_reviews_need_whole_stars_and_a_known_product(mine, head):
    mine.bring(SHOPIFY + "mug,Mug,,,,,,,mug,5,16,\n")
    rows = [
        "Nice,Good mug,5,A,,mug",
        ",Fine,4.0,A,,mug",
        ",Bad,0,A,,mug",
        ",Half,4.5,A,,mug",
        ",Lost,3,A,,vase",
        ",,3,A,,",
    ]
    report = mine.bring(head + "\n" + "\n".join(rows) + "\n", "reviews.csv")
    assert (report.format, report.reviews) == ("reviews", 2)
    assert list_reasons(report) == {
        4: "stars: found '0', expected 1 to 5",
        5: "stars: found '4.5', expected 1 to 5",
        6: "product 'vase' is not in the store",
        7: "found no product",
    }
    assert mine.rows("SELECT rating FROM products") == [(4.5,)]


# Files: encodings, delimiters, broken tables


TABLE = "name,price,brand\nCafé Mug,4.50,Søren\nNaïve Lamp,7.00,Zoë\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252"])
def test_every_encoding_gives_the_same_names(mine, encoding):
    report = mine.bring(TABLE.encode(encoding))
    assert mine.rows("SELECT name, brand FROM products") == [("Café Mug", "Søren"), ("Naïve Lamp", "Zoë")]
    assert bool(report.remarks) == (encoding in ("latin-1", "cp1252"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_delimiter_and_line_end_is_understood(mine, delimiter, newline):
    text = TABLE.replace(",", delimiter).replace("\n", newline)
    assert mine.bring(text).products == 2
    assert mine.rows("SELECT price FROM products") == [(4.5,), (7.0,)]


def test_excels_delimiter_line_nul_bytes_and_blank_lines_are_skipped(mine):
    report = mine.bring("sep=;\nname;price\n\nRed\0 Mug;4,50\n;;\nBad Mug;x\n")
    assert mine.rows("SELECT name, price FROM products") == [("Red Mug", 4.5)]
    assert list(list_reasons(report)) == [6]


def test_a_second_column_of_a_name_does_not_overwrite_the_first(mine):
    mine.bring("Name,Price,Name,\nRed Mug,4,Tasse rouge,x\n")
    assert mine.rows("SELECT name FROM products") == [("Red Mug",)]


def test_ragged_rows_are_filled_up_or_listed_with_their_line(mine):
    report = mine.bring('name,price,brand\n"Red\nMug",4\nBlue, wide Mug,5,Morwenna\nGreen Mug,6,Mo,,\n')
    assert mine.rows("SELECT name, price FROM products") == [("Red Mug", 4.0), ("Green Mug", 6.0)]
    assert list_reasons(report) == {4: "found 4 cells, the header names 3"}


def test_a_quote_that_never_closes_swallows_no_row_in_silence(mine):
    report = mine.bring('name,price\nRed Mug,4\n"Blue Mug,5\nGreen Mug,6\n27" Screen,7\n')
    assert mine.rows("SELECT name FROM products") == [("Red Mug",)]
    assert list_reasons(report) == {
        3: "a quote opens here and doesn't close where a cell ends, so lines 3-5 can't be read"
    }
    assert mine.bring('name,price\n27" Screen,7\n', "b.csv").products == 1


def test_a_cell_of_a_megabyte_is_refused_as_a_name_and_cut_as_a_description(mine):
    big = "x" * 1_000_000
    report = mine.bring(f"name,price,description\n{big},4,a\nRed Mug,5,{big}\n")
    assert list_reasons(report) == {2: "name: found 100,000 characters, at most 200 are right"}
    assert mine.rows("SELECT name, length(description) FROM products") == [("Red Mug", 4000)]


@pytest.mark.parametrize("cell", ['=HYPERLINK("http://x.example")', "+1+1", "-2+3", "@SUM(A1)", "=1+1"])
def test_a_formula_stays_plain_text_and_is_no_price(mine, cell):
    quoted = '"' + cell.replace('"', '""') + '"'
    report = mine.bring(f"name,price,brand\n{quoted},4,{quoted}\nRed Mug,{quoted},x\n")
    assert mine.rows("SELECT name, brand FROM products") == [(cell, cell)]
    assert list_reasons(report)[3].startswith("price: found ")


def test_control_characters_do_not_reach_the_store(mine):
    mine.bring("name,price\nRed\x1b[31m Mug\x07\u200b,4\n")
    assert mine.rows("SELECT name FROM products") == [("Red[31m Mug",)]


def test_html_and_script_in_a_body_become_plain_words(mine):
    body = "<style>p{}</style><p>Oak &amp; ash<br>40&nbsp;cm</p><script>alert('x')</script><!-- note --><b>Solid</b>."
    mine.bring(f'name,price,description\nDesk,4,"{body}"\n')
    assert mine.rows("SELECT description FROM products") == [("Oak & ash 40 cm Solid.",)]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "an HTML page"),
        (b"\xef\xbb\xbf\n <html>", "an HTML page"),
        (b"", "an empty file"),
        (b"\xef\xbb\xbf \r\n", "an empty file"),
        (b"name,price\n", "no rows"),
        (b"PK\x03\x04\x14\x00", "a ZIP archive or Excel workbook"),
        (b"%PDF-1.7", "a PDF"),
        (b"SQLite format 3\0", "a database"),
        (bytes(range(256)) * 20, "no text"),
        (b'{"products": [', "broken JSON"),
        (b"[]", "no rows"),
        (b"[1, 2]", "nothing that can be read"),
        (b"first,second\n1,2\n", "first, second"),
        (b'[{"foo": 1, "bar": 2}]', "foo, bar"),
    ],
)
def test_what_is_no_export_is_refused_in_one_line_and_makes_no_store(mine, capsys, data, said):
    path = mine.folder / "export.csv"
    path.write_bytes(data)
    assert cli.main(["import", str(path), "--store", str(mine.path)]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("elm import: ") and str(path) in error and said in error
    assert not mine.path.exists() and not list(mine.folder.glob("*.part"))


def test_an_unknown_layout_names_the_columns_found_and_the_formats_known(mine):
    with pytest.raises(StoreFileError) as error:
        mine.bring("first,second\n1,2\n")
    assert "first, second" in str(error.value)
    assert all(form in str(error.value) for form in list_formats())


def test_a_broken_line_of_json_lines_is_listed(mine):
    report = mine.bring('{"name": "Red Mug", "price": 4}\n{"name": \n[1]\n{"foo": 1}\n', "x.jsonl")
    assert report.products == 1
    assert sorted(list_reasons(report)) == [2, 3, 4]


# The command: mapping, formats, folders, one transaction


def test_columns_of_any_name_are_mapped(mine):
    table = "Titel;Preis;Bestand;Farbe\nRote Tasse;4,50;3;rot\n"
    with pytest.raises(StoreFileError, match="Titel, Preis, Bestand, Farbe"):
        mine.bring(table)
    mine.bring(table, mapping={"name": "Titel", "price": "Preis", "stock": "Bestand", "variant": "Farbe"})
    assert mine.rows("SELECT name, price, variant, units FROM products JOIN stock ON product_id = id") == [
        ("Rote Tasse", 4.5, "rot", 3)
    ]
    with pytest.raises(StoreFileError, match=r"no column \['Name'\], only Titel"):
        mine.bring(table, mapping={"name": "Name", "price": "Preis"})
    with pytest.raises(StoreFileError, match=r"found \['nme'\], expected fields out of name"):
        mine.bring(table, mapping={"nme": "Titel"})


def test_format_overrides_what_would_be_found(mine):
    assert mine.bring("name,price\nMug,4\n", form="products").format == "products"
    with pytest.raises(StoreFileError, match="--format: found 'nonsense', expected auto, shopify-orders"):
        mine.bring("name,price\nMug,4\n", form="nonsense")
    report = mine.bring("name,price\nMug,4\n", form="customers")
    assert (report.customers, list(list_reasons(report))) == (0, [2])


def test_the_last_line_with_json_is_the_contract(mine, capsys):
    path = IMPORTS / "shopify_products.csv"
    assert cli.main(["import", str(path), "--store", str(mine.path), "--json"]) == 0
    out, error = capsys.readouterr()
    found = json.loads(out.splitlines()[-1])
    names = ["format", "products", "variants", "orders", "customers", "reviews", "conversations", "rejected"]
    assert list(found) == names and error == ""
    assert (found["format"], found["products"], found["variants"]) == ("shopify-products", 25, 50)
    assert [set(entry) for entry in found["rejected"]] == [{"line", "reason"}] * 2
    assert cli.main(["import", str(path), "--store", str(mine.path), "--map", "name"]) == 2
    assert cli.main(["import", str(path.with_name("none.csv")), "--store", str(mine.path)]) == 2


def test_every_row_of_the_sample_files_is_imported_or_listed(mine):
    for file in sorted(IMPORTS.glob("*.csv")):
        table = read_table(file)
        lines = {record.line for record in table.records}
        report = import_path(file, mine.path)
        assert lines and set(list_reasons(report)) <= lines
    assert len(mine.rows("SELECT 1 FROM products")) == 29


def test_a_folder_is_imported_products_first_and_names_the_file_of_each_reject(mine):
    folder = mine.folder / "exports"
    folder.mkdir()
    (folder / "a_reviews.csv").write_text("rating,review,sku\n5,Nice,M-1\n9,Bad,M-1\n")
    (folder / "z_products.csv").write_text("name,price,sku\nMug,4,M-1\n")
    (folder / "logo.png").write_bytes(b"\x89PNG" + bytes(range(256)) * 9)
    (folder / ".DS_Store").write_bytes(b"\0")
    report = import_path(folder, mine.path)
    assert (report.format, report.products, report.reviews) == ("reviews, products", 1, 1)
    reasons = [entry["reason"] for entry in report.rejected]
    assert any(reason.startswith("a_reviews.csv: stars") for reason in reasons)
    assert any(reason.startswith("logo.png: ") and "no text" in reason for reason in reasons) and len(reasons) == 2


def test_importing_twice_changes_nothing(mine):
    import_path(IMPORTS, mine.path)
    first = mine.dump()
    assert all(first[table] for table in ("products", "variants", "stock", "orders", "customers", "reviews"))
    report = import_path(IMPORTS, mine.path)
    assert mine.dump() == first
    assert report.products == 29


def test_a_later_export_renews_price_and_stock_and_keeps_orders_reviews_and_returns(mine):
    mine.bring(SHOPIFY + "mug,Mug,,,,,,,M-1,5,16,\n")
    mine.bring(
        "order_id,date,status,sku,quantity,price,email\n1,2026-10-01,delivered,M-1,1,16,a@example.com\n", "o.csv"
    )
    mine.bring("rating,sku\n4,M-1\n", "r.csv")
    conn = open_store(mine.path)
    with conn:
        conn.execute("INSERT INTO returns VALUES ('R', '1', 1, NULL, 16, 'approved', '2026-10-02')")
    conn.close()
    mine.bring("name,price,sku,stock\nBig Mug,12,M-1,9\n", "later.csv")
    mine.bring(
        "order_id,date,status,sku,quantity,price,email\n1,2026-10-01,delivered,M-1,1,16,a@example.com\n", "o.csv"
    )
    assert mine.rows("SELECT id, name, price, rating FROM products") == [("mug", "Big Mug", 12.0, 4.0)]
    assert mine.rows("SELECT units FROM stock") == [(9,)]
    assert mine.rows("SELECT count(*) FROM returns") == mine.rows("SELECT count(*) FROM order_lines") == [(1,)]


def test_a_sku_that_two_products_claim_stays_with_the_first_and_the_report_says_so(mine):
    report = mine.bring(SHOPIFY + "a,A Mug,,,,,,,X,1,1,\nb,B Mug,,,,,,,X,1,1,\n")
    assert report.products == 2
    assert mine.rows("SELECT product_id FROM variants WHERE sku = 'X'") == [("a",)]
    assert any("'B Mug'" in remark and "'X'" in remark for remark in report.remarks)


def test_replace_empties_the_shop_but_keeps_delivery_and_policies(mine):
    build_store(mine.path).close()
    report = mine.bring(SHOPIFY + "mug,Mug,,,,,,,M-1,5,16,\n", empty=True)
    assert report.products == 1
    counts = {table: len(rows) for table, rows in mine.dump().items()}
    assert [counts[table] for table in ("products", "customers", "orders", "reviews", "promotions", "returns")] == [
        1
    ] + [0] * 5
    assert counts["shipping_rates"] and counts["shipping_zones"]
    assert mine.rows("SELECT count(*) FROM meta WHERE key = 'today'") == [(0,)]
    assert mine.rows("SELECT name FROM product_search") == [("Mug",)]


@pytest.mark.parametrize("empty", [False, True])
def test_a_failed_import_leaves_the_store_as_it_was(mine, monkeypatch, empty):
    mine.bring(SHOPIFY + "mug,Mug,,,,,,,M-1,5,16,\n")
    before = mine.dump()

    def fail(conn, order, rejected):
        conn.execute("INSERT INTO nowhere VALUES (1)")

    monkeypatch.setattr("elm_helpers.writers.write_order", fail)
    both = mine.folder / "both"
    both.mkdir()
    (both / "p.csv").write_text(SHOPIFY + "lamp,Lamp,,,,,,,L-1,5,16,\n")
    (both / "o.csv").write_text(ORDERS + "#1,a@example.com,paid,,9,2026-10-03,1,Lamp,9,,,,,\n")
    with pytest.raises(StoreFileError, match="can't be written"):
        import_path(both, mine.path, empty=empty)
    assert mine.dump() == before
    with pytest.raises(StoreFileError):
        import_path(both, mine.folder / "new.db")
    assert not list(mine.folder.glob("*new.db*"))


def test_a_store_that_somebody_else_is_writing_is_reported_not_waited_for_ever(mine):
    mine.bring(SHOPIFY + "mug,Mug,,,,,,,M-1,5,16,\n")
    other = sqlite3.connect(mine.path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreFileError, match="locked"):
        mine.bring(SHOPIFY + "lamp,Lamp,,,,,,,L-1,5,16,\n")
    other.close()


# What follows an import: tools and rows


def test_all_eight_tools_answer_on_an_imported_store(mine):
    import_path(IMPORTS, mine.path)
    conn = open_store(mine.path)
    session = Session(conn, "ada.brightwater@example.com")
    order = mine.rows("SELECT id FROM orders WHERE customer_id = ?", session.customer_id)[0][0]
    calls = {
        "search_products": {"query": "mug", "category": "Home & Garden", "max_price": 20},
        "get_product_info": {"product": "Kantholt Oak Stool"},
        "get_inventory": {"product": "morwenna-stoneware-mug", "variant": "sand"},
        "calculate_shipping": {"destination": "Berlin", "product": "SYL-023-1"},
        "get_customer_orders": {"order_id": order.lstrip("#")},
        "initiate_return": {"order_id": order},
        "get_discount_eligibility": {},
        "get_similar_products": {"product": "Pikkula Wool Throw"},
    }
    results = {name: run_tool(session, name, arguments) for name, arguments in calls.items()}
    assert set(results) == set(TOOLS)
    for name in set(TOOLS) - {"initiate_return"}:
        assert "error" not in results[name], (name, results[name])
    assert "only delivered orders can be returned" in results["initiate_return"]["error"]
    assert results["get_product_info"]["rating"] == 5.0
    assert results["get_customer_orders"]["orders"][0]["order_id"] == order
    assert results["get_similar_products"]["similar"]
    conn.close()


@pytest.mark.parametrize("files", [["."], ["shopify_products.csv"]])
def test_rows_about_an_imported_shop_can_be_generated(mine, tmp_path, files):
    from elm_helpers.generate import write_dataset
    from elm_helpers.tool_calls import parse_tool_calls

    for file in files:
        import_path(IMPORTS / file, mine.path)
    report = write_dataset(tmp_path, rows=200, eval_rows=40, store_path=mine.path)
    assert sum(report.counts["train"].values()) == 200
    rows = [json.loads(line) for line in (tmp_path / "ecommerce_train.json").read_text(encoding="utf-8").splitlines()]
    names = {row[0] for row in mine.rows("SELECT name FROM products")}
    text = " ".join(message["content"] for row in rows for message in row["messages"])
    assert sum(name in text for name in names) > 15
    calls = [
        c for row in rows for m in row["messages"] if m["role"] == "assistant" for c in parse_tool_calls(m["content"])
    ]
    conn = open_store(mine.path)
    assert len(calls) > 20
    products = [call.arguments["product"] for call in calls if call.name == "get_product_info"]
    assert any(resolve_product(conn, name) is not None for name in products)
    conn.close()


def test_rows_can_be_made_about_goods_whose_names_lack_the_brand(mine, tmp_path):
    from elm_helpers.generate import write_dataset

    brands = ("Quarry Lane", "")
    goods = [
        f"mug-{n},Mug No. {'ABCDEFGHIJKLMNOPQRST'[n]},{brands[n % 2]},Mugs,white,{n + 5},shopify,{n}" for n in range(20)
    ]
    head = "Handle,Title,Vendor,Type,Glaze (product.metafields.custom.glaze),Variant Price,Variant Inventory Tracker,"
    mine.bring("\n".join([head + "Variant Inventory Qty", *goods]))
    write_dataset(tmp_path, rows=40, eval_rows=8, store_path=mine.path, mix={"product_description": 1})
    rows = [json.loads(line) for line in (tmp_path / "ecommerce_train.json").read_text(encoding="utf-8").splitlines()]
    pairs = [[message["content"] for message in row["messages"][1:]] for row in rows]
    assert {"Brand: Quarry Lane" in asked for asked, _ in pairs} == {True, False}
    assert all(("Brand: " in asked) == (" by Quarry Lane" in answer) for asked, answer in pairs)


def test_a_shop_with_too_little_for_rows_says_what_to_do(mine, tmp_path):
    from elm_helpers.generate import write_dataset

    mine.bring("Handle,Title,Vendor,Type,Variant Price\na,A Mug,Y,Mugs,1\n")
    with pytest.raises(ValueError, match="attempts were rejected, most often .* times\\); the shop may have too few"):
        write_dataset(tmp_path, rows=40, eval_rows=8, store_path=mine.path)


def test_an_import_beside_the_courses_goods_is_remarked(mine):
    build_store(mine.path).close()
    table = "name,price\nOak Desk,2\n"
    assert mine.bring(table).remarks == ("the course's shop is in this store too; with --replace it goes first",)
    assert mine.bring(table, empty=True).remarks == mine.bring(table).remarks == ()


def test_orders_in_another_currency_are_remarked(mine):
    head = "Name,Email,Financial Status,Currency,Total,Created at,Lineitem quantity,Lineitem name,Lineitem price\n"
    told = "found orders in EUR; the agent will call their amounts dollars"
    for coin, remarks in (("USD", ()), ("EUR", (told,)), ("", ())):
        assert mine.bring(head + f"#1,a@x.example,paid,{coin},5,2026-10-01,1,A Mug,5\n").remarks == remarks


# Parsers: any bytes, any table


CELLS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["", "1", "-1", "x", "id:1", "1.5", "=1+1", "2026-01-01", "variation", "<b>x", "a" * 300, "'1", "5"]
    ),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), CELLS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "title", "name", "variants", "price", "line_items", "email", "edges", "nodes", "rating"]
            )
            | st.sampled_from(["handle", "vendor", "regular_price", "attributes", "parent_id", "billing", "created_at"])
            | st.sampled_from(
                ["financial_status", "sku", "quantity", "review", "reviewer", "product_id", "code", "amount"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)
HEADS = [SHOPIFY, ORDERS, WOO, "name,price,sku,stock\n", "rating,review,sku\n", "order_id,date,item,price,email\n"]
fuzz = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check_all_or_nothing(mine, data):
    """Import bytes: either a report whose rejects have lines and reasons, or one error and an unchanged store."""
    if not mine.path.exists():
        mine.bring(SHOPIFY + "mug,Mug,,,,,Color,red,M-1,5,16,\n", "first.csv")
    before = mine.dump()
    try:
        report = mine.bring(data, "fuzz")
    except StoreFileError as error:
        assert "fuzz" in str(error) and mine.dump() == before
    else:
        assert all(entry["line"] >= 0 and entry["reason"] for entry in report.rejected)
        after = mine.dump()
        mine.path.unlink()
        assert all(row[1] for row in after["specifications"]) and all(row[2] for row in after["products"])


@fuzz
@given(st.binary(max_size=300))
def test_any_bytes_are_imported_or_refused(mine, data):
    check_all_or_nothing(mine, data)


@fuzz
@given(st.sampled_from(HEADS), st.lists(st.lists(CELLS, max_size=14), min_size=1, max_size=6), st.data())
def test_any_table_is_imported_or_refused(mine, head, rows, data):
    quote = data.draw(st.booleans())
    lines = [",".join('"' + cell.replace('"', '""') + '"' if quote else cell for cell in row) for row in rows]
    check_all_or_nothing(mine, (head + "\n".join(lines)).encode("utf-8", "surrogatepass"))


@fuzz
@given(st.lists(JSON, max_size=5) | JSON)
def test_any_json_is_imported_or_refused(mine, document):
    check_all_or_nothing(mine, json.dumps(document))


@given(st.text())
def test_any_text_becomes_plain_text(text):
    assert "<script" not in strip_html("<script>x</script>" + text.replace("<", ""))
    strip_html(text)


@given(st.floats(0, 999_999).map(lambda value: round(value, 2)), st.sampled_from(["{:,.2f}", "${:,.2f}", "{:.2f} USD"]))
def test_a_price_is_read_as_it_was_written(value, form):
    written = form.format(value)
    assert read_money({"price": written}, "price") == value
    swapped = written.replace(",", "_").replace(".", ",").replace("_", ".")
    assert read_money({"price": swapped}, "price") == value


@given(st.text("0123456789#ABCabc-_.", min_size=1, max_size=30))
def test_an_id_stays_as_it_is_written(key):
    assert read_key({"sku": key}, "sku") == key
