"""The agent: question → model → tool call → execute → model → checked answer, with memory, a trace and consent."""

import json
import random
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from elm_helpers.answers import Rejected, describe_result, write_answer
from elm_helpers.consent import PATIENCE, asks_else, is_asked, is_harmless, is_yes
from elm_helpers.context import cut_text, measure_memory, trim_memory
from elm_helpers.engines import Completion, Engine
from elm_helpers.grounding import find_over_limits, find_ungrounded, fits_limits
from elm_helpers.guard import run_guarded
from elm_helpers.phrasebook import PhrasebookError, read_answers
from elm_helpers.prompts import build_system
from elm_helpers.signatures import read_parameters
from elm_helpers.stated import read_limits, read_settled
from elm_helpers.tool_calls import ToolCall, ToolCallError, format_tool_call, parse_tool_calls
from elm_helpers.tools import TOOLS, WRITES, Session, format_result

ROUNDS = 4  # tool rounds in a turn; then the agent answers from what it has
LONGEST_MESSAGE = 2000  # characters of a customer's message, or of a call that cannot be run; the rest is cut off
UNASKED = "the customer did not ask for this; ask them which order they want to send back"
STUCK = "I'm sorry, I could not find that out. Could you say it in other words?"


@dataclass(frozen=True)
class Step:
    """One step of the trace: its number in the seed's seven, what happened, the text, and the seconds it took."""

    step: int
    title: str
    text: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Conversation:
    """What the agent remembers: the messages so far, every tool result, and a write that waits for a yes.

    `waited` counts the turns that the write has waited for; after `PATIENCE` of them it is dropped.
    """

    messages: tuple[dict, ...] = ()
    results: tuple[dict, ...] = ()
    pending: ToolCall | None = None
    waited: int = 0


@dataclass(frozen=True)
class Turn:
    """What one question led to: the answer, the trace, the writes done, and why the model's own answer was replaced."""

    answer: str
    steps: tuple[Step, ...]
    writes: tuple[dict, ...] = ()
    replaced: tuple[str, ...] = ()


def enforce_limits(call: ToolCall, text: str) -> ToolCall:
    """Return the call with what the customer's own words settle (`read_settled`), whatever the model made of them.

    A limit that the model put at the wrong end, such as `min_price` for "under $20", goes.

    Example:
        >>> enforce_limits(ToolCall("search_products", {"query": "mug"}), "a mug under $20").arguments
        {'query': 'mug', 'max_price': 20.0}

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    said, takes = read_settled(text), {one.name for one in read_parameters(TOOLS[call.name])}
    prices = [said[key] for key in ("min_price", "max_price") if key in said]
    kept = {k: v for k, v in call.arguments.items() if k not in ("min_price", "max_price") or v not in prices}
    return replace(call, arguments=kept | {key: value for key, value in said.items() if key in takes})


def render_result(call: ToolCall, result: dict, limits: tuple[float | None, float | None] = (None, None)) -> str:
    """Say a tool's result in plain words, without the model: the answer when the model's own cannot be trusted.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    try:
        shown = {
            key: [product for product in value if fits_limits(product["price"], limits)]
            if key in ("products", "similar", "candidates")
            else value
            for key, value in result.items()
        }
        case, slots = describe_result(call.name, call.arguments, shown, random.Random(0))
        return write_answer(read_answers()[case][0], slots)
    except (LookupError, TypeError, AttributeError, Rejected, PhrasebookError):
        return str(result.get("error") or result.get("message") or STUCK)


