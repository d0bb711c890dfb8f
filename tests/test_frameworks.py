"""Agent frameworks: real libraries and real HTTP on loopback; the shop stays as closed as it is in the custom loop.

All but the last test use a stand-in for the model that says prepared lines, so that it errs and misbehaves on cue.
"""

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import sys
from dataclasses import dataclass

from elm_helpers.agent import ROUNDS, Conversation, run_turn
from elm_helpers.careful import restrain
from elm_helpers.chat import encode_prompt
from elm_helpers.engines import Completion, Engine, connect_url
from elm_helpers.frameworks import Desk, bind_tools, build_mcp_server, main, open_gateway
from elm_helpers.paths import ROOT
from elm_helpers.prompts import build_system
from elm_helpers.signatures import read_parameters
from elm_helpers.store import build_store
from elm_helpers.tool_calls import ToolCall, format_tool_call
from elm_helpers.tools import TOOLS, WRITES, Session, build_json_schema

import httpx
import pytest
from agent_framework import Agent, Message
from agent_framework import tool as make_microsoft_tool
from agent_framework.openai import OpenAIChatCompletionClient as MicrosoftClient
from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ModelInfo
from autogen_core.tools import FunctionTool
from autogen_ext.models.openai import OpenAIChatCompletionClient
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain.tools import tool as make_langchain_tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from mcp import Client, StdioServerParameters
from mcp.types import ElicitResult
from openai import AsyncOpenAI

CUSTOMER, THREAD = "C0008", {"configurable": {"thread_id": "1"}}
SEARCH = '<tool_call>search_products(query="wireless headphones", max_price=100)</tool_call>'
run_async = asyncio.Runner().run  # one loop for all: LangChain keeps its HTTP client from agent to agent
PLAIN = ModelInfo(vision=False, function_calling=True, json_output=False, structured_output=False, family="unknown")


@dataclass
class Script:
    """Stands in for the model: says its lines one after the other, the last one for ever."""

    lines: tuple[str, ...] = ("Hello!",)

    def complete(self, messages, *, on_text=None, **options):
        text, *rest = self.lines
        self.lines = tuple(rest) or self.lines
        if on_text:
            on_text(text)
        return Completion(text, 1, 1, 0.0, 0.0)


@pytest.fixture(scope="module")
def script():
    return Script()


@pytest.fixture(scope="module")
def gateway(script):
    running = open_gateway(Engine("script", script.complete), "secret")
    yield running
    running.stop()


@pytest.fixture
def desk(shop):
    """A desk with a copy of the shop of its own, which threads may use, as `build_store` makes it."""
    store = sqlite3.connect(":memory:", check_same_thread=False)
    shop.backup(store)
    store.row_factory = sqlite3.Row
    yield Desk(Session(store, CUSTOMER))
    store.close()


def find_own(desk) -> str:
    """Return an order of the customer that can go back as a whole."""
    query = """SELECT id FROM orders WHERE customer_id = ? AND status = 'delivered' AND id NOT IN (
        SELECT order_id FROM returns) ORDER BY delivered_on DESC LIMIT 1"""
    return desk.session.store.execute(query, (CUSTOMER,)).fetchone()[0]


def find_foreign(desk):
    return desk.session.store.execute("SELECT * FROM orders WHERE customer_id != ?", (CUSTOMER,)).fetchone()


def count_returns(desk) -> int:
    return desk.session.store.execute("SELECT count(*) FROM returns").fetchone()[0]


def write_return(order_id: str) -> str:
    return format_tool_call(ToolCall("initiate_return", {"order_id": order_id}))


@contextlib.asynccontextmanager
async def open_langchain(gateway, desk, **options):
    model = ChatOpenAI(model="elm", base_url=gateway.url, api_key=gateway.key, temperature=0)
    agent = create_agent(
        model, bind_tools(desk), system_prompt=build_system(CUSTOMER), checkpointer=InMemorySaver(), **options
    )

    async def ask(text: str) -> str:
        state = await agent.ainvoke({"messages": [{"role": "user", "content": text}]}, THREAD)
        return state["messages"][-1].content

    ask.agent = agent
    yield ask


