"""Scripted customers: conversations of several turns, graded by what stands in the shop's database at the end."""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from elm_helpers.agent import Conversation, Turn, run_turn
from elm_helpers.dialogue import ORDINALS, copy_shop
from elm_helpers.engines import Engine
from elm_helpers.grounding import find_price_limits, find_ungrounded
from elm_helpers.metrics import Metric, measure_rate
from elm_helpers.paths import TEMPLATES
from elm_helpers.phrasebook import SLOT, hash_text
from elm_helpers.store import SCHEMA, build_store
from elm_helpers.tools import Session

import yaml
from tqdm import tqdm

SCRIPTED = TEMPLATES / "customers_scripted.yaml"
SCENARIO_FIELDS = {"id": str, "purpose": str, "customer": str, "turns": list, "returns": list, "hidden": list}
TURN_FIELDS = {"say": str, "calls": list, "results": list, "hidden": list, "again": bool}
SEND_BACK = """INSERT INTO returns SELECT 'new', order_id, line, NULL, round(l.price * quantity, 2), 'approved', value
    FROM order_lines l JOIN products p ON p.id = product_id JOIN meta ON key = 'today' WHERE order_id = :order_id
    AND coalesce(:product, name) = name AND (order_id, line) NOT IN (SELECT order_id, line FROM returns)"""
CLOSE = """UPDATE orders SET status = 'returned' WHERE id = :order_id AND (SELECT count(*) FROM order_lines
    WHERE order_id = orders.id) = (SELECT count(*) FROM returns WHERE order_id = orders.id)"""


@dataclass(frozen=True)
class ScriptedTurn:
    """One message of a customer, and what must hold after it; `calls` are for tests only, no agent sees them."""

    say: str
    calls: tuple[str, ...] = ()
    results: tuple[dict, ...] = ()
    hidden: tuple[str, ...] = ()
    again: bool = False


@dataclass(frozen=True)
class Scenario:
    """A scripted customer: `query` finds who they are and what they talk about, `returns` is what must be written."""

    id: str
    purpose: str
    customer: str
    query: str
    turns: tuple[ScriptedTurn, ...]
    returns: tuple[dict, ...] = ()
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScenarioResult:
    """How a conversation went: no `reasons` is a success; those of answers that aren't true are in `untrue`, too."""

    id: str
    reasons: tuple[str, ...]
    turns: tuple[Turn, ...]
    untrue: tuple[str, ...] = ()


def read_scenarios(path: Path = SCRIPTED) -> tuple[Scenario, ...]:
    """Return the scripted customers of a file, checked.

    Raises:
        ValueError: Names file, scenario and field, what was found and what would be right.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    name, data = Path(path).name, yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    _check(f"{name}:", data, {"views": str, "roles": dict, "scenarios": list}, ("views", "roles", "scenarios"))
    roles, scenarios = _read_roles(name, data), {}
    for number, item in enumerate(data["scenarios"], 1):
        where = f"{name}: scenario {item.get('id', number) if isinstance(item, dict) else number},"
        _check(where, item, SCENARIO_FIELDS, ("id", "purpose", "customer", "turns"))
        if item["customer"] not in roles:
            raise ValueError(f"{where} field customer: found {item['customer']!r}; right are {', '.join(roles)}")
        query, slots = roles[item["customer"]]
        _check(where, item | {"turns": ["-"]}, SCENARIO_FIELDS, (), slots)
        turns = [{"say": turn} if isinstance(turn, str) else turn for turn in item["turns"]]
        if not 2 <= len(turns) <= 7 or item["id"] in scenarios:
            raise ValueError(f"{where} field turns or id: found {len(turns)}; right are 2 to 7, and an id of its own")
        for at, turn in enumerate(turns, 1):
            _check(f"{where} turn {at},", turn, TURN_FIELDS, ("say",), slots)
        for back in item.get("returns", ()):
            _check(f"{where} returns,", back, {"order_id": str, "product": str}, ("order_id",), slots)
        script = tuple(ScriptedTurn(**_fill(turn, {})) for turn in turns)
        scenarios[item["id"]] = Scenario(**_fill(item, {}) | {"turns": script, "query": query})
    return tuple(scenarios.values())


def _read_roles(name: str, data: dict) -> dict[str, tuple[str, set[str]]]:
    """Return each role's SELECT, and its columns, which are found by running it in an empty shop."""
    empty, roles = sqlite3.connect(":memory:"), {}
    empty.executescript(SCHEMA.read_text(encoding="utf-8"))
    for role, select in data["roles"].items():
        query = f"{data['views']} {select}"
        try:
            roles[role] = query, {column[0] for column in empty.execute(query).description}
        except sqlite3.Error as error:
            raise ValueError(f"{name}: role {role}: found {error}; one SELECT is right") from error
        if "customer_id" not in roles[role][1]:
            raise ValueError(f"{name}: role {role}: found no column customer_id; it says who is signed in")
    return roles


