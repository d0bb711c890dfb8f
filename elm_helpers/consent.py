"""Consent: what is a yes, how long a proposal waits for one, and whether the customer asked for it at all."""

import re
from collections.abc import Iterable

from elm_helpers.tool_calls import ToolCall
from elm_helpers.tools import WRITES

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
PATIENCE = 3  # turns of questions that a proposal outlives
QUESTION = re.compile(
    r"\?|^\W*(?:and |so |ok(?:ay)?,? )?(?:how|what|when|where|which|who|why|is|are|do|does|did|can|could|will|would)\b",
    re.I,
)
OBJECTION = re.compile(
    r"\b(?:no|nope|nah|not|never|cannot|stop|wait|hold|cancel|forget|leave|keep\w*|instead|but|only|just|except|without|"
    r"rather|changed|wrong|meant?|later|(?:the|my) other)\b|n['’]?t\b|<",
    re.I,
)
PROPOSING = re.compile(r"\b(?:return\w*|refund\w*|send\w*|go ahead|proceed|confirm|start|do (?:it|that|so))\b", re.I)
ASKING = re.compile(
    r"\breturn|\brefund|\b(?:send|sent|giv\w+|take|bring|hand|ship|post|go(?:es|ing)?)\b[^.?!]{0,60}\bback\b|"
    r"\brid of\b|\bpick\w* up\b|\bcollect|\bfetch|\bmoney\b|\bexchange|\bunwanted\b",
    re.I,
)
RECENT = 3  # messages in which the customer asked for a return


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


def is_harmless(text: str) -> bool:
    """Return whether a message is a question that takes nothing back, so that a proposal may go on waiting behind it.

    Example:
        >>> is_harmless("How much would I get?"), is_harmless("no, stop"), is_harmless("can I keep the mug?")
        (True, False, False)

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    return bool(QUESTION.search(text)) and not OBJECTION.search(text)


def asks_else(answer: str) -> bool:
    """Return whether an answer asks about something else than a return: the next yes would be a yes to that.

    Example:
        >>> asks_else("Do you mean the mug?"), asks_else("You get $9.50. Shall I go ahead?")
        (True, False)

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    return any(not PROPOSING.search(question) for question in re.findall(r"[^.!?\n]*\?", answer))


def is_asked(call: ToolCall, spoken: Iterable[str]) -> bool:
    """Return whether a call is none that writes, or one that the customer asked for: an order they named, or a return.

    A model can be talked into a call by what stands in a description. What the customer said can't be planted there.

    Args:
        call: What the model wants to run.
        spoken: The customer's own messages, oldest first.

    Example:
        >>> is_asked(ToolCall("initiate_return", {"order_id": "W1"}), ["Tell me about the mug"])
        False

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    spoken = list(spoken)
    said, number = (
        re.sub(r"\W", "", text).casefold() for text in ("".join(spoken), str(call.arguments.get("order_id")))
    )
    named = bool(number and number in said)
    return call.name not in WRITES or named or bool(ASKING.search(" ".join(spoken[-RECENT:])))
