"""A grammar for llama.cpp: whatever the model writes is prose without a call, or one call that the parser accepts."""

import json
import re
from collections.abc import Iterable

from elm_helpers.metrics import ENUMS, read_numbers
from elm_helpers.signatures import CLOSE_TAG, OPEN_TAG, Parameter, read_parameters
from elm_helpers.tools import TOOLS

# A string holds no raw control character; of the \u escapes, halves of surrogate pairs are left out.
OPENING, CLOSING = "([{<\"'“‘«¿¡*", ".,;:!?)]}>\"'”’»…*"
LITERALS = r"""
string ::= "\"" char+ "\""
char ::= [^"\\\x00-\x1F\x7F] | "\\" ( ["\\/bfnrt] | "u" ( [0-9a-cA-CefEF] hex | [dD] [0-7] ) hex hex )
hex ::= [0-9a-fA-F]
integer ::= "0" | [1-9] [0-9]{0,5}
number ::= integer ( "." [0-9]{1,2} )?
"""


def build_gbnf(names: Iterable[str] | None = None, said: str = "") -> str:
    """Build the grammar of a reply: free text in which no call begins, or exactly one well-formed call.

    It takes away what a small model gets wrong in form (invented tools, wrong types, unclosed strings) and leaves the
    decision to call, and with what, to the model. Parameters come in the order of the signature.

    Args:
        names: The tools that may be called; all of them when None, and none of them leaves text alone.
        said: Everything said and returned so far. If there is any, text in a call is some words in a row of it, and a
            number is one of its numbers: nothing can be garbled or made up. A category stays free, because customers
            don't say it in the shop's words.

    Returns:
        GBNF for llama.cpp's `grammar` parameter; its first rule is `root`.

    Raises:
        KeyError: There is no such tool.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    names, values = list(TOOLS) if names is None else list(names), _write_copies(said) if names != [] else []
    kinds = {rule.partition(" ")[0] for rule in values}
    rules = [f"{_name_rule(name)} ::= {_write_call(name, kinds)}" for name in names]
    root = ["text"] + (["call"] if names else [])
    calls = [f'call ::= "{OPEN_TAG}" ( {" | ".join(map(_name_rule, names))} ) ")" "{CLOSE_TAG}"'] if names else []
    return "\n".join([f"root ::= {' | '.join(root)}", *calls, *rules, *values, *_write_text()]) + LITERALS


def build_copying_gbnf(messages: Iterable[dict]) -> str:
    """Build the grammar of the next reply in a conversation: arguments are copied from what was said before it.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    return build_gbnf(said="\n".join(message["content"] for message in messages if message["role"] != "system"))


def build_question_gbnf() -> str:
    """Build the grammar of a reply that asks: text without a call that ends in a question mark.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    return 'root ::= [^<?] [^<?]{0,200} "?"\n'


def _name_rule(name: str) -> str:
    return name.replace("_", "-")  # GBNF has no underscore in names


def _write_copies(said: str) -> list[str]:
    """Write what may be copied: `said` is any words in a row, without the punctuation around them; `stated` a number.

    Rule wn is the text from word n on: it ends there, or goes on with the next word.
    """
    words = [word.lstrip(OPENING) for word in said.split()]
    words = [word for word in words if word and word.isprintable()]
    rules = []
    for at, word in enumerate(words):
        plain = word.rstrip(CLOSING) or word
        ends = dict.fromkeys([plain, plain.lstrip("#$€£") or plain, re.sub(r"['’]s$", "", plain) or plain])
        onward = f" | {_quote(word + ' ')} w{at + 1}" if at + 1 < len(words) else ""
        rules.append(f"w{at} ::= {' | '.join(map(_quote, ends))}{onward}")
    if rules:
        rules.insert(0, f'copied ::= "\\"" ( {" | ".join(f"w{at}" for at in range(len(words)))} ) "\\""')
        numbers = sorted(number for number in read_numbers(said) if number < 1_000_000)
        written = [f"{number:.2f}".rstrip("0").rstrip(".") for number in numbers]
        whole = [text for text in written if text.isdigit()]
        rules += [f"stated ::= {' | '.join(map(_quote, written))}"] if written else []
        rules += [f"whole ::= {' | '.join(map(_quote, whole))}"] if whole else []
    return rules


def _quote(text: str) -> str:
    """Return a GBNF literal for text inside a call's string."""
    written = json.dumps(text, ensure_ascii=False)[1:-1].replace("\\", "\\\\").replace('"', '\\"')
    return f'"{written}"'


def _write_call(name: str, kinds: set[str]) -> str:
    """Write a call up to its last argument: the required ones, then each optional one or not."""
    parameters = [one for one in read_parameters(TOOLS[name]) if _find_kind(one, kinds)]
    head = [_write_argument(one, kinds) for one in parameters if one.required]
    rest = [_write_argument(one, kinds) for one in parameters if not one.required]
    if head:
        body = ' ", " '.join(head) + "".join(f' ( ", " {text} )?' for text in rest)
    else:  # whichever comes first stands without a comma
        starts = [text + "".join(f' ( ", " {later} )?' for later in rest[at + 1 :]) for at, text in enumerate(rest)]
        body = f"( {' | '.join(starts)} )?"
    return f'"{name}(" {body}'


def _find_kind(one: Parameter, kinds: set[str]) -> str:
    """Return the rule of a parameter's values; nothing where it has to be copied and there is nothing to copy."""
    if not kinds or one.choices or one.name in (*ENUMS, "category"):
        return one.kind
    rule = {"string": "copied", "integer": "whole", "number": "stated"}[one.kind]
    return rule if rule in kinds else ""


def _write_argument(one: Parameter, kinds: set[str]) -> str:
    choices = " | ".join(f'"\\"{choice}\\""' for choice in one.choices)
    value = f"( {choices} )" if choices else _find_kind(one, kinds)
    return f'"{one.name}=" {value}'


def _write_text() -> list[str]:
    """Write text without the opening tag: rule n has read n characters of it, and another one starts anew."""
    rules = ['text ::= [^<] text0 | "<" text1', 'text0 ::= ( [^<] text0 | "<" text1 )?']
    for at, letter in list(enumerate(OPEN_TAG))[1:]:
        onward = f' | "{letter}" text{at + 1}' if at + 1 < len(OPEN_TAG) else ""
        rules.append(f'text{at} ::= ( [^<{letter}] text0 | "<" text1{onward} )?')
    return rules
