"""The agent: question → model → tool call → execute → model → checked answer, with memory, a trace and consent."""

import json
import random
import re
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from elm_helpers.answers import Rejected, describe_result, write_answer
from elm_helpers.engines import Completion, Engine
from elm_helpers.grounding import find_price_limits, find_ungrounded, fits_limits
from elm_helpers.phrasebook import PhrasebookError, read_answers
from elm_helpers.prompts import build_system
from elm_helpers.tool_calls import ToolCall, ToolCallError, format_tool_call, parse_tool_calls
from elm_helpers.tools import Session, format_result, run_tool

ROUNDS = 4  # tool rounds in a turn; then the agent answers from what it has
MEMORY_CHARACTERS = 6000  # about 1,500 tokens: the rest of the context is for this turn
YES = re.compile(
    r"\W*(?:yes|yeah|yep|yup|ja|y|absolutely|definitely|correct|of course|that['’]?s right|go (?:ahead|for it)|"
    r"please do|(?:i |please )*(?:do it|start it|start the return|confirm(?:ed)?))\b",
    re.I,
)
WEAK = re.compile(r"\W*(?:ok(?:ay)?|sure|fine)\b", re.I)  # a yes only if nothing follows, or the order to go on
ORDER = re.compile(r"^$|\b(?:please|go (?:ahead|for it)|do (?:it|that)|set it up|start|return it)\b", re.I)
DOUBT = re.compile(
    r"\b(?:no|not|don['’]?t|wait|stop|never|cancel|hold|but|instead|let|maybe|perhaps|later|think|how|much|what|when|why|if|"
    r"unless|except|before|number|other|another|different|wrong|would|could|should|thanks?)\b|[?\d<]",
    re.I,
)
MOST_WORDS = 8  # of a yes
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
    """What the agent remembers: the messages so far, every tool result, and a write that waits for a yes."""

    messages: tuple[dict, ...] = ()
    results: tuple[dict, ...] = ()
    pending: ToolCall | None = None


@dataclass(frozen=True)
class Turn:
    """What one question led to: the answer, the trace, the writes done, and why the model's own answer was replaced."""

    answer: str
    steps: tuple[Step, ...]
    writes: tuple[dict, ...] = ()
    replaced: tuple[str, ...] = ()


def is_yes(text: str) -> bool:
    """Return whether a reply is an explicit yes and nothing else; a doubtful one is no consent.

    Example:
        >>> is_yes("Yes, please."), is_yes("yes but not the mug"), is_yes("sure, let me think about it")
        (True, False, False)

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    text = re.sub(r"\bno problem\b|\bthank(s| you).*$", "", text, flags=re.I) if YES.match(text) else text
    if DOUBT.search(text) or len(text.split()) > MOST_WORDS:
        return False
    weak = WEAK.match(text)
    return bool(YES.match(text)) or bool(weak and ORDER.search(text[weak.end() :].strip(" .,!")))


def trim_memory(messages: list[dict], characters: int = MEMORY_CHARACTERS) -> list[dict]:
    """Return the messages that fit the budget: old tool results shrink first, then the oldest turns go.

    The system prompt and the current turn always stay.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    kept = list(messages)
    last_user = max(i for i, message in enumerate(kept) if message["role"] == "user")

    def size() -> int:
        return sum(len(message["content"]) for message in kept)

    for i in range(last_user):
        if size() > characters and kept[i]["role"] == "tool":
            kept[i] = {"role": "tool", "content": '{"note": "an older result, left out"}'}
    while size() > characters:
        users = [i for i, message in enumerate(kept) if message["role"] == "user"]
        if len(users) < 2:
            break
        del kept[1 : users[1]]
    return kept


