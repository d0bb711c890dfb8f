"""The catalogue's reader refuses what a hurried author types, and the authors' files keep their promises."""

import re
from collections import Counter

from elm_helpers.catalogue import CATEGORIES, build_code, read_catalogue

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TINY = """\
category: Electronics
kinds:
  - kind: wireless headphones
    also: [bluetooth headphones]
    variants: {colour: [black, no]}
    products:
      - name: Corvane Hush 40 Wireless Headphones
        brand: Corvane
        price: 89.00
        specs: {connection: 1.10, folds: yes, starts at: 12:30}
        description: Light enough for a whole flight.
    reviews:
      - [4, "Comfortable."]
titles:
  - "HDMI Cable 2m"
"""


def read_tiny(folder, old="", new=""):
    (folder / "electronics.yaml").write_text(TINY.replace(old, new) if old else TINY, encoding="utf-8")
    return read_catalogue(folder)


def test_yaml_words_and_numbers_stay_the_text_that_the_author_typed(tmp_path):
    product = read_tiny(tmp_path).products[0]
    assert product.specifications == {"connection": "1.10", "folds": "yes", "starts at": "12:30"}
    assert product.variants == ("black", "no")
    assert (product.id, product.sku, product.price) == ("P0001", "COR-HUSH40", 89.0)


def test_a_kind_keeps_its_other_words_axis_and_reviews(tmp_path):
    catalogue = read_tiny(tmp_path)
    kind = catalogue.kinds[0]
    assert (kind.also, kind.axis, kind.reviews) == (("bluetooth headphones",), "colour", ((4, "Comfortable."),))
    assert catalogue.titles == {"Electronics": ("HDMI Cable 2m",)}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("price: 89.00", "price: $89", r"electronics.yaml, line 9, price: found .\$89., expected US dollars"),
        ("price: 89.00", "price: 0.00", "line 9, price"),
        ("price: 89.00", "price: nan", "line 9, price"),
        ("price: 89.00", "price: [89]", "line 9, price: found 'sequence'"),
        ("        brand: Corvane\n", "", "line 7, products: found no brand"),
        ("brand: Corvane", "brand: Telvik", "name: found 'Corvane Hush 40.*brand 'Telvik' first"),
        ("brand: Corvane", "colour: red", "found 'colour' once too often"),
        ("brand: Corvane", "brand: Corvane\n        brand: Corvane", "found 'brand' once too often"),
        ("Hush 40", 'Hush 40"', "line 7, name"),
        ("Electronics", "Electronic", "line 1, category: found 'Electronic', expected one of the 18"),
        ('[4, "Comfortable."]', '[6, "Comfortable."]', "line 13, reviews: found '6', expected 1 to 5 stars"),
        ('[4, "Comfortable."]', "[4]", "line 13, reviews: found 1 values"),
        ("[black, no]", "[black, black]", "wireless headphones, variants"),
        ("[black, no]", "[a, b, c, d, e]", "wireless headphones, variants"),
        ("[black, no]", "[]", "line 5, colour"),
        ("folds: yes", "range: 1,200 m", "specs|200 m"),
        ("folds: yes", "folds: ''", "line 10, folds"),
        ("Light enough", "Light: enough", "line 11"),
        ("kinds:", "kinds: 3\nother:", "line 2, kinds: found '3', expected a sequence"),
        ("titles:", "titles:\n  - a: b", "line 15, titles: found 'mapping'"),
        ("category", "? [a]\n: b\ncategory", "line 1, a name in file"),
    ],
)
def test_an_authors_slip_is_refused_by_file_line_and_field(tmp_path, old, new, message):
    assert old in TINY
    with pytest.raises(ValueError, match=message) as caught:
        read_tiny(tmp_path, old, new)
    assert "electronics.yaml" in str(caught.value)


def test_two_products_may_not_share_a_name_even_in_another_case(tmp_path):
    product = TINY[TINY.index("      - name") : TINY.index("    reviews")]
    with pytest.raises(ValueError, match="name: found 'Corvane HUSH 40"):
        read_tiny(tmp_path, product, product + product.replace("Hush", "HUSH"))