def run_turn(
    engine: Engine,
    session: Session,
    conversation: Conversation,
    text: str,
    *,
    on_step: Callable[[Step], None] | None = None,
    on_text: Callable[[str], None] | None = None,
) -> tuple[Conversation, Turn]:
    """Answer one message of a customer.

    Args:
        engine: The model.
        session: The shop and the signed-in customer; identity comes from here only.
        conversation: What was said before; `Conversation()` at the start.
        text: The customer's message.
        on_step: Called with each step as it happens.
        on_text: Called with each piece of the model's text as it comes: a draft until the next step, not yet checked.

    Returns:
        (conversation to go on with, what this turn did).

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    steps: list[Step] = []

    def note(step: int, title: str, content: str, seconds: float = 0.0) -> None:
        steps.append(Step(step, title, content, round(seconds, 3)))
        if on_step:
            on_step(steps[-1])

    if on_text:
        engine = replace(engine, complete=partial(engine.complete, on_text=on_text))
    text = cut_text(text, LONGEST_MESSAGE)
    note(1, "The customer asks", text)
    first = [] if conversation.messages else [{"role": "system", "content": build_system(session.customer_id)}]
    messages, calls = [*conversation.messages, *first, {"role": "user", "content": text}], []
    if conversation.pending and is_yes(text):
        written = format_tool_call(conversation.pending)
        note(3, "The customer said yes to the waiting call", written)
        run_call(replace(session, confirmed=written), conversation.pending, messages, calls, note)
    reply = gather_facts(engine, session, messages, calls, text, note)
    results = [*conversation.results, *(result for _, result in calls)]
    answer, replaced = check_answer(engine, session, messages, reply, results, calls, note)
    waiting, waited = find_waiting(conversation, text, calls, answer)
    answer = name_waiting(answer, waiting, results)
    messages.append({"role": "assistant", "content": answer})
    note(7, "The customer reads", answer)
    writes = tuple(result for _, result in calls if "return_id" in result)
    after = Conversation(tuple(messages), tuple(results), waiting, waited)
    return after, Turn(answer, tuple(steps), writes, replaced)


def find_waiting(conversation: Conversation, text: str, calls: list, answer: str) -> tuple[ToolCall | None, int]:
    """Return the write that waits for a yes after this turn, and how many turns it has waited for.

    A new proposal takes the place of an older one. Without one, the older one outlives `PATIENCE` questions, but not a
    no, a change of mind, or a question of ELM's about something else, because the next yes would be a yes to that.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    tried = [(call, result) for call, result in calls if call.name in WRITES and result.get("error") != UNASKED]
    if tried:
        proposed = [call for call, result in tried if result.get("status") == "needs_confirmation"]
        return (proposed[-1] if proposed else None), 0
    waits = is_harmless(text) and not asks_else(answer.replace(STUCK, "")) and conversation.waited < PATIENCE
    return (conversation.pending, conversation.waited + 1) if conversation.pending and waits else (None, 0)


def name_waiting(answer: str, waiting: ToolCall | None, results: list[dict]) -> str:
    """Return the answer with the waiting write at its end, unless it asks for it: no yes to what can't be seen.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    proposals = [result for result in results if result.get("status") == "needs_confirmation"]
    if waiting is None or not proposals:
        return answer
    proposal = proposals[-1]
    asks = answer.rstrip().endswith("?") and str(proposal.get("order_id")).casefold() in answer.casefold()
    return answer if asks else f"{answer}\n{render_result(waiting, proposal)}"


def run_call(session: Session, call: ToolCall, messages: list[dict], calls: list, note: Callable) -> None:
    """Run one call; its text and its result join the messages, and the pair joins this turn's calls.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    start = time.perf_counter()
    spoken = [message["content"] for message in messages if message["role"] == "user"]
    result = run_guarded(session, call) if is_asked(call, spoken) else {"error": UNASKED}
    note(4, f"The agent runs {call.name}", format_result(result), time.perf_counter() - start)
    messages += [{"role": "assistant", "content": format_tool_call(call)}]
    messages += [{"role": "tool", "content": format_result(result)}]
    calls.append((call, result))


