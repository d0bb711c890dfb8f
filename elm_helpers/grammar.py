"""A grammar for llama.cpp: whatever the model writes is prose without a call, or one call that the parser accepts."""

import json
import re
from collections.abc import Iterable

from elm_helpers.signatures import CLOSE_TAG, OPEN_TAG, Parameter, read_parameters
from elm_helpers.stated import MOST_RESULTS, find_codes, list_amounts, list_statuses, read_pointed, read_settled
from elm_helpers.tools import TOOLS

RULES = {"min_price": "low", "max_price": "high", "order_id": "ordered", "promo_code": "code", "customer_id": "account"}
SETTLED = {"method": "speed", "location": "shop", "product": "pointed", "status": "state"}  # rules that may be absent
FREE = ("reason",)  # text that may begin with any word; a name or a place doesn't begin or end with one of these
HANGING = "a an the for of to in on at with and or some any my your our is are from by as if that which"
HANGING = frozenset(HANGING.split())
# A string holds no raw control character; of the \u escapes, halves of surrogate pairs are left out.
OPENING, CLOSING = "([{<\"'“‘«¿¡*", ".,;:!?)]}>\"'”’»…*"
LITERALS = r"""
string ::= "\"" char+ "\""
char ::= [^"\\\x00-\x1F\x7F] | "\\" ( ["\\/bfnrt] | "u" ( [0-9a-cA-CefEF] hex | [dD] [0-7] ) hex hex )
hex ::= [0-9a-fA-F]
integer ::= "0" | [1-9] [0-9]{0,5}
number ::= integer ( "." [0-9]{1,2} )?
"""


def build_gbnf(names: Iterable[str] | None = None, said: str = "", asked: str = "", pointed: str | None = None) -> str:
    """Build the grammar of a reply: free text in which no call begins, or exactly one well-formed call.

    It takes away what a small model gets wrong in form (invented tools, wrong types, unclosed strings) and leaves the
    decision to call, and with what, to the model. Parameters come in the order of the signature.

    Args:
        names: The tools that may be called; all of them when None, and none of them leaves text alone.
        said: Everything said and returned so far. If there is any, text in a call is some words in a row of it, and a
            number is one of its numbers: nothing can be garbled or made up. A category stays free, because customers
            don't say it in the shop's words.
        asked: The customer's last message; what it settles (`read_settled`) stands in the call and can't be otherwise.
            An order's status is one that it names.
        pointed: The product that the message points at (`read_pointed`); a call is about no other one.

    Returns:
        GBNF for llama.cpp's `grammar` parameter; its first rule is `root`.

    Raises:
        KeyError: There is no such tool.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    names, settled = list(TOOLS) if names is None else list(names), read_settled(asked)
    settled |= {"product": pointed} if pointed else {}
    values = _write_copies(said, settled, list_statuses(asked)) if names != [] else []
    kinds = {rule.partition(" ")[0] for rule in values}
    rules = [f"{_name_rule(name)} ::= {_write_call(name, kinds, settled)}" for name in names]
    root = ["text"] + (["call"] if names else [])
    calls = [f'call ::= "{OPEN_TAG}" ( {" | ".join(map(_name_rule, names))} ) ")" "{CLOSE_TAG}"'] if names else []
    return "\n".join([f"root ::= {' | '.join(root)}", *calls, *rules, *values, *_write_text()]) + LITERALS


def build_copying_gbnf(messages: Iterable[dict]) -> str:
    """Build the grammar of the next reply in a conversation: arguments are copied from what was said before it.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    talk = [message for message in messages if message["role"] != "system"]
    asked = [message["content"] for message in talk if message["role"] == "user"]
    said = "\n".join(message["content"] for message in talk)
    return build_gbnf(said=said, asked=asked[-1] if asked else "", pointed=read_pointed(talk))


