"""The gateway as a real server: uvicorn on loopback, real sockets, a real process; only the model is a stand-in."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace

from elm_helpers import serve
from elm_helpers.engines import Engine, open_engine
from elm_helpers.paths import ROOT
from elm_helpers.prompts import build_conversation

import httpx
import pytest
from fastapi.testclient import TestClient
from gateway import open_gateway
from prometheus_client.parser import text_string_to_metric_families

CALL = '<tool_call>search_products(query="red mug", max_price=20)</tool_call>'
ASK = {"messages": [{"role": "user", "content": "hello"}]}


def build_engine(answer, parallel: int = 2) -> Engine:
    """An engine around ``answer(text, on_text)``, which gets what the customer said last."""

    def complete(messages, *, max_tokens=200, temperature=0.0, seed=0, grammar=None, on_text=None):
        text = answer(messages[-1]["content"], on_text or (lambda piece: None))
        return SimpleNamespace(text=text, prompt_tokens=7, completion_tokens=5)

    return Engine("stand-in", complete, parallel)


def write_for_ever(stopped: threading.Event):
    """Write a word each 10 ms until whoever takes them says that it is enough."""

    def answer(text, on_text):
        try:
            while True:
                on_text("word ")
                time.sleep(0.01)
        finally:
            stopped.set()

    return answer


def read_meters(client) -> dict:
    text = client.get("/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


def test_the_meters_tell_requests_tokens_seconds_and_what_is_in_flight():
    client = TestClient(serve.build_app(build_engine(lambda text, on_text: "Hello!")))
    for body in ({"inputs": "one"}, {"inputs": "two"}, {"inputs": ""}):
        client.post("/", json=body)
    client.get("/somewhere/else")
    meters = read_meters(client)
    assert (meters["elm_requests_total", "/", "200"], meters["elm_requests_total", "/", "422"]) == (2, 1)
    assert meters["elm_requests_total", "other", "404"] == 1
    assert (meters["elm_tokens_total", "prompt"], meters["elm_tokens_total", "completion"]) == (14, 10)
    assert meters["elm_request_seconds_count",] == 2
    assert (meters["elm_in_flight",], meters["elm_refused_total",]) == (0, 0)


def test_openapi_describes_every_route_refusal_and_the_key():
    client = TestClient(serve.build_app(build_engine(lambda text, on_text: ""), key="k"))
    headers = {"Authorization": "Bearer k"}
    described = client.get("/openapi.json", headers=headers).json()
    assert {"/", "/v1/chat/completions", "/v1/models", "/health", "/metrics"} == set(described["paths"])
    for path in ("/", "/v1/chat/completions"):
        assert {"200", "400", "401", "413", "422", "429", "503", "504"} <= set(
            described["paths"][path]["post"]["responses"]
        )
    assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert "/openapi.json" in client.get("/docs", headers=headers).text


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_over_its_time_is_told_so_and_its_slot_is_free_again(stream):
    stopped = threading.Event()
    app = serve.build_app(build_engine(write_for_ever(stopped), parallel=1), waiting=0, seconds=0.3)
    with open_gateway(app) as url:
        answer = httpx.post(f"{url}/v1/chat/completions", json=ASK | {"stream": stream}, timeout=20)
        assert answer.status_code == (200 if stream else 504)  # a stream has begun well, and ends in an error
        assert "no whole answer within 0.3 s" in answer.text and '"code":504' in answer.text.replace(" ", "")
        assert stopped.wait(10)
        time.sleep(0.1)
        assert httpx.post(f"{url}/v1/chat/completions", json=ASK, timeout=20).status_code == 504  # not 429


def test_a_request_that_never_gets_its_turn_is_told_so_too():
    stopped = threading.Event()
    app = serve.build_app(build_engine(write_for_ever(stopped), parallel=1), waiting=3, seconds=0.3)
    with open_gateway(app) as url, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(httpx.post, url, json={"inputs": "hi"}, timeout=20) for _ in range(4)]
        assert {one.result().status_code for one in asked} == {504}


def test_when_the_client_hangs_up_the_model_stops():
    stopped = threading.Event()
    with open_gateway(serve.build_app(build_engine(write_for_ever(stopped), parallel=1))) as url:
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=ASK | {"stream": True}, timeout=20) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
        assert stopped.wait(10)


def test_many_clients_at_a_time_each_get_their_own_answer():
    def echo(text, on_text):
        for letter in text:
            on_text(letter)
            time.sleep(0.0005)
        return text

    def ask(number: int) -> bool:
        said, stream = f"question {number}", number % 2 == 0
        if number % 3 == 0:
            return client.post("/", json={"inputs": said}).json() == [{"generated_text": said}]
        body = {"messages": [{"role": "user", "content": said}], "stream": stream}
        answer = client.post("/v1/chat/completions", json=body)
        if not stream:
            return answer.json()["choices"][0]["message"]["content"] == said
        pieces = [httpx.Response(200, text=line[6:]).json() for line in answer.text.split("\n\n") if "{" in line]
        return "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces) == said

    app = serve.build_app(build_engine(echo, parallel=8), waiting=64)
    with open_gateway(app) as url, httpx.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(32) as pool:
        found = list(pool.map(ask, range(300)))
        assert len(found) == 300 and all(found)
        assert read_meters(client)["elm_in_flight",] == 0


SERVER = """
import time
from types import SimpleNamespace
from elm_helpers.engines import Engine
from elm_helpers.serve import run_server

