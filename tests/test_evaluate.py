"""Every metric can fail: each is tried on an answer that is right and on one that is wrong."""

import json
import sys
from dataclasses import FrozenInstanceError
from math import isclose
from subprocess import run

from elm_helpers.cases import Case, build_case, read_requests, read_rows
from elm_helpers.engines import Completion, Engine
from elm_helpers.evaluate import System, answer_cases, evaluate_systems, open_systems, score_requests
from elm_helpers.judge import Answer, asks_back, judge_answer, list_misses, read_category, score_answers
from elm_helpers.metrics import find_invented, measure_quantile, measure_rate, read_calls, wilson_interval, write_digits
from elm_helpers.prompts import EXAMPLES, GUEST, SIGNED_IN, build_system_with_tools
from elm_helpers.rules import open_rules
from elm_helpers.scoreboard import LOWER_IS_BETTER, METRICS, format_scoreboard
from elm_helpers.sheets import find_covered, find_made_up, parse_sheet
from elm_helpers.tool_calls import ToolCall, parse_tool_calls

import pytest
from hypothesis import given
from hypothesis import strategies as st

HEADPHONES = '<tool_call>search_products(query="red headphones", max_price=100)</tool_call>'
SHEET = "One sentence, please.\nName: Oak Desk\nBrand: Arlo\nPrice: $1299.00\nWidth: 120 cm\nCable tray: no"


def build_row(number, task, kind, request, reply, signed_in=False, more=()):
    messages = [{"role": "system", "content": SIGNED_IN if signed_in else GUEST}, {"role": "user", "content": request}]
    messages += [{"role": "assistant", "content": reply}, *more]
    return {"id": f"r{number}", "task": task, "messages": messages, "meta": {"kind": kind, "signed_in": signed_in}}


ROWS = [
    build_row(1, "tool_calling", "call", "red headphones under $100", HEADPHONES),
    build_row(
        2,
        "conversation",
        "return",
        "return W10482 please",
        '<tool_call>initiate_return(order_id="W10482")</tool_call>',
        True,
        [{"role": "tool", "content": "{}"}, {"role": "assistant", "content": "Shall I?"}],
    ),
    build_row(3, "conversation", "ask_back", "i want my money back", "What's the order number?"),
    build_row(4, "conversation", "no_call", "thanks a lot", "You're welcome."),
    build_row(5, "categorization", "category", "Which category is this? Bar stool", "Category: Furniture"),
    build_row(6, "product_description", "sentence", SHEET, "The Oak Desk by Arlo, $1299.00, 120 cm, no cable tray."),
]
CASES = [build_case(row) for row in ROWS]
PERFECT = {row["messages"][1]["content"]: row["messages"][2]["content"] for row in ROWS}


def open_script(replies, seen=None, parallel=1):
    """An engine that answers from a mapping and remembers what it was asked."""

    def complete(messages, *, max_tokens=0, temperature=0.0, seed=0, grammar=None, on_text=None):
        if seen is not None:
            seen.append((messages, max_tokens, grammar))
        text = replies(messages[-1]["content"]) if callable(replies) else replies[messages[-1]["content"]]
        return Completion(text, 1, 1, 0.25, 0.1)

    return Engine("script", complete, parallel)


def judge(number, text):
    return judge_answer(Answer(build_case(ROWS[number - 1]), text, None), ["Arlo", "Corvane"])


def test_the_wilson_interval_is_the_one_in_the_style_guide():
    assert wilson_interval(9, 10) == (0.596, 0.982)
    assert wilson_interval(0, 10)[0] == 0.0 and wilson_interval(10, 10)[1] == 1.0


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_an_impossible_rate_is_refused(hits, n):
    with pytest.raises(ValueError, match="right is 0 ≤ hits ≤ n"):
        wilson_interval(hits, n)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_rate_and_stays_inside_0_and_1(case):
    low, high = wilson_interval(*case)
    assert 0 <= low <= case[0] / case[1] + 5e-4 and case[0] / case[1] - 5e-4 <= high <= 1


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.sampled_from([0.5, 0.95]))
def test_a_quantile_is_a_measured_value_inside_its_interval(values, share):
    metric = measure_quantile(values, share)
    assert metric.low <= metric.value <= metric.high and metric.n == len(values)
    assert any(isclose(metric.value, value, abs_tol=1e-4) for value in values)


def test_the_slow_end_of_a_hundred_answers_is_the_95th():
    metric = measure_quantile(range(1, 101), 0.95)
    assert (metric.value, metric.low, metric.high) == (95, 91, 100)


