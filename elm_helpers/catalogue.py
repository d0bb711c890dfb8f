"""The catalogue: hand-written products, kinds and titles, read from YAML and checked, so that a typo names its line."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elm_helpers.paths import TEMPLATES

import yaml

CATALOGUE = TEMPLATES / "catalogue"
# fmt: off
CATEGORIES = (
    "Animals & Pet Supplies", "Apparel & Accessories", "Arts & Entertainment", "Baby & Toddler",
    "Business & Industrial", "Cameras & Optics", "Electronics", "Food, Beverages & Tobacco", "Furniture", "Hardware",
    "Health & Beauty", "Home & Garden", "Luggage & Bags", "Media", "Office Supplies", "Sporting Goods", "Toys & Games",
    "Vehicles & Parts",
)
# fmt: on

# What a file holds, and the regular expression of each kind of value. "?" marks what may be missing, "*" is any name.
VALUES = {
    "text": r"(?s).*\S.*",
    "text without double quotes": r'[^"\n]*\w[^"\n]*',
    "US dollars such as 89.00": r"(?!0+(\.0+)?$)\d{1,6}(\.\d\d?)?",
    "1 to 5 stars": "[1-5]",
    "one of the 18 categories": "|".join(CATEGORIES),
}
PRODUCT: dict[str, Any] = {
    "name": "text without double quotes",
    "brand": "text without double quotes",
    "description": "text",
}
PRODUCT |= {"price": "US dollars such as 89.00", "specs": {"*": "text"}}
KIND: dict[str, Any] = {"kind": "text", "also?": ["text"], "variants?": {"*": ["text"]}, "products": [PRODUCT]}
KIND |= {"reviews": [["1 to 5 stars", "text"]]}
FILE = {"category": "one of the 18 categories", "kinds": [KIND], "titles?": ["text"]}


@dataclass(frozen=True)
class Product:
    """One thing that the shop sells; `variants` are the values of its kind's one axis, empty when it has none."""

    id: str
    sku: str
    name: str
    brand: str
    category: str
    kind: str
    price: float
    description: str
    specifications: dict[str, str]
    variants: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """What a customer would type for a group of products, other words for it, and (stars, text) reviews."""

    name: str
    category: str
    also: tuple[str, ...]
    axis: str | None
    reviews: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Catalogue:
    """All products and kinds in file order, and further titles of other shops by category."""

    products: tuple[Product, ...]
    kinds: tuple[Kind, ...]
    titles: dict[str, tuple[str, ...]]


def read_catalogue(folder: Path | str = CATALOGUE) -> Catalogue:
    """Return what the folder's YAML files sell, checked; files go in name order, so ids are stable.

    Args:
        folder: Holds one `<slug>.yaml` a category, in the shape of `FILE` above.

    Returns:
        The catalogue; product ids run P0001, P0002, … and names, kinds and SKUs are unique in it.

    Raises:
        ValueError: Names the file, line and field, what was found, and what would be right.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    products, kinds, titles, used = [], [], {}, {}
    for path in sorted(Path(folder).glob("*.yaml")):
        file = _read_file(path)
        _claim(used, path, "category", file["category"])
        titles[file["category"]] = tuple(file.get("titles", ()))
        for entry in file["kinds"]:
            axis, values = next(iter(entry.get("variants", {}).items()), (None, []))
            if len(entry.get("variants", {})) > 1 or len(values) > 4 or len(set(values)) < len(values):
                raise ValueError(f"{path.name}, {entry['kind']}, variants: expected 1 axis with 1-4 different values")
            _claim(used, path, "kind", entry["kind"])
            reviews = tuple((int(stars), text) for stars, text in entry["reviews"])
            kinds.append(Kind(entry["kind"], file["category"], tuple(entry.get("also", ())), axis, reviews))
            for item in entry["products"]:
                sku = _build_sku(path, item["name"], item["brand"], used)
                fields = (sku, item["name"], item["brand"], file["category"], entry["kind"], float(item["price"]))
                texts = (item["description"], item["specs"], tuple(values))
                products.append(Product(f"P{len(products) + 1:04}", *fields, *texts))
    if not products:
        raise ValueError(f"{folder}: found no products, expected *.yaml files with kinds")
    return Catalogue(tuple(products), tuple(kinds), titles)


def build_code(text: str, length: int) -> str:
    """Return a piece of a SKU: the text's first ASCII letters and digits, as capitals.

    Example:
        >>> build_code("Söder", 3), build_code("EU 42", 6)
        ('SOD', 'EU42')

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub("[^A-Z0-9]", "", plain.upper())[:length]


def _build_sku(path: Path, name: str, brand: str, used: dict) -> str:
    """Return brand and model, as COR-HUSH40; a second such product gets a number."""
    if not re.search(r"^ .*\w", name.removeprefix(brand)):
        raise ValueError(f"{path.name}, name: found {name!r}, expected the brand {brand!r} first and more after it")
    _claim(used, path, "name", name)
    first, second = [*re.findall(r"\w+", name.removeprefix(brand)), ""][:2]
    base = f"{build_code(brand, 3)}-{build_code(first, 8)}{build_code(second, 4) if second[:1].isdigit() else ''}"
    used[base] = used.get(base, 0) + 1
    return base if used[base] == 1 else f"{base}.{used[base]}"


def _claim(used: dict, path: Path, field: str, value: str) -> None:
    key = (field, value.casefold())
    if key in used:
        raise ValueError(f"{path.name}, {field}: found {value!r}, expected one that {used[key]} does not have")
    used[key] = path.name


def _read_file(path: Path) -> dict:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name}: found {' '.join(str(error).split())}; expected YAML in UTF-8") from None
    if node is None:
        raise ValueError(f"{path.name}: found nothing, expected {', '.join(FILE)}")
    return _read_node(node, FILE, path.name, "file")


def _read_node(node: yaml.Node, shape: str | list | dict, file: str, field: str) -> Any:
    """Return the node's plain value; a scalar stays the text it was written as: `yes`, `1.10`, `12:30`."""
    where = f"{file}, line {node.start_mark.line + 1}, {field}"
    if isinstance(shape, str):
        if node.id != "scalar" or not re.fullmatch(VALUES[shape], node.value):
            raise ValueError(f"{where}: found {node.value if node.id == 'scalar' else node.id!r:.60}, expected {shape}")
        return node.value
    expected = "mapping" if isinstance(shape, dict) else "sequence"
    if node.id != expected or not node.value:
        raise ValueError(f"{where}: found {node.value or 'nothing'!r:.60}, expected a {expected}")
    if isinstance(shape, list):
        shapes = shape * len(node.value) if len(shape) == 1 else shape
        if len(shapes) != len(node.value):
            raise ValueError(f"{where}: found {len(node.value)} values, expected {' and '.join(shapes)}")
        return [_read_node(child, each, file, field) for child, each in zip(node.value, shapes, strict=True)]
    entry = {}
    for key, child in node.value:
        name = _read_node(key, "text", file, f"a name in {field}")
        inner = shape.get(name, shape.get(f"{name}?", shape.get("*")))
        if inner is None or name in entry:
            raise ValueError(f"{where}: found {name!r} once too often, expected {', '.join(shape)}")
        entry[name] = _read_node(child, inner, file, name)
    for name in shape:
        if not name.endswith(("?", "*")) and name not in entry:
            raise ValueError(f"{where}: found no {name}, expected {', '.join(shape)}")
    return entry
