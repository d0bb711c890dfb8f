"""How much may it cost? The price limits in a customer's own words, which the agent doesn't leave to a model."""

import re

MONEY = re.compile(r"(?:\$|USD ?|€|£)\s?(\d[\d,]*(?:\.\d+)?)|(\d[\d,]*(?:\.\d+)?)\s?(?:dollars|bucks|USD)\b", re.I)
AMOUNT = r"(?:\$|usd ?|€|£)?\s?(\d[\d,]*(?:\.\d+)?)"
CEILING = re.compile(
    r"(?:\b(?:under|below|less than|cheaper than|up to|at most|max(?:imum)?(?: of)?|within|budget(?: is| of)?)|<=?)"
    rf"\s*{AMOUNT}|{AMOUNT}\s*(?:dollars|bucks|usd)?\s*(?:or less|max|tops|at most)\b(?!\s*(?:of )?[$€£\d])",
    re.I,
)
FLOOR = re.compile(
    rf"(?:\b(?:over|above|more than|at least|from|starting at|min(?:imum)?(?: of)?|upwards? of)|>=?)\s*{AMOUNT}", re.I
)
NEGATED = re.compile(
    r"(?:\b(?:no(?!,? wait)|not|nothing|never|none|without)|n['’]t|\b(?:do|wo|ca)nt)\b[^.,;:!?\d]{0,30}$", re.I
)
RANGE = re.compile(rf"(?:between\s*)?{AMOUNT}\s*(?:-|–|to|and)\s*{AMOUNT}", re.I)
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
