"""Rules: what keywords and regular expressions reach without a model. Anything that is trained has to beat this."""

import re
import time
from collections import Counter
from functools import cache
from typing import Any

from elm_helpers.answers import join_words, say_spec
from elm_helpers.catalogue import CATEGORIES, read_catalogue
from elm_helpers.engines import Completion, Engine
from elm_helpers.metrics import split_words, write_digits
from elm_helpers.paths import TEMPLATES
from elm_helpers.sheets import parse_sheet
from elm_helpers.tool_calls import ToolCall, ToolCallError, format_tool_call

import yaml

AMOUNT = r"(?:\$|usd |€|£)? ?(\d+(?:\.\d+)?)(?!\w)(?: ?\$| dollars?| bucks| usd)?"  # its number is the group
PUNCTUATION = '?!.,;:"()'


@cache
def read_rules() -> dict:
    """Return rules.yaml, compiled, with patterns for brands and places, and the categories of each word in `words`.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    catalogue, words = read_catalogue(), {}
    for kind in catalogue.kinds:
        for word in split_words(" ".join((kind.name, *kind.also))):
            words.setdefault(word, Counter())[kind.category] += 1
    rules, shop = (
        yaml.safe_load((TEMPLATES / name).read_text(encoding="utf-8")) for name in ("rules.yaml", "shop.yaml")
    )
    for group in ("topics", "patterns"):  # a line break in the YAML comes after |
        texts = {name: text.replace("| ", "|").replace("AMOUNT", AMOUNT) for name, text in rules[group].items()}
        rules[group] = {name: re.compile(text, re.IGNORECASE) for name, text in texts.items()}
    places = {name for form in ("countries", "regions", "cities") for names in shop[form].values() for name in names}
    places = "|".join(map(re.escape, sorted(places | {"uk", "usa"}, key=len, reverse=True)))
    brands = "|".join(re.escape(brand) for brand in sorted({product.brand for product in catalogue.products}))
    rules["patterns"]["place"] = re.compile(rf"\b(?:{places})\b(?:, [A-Z]{{2}}\b)?|{rules['postcode']}", re.I)
    rules["patterns"]["brand"] = re.compile(rf"\b(?:{brands})\b", re.I)
    return rules | {"carrier": set(rules["carrier"].split()), "words": words}


def _guess_category(title: str) -> str:
    """Return the category whose kinds share most words with a title; a word that few categories use weighs more."""
    votes, words = Counter(dict.fromkeys(CATEGORIES, 0.0)), read_rules()["words"]
    for word in split_words(title):
        votes.update({category: count / words[word].total() for category, count in words.get(word, {}).items()})
    return votes.most_common(1)[0][0]


def _find_product(text: str) -> str:
    """Return what stands between carrier words: what starts with a brand, else holds a kind's word, else is first."""
    rules, spans = read_rules(), [[]]
    brand = rules["patterns"]["brand"].search(text)
    for word in text[brand.start() if brand else 0 :].split():
        plain = word.strip(PUNCTUATION).casefold()
        if plain not in rules["carrier"] and (spans[-1] or not plain.isdigit()):
            spans[-1] += [word.strip(PUNCTUATION)] if plain else []
        if plain in rules["carrier"] or word[-1] in "?!.,;:":
            spans.append([])
    spans = [" ".join(span) for span in spans if span] or [""]
    known = [span for span in spans if any(word in rules["words"] for word in split_words(span))]
    return spans[0] if brand or not known else known[0]


def answer_by_rules(text: str, signed_in: bool) -> str:
    """Return a reply to one message: a call, a question back, a category, a description, or that it can't be done.

    Args:
        text: What the customer or the shop's staff wrote.
        signed_in: Whether the customer is.

    Example:
        >>> answer_by_rules("Where is my order W10482?", signed_in=False)
        '<tool_call>get_customer_orders(order_id="W10482")</tool_call>'

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    text, sheet, rules = text[:4000], parse_sheet(text[:4000]), read_rules()
    if "Name" in sheet:
        return f"The {sheet['Name']}: {join_words([say_spec(key, sheet[key]) for key in sheet if key != 'Name'])}."
    if re.search(rules["category"], text, re.I):
        return f"Category: {_guess_category(text)}"
    found = {name: pattern.search(text) for name, pattern in rules["patterns"].items()}
    tool = _choose_tool(text, product := _find_product(text), found)
    try:
        return format_tool_call(ToolCall(tool, _find_arguments(tool, text, product, found, signed_in)))
    except ToolCallError:  # something is missing, or no argument that a tool takes
        return rules["questions"].get(tool, rules["questions"]["other"])


def _choose_tool(text: str, product: str, found: dict[str, re.Match | None]) -> str:
    """Return the first topic that fits; without one, what stands in the text decides: a place, an order, a brand …"""
    topics = [name for name, pattern in read_rules()["topics"].items() if pattern.search(text)]
    known = found["brand"] or any(word in read_rules()["words"] for word in split_words(product))
    if topics[:1] == ["calculate_shipping"] and "order" in text.casefold() and found["order"]:
        return "get_customer_orders"
    if topics and (topics[0] != "search_products" or known):
        return topics[0]
    stated: dict[str, object] = {
        "calculate_shipping": found["how"] and found["place"],
        "get_customer_orders": found["order"],
    }
    stated |= {"get_discount_eligibility": found["code"], "get_product_info": found["brand"], "search_products": known}
    return next((tool for tool, hit in stated.items() if hit), "decline")


def _find_arguments(tool: str, text: str, product: str, found: dict, signed_in: bool) -> Any:
    """Return a call's arguments, or None where something required is missing."""
    if tool in ("initiate_return", "get_customer_orders") and found["order"]:
        reason = {"reason": found["reason"][1].strip()} if found["reason"] and tool == "initiate_return" else {}
        return {"order_id": found["order"][0]} | reason
    if tool == "get_customer_orders" and signed_in:
        return {"status": found["status"][0].lower().replace("canceled", "cancelled")} if found["status"] else {}
    if tool == "get_discount_eligibility":
        return {"promo_code": found["code"][0]} if found["code"] else {}
    if tool == "calculate_shipping" and found["place"]:
        method = [value for word, value in read_rules()["methods"].items() if word in text.casefold()]
        return {"destination": found["place"][0]} | ({"method": method[0]} if method else {})
    if tool in ("decline", "initiate_return", "get_customer_orders", "calculate_shipping") or not product:
        return None
    if tool != "search_products":
        return {"product": product}
    text, patterns = write_digits(text), read_rules()["patterns"]
    both, cap, floor, limit = (patterns[name].search(text) for name in ("range", "cap", "floor", "limit"))
    category = [name for name in CATEGORIES if name.casefold() in text.casefold()]
    filters = {
        "category": category[0] if category else None,
        "min_price": float(both[1]) if both else float(floor[1]) if floor and not cap else None,
        "max_price": float(both[2]) if both else float(cap[1] or cap[2]) if cap else None,
        "limit": int(limit[1]) if limit else None,
    }
    return {"query": product} | {name: value for name, value in filters.items() if value is not None}


def open_rules() -> Engine:
    """Return the rules as an engine, so that they stand on the same scoreboard as the models.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """

    def complete(messages, *, max_tokens=200, temperature=0.0, seed=0, grammar=None, on_text=None):
        start = time.perf_counter()
        said = [message["content"] for message in messages if message["role"] == "user"]
        text = answer_by_rules(said[-1], "is signed in" in messages[0]["content"])
        if on_text:
            on_text(text)
        seconds = time.perf_counter() - start
        return Completion(text, 0, 0, seconds, seconds)

    return Engine("rules", complete)
