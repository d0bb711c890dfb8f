"""Where an imported product belongs: its id, one of the 18 categories, and its kind in a customer's words."""

import re
from functools import cache

from elm_helpers.catalogue import CATEGORIES, read_catalogue
from elm_helpers.paths import TEMPLATES
from elm_helpers.shop import fold_place

import yaml


def build_id(name: str, sku: str | None = None) -> str:
    """Return an id for a product that its export gives none: the SKU, or the name as a shop's address has it.

    Example:
        >>> build_id("Söder Mug, 300 ml")
        'soder-mug-300-ml'

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    return sku or fold_place(name).replace(" ", "-") or name


@cache
def read_category_words() -> dict[tuple[str, ...], str]:
    """Return the category of each known phrase: the catalogue's kinds and data/templates/category_words.yaml.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    listed = yaml.safe_load((TEMPLATES / "category_words.yaml").read_text(encoding="utf-8"))
    pairs = [(kind.category, word) for kind in read_catalogue().kinds for word in (kind.name, *kind.also)]
    pairs += [(category, word) for category, words in listed.items() for word in words]
    return {tuple(_split_words(word)): category for category, word in pairs}


def find_category(texts: list[str]) -> str | None:
    """Return which of the 18 categories the first telling text means, or None.

    Args:
        texts: Taxonomy path, type, tags and title, the most trusted first.

    Example:
        >>> find_category(["Furniture > Chairs"]), find_category(["", "Men's Hoodies"]), find_category(["?"])
        ('Furniture', 'Apparel & Accessories', None)

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    names = {name.casefold(): name for name in CATEGORIES}
    for text in texts:
        for part in re.split(r"\s*>\s*", text.casefold()):
            if part in names:
                return names[part]
    known = read_category_words()
    for text in texts:
        words = _split_words(text)[:60]
        for size in range(4, 0, -1):
            for start in range(len(words) - size, -1, -1):
                if category := known.get(tuple(words[start : start + size])):
                    return category
    return None


def find_kind(path: str, name: str) -> str:
    """Return what a customer would call the product: the last level of its type, else the last words of its name.

    Example:
        >>> find_kind("Home > Lighting > Desk Lamps", "Lumo 3"), find_kind("", "Harbour Oak Desk Lamp, 40 cm - black")
        ('desk lamps', 'desk lamp')

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    level = re.split(r"\s*>\s*", path.strip(" >"))[-1].casefold()
    words = [word for word in re.split(r"\s[-–|]\s|[,(]", name)[0].split() if not re.search(r"\d", word)]
    return level or " ".join(words[-2:]).casefold() or name.casefold()


def _split_words(text: str) -> list[str]:
    words = re.findall(r"[^\W\d_]+", text.casefold())
    return [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in words]