def test_two_files_may_not_hold_the_same_category_or_kind(tmp_path):
    (tmp_path / "a.yaml").write_text(TINY, encoding="utf-8")
    with pytest.raises(ValueError, match=r"electronics.yaml, category: .* a.yaml"):
        read_tiny(tmp_path)
    with pytest.raises(ValueError, match=r"electronics.yaml, kind: .* a.yaml"):
        read_tiny(tmp_path, "Electronics", "Media")


def test_models_of_one_name_get_different_skus(tmp_path):
    product = TINY[TINY.index("      - name") : TINY.index("    reviews")]
    catalogue = read_tiny(tmp_path, product, product + product.replace("Wireless", "Studio"))
    assert [item.sku for item in catalogue.products] == ["COR-HUSH40", "COR-HUSH40.2"]


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe\x00", b"a: [", b"\x00", b"- 1", b"a: *nobody"])
def test_a_file_that_is_no_catalogue_is_refused_by_name(tmp_path, content):
    (tmp_path / "broken.yaml").write_bytes(content)
    with pytest.raises(ValueError, match="broken.yaml"):
        read_catalogue(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="found no products"):
        read_catalogue(tmp_path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, len(TINY)), length=st.integers(0, 40), new=st.text(max_size=8))
def test_a_damaged_file_is_read_or_refused_but_never_crashes(tmp_path, start, length, new):
    text = (TINY[:start] + new + TINY[start + length :]).encode("utf-8", "ignore")
    (tmp_path / "electronics.yaml").write_bytes(text)
    try:
        assert read_catalogue(tmp_path).products
    except ValueError as error:
        assert "electronics.yaml" in str(error)


@given(st.text(), st.integers(1, 12))
def test_a_code_is_short_ascii_whatever_the_brand(text, length):
    assert re.fullmatch(f"[A-Z0-9]{{0,{length}}}", build_code(text, length))


# From here on: what the authors promised about data/templates/catalogue.


@pytest.fixture(scope="module")
def catalogue():
    return read_catalogue()


def test_all_eighteen_categories_have_twelve_kinds_and_sixty_titles(catalogue):
    assert Counter(kind.category for kind in catalogue.kinds) == dict.fromkeys(CATEGORIES, 12)
    assert {category: len(titles) for category, titles in catalogue.titles.items() if len(titles) < 60} == {}


def test_there_are_over_600_products_and_each_kind_has_three_of_different_brands(catalogue):
    assert len(catalogue.products) >= 600
    brands = {kind.name: set() for kind in catalogue.kinds}
    for product in catalogue.products:
        brands[product.kind].add(product.brand)
    assert {kind: found for kind, found in brands.items() if len(found) < 3} == {}


def test_ids_and_skus_are_unique(catalogue):
    assert len({item.id for item in catalogue.products}) == len(catalogue.products)
    assert len({item.sku for item in catalogue.products}) == len(catalogue.products)


def test_names_have_at_most_eight_words_and_products_three_to_six_facts(catalogue):
    assert [item.name for item in catalogue.products if len(item.name.split()) > 8] == []
    assert [item.name for item in catalogue.products if not 3 <= len(item.specifications) <= 6] == []


def test_no_description_has_a_number_that_the_specifications_lack(catalogue):
    invented = []
    for item in catalogue.products:
        facts = " ".join([item.name, *item.variants, *item.specifications, *item.specifications.values()])
        known = set(re.findall(r"\d+(?:[.,]\d+)*", facts))
        invented += [(item.name, n) for n in re.findall(r"\d+(?:[.,]\d+)*", item.description) if n not in known]
    assert invented == []


def test_every_kind_has_three_reviews(catalogue):
    assert [kind.name for kind in catalogue.kinds if len(kind.reviews) < 3] == []


def test_a_title_has_one_category(catalogue):
    titles = Counter(title.casefold() for listed in catalogue.titles.values() for title in listed)
    assert [title for title, count in titles.items() if count > 1] == []
