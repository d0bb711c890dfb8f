"""A model held to what was said: arguments are copied from the conversation, and a call that lacks something asks."""

import re
from dataclasses import replace

from elm_helpers.engines import Completion, Engine
from elm_helpers.grammar import build_copying_gbnf, build_question_gbnf
from elm_helpers.metrics import read_calls, split_words
from elm_helpers.prompts import GUEST
from elm_helpers.signatures import OPEN_TAG, read_parameters
from elm_helpers.tool_calls import ToolCall
from elm_helpers.tools import TOOLS

# Words that point at something without naming it.
WORDS = "it its this that these those they them one ones any some something anything thing stuff item product article"
WORDS += " order parcel package purchase here there home house place address door me my mine us our we i you your"
WORDS += " the a an in to of at for is are be do does have has other another similar such"
WORDS += " lol haha um uh pls please thanks"
POINTERS = frozenset(WORDS.split())
# Places that take an article; another word after an article is a thing, and no place to send it to.
ARTICLED = re.compile(r"(?:uk|us|usa|u\.s|eu|united|states|netherlands|czech|european|isle|canary)\b", re.I)


def find_missing(call: ToolCall, guest: bool = False, said: str = "") -> list[str]:
    """Return the arguments that a call needs and that nobody stated: a pointing word names no product or place.

    Args:
        call: A call whose text was copied from the conversation.
        guest: Nobody is signed in, so an order can only be found by its number.
        said: What the customer said: "shipping on the kettle" names no destination.

    Example:
        >>> find_missing(ToolCall("get_inventory", {"product": "that one"}))
        ['product']
        >>> find_missing(ToolCall("initiate_return", {"order_id": "my kettle"}))
        ['order_id']
        >>> find_missing(ToolCall("calculate_shipping", {"destination": "kettle"}), said="shipping on the kettle?")
        ['destination']

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    needed = [one.name for one in read_parameters(TOOLS[call.name]) if one.required]
    missing = [name for name in needed if set(split_words(str(call.arguments[name]))) <= POINTERS]
    place = str(call.arguments.get("destination", "1"))
    thing = re.search(rf"\b(?:the|an?|my|your|this|these) {re.escape(place)}", said, re.I)
    if thing and not re.search(r"\d", place) and not ARTICLED.match(place) and "destination" not in missing:
        missing.append("destination")
    order = call.arguments.get("order_id")
    if order is not None and not re.search(r"\d", str(order)) and "order_id" not in missing:
        missing.append("order_id")
    if guest and call.name == "get_customer_orders" and not {"order_id", "customer_id"} & set(call.arguments):
        missing.append("order_id")
    return missing


def restrain(engine: Engine) -> Engine:
    """Return the engine with a grammar on every reply, and with a question in place of a call that lacks something.

    A model that was trained to call tools calls one even where it has to make up the order's number. So the call is
    read before it's used: if what it needs wasn't said, the model is asked again, and may write a question only.

    Args:
        engine: One that takes a grammar; another one is returned as it is.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    if not engine.takes_grammar:
        return engine

    def complete(messages: list[dict], *, grammar: str | None = None, on_text=None, **options) -> Completion:
        if grammar:
            return engine.complete(messages, grammar=grammar, on_text=on_text, **options)
        guest = messages[0]["content"].startswith(GUEST)
        first = engine.complete(messages, grammar=build_copying_gbnf(messages), on_text=hold_calls(on_text), **options)
        calls = read_calls(first.text) or ()
        said = "\n".join(message["content"] for message in messages if message["role"] == "user")
        if not any(find_missing(call, guest, said) for call in calls):
            if on_text and calls:
                on_text(first.text)
            return first
        second = engine.complete(messages, grammar=build_question_gbnf(), on_text=on_text, **options)
        return replace(
            second,
            completion_tokens=first.completion_tokens + second.completion_tokens,
            seconds=first.seconds + second.seconds,
            first_token_seconds=first.seconds + second.first_token_seconds,
        )

    return replace(engine, complete=complete)


def hold_calls(on_text):
    """Return a receiver of text that passes on prose piece by piece and keeps a call back.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    pieces: list[str] = []

    def take(piece: str) -> None:
        pieces.append(piece)
        if not "".join(pieces).lstrip().startswith(OPEN_TAG[0]):
            on_text(piece)

    return on_text and take
