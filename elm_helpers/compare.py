"""Two systems on the same questions: which is better, for whom, and what each takes for what."""

import html
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import comb

from elm_helpers.judge import Answer, Miss, judge_answer
from elm_helpers.metrics import Metric, measure_rate, read_calls
from elm_helpers.scoreboard import LOWER_IS_BETTER


@dataclass(frozen=True)
class Comparison:
    """How two systems did on the same cases: `only_first` is what the first got right and the second wrong."""

    metric: str
    n: int
    both: int
    only_first: int
    only_second: int
    p: float


def count_chances(fewer: int, n: int) -> float:
    """Return how likely a split of n coin tosses is that is at least as uneven: the exact form of McNemar's test.

    Args:
        fewer: Cases that went the rarer way.
        n: Cases in which the two systems differ.

    Returns:
        Two-sided p. Source: McNemar 1947; exact, by the binomial distribution.

    Example:
        >>> count_chances(1, 10), count_chances(0, 0)
        (0.0215, 1.0)

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    return round(min(1.0, 2 * sum(comb(n, k) for k in range(fewer + 1)) / 2**n), 4)


def compare_answers(first: Sequence[Answer], second: Sequence[Answer], metric: str) -> Comparison:
    """Compare two systems case by case, which tells them apart with fewer cases than two intervals do.

    Args:
        first, second: Answers to the same cases, in the same order.
        metric: A rate that has one flag a case, such as `tool_exact` or `over_call`.

    Raises:
        ValueError: Not the same cases, or none with that metric.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    if [answer.case.id for answer in first] != [answer.case.id for answer in second]:
        raise ValueError("the two systems answered different cases")
    flags = [[judge_answer(answer).get(metric) for answer in answers] for answers in (first, second)]
    pairs = [(one[0], two[0]) for one, two in zip(*flags, strict=True) if one and two and len(one) == len(two) == 1]
    if not pairs:
        raise ValueError(f"no case has one flag of {metric}")
    right = metric not in LOWER_IS_BETTER  # the flag of a right answer
    tally = Counter((one == right, two == right) for one, two in pairs)
    a, b = tally[True, False], tally[False, True]
    return Comparison(metric, len(pairs), tally[True, True], a, b, count_chances(min(a, b), a + b))


def group_scores(answers: Iterable[Answer], metric: str, by: Callable[[Answer], str]) -> dict[str, Metric]:
    """Return a rate for each group of answers, the largest group first.

    Args:
        answers: Of one system.
        metric: A rate of the scoreboard.
        by: Answer -> group, such as `name_tool` or `name_register`; "" leaves an answer out.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    flags = defaultdict(list)
    for answer in answers:
        flags[by(answer)] += judge_answer(answer).get(metric, [])
    found = {group: measure_rate(values) for group, values in flags.items() if group and values}
    return dict(sorted(found.items(), key=lambda pair: (-pair[1].n, pair[0])))


def name_tool(answer: Answer) -> str:
    """Return the tool that is right for a case; what kind of case it is where none is.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    return answer.case.calls[0][0].name if answer.case.calls else answer.case.kind


def name_register(answer: Answer) -> str:
    """Return how the customer talks.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    return answer.case.register


def name_found(answer: Answer) -> str:
    """Return the tool that a reply calls first: "malformed" for a call that can't be run, "no call" for prose.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    calls = read_calls(answer.text)
    return "malformed" if calls is None else calls[0].name if calls else "no call"


def count_confusions(answers: Iterable[Answer]) -> dict[tuple[str, str], int]:
    """Return how often each tool was called where each was right; titles and sheets of facts are left out.

    Returns:
        (right, found) -> cases.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    talked = [answer for answer in answers if answer.case.kind in ("call", "ask_back", "no_call")]
    return dict(Counter((name_tool(answer), name_found(answer)) for answer in talked))


def render_misses_html(misses: Iterable[Miss]) -> str:
    """Return misses as HTML to unfold, a heap for each metric; whatever a model or a customer wrote is escaped.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    heaps = defaultdict(list)
    for miss in misses:
        heaps[miss.metric].append(miss)
    parts = []
    for metric, heap in sorted(heaps.items(), key=lambda pair: -len(pair[1])):
        cells = [map(html.escape, (miss.id, miss.request, miss.expected, miss.found)) for miss in heap]
        rows = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells)
        head = "<tr><th>id</th><th>asked</th><th>right</th><th>found</th></tr>"
        parts.append(f"<details><summary>{metric}: {len(heap)}</summary><table>{head}{rows}</table></details>")
    return "".join(parts) or "<p>no misses</p>"
