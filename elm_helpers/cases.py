"""What is asked, and what is right: cases from the held-out rows and from requests that people wrote by hand."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from elm_helpers.metrics import read_calls
from elm_helpers.paths import PROCESSED, ROOT
from elm_helpers.tool_calls import ToolCall, ToolCallError, format_tool_call

KINDS = ("call", "ask_back", "no_call", "category", "description")
REQUESTS = ROOT / "tests" / "data" / "customer_requests.jsonl"


@dataclass(frozen=True)
class Case:
    """One prompt and what is right: any of the `calls` (lists of calls) is.

    Attributes:
        kind: One of `KINDS`.
        register: How the customer talks, such as terse or polite; "" where that isn't known.
    """

    id: str
    kind: str
    customer_id: str | None
    messages: tuple[dict, ...]
    gold: str
    calls: tuple[tuple[ToolCall, ...], ...] = ()
    register: str = ""


def build_case(row: dict) -> Case:
    """Return a row's first request and what its first assistant turn says is right.

    A first turn without a call counts as asking back where the row is about that, and as small talk elsewhere.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    messages, meta = row["messages"], row["meta"]
    turns = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    before, gold = messages[: turns[0]], messages[turns[0]]["content"]
    calls = tuple(read_calls(gold) or ())
    if row["task"] in ("product_description", "categorization"):
        kind = "description" if row["task"] == "product_description" else "category"
    elif calls:
        kind = "call"
    else:
        asks = meta["kind"] == "ask_then_call" or (meta["kind"] == "ask_back" and len(turns) == 1)
        kind = "ask_back" if asks else "no_call"
    talk = tuple(message for message in before if message["role"] != "system")
    customer = "C0001" if meta.get("signed_in") else None
    return Case(row["id"], kind, customer, talk, gold, (calls,) if calls else (), meta.get("register", ""))


def read_rows(path: Path | None = None, each: int | Mapping[str, int] | None = None) -> list[dict]:
    """Return held-out rows; with `each`, only the first so many of every kind, for a quick look.

    Args:
        path: JSON Lines as `elm generate` writes them; None is the course's eval file.
        each: Rows of each of `KINDS` to keep, one number or one a kind; None keeps all.

    Raises:
        FileNotFoundError: There is no such file yet.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    path = PROCESSED / "ecommerce_eval.json" if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: found no rows; `elm generate` writes them")
    rows, kept = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()], defaultdict(list)
    for row in rows:
        kept[build_case(row).kind].append(row["id"])
    chosen = {i for kind, ids in kept.items() for i in ids[: each[kind] if isinstance(each, Mapping) else each]}
    return [row for row in rows if row["id"] in chosen]


def read_requests(path: Path = REQUESTS) -> list[Case]:
    """Return hand-written requests as cases.

    Args:
        path: JSON Lines of {"id", "text", "customer_id", "expect", "calls", "missing"}; expect is call, ask_back or
            no_call, and any one of the calls is right.

    Raises:
        ValueError: Names the line, what was found and what would be right.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    cases = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            calls = [ToolCall(call["name"], call["arguments"]) for call in row.get("calls") or ()]
            texts, expect = [format_tool_call(call) for call in calls], row["expect"]
            if expect not in ("call", "ask_back", "no_call") or (expect == "call") != bool(calls):
                raise ValueError(
                    f"expect is {expect!r} with {len(calls)} calls; call goes with some, ask_back and no_call with none"
                )
            talk = ({"role": "user", "content": row["text"]},)
        except (KeyError, TypeError, ToolCallError, ValueError) as error:
            raise ValueError(
                f"{path}:{number}: {error!r:.200}; right are id, text, customer_id, expect, calls, missing"
            ) from error
        gold = " or ".join(texts) or " ".join(filter(None, (expect, str(row.get("missing") or ""))))
        options, register = tuple((call,) for call in calls), str(row.get("register") or "")
        cases.append(Case(str(row["id"]), expect, row.get("customer_id"), talk, gold, options, register))
    return cases
