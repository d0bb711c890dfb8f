"""What an answer is worth: one flag for each metric it has a say in, and the misses in words."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from elm_helpers.cases import Case
from elm_helpers.metrics import Metric, find_invented, has_same_calls, measure_quantile, measure_rate, read_calls
from elm_helpers.scoreboard import LOWER_IS_BETTER, METRICS
from elm_helpers.sheets import find_covered, find_made_up, parse_sheet

ASKING = re.compile(
    r"\?|\b(please|could you|can you|you'd)\b.*\b(give|tell|send|share|provide|name|say|enter|let me know|specify)\b|"
    r"\b(tell me|send me|give me|let me know|share your|(i|i'll|i just|i would) need)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Answer:
    """What a system wrote for a case; `seconds` only where it was answered alone."""

    case: Case
    text: str
    seconds: float | None


@dataclass(frozen=True)
class Miss:
    """A case that a system got wrong, and by which metric."""

    id: str
    metric: str
    request: str
    expected: str
    found: str


def asks_back(reply: str) -> bool:
    """Return whether a reply holds a question or asks for what is missing.

    Example:
        >>> asks_back("I'll need the order number for that."), asks_back("Your order is on its way.")
        (True, False)

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    return bool(ASKING.search(reply))


def read_category(reply: str) -> str:
    """Return the category that a reply names as `Category: <name>`, or as nothing but the name, in lower case.

    Example:
        >>> read_category("**Category:** Furniture."), read_category("I think it is furniture")
        ('furniture', 'i think it is furniture')

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    named = re.search(r"category\W*:\W*([^\n]+)", reply, re.IGNORECASE)
    return (named[1] if named else reply).strip(" \t\n.*`\"'<>").casefold()


def judge_answer(answer: Answer, brands: Iterable[str] = ()) -> dict[str, list[bool]]:
    """Return what an answer adds to each metric: one flag, or one for each fact of a sheet.

    A call that cannot be run counts as a call: wrong where one was due, and too much where none was.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    case, text = answer.case, answer.text
    said = "\n".join(message["content"] for message in case.messages)
    if case.kind == "category":
        return {"category": [read_category(text) == read_category(case.gold)]}
    if case.kind == "description":
        sheet = parse_sheet(said)
        return {
            "description_coverage": find_covered(sheet, text),
            "description_invented": [bool(find_made_up(sheet, text, brands))],
        }
    calls = read_calls(text)
    called, calls = calls is None or bool(calls), calls or []
    flags = {"invented_argument": [bool(find_invented(call, said)) for call in calls]} if calls else {}
    if case.kind == "call":
        names = [call.name for call in calls]
        flags["tool_name"] = [any(names == [call.name for call in gold] for gold in case.calls)]
        flags["tool_exact"] = [any(has_same_calls(calls, gold) for gold in case.calls)]
        return flags
    flags["over_call"] = [called]
    return flags | ({"ask_back": [not called and asks_back(text)]} if case.kind == "ask_back" else {})


def score_answers(answers: list[Answer]) -> dict[str, Metric]:
    """Return every metric that the answers have a case for.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    flags, brands = defaultdict(list), _list_brands(answers)
    for answer in answers:
        for name, values in judge_answer(answer, brands).items():
            flags[name] += values
    scores = {name: measure_rate(flags[name]) for name in METRICS if flags[name]}
    seconds = [answer.seconds for answer in answers if answer.seconds is not None]
    if seconds:
        scores |= {"latency_p50_s": measure_quantile(seconds, 0.5), "latency_p95_s": measure_quantile(seconds, 0.95)}
    return scores


def list_misses(answers: list[Answer], limit: int | None = None) -> list[Miss]:
    """Return what went wrong, in the order of the rows: reading ten misses teaches more than any average.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    misses, brands = [], _list_brands(answers)
    for answer in answers:
        case = answer.case
        for name, values in judge_answer(answer, brands).items():
            if any(values) if name in LOWER_IS_BETTER else not all(values):
                misses.append(Miss(case.id, name, case.messages[-1]["content"], case.gold, answer.text))
    return misses[:limit]


def _list_brands(answers: list[Answer]) -> set[str]:
    sheets = [parse_sheet(a.case.messages[-1]["content"]) for a in answers if a.case.kind == "description"]
    return {sheet["Brand"] for sheet in sheets if "Brand" in sheet}