def build_question_gbnf() -> str:
    """Build the grammar of a reply that asks: text without a call that ends in a question mark.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    return 'root ::= [^<?] [^<?]{0,200} "?"\n'


def _name_rule(name: str) -> str:
    return name.replace("_", "-")  # GBNF has no underscore in names


def _write_copies(said: str, settled: dict, statuses: list[str]) -> list[str]:
    """Write what may be copied: `copied` is words in a row, without the punctuation around them, the others one word.

    Rule wn is the text from word n on: it ends there, or goes on with the next word. A value that the customer's last
    message settles is the only one that its argument can have.
    """
    words = [word.lstrip(OPENING) for word in said.split()]
    words = [word for word in words if word and word.isprintable()]
    rules, plain = [], []
    for at, word in enumerate(words):
        bare = word.rstrip(CLOSING) or word
        ends = dict.fromkeys([bare, bare.lstrip("#$€£") or bare, re.sub(r"['’]s$", "", bare) or bare])
        more = [f"{_quote(word + ' ')} w{at + 1}"] if at + 1 < len(words) else []
        hangs = bare.casefold() in HANGING and more
        rules.append(f"w{at} ::= {' | '.join([*([] if hangs else map(_quote, ends)), *more])}")
        plain += ends
    if not rules:
        return []
    plain, amounts = list(dict.fromkeys(plain)), list_amounts(said)
    digits = [word for word in plain if re.search(r"\d", word)]
    prices = [] if {"min_price", "max_price"} & set(settled) else amounts
    counts = [number for number in amounts if number in range(1, MOST_RESULTS + 1)]
    named = [at for at, word in enumerate(words) if word.casefold() not in HANGING] or range(len(words))
    texts = {
        "ordered": [w for w in digits if not re.search("[@$€£]", w)],
        "account": [w for w in plain if "@" in w or w in digits],
        "code": find_codes(plain, said),
        "state": statuses,
    }
    texts |= {SETTLED[name]: [value] for name, value in settled.items() if name in SETTLED}
    numbers = {"low": settled.get("min_price", prices), "high": settled.get("max_price", prices)}
    numbers |= {"count": settled.get("limit", counts)}
    for name, starts in (("copied", range(len(words))), ("named", named)):
        rules.append(f'{name} ::= "\\"" ( {" | ".join(f"w{at}" for at in starts)} ) "\\""')
    rules += [f'{name} ::= "\\"" ( {" | ".join(map(_quote, found))} ) "\\""' for name, found in texts.items() if found]
    for name, found in numbers.items():
        written = [f"{n:.2f}".rstrip("0").rstrip(".") for n in (found if isinstance(found, list) else [found])]
        rules += [f"{name} ::= {' | '.join(map(_quote, written))}"] if written else []
    return rules


def _quote(text: str) -> str:
    """Return a GBNF literal for text inside a call's string."""
    written = json.dumps(text, ensure_ascii=False)[1:-1].replace("\\", "\\\\").replace('"', '\\"')
    return f'"{written}"'


def _write_call(name: str, kinds: set[str], settled: dict) -> str:
    """Write a call up to its last argument: the required ones, then each optional one or not; a settled one always."""
    parameters = [one for one in read_parameters(TOOLS[name]) if _find_kind(one, kinds)]
    head = [_write_argument(one, kinds) for one in parameters if one.required]
    rest = [(_write_argument(one, kinds), one.name in settled) for one in parameters if not one.required]
    if head:
        tail = "".join(f' ", " {text}' if always else f' ( ", " {text} )?' for text, always in rest)
        body = ' ", " '.join(head) + tail
    else:  # whichever comes first stands without a comma
        texts = [text for text, _ in rest]
        starts = [text + "".join(f' ( ", " {later} )?' for later in texts[at + 1 :]) for at, text in enumerate(texts)]
        body = f"( {' | '.join(starts)} )?" if starts else ""
    return f'"{name}(" {body}'


def _find_kind(one: Parameter, kinds: set[str]) -> str:
    """Return the rule of a parameter's values; nothing for an optional one where there is nothing that it could be.

    A required one may then be any words: the wish to call stays visible, and `restrain` turns it into a question.
    """
    if SETTLED.get(one.name) in kinds:
        return SETTLED[one.name]
    if kinds and one.name == "status":
        return ""
    if not kinds or one.choices or one.name == "category":
        return one.kind
    text = "copied" if one.name in FREE else "named"
    rule = RULES.get(one.name, {"string": text, "integer": "count", "number": "high"}[one.kind])
    return rule if rule in kinds else text if one.required else ""


def _write_argument(one: Parameter, kinds: set[str]) -> str:
    choices = "" if SETTLED.get(one.name) in kinds else " | ".join(f'"\\"{c}\\""' for c in one.choices)
    value = f"( {choices} )" if choices else _find_kind(one, kinds)
    return f'"{one.name}=" {value}'


def _write_text() -> list[str]:
    """Write text without the opening tag: rule n has read n characters of it, and another one starts anew."""
    rules = ['text ::= [^<] text0 | "<" text1', 'text0 ::= ( [^<] text0 | "<" text1 )?']
    for at, letter in list(enumerate(OPEN_TAG))[1:]:
        onward = f' | "{letter}" text{at + 1}' if at + 1 < len(OPEN_TAG) else ""
        rules.append(f'text{at} ::= ( [^<{letter}] text0 | "<" text1{onward} )?')
    return rules
