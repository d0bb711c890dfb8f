"""Is an answer true? Every product, price, number and date in it must come from this conversation's tool results."""

import json
import re
from collections.abc import Iterable
from functools import cache

from elm_helpers.paths import TEMPLATES

import yaml

MONEY = re.compile(r"(?:\$|USD ?|€|£)\s?(\d[\d,]*(?:\.\d+)?)|(\d[\d,]*(?:\.\d+)?)\s?(?:dollars|bucks|USD)\b", re.I)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
CODE = re.compile(r"\b(?=[A-Z0-9-]*\d)(?=[A-Z0-9-]*[A-Z])[A-Z0-9-]{4,}\b")
DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
BULLET = re.compile(r"(?m)^\s*\d+[.)]\s")
AMOUNT = r"(?:\$|usd ?|€|£)?\s?(\d[\d,]*(?:\.\d+)?)"
CEILING = re.compile(
    r"(?:\b(?:under|below|less than|cheaper than|up to|at most|max(?:imum)?(?: of)?|within|budget(?: is| of)?)|<=?)"
    rf"\s*{AMOUNT}|{AMOUNT}\s*(?:dollars|bucks|usd)?\s*(?:or less|max|tops|at most)\b(?!\s*(?:of )?[$€£\d])",
    re.I,
)
FLOOR = re.compile(
    rf"(?:\b(?:over|above|more than|at least|from|starting at|min(?:imum)?(?: of)?|upwards? of)|>=?)\s*{AMOUNT}", re.I
)
NEGATED = re.compile(r"(?:\b(?:no|not|nothing|never|none|without)|n['’]t|\b(?:do|wo|ca)nt)\b[^.,;:!?\d]{0,30}$", re.I)
RANGE = re.compile(rf"(?:between\s*)?{AMOUNT}\s*(?:-|–|to|and)\s*{AMOUNT}", re.I)
ARTICLES = {"The", "A", "An", "My", "Our", "Your"}
UNIT = re.compile(
    r"\s*-?\s*(?:inch|in\b|cm|mm|m\b|met(?:er|re)s?|feet|ft\b|kg|g\b|lbs?|oz|ml|l\b|lit(?:er|re)s?|gb|tb|hz|w\b|watts?|"
    r"volts?|hours?|days?|weeks?|months?|years?|yrs?\b|stars?|pieces?|people|persons?|%|x\b)",
    re.I,
)


def read_number(text: str) -> float:
    """Return the number that a text such as ``1,299.00`` writes.

    Example:
        >>> read_number("1,299.00")
        1299.0

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    return float(text.replace(",", "").rstrip("."))


def find_price_limits(text: str) -> tuple[float | None, float | None]:
    """Return the lowest and the highest price that a customer asks for in words that leave no doubt.

    The agent does not leave a budget to the model: what this finds is enforced on the call and on the answer.

    Args:
        text: The customer's message.

    Returns:
        (min_price, max_price) in the shop's currency; None where nothing is said.

    Example:
        >>> find_price_limits("Find wireless headphones under $100")
        (None, 100.0)
        >>> find_price_limits("a mug between 10 and 20 dollars"), find_price_limits("a mug, nothing below 5")
        ((10.0, 20.0), (5.0, None))

    Shown in ``notebooks/06_build_agent.ipynb``.
    """

    def find(pattern: re.Pattern, negated: bool | None = None) -> list[float]:
        for match in pattern.finditer(text):
            fits = negated is None or negated == bool(NEGATED.search(text, 0, match.start()))
            if fits and not UNIT.match(text, match.end()):
                return [read_number(group) for group in match.groups() if group]
        return []

    money = bool(MONEY.search(text))
    low = (find(FLOOR, negated=False) if money else []) or find(CEILING, negated=True)
    high = find(CEILING, negated=False) or find(FLOOR, negated=True)
    if low and high:
        return (low[0], high[0]) if low[0] <= high[0] else (None, high[0])
    both = find(RANGE) if money or re.search(r"\bbetween\b|price|budget|cost", text, re.I) else []
    if len(both) == 2 and both[0] <= both[1] and not high:
        return both[0], both[1]
    return (low[0] if low else None), (high[0] if high else None)


def fits_limits(price: float, limits: tuple[float | None, float | None]) -> bool:
    """Return whether a price lies within (lowest, highest); None on a side is no limit there.

    Example:
        >>> fits_limits(129.0, (None, 100.0)), fits_limits(100.0, (None, 100.0))
        (False, True)

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    low, high = limits
    return (low is None or low <= price) and (high is None or price <= high)


