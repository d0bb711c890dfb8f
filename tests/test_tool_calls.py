"""What the wire format promises: one text a call, a strict reader, any string in linear time."""

import time
from contextlib import suppress

from elm_helpers.signatures import read_parameters
from elm_helpers.tool_calls import ToolCall, ToolCallError, format_tool_call, parse_tool_calls
from elm_helpers.tools import TOOLS

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = {"string": TEXT, "integer": st.integers(-(10**300), 10**300)}
VALUES["number"] = st.floats(allow_nan=False, allow_infinity=False) | VALUES["integer"]


@st.composite
def draw_calls(draw) -> ToolCall:
    name = draw(st.sampled_from(list(TOOLS)))
    arguments = {}
    for one in draw(st.permutations(read_parameters(TOOLS[name]))):
        if one.required or draw(st.booleans()):
            value = st.sampled_from(one.choices) if one.choices else VALUES[one.kind]
            nullable = not one.required and one.default is None
            arguments[one.name] = draw(value | st.none() if nullable else value)
    return ToolCall(name, arguments)


def wrap(inside: str) -> str:
    return f"<tool_call>{inside}</tool_call>"


def read_reason(text: str) -> str:
    with pytest.raises(ToolCallError) as caught:
        parse_tool_calls(text)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value) == caught.value.reason
    assert 5 < len(caught.value.reason) < 400
    return caught.value.reason


@given(draw_calls())
@example(ToolCall("get_product_info", {"product": "</tool_call>\x00\x1b\u2028\"'\\<tool_call>\ufeff😀"}))
def test_a_formatted_call_reads_back_as_the_same_call(call):
    text = format_tool_call(call)
    found = parse_tool_calls(text)
    assert found == [call]
    assert [type(value) for value in found[0].arguments.values()] == [
        type(call.arguments[key]) for key in found[0].arguments
    ]
    assert format_tool_call(found[0]) == text


@given(draw_calls())
def test_a_formatted_call_is_one_line_with_one_pair_of_tags_and_parameters_in_order(call):
    text = format_tool_call(call)
    assert text.count("<tool_call>") == text.count("</tool_call>") == 1
    assert not set(text) & set("\n\r\0")
    (found,) = parse_tool_calls(text)
    assert list(found.arguments) == [
        one.name for one in read_parameters(TOOLS[call.name]) if one.name in call.arguments
    ]


def test_the_seeds_call_is_written_exactly_as_in_the_seed():
    call = ToolCall("search_products", {"max_price": 100, "query": "wireless headphones"})
    assert (
        format_tool_call(call) == '<tool_call>search_products(query="wireless headphones", max_price=100)</tool_call>'
    )


def test_numbers_stay_as_they_were_given():
    text = wrap('search_products(query="mug", min_price=24.99, max_price=100)')
    (call,) = parse_tool_calls(text)
    assert (call.arguments["min_price"], call.arguments["max_price"]) == (24.99, 100)
    assert isinstance(call.arguments["max_price"], int)
    assert format_tool_call(call) == text


def test_optional_arguments_are_not_invented():
    assert format_tool_call(ToolCall("get_customer_orders", {})) == wrap("get_customer_orders()")
    assert parse_tool_calls(wrap("get_customer_orders()")) == [ToolCall("get_customer_orders", {})]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>search_products(\n    query='red mug',\n    max_price=20\n)</tool_call>",
        '<tool_call>\n\tsearch_products ( query = "red mug" , max_price = 20 , )\r\n</tool_call>',
        'Let me look.\n<tool_call>search_products(max_price=20, query="red mug")</tool_call> One moment.',
        r'<tool_call>search_products(query="\u0072ed\x20mu\U00000067", max_price=20)</tool_call>',
    ],
)
def test_any_layout_quotes_and_escapes_mean_the_same_call(text):
    assert parse_tool_calls(text) == [ToolCall("search_products", {"query": "red mug", "max_price": 20})]


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        (r'"it\'s"', "it's"),
        (r"'it\'s \"it\"'", 'it\'s "it"'),
        (r'"a\\b\/c\n\t\r\b\f\v\a"', "a\\b/c\n\t\r\b\f\v\a"),
        (r'"\ud83d\ude00"', "😀"),
        ('"), </tool_call> (\'"', "), </tool_call> ('"),
        ('"<tool_call>x()"', "<tool_call>x()"),
        ('"00123"', "00123"),
        ("'#W10482'", "#W10482"),
        ('"tab\there"', "tab\there"),
        ('"５ ①\u2028"', "５ ①\u2028"),
    ],
)
def test_a_text_may_hold_anything(literal, value):
    assert parse_tool_calls(wrap(f"get_product_info(product={literal})")) == [
        ToolCall("get_product_info", {"product": value})
    ]


def test_several_calls_come_in_the_order_of_the_text():
    text = wrap("get_customer_orders()") + " and " + wrap('get_product_info(product="mug")')
    assert [call.name for call in parse_tool_calls(text)] == ["get_customer_orders", "get_product_info"]


