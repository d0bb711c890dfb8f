"""A model over HTTP: the seed's `{"inputs"}` route, and OpenAI's chat route with tool calls in OpenAI's form."""

import hmac
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from threading import BoundedSemaphore, Event
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Literal

from elm_helpers.openai_form import (
    MAX_TOKENS,
    ChatRequest,
    Count,
    Message,
    Temperature,
    build_reply,
    stream_reply,
    translate_messages,
)

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException as StarletteError
from starlette.middleware.trustedhost import TrustedHostMiddleware

if TYPE_CHECKING:
    from elm_helpers.engines import Engine

BODY_BYTES, WAITING, SECONDS, LOOPBACK = 1_000_000, 8, 120.0, ("127.0.0.1", "localhost", "::1")
Runner = Callable[..., Iterator]


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


class Generated(BaseModel):
    """The seed's answer: the text as the model wrote it, a tool call in the wire format."""

    generated_text: str


class Problem(BaseModel):
    """What comes with every status of 400 and above: ``error`` holds ``message``, ``type`` and ``code``."""

    error: dict[str, str | int]


PROBLEMS = {400: "not in text form, or too long", 401: "no key, or another one", 413: "too many bytes"}
PROBLEMS |= {422: "a field is wrong", 429: "every place is taken", 503: "the model failed", 504: "the time is up"}
PROBLEMS = {status: {"model": Problem, "description": said} for status, said in PROBLEMS.items()}
BUCKETS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)  # seconds
ROUTES = ("/", "/v1/chat/completions", "/v1/models", "/health", "/metrics", "/docs", "/openapi.json")


def _build_meters() -> SimpleNamespace:
    """Return what ``/metrics`` tells; every app counts for itself."""
    own = CollectorRegistry()
    return SimpleNamespace(
        registry=own,
        requests=Counter("elm_requests", "Requests answered", ["route", "status"], registry=own),
        refused=Counter("elm_refused", "Requests sent away because every place was taken", registry=own),
        running=Gauge("elm_in_flight", "Requests that the model works on, or that wait for it", registry=own),
        tokens=Counter("elm_tokens", "Tokens read (prompt) and written (completion)", ["kind"], registry=own),
        seconds=Histogram("elm_request_seconds", "From arrival to the last token", registry=own, buckets=BUCKETS),
    )


class _GaveUpError(Exception):
    """Nobody waits for the reply any more; raised inside the engine, it stops there."""


def _build_runner(engine: "Engine", meters: SimpleNamespace, waiting: int, seconds: float) -> Runner:
    """Return ``run(messages, max_tokens, temperature, seed)``, which yields pieces of text, then the Completion."""
    pool, places = ThreadPoolExecutor(engine.parallel, "elm-serve"), BoundedSemaphore(engine.parallel + waiting)

    def run(messages, max_tokens, temperature, seed=0) -> Iterator:
        if not places.acquire(blocking=False):
            raise HTTPException(429, "every slot is busy; try again in a second", {"Retry-After": "1"})
        meters.running.inc()
        start, pieces, over = time.monotonic(), SimpleQueue(), Event()
        options = {"max_tokens": min(max_tokens, MAX_TOKENS), "temperature": temperature or 0.0, "seed": seed or 0}

        def take(text: str) -> None:
            if over.is_set():
                raise _GaveUpError
            pieces.put(text)

        future = pool.submit(engine.complete, messages, on_text=take, **options)
        future.add_done_callback(lambda _: (places.release(), meters.running.dec(), pieces.put(None)))
        try:
            while (piece := pieces.get(timeout=max(0.0, start + seconds - time.monotonic()))) is not None:
                yield piece
            done = future.result()
            for kind, number in (("prompt", done.prompt_tokens), ("completion", done.completion_tokens)):
                meters.tokens.labels(kind).inc(number)
            yield done
        except (Empty, TimeoutError):
            raise HTTPException(504, f"no whole answer within {seconds:g} s; ask for fewer tokens") from None
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        except Exception as error:
            raise HTTPException(503, f"the model failed ({type(error).__name__}); try again") from error
        finally:
            over.set()  # at its next token the engine stops, and the place is free
            future.cancel()  # or it never starts
            meters.seconds.observe(time.monotonic() - start)

    return run


def _refuse(status: int, message: str, headers: dict | None = None) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    clean = message.encode("utf-8", "replace").decode()[:500]  # half a surrogate pair cannot be sent
    return JSONResponse({"error": {"message": clean, "type": kind, "code": status}}, status, headers)


async def _explain_fields(request: Request, error: RequestValidationError) -> JSONResponse:
    fields = [f"{'.'.join(map(str, e['loc'][1:])) or 'body'}: {e['msg']}" for e in error.errors()]
    return _refuse(422, "; ".join(fields[:5]))


