"""The gateway: two forms of request, one model, and no request that makes it fall over.

The engine is a stand-in that answers from a list: these tests are about HTTP, and need replies that a real model would
give only now and then (a malformed call, a failure, a long wait).
"""

import json
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

from elm_helpers import serve
from elm_helpers.prompts import build_system

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

CALL = '<tool_call>search_products(query="wireless headphones", max_price=100)</tool_call>'
OPENAI_CALL = {"name": "search_products", "arguments": '{"max_price": 100, "query": "wireless headphones"}'}
ASK = {"messages": [{"role": "user", "content": "Find wireless headphones under $100"}]}


@dataclass
class FakeEngine:
    """Answers with `reply` in pieces of three characters, and notes what it was asked."""

    reply: str | Exception = "Hello!"
    tokens: int = 5
    parallel: int = 1
    name: str = "fake"
    asked: list = field(default_factory=list)

    def complete(self, messages, *, max_tokens=200, temperature=0.0, seed=0, grammar=None, on_text=None):
        self.asked.append((messages, {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}))
        if isinstance(self.reply, Exception):
            raise self.reply
        for start in range(0, len(self.reply), 3):
            on_text(self.reply[start : start + 3])
        return SimpleNamespace(text=self.reply, prompt_tokens=7, completion_tokens=self.tokens)


def open_client(engine=None, key=None, waiting=2) -> TestClient:
    return TestClient(serve.build_app(engine or FakeEngine(), key, waiting))


def read_events(text: str) -> list:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_the_seeds_request_gets_the_seeds_answer():
    engine = FakeEngine(CALL)
    body = {"inputs": "Find headphones", "parameters": {"max_new_tokens": 50, "temperature": 0.5}}
    answer = open_client(engine).post("/", json=body)
    assert (answer.status_code, answer.json()) == (200, [{"generated_text": CALL}])
    messages, options = engine.asked[0]
    assert messages == [
        {"role": "system", "content": build_system(None)},
        {"role": "user", "content": "Find headphones"},
    ]
    assert options == {"max_tokens": 50, "temperature": 0.5, "seed": 0}


def test_inputs_may_be_a_conversation():
    engine = FakeEngine()
    talk = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "Hi"}]
    assert open_client(engine).post("/", json={"inputs": talk}).status_code == 200
    assert engine.asked[0][0] == talk


def test_a_call_comes_back_in_openais_form():
    answer = open_client(FakeEngine(f"One moment. {CALL}")).post("/v1/chat/completions", json=ASK).json()
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "One moment."
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["function"]["name"] == "search_products"
    assert json.loads(call["function"]["arguments"]) == {"query": "wireless headphones", "max_price": 100}
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def test_a_conversation_with_calls_reaches_the_model_in_the_wire_format():
    engine = FakeEngine()
    reply = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": OPENAI_CALL}],
    }
    result = {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": '{"total": 0}'}]}
    messages = [{"role": "developer", "content": "Mine."}, *ASK["messages"], reply, result]
    assert open_client(engine).post("/v1/chat/completions", json={"messages": messages}).status_code == 200
    assert engine.asked[0][0] == [
        {"role": "system", "content": "Mine."},
        *ASK["messages"],
        {"role": "assistant", "content": CALL},
        {"role": "tool", "content": '{"total": 0}'},
    ]


def test_a_malformed_call_stays_text():
    broken = "<tool_call>search_products(query=</tool_call>"
    choice = open_client(FakeEngine(broken)).post("/v1/chat/completions", json=ASK).json()["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": broken}
    assert choice["finish_reason"] == "stop"


def test_an_answer_that_was_cut_off_says_so():
    body = ASK | {"max_completion_tokens": 5}
    choice = open_client(FakeEngine()).post("/v1/chat/completions", json=body).json()["choices"][0]
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize("reply", ["Hello, 2 < 3!", "a <tool", "<tool_call>oops", ""])
def test_streamed_text_adds_up_to_the_whole_reply(reply):
    events = read_events(open_client(FakeEngine(reply)).post("/v1/chat/completions", json=ASK | {"stream": True}).text)
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == reply
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert len({event["id"] for event in events}) == 1


def test_a_streamed_call_is_never_shown_as_text():
    body = ASK | {"stream": True, "stream_options": {"include_usage": True}}
    answer = open_client(FakeEngine(f"Sure. {CALL}")).post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, usage = read_events(answer.text)
    deltas = [event["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("content", "") for delta in deltas) == "Sure. "
    (call,) = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert (call["index"], call["function"]["name"]) == (0, "search_products")
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 12)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/", {}, "inputs"),
        ("/", {"inputs": ""}, "inputs"),
        ("/", {"inputs": []}, "inputs"),
        ("/", {"inputs": "hi", "paramters": {}}, "paramters"),
        ("/", {"inputs": "hi", "parameters": {"max_tokens": 5}}, "max_tokens"),
        ("/", {"inputs": "hi", "parameters": {"temperature": -1}}, "temperature"),
        ("/", {"inputs": "hi", "parameters": {"max_new_tokens": 0}}, "max_new_tokens"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "king", "content": "x"}]}, "role"),
        ("/v1/chat/completions", ASK | {"n": 2}, "n"),
        ("/v1/chat/completions", ASK | {"grammar": "root ::= 1"}, "grammar"),
        ("/v1/chat/completions", ASK | {"seed": -1}, "seed"),
    ],
)
def test_a_wrong_field_is_named(path, body, words):
    answer = open_client().post(path, json=body)
    assert answer.status_code == 422
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
        {"role": "user", "content": [{"type": "text", "text": 5}]},
        {"role": "assistant", "tool_calls": [{}]},
        {"role": "assistant", "tool_calls": [{"function": "x"}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": ["x"], "arguments": "{}"}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "drop_tables", "arguments": "{}"}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "search_products", "arguments": "{"}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "search_products", "arguments": "[1]"}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "search_products", "arguments": "[" * 99_999}}]},
    ],
)
def test_a_message_that_cannot_be_translated_is_named(message):
    answer = open_client().post("/v1/chat/completions", json={"messages": [*ASK["messages"], message]})
    assert answer.status_code == 400
    assert "messages[1]" in answer.json()["error"]["message"]


RAW = [
    *(b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"inputs": "\\ud800"}', b"[" * 100_000, b'{"inputs": NaN}'),
    b'{"messages": [{"role": "user", "content": "\\udfff"}], "temperature": NaN}',
    b'{"inputs": "x", "\\ud800": 1}',
    b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1' + b"0" * 5000 + b"}",
    b'{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "\\ud800"}}]}]}',
    b'{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "x\\ud800", "arguments": "{}"}}]}]}',
    b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "\\ud800"}]}]}',
]


