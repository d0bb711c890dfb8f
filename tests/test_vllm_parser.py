"""The plugin for vLLM, loaded as vLLM loads it, against the few classes of vLLM's interface that it touches."""

import importlib.util
import json
import sys
from types import ModuleType, SimpleNamespace

from elm_helpers.paths import SAMPLE, TEMPLATES
from elm_helpers.tool_calls import ToolCallError, format_tool_call, parse_tool_calls

import pytest
from hypothesis import given
from hypothesis import strategies as st

CALL = '<tool_call>search_products(query="mug", max_price=20)</tool_call>'


class ToolParser:
    """vLLM 0.32's base class, as far as a plugin meets it."""

    def __init__(self, tokenizer, tools=None):
        self.prev_tool_call_arr, self.current_tool_id, self.streamed_args_for_tool = [], -1, []


@pytest.fixture(scope="module")
def parser_class():
    registered = {}
    protocol, parsers = ModuleType("vllm.entrypoints.generate.base.protocol"), ModuleType("vllm.tool_parsers")
    for name in ("DeltaFunctionCall", "DeltaMessage", "DeltaToolCall", "ExtractedToolCallInformation", "FunctionCall"):
        setattr(protocol, name, SimpleNamespace)
    protocol.ToolCall = lambda function: SimpleNamespace(id="call_1", type="function", function=function)
    parsers.ToolParser = ToolParser
    parsers.ToolParserManager = SimpleNamespace(register_module=lambda name, module: registered.update({name: module}))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("vllm", "vllm.entrypoints", "vllm.entrypoints.generate", "vllm.entrypoints.generate.base"):
            patch.setitem(sys.modules, name, ModuleType(name))
        patch.setitem(sys.modules, protocol.__name__, protocol)
        patch.setitem(sys.modules, "vllm.tool_parsers", parsers)
        spec = importlib.util.spec_from_file_location("vllm_tool_parser", TEMPLATES / "vllm_tool_parser.py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return registered["elm"]


def extract(parser_class, text: str) -> tuple[str | None, list]:
    found = parser_class(None).extract_tool_calls(text, None)
    assert found.tools_called == bool(found.tool_calls)
    return found.content, [(one.function.name, json.loads(one.function.arguments)) for one in found.tool_calls]


def stream(parser_class, pieces: list[str]) -> tuple[str, list]:
    parser, before, prose, calls = parser_class(None), "", "", []
    for piece in pieces:
        delta = parser.extract_tool_calls_streaming(before, before + piece, piece, [], [], [], None)
        before += piece
        prose += (delta and delta.content) or ""
        calls += delta.tool_calls if delta else []
    assert [call.index for call in calls] == list(range(len(calls)))
    assert parser.streamed_args_for_tool == [call.function.arguments for call in calls]
    return prose, [(call.function.name, json.loads(call.function.arguments)) for call in calls]


def test_every_call_of_the_sample_rows_is_read_as_the_course_reads_it(parser_class):
    lines = (SAMPLE / "ecommerce_train.json").read_text(encoding="utf-8").splitlines()
    texts = [m["content"] for line in lines for m in json.loads(line)["messages"] if "<tool_call>" in m["content"]]
    texts = [text for text in texts if text.startswith("<tool_call>")]
    assert len(texts) >= 20
    for text in texts:
        expected = [(call.name, call.arguments) for call in parse_tool_calls(text)]
        assert extract(parser_class, text) == (None, expected) and stream(parser_class, [*text]) == ("", expected)


@given(query=st.text(max_size=30), price=st.floats(0, 1e9) | st.integers(0, 10**9) | st.none())
def test_whatever_a_text_holds_the_call_is_the_same(parser_class, query, price):
    from elm_helpers.tool_calls import ToolCall

    try:
        text = format_tool_call(ToolCall("search_products", {"query": query, "max_price": price}))
    except ToolCallError:
        return
    assert extract(parser_class, text) == (None, [("search_products", {"query": query, "max_price": price})])


def test_prose_goes_out_at_once_and_a_call_when_it_is_whole(parser_class):
    text = f"One moment. {CALL}"
    assert extract(parser_class, text) == ("One moment.", [("search_products", {"query": "mug", "max_price": 20})])
    for size in (1, 3, 7, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        prose, calls = stream(parser_class, pieces)
        assert (prose, len(calls)) == ("One moment. ", 1)


@pytest.mark.parametrize(
    "inside",
    [
        "search_products(query=)",
        "search_products('mug')",
        "search_products(**{'query': 'mug'})",
        "search_products(query=open('x'))",
        "__import__('os').system('x')",
        "search_products(query=1e999)",
        "search_products(query=b'x')",
        "search_products(query={'a', 'b'})",
        "f(" * 3000,
        "f(x=" + "[" * 2000 + "]" * 2000 + ")",
        "x" * 9000,
        "",
    ],
)
def test_what_is_no_call_stays_text(parser_class, inside):
    text = f"<tool_call>{inside}</tool_call>"
    assert extract(parser_class, text) == (text, [])
    assert stream(parser_class, [text]) == (text, [])


@pytest.mark.parametrize("text", ["", "2 < 3", "a <tool", "<tool_call>oops", "<<tool_call"])
def test_text_without_a_call_is_given_back_whole(parser_class, text):
    assert extract(parser_class, text) == (text, [])