def _check(where: str, item: object, known: dict, required: tuple, slots: set[str] | None = None) -> None:
    """Check fields, their types, and the slots in them; a list that was shown gives calls and results three more."""
    if not isinstance(item, dict):
        raise ValueError(f"{where} found {item!r:.80}; a mapping with {', '.join(required)} is right")
    for key in dict.fromkeys((*required, *item)):
        if key not in known:
            raise ValueError(f"{where} field {key}: found an unknown field; right are {', '.join(known)}")
        if not isinstance(item.get(key), known[key]) or item[key] in ("", [], {}):
            raise ValueError(f"{where} field {key}: found {item.get(key)!r:.80}; a {known[key].__name__} is right")
        right = (slots or set()) | set(ORDINALS if key in ("calls", "results") else ())
        unknown = sorted(set(SLOT.findall(str(item[key]))) - right) if slots else ()
        if unknown:
            raise ValueError(f"{where} field {key}: found {{{unknown[0]}}}; right are {', '.join(sorted(right))}")


def read_slots(scenario: Scenario, shop: sqlite3.Connection) -> dict[str, Any]:
    """Return who a scenario's customer is in this shop and what they talk about: the row that the scenario's id picks.

    Raises:
        ValueError: The shop has nobody of that role.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    rows = sorted((dict(row) for row in shop.execute(scenario.query)), key=str)
    if not rows:
        raise ValueError(f"scenario {scenario.id}: the shop has no {scenario.customer}")
    return rows[int(hash_text(scenario.id) * len(rows))]


def _read_listed(results: Iterable[dict]) -> dict[str, str]:
    """Return what "the first", "the second" and "the third" mean: products of the last list that a tool returned."""
    lists = [result[key] for result in results for key in ("products", "similar", "candidates") if result.get(key)]
    return dict(zip(ORDINALS, (thing["name"] for thing in lists[-1]), strict=False)) if lists else {}


def _fill(value: object, slots: dict[str, object]) -> Any:
    """Return a text, or a list or mapping of texts, with its slots filled; an unknown one stays."""
    if isinstance(value, dict):
        return {_fill(key, slots): _fill(part, slots) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_fill(part, slots) for part in value)
    return SLOT.sub(lambda slot: str(slots.get(slot[1], slot[0])), value) if isinstance(value, str) else value


def fits_result(wanted: object, found: object) -> bool:
    """Return whether a tool's result holds what is wanted: a part is enough, and "a | b" is either.

    Example:
        >>> fits_result({"orders": [{"status": "shipped | lost"}]}, {"orders": [{"order_id": "W1", "status": "lost"}]})
        True

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(key in found and fits_result(wanted[key], found[key]) for key in wanted)
    if isinstance(wanted, list | tuple):
        return isinstance(found, list) and all(any(fits_result(each, one) for one in found) for each in wanted)
    return str(found).casefold() in str(wanted).casefold().split(" | ")


