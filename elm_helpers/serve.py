"""A model over HTTP: the seed's `{"inputs"}` route, and OpenAI's chat route with tool calls in OpenAI's form."""

import hmac
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Annotated, Literal

from elm_helpers.prompts import build_system
from elm_helpers.signatures import OPEN_TAG
from elm_helpers.tool_calls import ToolCall, ToolCallError, format_tool_call, parse_tool_calls

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import AliasChoices, BaseModel, Field
from starlette.exceptions import HTTPException as StarletteError

if TYPE_CHECKING:
    from elm_helpers.engines import Completion, Engine

BODY_BYTES, MAX_TOKENS, WAITING, LOOPBACK = 1_000_000, 1024, 8, ("127.0.0.1", "localhost", "::1")
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Runner = Callable[..., Iterator]


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


class Parameters(BaseModel, extra="forbid"):
    """The seed's parameters."""

    max_new_tokens: Count = 200
    temperature: Temperature | None = None
    do_sample: bool | None = None
    return_full_text: Literal[False, None] = False


class SeedRequest(BaseModel, extra="forbid"):
    """The seed's request: what the customer says, or the conversation so far."""

    inputs: Annotated[str, Field(min_length=1)] | Annotated[list[Message], Field(min_length=1)]
    parameters: Parameters = Parameters()
    stream: Literal[False] = False


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


def _build_runner(engine: "Engine", waiting: int) -> Runner:
    """Return ``run(messages, max_tokens, temperature, seed)``, which yields pieces of text, then the Completion."""
    pool, places = ThreadPoolExecutor(engine.parallel, "elm-serve"), BoundedSemaphore(engine.parallel + waiting)

    def run(messages, max_tokens, temperature, seed=0) -> Iterator:
        if not places.acquire(blocking=False):
            raise HTTPException(429, "every slot is busy; try again in a second", {"Retry-After": "1"})
        pieces = SimpleQueue()
        options = {"max_tokens": min(max_tokens, MAX_TOKENS), "temperature": temperature or 0.0, "seed": seed or 0}
        future = pool.submit(engine.complete, messages, on_text=pieces.put, **options)
        future.add_done_callback(lambda _: (places.release(), pieces.put(None)))
        yield from iter(pieces.get, None)
        try:
            yield future.result()
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        except Exception as error:
            raise HTTPException(503, f"the model failed ({type(error).__name__}); try again") from error

    return run


def _summarise(done: "Completion", max_tokens: int) -> tuple[dict, str, dict]:
    """Return a completion's OpenAI message, why it ended, and its numbers of tokens."""
    message, full = translate_reply(done.text), done.completion_tokens >= min(max_tokens, MAX_TOKENS)
    reason = "tool_calls" if "tool_calls" in message else "length" if full else "stop"
    counts = {"prompt_tokens": done.prompt_tokens, "completion_tokens": done.completion_tokens}
    return message, reason, counts | {"total_tokens": sum(counts.values())}


def _stream(pieces: Iterator, piece, request: ChatRequest, head: dict) -> Iterator[str]:
    """Yield OpenAI's server-sent events: text as it comes, a tool call whole."""
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


def _refuse(status: int, message: str, headers: dict | None = None) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    clean = message.encode("utf-8", "replace").decode()[:500]  # half a surrogate pair cannot be sent
    return JSONResponse({"error": {"message": clean, "type": kind, "code": status}}, status, headers)


async def _explain_fields(request: Request, error: RequestValidationError) -> JSONResponse:
    fields = [f"{'.'.join(map(str, e['loc'][1:])) or 'body'}: {e['msg']}" for e in error.errors()]
    return _refuse(422, "; ".join(fields[:5]))


async def _explain(request: Request, error: StarletteError) -> JSONResponse:
    return _refuse(error.status_code, str(error.detail), error.headers)


def build_app(engine: "Engine", key: str | None = None, waiting: int = WAITING) -> FastAPI:
    """Build the HTTP app around an engine.

    Args:
        engine: The running model.
        key: Bearer key that every route but ``/health`` asks for; None asks for none.
        waiting: Requests that may wait when all slots are busy; further ones get 429.

    Returns:
        The app; a bad request gets 4xx and ``{"error": {"message", "type", "code"}}``.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    run, started = _build_runner(engine, waiting), int(time.time())
    app = FastAPI(title="ELM", exception_handlers={RequestValidationError: _explain_fields, StarletteError: _explain})

    @app.middleware("http")
    async def guard(request: Request, call_next):
        given, size = request.headers.get("authorization", "").encode(), request.headers.get("content-length", "0")
        if key and request.url.path != "/health" and not hmac.compare_digest(given, f"Bearer {key}".encode()):
            return _refuse(401, "send the key: Authorization: Bearer <key>", {"WWW-Authenticate": "Bearer"})
        if size.isdigit() and int(size[:20]) > BODY_BYTES:
            return _refuse(413, f"the body has {size[:20]} bytes; at most {BODY_BYTES:,} are taken")
        return await call_next(request)

    @app.post("/", max_body_size=BODY_BYTES)
    def complete(request: SeedRequest):
        said, wanted = request.inputs, request.parameters
        messages = [Message(role="user", content=said)] if isinstance(said, str) else said
        *_, done = run(translate_messages(messages), wanted.max_new_tokens, wanted.temperature)
        return [{"generated_text": done.text}]

    @app.post("/v1/chat/completions", max_body_size=BODY_BYTES)
    def chat(request: ChatRequest):
        pieces = run(translate_messages(request.messages), request.max_tokens, request.temperature, request.seed)
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": "elm"}
        if request.stream:
            return StreamingResponse(_stream(pieces, next(pieces), request, head), media_type="text/event-stream")
        message, reason, usage = _summarise([*pieces][-1], request.max_tokens)
        choice = {"index": 0, "message": message, "finish_reason": reason}
        return head | {"object": "chat.completion", "choices": [choice], "usage": usage}

    @app.get("/v1/models")
    def models():
        return {"object": "list", "data": [{"id": "elm", "object": "model", "created": started, "owned_by": "elm"}]}

    @app.get("/health")
    def health():
        return {"status": "ok", "engine": engine.name}

    return app


def run_server(engine: "Engine", host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve until Ctrl-C; the key comes from ``ELM_API_KEY``, and only this machine is served without one.

    Raises:
        ValueError: The address can be reached from elsewhere and no key is set.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    key = os.environ.get("ELM_API_KEY") or None
    if key is None and host not in LOOPBACK:
        raise ValueError(f"{host} can be reached from other machines: set ELM_API_KEY first, or use 127.0.0.1")
    uvicorn.run(build_app(engine, key), host=host, port=port)