def test_a_metric_cannot_be_changed_after_the_fact():
    with pytest.raises(FrozenInstanceError):
        measure_rate([True]).value = 1.0


@pytest.mark.parametrize(
    ("text", "name", "exact"),
    [
        (HEADPHONES, True, True),
        ('<tool_call>search_products(query="Red  HEADPHONES", max_price=100.0, limit=5)</tool_call>', True, True),
        ('<tool_call>search_products(query="red headphones", max_price=99)</tool_call>', True, False),
        ('<tool_call>search_products(query="red headphones")</tool_call>', True, False),
        ('<tool_call>search_products(query="red headphones", max_price=100, limit=3)</tool_call>', True, False),
        ('<tool_call>get_product_info(product="red headphones")</tool_call>', False, False),
        (HEADPHONES + HEADPHONES, False, False),
        ("Let me look.", False, False),
        ('search_products(query="red headphones", max_price=100)', False, False),
        ('<tool_call>search_products(query="red headphones", max_price=100)', False, False),
        ('<tool_call>search_products("red headphones", max_price=100)</tool_call>', False, False),
        ('<tool_call>search(query="red headphones", max_price=100)</tool_call>', False, False),
        ('<tool_call>{"name": "search_products"}</tool_call>', False, False),
        ("<tool_call>" * 2000, False, False),
        ("", False, False),
    ],
)
def test_tool_name_and_tool_exact_count_only_a_call_that_runs(text, name, exact):
    flags = judge(1, text)
    assert flags["tool_name"] == [name] and flags["tool_exact"] == [exact]
    assert "over_call" not in flags and "ask_back" not in flags


def test_a_number_sign_before_an_order_changes_nothing_but_a_leading_zero_does():
    call = '<tool_call>initiate_return(order_id="{}")</tool_call>'
    assert judge(2, call.format("#w10482"))["tool_exact"] == [True]
    assert judge(2, call.format("W010482"))["tool_exact"] == [False]


@pytest.mark.parametrize(
    ("number", "text", "over_call"),
    [
        (4, "You're welcome.", False),
        (4, HEADPHONES, True),
        (4, "<tool_call>initiate_return(", True),
        (3, "What's the order number?", False),
        (3, '<tool_call>initiate_return(order_id="1")</tool_call>', True),
    ],
)
def test_a_call_where_none_is_due_is_an_over_call_even_a_broken_one(number, text, over_call):
    assert judge(number, text)["over_call"] == [over_call]


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("What's the order number?", True),
        ("Please give me the order number.", True),
        ("I can set up the return once you tell me the number.", True),
        ("Returns are free.", False),
        ("", False),
        ('Sure? <tool_call>initiate_return(order_id="W1")</tool_call>', False),
        ("Which one? <tool_call>", False),
    ],
)
def test_asking_back_is_a_question_without_a_call(text, asked):
    assert judge(3, text)["ask_back"] == [asked]


def test_asking_back_is_no_metric_of_small_talk():
    assert "ask_back" not in judge(4, "Anything else?")
    assert asks_back("I'll need the number") and not asks_back("It is on its way.")


@pytest.mark.parametrize(
    ("text", "invented"),
    [
        (HEADPHONES, [False]),
        ('<tool_call>search_products(query="headphone, red", max_price=100)</tool_call>', [False]),
        ('<tool_call>search_products(query="red Sony headphones")</tool_call>', [True]),
        ('<tool_call>search_products(query="red headphones", max_price=50)</tool_call>', [True]),
        ('<tool_call>search_products(query="red headphones", limit=5)</tool_call>', [False]),
        ('<tool_call>search_products(query="red headphones", category="Electronics")</tool_call>', [True]),
        ("no call", None),
        ("<tool_call>broken", None),
    ],
)
def test_an_argument_that_nobody_stated_is_invented(text, invented):
    assert judge(1, text).get("invented_argument") == invented


def test_the_system_prompt_is_no_evidence_for_an_argument():
    case = Case("x", "no_call", None, ({"role": "user", "content": "hello"},), "Hi.")
    text = '<tool_call>search_products(query="wireless headphones", max_price=100)</tool_call>'
    assert text in build_system_with_tools(None)
    assert judge_answer(Answer(case, text, None))["invented_argument"] == [True]


