"""Is an answer true? Every product, price, number and date in it must come from this conversation's tool results."""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache

from elm_helpers.limits import MONEY, fits_limits, read_number
from elm_helpers.limits import find_price_limits as find_price_limits
from elm_helpers.metrics import write_digits
from elm_helpers.paths import TEMPLATES
from elm_helpers.phrasebook import read_answers, read_phrasebook

import yaml

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
CODE = re.compile(r"\b(?=[A-Z0-9-]*\d)(?=[A-Z0-9-]*[A-Z])[A-Z0-9-]{4,}\b")
DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
BULLET = re.compile(r"(?m)^\s*\d+[.)]\s")
ARTICLES = {"The", "A", "An", "My", "Our", "Your"}
HIDDEN = re.compile("[*_`\u00ad\u200b-\u200f\u2060\ufeff]")  # marks and invisible characters inside a name
CAPITALS = re.compile(  # words in a row that are written like a name
    r"(?<![\w'’-])(?!(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day)[A-Z][\w'’-]*(?: &)?"
    r"(?: [A-Z0-9](?:[\w'’./-]*\w)?(?: &(?= [A-Z]))?)+"
)
MIDDLE = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}(?=[ ,.!?;:]|$)(?! [A-Z0-9])")  # one such word inside a sentence
FIRST = re.compile(r"(?:^|[.!?:;\n(\"“]|\d[.)]|[-–•])\s*$")  # what stands before a sentence's first word
STATE = re.compile(
    r"(?:\b(?:is|are|was|were|been)|['’]s|:|status)\s+(?:now |currently |already |still )?"
    r"(processing|shipped|delivered|cancelled|canceled|returned|approved|on its way)\b",
    re.I,
)
UNREAL = re.compile(
    r"\b(?:if|once|when|after|until|unless|while|can|cannot|could|only|not|nothing|no)\b|n['’]t\b", re.I
)
STOCKED = re.compile(r"(?<![$€£\d.])\b(\d+)\s+(?:units?|left|in stock|available|online)\b", re.I)
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAY = re.compile(
    rf"\b(?P<month>{'|'.join(MONTHS)})[a-z]*\.? (?P<day>\d{{1,2}})\b|\b(?P<day2>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? "
    rf"(?P<month2>{'|'.join(MONTHS)})[a-z]*\b",
    re.I,
)


@cache
def read_policies() -> str:
    """Return what the shop promises everybody, as one text; an answer may quote it without a tool.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    shop = yaml.safe_load((TEMPLATES / "shop.yaml").read_text(encoding="utf-8"))
    return " ".join([*shop["policies"].values(), *map(str, shop["facts"].values())])


@cache
def read_words() -> frozenset[str]:
    """Return the words of all answers in the phrasebook, in lower case: a capital in one of them makes no name of it.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    texts = [phrase.text for intent in read_phrasebook().intents for phrase in intent.replies]
    texts += [phrase.text for phrases in read_answers().values() for phrase in phrases]
    return frozenset(re.findall(r"[^\W\d_]+", " ".join(texts).casefold()))


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
        product_names: Every product name of the shop, so that a real product that no tool returned is seen; with prices
            (name -> price), so that one that costs too much is seen wherever it comes from.
        limits: (min_price, max_price) asked for in this turn; a product outside them may not be offered.

    Returns:
        Reasons in words, each naming the number, code or product.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    answer = re.sub(r"[^\S\n]+", " ", HIDDEN.sub("", unicodedata.normalize("NFKC", answer)))
    numbers, evidence = list_facts(results, spoken)
    listed = DAY.sub(" ", DATE.sub(" ", BULLET.sub("", answer)))
    reasons = [f"{date} is in no tool result" for date in DATE.findall(answer) if date not in evidence]
    reasons += [f"{n} is in no tool result" for n in NUMBER.findall(listed) if read_number(n) not in numbers]
    worded = [m[0] for m in MONEY.finditer(write_digits(listed)) if read_number(m[1] or m[2]) not in numbers]
    reasons += [f"{money} is in no tool result" for money in worded]
    reasons += [f"{code} is in no tool result" for code in CODE.findall(answer) if code.casefold() not in evidence]
    offered = {name: price for result in results for name, price in list_prices(result)}
    lowered = answer.casefold()
    for name in product_names:
        if name.casefold() in lowered and name.casefold() not in evidence:
            reasons.append(f"{name} was returned by no tool")
    reasons += [f"{name} is named over and over" for name in offered if lowered.count(name.casefold()) > 2]
    reasons += [
        f"{name} is no product's whole name" for name in find_misnamed(DAY.sub(" ", answer), product_names, evidence)
    ]
    reasons += find_over_limits(answer, results, spoken, product_names, limits)
    reasons += find_wrong_states(answer, results, evidence)
    for line in listed.splitlines():
        reasons += find_wrong_prices(line, offered, limits)
    return reasons


