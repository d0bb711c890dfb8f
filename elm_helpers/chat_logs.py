"""Chat logs as conversations between a customer and an agent: generic tables and JSON, Zendesk and Intercom exports."""

import json
import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from elm_helpers.redact import Redactor, add_people, list_people, redact_text

from bs4 import BeautifulSoup
from bs4.exceptions import ParserRejectedMarkup

ALIASES = {  # what a column or key may be called, without case and signs
    "id": "conversationid conversation ticketid ticket ticketnumber threadid thread chatid chat sessionid caseid",
    "author": "role sender sendertype sendername from author authortype authorrole authorname speaker direction actor",
    "text": "text message body content messagetext comment plainbody messagebody",
    "time": "createdat timestamp time date sentat datetime created",
    "name": "authorname sendername name customername agentname",
    "note": "private isprivate internal isinternal isnote",
}
CUSTOMER = "user customer client visitor enduser requester contact lead buyer human guest shopper inbound incoming"
AGENT = "assistant agent admin support operator staff bot rep representative team teammate employee outbound outgoing"
ROLES: dict[str, str | None] = dict.fromkeys(CUSTOMER.split(), "user")
ROLES |= dict.fromkeys(AGENT.split(), "assistant")
ROLES |= dict.fromkeys(("system", "tool", "function", "note", "internal", "privatenote", "event"))
HTML = re.compile(r"</?(?:p|br|div|span|a|b|i|strong|em|ul|ol|li|img|table|html|body|h\d|blockquote)\b[^<>]*>", re.I)
MARK = re.compile(r"<(?=[\s/]*[a-z_|<])|\[(?=/?INST\])", re.IGNORECASE)  # how special tokens and tool calls begin


@dataclass(frozen=True)
class Message:
    """One message of an export; `role` is None for what customers don't see, "" where only a name is given."""

    author: str
    role: str | None
    text: str
    time: float | None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """What a customer ("user") and the shop's people ("assistant") wrote in turn, the customer first, the shop last.

    Attributes:
        id: As in the export.
        messages: (role, text), roles in turn.
        names: Names that the export gives the two; they are redacted.
        left_out: Private notes, events and unanswered or unasked messages that were dropped.
    """

    id: str
    messages: tuple[tuple[str, str], ...]
    names: tuple[str, ...] = ()
    left_out: int = 0


def find_chat_format(names: list[str]) -> str | None:
    """Return the chat format that columns, or the keys of an object, belong to; None for anything else.

    Example:
        >>> find_chat_format(["Ticket ID", "Sender", "Message"]), find_chat_format(["author", "body", "rating"])
        ('chat-generic', None)

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    folded = {_fold(name) for name in names}
    if "conversationparts" in folded:
        return "chat-intercom"
    if "comments" in folded and folded & {"requesterid", "requester"}:
        return "chat-zendesk"
    flat = all(folded & set(ALIASES[field].split()) for field in ("id", "author", "text"))
    return "chat-generic" if "messages" in folded or flat else None


def read_conversations(records: list[tuple[int, dict]], form: str) -> tuple[list[Conversation], list[tuple[int, str]]]:
    """Return the conversations of a log, and the line and reason of every record that is in none.

    Args:
        records: (line number, object or row): a conversation each, or a message each.
        form: As `find_chat_format` names it.

    Raises:
        ValueError: There is no such format.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    if form not in FORMATS:
        raise ValueError(f"chat format: found {form!r}, expected one of {', '.join(FORMATS)}")
    found, rejected, threads = [], [], {}
    for line, record in records:
        try:
            if form == "chat-generic" and "messages" not in record:
                key, message = _read_row(record)
                threads.setdefault(key, []).append((line, message))
            else:
                key, messages = FORMATS[form](record)
                found.append(_build(str(key or f"line {line}"), messages))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            rejected.append(
                (line, str(error) if type(error) is ValueError else f"found no {form} record ({error!r:.80})")
            )
    for key, lines in threads.items():
        try:
            found.append(_build(key, [message for _, message in lines]))
            rejected += [(line, "a private note or an event") for line, message in lines if message.role is None]
        except ValueError as error:
            rejected += [(line, str(error)) for line, _ in lines]
    return found, sorted(rejected)


def write_conversations(conn: sqlite3.Connection, conversations: Iterable[Conversation], redactor: Redactor) -> int:
    """Redact conversations and write them into the shop; the caller commits.

    Args:
        conn: The shop.
        conversations: From `read_conversations`; one with the id of an earlier one replaces it.
        redactor: Of the whole run; the people in a conversation are added for that conversation.

    Returns:
        How many were written.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    written: dict[str, str] = {}
    for conversation in conversations:
        present = [name for _, text in conversation.messages for name in list_people(redactor, text)]
        local = add_people(redactor, [*conversation.names, *present])
        turns = [{"role": role, "content": redact_text(local, text)} for role, text in conversation.messages]
        key = base = redact_text(local, conversation.id)
        while key in written:
            key = f"{base}-{len(written) + 1}"
        written[key] = json.dumps(turns, ensure_ascii=False)
    conn.executemany("INSERT OR REPLACE INTO conversations VALUES (?, ?)", written.items())
    return len(written)


def _fold(name: object) -> str:
    return re.sub(r"[\W_]+", "", str(name).casefold())


def _list(record: dict, field: str) -> list:
    """Return the values that a record has under a field's names, best name first."""
    folded = {_fold(key): value for key, value in reversed(record.items())}
    return [folded[name] for name in ALIASES[field].split() if folded.get(name) not in (None, "")]


