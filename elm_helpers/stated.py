"""What a customer's words settle by themselves: price limits, how many, how fast, and what can be a code."""

import re
from functools import cache

from elm_helpers.limits import UNIT, find_price_limits
from elm_helpers.metrics import read_numbers, write_digits
from elm_helpers.phrasebook import read_phrasebook

MOST_RESULTS = 20  # a larger number is hardly how many results somebody wants
THINGS = (
    "alternatives?|options?|items?|substitutes?|ideas?|suggestions?|products?|replacements?|choices?|results?|models?"
)
COUNT = re.compile(
    rf"\b(?:top|best) (\d+)\b|\b(\d+) (?:{THINGS}|of (?:them|those|your)|best|other|similar|like|cheapest)\b", re.I
)
NAMED_CODE = re.compile(r"\b(?:code|coupon|voucher|promo)\W+(?:is |called )?([\w-]{3,})", re.I)
SIZED = re.compile(rf"\d[\d,.]*{UNIT.pattern}", re.I)


@cache
def read_methods() -> dict[str, str]:
    """Return the customers' words for a shipping method: word -> method, from the phrasebook.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    return read_phrasebook().requests["calculate_shipping"].values["method"]


def read_settled(text: str) -> dict[str, float | int | str]:
    """Return the arguments that a customer's message settles without a model.

    Args:
        text: The message.

    Returns:
        Of min_price, max_price, limit and method those that the words leave no doubt about.

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
    return {name: value for name, value in found.items() if value is not None}


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
