"""What agent frameworks share: the shop's tools as plain functions, a watched gateway, and the shop over MCP.

``python -m elm_helpers.frameworks --customer C0001`` is that MCP server, over stdio.
"""

import argparse
import inspect
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from elm_helpers.account import Session
from elm_helpers.agent import read_customer
from elm_helpers.serve import build_app
from elm_helpers.signatures import read_parameters
from elm_helpers.store import build_store, open_store
from elm_helpers.tool_calls import ToolCall, format_tool_call
from elm_helpers.tools import TOOLS, WRITES, check_arguments, format_result, run_tool

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import AcceptedElicitation, Context, Elicit, ElicitationResult, Resolve
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from elm_helpers.engines import Completion, Engine


@dataclass(frozen=True)
class Desk:
    """One customer's place in the shop, as a framework's tools see it.

    Attributes:
        session: The shop and who asks.
        calls: Every call that a framework ran, with its result, in order.
        agreed: Texts of writing calls that the customer said yes to; a text is used up by the call that it allows.
        lock: Frameworks run tools in threads, and may run several at once.
    """

    session: Session
    calls: list[tuple[ToolCall, dict]] = field(default_factory=list)
    agreed: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, name: str, arguments: dict) -> str:
        """Run one call and return its result as the JSON text that the model was trained on."""
        call = ToolCall(name, arguments)
        text = None if check_arguments(name, arguments) else format_tool_call(call)
        with self.lock:
            session = replace(self.session, confirmed=text if text in self.agreed else None)
            self.agreed.discard(text)
            result = run_tool(session, name, arguments)
            self.calls.append((call, result))
        return format_result(result)

    def find_waiting(self) -> str | None:
        """Return the text of the last call if it waits for the customer's yes."""
        call, result = self.calls[-1] if self.calls else (None, {})
        return format_tool_call(call) if result.get("status") == "needs_confirmation" else None


def bind_tools(desk: Desk) -> list[Callable[..., str]]:
    """Return the shop's tools as functions without a session, which any framework turns into tools of its own.

    Name, purpose, types and the words of each argument come from the one declaration. Identity stays in the desk, where
    no model can write it.

    Example:
        >>> [tool.__name__ for tool in bind_tools(Desk(Session(None)))][:2]
        ['search_products', 'get_product_info']

    Shown in ``notebooks/08_connect_frameworks.ipynb``.
    """
    return [_bind(desk, tool) for tool in TOOLS.values()]


def _bind(desk: Desk, tool: Callable) -> Callable[..., str]:
    told = {one.name: one for one in read_parameters(tool)}
    defaults = {name: one.default for name, one in told.items() if not one.required}
    shown = []
    for one in list(inspect.signature(tool).parameters.values())[1:]:
        words = told[one.name].description  # AutoGen reads the text, the others read pydantic's Field
        shown.append(one.replace(annotation=Annotated[one.annotation, words, Field(description=words)]))

    def run(**arguments) -> str:  # frameworks fill defaults in; they were not said, so they go again
        said = {key: value for key, value in arguments.items() if key not in defaults or value != defaults[key]}
        return desk.run(tool.__name__, said)

    run.__doc__ = inspect.getdoc(tool).splitlines()[0]
    return _sign(run, tool.__name__, shown, str)


def _sign(function: Callable, name: str, parameters: list[inspect.Parameter], returns: object) -> Callable:
    """Give a ``**keywords`` function the signature that frameworks read."""
    function.__name__ = function.__qualname__ = name
    function.__signature__ = inspect.Signature(parameters, return_annotation=returns)
    function.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": returns}
    return function


@dataclass(frozen=True)
class Gateway:
    """A running gateway: where it is, the bodies that came over HTTP, and what the engine read and wrote for each."""

    url: str
    key: str
    bodies: list[dict]
    exchanges: list[tuple[list[dict], "Completion"]]
    stop: Callable[[], None]


def open_gateway(engine: "Engine", key: str) -> Gateway:
    """Serve an engine on a free port of this machine, in a thread, and note what passes through.

    Args:
        engine: The running model.
        key: Bearer key that clients have to send.

    Shown in ``notebooks/08_connect_frameworks.ipynb``.
    """
    bodies, exchanges = [], []

    def complete(messages, **options):
        done = engine.complete(messages, **options)
        exchanges.append((messages, done))
        return done

    app = build_app(replace(engine, complete=complete), key)

    @app.middleware("http")
    async def note(request, call_next):
        bodies.append(json.loads(await request.body() or "{}"))
        return await call_next(request)

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while thread.is_alive() and not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]

    def stop() -> None:
        server.should_exit = True
        thread.join()

    return Gateway(f"http://127.0.0.1:{port}/v1", key, bodies, exchanges, stop)


class Consent(BaseModel):
    """What a customer is asked over MCP before something is written."""

    agree: bool = Field(description="Shall I go ahead?")


def build_mcp_server(desk: Desk) -> MCPServer:
    """Return the shop as an MCP server: the eight tools, for the desk's customer.

    A writing tool asks the customer through the client's window (MCP calls that elicitation). A client without one gets
    `needs_confirmation`, like everybody else.

    Shown in ``notebooks/08_connect_frameworks.ipynb``.
    """
    server = MCPServer("elm-shop", log_level="ERROR")
    for tool in bind_tools(desk):
        tool = _ask_first(desk, tool) if tool.__name__ in WRITES else tool
        server.add_tool(tool, structured_output=False)
    return server


def _ask_first(desk: Desk, tool: Callable[..., str]) -> Callable[..., str]:
    parameters, name = list(inspect.signature(tool).parameters.values()), tool.__name__

    def trim(arguments: dict) -> dict:
        return {key: value for key, value in arguments.items() if value is not None}

    def ask(context, **arguments):
        can_ask = context.client_capabilities and context.client_capabilities.elicitation
        with desk.lock:
            found = run_tool(desk.session, name, trim(arguments))
        if not can_ask or found.get("status") != "needs_confirmation":
            return Consent(agree=False)
        return Elicit(f"{name}: {format_result(found)}", Consent)

    def run(consent, **arguments) -> str:
        if isinstance(consent, AcceptedElicitation) and consent.data.agree:
            desk.agreed.add(format_tool_call(ToolCall(name, trim(arguments))))
        return tool(**arguments)

    first, only = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    _sign(ask, f"ask_before_{name}", [inspect.Parameter("context", first, annotation=Context), *parameters], Elicit)
    answer = Annotated[ElicitationResult[Consent], Resolve(ask)]
    run.__doc__ = tool.__doc__
    return _sign(run, name, [*parameters, inspect.Parameter("consent", only, annotation=answer)], str)


def main(words: list[str] | None = None) -> None:
    """Serve the shop over MCP on stdin and stdout, for one customer, fixed at the start.

    Shown in ``notebooks/08_connect_frameworks.ipynb``.
    """
    parser = argparse.ArgumentParser(prog="python -m elm_helpers.frameworks", description=main.__doc__.splitlines()[0])
    parser.add_argument("--customer", help="id of the signed-in customer, such as C0001 (default: a guest)")
    parser.add_argument("--store", type=Path, help="SQLite file of the shop (default: the course's, built in memory)")
    args = parser.parse_args(words)
    try:
        store = open_store(args.store) if args.store else build_store()
        desk = Desk(Session(store, read_customer(store, args.customer)))
    except (ValueError, FileNotFoundError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    build_mcp_server(desk).run("stdio")


if __name__ == "__main__":
    main()
