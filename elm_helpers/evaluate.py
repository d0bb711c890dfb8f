"""The scoreboard: systems answer the held-out rows, and every figure comes with an interval and its number of cases."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from elm_helpers.base_model import read_base_model
from elm_helpers.careful import restrain
from elm_helpers.cases import KINDS, REQUESTS, Case, build_case, read_requests, read_rows
from elm_helpers.engines import Engine, complete_all, open_engine
from elm_helpers.export import read_base_id
from elm_helpers.judge import Answer, Miss, list_misses, score_answers
from elm_helpers.metrics import Metric
from elm_helpers.paths import OUTPUTS
from elm_helpers.profiles import PROFILES
from elm_helpers.prompts import EXAMPLES, build_system, build_system_with_tools
from elm_helpers.rules import open_rules
from elm_helpers.runtime import read_machine, read_versions
from elm_helpers.scoreboard import format_scoreboard as format_scoreboard
from elm_helpers.scoreboard import write_scoreboard

from tqdm import tqdm

MAX_TOKENS = {"description": 120}  # a longer answer than 64 tokens is rambling for the other kinds
SYSTEMS = ("rules", "base", "base+tools", "base+few-shot", "base+grammar", "tuned", "tuned+grammar")
TIMED = 20  # calls that are answered one at a time, because requests in a batch share the cores


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
class RequestScores:
    """Metrics on hand-written requests, what went wrong, and all answers."""

    metrics: dict[str, Metric]
    misses: tuple[Miss, ...]
    answers: tuple[Answer, ...]


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
        return {"max_tokens": MAX_TOKENS.get(kind, 64)}

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
    cases = [build_case(row) for row in (read_rows() if rows is None else rows)]
    scores = {system.name: score_answers(answer_cases(system, cases)) for system in systems}
    board = build_board(scores, profile, base_model)
    write_scoreboard(board, out)
    return board


def build_board(scores: Mapping[str, Mapping[str, Metric]], profile: str, base_model: str) -> dict:
    """Return a scoreboard: when, on what, and each system's metrics.

    Args:
        scores: System -> metric -> what was measured.
        profile: ``cpu``, ``gpu`` or ``other``.
        base_model: Hub id.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    board = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "profile": profile, "base_model": base_model}
    systems = [{"system": name, "metrics": {k: asdict(m) for k, m in found.items()}} for name, found in scores.items()]
    return board | {"versions": read_versions(), "machine": read_machine(), "systems": systems}


def score_requests(
    engine: Engine, build_system: Callable = build_system, examples: tuple[dict, ...] = (), path: Path = REQUESTS
) -> RequestScores:
    """Return how an engine does on requests that people wrote by hand: the words that no phrasebook holds.

    Args:
        engine: Who answers; `build_system` and `examples` are as in `System`.
        path: File for `read_requests`.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    answers = answer_cases(System("requests", engine, build_system, examples), read_requests(path), timed=0)
    return RequestScores(score_answers(answers), tuple(list_misses(answers)), tuple(answers))


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
