"""A grammar for llama.cpp: whatever the model writes is prose without a call, or one call that the parser accepts."""

from collections.abc import Iterable

from elm_helpers.signatures import CLOSE_TAG, OPEN_TAG, Parameter, read_parameters
from elm_helpers.tools import TOOLS

# A string holds no raw control character; of the \u escapes, halves of surrogate pairs are left out.
LITERALS = r"""
string ::= "\"" char+ "\""
char ::= [^"\\\x00-\x1F\x7F] | "\\" ( ["\\/bfnrt] | "u" ( [0-9a-cA-CefEF] hex | [dD] [0-7] ) hex hex )
hex ::= [0-9a-fA-F]
integer ::= "0" | [1-9] [0-9]{0,5}
number ::= integer ( "." [0-9]{1,2} )?
"""


def build_gbnf(names: Iterable[str] | None = None) -> str:
    """Build the grammar of a reply: free text in which no call begins, or exactly one well-formed call.

    It takes away what a small model gets wrong in form (invented tools, wrong types, unclosed strings) and leaves the
    decision to call, and with what, to the model. Parameters come in the order of the signature.

    Args:
        names: The tools that may be called; all of them when None, and none of them leaves text alone.

    Returns:
        GBNF for llama.cpp's `grammar` parameter; its first rule is `root`.

    Raises:
        KeyError: There is no such tool.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    names = list(TOOLS) if names is None else list(names)
    rules = [f"{_name_rule(name)} ::= {_write_call(name)}" for name in names]
    root = ["text"] + (["call"] if names else [])
    calls = [f'call ::= "{OPEN_TAG}" ( {" | ".join(map(_name_rule, names))} ) ")" "{CLOSE_TAG}"'] if names else []
    return "\n".join([f"root ::= {' | '.join(root)}", *calls, *rules, *_write_text()]) + LITERALS


def _name_rule(name: str) -> str:
    return name.replace("_", "-")  # GBNF has no underscore in names


def _write_call(name: str) -> str:
    """Write a call up to its last argument: the required ones, then each optional one or not."""
    parameters = read_parameters(TOOLS[name])
    head = [_write_argument(one) for one in parameters if one.required]
    rest = [_write_argument(one) for one in parameters if not one.required]
    if head:
        body = ' ", " '.join(head) + "".join(f' ( ", " {text} )?' for text in rest)
    else:  # whichever comes first stands without a comma
        starts = [text + "".join(f' ( ", " {later} )?' for later in rest[at + 1 :]) for at, text in enumerate(rest)]
        body = f"( {' | '.join(starts)} )?"
    return f'"{name}(" {body}'


def _write_argument(one: Parameter) -> str:
    choices = " | ".join(f'"\\"{choice}\\""' for choice in one.choices)
    value = f"( {choices} )" if choices else one.kind
    return f'"{one.name}=" {value}'


def _write_text() -> list[str]:
    """Write text without the opening tag: rule n has read n characters of it, and another one starts anew."""
    rules = ['text ::= [^<] text0 | "<" text1', 'text0 ::= ( [^<] text0 | "<" text1 )?']
    for at, letter in list(enumerate(OPEN_TAG))[1:]:
        onward = f' | "{letter}" text{at + 1}' if at + 1 < len(OPEN_TAG) else ""
        rules.append(f'text{at} ::= ( [^<{letter}] text0 | "<" text1{onward} )?')
    return rules