def enforce_limits(call: ToolCall, text: str) -> ToolCall:
    """Return the call with the price limits that the customer's own words set, whatever the model made of them.

    A limit that the model put at the wrong end, such as `min_price` for "under $20", goes.

    Example:
        >>> enforce_limits(ToolCall("search_products", {"query": "mug"}), "a mug under $20").arguments
        {'query': 'mug', 'max_price': 20.0}

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    if call.name != "search_products":
        return call
    limits = dict(zip(("min_price", "max_price"), find_price_limits(text), strict=True))
    said = {key: value for key, value in limits.items() if value is not None}
    kept = {key: value for key, value in call.arguments.items() if key not in limits or value not in said.values()}
    return replace(call, arguments=kept | said)


def render_result(call: ToolCall, result: dict, limits: tuple[float | None, float | None] = (None, None)) -> str:
    """Say a tool's result in plain words, without the model: the answer when the model's own cannot be trusted.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    shown = {
        key: [product for product in value if fits_limits(product["price"], limits)]
        if key in ("products", "similar", "candidates")
        else value
        for key, value in result.items()
    }
    rng = random.Random(0)
    try:
        case, slots = describe_result(call.name, call.arguments, shown, rng)
        return write_answer(read_answers()[case][0], slots)
    except (KeyError, Rejected, PhrasebookError):
        return str(result.get("error") or result.get("message") or STUCK)


def run_turn(
    engine: Engine,
    session: Session,
    conversation: Conversation,
    text: str,
    *,
    on_step: Callable[[Step], None] | None = None,
) -> tuple[Conversation, Turn]:
    """Answer one message of a customer.

    Args:
        engine: The model.
        session: The shop and the signed-in customer; identity comes from here only.
        conversation: What was said before; `Conversation()` at the start.
        text: The customer's message.
        on_step: Called with each step as it happens.

    Returns:
        (conversation to go on with, what this turn did).

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    steps: list[Step] = []

    def note(step: int, title: str, content: str, seconds: float = 0.0) -> None:
        steps.append(Step(step, title, content, round(seconds, 3)))
        if on_step:
            on_step(steps[-1])

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
    messages.append({"role": "assistant", "content": answer})
    note(7, "The customer reads", answer)
    waiting = [call for call, result in calls if result.get("status") == "needs_confirmation"]
    writes = tuple(result for _, result in calls if "return_id" in result)
    after = Conversation(tuple(messages), tuple(results), waiting[-1] if waiting else None)
    return after, Turn(answer, tuple(steps), writes, replaced)


def run_call(session: Session, call: ToolCall, messages: list[dict], calls: list, note: Callable) -> None:
    """Run one call; its text and its result join the messages, and the pair joins this turn's calls.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    start = time.perf_counter()
    result = run_tool(session, call.name, call.arguments)
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
        note(5 if calls else 2, title, f"{len(messages)} messages")
        reply = engine.complete(trim_memory(messages))
        try:
            found = [enforce_limits(call, text) for call in parse_tool_calls(reply.text)]
        except ToolCallError as error:
            note(3, "ELM wrote a call that cannot be run", f"{reply.text}\n{error.reason}", reply.seconds)
            messages += [{"role": "assistant", "content": reply.text}]
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
    names = [row["name"] for row in session.store.execute("SELECT name FROM products")]
    spoken = [message["content"] for message in messages if message["role"] == "user"]
    limits = find_price_limits(spoken[-1])

    def find_reasons(text: str) -> list[str]:
        if not text.strip() or "<tool_call>" in text:
            return ["there is no answer in words"]
        return find_ungrounded(text, results, spoken, names, limits)

    answer = reply.text.strip()
    reasons = find_reasons(answer)
    note(6, "ELM answers", answer, reply.seconds)
    if not reasons:
        return answer, ()
    second = engine.complete(trim_memory(messages), temperature=0.7, seed=1)
    if not find_reasons(second.text):
        note(6, "The check sent the answer back; ELM answers again", second.text.strip(), second.seconds)
        return second.text.strip(), ()
    done = [pair for pair in calls if "return_id" in pair[1]]  # what was written matters most
    plain = render_result(*(done or calls)[-1], limits) if calls else STUCK
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
    """Return the customer's id after checking that the shop knows it; None stays None (a guest).

    Raises:
        ValueError: The shop has no such customer.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    if customer_id is None or store.execute("SELECT 1 FROM customers WHERE id = ?", (customer_id,)).fetchone():
        return customer_id
    raise ValueError(f"customer {customer_id!r} is not in the shop; ids look like C0001")
