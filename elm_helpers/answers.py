"""What a tool returned, in a sentence: every slot comes from the result, and `verify_answer` checks the whole text."""

import random
import re
from collections.abc import Iterable

from elm_helpers.messages import Slot, fill
from elm_helpers.phrasebook import Phrase

NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
MOST_WORDS, MOST_LISTED = 60, 3
# Specifications: what is said like an adjective, without an article, and as "a weight of 2 kg".
ADJECTIVE = re.compile(
    r"(safe|free|proof|resistant|able|ible|vegan|organic|sticky|ready|friendly|clumping|folding|natural|[^e]ed|scented)$"
)
MASS = re.compile(
    r"(material|technology|caffeine|dust|storage|care|protection|power|memory|cotton|wood|glass|hair|ing)$"
)
MEASURE = re.compile(
    r"(weight|height|width|length|depth|size|diameter|capacity|volume|speed|range|load|time|life|rate|count|area|scale|"
    r"thickness|resolution|power|level|temperature|clearance|content|warranty|brightness|reach|angle|pressure|output|"
    r"voltage|torque|column|cable|flow|bin|tank|tip|drop|hose|chuck|rim|bubble|spacing|thread|magnification|aperture|objective|"
    r"skein|coverage|dose|warmth|hardness|reservoir|headroom|footprint|resistance|limit|distance|suction|current|spine|pile)$"
)
ERRORS = {  # what the tools' messages hold: the wordings under error.* in answers.yaml; the first that fits counts
    r"not signed in": "sign_in",
    r"has no variant": "no_variant",
    r"already": "already_returned",
    r"too late": "too_late",
    r"no delivery to": "no_delivery",
    r"only delivered": "not_delivered",
    r"no order": "order_not_found",
    r"no product": "product_not_found",
}


class Rejected(ValueError):  # noqa: N818 (not an error: the next attempt draws anew)
    """A row did not turn out right; the message is the reason that the report counts."""


def say_money(value: float) -> str:
    """Return a price as ELM writes it.

    Example:
        >>> say_money(89.0)
        '$89.00'

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    return f"${value:.2f}"


def say_spec(key: str, value: str) -> str:
    """Return a specification as a noun phrase that needs no verb and keeps the value as it is written.

    Example:
        >>> say_spec("weight", "228 g"), say_spec("noise cancelling", "no"), say_spec("ports", "2 USB-C, 1 HDMI")
        ('a weight of 228 g', 'no noise cancelling', 'ports (2 USB-C, 1 HDMI)')

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    if value in ("yes", "no", "none"):
        return key if value == "yes" else f"{'not' if ADJECTIVE.search(key) and value == 'no' else 'no'} {key}"
    if value in ("included", "required") or value.split()[-1] == key:
        return value if value.endswith(key) else f"{key} {value}"
    many = re.search("[^s]s$", key)
    if re.search(r"[,;(]", value):
        return f"{key} ({value})"
    if re.match(r"(up to |from |about |over )?\d", value) and not many:
        return f"{'an' if key[0] in 'aeiou' else 'a'} {key} of {value}" if MEASURE.search(key) else f"{key} ({value})"
    if re.search(r" (and|or|of|to|on|in|with|for|per) |^(under|over|on|in|with|for|at) ", value):
        return f"{key} ({value})"
    if re.search(r"[^s]s$", value) and not value[0].isdigit():
        return f"{value} as {'' if many else 'the '}{key}"
    return f"{value} {key}" if many or MASS.search(key) else f"{'an' if value[0] in 'aeioAEO8' else 'a'} {value} {key}"