def gather_facts(engine, session, messages, calls, text, note) -> Completion:
    """Let the model call tools, at most `ROUNDS` times, until it answers in words; return its last completion.

    A call that cannot be run goes back to the model with the reason, like any tool error.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    for _ in range(ROUNDS):
        title = "ELM is asked again, with the result" if calls else "ELM is asked"
        sent = trim_memory(messages)
        cut = f", cut to {measure_memory(sent):,} in {len(sent)}" if sent != messages else ""
        note(5 if calls else 2, title, f"{measure_memory(messages):,} characters in {len(messages)} messages{cut}")
        reply = engine.complete(sent)
        try:
            found = [enforce_limits(call, text) for call in parse_tool_calls(reply.text)]
        except ToolCallError as error:
            note(3, "ELM wrote a call that cannot be run", f"{reply.text}\n{error.reason}", reply.seconds)
            messages += [{"role": "assistant", "content": cut_text(reply.text, LONGEST_MESSAGE)}]
            messages += [{"role": "tool", "content": format_result({"error": error.reason})}]
            continue
        if not found or found[0] in [call for call, _ in calls]:
            break
        note(3, "ELM writes a tool call", reply.text, reply.seconds)
        for call in found[:ROUNDS]:
            run_call(session, call, messages, calls, note)
    return reply


def check_answer(engine, session, messages, reply, results, calls, note) -> tuple[str, tuple[str, ...]]:
    """Return an answer that is grounded: the model's, its second try, or the results in plain words; and the reasons.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    prices = dict(map(tuple, session.store.execute("SELECT name, price FROM products")))
    spoken = [message["content"] for message in messages if message["role"] == "user"]
    limits = read_limits(spoken[-1])
    done = [pair for pair in calls if "return_id" in pair[1]]  # what was written matters most

    def find_reasons(text: str) -> list[str]:
        if not text.strip() or "<tool_call>" in text or '{"' in text:
            return ["there is no answer in words"]
        untold = [str(result["return_id"]) for _, result in done if str(result["return_id"]) not in text]
        return [f"{one} is not told" for one in untold] + find_ungrounded(text, results, spoken, prices, limits)

    answer = reply.text.strip()
    reasons = find_reasons(answer)
    note(6, "ELM answers", answer, reply.seconds)
    if not reasons:
        return answer, ()
    second = engine.complete(trim_memory(messages), temperature=0.7, seed=1)
    if not find_reasons(second.text):
        note(6, "The check sent the answer back; ELM answers again", second.text.strip(), second.seconds)
        return second.text.strip(), ()
    told = done or [pair for pair in calls if pair[1].get("error") != UNASKED]
    plain = render_result(*told[-1], limits) if told else STUCK
    if find_over_limits(plain, results, spoken, prices, limits):
        plain = STUCK
    note(6, "The check replaced the answer", "; ".join(reasons), second.seconds)
    return plain, tuple(reasons)


def describe_turn(turn: Turn) -> dict:
    """Return a turn as plain JSON-able data: ``{"answer", "steps", "writes", "replaced"}``.

    Calls and results stand parsed beside their text, so that a program need not parse them again.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    steps = []
    for step in turn.steps:
        entry = {"step": step.step, "title": step.title, "text": step.text, "seconds": step.seconds}
        if step.step == 3:
            try:
                calls = parse_tool_calls(step.text)
                entry["tool_calls"] = [{"name": call.name, "arguments": call.arguments} for call in calls]
            except ToolCallError:
                entry["tool_calls"] = []
        if step.step == 4:
            entry["result"] = json.loads(step.text)
        steps.append(entry)
    return {"answer": turn.answer, "steps": steps, "writes": list(turn.writes), "replaced": list(turn.replaced)}


def read_customer(store: sqlite3.Connection, customer_id: str | None) -> str | None:
    """Return the id of the customer whom the shop knows by this id or e-mail; None stays None (a guest).

    Raises:
        ValueError: The shop has no such customer.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    if customer_id is None:
        return None
    query = "SELECT id FROM customers WHERE id = :key UNION ALL SELECT id FROM customers WHERE email = :key"
    if found := store.execute(query, {"key": customer_id}).fetchone():
        return found[0]
    first = store.execute("SELECT min(id) FROM customers").fetchone()[0]
    told = f"an id there is {first}" if first else "it has no customers"
    raise ValueError(f"customer {customer_id!r} is not in the shop; {told}")
