"""What the grammar promises: it takes the form off the model's hands, and never the decision to call."""

import re
from functools import cache

from elm_helpers.base_model import find_packaged_gguf
from elm_helpers.grammar import build_copying_gbnf, build_gbnf
from elm_helpers.signatures import read_parameters
from elm_helpers.tool_calls import ToolCall, ToolCallError, format_tool_call, parse_tool_calls
from elm_helpers.tools import TOOLS

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

# A reference reader of GBNF, small enough to check by eye: a rule maps where it starts in a text to where it may end.
TOKEN = re.compile(r'\s*("(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|\{\d+,\d+\}|[a-z0-9-]+|[()|?*+])')


def read_rules(gbnf):
    rules = {}
    for line in gbnf.strip().splitlines():
        name, body = line.split(" ::= ")
        tokens = TOKEN.findall(body)
        assert "".join(tokens) == re.sub(r'("(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\])|\s', r"\1", body)
        assert name not in rules
        rules[name] = read_choice(tokens)
        assert not tokens
    return rules


def read_choice(tokens):
    choices = [[]]
    while tokens and tokens[0] != ")":
        token = tokens.pop(0)
        if token == "|":
            choices.append([])
            continue
        if token == "(":
            item = ("choice", read_choice(tokens))
            assert tokens.pop(0) == ")"
        elif token[0] == '"':
            item = ("text", token[1:-1].encode().decode("unicode_escape"))
        elif token[0] == "[":
            item = ("class", re.compile(token, re.DOTALL))
        else:
            item = ("rule", token)
        low, high = 1, 1
        if tokens and tokens[0][0] in "?*+{":
            sign = tokens.pop(0)
            low, high = {"?": (0, 1), "*": (0, 999), "+": (1, 999)}.get(sign) or map(int, sign[1:-1].split(","))
        choices[-1].append((item, low, high))
    return choices


def matches(gbnf, text):
    rules = read_rules(gbnf)

    @cache
    def follow_rule(name, at):
        return frozenset(follow(rules[name], at))

    def follow(choices, at):
        ends = set()
        for sequence in choices:
            here = {at}
            for item, low, high in sequence:
                reached, found = here, set(here) if low == 0 else set()
                for count in range(1, high + 1):
                    reached = {end for start in reached for end in step(item, start)} - found
                    found |= reached if count >= low else set()
                    if not reached:
                        break
                here = found
            ends |= here
        return ends

    def step(item, at):
        kind, value = item
        if kind == "text":
            return {at + len(value)} if text.startswith(value, at) else set()
        if kind == "class":
            return {at + 1} if value.match(text, at) else set()
        return follow_rule(value, at) if kind == "rule" else follow(value, at)

    return len(text) in follow_rule("root", 0)


CALLS = {
    'search_products(query="red mug")': True,
    'search_products(query="red mug", category="Furniture", min_price=0, max_price=24.99, limit=3)': True,
    'search_products(query="red mug", limit=3)': True,
    'search_products(query="5\\" \\u00e9 \\\\")': True,
    'search_products(query="), </tool_call>")': True,
    "get_customer_orders()": True,
    'get_customer_orders(status="shipped")': True,
    'get_customer_orders(order_id="#00731", customer_id="C0001")': True,
    'calculate_shipping(destination="10001", method="overnight")': True,
    'initiate_return(order_id="W1", product="mug", reason="too small")': True,
    "search_products()": False,
    'search_products("mug")': False,
    'search_products(query="")': False,
    'search_products(query="mug", query="cup")': False,
    'search_products(limit=3, query="mug")': False,
    'search_products(query="mug", limit=3, max_price=5)': False,
    'search_products(query="mug", limit=2.5)': False,
    'search_products(query="mug", limit=03)': False,
    'search_products(query="mug", limit="3")': False,
    'search_products(query="mug", max_price=None)': False,
    'search_products(query="mug",)': False,
    "search_products(query='mug')": False,
    'search_products(query="red\nmug")': False,
    'search_products(query="\\d")': False,
    'search_products(query="\\ud83d")': False,
    'get_customer_orders(, status="shipped")': False,
    'calculate_shipping(destination="10001", method="fast")': False,
    'find_products(query="mug")': False,
}


@pytest.mark.parametrize(("inside", "allowed"), CALLS.items(), ids=CALLS)
def test_a_call_is_allowed_exactly_when_it_is_canonical(inside, allowed):
    text = f"<tool_call>{inside}</tool_call>"
    assert matches(build_gbnf(), text) == allowed
    if allowed:
        assert len(parse_tool_calls(text)) == 1


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_can_be_called_with_all_and_with_only_the_required_arguments(name):
    values = {"string": "x", "number": 9.5, "integer": 3}
    every = {one.name: one.choices[0] if one.choices else values[one.kind] for one in read_parameters(TOOLS[name])}
    required = {one.name: every[one.name] for one in read_parameters(TOOLS[name]) if one.required}
    for arguments in (every, required):
        assert matches(build_gbnf(), format_tool_call(ToolCall(name, arguments)))


@pytest.mark.parametrize(
    "text",
    [
        "Hello!",
        "Which order is it?\n\n- one\n- two",
        "a < b, <b>bold</b>, <tool>, <tool_cal>, <<tool_call, <tool_call",
        "</tool_call> É 你好 😀",
        "<",
        "tool_call>",
    ],
)
def test_any_prose_is_allowed_so_no_call_is_ever_forced(text):
    assert matches(build_gbnf(), text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<tool_call>",
        "Sure. <tool_call>get_customer_orders()</tool_call>",
        "<<tool_call>get_customer_orders()</tool_call>",
        "<tool_<tool_call>",
        "<tool_call>get_customer_orders()",
        "<tool_call>get_customer_orders()</tool_call> Done.",
        "<tool_call>get_customer_orders()</tool_call>" * 2,
    ],
)
def test_a_tag_in_prose_or_an_unfinished_or_second_call_is_not_allowed(text):
    assert not matches(build_gbnf(), text)