@pytest.mark.parametrize(
    "text", ["", "Hello!", "</tool_call>", "search_products(query='x')", "<tool_call", "<TOOL_CALL>f()", "< tool_call>"]
)
def test_a_text_without_an_opening_tag_holds_no_call(text):
    assert parse_tool_calls(text) == []


@pytest.mark.parametrize(
    ("inside", "hint"),
    [
        ("", "name"),
        ("search_products", "("),
        ("search_products(", "name=value"),
        ('search_products("mug")', "positional"),
        ("search_products(mug)", "positional"),
        ('search_products(*["mug"])', "positional"),
        ('search_products(query="mug", 5)', "positional"),
        ('search_products(query="mug"', ", or )"),
        ('search_products(query="mug" max_price=5)', ", or )"),
        ('search_products(query="mug" "cup")', ", or )"),
        ('search_products(query="mug",,)', "name=value"),
        ("search_products(,)", "name=value"),
        ('search_products(query="mug", query="cup")', "twice"),
        ('search_products(query="mug", colour="red")', "colour"),
        ('find_products(query="mug")', "find_products"),
        ('tools.search_products(query="mug")', "tools"),
        ("search_products(max_price=5)", "needs query"),
        ("search_products(query=5)", "string"),
        ("search_products(query=None)", "string"),
        ('search_products(query=["mug"])', "string"),
        ('search_products(query="mug", limit=None)', "integer"),
        ('search_products(query="mug", limit=5.0)', "integer"),
        ('search_products(query="mug", limit=True)', "integer"),
        ('search_products(query="mug", max_price=False)', "number"),
        ('search_products(query="mug", max_price="100")', "number"),
        ('search_products(query="mug", max_price=[1, 2.5, "x", True, None,])', "number"),
        ('search_products(query="mug", category=null)', "None"),
        ('search_products(query="mug", category=true)', "True"),
        ('search_products(query="mug", category=false)', "False"),
        ('search_products(query="mug", max_price=inf)', "number"),
        ('search_products(query="mug", max_price=nan)', "number"),
        ('search_products(query="mug", max_price=1e999)', "too large"),
        ('search_products(query="mug", max_price=-1e999)', "too large"),
        (f'search_products(query="mug", limit={"9" * 5000})', "number"),
        ('search_products(query="mug", max_price=$100)', "number"),
        ('search_products(query="mug", max_price=1_000)', "number"),
        ('search_products(query="mug", max_price=1j)', "number"),
        ('search_products(query="mug", max_price=+5)', "number"),
        ('search_products(query="mug", max_price=５)', "number"),
        ('search_products(query="mug", max_price=50+50)', "number"),
        ('search_products(query="mug", max_price=[[1]])', "quotes"),
        ("search_products(query=...)", "quotes"),
        ("search_products(query={})", "quotes"),
        ("search_products(query=b'mug')", "quotes"),
        ("search_products(query=f'mug')", "quotes"),
        ('search_products(query="""mug""")', ", or )"),
        ('search_products(query="mug)', "close"),
        ("search_products(query=\"mug')", "close"),
        ('search_products(query="red\nmug")', "line break"),
        ('search_products(query="red\0mug")', "close"),
        ("search_products\0()", "("),
        (r'search_products(query="\d")', "escape"),
        (r'search_products(query="\N{BULLET}")', "escape"),
        (r'search_products(query="\ud83d")', "Unicode"),
        (r'search_products(query="\U00110000")', "escape"),
        ('search_products(query="\ud83d")', "Unicode"),
        ("get_customer_orders(order_id=00123)", "quotes"),
        ("get_customer_orders(order_id=10482)", "string"),
        ("get_customer_orders(order_id=#W12)", "quotes"),
        ("get_customer_orders(order_id=W12)", "quotes"),
        ('calculate_shipping(destination="10001", method="fast")', "standard or express or overnight"),
        ('calculate_shipping(destination="10001", method=None)', "standard or express or overnight"),
        ('ｓearch_products(query="mug")', "name"),
        ('search_products(ｑuery="mug")', "name=value"),
        ('search_products(query="mug")\u00a0', "</tool_call>"),
        ('search_products(query="mug"); print()', "</tool_call>"),
        ('search_products(query="mug"))', "</tool_call>"),
        ('search_products(query=str("mug"))', "quotes"),
        ('{"name": "search_products", "arguments": {"query": "mug"}}', "name"),
        ('<tool_call>search_products(query="mug")</tool_call>', "name"),
        ('search_products(query="a")<tool_call>search_products(query="b")', "</tool_call>"),
    ],
)
def test_a_malformed_call_is_an_error_that_says_what_would_be_right(inside, hint):
    assert hint in read_reason(wrap(inside))


@pytest.mark.parametrize("end", range(len("<tool_call>"), len('<tool_call>get_product_info(product="x")</tool_call>')))
def test_a_call_cut_off_anywhere_is_an_error(end):
    read_reason('<tool_call>get_product_info(product="x")</tool_call>'[:end])


