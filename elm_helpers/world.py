"""What rows are made of: one split's products, orders, titles and wordings, and how customers put them into words."""

import json
import random
import re
import sqlite3
from dataclasses import dataclass, replace

from elm_helpers.answers import Rejected
from elm_helpers.messages import Slot
from elm_helpers.phrasebook import EVAL_SHARE, SLOT, Phrasebook, hash_text, keep_split
from elm_helpers.store import index_products, read_split

PRICE_STYLES = ("${}",) * 7 + ("{}", "{} dollars", "{} dollars", "{} bucks", "USD {}", "word", "{}$", "{} usd")
NICE = (5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 80, 100, 120, 150, 200, 250, 300, 400, 500, 700, 1000, 1500, 2000, 3000)
COUNTS = (2, 3, 4, 5, 6, 10, 15, 20, 30, 40, 50, 60, 80, 100, 200, 500)
SPOKEN = "two|three|four|five|six|ten|fifteen|twenty|thirty|forty|fifty|sixty|eighty|a hundred|two hundred|five hundred"
WORDS: dict[float, str] = dict(zip(COUNTS, SPOKEN.split("|"), strict=True))
TRAITS = ("good quality", "simple", "nice", "cheap", "popular")
TAILS = ("my dad", "my mum", "a friend", "my boyfriend", "my wife", "my sister", None, "a beginner", "everyday use")
TAILS += ("travelling", "the weekend", "a birthday")
TAILS = tuple(f"for {who}" if who else "as a gift" for who in TAILS) + ("with good reviews",)
MASS = re.compile(
    r"\b(litter|food|kibble|yarn|coffee|tea|chocolate|oil|honey|pasta|sauce|granola|muesli|cereal|water|soda|tobacco|wool|"
    r"paint|cream|shampoo|sunscreen|perfume|soap|polish|luggage|software|music|wood|milk|wax|clay|seasoning|spaghetti|gear|"
    r"lotion|powder|paper|tape|glue|foam|furniture|equipment|clothing|formula|detergent|varnish|wire|rope|fabric|"
    r"jewelry|makeup|film|vinyl|lighting|bedding)$"
)
# The word before a query decides between "any dog beds", "my dog bed" and "a dog bed".
MANY = re.compile(
    r"\b(any|some|what|which|your|more|few|of|these|all|good|new|decent|different|many|\{limit\})\W*$", re.I
)
ONE = re.compile(r"\b(an?|the|my|his|her|our|their|one|old|this|that|no|each|every)\W*$", re.I)
ARTICLE = re.compile(
    r"\b(need|wants?|for|find|get|getting|buy|bought|got|have|sell|carry|stock|see|recommend|me|after|is|suggest|suggested|"
    r"on|to|use|thought of|mum)\s*$",
    re.I,
)
SAID = re.compile(r"(order|number|no\.?|#|reference|ref|id|purchase|nr\.?|num)( is)?\W*$", re.I)
HANGING = re.compile(r"( (an?|and|by|for|from|in|no|of|on|or|per|the|to|w|with|x|&|-|\d))+$", re.I)  # a name cut short


@dataclass(frozen=True)
class Item:
    """A product as customers and sheets see it; `words` are its kind and other words for it."""

    id: str
    sku: str
    name: str
    brand: str
    category: str
    kind: str
    price: float
    words: tuple[str, ...]
    specifications: dict[str, str]
    variants: tuple[str, ...]


@dataclass(frozen=True)
class Order:
    """An order that a row may talk about, and whether all of it can still be returned."""

    id: str
    customer_id: str | None
    status: str
    returnable: bool
    names: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """All that one side of the split may use; `items` are by name, `values` what the phrasebook lists for a slot."""

    conn: sqlite3.Connection
    split: str
    book: Phrasebook
    items: dict[str, Item]
    orders: tuple[Order, ...]
    titles: tuple[tuple[str, str], ...]
    codes: tuple[str, ...]
    places: tuple[str, ...]
    values: dict[str, dict[str, str]]


