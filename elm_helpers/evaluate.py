"""The scoreboard: systems answer the held-out rows, and every figure comes with an interval and its number of cases."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from elm_helpers.base_model import read_base_model
from elm_helpers.careful import restrain
from elm_helpers.cases import KINDS, REQUESTS, Case, build_case, read_requests, read_rows
from elm_helpers.engines import Engine, complete_all, open_engine
from elm_helpers.export import read_base_id
from elm_helpers.metrics import Metric, find_invented, has_same_calls, measure_quantile, measure_rate, read_calls
from elm_helpers.paths import OUTPUTS
from elm_helpers.profiles import PROFILES
from elm_helpers.prompts import EXAMPLES, build_system, build_system_with_tools
from elm_helpers.rules import open_rules
from elm_helpers.runtime import read_machine, read_versions
from elm_helpers.scoreboard import LOWER_IS_BETTER, METRICS, write_scoreboard
from elm_helpers.scoreboard import format_scoreboard as format_scoreboard
from elm_helpers.sheets import find_covered, find_made_up, parse_sheet

from tqdm import tqdm

MAX_TOKENS = {"description": 120}  # a longer answer than 80 tokens is rambling for the other kinds
SYSTEMS = ("rules", "base", "base+tools", "base+few-shot", "base+grammar", "tuned", "tuned+grammar")
TIMED = 20  # calls that are answered one at a time, because requests in a batch share the cores
ASKING = re.compile(
    r"\?|\b(please|could you|can you|you'd)\b.*\b(give|tell|send|share|provide|name|say|enter|let me know|specify)\b|"
    r"\b(tell me|send me|give me|let me know|share your|(i|i'll|i just|i would) need)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class System:
    """One rung of the ladder: an engine and what it is told before the customer speaks.

    Attributes:
        name: Its name on the scoreboard.
        engine: The running model, or rules.
        build_system: Customer id or None -> system prompt.
        examples: Messages put between the system prompt and the conversation (few-shot).
    """

    name: str
    engine: Engine
    build_system: Callable[[str | None], str] = build_system
    examples: tuple[dict, ...] = ()


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


@dataclass(frozen=True)
class RequestScores:
    """Metrics on hand-written requests, and what went wrong."""

    metrics: dict[str, Metric]
    misses: tuple[Miss, ...]


def answer_cases(system: System, cases: list[Case], timed: int = TIMED) -> list[Answer]:
    """Let a system answer every case: first a sample of calls alone, with a clock, then the rest as fast as it can.

    Args:
        system: Who answers; temperature 0.
        cases: What is asked.
        timed: Calls to time; one more goes first, unmeasured, so that what all prompts share is cached.

    Returns:
        One answer a case, in the order of the cases.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """

    def prompt(case: Case) -> list[dict]:
        return [{"role": "system", "content": system.build_system(case.customer_id)}, *system.examples, *case.messages]

    def options(kind: str) -> dict:
        return {"max_tokens": MAX_TOKENS.get(kind, 80)}

    answers: dict[int, Answer] = {}
    calls = [at for at, case in enumerate(cases) if case.kind == "call"]
    sample = calls[:: max(1, len(calls) // (timed + 1))][: timed + 1] if timed else []
    with tqdm(total=len(cases), desc=system.name, unit="row", leave=False) as bar:
        for turn, at in enumerate(sample):
            done = system.engine.complete(prompt(cases[at]), **options("call"))
            answers[at] = Answer(cases[at], done.text, done.seconds if turn or len(sample) == 1 else None)
            bar.update()
        for kind in KINDS:
            left = [at for at, case in enumerate(cases) if case.kind == kind and at not in answers]
            replies = complete_all(system.engine, [prompt(cases[at]) for at in left], **options(kind))
            for at, done in zip(left, replies, strict=True):
                answers[at] = Answer(cases[at], done.text, None)
                bar.update()
    return [answers[at] for at in range(len(cases))]


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


def score_system(system: System, rows: list[dict]) -> dict[str, Metric]:
    """Return a system's metrics on rows; a metric that the rows have no case for is left out.

    Args:
        system: Who answers.
        rows: Held-out rows, from `read_rows`.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    return score_answers(answer_cases(system, [build_case(row) for row in rows]))


def evaluate_systems(
    systems: Iterable[System],
    rows: list[dict] | None,
    profile: str,
    base_model: str,
    out: Path = OUTPUTS / "scoreboard.json",
) -> dict:
    """Score systems on the same rows and write the scoreboard.

    Args:
        systems: One after the other, so that timings don't disturb each other.
        rows: Held-out rows; None takes all of the course's eval file.
        profile: ``cpu`` or ``gpu``.
        base_model: Hub id.
        out: File, written beside and then renamed.

    Returns:
        What was written: created, profile, base_model, versions, machine, and the systems with their metrics.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    rows = read_rows() if rows is None else rows
    board = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "profile": profile, "base_model": base_model}
    board |= {"versions": read_versions(), "machine": read_machine(), "systems": []}
    for system in systems:
        metrics = {name: asdict(metric) for name, metric in score_system(system, rows).items()}
        board["systems"].append({"system": system.name, "metrics": metrics})
    write_scoreboard(board, out)
    return board


def score_requests(engine: Engine, path: Path = REQUESTS, build_system: Callable = build_system) -> RequestScores:
    """Return how an engine does on requests that people wrote by hand: the words that no phrasebook holds.

    Args:
        engine: Who answers; `build_system` is as in `System`.
        path: File for `read_requests`.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    answers = answer_cases(System("requests", engine, build_system), read_requests(path), timed=0)
    return RequestScores(score_answers(answers), tuple(list_misses(answers)))


def open_systems(model: Path, names: Iterable[str]) -> Iterator[System]:
    """Yield the rungs of the ladder, each opened when its turn comes.

    Args:
        model: Folder of the adapter; its base model is the untrained one.
        names: Of rules, base, base+tools, base+few-shot, base+grammar, tuned and tuned+grammar.

    Raises:
        ValueError: No such system.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    opened: dict[str, Engine] = {}
    for name in names:
        kind, _, extra = name.partition("+")
        if name not in SYSTEMS:
            raise ValueError(f"found system {name!r}; right are {', '.join(SYSTEMS)}")
        if kind not in opened:
            folder = read_base_model(read_base_id(model), verbose=False) if kind == "base" else model
            opened[kind] = open_rules() if kind == "rules" else open_engine(folder)
        prompt = build_system_with_tools if kind == "base" and extra else build_system
        engine = restrain(opened[kind]) if extra == "grammar" else opened[kind]
        yield System(name, engine, prompt, EXAMPLES if extra == "few-shot" else ())


def evaluate_model(model: Path, rows: list[dict] | None, out: Path, names: Iterable[str] = SYSTEMS) -> dict:
    """Score a trained model beside rules and its own base model, and write the scoreboard.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    base = read_base_id(Path(model))
    profile = next((profile.name for profile in PROFILES.values() if profile.base_model == base), "other")
    return evaluate_systems(open_systems(Path(model), names), rows, profile, base, out)
