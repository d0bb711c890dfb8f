"""A conversation while it grows: customers' turns in their words, calls that run, answers that are checked."""

import random
import re
import sqlite3

from elm_helpers.answers import MOST_LISTED, Rejected, describe_result, verify_answer, write_answer
from elm_helpers.messages import Message, Slot, compose_message, expand, fill
from elm_helpers.phrasebook import SLOT, Phrase, PhrasebookError
from elm_helpers.strangers import invent_name
from elm_helpers.tool_calls import ToolCall, format_tool_call
from elm_helpers.tools import Session, check_arguments, format_result, run_tool
from elm_helpers.world import Item, Order, World, draw_slots, pick

FOREIGN = 0.4  # share of the requests that are about things of other shops, calls and questions alike
ORDINALS = ("first", "second", "third")
# Requests that already say more than the call after a follow-up would hold.
SAYS_MORE = re.compile(
    r"\d|express|overnight|next.day|fast|broke|damage|wrong|fit|fault|missing|size|colou?r|too |never|because", re.I
)


class Dialogue:
    """A conversation while it grows; `said` is all that an answer may repeat.

    Raises:
        Rejected: From any method, when the row cannot go on: the split has nothing that fits, or an answer is wrong.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """

    def __init__(self, world: World, rng: random.Random, customer_id: str | None = None):
        self.world, self.rng, self.customer_id = world, rng, customer_id
        self.turns: list[tuple[str, str]] = []
        self.phrasings: list[str] = []
        self.templates: list[str] = []
        self.register, self.said = "plain", ""
        self.tool: str | None = None
        self.conn = world.conn

    def _add(self, role: str, text: str, phrase: Phrase | None = None) -> None:
        self.turns.append((role, text))
        self.said += "\n" + text
        if phrase:
            (self.phrasings if role == "user" else self.templates).append(phrase.id)

    def _compose(self, phrase: Phrase, text: str, slots: dict[str, Slot]) -> Message:
        message = compose_message(self.world.book, phrase, text, slots, self.rng)
        self.register = message.register
        self._add("user", message.text, phrase)
        return message

    def request(self, tool: str, item: Item, order: Order, needs: str = "", instead: dict | None = None) -> dict:
        """Let the customer ask for a tool and return the arguments; `instead` replaces what a slot would hold."""
        requests = self.world.book.requests[tool]
        phrase = pick([p for p in requests.phrases if needs in p.text], self.rng)
        text = expand(phrase.text, requests.macros, self.rng)
        slots = draw_slots(self.world, text, self.rng, item, order, requests.values)
        slots |= {name: Slot(value, value) for name, value in (instead or {}).items() if name in slots}
        arguments = self._compose(phrase, _fit_article(text, slots), slots).arguments
        if problem := check_arguments(tool, arguments):
            raise PhrasebookError(f"requests/{tool}.yaml: {phrase.text!r} makes a wrong call: {problem}")
        return arguments

    def talk(self, kind: str = "", intent: str = "") -> None:
        """Add a request that gets no call, and its reply; a named intent is asked without saying more."""
        side = ("any", "yes" if self.customer_id else "no")
        known = [i for i in self.world.book.intents if i.intent == intent or i.kind == kind and i.signed_in in side]
        chosen = pick(known, self.rng)
        phrase = pick([ask for ask in chosen.asks if not intent or not SAYS_MORE.search(ask.text)], self.rng)
        text, world = expand(phrase.text, {}, self.rng), self.world
        item, order = pick(list(world.items.values()), self.rng), pick(world.orders, self.rng)
        slots = draw_slots(world, text, self.rng, item, order, {})
        if "product" in slots and self.rng.random() < FOREIGN:
            name = invent_name(self.world, item, self.rng)
            slots["product"] = Slot(name, name)
        said = self._compose(phrase, _fit_article(text, slots), slots).arguments
        reply = pick([reply for reply in chosen.replies if set(SLOT.findall(reply.text)) <= set(said)], self.rng)
        slots = {name: Slot(str(value)) for name, value in said.items()}
        text = _fit_article(expand(reply.text, {}, self.rng), slots)
        self._add("assistant", fill(text, slots, reply.id)[0], reply)

    def follow(self, kind: str, slots: dict[str, str] | None = None) -> dict:
        """Let the customer go on with a wording of answers.follow, or a tool's own, and return what its slots hold."""
        known = self.world.book.wordings
        phrase = pick(known.get(f"answers.follow.{kind}") or known.get(f"answers.{kind}"), self.rng)
        slots = slots or {}
        lower = self.rng.random() < 0.3 and "order_id" not in slots
        slots = {name: value.lower() for name, value in slots.items()} if lower else slots
        text, arguments = fill(phrase.text, {name: Slot(value, value) for name, value in slots.items()}, phrase.id)
        self._add("user", text.lower() if lower else text, phrase)
        return arguments

    def add_wish(self, kind: str, slots: dict[str, str]) -> dict:
        """Let the message that was just added go on with a second wish, and return what its slots hold."""
        phrase = pick(self.world.book.wordings.get(f"answers.follow.{kind}"), self.rng)
        wish, arguments = fill(phrase.text, {name: Slot(value, value) for name, value in slots.items()}, phrase.id)
        text = self.turns.pop()[1]
        joined = re.sub("^(and|great,) ", "", wish[:1].lower() + wish[1:])
        text += f" {wish}" if text[-1] in ".!?" else f" and {joined}"
        self._add("user", text, phrase)
        return arguments

    def change_shop(self, sql: str, values: tuple) -> None:
        """Go on in a changed copy of the shop, such as one whose description holds a stranger's instruction."""
        self.conn = copy_shop(self.world.conn)
        self.conn.execute(sql, values)

    def call(self, name: str, arguments: dict, confirmed: bool = False) -> dict:
        """Add a call, run it and add its result."""
        call = format_tool_call(ToolCall(name, arguments))
        result = run_tool(Session(self.conn, self.customer_id, call if confirmed else None), name, arguments)
        self._add("assistant", call)
        self._add("tool", format_result(result))
        self.tool = name
        return result

    def answer(self, *parts: tuple[str, dict]) -> None:
        """Add ELM's answer in wordings of answers.yaml, verified against all that was said and returned.

        Args:
            parts: (wording, slots) as `describe_result` gives them, one for each thing that was asked.
        """
        phrases = [pick(self.world.book.wordings.get(f"answers.{key}"), self.rng) for key, _ in parts]
        texts = [write_answer(phrase, slots) for phrase, (_, slots) in zip(phrases, parts, strict=True)]
        text = "\n".join(texts) if any("\n" in part for part in texts) else " ".join(texts)
        verify_answer(text, self.said + " ".join(phrase.text for phrase in phrases), self.world.items)
        self._add("assistant", text, phrases[0])
        self.templates += [phrase.id for phrase in phrases[1:]]

    def settle(self, name: str, arguments: dict, item: Item | None = None) -> dict:
        """Call, answer, and go on until the matter is settled; return what the answer was about."""
        result = self.call(name, arguments)
        if "candidates" in result:
            self.answer(describe_result(name, arguments, result, self.rng))
            at = self.rng.randrange(len(result["candidates"][:MOST_LISTED]))
            chosen = result["candidates"][at]["name"]
            marked = mark_one(result["candidates"][:MOST_LISTED], at, self.rng)
            self.follow("choose", {"ordinal": marked, "number": str(at + 1), "name": chosen})
            arguments = arguments | {"product": chosen}
            result = self.call(name, arguments)
        result = _keep_fitting(self.world, result, item)
        self.answer(describe_result(name, arguments, result, self.rng))
        if result.get("status") == "needs_confirmation":
            self._confirm(name, arguments, result["order_id"])
        return result

    def _confirm(self, name: str, arguments: dict, order_id: str) -> None:
        """Let the customer agree to a write, which then runs on a copy of the shop, or leave it."""
        if self.rng.random() < 0.3:
            self.follow("decline")
            self.answer((f"{name}.left", {"order_id": order_id}))
            return
        self.follow("agree")
        self.conn = copy_shop(self.conn)
        result = self.call(name, arguments, confirmed=True)
        self.answer(describe_result(name, arguments, result, self.rng))

    def finish(self, kind: str) -> dict:
        """Return the row's turns and meta."""
        products = sorted(item.id for name, item in self.world.items.items() if name in self.said)
        meta: dict = {"template": "+".join(self.templates or self.phrasings), "products": products}
        meta |= {"phrasing": "+".join(self.phrasings), "signed_in": self.customer_id is not None}
        meta |= {
            "tool": None if kind in ("no_call", "ask_back") else self.tool,
            "kind": kind,
            "register": self.register,
        }
        return {"turns": self.turns, "meta": meta}