def read_world(conn: sqlite3.Connection, book: Phrasebook, titles: dict[str, tuple[str, ...]], split: str) -> World:
    """Return what one side may use: its products, what is left of the orders, its wordings and titles.

    Args:
        conn: The whole shop; the world keeps a copy of its own in memory.
        book: Every wording.
        titles: Titles of other shops by category.
        split: "train" or "eval".

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    store = read_split(conn, split)
    with store:  # an imported shop may hold products that rows can't be about
        store.execute(
            "DELETE FROM products WHERE (name <> '' AND kind <> '' AND category <> '' AND price > 0) IS NOT 1"
        )
    index_products(store)
    rows = store.execute(
        """SELECT id, sku, name, brand, category, kind, price, also,
           (SELECT json_group_object(name, value) FROM specifications WHERE product_id = products.id),
           (SELECT json_group_array(variant) FROM variants WHERE product_id = products.id AND variant <> 'standard')
           FROM products ORDER BY id"""
    )
    items = {}
    for *known, also, specs, variants in rows:
        words = tuple(dict.fromkeys([known[5], *(word for word in (also or "").split(", ") if word)]))
        known = ["" if value is None else value for value in known]
        items[known[2]] = Item(*known, words, json.loads(specs), tuple(json.loads(variants)))  # type: ignore
    rows = store.execute(
        """SELECT o.id, customer_id, status, status = 'delivered' AND delivered_on >= date(coalesce(
           (SELECT value FROM meta WHERE key = 'today'), 'now'), '-30 days') AND NOT EXISTS
           (SELECT 1 FROM returns r WHERE r.order_id = o.id), json_group_array(name) FROM orders o
           JOIN order_lines l ON l.order_id = o.id JOIN products p ON p.id = product_id
           WHERE customer_id IS NOT NULL GROUP BY o.id ORDER BY o.id"""
    )
    orders = [Order(i, who, status, bool(fits), tuple(json.loads(names))) for i, who, status, fits, names in rows]
    orders = tuple(order for order in orders if set(order.names) <= set(items))
    orders = orders or (Order("1001", None, "processing", False, tuple(items)[:1]),)  # a shop without: guests only
    pairs = [(title, category) for category, listed in titles.items() for title in listed]
    kept = tuple(pair for pair in pairs if (hash_text(pair[0]) < EVAL_SHARE) == (split == "eval"))
    codes = tuple(row[0] for row in store.execute("SELECT code FROM promotions ORDER BY 1"))
    places = store.execute("SELECT DISTINCT location FROM stock WHERE location <> 'online' ORDER BY 1")
    book = keep_split(book, split)
    values = {slot: listed for requests in book.requests.values() for slot, listed in requests.values.items()}
    return World(store, split, book, items, orders, kept, codes, tuple(row[0] for row in places), values)


def pick(options, rng: random.Random):
    """Return one of the options; a row for which there is none is rejected, not the run.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    if not options:
        raise Rejected("nothing to choose from in this split")
    return rng.choice(options)


def pluralise(phrase: str) -> str:
    """Return the plural of a kind; words for a mass, and plurals, stay.

    Example:
        >>> [pluralise(word) for word in ("dog bed", "olive oil", "running shoes", "toy brush", "battery")]
        ['dog beds', 'olive oil', 'running shoes', 'toy brushes', 'batteries']

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    if re.search("[^s]s$", phrase) or MASS.search(phrase) or " and " in phrase:
        return phrase
    if re.search(r"[^aeiou]y$", phrase):
        return phrase[:-1] + "ies"
    return phrase + ("es" if re.search(r"(s|x|ch|sh)$", phrase) else "s")


def name_item(item: Item, before: str, rng: random.Random) -> Slot:
    """Return one of the loose ways in which customers name a product; most give its name or part of it.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    words, kinds = item.name.split(), {word.lower().rstrip("s") for word in " ".join(item.words).split()}
    short = [word for word in words if word.lower().rstrip("s") not in kinds]
    forms = {
        item.name: 0.5,
        item.name.lower(): 0.08,
        HANGING.sub("", " ".join(short if len(short) > 1 else words)): 0.16,
        f"{item.brand} {rng.choice(item.words)}": 0.08,
        " ".join(words[1:] or words): 0.05,
        f"{rng.choice(item.variants or ('new',))} {item.kind}": 0.06 if item.variants else 0,
        rng.choice(item.words): 0.02,
        HANGING.sub("", " ".join(words[:3])): 0.04,
        item.name.upper(): 0.005,
        item.sku or item.name: 0.015,
    }
    text = rng.choices(list(forms), list(forms.values()))[0]
    article = "the " if text in item.words and before and not ONE.search(before) and rng.random() < 0.6 else ""
    return Slot(article + text, text)