def complete(messages, *, on_text, **options):
    for piece in ("slow", " and", " whole"):
        on_text(piece)
        time.sleep(0.5)
    return SimpleNamespace(text="slow and whole", prompt_tokens=1, completion_tokens=3)

run_server(Engine("stand-in", complete, 4), port={port})
"""


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url: str, process: subprocess.Popen) -> None:
    for _ in range(600):
        assert process.poll() is None, "the server has ended"
        try:
            httpx.get(f"{url}/health")
            return
        except httpx.TransportError:
            time.sleep(0.05)
    pytest.fail("the server never answered")


def test_a_stopped_server_finishes_what_was_begun_and_takes_nothing_new():
    port = find_port()
    url, environment = f"http://127.0.0.1:{port}", os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("ELM_API_KEY", None)
    command = [sys.executable, "-c", SERVER.format(port=port)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(url, process)
        with ThreadPoolExecutor(2) as pool:
            whole = pool.submit(httpx.post, url, json={"inputs": "hi"}, timeout=30)
            body = ASK | {"stream": True}
            streamed = pool.submit(httpx.post, f"{url}/v1/chat/completions", json=body, timeout=30)
            while read_meters(httpx.Client(base_url=url))["elm_in_flight",] < 2:
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{url}/health")
            assert whole.result().json() == [{"generated_text": "slow and whole"}]
            assert streamed.result().text.endswith("data: [DONE]\n\n")
        assert process.wait(20) in (0, -signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()


def test_without_a_key_only_this_machines_own_name_is_served(monkeypatch):
    served = {}
    monkeypatch.delenv("ELM_API_KEY", raising=False)
    monkeypatch.setattr("uvicorn.run", lambda app, **options: served.update(app=app, **options))
    serve.run_server(build_engine(lambda text, on_text: "hi"))
    client = TestClient(served["app"])
    names = {
        name: client.get("/health", headers={"Host": name}).status_code for name in ("localhost:8000", "127.0.0.1")
    }
    assert set(names.values()) == {200}
    assert client.get("/health", headers={"Host": "[::1]:8000"}).status_code == 200
    assert client.get("/health", headers={"Host": "evil.example:8000"}).status_code == 400


@pytest.mark.parametrize("reply", ["Hello!", CALL, f"One moment. {CALL}"])
def test_another_openai_server_is_one_more_engine(reply, monkeypatch):
    """Two real servers: the gateway in front passes on to the one behind, with that one's key."""
    monkeypatch.setenv("ELM_UPSTREAM_KEY", "behind")
    behind, key = serve.build_app(build_engine(lambda text, on_text: reply), key="behind"), "Bearer front"
    with open_gateway(behind) as url, ExitStack() as stack:
        engine = open_engine(f"{url}/v1")
        assert (engine.name, engine.parallel) == (f"{url}/v1", 4)
        front = stack.enter_context(open_gateway(serve.build_app(engine, key="front")))
        client = stack.enter_context(httpx.Client(base_url=front, headers={"Authorization": key}))
        given = client.post("/", json={"inputs": "hi"}).json()[0]["generated_text"]
        assert given.replace(". <", ".<") == reply.replace(". <", ".<")  # OpenAI's form drops the space
        whole = client.post("/v1/chat/completions", json=ASK).json()["choices"][0]["message"]
        streamed = client.post("/v1/chat/completions", json=ASK | {"stream": True})
        assert bool(whole.get("tool_calls")) == ("tool_calls" in streamed.text) == (CALL in reply)


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (400, '{"error": {"message": "4,096 tokens fit"}}', 400),
        (500, "oops", 503),
        (429, "busy", 503),
        (200, "no JSON", 503),
        (200, '{"choices": []}', 503),
        (200, '{"choices": [{"message": {"tool_calls": [{"function": {"name": "x", "arguments": "{}"}}]}}]}', 503),
        (None, "", 504),
    ],
)
def test_what_the_server_behind_does_wrong_is_told_apart(status, body, told):
    def answer(request: httpx.Request) -> httpx.Response:
        if status is None:
            raise httpx.ReadTimeout("slow", request=request)
        return httpx.Response(status, text=body)

    from elm_helpers import engines

    real = httpx.Client
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx, "Client", lambda **options: real(**options, transport=httpx.MockTransport(answer)))
        engine = engines.connect_url("http://behind/v1", "elm", "secret-key")
    client = TestClient(serve.build_app(engine))
    found = client.post("/", json={"inputs": "hi"})
    assert found.status_code == told and found.json()["error"]["message"]
    assert "secret-key" not in found.text
    with pytest.raises((ValueError, RuntimeError, TimeoutError, httpx.HTTPError)):
        engine.complete(build_conversation({"text": "hi"}))