def mark_one(listed: list[dict], at: int, rng: random.Random) -> str:
    """Return what tells one of the listed products from the others: "second", "cheapest", or a word of its name alone.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    words = [set(re.findall(r"[a-z][a-z-]{3,}", thing["name"].casefold())) for thing in listed]
    prices = [thing.get("price", 0) for thing in listed]
    marks = sorted(words[at] - set().union({"with", "from"}, *words[:at], *words[at + 1 :]))
    if prices.count(prices[at]) == 1:
        marks += ["cheapest"] * (prices[at] == min(prices)) + ["most expensive"] * (prices[at] == max(prices))
    return rng.choice(marks) if marks and rng.random() < 0.4 else ORDINALS[at]


def _fit_article(text: str, slots: dict[str, Slot]) -> str:
    """Return the wording for a product such as "Xanda's mixer", which takes no article."""
    own = re.match(r"\w+'s ", slots["product"].text) if "product" in slots else None
    return re.sub(r"\b(the|an?|my|your) (?=\{product\})", "", text, flags=re.I) if own else text


def copy_shop(conn: sqlite3.Connection) -> sqlite3.Connection:
    """Return a copy in memory that a row may change: what this connection sees, its own open transaction included.

    Python's `backup` would wait for ever for the end of that transaction.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    copy = sqlite3.connect(":memory:", check_same_thread=False)
    copy.row_factory = sqlite3.Row
    image = bytearray(conn.serialize())
    image[18:20] = b"\1\1"  # the file format's marks of a write-ahead log, which a copy in memory can't have
    copy.deserialize(bytes(image))
    return copy


def _keep_fitting(world: World, result: dict, item: Item | None) -> dict:
    """Return the result with what an answer should list: the kind that was meant, not all that shares a word."""
    if result.get("products") and item:
        fitting = [p for p in result["products"] if world.items[p["name"]].kind == item.kind]
        if not fitting:
            raise Rejected("search that found another kind of thing")
        return result | {"products": fitting}
    if result.get("similar") and not result.get("related"):
        kind = world.items[result["product"]].kind
        fitting = [p for p in result["similar"] if world.items[p["name"]].kind == kind]
        return result | ({"similar": fitting} if fitting else {"related": True})
    return result