def find_wrong_rows(before: sqlite3.Connection, after: sqlite3.Connection, returns: Iterable[dict]) -> list[str]:
    """Return how a shop differs, in any table, from the one before with these returns, whatever their ids and reasons.

    Args:
        before: The shop as it was.
        after: The shop as it is, with what is open in it.
        returns: ``{"order_id", "product"}`` of what had to be sent back; without a product, all that is left.

    Raises:
        ValueError: There is nothing to send back, so the scenario is wrong.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    wanted, found, due = copy_shop(before), copy_shop(after), Counter(one["order_id"] for one in returns)
    wanted.row_factory = found.row_factory = None  # plain tuples compare fast
    last = wanted.execute("SELECT coalesce(max(rowid), 0) FROM returns").fetchone()
    for one in returns:
        if not wanted.execute(SEND_BACK, {"product": None} | one).rowcount:
            raise ValueError(f"order {one['order_id']} has nothing to send back: {one}")
        wanted.execute(CLOSE, one)
    new = found.execute("SELECT order_id, count(DISTINCT id) FROM returns WHERE rowid > ? GROUP BY 1", last).fetchall()
    reasons = [f"order {order} has {n} returns, {due[order]} are due" for order, n in new if n != due[order]]
    found.execute("UPDATE returns SET id = 'new', reason = NULL WHERE rowid > ?", last)
    tables = "SELECT name FROM sqlite_master WHERE type = 'table'"
    for table in sorted({row[0] for shop in (wanted, found) for row in shop.execute(tables)}):
        right, there = (shop.execute(f'SELECT * FROM "{table}"').fetchall() for shop in (wanted, found))
        if right != there:
            right, there = (Counter(map(str, rows)) for rows in (right, there))
            reasons += [f"{table}: {row:.120} is missing" for row in right - there]
            reasons += [f"{table}: {row:.120} should not be there" for row in there - right]
    return reasons


def run_scenario(
    engine: Engine, scenario: Scenario, store: sqlite3.Connection, *, temperature: float = 0.0, seed: int = 0
) -> ScenarioResult:
    """Let a scripted customer talk to the agent in a fresh copy of the store, and say why it went wrong, if it did.

    A turn that raises is a failure, and ends the conversation.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """

    def complete(messages: list[dict], **options):
        return engine.complete(messages, **{"temperature": temperature, "seed": seed} | options)

    shop, before = copy_shop(store), copy_shop(store)
    slots, start = read_slots(scenario, before), shop.serialize()
    names = [row[0] for row in shop.execute("SELECT name FROM products")]
    session, talk, turns, reasons, untrue = Session(shop, slots["customer_id"]), Conversation(), [], [], []
    try:
        for at, turn in enumerate(scenario.turns, 1):
            text, earlier = _fill(turn.say, slots), talk
            for _ in range(1 + turn.again):
                talk, done = run_turn(replace(engine, complete=complete), session, earlier, text)
                turns.append(done)
                said = [message["content"] for message in talk.messages if message["role"] == "user"]
                wrong = find_ungrounded(done.answer, list(talk.results), said, names, find_price_limits(text))
                untrue += [f"turn {at}: {done.answer!r:.80} was shown, but {reason}" for reason in wrong]
                reasons += [f"turn {at}: {reason}" for reason in _judge_turn(scenario, turn, slots, earlier, talk)]
    except Exception as error:  # whatever the model made the agent do, the other scenarios go on
        reasons.append(f"turn {at} raised {error!r}")
    if scenario.returns or shop.serialize() != start:
        reasons += find_wrong_rows(before, shop, _fill(scenario.returns, slots))
    return ScenarioResult(scenario.id, (*reasons, *untrue), tuple(turns), tuple(untrue))


def _judge_turn(scenario: Scenario, turn: ScriptedTurn, slots: dict, earlier: Conversation, talk: Conversation):
    """Yield what a turn lacks, and what it showed that has to stay hidden."""
    for wanted in _fill(turn.results, slots | _read_listed(earlier.results)):
        if not any(fits_result(wanted, result) for result in talk.results):
            yield f"no tool returned {json.dumps(wanted, ensure_ascii=False)}"
    answer = talk.messages[-1]["content"]
    shown = answer + json.dumps(talk.results[len(earlier.results) :], ensure_ascii=False)
    for texts, place in ((turn.hidden, answer), (scenario.hidden, shown)):
        for text in " | ".join(_fill(texts, slots)).split(" | "):
            if text and text.casefold() in place.casefold():
                yield f"{text} was shown"


def score_agent(
    engine: Engine,
    scenarios: Iterable[Scenario],
    store: sqlite3.Connection | None = None,
    *,
    tries: int = 4,
    temperature: float = 0.7,
    on_result: Callable[[ScenarioResult], None] | None = None,
) -> dict[str, Metric]:
    """Return how often the agent does what its customers want, by the state of the database.

    Args:
        engine: The model; its slots answer several customers at once.
        scenarios: From `read_scenarios`.
        store: The shop, which isn't changed; None is the course's.
        tries: Sampled runs of each scenario, with seeds 1 to `tries`; 0 leaves them out.
        temperature: Of the sampled runs.
        on_result: Called with each result, greedy ones first, so that misses can be read.

    Returns:
        `agent_success`: greedy, pass^1. `agent_success_pass4`: all sampled runs succeed, pass^k (tau-bench, 2024).
        Shares of all turns: `answer_grounded`, the model's answer or its second try passed the check;
        `answer_second_try`, it was the second; `answer_untrue`, what was shown fails the check, which is never right.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    scenarios, store = list(scenarios), build_store() if store is None else store
    jobs, results = [(scenario, seed) for seed in range(tries + 1) for scenario in scenarios], []

    def run(job: tuple[Scenario, int]) -> ScenarioResult:
        return run_scenario(engine, job[0], store, temperature=temperature if job[1] else 0.0, seed=job[1])

    with ThreadPoolExecutor(engine.parallel) as pool:
        for result in tqdm(pool.map(run, jobs), "customers", len(jobs), leave=False):
            results.append(result)
            if on_result:
                on_result(result)
    passed, n = [not result.reasons for result in results], len(scenarios)
    turns = [turn for result in results for turn in result.turns]
    second = [any("sent the answer back" in step.title for step in turn.steps) for turn in turns]
    untrue = sum(len({reason.split(":")[0] for reason in result.untrue}) for result in results)
    flags = {"agent_success": passed[:n]}
    flags["agent_success_pass4"] = [all(passed[n + at :: n]) for at in range(n if tries else 0)]
    flags |= {"answer_grounded": [not turn.replaced for turn in turns], "answer_second_try": second}
    flags["answer_untrue"] = [at < untrue for at in range(len(turns))]
    return {name: measure_rate(values) for name, values in flags.items() if values}