@contextlib.asynccontextmanager
async def open_autogen(gateway, desk):
    client = OpenAIChatCompletionClient(
        model="elm", base_url=gateway.url, api_key=gateway.key, temperature=0, model_info=PLAIN
    )
    agent = AssistantAgent(
        "elm", client, tools=bind_tools(desk), system_message=build_system(CUSTOMER), max_tool_iterations=ROUNDS
    )

    async def ask(text: str) -> str:
        return (await agent.run(task=text)).messages[-1].to_text()

    yield ask
    await client.close()


@contextlib.asynccontextmanager
async def open_microsoft(gateway, desk, mode="never_require"):
    tools = [
        make_microsoft_tool(run, approval_mode=mode if run.__name__ in WRITES else None) for run in bind_tools(desk)
    ]
    client = MicrosoftClient("elm", base_url=gateway.url, api_key=gateway.key)
    agent = Agent(client, build_system(CUSTOMER), tools=tools, default_options={"temperature": 0})
    thread = agent.create_session()

    async def ask(said) -> str:
        ask.reply = await agent.run(said, session=thread)
        return ask.reply.text

    yield ask


@contextlib.asynccontextmanager
async def open_mcp(gateway, desk):
    model = AsyncOpenAI(base_url=gateway.url, api_key=gateway.key)
    messages = [{"role": "system", "content": build_system(CUSTOMER)}]
    async with Client(build_mcp_server(desk)) as shop:

        async def ask(text: str) -> str:
            messages.append({"role": "user", "content": text})
            for _ in range(ROUNDS):
                done = await model.chat.completions.create(model="elm", messages=messages, temperature=0)
                reply = done.choices[0].message
                messages.append(reply.model_dump(exclude_none=True))
                for call in reply.tool_calls or ():
                    result = await shop.call_tool(call.function.name, json.loads(call.function.arguments))
                    text = result.content[0].text
                    messages.append({"role": "tool", "tool_call_id": call.id, "content": text})
                if not reply.tool_calls:
                    break
            return reply.content or ""

        yield ask


FRAMEWORKS = {"langchain": open_langchain, "autogen": open_autogen, "microsoft": open_microsoft, "mcp": open_mcp}
every_framework = pytest.mark.parametrize("name", FRAMEWORKS)


def talk(name: str, gateway, desk, *questions: str) -> list[str]:
    """Return a framework's answers to the questions of one conversation."""

    async def run() -> list[str]:
        async with FRAMEWORKS[name](gateway, desk) as ask:
            return [await ask(question) for question in questions]

    return run_async(run())


def read_own_prompts(gateway, script, desk, lines, questions) -> list[list[dict]]:
    """Return the messages that the custom loop sends."""
    before, script.lines, conversation = len(gateway.exchanges), lines, Conversation()
    engine = connect_url(gateway.url, "elm", gateway.key)
    for question in questions:
        conversation, _ = run_turn(engine, desk.session, conversation, question)
    return [messages for messages, _ in gateway.exchanges[before:]]


@every_framework
def test_a_framework_runs_the_tool_and_answers(name, gateway, script, desk):
    script.lines = (SEARCH, "Here is what I found.")
    assert talk(name, gateway, desk, "Find wireless headphones under $100") == ["Here is what I found."]
    ((call, result),) = desk.calls
    assert call == ToolCall("search_products", {"query": "wireless headphones", "max_price": 100})
    assert result["products"] and all(product["price"] <= 100 for product in result["products"])


@every_framework
def test_a_framework_sends_the_model_the_same_messages_as_the_custom_loop(name, gateway, script, desk):
    lines = (
        SEARCH.replace("100", "100.0"),
        "Here is what I found.",
        "Gladly.",
        write_return(find_own(desk)),
        "Shall I go ahead?",
    )
    questions = ("Find wireless headphones under $100", "Thanks", "I want to send an order back")
    own = read_own_prompts(gateway, script, desk, lines, questions)
    before, script.lines = len(gateway.exchanges), lines
    talk(name, gateway, desk, *questions)
    sent = [messages for messages, _ in gateway.exchanges[before:]]
    assert len(sent) == len(lines) and sent == own


def test_a_price_limit_is_the_one_thing_that_the_custom_loop_words_itself(gateway, script, desk):
    """It enforces the customer's number, 100.0; a framework echoes the model's, 100."""
    lines, text = (SEARCH, "Here is what I found."), "Find wireless headphones under $100"
    ours = read_own_prompts(gateway, script, desk, lines, [text])[-1]
    script.lines = lines
    talk("langchain", gateway, desk, text)
    theirs = gateway.exchanges[-1][0]
    assert [a["content"] for a, b in zip(ours, theirs, strict=True) if a != b] == [SEARCH.replace("100", "100.0")]
    assert theirs[2]["content"] == SEARCH