async def _explain(request: Request, error: StarletteError) -> JSONResponse:
    return _refuse(error.status_code, str(error.detail), error.headers)


def _check(request: Request, key: str | None) -> JSONResponse | None:
    """Return the refusal of a request that lacks the key or has too large a body, before anything of it is read."""
    given, size = request.headers.get("authorization", "").encode(), request.headers.get("content-length", "0")
    if key and request.url.path != "/health" and not hmac.compare_digest(given, f"Bearer {key}".encode()):
        return _refuse(401, "send the key: Authorization: Bearer <key>", {"WWW-Authenticate": "Bearer"})
    if size.isdigit() and int(size[:20]) > BODY_BYTES:
        return _refuse(413, f"the body has {size[:20]} bytes; at most {BODY_BYTES:,} are taken")
    return None


def _guard(app, key: str | None, meters: SimpleNamespace) -> Callable:
    """Return the app behind the checks, and counted; plain ASGI, so that it notices when a client hangs up."""

    async def serve(scope, receive, send) -> None:
        async def count(message) -> None:
            if message["type"] == "http.response.start":
                route = scope["path"] if scope["path"] in ROUTES else "other"
                meters.requests.labels(route, message["status"]).inc()
                meters.refused.inc(message["status"] == 429)
            await send(message)

        refusal = _check(Request(scope), key) if scope["type"] == "http" else None
        await (refusal or app)(scope, receive, count)

    return serve


def build_app(engine: "Engine", key: str | None = None, waiting: int = WAITING, *, seconds: float = SECONDS) -> FastAPI:
    """Build the HTTP app around an engine; ``/openapi.json`` describes it, and ``/docs`` draws that in a browser.

    Args:
        engine: The running model.
        key: Bearer key that every route but ``/health`` asks for; None asks for none.
        waiting: Requests that may wait when all slots are busy; further ones get 429.
        seconds: Time from arrival to the last token; what takes longer is stopped and gets 504.

    Returns:
        The app; a bad request gets 4xx and ``{"error": {"message", "type", "code"}}``.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    meters, handlers = _build_meters(), {RequestValidationError: _explain_fields, StarletteError: _explain}
    asks = [Depends(HTTPBearer(auto_error=False))] if key else []  # so that OpenAPI tells of the key
    app = FastAPI(title="ELM", exception_handlers=handlers, dependencies=asks)

    app.add_middleware(_guard, key=key, meters=meters)
    _add_routes(app, engine, _build_runner(engine, meters, waiting, seconds), meters)
    return app


def _add_routes(app: FastAPI, engine: "Engine", run: Runner, meters: SimpleNamespace) -> None:
    started = int(time.time())

    @app.post("/", max_body_size=BODY_BYTES, responses=PROBLEMS)
    def complete(request: SeedRequest) -> list[Generated]:
        said, wanted = request.inputs, request.parameters
        messages = [Message(role="user", content=said)] if isinstance(said, str) else said
        *_, done = run(translate_messages(messages), wanted.max_new_tokens, wanted.temperature)
        return [Generated(generated_text=done.text)]

    streamed = {200: {"content": {"text/event-stream": {}}}}

    @app.post("/v1/chat/completions", max_body_size=BODY_BYTES, responses=PROBLEMS | streamed)
    def chat(request: ChatRequest):
        pieces = run(translate_messages(request.messages), request.max_tokens, request.temperature, request.seed)
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": "elm"}
        if request.stream:
            events, hang_up = stream_reply(pieces, next(pieces), request, head), BackgroundTask(pieces.close)
            return StreamingResponse(events, media_type="text/event-stream", background=hang_up)
        return head | build_reply([*pieces][-1], request.max_tokens)

    @app.get("/v1/models")
    async def models():
        return {"object": "list", "data": [{"id": "elm", "object": "model", "created": started, "owned_by": "elm"}]}

    @app.get("/health")
    async def health():
        return {"status": "ok", "engine": engine.name}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics():
        return Response(generate_latest(meters.registry), media_type=CONTENT_TYPE_LATEST)


def run_server(engine: "Engine", host: str = "127.0.0.1", port: int = 8000, seconds: float = SECONDS) -> None:
    """Serve until Ctrl-C or SIGTERM, then finish what was begun.

    The key comes from ``ELM_API_KEY``. Without one only this machine is served, and only under its own name: a web page
    that resolves its own name to this machine gets 400.

    Raises:
        ValueError: The address can be reached from elsewhere and no key is set.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    key = os.environ.get("ELM_API_KEY") or None
    if key is None and host not in LOOPBACK:
        raise ValueError(f"{host} can be reached from other machines: set ELM_API_KEY first, or use 127.0.0.1")
    app = build_app(engine, key, seconds=seconds)
    if key is None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"])
    uvicorn.run(app, host=host, port=port, timeout_graceful_shutdown=int(seconds) + 5)