def join_words(words: list[str], last: str = "and") -> str:
    """Return "a, b and c".

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    return f" {last} ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _list(products: list[dict], rng: random.Random) -> str:
    item, mark = rng.choice(("{} – {}", "{} ({})", "{}, {}", "{}: {}")), rng.choice(("{}. ", "{}. ", "- "))
    shown = [item.format(product["name"], say_money(product["price"])) for product in products[:MOST_LISTED]]
    return "\n".join(mark.format(number) + line for number, line in enumerate(shown, 1))


def _say_stock(units: dict[str, int | None]) -> str:
    """Return "3 online, 2 at Northgate": two places at most, those with most of it."""
    known = {place: count for place, count in units.items() if count}
    places = sorted(known, key=lambda place: (place != "online", -known[place]))[:2]
    shown = [f"{known[place]} {'' if place == 'online' else 'at '}{place}" for place in places]
    return ", ".join(shown) or ("unknown" if None in units.values() else "sold out")


def _describe_stock(result: dict) -> tuple[str, dict]:
    rows, product = result["stock"], result["product"]
    units = [count for row in rows for count in row["units"].values()]
    places = {place for row in rows for place in row["units"]}
    case = "available" if any(units) else "unknown" if None in units else "back" if result["restock_date"] else "gone"
    if len(rows) == 1:
        product += "" if rows[0]["variant"] in ("standard", None) else f" in {rows[0]['variant']}"
        stock = _say_stock(rows[0]["units"])
    else:
        stock = "; ".join(f"{row['variant']}: {_say_stock(row['units'])}" for row in rows[:4])
    if case != "available" and len(places) == 1:  # what one shop lacks, another may have
        product += f" {'' if 'online' in places else 'at '}{places.pop()}"
    return case, {"product": product, "stock": stock, "date": result["restock_date"]}


def _describe_orders(result: dict) -> tuple[str, dict]:
    if len(result["orders"]) != 1:
        shown = [(o["order_id"], o["status"], o["date"], say_money(o["total"])) for o in result["orders"][:MOST_LISTED]]
        return ("some" if shown else "none"), {"orders": "\n".join("- {}: {}, {}, {}".format(*row) for row in shown)}
    order = result["orders"][0]
    items = [
        item["name"] if item["quantity"] == 1 else f"{item['quantity']} × {item['name']}" for item in order["items"]
    ]
    slots = order | {"items": join_words(items), "total": say_money(order["total"])}
    return ("tracked" if order["tracking"] else "one"), slots


def _describe_discounts(arguments: dict, result: dict) -> tuple[str, dict]:
    asked, tier = arguments.get("promo_code"), result["tier"]
    if asked and result["not_eligible"]:
        return "refused", {
            "code": result["not_eligible"][0]["code"],
            "why": result["not_eligible"][0]["why"].rstrip("."),
        }
    codes = [f"{row['code']} ({row['discount']}, until {row['ends']})" for row in result["eligible"][:MOST_LISTED]]
    case = "none" if not codes else "some" if asked or tier in ("none", None) else "tiered"
    return case, {"codes": join_words(codes, "or"), "tier": tier}


def _describe_products(name: str, result: dict, rng: random.Random) -> tuple[str, dict]:
    found = result["products" if name == "search_products" else "similar"]
    case = "related" if result.get("related") else "some" if found else "none"
    slots = {"product": result["product"]} if "product" in result else {}
    if len(found) == 1 and name == "search_products":
        return "one", slots | {"name": found[0]["name"], "price": say_money(found[0]["price"])}
    return case, slots | {"list": _list(found, rng)}


def _describe_one(name: str, result: dict) -> tuple[str, dict]:
    if name == "get_product_info":
        facts = "; ".join(f"{key}: {value}" for key, value in result["specifications"].items()) or result["brand"]
        slots = result | {"price": say_money(result["price"]), "facts": facts, "Facts": facts[:1].upper() + facts[1:]}
        return ("full" if result["rating"] else "unrated"), slots
    if name == "initiate_return":
        slots = result | {"refund": say_money(result["refund"]), "items": join_words(result["items"])}
        return ("ask" if result["status"] == "needs_confirmation" else "done"), slots
    if name != "calculate_shipping":  # a tool whose results need no code: their fields are the slots
        slots = {key: join_words(value) if isinstance(value, list) else value for key, value in result.items()}
        case = "ask" if result.get("status") == "needs_confirmation" else "none" if [] in result.values() else "done"
        return case, slots
    days = f"{result['days']} working day{'s' * (result['days'] != '1')}"
    slots = result | {"cost": say_money(result["cost"]), "days": days, "Method": result["method"].capitalize()}
    return ("paid" if result["cost"] else "free"), slots


def describe_result(name: str, arguments: dict, result: dict, rng: random.Random) -> tuple[str, dict]:
    """Return which wordings of answers.yaml fit a tool's result, and what their slots hold.

    Args:
        name: The tool.
        arguments: Of the call; a search that found nothing names its query.
        result: What `run_tool` returned.

    Returns:
        ("tool.case", {slot: value}).

    Example:
        >>> describe_result("search_products", {"query": "mugs"}, {"products": [], "total": 0}, random.Random(0))
        ('search_products.none', {'query': 'mugs', 'list': ''})

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    if "error" in result:
        return "error." + next(
            (kind for p, kind in ERRORS.items() if re.search(p, result["error"])), "other"
        ), arguments
    if "candidates" in result:
        return "candidates.some", {"list": _list(result["candidates"], rng)}
    if name in ("search_products", "get_similar_products"):
        case, slots = _describe_products(name, result, rng)
    elif name == "get_inventory":
        case, slots = _describe_stock(result)
    elif name == "get_customer_orders":
        case, slots = _describe_orders(result)
    elif name == "get_discount_eligibility":
        case, slots = _describe_discounts(arguments, result)
    else:
        case, slots = _describe_one(name, result)
    return f"{name}.{case}", arguments | slots


def write_answer(phrase: Phrase, slots: dict) -> str:
    """Return the wording with its slots filled.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    return fill(phrase.text, {name: Slot(str(value)) for name, value in slots.items()}, phrase.id)[0]


def verify_answer(answer: str, evidence: str, product_names: Iterable[str]) -> None:
    """Check that an answer is short and says no product, price, number or date that the evidence does not hold.

    Args:
        answer: What ELM is about to say.
        evidence: The tools' results and the customer's own words, as text; the wording's fixed numbers may be added.
        product_names: Every name in the shop.

    Raises:
        Rejected: With what was made up.

    Example:
        >>> verify_answer("It is $12.50.", '{"price": 12.5}', ["Mug"])

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    if len(answer.split()) > MOST_WORDS:
        raise Rejected("answer longer than 60 words")
    known = {float(number.replace(",", "")) for number in NUMBER.findall(evidence)}
    claimed = NUMBER.findall(re.sub(r"(?m)^\d\. ", "", answer))
    if any(float(number.replace(",", "")) not in known for number in claimed):
        raise Rejected("answer with a number that no tool returned")
    lowered = evidence.lower()
    if any(name in answer and name.lower() not in lowered for name in product_names):
        raise Rejected("answer with a product that no tool returned")
