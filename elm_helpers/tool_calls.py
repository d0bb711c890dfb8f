"""The wire format: a tool call as text, written one way, read strictly and in linear time, and never evaluated."""

import re
from dataclasses import dataclass
from math import isinf

from elm_helpers.signatures import CLOSE_TAG, OPEN_TAG, SURROGATE, format_call, shorten
from elm_helpers.tools import TOOLS, check_arguments

SPACE = re.compile(r"[ \t\r\n\f\v]*")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
WORD = re.compile(r"[^\s,()\[\]{}<\"'\0]+")
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
PLAIN = {'"': re.compile(r'[^"\\\r\n\0]*'), "'": re.compile(r"[^'\\\r\n\0]*")}
ESCAPE = re.compile(r"\\(?:([\\'\"/abfnrtv])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")
ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
LITERALS = {"True": True, "False": False, "None": None}
JSON_WORDS = {"true": "True", "false": "False", "null": "None"}
LONGEST_NUMBER = 400  # characters; a longer one is no price, and int() would take quadratic time


class ToolCallError(ValueError):
    """A text holds a tool call that cannot be run; `reason` says why, in words that a model can act on."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class ToolCall:
    """One request to run a tool: its name and its keyword arguments, which hold strings, numbers and None."""

    name: str
    arguments: dict


def format_tool_call(call: ToolCall) -> str:
    """Write a call canonically: double quotes, one space after a comma, parameters in the order of the signature.

    There is one text for a call, so it can be a training target, a key of what the customer confirmed, and a metric.

    Args:
        call: The call; an argument that it leaves out is left out of the text, too.

    Returns:
        Text from which `parse_tool_calls` reads an equal call, whatever characters its strings hold.

    Raises:
        ToolCallError: The tool has no such argument, or a value has the wrong type.

    Example:
        >>> format_tool_call(ToolCall("search_products", {"max_price": 100, "query": "red mug"}))
        '<tool_call>search_products(query="red mug", max_price=100)</tool_call>'

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    problem = check_arguments(call.name, call.arguments)
    if problem:
        raise ToolCallError(problem)
    return format_call(TOOLS[call.name], call.arguments)


def parse_tool_calls(text: str) -> list[ToolCall]:
    """Read the calls in a reply; a hand-written scanner, because a model's text must never reach `eval`.

    Args:
        text: Any string: a whole reply, with or without prose around its calls.

    Returns:
        The calls in the order of the text; [] where `<tool_call>` does not occur.

    Raises:
        ToolCallError: A call is malformed, unclosed, positional, nested, of an unknown tool or argument, of a wrong
            type, or lacks a required argument. `reason` names the place and what would be right.

    Example:
        >>> parse_tool_calls("Sure. <tool_call>get_product_info(product='Hush 40')</tool_call>")
        [ToolCall(name='get_product_info', arguments={'product': 'Hush 40'})]
        >>> parse_tool_calls("You are welcome!")
        []

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    calls, at = [], text.find(OPEN_TAG)
    while at != -1:
        call, at = _read_call(text, at + len(OPEN_TAG))
        calls.append(call)
        at = text.find(OPEN_TAG, at)
    return calls


def _fail(text: str, at: int, wanted: str) -> ToolCallError:
    found = shorten(text[at : at + 41]) if at < len(text) else "the end of the text"
    return ToolCallError(f"character {at}: {wanted}, found {found}")


def _skip(text: str, at: int) -> int:
    return SPACE.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too


def _expect(text: str, at: int, mark: str, wanted: str) -> int:
    at = _skip(text, at)
    if not text.startswith(mark, at):
        raise _fail(text, at, wanted)
    return at + len(mark)


def _read_name(text: str, at: int, wanted: str) -> tuple[str, int]:
    at = _skip(text, at)
    match = NAME.match(text, at)
    if not match:
        raise _fail(text, at, wanted)
    return match.group(), match.end()


def _read_call(text: str, at: int) -> tuple[ToolCall, int]:
    """Read ``name(key=value, …)</tool_call>`` from just behind the opening tag; return the call and where it ends."""
    name, at = _read_name(text, at, f"expected a tool's name behind {OPEN_TAG}")
    if name not in TOOLS:
        raise ToolCallError(str(check_arguments(name, {})))
    at = _expect(text, at, "(", f"expected ( behind {name}")
    arguments = {}
    while not text.startswith(")", at := _skip(text, at)):
        key, at = _read_name(text, at, "expected name=value (no positional arguments) or )")
        at = _expect(text, at, "=", f"expected = behind {shorten(key)} (no positional arguments)")
        if key in arguments:
            raise ToolCallError(f"{name} is given {shorten(key)} twice; give it once")
        arguments[key], at = _read_value(text, _skip(text, at))
        if not text.startswith(")", at := _skip(text, at)):
            at = _expect(text, at, ",", f"expected , or ) behind the value of {shorten(key)}")
    at = _expect(text, at + 1, CLOSE_TAG, f"expected {CLOSE_TAG} behind )")
    problem = check_arguments(name, arguments)
    if problem:
        raise ToolCallError(problem)
    return ToolCall(name, arguments), at


def _read_value(text: str, at: int, in_list: bool = False) -> tuple[object, int]:
    mark = text[at : at + 1]
    if mark in PLAIN:
        return _read_string(text, at)
    if mark == "[" and not in_list:
        return _read_list(text, at + 1)
    match = WORD.match(text, at)
    word, end = (match.group(), match.end()) if match and match.end() - at <= LONGEST_NUMBER else ("", at)
    if word in LITERALS:
        return LITERALS[word], end
    if NUMBER.fullmatch(word):
        if isinf(float(word)):
            raise ToolCallError(f"character {at}: the number {shorten(word)} is too large")
        return (float if set(word) & set(".eE") else int)(word), end
    if word in JSON_WORDS:
        raise ToolCallError(f"character {at}: write {JSON_WORDS[word]} instead of {word}")
    raise _fail(text, at, "expected a number, True, False or None, or a text or id in plain quotes")


def _read_list(text: str, at: int) -> tuple[list, int]:
    """Read a flat list from just behind its bracket; no tool takes one, so the type check names the argument."""
    values = []
    while not text.startswith("]", at := _skip(text, at)):
        value, at = _read_value(text, at, in_list=True)
        values.append(value)
        if not text.startswith("]", at := _skip(text, at)):
            at = _expect(text, at, ",", "expected , or ] in a list")
    return values, at + 1


def _read_string(text: str, at: int) -> tuple[str, int]:
    quote, start, parts, at = text[at], at, [], at + 1
    while text[at : at + 1] != quote:
        end = PLAIN[quote].match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        parts.append(text[at:end])
        at = end
        if text[at : at + 1] == "\\":
            escape = ESCAPE.match(text, at)
            code = int(escape[2] or escape[3] or escape[4] or "0", 16) if escape else 0x110000
            if escape is None or code > 0x10FFFF:
                raise _fail(text, at, r"expected an escape such as \" \\ \n or \u00e9")
            parts.append(ESCAPED.get(escape[1], escape[1]) if escape[1] else chr(code))
            at = escape.end()
        elif text[at : at + 1] != quote:
            raise _fail(text, at, rf"expected {quote} to close the text from character {start} (a line break is \n)")
    value = "".join(parts)
    if SURROGATE.search(value):  # "\ud83d\ude00" is one character in JSON; half of one is none
        try:
            value = value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise _fail(text, start, "expected whole Unicode characters, not half a surrogate pair") from None
    return value, at + 1
