"""What a customer's words settle by themselves: price limits, how many, how fast, where, and which one of a list."""

import json
import re
from functools import cache

from elm_helpers.limits import UNIT, find_price_limits
from elm_helpers.metrics import read_numbers, write_digits
from elm_helpers.paths import TEMPLATES
from elm_helpers.phrasebook import read_phrasebook

import yaml

MOST_RESULTS = 20  # a larger number is hardly how many results somebody wants
THINGS = (
    "alternatives?|options?|items?|substitutes?|ideas?|suggestions?|products?|replacements?|choices?|results?|models?"
)
COUNT = re.compile(
    rf"\b(?:top|best) (\d+)\b|\b(\d+) (?:{THINGS}|of (?:them|those|your)|best|other|similar|like|cheapest)\b", re.I
)
NAMED_CODE = re.compile(r"\b(?:code|coupon|voucher|promo)\W+(?:is |called )?([\w-]{3,})", re.I)
LISTS = ("products", "similar", "candidates")
PLACES = {"first": 0, "1st": 0, "second": 1, "2nd": 1, "third": 2, "3rd": 2, "fourth": 3, "fifth": 4, "last": -1}
PLACED = re.compile(
    rf"\b({'|'.join(PLACES)})(?= one\b| product\b| item\b| please\b| (?:is|sounds|looks)\b|\s*[.,!?]|\s*$)"
    r"|(?:#|\b(?:number|no\.|option) ?)([1-9])\b(?![.,]?\d)|^\W*([1-9])\W*$",
    re.I,
)
EXTREME = re.compile(r"\b(cheapest|least expensive|most expensive|dearest)(?: one\b|\W*$)", re.I)
SIZED = re.compile(rf"\d[\d,.]*{UNIT.pattern}", re.I)


@cache
def read_methods() -> dict[str, str]:
    """Return the customers' words for a shipping method: word -> method, from the phrasebook.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    return read_phrasebook().requests["calculate_shipping"].values["method"]


@cache
def read_shops() -> list[str]:
    """Return the names of the course's shops, each a place with stock of its own.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    return yaml.safe_load((TEMPLATES / "shop.yaml").read_text(encoding="utf-8"))["shops"]


def list_statuses(text: str) -> list[str]:
    """Return the states of an order that a message names, in the tool's words.

    Example:
        >>> list_statuses("which of my orders were canceled?")
        ['cancelled']

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    words = read_phrasebook().requests["get_customer_orders"].values["status"]
    return sorted({status for word, status in words.items() if re.search(rf"\b{word}\b", text, re.I)})


def read_settled(text: str) -> dict[str, float | int | str]:
    """Return the arguments that a customer's message settles without a model.

    Args:
        text: The message.

    Returns:
        Of min_price, max_price, limit, method and location (one of the shops) those that leave no doubt.

    Example:
        >>> read_settled("top 3 mugs between ten and 20 dollars")
        {'min_price': 10.0, 'max_price': 20.0, 'limit': 3}
        >>> read_settled("how much is next-day delivery to Leeds")
        {'method': 'overnight'}

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    digits = write_digits(text)
    low, high = find_price_limits(digits)
    counts = [int(one or other) for one, other in COUNT.findall(digits)]
    counts = [count for count in counts if 1 <= count <= MOST_RESULTS]
    methods = {method for word, method in read_methods().items() if re.search(rf"\b{re.escape(word)}\b", text, re.I)}
    found: dict[str, float | int | str | None] = {
        "min_price": low,
        "max_price": high,
        "limit": counts[0] if len(counts) == 1 else None,
    }
    found["method"] = methods.pop() if len(methods) == 1 else None
    shops = {match[0] for shop in read_shops() for match in re.finditer(rf"\b{re.escape(shop)}\b", text, re.I)}
    found["location"] = shops.pop() if len(shops) == 1 else None
    return {name: value for name, value in found.items() if value is not None}


def read_pointed(messages: list[dict]) -> str | None:
    """Return the product that the customer's last message points at in the list that ELM showed before it.

    Args:
        messages: A conversation: ``{"role", "content"}`` each, the customer's message last.

    Returns:
        Its name as the tool wrote it; None where nothing is pointed at, or where the list has no such place.

    Example:
        >>> found = '{"products": [{"name": "Red Mug", "price": 9.0}, {"name": "Blue Mug", "price": 7.5}]}'
        >>> talk = [{"role": "tool", "content": found}, {"role": "assistant", "content": "Red Mug, Blue Mug"}]
        >>> [read_pointed([*talk, {"role": "user", "content": text}]) for text in ("the second one", "cheapest?", "hm")]
        ['Blue Mug', 'Blue Mug', None]

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    asked = [message["content"] for message in messages if message["role"] == "user"][-1:]
    place, extreme = (pattern.search(asked[0]) if asked else None for pattern in (PLACED, EXTREME))
    listed = list_shown(messages) if place or extreme else []
    if place and listed:
        word, *digits = place.groups()
        at = PLACES[word.lower()] if word else int(digits[0] or digits[1]) - 1
        return listed[at]["name"] if at < len(listed) else None
    if extreme and all("price" in one for one in listed):
        prices, best = [one["price"] for one in listed], max if "most" in extreme[1] or extreme[1] == "dearest" else min
        at = [n for n, price in enumerate(prices) if price == best(prices)]
        return listed[at[0]]["name"] if len(at) == 1 else None
    return None


def list_shown(messages: list[dict]) -> list[dict]:
    """Return the products of the newest result that is a list, in the order in which ELM's answer names them.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    for at in range(len(messages) - 1, -1, -1):
        if messages[at]["role"] != "tool":
            continue
        try:
            result = json.loads(messages[at]["content"])
            listed = next((result[key] for key in LISTS if result.get(key)), None)
            if listed is None:
                continue
            answer = next(m["content"] for m in messages[at:] if m["role"] == "assistant")
            shown = [(answer.find(one["name"]), one) for one in listed]
        except (ValueError, TypeError, KeyError, AttributeError, StopIteration):
            continue
        named = sorted((pair for pair in shown if pair[0] >= 0), key=lambda pair: pair[0])
        return [one for _, one in named]
    return []


def read_limits(text: str) -> tuple[float | None, float | None]:
    """Return the lowest and the highest price that a message sets, number words included.

    Example:
        >>> read_limits("a mug under twenty dollars")
        (None, 20.0)

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    settled = read_settled(text)
    return settled.get("min_price"), settled.get("max_price")


def list_amounts(text: str) -> list[float]:
    """Return the numbers of a text that can be prices or counts: not those of a size, a weight or a time.

    Example:
        >>> list_amounts("curtains for a 2 m window, about 40")
        [40.0]

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    return sorted(number for number in read_numbers(SIZED.sub(" ", text)) if number < 1_000_000)


def find_codes(words: list[str], text: str) -> list[str]:
    """Return the words that can be a code: with a digit or hyphen in them, in capitals, or called a code.

    Example:
        >>> find_codes("does freeship or SAVE10 work".split(), "does code freeship or SAVE10 work")
        ['freeship', 'SAVE10']

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    called = set(NAMED_CODE.findall(text))
    return [w for w in words if len(w) > 2 and (w in called or w.isupper() or "-" in w or any(c.isdigit() for c in w))]