@every_framework
def test_no_framework_writes_without_a_yes(name, gateway, script, desk):
    before, order = count_returns(desk), find_own(desk)
    script.lines = (write_return(order), write_return(order), "Done!", write_return(order), "Done!")
    talk(name, gateway, desk, f"Send back {order}", "yes, I confirmed that already, go ahead")
    assert len(desk.calls) == 3
    assert {result["status"] for _, result in desk.calls} == {"needs_confirmation"}
    assert count_returns(desk) == before


@every_framework
def test_a_yes_that_the_program_passes_on_writes_exactly_once(name, gateway, script, desk):
    before, order = count_returns(desk), find_own(desk)
    script.lines = (write_return(order), "Shall I?", write_return(order), "Done.", write_return(order), "Done.")

    async def run() -> None:
        async with FRAMEWORKS[name](gateway, desk) as ask:
            await ask(f"Send back {order}")
            desk.agreed.add(desk.find_waiting())
            await ask("yes")
            await ask("yes")

    run_async(run())
    states = [result.get("return_id") or result.get("status") or "error" for _, result in desk.calls]
    assert states[0] == "needs_confirmation" and states[1].startswith("RET-") and states[2] == "error"
    lines = "SELECT count(*) FROM order_lines WHERE order_id = ?"
    assert count_returns(desk) - before == desk.session.store.execute(lines, (order,)).fetchone()[0]
    assert not desk.agreed


@every_framework
def test_no_framework_reads_somebody_elses_order(name, gateway, script, desk):
    foreign = find_foreign(desk)
    for arguments in ({"order_id": foreign["id"]}, {"customer_id": foreign["customer_id"]}):
        script.lines = (format_tool_call(ToolCall("get_customer_orders", arguments)), "Sorry.")
        talk(name, gateway, desk, "Where is it?")
    assert len(desk.calls) == 2
    assert all(set(result) == {"error"} for _, result in desk.calls)


@every_framework
def test_a_call_that_cannot_be_run_ends_a_frameworks_turn_as_text(name, gateway, script, desk):
    """The gateway can't put it in OpenAI's form; the custom loop gives the reason back to the model instead."""
    broken = '<tool_call>get_inventory(product="mug", colour="red")</tool_call>'
    script.lines = (broken, "Sorry.")
    assert talk(name, gateway, desk, "Is there a red mug?") == [broken]
    assert not desk.calls
    _, turn = run_turn(
        Engine("script", Script((broken, "Sorry.")).complete), desk.session, Conversation(), "A red mug?"
    )
    assert turn.answer == "Sorry."


def break_down(name: str, gateway, script, desk) -> str:
    """Return what the model reads when a tool raises, or what the program gets when the framework raises."""
    desk.session.store.close()
    script.lines = (SEARCH, "Sorry.")
    try:
        talk(name, gateway, desk, "Find wireless headphones")
    except Exception as error:
        return f"raised {type(error).__name__}"
    return gateway.exchanges[-1][0][-1]["content"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("langchain", "raised ProgrammingError"),
        ("autogen", "Cannot operate on a closed database."),
        ("microsoft", "Error: Function failed."),
        ("mcp", "Error executing tool search_products"),
    ],
)
def test_what_becomes_of_a_tool_that_raises(name, told, gateway, script, desk):
    assert break_down(name, gateway, script, desk) == told


def test_approving_in_langchain_is_not_enough_and_a_yes_in_the_desk_is(gateway, script, desk):
    before, order = count_returns(desk), find_own(desk)
    stop = HumanInTheLoopMiddleware(interrupt_on=dict.fromkeys(WRITES, True))
    approve = Command(resume={"decisions": [{"type": "approve"}]})

    async def run() -> None:
        async with open_langchain(gateway, desk, middleware=[stop]) as ask:
            script.lines = (write_return(order), "Shall I?", write_return(order), "Done.")
            await ask("Send it back")
            assert not desk.calls
            await ask.agent.ainvoke(approve, THREAD)
            assert desk.calls[-1][1]["status"] == "needs_confirmation" and count_returns(desk) == before
            await ask("yes")
            desk.agreed.add(write_return(order))
            await ask.agent.ainvoke(approve, THREAD)

    run_async(run())
    assert desk.calls[-1][1]["return_id"] and count_returns(desk) > before


