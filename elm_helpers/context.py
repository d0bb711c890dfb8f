"""What of a conversation the model is sent: all of it while it fits, then summaries of old results, then less turns."""

import json
import re

MEMORY_CHARACTERS = 6000  # about 1,500 tokens: the rest of the context is for this turn
NAMING = ("name", "order_id", "code", "variant", "price", "status", "discount")  # what identifies an entry of a list
MOST_NAMED, MOST_TEXT = 3, 60


def measure_memory(messages: list[dict]) -> int:
    """Return the size of messages in characters; each byte outside ASCII counts four, for it may be a token of its own.

    Example:
        >>> measure_memory([{"role": "user", "content": "a mug"}, {"role": "user", "content": "茶"}])
        17

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    return sum(measure_text(message["content"]) for message in messages)


def measure_text(text: str) -> int:
    """Return a text's size, as `measure_memory` counts it.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    other = "" if text.isascii() else "".join(letter for letter in text if not letter.isascii())
    return len(text) - len(other) + 4 * len(other.encode("utf-8", "replace"))


def cut_text(text: str, most: int) -> str:
    """Return a text whose size is at most `most`, with an ellipsis where it was cut.

    Example:
        >>> cut_text("x" * 50, 20)
        'xxxxxxxx…'

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    if measure_text(text) <= most:
        return text
    size, end = measure_text("…"), 0
    while size + measure_text(text[end]) <= most:
        size, end = size + measure_text(text[end]), end + 1
    return text[:end] + "…"


def summarise_result(name: str, content: str) -> str:
    """Return a tool's result in one line: what it found, with the first three by name.

    Args:
        name: The tool.
        content: Its result, as the JSON text of a `tool` message.

    Example:
        >>> summarise_result("search_products", '{"products": [{"id": "P1", "name": "Aster X1", "price": 59.0}]}')
        '{"summary": "search_products: 1 products: Aster X1 $59"}'

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    parts = []
    for key, value in json.loads(content).items():
        if isinstance(value, list):
            heads = [_name_entry(entry) for entry in value[:MOST_NAMED]]
            parts.append(f"{len(value)} {key}: {'; '.join(heads)}" if heads else f"0 {key}")
        elif isinstance(value, str | int | float) and (key == "error" or len(str(value)) <= MOST_TEXT):
            parts.append(f"{key} {str(value)[:150]}")
    return json.dumps({"summary": f"{name}: {', '.join(parts)}"[:300]}, ensure_ascii=False)


def _name_entry(entry: object) -> str:
    if not isinstance(entry, dict):
        return str(entry)[:MOST_TEXT]
    parts = [f"{'$' * (key == 'price')}{entry[key]}".removesuffix(".0")[:MOST_TEXT] for key in NAMING if key in entry]
    units = entry.get("units")
    return " ".join(
        parts + [f"{count} {place}" for place, count in units.items()] if isinstance(units, dict) else parts
    )


def trim_memory(messages: list[dict], characters: int = MEMORY_CHARACTERS) -> list[dict]:
    """Return the messages that fit the budget: old tool results are summarised first, then the oldest turns go.

    Results go oldest first, those of the current turn at the end, and its newest stays whole. System prompt and current
    turn stay, so one that is over the budget by itself stays over it.

    Args:
        messages: The conversation, with the customer's newest message in it.
        characters: The budget, as `measure_memory` counts.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    kept = list(messages)
    size = measure_memory(kept)
    last_user = max(i for i, message in enumerate(kept) if message["role"] == "user")
    results = [i for i, message in enumerate(kept) if message["role"] == "tool"]

    def summarise(places: list[int]) -> None:
        nonlocal size
        for i in places:
            short = {"role": "tool", "content": _summarise(kept, i)}
            if size > characters and measure_memory([short]) < measure_memory([kept[i]]):
                size += measure_memory([short]) - measure_memory([kept[i]])
                kept[i] = short

    summarise([i for i in results if i < last_user])
    while size > characters:
        users = [i for i, message in enumerate(kept) if message["role"] == "user"]
        if len(users) < 2:
            break
        size -= measure_memory(kept[1 : users[1]])
        del kept[1 : users[1]]
    summarise([i for i, message in enumerate(kept) if message["role"] == "tool"][:-1])
    return kept


def _summarise(messages: list[dict], at: int) -> str:
    call = re.search(r"<tool_call>(\w+)", messages[at - 1]["content"])
    try:
        return summarise_result(call[1] if call else "tool", messages[at]["content"])
    except (ValueError, AttributeError):  # no JSON object
        return '{"summary": "an older result"}'
