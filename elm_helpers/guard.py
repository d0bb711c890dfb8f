"""A tool can hang, raise or return garbage: whatever it does, the agent gets a small result in time."""

import json
import sqlite3
import time
from threading import Thread

from elm_helpers.tool_calls import ToolCall
from elm_helpers.tools import WRITES, Session, format_result, run_tool

TOOL_SECONDS = 10.0  # then the customer is told that it did not work
LAST_CHANCE = 1.0  # seconds for a stopped query to be rolled back
LONGEST_TEXT, LONGEST_LIST, LONGEST_RESULT = 1000, 20, 8000  # characters, entries, characters
UNSURE = "; it may or may not have been done, so look at the order before trying again"


def run_guarded(session: Session, call: ToolCall, seconds: float = TOOL_SECONDS) -> dict:
    """Run a call and return its result, or `{"error": …}` in words that may be shown.

    The tool runs in a thread of its own. When its time is up, SQLite is told to stop, which rolls an open write back;
    a thread that hangs elsewhere is left behind. A connection that other threads may not use (Python's default, not
    `open_store`'s) is used in this thread, where only a hanging query can be stopped.

    Args:
        session: The shop and who asks.
        call: What to run.
        seconds: How long it may take.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    box: list = []
    worker = Thread(target=lambda: box.append(_try_tool(session, call)), daemon=True)
    worker.start()
    worker.join(seconds)
    if worker.is_alive():
        session.store.interrupt()
        worker.join(LAST_CHANCE)
    late = {"error": f"{call.name} took longer than {seconds:g} seconds" + UNSURE * (call.name in WRITES)}
    found = box[0] if box else late
    return _run_here(session, call, seconds) if found is None else found


def _run_here(session: Session, call: ToolCall, seconds: float) -> dict:
    end = time.monotonic() + seconds
    session.store.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    found = _try_tool(session, call)
    session.store.set_progress_handler(None, 0)
    return found or {"error": f"{call.name} failed"}


def _try_tool(session: Session, call: ToolCall) -> dict | None:
    """Return the result, cut; None where the connection belongs to another thread, so that nothing was run."""
    try:
        result = _cut(run_tool(session, call.name, call.arguments))
        text = format_result(result)
        json.loads(text)
    except sqlite3.ProgrammingError as error:
        return None if "thread" in str(error) else {"error": f"{call.name} failed"}
    except Exception as error:  # whatever a tool raises, the conversation goes on
        busy = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
        why = "the shop is busy; try again in a moment" if busy else f"{call.name} failed"
        return {"error": why + UNSURE * (call.name in WRITES and not busy)}
    if not isinstance(result, dict) or len(text) > LONGEST_RESULT:
        return {"error": f"{call.name} returned nothing that can be read"}
    return result


def _cut(value: object) -> object:
    if isinstance(value, str):
        return value if len(value) <= LONGEST_TEXT else value[: LONGEST_TEXT - 1] + "…"
    if isinstance(value, list):
        return [_cut(entry) for entry in value[:LONGEST_LIST]]
    return {str(key): _cut(entry) for key, entry in value.items()} if isinstance(value, dict) else value