@pytest.mark.parametrize("path", ["/", "/v1/chat/completions"])
@pytest.mark.parametrize("raw", RAW, ids=range(len(RAW)))
def test_no_body_makes_the_server_fail(path, raw):
    answer = open_client().post(path, content=raw, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(st.sampled_from(["messages", "inputs", "stream", "stream_options", "max_tokens", "n"]), JSON)
CLIENT = open_client()


@settings(max_examples=80)
@given(body=FIELDS | JSON, path=st.sampled_from(["/", "/v1/chat/completions"]))
def test_no_json_makes_the_server_fail(body, path):
    answer = CLIENT.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code < 500


@pytest.mark.parametrize("size", [serve.BODY_BYTES + 1, 3 * serve.BODY_BYTES])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_one_megabyte_is_refused(size, chunked):
    content = b'{"inputs": "' + b"x" * size + b'"}'
    engine = FakeEngine()
    sent = (content[at : at + 65536] for at in range(0, len(content), 65536)) if chunked else content
    answer = open_client(engine).post("/", content=sent, headers={"Content-Type": "application/json"})
    assert (answer.status_code, engine.asked) == (413, [])
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("header", [None, "Bearer wrong", "s3cret", "Bearer s3cret ", "Bearer sécret"])
def test_without_the_key_nothing_but_health_answers(header):
    client = open_client(key="s3cret")
    headers = {} if header is None else {"Authorization": header.encode()}
    for method, path in (("POST", "/"), ("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/docs")):
        answer = client.request(method, path, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert client.get("/health").json() == {"status": "ok", "engine": "fake"}


def test_the_key_opens_the_routes():
    client = open_client(key="s3cret")
    headers = {"Authorization": "Bearer s3cret"}
    assert client.get("/v1/models", headers=headers).json()["data"][0]["id"] == "elm"
    assert client.post("/v1/chat/completions", json=ASK, headers=headers).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("error", "status"), [(ValueError("too long"), 400), (RuntimeError("secret path"), 503)])
def test_an_engine_that_refuses_or_fails_gives_a_status_and_no_traceback(error, status, stream):
    engine = FakeEngine(error)
    client = open_client(engine, waiting=0)
    for _ in range(3):  # the place is free again each time
        answer = client.post("/v1/chat/completions", json=ASK | {"stream": stream})
        assert answer.status_code == status
        assert "secret path" not in answer.text


def test_a_full_house_sends_the_next_one_away_with_a_time():
    gate, entered = threading.Event(), threading.Event()
    engine = FakeEngine()
    answer_now = engine.complete

    def wait(messages, **options):
        entered.set()
        assert gate.wait(10)
        return answer_now(messages, **options)

    engine.complete = wait
    client = open_client(engine, waiting=0)
    found = []
    first = threading.Thread(target=lambda: found.append(client.post("/", json={"inputs": "one"})))
    first.start()
    assert entered.wait(10)
    second = client.post("/", json={"inputs": "two"})
    gate.set()
    first.join(10)
    assert (second.status_code, second.headers["retry-after"]) == (429, "1")
    assert found[0].status_code == 200
    assert client.post("/", json={"inputs": "three"}).status_code == 200


def test_an_unknown_path_and_method_answer_in_the_same_form():
    client = open_client()
    assert client.get("/nowhere").json()["error"]["code"] == 404
    assert client.get("/v1/chat/completions").json()["error"]["code"] == 405


def test_other_machines_are_not_served_without_a_key(monkeypatch):
    monkeypatch.delenv("ELM_API_KEY", raising=False)
    monkeypatch.setattr("uvicorn.run", lambda *a, **k: pytest.fail("it served"))
    with pytest.raises(ValueError, match="ELM_API_KEY"):
        serve.run_server(FakeEngine(), host="0.0.0.0")


def test_the_server_takes_its_key_from_the_environment(monkeypatch):
    served = {}
    monkeypatch.setenv("ELM_API_KEY", "s3cret")
    monkeypatch.setattr("uvicorn.run", lambda app, **options: served.update(app=app, **options))
    serve.run_server(FakeEngine(), host="0.0.0.0", port=8123)
    assert (served["host"], served["port"]) == ("0.0.0.0", 8123)
    assert TestClient(served["app"]).get("/v1/models").status_code == 401