@cache
def read_policies() -> str:
    """Return what the shop promises everybody, as one text; an answer may quote it without a tool.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    shop = yaml.safe_load((TEMPLATES / "shop.yaml").read_text(encoding="utf-8"))
    return " ".join([*shop["policies"].values(), *map(str, shop["facts"].values())])


def list_facts(results: Iterable[dict], spoken: Iterable[str]) -> tuple[set[float], str]:
    """Return the numbers that an answer may hold, and all evidence as one lower-case text.

    Args:
        results: This conversation's tool results.
        spoken: The customer's own messages; what they said may be repeated.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    results = list(results)
    evidence = " ".join([json.dumps(results, ensure_ascii=False), *spoken, read_policies()])
    counts = {float(len(value)) for result in results for value in result.values() if isinstance(value, list)}
    return {read_number(n) for n in NUMBER.findall(DATE.sub(" ", evidence))} | counts, evidence.casefold()


def find_ungrounded(
    answer: str,
    results: list[dict],
    spoken: list[str],
    product_names: Iterable[str],
    limits: tuple[float | None, float | None] = (None, None),
) -> list[str]:
    """Return what an answer claims without evidence; an empty list is an answer that may be shown.

    Args:
        answer: What the model wants to say.
        results: This conversation's tool results, oldest first.
        spoken: The customer's messages.
        product_names: Every product name of the shop, so that a real product that no tool returned is seen.
        limits: (min_price, max_price) asked for in this turn; a product outside them may not be offered.

    Returns:
        Reasons in words, each naming the number, code or product.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    numbers, evidence = list_facts(results, spoken)
    listed = DATE.sub(" ", BULLET.sub("", answer))
    reasons = [f"{date} is in no tool result" for date in DATE.findall(answer) if date not in evidence]
    reasons += [f"{n} is in no tool result" for n in NUMBER.findall(listed) if read_number(n) not in numbers]
    reasons += [f"{code} is in no tool result" for code in CODE.findall(answer) if code.casefold() not in evidence]
    offered = {name: price for result in results for name, price in list_prices(result)}
    lowered = answer.casefold()
    for name in product_names:
        if name.casefold() in lowered and name.casefold() not in evidence:
            reasons.append(f"{name} was returned by no tool")
    for name, price in offered.items():
        if name.casefold() in lowered and not fits_limits(price, limits):
            reasons.append(f"{name} costs ${price:.2f}, outside what was asked for")
    reasons += [f"{name} is named over and over" for name in offered if lowered.count(name.casefold()) > 2]
    reasons += [f"{name} is no product's whole name" for name in find_misnamed(answer, product_names, evidence)]
    for line in listed.splitlines():
        reasons += find_wrong_prices(line, offered, limits)
    return reasons


def find_misnamed(answer: str, product_names: Iterable[str], evidence: str) -> list[str]:
    """Return what is written like a product of one of the shop's brands, but was neither returned nor said by anybody.

    Args:
        answer: What the model wants to say.
        product_names: Every product name of the shop; its first word is taken as its brand.
        evidence: All results and messages, in lower case.

    Example:
        >>> find_misnamed("The Oldo Maxi Mug fits.", ["Oldo Mini Mug"], "oldo mini mug")
        ['Oldo Maxi Mug']

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    brands = {name.split()[0] for name in product_names if name[:1].isupper()} - ARTICLES
    if not brands:
        return []
    named = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(brands)))})(?: [A-Z0-9][\w'’./-]*\w)+")
    return [found[0] for found in named.finditer(answer) if found[0].casefold() not in evidence]


def find_wrong_prices(line: str, offered: dict[str, float], limits: tuple[float | None, float | None]) -> list[str]:
    """Return the products of one line that do not stand beside their own price; a line without prices says nothing.

    Example:
        >>> find_wrong_prices("Mug and Cup, both $9.50", {"Mug": 9.5, "Cup": 4.0}, (None, None))
        ['Cup does not cost 9.5']

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    said = [read_number(money.group(1) or money.group(2)) for money in MONEY.finditer(line)]
    said += [read_number(number) for number in NUMBER.findall(line) if re.search(r"\.\d\d$", number)]
    amounts = {amount for amount in said if amount in offered.values() and amount not in limits}
    named, rest = [], line.casefold()
    for name in sorted(offered, key=len, reverse=True):  # a name may begin another one
        if name.casefold() in rest:
            named.append(name)
            rest = rest.replace(name.casefold(), " ")
    wrong = [name for name in named if amounts and offered[name] not in amounts | set(limits)]
    return [f"{name} does not cost {', '.join(map(str, sorted(amounts)))}" for name in wrong]


def list_prices(value: object) -> list[tuple[str, float]]:
    """Return every (product name, price) pair anywhere inside a tool's result.

    Example:
        >>> list_prices({"products": [{"name": "Mug", "price": 9.5}], "total": 1})
        [('Mug', 9.5)]

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    if isinstance(value, list):
        return [pair for item in value for pair in list_prices(item)]
    if not isinstance(value, dict):
        return []
    here = [(value["name"], float(value["price"]))] if "name" in value and "price" in value else []
    return here + [pair for item in value.values() for pair in list_prices(item)]