@pytest.mark.parametrize(
    ("call", "conversation", "invented"),
    [
        (ToolCall("calculate_shipping", {"destination": "Malta", "method": "overnight"}), "by tomorrow to Malta", []),
        (ToolCall("get_customer_orders", {"status": "shipped"}), "what is on its way", []),
        (ToolCall("get_customer_orders", {"order_id": "#10482"}), "my order 10482", []),
        (ToolCall("get_customer_orders", {"order_id": "1048"}), "my order 10482", ["order_id"]),
        (ToolCall("search_products", {"query": "mug", "max_price": 150}), "a mug, a hundred and fifty at most", []),
        (ToolCall("search_products", {"query": "tv", "max_price": 2000}), "a tv for 2k", []),
        (ToolCall("search_products", {"query": "tv", "max_price": 1299}), "a tv up to $1,299.00", []),
        (ToolCall("search_products", {"query": "mug", "limit": 3}), "three mugs", []),
        (ToolCall("search_products", {"query": "mug", "category": "Home & Garden"}), "a mug from the garden shop", []),
        (ToolCall("get_customer_orders", {"customer_id": "C0001"}), "my orders", ["customer_id"]),
    ],
)
def test_numbers_count_by_value_and_the_tools_own_words_are_free(call, conversation, invented):
    assert find_invented(call, conversation) == invented


def test_number_words_become_digits():
    assert write_digits("between twenty and thirty five dollars") == "between 20 and 35 dollars"
    assert (
        write_digits("two thousand five hundred") == "2500"
        and write_digits("someone, tone, done") == "someone, tone, done"
        and write_digits("sixty, fourteen, ninety nine") == "60, 14, 99"
    )


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Category: Furniture", True),
        ("**Category:** furniture.", True),
        ("Furniture", True),
        ("Category: Home & Garden", False),
        ("Category: Furniture & Lamps", False),
        ("It could be furniture or hardware", False),
        ("", False),
    ],
)
def test_a_category_has_to_be_the_exact_name(text, right):
    assert judge(5, text) == {"category": [right]}
    assert read_category("Category: Food, Beverages & Tobacco\nBecause …") == "food, beverages & tobacco"


@pytest.mark.parametrize(
    ("text", "covered", "invented"),
    [
        ("The Oak Desk by Arlo costs $1,299, is 120 cm wide and has no cable tray.", 5, False),
        ("Oak Desk by Arlo.", 2, False),
        ("The Oak Desk by Arlo costs $1299.00, is 120 cm wide and has a cable tray.", 4, False),
        ("The Oak Desk by Arlo costs $1299.00, is 1120 cm wide, no cable tray.", 4, True),
        ("The Oak Desk by Corvane costs $1299.00, is 120 cm wide, no cable tray.", 4, True),
        ("The Oak Desk by Arlo costs $1299.00, weighs 120 kg, no cable tray.", 4, True),
        ("1. Oak Desk\n2. Arlo", 2, False),
        ("", 0, False),
    ],
)
def test_a_description_is_held_to_its_sheet(text, covered, invented):
    flags = judge(6, text)
    assert sum(flags["description_coverage"]) == covered and len(flags["description_coverage"]) == 5
    assert flags["description_invented"] == [invented]


@pytest.mark.parametrize("shape", ["{}", "{} \n\nWrite a snippet of at most 160 characters.", "Facts:\n{}\nthanks"])
@pytest.mark.parametrize("joint", ["\n", "; ", "\n- "])
def test_a_sheet_is_read_in_every_shape(shape, joint):
    sheet = {"Name": "Tarp 3 x 4", "Ports": "2 USB-C, 1 HDMI", "Note": "wash at 30 °C: gentle"}
    lines = [f"{key}: {value}" for key, value in sheet.items()]
    assert parse_sheet(shape.format(("- " if joint == "\n- " else "") + joint.join(lines))) == sheet


@given(st.text(), st.text())
def test_no_text_makes_a_judge_fail(request, reply):
    sheet = parse_sheet(request)
    assert len(find_covered(sheet, reply)) == len(sheet) and isinstance(find_made_up(sheet, reply, ["A.("]), list)
    for kind in ("call", "ask_back", "no_call", "category", "description"):
        case = Case("x", kind, None, ({"role": "user", "content": request},), "", ((),))
        assert judge_answer(Answer(case, reply, None))


@given(st.text("<tool_call>/search_products(query=\"a', max price0.1)", max_size=80))
def test_a_reply_has_calls_or_none_and_never_an_exception(text):
    calls = read_calls(text)
    assert calls is None or calls == parse_tool_calls(text)


def test_the_first_assistant_turn_says_what_is_right():
    kinds = [build_case(row).kind for row in ROWS]
    assert kinds == ["call", "call", "ask_back", "no_call", "category", "description"]
    talk = [{"role": "user", "content": "return it"}, {"role": "assistant", "content": "Which order?"}]
    led_in = build_row(7, "conversation", "ask_back", "hello", "Hi there.", more=talk)
    case = build_case(led_in)
    assert case.kind == "no_call" and [m["content"] for m in case.messages] == ["hello"]
    assert build_case(build_row(8, "conversation", "ask_then_call", "x", "Which?", more=talk)).kind == "ask_back"