PIECES = ["<tool_call>", "</tool_call>", 'get_product_info(product="', "get_customer_orders(", *'<tool_cal>/"\\(),=5']


@settings(max_examples=120)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=30))
@example("<tool_call>get_customer_orders()</tool_call>")
def test_whatever_the_grammar_allows_the_parser_accepts(text):
    allowed = matches(build_gbnf(), text)
    try:
        calls = parse_tool_calls(text)
    except ToolCallError:
        assert not allowed
        return
    if calls:
        assert allowed <= ([format_tool_call(call) for call in calls] == [text])
    else:
        assert allowed == bool(text)


def test_a_choice_of_tools_allows_these_and_none_leaves_prose():
    info = '<tool_call>get_product_info(product="x")</tool_call>'
    orders = "<tool_call>get_customer_orders()</tool_call>"
    assert matches(build_gbnf(["get_product_info"]), info)
    assert not matches(build_gbnf(["get_product_info"]), orders)
    assert not matches(build_gbnf([]), info)
    assert matches(build_gbnf([]), "Hello!")
    with pytest.raises(KeyError):
        build_gbnf(["find_products"])


SAID = 'Do you have the "Orrin Mini" kettle, in 12" (matte black)? Max $1,250 or two hundred, order #W1.'
COPIES = {
    'search_products(query="Orrin")': True,
    'search_products(query="Mini\\" kettle")': True,
    'search_products(query="kettle, in 12\\" matte black", max_price=1250, limit=12)': True,
    'get_inventory(product="Orrin Mini", variant="matte black")': True,
    'search_products(query="kettle", category="Home & Garden")': True,
    'get_customer_orders(order_id="#W1")': True,
    'get_customer_orders(order_id="W1")': True,
    'get_customer_orders(order_id="#W1", status="shipped")': False,
    'get_inventory(product="Orrin kettle")': False,
    'get_inventory(product="orrin Mini")': False,
    'get_inventory(product="Orri")': False,
    'get_customer_orders(order_id="W12")': False,
    'search_products(query="kettle", max_price=1000)': False,
}


@pytest.mark.parametrize(("inside", "allowed"), COPIES.items(), ids=COPIES)
def test_arguments_are_words_in_a_row_and_numbers_of_what_was_said(inside, allowed):
    assert matches(build_gbnf(said=SAID), f"<tool_call>{inside}</tool_call>") == allowed


def test_without_a_number_in_it_no_argument_is_a_number_and_without_words_nothing_changes():
    call = '<tool_call>search_products(query="mugs", limit=3)</tool_call>'
    assert not matches(build_gbnf(said="any mugs"), call)
    assert matches(build_gbnf(said="any 3 mugs"), call)
    assert build_gbnf(said=" \n") == build_gbnf()


def test_the_copying_grammar_reads_all_turns_but_the_system_prompt():
    turns = [("system", "secret"), ("user", "mugs?"), ("tool", '{"name": "Blue Mug"}'), ("assistant", "A Blue Mug.")]
    grammar = build_copying_gbnf([{"role": role, "content": text} for role, text in turns])
    for word, allowed in (("Blue Mug", True), ("mugs", True), ("secret", False)):
        assert matches(grammar, f'<tool_call>get_product_info(product="{word}")</tool_call>') == allowed


@settings(max_examples=60)
@given(st.lists(st.text("ab7\"'.,(#$\\", min_size=1, max_size=5), min_size=1, max_size=6), st.data())
def test_what_may_be_copied_is_said_and_parses(words, data):
    start = data.draw(st.integers(0, len(words) - 1))
    copied = " ".join(words[start : start + data.draw(st.integers(1, 3))])
    text = format_tool_call(ToolCall("get_product_info", {"product": copied}))
    if matches(build_gbnf(said=" ".join(words)), text):
        assert parse_tool_calls(text)[0].arguments == {"product": copied}


def test_llama_cpp_takes_the_grammar_and_writes_only_what_it_allows():
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(find_packaged_gguf("HuggingFaceTB/SmolLM2-135M-Instruct"))
    params.n_ctx, params.n_parallel, params.verbosity, params.warmup = 256, 1, -1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1  # two would wait for each other on a busy machine
    server = xllamacpp.Server(params)

    def write(grammar, text, tokens):
        replies = []
        prompt = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        request = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "grammar": grammar, "stream": False}
        server.handle_completions(request, replies.append)
        choice = replies[-1].get("choices", [{"text": "", "finish_reason": "refused"}])[0]
        return choice["text"], choice["finish_reason"]

    assert write("root ::= nothing", "Hi", 8)[1] == "refused"  # so a grammar that llama.cpp cannot read would show
    text, _ = write(build_gbnf(), "Hi", 8)
    assert text and not text.startswith("<")
    call = '<tool_call>get_customer_orders(status="shipped")</tool_call>'
    only_calls = build_gbnf().replace("root ::= text | call", "root ::= call")
    assert write(only_calls, f"Repeat this:\n{call}", 40) == (call, "stop")
    copies = build_gbnf(["get_product_info"], said=f"{SAID} 😀 é \\ <b>").replace("text | call", "call")
    text, reason = write(copies, "Which kettle?", 120)
    assert reason == "stop" and parse_tool_calls(text)[0].arguments["product"]
