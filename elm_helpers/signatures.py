"""From a typed function to what a model and its callers need: argument checks, JSON Schema, prompt line, call text."""

import inspect
import json
import re
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin

OPEN_TAG, CLOSE_TAG = "<tool_call>", "</tool_call>"
KINDS = {str: "string", float: "number", int: "integer"}  # Python's type: JSON Schema's
IN_PROMPT = {"string": "str", "number": "number", "integer": "int"}
SURROGATE, INNER_TAG = re.compile("[\ud800-\udfff]"), re.compile("<(?=/?tool_call>)")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a tool; `kind` is JSON Schema's type, and None may be passed where it is the default."""

    name: str
    kind: str
    choices: tuple[str, ...]
    required: bool
    default: object
    description: str


@cache
def read_parameters(tool) -> tuple[Parameter, ...]:
    """Return what a tool takes behind its session, in order: types from the annotations, words from the Args lines.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    block = (inspect.getdoc(tool) or "").partition("Args:\n")[2].partition("\n\n")[0]
    words = dict(line.strip().split(": ", 1) for line in block.splitlines())
    parameters = []
    for name, found in list(inspect.signature(tool).parameters.items())[1:]:
        choices = get_args(found.annotation) if get_origin(found.annotation) is Literal else ()
        kind = "string" if choices else KINDS[(get_args(found.annotation) or (found.annotation,))[0]]
        required = found.default is found.empty
        parameters.append(Parameter(name, kind, choices, required, None if required else found.default, words[name]))
    return tuple(parameters)


def find_problem(tool, arguments: dict) -> str | None:
    """Return what is wrong with the arguments of a call and what would be right, or None.

    Parser and `run_tool` share this check, so that REST and frameworks, which never write a text, get the same one.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    name, known = tool.__name__, {parameter.name: parameter for parameter in read_parameters(tool)}
    if not isinstance(arguments, dict):
        return f"{name}: arguments must be a mapping, found {shorten(arguments)}"
    for key, value in arguments.items():
        if key not in known:
            return f"{name} has no argument {shorten(key)}; it takes {', '.join(known)}"
        if not _fits(known[key], value):
            wanted = " or ".join(known[key].choices) or f"of type {known[key].kind}"
            return f"{name}: {key} must be {wanted}, found {shorten(value)}"
    missing = [key for key in known if known[key].required and key not in arguments]
    return f"{name} needs {' and '.join(missing)}" if missing else None


def _fits(parameter: Parameter, value: Any) -> bool:
    if value is None:
        return not parameter.required and parameter.default is None
    if parameter.kind == "string":
        whole = isinstance(value, str) and not SURROGATE.search(value)
        return whole and (not parameter.choices or value in parameter.choices)
    number = isinstance(value, int if parameter.kind == "integer" else int | float) and not isinstance(value, bool)
    return number and -sys.float_info.max <= value <= sys.float_info.max


def format_call(tool, arguments: dict) -> str:
    """Return the canonical text of a call; a tag inside a string is escaped, so that no reader takes it for one.

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    texts = []
    for name in (parameter.name for parameter in read_parameters(tool) if parameter.name in arguments):
        value = arguments[name]
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
        texts.append(f"{name}=" + INNER_TAG.sub(r"\\u003c", text))
    return f"{OPEN_TAG}{tool.__name__}({', '.join(texts)}){CLOSE_TAG}"


def build_schema(tool) -> dict:
    """Return a tool's JSON Schema in OpenAI's function form.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    properties: dict[str, dict[str, Any]] = {}
    for one in read_parameters(tool):
        properties[one.name] = {"type": one.kind, "description": one.description}
        properties[one.name] |= {"enum": list(one.choices)} if one.choices else {}
        properties[one.name] |= {"default": one.default} if one.default is not None else {}
    required = [one.name for one in read_parameters(tool) if one.required]
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    description = _read_purpose(tool)
    return {"type": "function", "function": {"name": tool.__name__, "description": description, "parameters": schema}}


def _read_purpose(tool) -> str:
    return (inspect.getdoc(tool) or "").partition("\n")[0]


def describe_tool(tool) -> str:
    """Return a tool's prompt line: `name(query: str, limit: int = 5)  # what it does`.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    texts = []
    for one in read_parameters(tool):
        kind = " | ".join(f'"{choice}"' for choice in one.choices) or IN_PROMPT[one.kind]
        default = json.dumps(one.default) if isinstance(one.default, str) else repr(one.default)
        texts.append(f"{one.name}: {kind}" + ("" if one.required else f" = {default}"))
    return f"{tool.__name__}({', '.join(texts)})  # {_read_purpose(tool)}"


def shorten(value: object) -> str:
    """Return a value for an error message: a text in quotes, cut, because a model has to read the message.

    Example:
        >>> shorten("x" * 99)
        "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…'"

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    try:
        text = value if isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # an integer of 5,000 digits, a list 2,000 deep
        text = f"a huge {type(value).__name__}"
    text = text if len(text) <= 40 else text[:39] + "…"
    return repr(text) if isinstance(value, str) else text