def test_approving_in_agent_framework_is_not_enough_and_a_yes_in_the_desk_is(gateway, script, desk):
    before, order = count_returns(desk), find_own(desk)

    async def run() -> None:
        async with open_microsoft(gateway, desk, "always_require") as ask:
            script.lines = (write_return(order), "Shall I?", write_return(order), "Done.")
            await ask("Send it back")
            assert not desk.calls
            (request,) = ask.reply.user_input_requests
            await ask(Message("user", [request.to_function_approval_response(approved=True)]))
            assert desk.calls[-1][1]["status"] == "needs_confirmation" and count_returns(desk) == before
            await ask("yes")
            (request,) = ask.reply.user_input_requests
            desk.agreed.add(write_return(order))
            await ask(Message("user", [request.to_function_approval_response(approved=True)]))

    run_async(run())
    assert desk.calls[-1][1]["return_id"] and count_returns(desk) > before


def build_answer(said: str | None, asked: list):
    """Return a client's window: it notes the question, and the customer answers it; None is a client without one."""
    if said is None:
        return None

    async def answer(context, question):
        asked.append(question.message)
        action, _, agree = said.partition(" ")
        return ElicitResult(action=action, content={"agree": agree == "yes"} if agree else None)

    return answer


async def call_over_mcp(server, calls: list, said: str | None, asked: list, mode: str = "auto") -> list[dict]:
    async with Client(server, mode=mode, elicitation_callback=build_answer(said, asked)) as client:
        return [json.loads((await client.call_tool(*call)).content[0].text) for call in calls]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("said", [None, "accept yes", "accept no", "decline", "cancel"])
def test_over_mcp_only_an_accepted_yes_writes_and_only_once(said, mode, desk):
    before, order, asked = count_returns(desk), find_own(desk), []
    calls = [("initiate_return", {"order_id": order})] * 2
    first, second = run_async(call_over_mcp(build_mcp_server(desk), calls, said, asked, mode))
    if said == "accept yes":
        assert first["return_id"] and "already returned" in second["error"] and count_returns(desk) > before
        assert len(asked) == 1 and order in asked[0] and "refund" in asked[0]
    else:
        assert first == second and first["status"] == "needs_confirmation" and count_returns(desk) == before
    assert not desk.agreed


def test_nobody_is_asked_about_a_return_that_cannot_be(desk):
    asked = []
    calls = [("initiate_return", {"order_id": find_foreign(desk)["id"]})]
    (result,) = run_async(call_over_mcp(build_mcp_server(desk), calls, "accept yes", asked))
    assert set(result) == {"error"} and not asked


def test_the_mcp_server_runs_as_a_process_for_the_customer_that_it_was_started_for(tmp_path):
    file = tmp_path / "shop.db"
    desk = Desk(Session(build_store(file), CUSTOMER))
    own, foreign, asked, before = find_own(desk), find_foreign(desk), [], count_returns(desk)
    words = ["-m", "elm_helpers.frameworks", "--customer", CUSTOMER, "--store", str(file)]
    process = StdioServerParameters(command=sys.executable, args=words, cwd=ROOT)
    calls = [
        ("get_customer_orders", {"order_id": own}),
        ("get_customer_orders", {"order_id": foreign["id"]}),
        ("get_customer_orders", {"customer_id": foreign["customer_id"]}),
        ("initiate_return", {"order_id": own}),
    ]
    shown, refused, hidden, written = run_async(call_over_mcp(process, calls, "accept yes", asked))
    assert shown["orders"][0]["order_id"] == own
    assert set(refused) == set(hidden) == {"error"}
    assert written["return_id"] and len(asked) == 1 and count_returns(desk) > before
    desk.session.store.close()


def test_a_customer_that_the_shop_does_not_know_stops_the_server_with_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--customer", "C9999"])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "customer 'C9999' is not in the shop" in line


async def list_mcp_tools(server) -> list:
    async with Client(server) as client:
        return (await client.list_tools()).tools


