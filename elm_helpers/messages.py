"""From one wording to one customer's message: brackets, macros, slots, openers, closers, contexts and noise."""

import random
import re
from dataclasses import dataclass

from elm_helpers.phrasebook import BRACKETS, SLOT, Phrase, Phrasebook, PhrasebookError

# How often a register writes capitals and full stops; the rest is lower case with little punctuation.
NEAT = {"plain": 0.6, "terse": 0.25, "chatty": 0.5, "polite": 0.9, "annoyed": 0.5, "indirect": 0.8, "nonnative": 0.5}
REGISTERS = (*NEAT, "dictation")
HOW_WRITTEN = ("plain", "terse", "dictation")  # the others show in an opener, a context or a closer, or not at all
SHORT = {"please": "pls", "you": "u", "your": "ur", "thanks": "thx", "are": "r", "because": "bc", "really": "rly"}
QUESTION = re.compile(
    r"(^|[.!,] )(how|wh(at|en|ere|ich|o|y)|is|are|do|does|did|can|could|would|will|have|has|may|should|any)\b[^.!?]*$",
    re.IGNORECASE,
)
GREETS = re.compile(r"(hi|hey|hello|so|ok|um|uh|yeah|good|dear|please|excuse|sorry|right|look|thanks)\b", re.I)
THANKS = re.compile(r"(thanks|thank you|please|pls|plz|thx)\W*$", re.I)
EXACT = ("order_id", "promo_code", "customer_id", "status", "method")  # never put in lower case


@dataclass(frozen=True)
class Slot:
    """What the customer writes for a slot, and the argument it means."""

    text: str
    value: object = None


@dataclass(frozen=True)
class Message:
    """A customer's turn and the arguments that it states."""

    text: str
    arguments: dict
    register: str


def expand(text: str, macros: dict[str, tuple[str, ...]], rng: random.Random) -> str:
    """Return the wording with one way through its brackets and macros; slots stay.

    Example:
        >>> expand("[hi|hi] {who} {x}", {"who": ("[you|you]",)}, random.Random(0))
        'hi you {x}'

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    for _ in range(9):
        text = BRACKETS.sub(lambda m: rng.choice(m[1].split("|")), text)
        if not any(name in macros for name in SLOT.findall(text)):
            break
        text = SLOT.sub(lambda m: rng.choice(macros[m[1]]) if m[1] in macros else m[0], text)
    return re.sub(r" +([?.!,;]|$)", r"\1", re.sub(r"  +", " ", text)).strip()


def fill(text: str, slots: dict[str, Slot], where: str = "") -> tuple[str, dict]:
    """Put the slots' texts in and return the message with its arguments.

    `#{order_id}` makes the '#' part of the id, `${max_price}` does not say dollars twice, "a" before a vowel is "an".

    Raises:
        PhrasebookError: When a slot has no value.

    Example:
        >>> fill("a {x} of #{order_id}", {"x": Slot("egg", 1), "order_id": Slot("7", "7")})
        ('an egg of #7', {'x': 1, 'order_id': '#7'})

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    out, arguments, end = "", {}, 0
    for match in SLOT.finditer(text):
        name, carrier = match[1], text[end : match.start()]
        if name not in slots:
            raise PhrasebookError(f"{where}: nothing to put into {{{name}}} of {text!r}")
        shown, value, end = slots[name].text, slots[name].value, match.end()
        if name == "order_id" and carrier.endswith("#"):
            carrier, shown = carrier[:-1], "#" + shown.removeprefix("#")
            value = shown
        if name.endswith("_price") and (carrier.endswith("$") or re.match(r" ?(dollar|buck|usd|\$)", text[end:], re.I)):
            shown = f"{value:.2f}".removesuffix(".00")
        if re.search(r"\ban? $", carrier, re.I):
            carrier = re.sub(r"n? $", "n " if shown[:1].lower() in "aeio" else " ", carrier)
        out += carrier + shown
        arguments[name] = value
    return out + text[end:], arguments


def _misspell(word: str, rng: random.Random) -> str:
    at, kind = rng.randrange(1, len(word) - 1), rng.random()
    if kind < 0.4:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at + 1 :] if kind < 0.8 else word[:at] + word[at] + word[at:]


def _distort(carrier: str, register: str, rng: random.Random) -> str:
    """Return the text with typos, short forms and lost punctuation; slots are left alone."""
    typed = register != "dictation"
    drop, shorten, bare, typos = (rng.random() < share for share in (0.7, 0.25, 0.4, 0.35))
    words = []
    for word in carrier.split(" "):
        if typed and "{" not in word:
            word = SHORT.get(word, word) if shorten else word
            word = word.replace("'", "") if bare else word
            word = _misspell(word, rng) if typos and len(word) > 4 and word.isalpha() and rng.random() < 0.06 else word
        words.append(re.sub(r"[?.!,;:]+$", "", word) if drop or not typed else word)
    return " ".join(word for word in words if word)


def _end(text: str) -> str:
    """Return the text with a full stop or question mark when it has no end of its own."""
    return text if text[-1] in ".!?,:" else text + ("?" if QUESTION.search(text) else ".")


def _join(parts: list[str]) -> str:
    """Join the parts of a message; what follows a full stop starts a sentence, what doesn't follows a comma."""
    out = ""
    for part in (part for part in parts if part):
        if out:
            out = _end(out) if part[:1].isupper() else out if out[-1] in ".!?,:" else out + ","
            low = part if re.match(r"I\b|[A-Z]{2}", part) else part[:1].lower() + part[1:]
            part = part[:1].upper() + part[1:] if out[-1] in ".!?" else low
        out += (" " if out else "") + part
    return out


def compose_message(book: Phrasebook, phrase: Phrase, text: str, slots: dict, rng: random.Random) -> Message:
    """Return a whole message around an expanded wording, in a register drawn at random.

    Noise never reaches a slot; when all is written in lower case the arguments are too, but for `EXACT`.

    Args:
        book: Its `common.openers`, `common.contexts` and `common.closers`, by register, go around the wording.
        phrase: Its fixed arguments join those of the slots.
        text: `expand` of the phrase.
        slots: A Slot for each slot of the text.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    register = rng.choice(REGISTERS)

    def pick(kind: str, chance: float) -> str:
        options = book.wordings.get(f"common.{kind}.{register}")
        return rng.choice(options).text if options and rng.random() < chance else ""

    before = [pick("openers", 0 if GREETS.match(text) else 0.35), pick("contexts", 0.2)]
    after = pick("closers", 0 if THANKS.search(text) else 0.2)
    whole = _join([*before, text, after])
    if rng.random() < NEAT.get(register, 0):
        whole = whole[:1].upper() + whole[1:]
        whole = whole if rng.random() < 0.3 else _end(whole)
    else:
        if rng.random() < 0.7 or register == "dictation":
            whole = whole.lower()
            free = {n: s for n, s in slots.items() if n not in EXACT and isinstance(s.value, str)}
            slots = slots | {name: Slot(slot.text.lower(), slot.value.lower()) for name, slot in free.items()}
        whole = _distort(whole, register, rng)
    filled, arguments = fill(whole, slots, phrase.id)
    told = register in HOW_WRITTEN or any(before) or after
    return Message(filled, phrase.arguments | arguments, register if told else "plain")