def test_a_perfect_system_has_perfect_scores_and_a_silent_one_has_not():
    perfect = score_answers(answer_cases(System("perfect", open_script(PERFECT)), CASES))
    rates = {name for name in perfect if not name.startswith("latency")}
    assert rates == {m for m in METRICS if not m.startswith(("agent", "answer", "latency"))}
    assert all(perfect[name].value == (name not in {*LOWER_IS_BETTER}) for name in rates)
    assert perfect["tool_name"].n == 2 and perfect["over_call"].n == 2 and perfect["description_coverage"].n == 5
    silent = score_answers(answer_cases(System("silent", open_script(lambda text: "")), CASES))
    assert all(silent[name].value == 0 for name in rates - {"invented_argument"})
    assert "invented_argument" not in silent


def test_the_prompt_is_the_systems_own_and_short_tasks_get_few_tokens():
    seen = []
    engine = open_script(lambda text: "ok", seen, parallel=3)
    answers = answer_cases(System("s", engine, build_system_with_tools, EXAMPLES), [*map(build_case, ROWS)])
    assert [answer.case.id for answer in answers] == [row["id"] for row in ROWS]
    for messages, max_tokens, _ in seen:
        customer = "C0001" if "W10482" in messages[-1]["content"] else None
        assert messages[0]["content"] == build_system_with_tools(customer)
        assert messages[1 : 1 + len(EXAMPLES)] == [*EXAMPLES] and messages[-1]["role"] == "user"
        assert max_tokens == (120 if "Oak Desk" in messages[-1]["content"] else 64)
    assert len(seen) == len(ROWS)


def test_latency_comes_from_calls_that_were_answered_alone_after_a_first_one():
    rows = [build_row(n, "tool_calling", "call", "red headphones under $100", HEADPHONES) for n in range(50)]
    answers = answer_cases(System("s", open_script(PERFECT)), [build_case(row) for row in rows], timed=8)
    assert answers[0].seconds is None
    assert [answer.seconds for answer in answers].count(0.25) == 8
    assert score_answers(answers)["latency_p95_s"].n == 8


def test_misses_name_the_row_the_metric_and_both_texts():
    answers = [Answer(build_case(row), "nonsense", None) for row in ROWS]
    misses = list_misses(answers)
    assert {(miss.id, miss.metric) for miss in misses} >= {("r1", "tool_name"), ("r3", "ask_back"), ("r5", "category")}
    assert ("r4", "over_call") not in {(miss.id, miss.metric) for miss in misses}
    assert misses[0].expected == HEADPHONES and misses[0].found == "nonsense" and len(list_misses(answers, 1)) == 1


def test_the_scoreboard_file_holds_what_the_contract_says(tmp_path):
    out = tmp_path / "new" / "scoreboard.json"
    systems = [System("rules", open_rules()), System("tuned", open_script(PERFECT))]
    board = evaluate_systems(systems, ROWS, "cpu", "owner/base", out)
    assert json.loads(out.read_text(encoding="utf-8")) == board and [p.name for p in out.parent.iterdir()] == [out.name]
    assert list(board) == ["created", "profile", "base_model", "versions", "machine", "systems"]
    assert [entry["system"] for entry in board["systems"]] == ["rules", "tuned"]
    for entry in board["systems"]:
        assert set(entry["metrics"]) <= set(METRICS)
        for metric in entry["metrics"].values():
            assert (
                list(metric) == ["value", "low", "high", "n"] and metric["low"] <= metric["high"] and metric["n"] >= 1
            )


def test_a_run_that_fails_leaves_the_old_scoreboard(tmp_path):
    out = tmp_path / "scoreboard.json"
    out.write_text("old", encoding="utf-8")
    with pytest.raises(KeyError):
        evaluate_systems([System("bad", open_script({}))], ROWS, "cpu", "owner/base", out)
    assert out.read_text(encoding="utf-8") == "old"


def test_the_table_shows_every_interval_and_a_dash_for_what_was_not_measured():
    rate, slow = {"value": 0.9, "low": 0.596, "high": 0.982, "n": 10}, {"value": 0.5, "low": 0.4, "high": 1.25, "n": 3}
    board = {"systems": [{"system": "a", "metrics": {"category": rate}}, {"system": "b", "metrics": {}}]}
    board["systems"].append({"system": "c", "metrics": {"category": rate | {"n": 12}, "latency_p50_s": slow}})
    lines = format_scoreboard(board).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(line) for line in lines}) == 1 and cells[0] == ["metric", "a", "b", "c", "n"]
    assert cells[2] == ["category ↑", "90 % (60–98)", "–", "90 % (60–98)", "10–12"]
    assert cells[3] == ["latency_p50_s ↓", "–", "–", "0.5 s (0.4–1.2)", "3"] and len(lines) == 4
    assert format_scoreboard({"systems": []}).startswith("| metric")


