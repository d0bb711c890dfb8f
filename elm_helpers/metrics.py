"""What is counted, and how sure we are: rates with their intervals, calls compared, arguments that nobody stated."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from elm_helpers.signatures import read_parameters
from elm_helpers.tool_calls import ToolCall, ToolCallError, parse_tool_calls
from elm_helpers.tools import TOOLS

ENUMS = ("method", "status")  # their values are the tools' words, not the customer's
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
SPOKEN = {word: value for value, word in enumerate(f"{ONES} eighteen nineteen".split())}
SPOKEN |= {word: 10 * value for value, word in enumerate(TENS.split(), 2)} | {"couple": 2, "dozen": 12}
WORD = "|".join([*SPOKEN, "hundred", "thousand"])
WORDED = re.compile(
    rf"\b(?:an? (?=hundred|thousand))?(?:{WORD})\b(?:(?:[ -]|(?<=hundred) and |(?<=thousand) and )(?:{WORD})\b)*", re.I
)


@dataclass(frozen=True)
class Metric:
    """A measured value with its 95 % interval and the number of cases behind it."""

    value: float
    low: float
    high: float
    n: int


def wilson_interval(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the score interval of a rate, so that a table never shows a bare percentage.

    Args:
        hits: Rows that passed, 0 ≤ hits ≤ n.
        n: Rows tried, at least 1.
        z: Normal quantile; 1.96 is 95 %.

    Returns:
        (low, high), fractions in [0, 1]. Source: Wilson 1927.

    Raises:
        ValueError: No rows, or more hits than rows.

    Example:
        >>> wilson_interval(9, 10)
        (0.596, 0.982)

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"found {hits} hits of {n} rows; right is 0 ≤ hits ≤ n and n ≥ 1")
    rate, spread = hits / n, z * z / n
    centre, half = rate + spread / 2, z * sqrt(rate * (1 - rate) / n + spread / (4 * n))
    low, high = (centre - half) / (1 + spread), (centre + half) / (1 + spread)
    return round(max(low, 0.0), 3), round(min(high, 1.0), 3)


def measure_rate(flags: Sequence[bool]) -> Metric:
    """Return the share of true flags with its Wilson interval.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    hits, n = sum(map(bool, flags)), len(flags)
    interval = wilson_interval(hits, n)
    return Metric(round(hits / n, 4), *interval, n)


def measure_quantile(values: Sequence[float], share: float) -> Metric:
    """Return a quantile with the order statistics that bound it: no assumption on how the values are spread.

    Args:
        values: At least one measured value, such as seconds.
        share: 0.5 for the median, 0.95 for the slow end.

    Returns:
        The interval's ranks are n·share ± 1.96·√(n·share·(1 − share)), cut at the smallest and the largest value.

    Example:
        >>> measure_quantile([0.3, 0.1, 0.2], 0.5)
        Metric(value=0.2, low=0.1, high=0.3, n=3)

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    ordered, n = sorted(values), len(values)
    half = 1.96 * sqrt(n * share * (1 - share))
    ranks = (ceil(n * share), ceil(n * share - half), ceil(n * share + half) + 1)
    value, low, high = (round(ordered[min(max(rank, 1), n) - 1], 4) for rank in ranks)
    return Metric(value, low, high, n)


def read_calls(text: str) -> list[ToolCall] | None:
    """Return the calls of a reply, or None where it holds one that cannot be run.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    try:
        return parse_tool_calls(text)
    except ToolCallError:
        return None


def normalise_call(call: ToolCall) -> tuple[str, dict]:
    """Return a call in the form in which two that mean the same are equal.

    Text loses case, '#', outer and double spaces; numbers count by value; None and a tool's own defaults are left out.

    Example:
        >>> normalise_call(ToolCall("get_customer_orders", {"order_id": "#W1 ", "status": None}))
        ('get_customer_orders', {'order_id': 'w1'})

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    defaults = {one.name: one.default for one in read_parameters(TOOLS[call.name]) if not one.required}
    kept = {key: value for key, value in call.arguments.items() if value is not None and value != defaults.get(key)}
    plain = {
        key: " ".join(v.casefold().replace("#", " ").split()) if isinstance(v, str) else float(v)
        for key, v in kept.items()
    }
    return call.name, plain


def has_same_calls(found: Iterable[ToolCall], gold: Iterable[ToolCall]) -> bool:
    """Return whether two replies make the same calls with the same arguments, lightly normalised.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    return [normalise_call(call) for call in found] == [normalise_call(call) for call in gold]


def write_digits(text: str) -> str:
    """Return the text with its number words as digits.

    Example:
        >>> write_digits("three mugs, a hundred and twenty five dollars")
        '3 mugs, 125 dollars'

    Shown in ``notebooks/04_run_locally.ipynb``.
    """

    def add(match: re.Match) -> str:
        total = current = 0
        for word in re.findall(rf"\b(?:{WORD})\b", match[0].casefold()):
            if word in SPOKEN:
                current += SPOKEN[word]
            else:
                current = max(current, 1) * (100 if word == "hundred" else 1000)
                total, current = (total + current, 0) if word == "thousand" else (total, current)
        return str(total + current)

    return WORDED.sub(add, text)


def read_numbers(text: str) -> set[float]:
    """Return the numbers that a text states, in digits or in words.

    Example:
        >>> sorted(read_numbers("two mugs, 1,200 or 1.5k"))
        [1.5, 2.0, 1200.0, 1500.0]

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    digits = f"{text} {write_digits(text)}"
    numbers = {float(n.replace(",", "")) for n in NUMBER.findall(digits)}
    return numbers | {1000 * float(n) for n in re.findall(r"(\d+(?:\.\d+)?)k\b", digits, re.I)}


def split_words(text: str) -> list[str]:
    """Return the lower-case words and numbers of a text without plural s, so that wording differs but facts don't.

    Example:
        >>> split_words("Kids' Headphones, #EC-99182")
        ['kid', 'headphone', 'ec', '99182']

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    words = re.findall(r"\w+", text.casefold().replace("'", "").replace("’", ""))
    return [re.sub(r"(?<=\w\w[^s\W\d])s$", "", word) for word in words]


def find_invented(call: ToolCall, conversation: str) -> list[str]:
    """Return the arguments of a call whose value nobody stated: a word or a number that is nowhere in the conversation.

    Args:
        call: The call.
        conversation: Everything said and returned so far, without the system prompt.

    Example:
        >>> find_invented(ToolCall("search_products", {"query": "red mug", "max_price": 20}), "a red mug for $15")
        ['max_price']

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    words, numbers, invented = set(split_words(conversation)), read_numbers(conversation), []
    for key, value in normalise_call(call)[1].items():
        if isinstance(value, str):
            said = [word in words for word in split_words(value)]
            stated = any(said) if key == "category" else all(said)
        else:
            stated = value in numbers
        if key not in ENUMS and not stated:
            invented.append(key)
    return invented