def say_query(item: Item, before: str, rng: random.Random) -> Slot:
    """Return what a customer types to find something like the item; an article is shown but is no part of the query.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    kind, form = rng.choice((item.kind, *item.words)), rng.random()
    many = bool(MANY.search(before)) or (not ONE.search(before) and rng.random() < 0.45)
    text = pluralise(kind) if many else kind
    if form < 0.16 and item.variants:
        text = f"{rng.choice(item.variants)} {text}"
    elif form < 0.26:
        text = f"{item.brand} {text}"
    elif form < 0.34:
        text = f"{rng.choice(TRAITS)} {text}"
    has_tail = 0.34 <= form < 0.48 and not item.category.startswith(("Food", "Baby"))
    said = f"{text} {rng.choice(TAILS)}" if has_tail else text  # whom it's for is no part of what is looked for
    if many or pluralise(kind) == kind or not ARTICLE.search(before) or rng.random() < 0.15:
        return Slot(said, text)
    return Slot(("an " if re.match(r"[aeio8]|X[SL]|[SML]\b|11|18", text) else "a ") + said, text)


def say_price(value: float, style: str) -> str:
    """Return a price as a customer writes it; a style is a pattern such as "${}" or "{} bucks", or "word".

    Example:
        >>> say_price(50, "word"), say_price(24.99, "${}")
        ('fifty dollars', '$24.99')

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    number = f"{value:.2f}".removesuffix(".00")
    return f"{WORDS.get(value, number)} dollars" if style == "word" else style.format(number)


def _draw_prices(item: Item, both: bool, rng: random.Random) -> dict[str, Slot]:
    top = rng.choice([price for price in NICE if item.price <= price <= max(item.price * 2.2, 10)] or NICE[-1:])
    low = rng.choice([price for price in NICE if item.price * 0.3 <= price <= item.price and price < top] or [1])
    style = rng.choice(PRICE_STYLES)
    if rng.random() < 0.12:
        top = round(top - 0.01 if top - 0.01 >= item.price else top + 0.99, 2)
    first = "{}" if both and (style == "word" or style.startswith("{}")) else style  # "10 to 20 dollars"
    return {"max_price": Slot(say_price(top, style), top), "min_price": Slot(say_price(low, first), low)}


def _say_order(order: Order, before: str, rng: random.Random) -> Slot:
    if rng.random() < 0.2 and not before.endswith("#"):
        return Slot(*[f"#{order.id.removeprefix('#')}"] * 2)
    prefix = (
        rng.choice(("order ", "order no. ", "order number ")) if rng.random() < 0.25 and not SAID.search(before) else ""
    )
    return Slot(prefix + order.id, order.id)


def draw_slots(world: World, text: str, rng: random.Random, item: Item, order: Order, values: dict) -> dict[str, Slot]:
    """Return a Slot for every slot of an expanded wording.

    Args:
        item: The product that {product}, {query}, {variant}, {category} and the prices are about.
        order: The order that {order_id} means.
        values: What the wording's own file lists for a slot; other files' lists count where it has none.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    slots: dict[str, Slot] = {}
    names = SLOT.findall(text)
    for match in SLOT.finditer(text):
        name, before = match[1], text[: match.start()]
        listed = values.get(name) or world.values.get(name, {})
        if name in ("product", "query"):
            shown = replace(item, variants=()) if "variant" in names else item  # no "medium medium planter"
            slots[name] = (name_item if name == "product" else say_query)(shown, before, rng)
        elif name == "order_id":
            slots[name] = _say_order(order, before, rng)
        elif name == "limit":
            count = rng.choice((2, 3, 3, 4, 5, 5, 6, 10))
            slots[name] = Slot(rng.choice((str(count), WORDS[count])), count)
        elif name.endswith("_price"):
            slots = _draw_prices(item, {"min_price", "max_price"} <= set(names), rng) | slots
        else:
            own = {"category": (item.category,), "variant": item.variants, "location": world.places}.get(name)
            own = world.codes if name == "promo_code" and rng.random() < 0.5 else own
            shown = pick(own if own is not None else list(listed), rng)
            slots[name] = Slot(shown, shown if own is not None else listed[shown])
    return {name: slot for name, slot in slots.items() if name in names}