def _get(record: dict, field: str):
    return next(iter(_list(record, field)), None)


def _clean(text: object) -> str:
    """Return plain text: no HTML, and a space in whatever a chat template or the tool-call parser would act on."""
    if not isinstance(text, str):
        raise ValueError(f"found a message of type {type(text).__name__}, expected text")
    if HTML.search(text):
        text = re.sub(r"(?i)<br\s*/?>|</(?:p|div|li|tr|h\d)>", "\n", text)
        try:
            soup = BeautifulSoup(text, "html.parser")
            for hidden in soup(["script", "style"]):
                hidden.decompose()
            text = soup.get_text()
        except ParserRejectedMarkup:
            text = HTML.sub(" ", text)
    text = MARK.sub(lambda match: f"{match[0]} ", text.encode("utf-8", "ignore").decode())
    return re.sub(r"[^\S\n]*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()


def _read_message(record: dict, author: object, text: object, is_private: bool = False, name: object = "") -> Message:
    names = [name, *_list(record, "name"), *_list(record, "author")]
    if isinstance(author, dict):
        names, author = [*names, author.get("name")], _get(author, "author") or author.get("type") or author.get("name")
    names = tuple(each for each in names if isinstance(each, str) and each and _fold(each) not in ROLES)
    role = None if is_private else ROLES.get(_fold(author), "")
    return Message(str(author), role, _clean(text or ""), _read_time(_get(record, "time")), names)


def _read_time(value) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        pass
    try:
        return datetime.fromisoformat(str(value).strip()).timestamp()
    except (ValueError, OverflowError):
        return None


def _is_note(record: dict) -> bool:
    return str(_get(record, "note") or "").casefold() in ("1", "true", "yes", "t", "y")


def _read_row(record: dict) -> tuple[str, Message]:
    """Read a row that is one message."""
    found = {field: _get(record, field) for field in ("id", "author", "text")}
    if missing := [field for field, value in found.items() if value is None]:
        raise ValueError(f"found no {' and no '.join(missing)}, expected a conversation's id, an author and a text")
    return str(found["id"]), _read_message(record, found["author"], found["text"], _is_note(record))


def _read_generic(record: dict) -> tuple[object, list[Message]]:
    messages = [
        _read_message(each, _get(each, "author"), _get(each, "text"), _is_note(each)) for each in record["messages"]
    ]
    return _get(record, "id") or record.get("id"), messages


def _read_zendesk(record: dict) -> tuple[object, list[Message]]:
    requester = record.get("requester") or {}
    asker, messages = record.get("requester_id", requester.get("id")), []
    for each in record["comments"]:
        author = each.get("author") or {}
        number = each.get("author_id", author.get("id"))
        is_customer = number == asker or _fold(author.get("role")) == "enduser"
        text = each.get("plain_body") or each.get("body") or each.get("html_body") or ""
        role, private = "user" if is_customer else "assistant", each.get("public") is False
        name = author.get("name") or (requester.get("name") if number == asker else "")
        messages.append(_read_message({"time": each.get("created_at")}, role, text, private, name))
    return record.get("id"), messages


def _read_intercom(record: dict) -> tuple[object, list[Message]]:
    parts = record["conversation_parts"]
    parts = parts["conversation_parts"] if isinstance(parts, dict) else parts
    messages = []
    for each in [record.get("source") or {}, *parts]:
        author = each.get("author") or {}
        is_event = not each.get("body") or each.get("part_type") == "note"
        role = author.get("type") or "system"
        time = {"time": each.get("created_at", record.get("created_at"))}
        messages.append(_read_message(time, role, each.get("body"), is_event, author.get("name")))
    return record.get("id"), messages


FORMATS = {"chat-generic": _read_generic, "chat-zendesk": _read_zendesk, "chat-intercom": _read_intercom}


def _build(key: str, messages: list[Message]) -> Conversation:
    """Order, tell the two sides apart, join what one side wrote in a row, and trim to question … answer."""
    if all(message.time is not None for message in messages):
        messages = sorted(messages, key=lambda message: message.time or 0.0)
    roles, turns = _name_sides(messages), []
    for message in messages:
        role = message.role or roles.get(message.author)
        if message.role is None or not message.text:
            continue
        if turns and turns[-1][0] == role:
            turns[-1][1].append(message.text)
        elif turns or role == "user":
            turns.append((role, [message.text]))
    asked = bool(turns)
    while turns and turns[-1][0] == "user":
        turns.pop()
    if not turns:
        raise ValueError(
            f"found no message of {'an agent' if asked else 'a customer'}, expected a question and an answer"
        )
    names = {name for message in messages for name in message.names}
    kept = sum(len(texts) for _, texts in turns)
    joined = tuple((role, "\n".join(texts)) for role, texts in turns)
    return Conversation(key, joined, tuple(sorted(names)), len(messages) - kept)


def _name_sides(messages: list[Message]) -> dict[str, str]:
    """Return the roles of authors who are only named: the first of two is the customer, a single one the other side."""
    known = {message.role for message in messages if message.role}
    named = list(dict.fromkeys(message.author for message in messages if message.role == ""))
    sides = ["user", "assistant"] if not known else [side for side in ("user", "assistant") if side not in known]
    if len(named) > len(sides) or (not known and len(named) == 1):
        raise ValueError(f"found {len(named)} authors by name, expected roles such as customer and agent, or two names")
    return dict(zip(named, sides, strict=False))
