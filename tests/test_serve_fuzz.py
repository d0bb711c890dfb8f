"""Schemathesis reads the gateway's own OpenAPI and sends what follows from it, and what contradicts it."""

import itertools
import json
from types import SimpleNamespace

from elm_helpers import serve
from elm_helpers.engines import Engine

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi import checks

EXAMPLES = 60
REPLIES = itertools.cycle(
    [
        "Hello!",
        "",
        "héllo 🛒 \x00 \u2028",
        '<tool_call>search_products(query="mug")</tool_call>',
        "<tool_call>search_products(query=</tool_call>",
        "<tool_call>drop_tables()</tool_call> and <tool",
        ValueError("the conversation has 9,000 tokens"),
        RuntimeError("out of memory"),
    ]
)


def answer_anything(messages, *, max_tokens=200, temperature=0.0, seed=0, grammar=None, on_text=None):
    reply = next(REPLIES)
    if isinstance(reply, Exception):
        raise reply
    on_text(reply)
    return SimpleNamespace(text=reply, prompt_tokens=7, completion_tokens=5)


APP = serve.build_app(Engine("stand-in", answer_anything, 2))
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)
ASKED = []


@SCHEMA.parametrize()
@settings(max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_description_names(case):
    response = case.call()
    ASKED.append((case.path, response.status_code))
    assert response.status_code < 500 or response.status_code == 503, response.text
    named = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]
    case.validate_response(response, checks=named)


def test_the_fuzzing_reached_the_model_and_was_refused_too():
    for path in ("/", "/v1/chat/completions"):
        statuses = {status for asked, status in ASKED if asked == path}
        assert {200, 422} <= statuses and len([one for one in ASKED if one[0] == path]) >= EXAMPLES, statuses


DEEP = b"[" * 50_000 + b"]" * 50_000
HOSTILE = {
    "malformed JSON": (b'{"inputs": "hi"', 422),
    "wrong types": (b'{"inputs": 5, "messages": {}}', 422),
    "unknown fields": (b'{"inputs": "hi", "messages": 1, "gpu": true}', 422),
    "bad UTF-8": (b'{"inputs": "\xff\xfe", "messages": [{"role": "user", "content": "\xff"}]}', 400),
    "deep nesting": (b'{"inputs": ' + DEEP + b', "messages": ' + DEEP + b"}", 400),
    "a huge body": (b'{"inputs": "' + b"x" * (serve.BODY_BYTES + 1) + b'"}', 413),
    "a huge number": (b'{"inputs": "hi", "parameters": {"max_new_tokens": 1' + b"0" * 9999 + b"}}", 400),
}


@pytest.mark.parametrize("path", ["/", "/v1/chat/completions"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_a_clear_4xx(name, path):
    body, status = HOSTILE[name]
    answer = TestClient(APP).post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (status, 422), answer.text[:300]
    error = json.loads(answer.text)["error"]
    assert (error["code"], error["type"]) == (answer.status_code, "invalid_request_error") and error["message"]