def test_one_bad_call_among_good_ones_is_an_error():
    read_reason(wrap("get_customer_orders()") + wrap("get_customer_orders(1)"))


def test_nothing_is_evaluated(tmp_path):
    target = tmp_path / "made"
    for inside in (f"open('{target}', 'w')", f"search_products(query=open('{target}', 'w'))"):
        read_reason(wrap(inside))
    assert not target.exists()


@pytest.mark.parametrize(
    "call",
    [
        ToolCall("find_products", {"query": "x"}),
        ToolCall("search_products", {}),
        ToolCall("search_products", {"query": "x", "colour": "red"}),
        ToolCall("search_products", {"query": "x", "max_price": float("nan")}),
        ToolCall("search_products", {"query": "x", "max_price": float("inf")}),
        ToolCall("search_products", {"query": "x", "max_price": 10**400}),
        ToolCall("search_products", {"query": "x", "max_price": 10**5000}),
        ToolCall("search_products", {"query": "x", "limit": True}),
        ToolCall("search_products", {"query": "\ud83d"}),
        ToolCall("search_products", None),
        ToolCall(None, {}),
    ],
)
def test_a_call_that_could_not_be_read_back_is_not_written(call):
    with pytest.raises(ToolCallError):
        format_tool_call(call)


PIECES = [
    *"()[]{}=,.\"'\\#-+<>\n \t\0５é",
    *("<tool_call>", "</tool_call>", "search_products", "get_customer_orders(", "query=", "limit=", "max_price="),
    *("True", "null", "1e999", "00123", "\\u00", "\\ud83d", "\ud83d", "1j", "b'x'"),
]


@settings(max_examples=400)
@given(
    st.text()
    | st.lists(st.sampled_from(PIECES)).map("".join)
    | st.lists(st.sampled_from(PIECES)).map("".join).map(wrap)
)
def test_any_string_gives_calls_or_a_tool_call_error(text):
    try:
        found = parse_tool_calls(text)
    except ToolCallError as error:
        assert error.reason
    else:
        assert len(found) == text.count("<tool_call>") or any("<tool_call>" in str(call.arguments) for call in found)


@settings(max_examples=300)
@given(draw_calls(), st.data())
def test_a_damaged_call_gives_calls_or_a_tool_call_error(call, data):
    text = format_tool_call(call)
    at = data.draw(st.integers(0, len(text)))
    damaged = text[:at] + data.draw(st.sampled_from(["", *PIECES])) + text[at + data.draw(st.integers(0, 3)) :]
    try:
        assert all(isinstance(one, ToolCall) for one in parse_tool_calls(damaged))
    except ToolCallError as error:
        assert error.reason


LONG = {
    "brackets": lambda n: wrap("search_products(query=" + "[" * n),
    "parentheses": lambda n: wrap("search_products(" * n),
    "a text": lambda n: wrap(f'get_product_info(product="{"x" * n}")'),
    "an open text": lambda n: wrap(f'get_product_info(product="{"x" * n}'),
    "escapes": lambda n: wrap(f'get_product_info(product="{chr(92) * 2 * n}")'),
    "surrogates": lambda n: wrap('get_product_info(product="' + r"\ud83d\ude00" * n + '")'),
    "quotes": lambda n: wrap("get_product_info(product=" + "'\"" * n),
    "digits": lambda n: wrap(f"search_products(query={'1' * n})"),
    "spaces": lambda n: wrap("get_customer_orders(" + " " * n + ")"),
    "a list": lambda n: wrap(f"search_products(query=[{'1, ' * n}])"),
    "duplicates": lambda n: wrap("search_products(" + "".join(f"a{i}=1, " for i in range(n)) + ")"),
    "opening tags": lambda n: "<tool_call>" * n,
    "closing tags": lambda n: "</tool_call>" * n,
    "calls": lambda n: wrap("get_customer_orders()") * n,
    "almost tags": lambda n: "<tool_call" * n,
}


@pytest.mark.parametrize("make", LONG.values(), ids=LONG.keys())
def test_a_ten_times_longer_text_takes_about_ten_times_as_long(make):
    def measure(n: int) -> float:
        text, times = make(n), []
        for _ in range(5):
            start = time.process_time_ns()
            with suppress(ToolCallError):
                parse_tool_calls(text)
            times.append(time.process_time_ns() - start)
        return max(min(times), 50_000)  # what is over before the clock ticks is no slower than the clock

    measure(20_000)
    assert measure(20_000) < 40 * measure(2_000)  # quadratic time would give 100


def test_a_megabyte_and_twenty_thousand_brackets_are_answered():
    text = "x" * 2**20
    assert parse_tool_calls(wrap(f'get_product_info(product="{text}")'))[0].arguments["product"] == text
    for long in ("[" * 20_000, "(" * 20_000, "{" * 20_000, "9" * 2**20):
        read_reason(wrap(f"get_product_info(product={long})"))
    read_reason(wrap("x" * 2**20 + "()"))
    read_reason(wrap(f"get_product_info({'x' * 2**20}=1)"))