def find_over_limits(
    answer: str,
    results: list[dict],
    spoken: list[str],
    product_names: Iterable[str],
    limits: tuple[float | None, float | None],
) -> list[str]:
    """Return the products and prices outside the customer's limits that an answer shows; what they named may be shown.

    Args:
        answer: What is to be said.
        results: This conversation's tool results.
        spoken: The customer's messages.
        product_names: Of the shop, with prices if it is a dictionary.
        limits: (min_price, max_price) asked for in this turn.

    Example:
        >>> find_over_limits("The Oldo Mug!", [], [], {"Oldo Mug": 129.0}, (None, 100.0))
        ['Oldo Mug costs $129.00, outside what was asked for']

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    if limits == (None, None):
        return []
    prices = dict(product_names) if isinstance(product_names, Mapping) else {}
    offered = {name: price for result in results for name, price in list_prices(result)}
    said, lowered = " ".join(spoken).casefold(), answer.casefold()
    outside = {name: p for name, p in (prices | offered).items() if p is not None and not fits_limits(p, limits)}
    fitting = " | ".join((prices | offered).keys() - outside.keys()).casefold()
    reasons, parts = [], {found[0].casefold() for found in CAPITALS.finditer(answer)}
    parts = {part for part in parts if part not in fitting and part not in said}
    for name, price in outside.items():
        whole = name.casefold()
        if whole not in said and (whole in lowered or any(part in whole for part in parts)):
            reasons.append(f"{name} costs ${price:.2f}, outside what was asked for")
    shown = {
        price for name, price in offered.items() if name in outside and name.casefold() not in said and not reasons
    }
    for number in NUMBER.findall(write_digits(answer)):
        if read_number(number) in shown and number not in said:
            reasons.append(f"{number} is outside what was asked for")
    return reasons


def find_wrong_states(answer: str, results: list[dict], evidence: str) -> list[str]:
    """Return the order states, stock figures and days that no tool returned as such.

    Args:
        answer: What the model wants to say.
        results: This conversation's tool results.
        evidence: All results and messages, in lower case.

    Example:
        >>> find_wrong_states("W1 is delivered.", [{"orders": [{"order_id": "W1", "status": "shipped"}]}], "w1 shipped")
        ['delivered is the state of no order here']

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    orders = {
        order["order_id"]: order["status"] for result in results for order in list_entries(result, "order_id", "status")
    }
    places = [entry["units"] for result in results for entry in list_entries(result, "variant", "units")]
    units = [number for place in places if isinstance(place, dict) for number in place.values()]
    refusals, reasons = " ".join(str(result.get("error", "")) for result in results), []
    for sentence in re.split(r"(?<=[.!?;])\s|\n", answer):
        if sentence in refusals:  # the shop's own words
            continue
        named = {status for order, status in orders.items() if order.casefold() in sentence.casefold()}
        for state in STATE.findall("" if UNREAL.search(sentence) else sentence):
            right = {
                {"needs_confirmation": "", "approved": "returned approved"}.get(s, s) for s in named or orders.values()
            }
            if state.casefold().replace("canceled", "cancelled") not in " ".join(right).replace(
                "shipped", "shipped on its way"
            ):
                reasons.append(f"{state} is the state of no order here")
    reasons += [f"{n} is no stock figure" for n in STOCKED.findall(answer) if int(n) not in units]
    for place in {name for known in places if isinstance(known, dict) for name in known}:
        held = [known.get(place) for known in places if isinstance(known, dict)]
        told = re.findall(
            rf"(?<![\d.$])(\d+) (?:units? )?(?:(?:left |in stock )?(?:at|in) )?{re.escape(place)}\b", answer, re.I
        )
        reasons += [f"{n} is not what {place} has" for n in told if int(n) not in held]
    for found in DAY.finditer(answer):
        month = MONTHS.index((found["month"] or found["month2"]).casefold()[:3]) + 1
        day = f"-{month:02}-{int(found['day'] or found['day2']):02}"
        if day not in evidence and found[0].casefold() not in evidence:
            reasons.append(f"{found[0]} is in no tool result")
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
    wrong = []
    for found in CAPITALS.finditer(answer):
        text = found[0].removesuffix(" I")
        words = text.split()
        if words[0] in ARTICLES or (words[0] not in brands and FIRST.search(answer[: found.start()])):
            text = " ".join(words[1:]) if len(words) > 2 else ""  # the first word of a sentence is no part of a name
        if text.casefold() not in evidence:
            wrong.append(text)
    plain = [word for word in MIDDLE.findall(answer) if word.casefold() not in evidence]
    return wrong + [word for word in plain if word.casefold() not in read_words()]


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


def list_entries(value: object, *keys: str) -> list[dict]:
    """Return every mapping with these keys anywhere inside a tool's result.

    Example:
        >>> list_entries({"orders": [{"order_id": "W1"}]}, "order_id")
        [{'order_id': 'W1'}]

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    if isinstance(value, list):
        return [entry for item in value for entry in list_entries(item, *keys)]
    if not isinstance(value, dict):
        return []
    return [value] * (value.keys() >= set(keys)) + [
        entry for item in value.values() for entry in list_entries(item, *keys)
    ]


def list_prices(value: object) -> list[tuple[str, float]]:
    """Return every (product name, price) pair anywhere inside a tool's result; an unknown price is none.

    Example:
        >>> list_prices({"products": [{"name": "Mug", "price": 9.5}], "total": 1})
        [('Mug', 9.5)]

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    entries = list_entries(value, "name", "price")
    return [(str(one["name"]), float(one["price"])) for one in entries if isinstance(one["price"], int | float)]