def test_rows_are_read_whole_or_a_few_of_each_kind(tmp_path):
    path = tmp_path / "rows.json"
    rows = [row | {"id": f"{row['id']}-{n}"} for n in range(3) for row in ROWS]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert len(read_rows(path)) == 18
    assert [row["id"] for row in read_rows(path, each=1)] == ["r1-0", "r3-0", "r4-0", "r5-0", "r6-0"]
    with pytest.raises(FileNotFoundError, match="elm generate"):
        read_rows(tmp_path / "none.json")


REQUESTS = [
    {
        "id": "a",
        "text": "red mug",
        "customer_id": None,
        "expect": "call",
        "calls": [
            {"name": "search_products", "arguments": {"query": "red mug"}},
            {"name": "get_product_info", "arguments": {"product": "red mug"}},
        ],
        "missing": None,
    },
    {"id": "b", "text": "refund", "customer_id": "C0001", "expect": "ask_back", "calls": [], "missing": "order_id"},
    {"id": "c", "text": "hi", "customer_id": None, "expect": "no_call", "calls": [], "missing": None},
]


def write_requests(path, requests):
    path.write_text("\n".join(json.dumps(request) for request in requests), encoding="utf-8")
    return path


def test_any_acceptable_call_counts_for_a_hand_written_request(tmp_path):
    path = write_requests(tmp_path / "r.jsonl", REQUESTS)
    right = {
        "red mug": '<tool_call>get_product_info(product="Red mug")</tool_call>',
        "refund": "Which order?",
        "hi": "Hi!",
    }
    scores = score_requests(open_script(right), path=path)
    assert scores.misses == () and scores.metrics["tool_name"].value == scores.metrics["tool_exact"].value == 1
    assert scores.metrics["over_call"].n == 2 and "category" not in scores.metrics
    wrong = right | {"red mug": '<tool_call>get_inventory(product="blue mug")</tool_call>', "refund": "No."}
    scores = score_requests(open_script(wrong), path=path)
    found = {(miss.id, miss.metric) for miss in scores.misses}
    assert found == {("a", "invented_argument"), ("a", "tool_name"), ("a", "tool_exact"), ("b", "ask_back")}
    assert "order_id" in next(miss.expected for miss in scores.misses if miss.id == "b")


def test_a_signed_in_customer_is_told_to_the_engine(tmp_path):
    seen = []
    score_requests(open_script(lambda text: "?", seen), path=write_requests(tmp_path / "r.jsonl", REQUESTS))
    assert {messages[-1]["content"]: messages[0]["content"] for messages, *_ in seen}["refund"] == SIGNED_IN
    assert {messages[-1]["content"]: messages[0]["content"] for messages, *_ in seen}["hi"] == GUEST


@pytest.mark.parametrize(
    "change",
    [{"expect": "calls"}, {"calls": []}, {"calls": [{"name": "buy", "arguments": {}}]}, {"calls": [{"name": "x"}]}],
)
def test_a_bad_request_file_names_its_line(tmp_path, change):
    path = write_requests(tmp_path / "r.jsonl", [REQUESTS[2], REQUESTS[0] | change])
    with pytest.raises(ValueError, match=r"r\.jsonl:2: .*right are id, text"):
        read_requests(path)


def test_the_prompt_for_an_untrained_model_holds_tools_format_and_categories():
    prompt = build_system_with_tools("C0001")
    assert prompt.startswith(SIGNED_IN) and build_system_with_tools(None).startswith(GUEST)
    assert len(parse_tool_calls(prompt)) == 1 and "Food, Beverages & Tobacco; Furniture" in prompt
    assert all(f"\n{name}(" in prompt for name in ("search_products", "initiate_return", "get_similar_products"))
    assert all(read_calls(message["content"]) is not None for message in EXAMPLES)


def test_an_unknown_system_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(ValueError, match=r"'best'; right are rules, base"):
        next(open_systems(tmp_path, ["best"]))
    assert next(open_systems(tmp_path, ["rules"])).engine.name == "rules"


def test_importing_the_evaluation_does_not_import_torch():
    code = "import sys, elm_helpers.evaluate, elm_helpers.rules; print('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
