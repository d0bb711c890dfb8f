"""OpenAI's chat form and the wire format, translated into each other: requests, replies and streams."""

import json
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from elm_helpers.prompts import build_system
from elm_helpers.signatures import OPEN_TAG
from elm_helpers.tool_calls import ToolCall, ToolCallError, format_tool_call, parse_tool_calls

from fastapi import HTTPException
from pydantic import AliasChoices, BaseModel, Field

if TYPE_CHECKING:
    from elm_helpers.engines import Completion

MAX_TOKENS = 1024
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]


class Message(BaseModel):
    """A message in OpenAI's form; frameworks echo further fields, which say nothing to the model."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict] | None = None
    tool_calls: list[dict] | None = None


class ChatRequest(BaseModel):
    """OpenAI's request; fields that this model has no use for are ignored, those it cannot obey are refused."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: Count = Field(200, validation_alias=AliasChoices("max_completion_tokens", "max_tokens"))
    temperature: Temperature | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    stream: bool | None = False
    stream_options: dict | None = None
    n: Literal[1, None] = 1
    grammar: None = None


def translate_messages(messages: list[Message]) -> list[dict]:
    """Return OpenAI messages as ELM was trained on them: plain strings, calls in the wire format, a system prompt.

    Raises:
        HTTPException: 400; a part is no text, a call names no known tool, or its arguments are no JSON object.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    wire = [] if messages[0].role in ("system", "developer") else [{"role": "system", "content": build_system(None)}]
    for number, message in enumerate(messages):
        try:
            parts = message.content or ""
            texts = [parts if isinstance(parts, str) else "".join(part["text"] for part in parts)]
            functions = [call["function"] for call in message.tool_calls or ()]
            calls = [ToolCall(one["name"], json.loads(one.get("arguments") or "{}")) for one in functions]
            content = "\n".join(filter(None, [*texts, *map(format_tool_call, calls)]))
            content.encode()  # half a surrogate pair would stop the tokenizer
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise HTTPException(400, f"messages[{number}] is not in OpenAI's text form: {error}") from None
        wire.append({"role": message.role.replace("developer", "system"), "content": content})
    return wire


def translate_reply(text: str) -> dict:
    """Return a reply as an OpenAI message; a malformed call stays text, so that nothing is lost.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    try:
        calls = parse_tool_calls(text)
    except ToolCallError:
        calls = []
    if not calls:
        return {"role": "assistant", "content": text}
    functions = [{"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)} for call in calls]
    listed = [{"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": one} for one in functions]
    return {"role": "assistant", "content": text.partition(OPEN_TAG)[0].strip() or None, "tool_calls": listed}


def _count_showable(text: str) -> int:
    """Return how many characters of a growing reply surely stand before a call, so that they may be streamed."""
    starts = (len(text) - n for n in range(len(OPEN_TAG) - 1, 0, -1) if text.endswith(OPEN_TAG[:n]))
    return text.index(OPEN_TAG) if OPEN_TAG in text else next(starts, len(text))


def _summarise(done: "Completion", max_tokens: int) -> tuple[dict, str, dict]:
    """Return a completion's OpenAI message, why it ended, and its numbers of tokens."""
    message, full = translate_reply(done.text), done.completion_tokens >= min(max_tokens, MAX_TOKENS)
    reason = "tool_calls" if "tool_calls" in message else "length" if full else "stop"
    counts = {"prompt_tokens": done.prompt_tokens, "completion_tokens": done.completion_tokens}
    return message, reason, counts | {"total_tokens": sum(counts.values())}


def build_reply(done: "Completion", max_tokens: int) -> dict:
    """Return the body of an OpenAI answer, less its id, time and model.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    message, reason, usage = _summarise(done, max_tokens)
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {"object": "chat.completion", "choices": [choice], "usage": usage}


def stream_reply(pieces: Iterator, piece, request: ChatRequest, head: dict) -> Iterator[str]:
    """Yield OpenAI's server-sent events: text as it comes, a tool call whole.

    Args:
        pieces: What is still to come: pieces of text, then the Completion.
        piece: The first of them; what fails before it is no stream yet, and gets a status of its own.
        request: The request.
        head: Id, time and model.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    text, sent = "", 0

    def write(delta: dict, reason: str | None = None, **more) -> str:
        choices = [] if more else [{"index": 0, "delta": delta, "finish_reason": reason}]
        return f"data: {json.dumps(head | {'object': 'chat.completion.chunk', 'choices': choices} | more)}\n\n"

    yield write({"role": "assistant", "content": ""})
    try:
        while isinstance(piece, str):
            text += piece
            if (end := _count_showable(text)) > sent:
                yield write({"content": text[sent:end]})
                sent = end
            piece = next(pieces)
        message, reason, usage = _summarise(piece, request.max_tokens)
        if "tool_calls" in message:
            yield write({"tool_calls": [{"index": i} | call for i, call in enumerate(message["tool_calls"])]})
        elif piece.text[sent:]:
            yield write({"content": piece.text[sent:]})
        yield write({}, reason)
        if (request.stream_options or {}).get("include_usage"):
            yield write({}, usage=usage)
    except HTTPException as error:
        yield f"data: {json.dumps({'error': {'message': error.detail, 'code': error.status_code}})}\n\n"
    yield "data: [DONE]\n\n"