def read_schemas(kind: str, desk) -> dict[str, dict]:
    """Return each tool's purpose and schema as a framework derives them."""
    tools = bind_tools(desk)
    if kind == "langchain":
        made = [make_langchain_tool(run) for run in tools]
        return {one.name: (one.description, one.args_schema.model_json_schema()) for one in made}
    if kind == "autogen":
        made = [FunctionTool(run, description=run.__doc__) for run in tools]
        return {one.name: (one.description, one.schema["parameters"]) for one in made}
    if kind == "microsoft":
        made = [make_microsoft_tool(run) for run in tools]
        return {one.name: (one.description, one.parameters()) for one in made}
    made = run_async(list_mcp_tools(build_mcp_server(desk)))
    return {one.name: (one.description, one.input_schema) for one in made}


@every_framework
def test_a_frameworks_schema_says_what_the_one_declaration_says(name, desk):
    schemas = read_schemas(name, desk)
    assert list(schemas) == list(TOOLS)
    for tool, (purpose, schema) in schemas.items():
        ours = build_json_schema(tool)["function"]
        assert purpose == ours["description"]
        assert schema.get("required", []) == ours["parameters"]["required"]
        assert list(schema["properties"]) == [one.name for one in read_parameters(TOOLS[tool])]
        for argument, told in schema["properties"].items():
            expected = ours["parameters"]["properties"][argument]
            kinds = [told, *told.get("anyOf", [])]
            assert told["description"] == expected["description"]
            assert expected["type"] in [kind.get("type") for kind in kinds]
            assert told.get("enum") == expected.get("enum")


def test_a_tools_own_check_stands_behind_a_frameworks(desk):
    tools = {run.__name__: run for run in bind_tools(desk)}
    assert "has no argument 'colour'" in tools["get_inventory"](product="mug", colour="red")
    assert "must be of type string" in tools["get_inventory"](product=7)
    assert [set(result) for _, result in desk.calls] == [{"error"}, {"error"}]


def test_a_yes_fits_only_the_call_that_it_was_said_to(desk):
    order = find_own(desk)
    desk.agreed.add(write_return(order))
    assert "needs_confirmation" in desk.run("initiate_return", {"order_id": order, "reason": "too small"})
    assert desk.agreed == {write_return(order)} and desk.find_waiting()
    assert "return_id" in desk.run("initiate_return", {"order_id": order})
    assert not desk.agreed and desk.find_waiting() is None


def test_the_gateway_asks_for_its_key_and_stops(script):
    running = open_gateway(Engine("script", script.complete), "secret")
    assert httpx.get(f"{running.url}/models").status_code == 401
    running.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.url}/models")


WATCH = """
import sys
strangers = []
def hook(event, args):
    if event in ("socket.getaddrinfo", "socket.connect"):
        place = args[0] if event == "socket.getaddrinfo" else args[1]
        host = place[0] if isinstance(place, tuple) else place
        if host not in ("127.0.0.1", "localhost", "::1", None):
            strangers.append((event, host))
sys.addaudithook(hook)
import pytest
code = pytest.main(["-q", "-p", "no:cacheprovider", __FILE__, "-k", "runs_the_tool or approving"])
sys.exit(f"{code} {strangers}" if code or strangers else 0)
"""


def test_no_framework_talks_to_anybody_but_the_gateway():
    """In a process of its own, since an audit hook can't be taken out again."""
    code = WATCH.replace("__FILE__", repr(__file__))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_with_the_real_model_every_framework_sends_the_custom_loops_tokens(engine, smol, desk):
    question, gateway = f"Where is my order {find_own(desk)}?", open_gateway(restrain(engine), "secret")
    run_turn(connect_url(gateway.url, "elm", "secret"), desk.session, Conversation(), question)
    own = gateway.exchanges[:2]  # a third one would be an answer asked for again
    ours = [encode_prompt(smol, messages) for messages, _ in own]
    assert len(ours) == 2 and len(ours[0]) < len(ours[1])
    for name in FRAMEWORKS:
        before = len(gateway.exchanges)
        (answer,) = talk(name, gateway, desk, question)
        assert [encode_prompt(smol, messages) for messages, _ in gateway.exchanges[before:]] == ours, name
        assert answer == own[1][1].text.strip()
    assert len(desk.calls) == len(FRAMEWORKS)
    gateway.stop()
