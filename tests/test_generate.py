"""The data set: an exact mix, the same bytes for a seed, every call executed, every text faithful, nothing leaked."""

import json
import random
from collections import Counter

from elm_helpers.answers import NUMBER, Rejected, describe_result, say_spec, verify_answer
from elm_helpers.catalogue import CATEGORIES, read_catalogue
from elm_helpers.generate import MIX, count_tasks, generate_rows, write_dataset
from elm_helpers.phrasebook import read_phrasebook
from elm_helpers.prompts import GUEST, SIGNED_IN
from elm_helpers.rows import verify_description
from elm_helpers.tool_calls import format_tool_call, parse_tool_calls
from elm_helpers.tools import TOOLS, Session, run_tool
from elm_helpers.world import read_world

import pytest
from hypothesis import given
from hypothesis import strategies as st

EXACT = ("query", "product", "order_id", "reason", "destination", "promo_code", "variant", "location")


@pytest.fixture(scope="module")
def worlds(shop):
    book, titles = read_phrasebook(), read_catalogue().titles
    return {split: read_world(shop, book, titles, split) for split in ("train", "eval")}


@pytest.fixture(scope="module")
def rows(worlds):
    sizes = {"train": 300, "eval": 150}
    return {split: list(generate_rows(worlds[split], count_tasks(size))) for split, size in sizes.items()}


@pytest.fixture(scope="module")
def both(rows):
    return rows["train"] + rows["eval"]


def list_calls(row):
    texts = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    return [call for text in texts for call in parse_tool_calls(text)]


def test_the_default_mix_is_exact():
    assert list(count_tasks(4000).values()) == [1600, 1200, 800, 400]


@given(rows=st.integers(0, 10_000), shares=st.lists(st.floats(0, 10), min_size=4, max_size=4).filter(any))
def test_any_mix_adds_up_and_is_off_by_less_than_one_row(rows, shares):
    mix = dict(zip(MIX, shares, strict=True))
    counts = count_tasks(rows, mix)
    assert sum(counts.values()) == rows
    assert all(abs(counts[task] - rows * mix[task] / sum(shares)) < 1.001 for task in MIX)


@pytest.mark.parametrize("mix", [{}, {"chat": 1}, {"conversation": -1, "categorization": 2}, {"conversation": 0}])
def test_a_mix_that_makes_no_sense_is_refused(mix):
    with pytest.raises(ValueError, match="mix: found"):
        count_tasks(10, mix)


def test_rows_have_the_contract_s_shape_and_plain_string_contents(both):
    for row in both:
        assert list(row) == ["id", "task", "messages", "meta"]
        assert row["task"] in MIX
        roles = [message["role"] for message in row["messages"]]
        assert roles[0] == "system" and roles[1] == "user" and roles[-1] == "assistant"
        assert all(
            set(m) == {"role", "content"} and type(m["content"]) is str and m["content"] for m in row["messages"]
        )
        assert row["messages"][0]["content"] == (SIGNED_IN if row["meta"]["signed_in"] else GUEST)
        assert not any("{" in m["content"] for m in row["messages"] if m["role"] != "tool"), row["id"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_dataset(tmp_path / name, rows=40, eval_rows=20, seed=seed)
    read = {name: (tmp_path / name / "ecommerce_train.json").read_bytes() for name in "abc"}
    assert read["a"] == read["b"] != read["c"]
    assert not list(tmp_path.rglob("*.part"))
    lines = read["a"].decode().splitlines()
    assert Counter(json.loads(line)["task"] for line in lines) == count_tasks(40)


def test_a_row_does_not_depend_on_how_many_there_are(worlds, rows):
    few = {row["id"]: row for row in generate_rows(worlds["train"], count_tasks(60))}
    many = {row["id"]: row for row in rows["train"]}
    assert sum(few[name] == many[name] for name in few) >= len(few) - 2  # but for a prompt that was there already


def test_tasks_are_interleaved(rows):
    assert len({row["task"] for row in rows["train"][:20]}) == 4


def test_train_and_eval_share_no_template_product_or_phrasing(rows):
    for key in ("template", "phrasing"):
        groups = {s: {part for row in rows[s] for part in row["meta"][key].split("+") if part} for s in rows}
        assert groups["train"] and groups["eval"] and not groups["train"] & groups["eval"]
    products = {split: {product for row in rows[split] for product in row["meta"]["products"]} for split in rows}
    assert products["train"] and products["eval"] and not products["train"] & products["eval"]


def test_no_row_of_training_says_the_name_of_an_eval_product(worlds, rows):
    names = list(worlds["eval"].items)
    assert names
    for row in rows["train"]:
        text = "\n".join(message["content"] for message in row["messages"])
        assert not any(name in text for name in names), row["id"]


def test_almost_every_prompt_is_there_once(both):
    prompts = Counter(json.dumps(row["messages"][:-1]) for row in both)
    assert len(prompts) == len(both)


def test_every_call_is_written_canonically_and_the_shop_takes_it(both, worlds):
    seen = Counter()
    for row in both:
        for message in row["messages"]:
            for call in parse_tool_calls(message["content"]) if message["role"] == "assistant" else ():
                assert message["content"] == format_tool_call(call)
                seen[call.name] += 1
        if row["task"] == "tool_calling":
            world = worlds[row["id"].split("-")[0]]
            customer = world.orders[0].customer_id if row["meta"]["signed_in"] else None
            result = run_tool(Session(world.conn, customer), call.name, call.arguments)
            assert "error" not in result or "order" in result["error"], (row["id"], result)
    assert set(seen) == set(TOOLS)


def test_every_result_in_a_row_is_what_the_shop_returns(rows, worlds):
    checked = 0
    for row in (row for row in rows["eval"] if row["task"] == "conversation"):
        for call, result in zip(row["messages"], row["messages"][1:], strict=False):
            if result["role"] == "tool" and not row["meta"]["signed_in"]:
                call = parse_tool_calls(call["content"])[0]
                assert run_tool(Session(worlds["eval"].conn), call.name, call.arguments) == json.loads(
                    result["content"]
                )
                checked += 1
    assert checked > 5


def test_tool_calling_rows_end_in_one_call_and_treat_the_tools_alike(both):
    ends = [row["messages"][-1]["content"] for row in both if row["task"] == "tool_calling"]
    counts = Counter(parse_tool_calls(text)[0].name for text in ends)
    assert set(counts) == set(TOOLS) and max(counts.values()) - min(counts.values()) <= 2


def test_arguments_are_copied_from_the_customer_or_from_what_was_shown(both):
    for row in both:
        heard = ""
        for message in row["messages"]:
            for call in parse_tool_calls(message["content"]) if message["role"] == "assistant" else ():
                for name, value in call.arguments.items():
                    copied = name not in EXACT or str(value) in heard or (name, value) == ("location", "online")
                    assert copied, (row["id"], name, value)
            heard += "\n" + message["content"]


def test_a_write_runs_only_after_the_customer_said_yes(both):
    approved = 0
    for row in both:
        texts = [message["content"] for message in row["messages"]]
        for at, text in enumerate(texts):
            if row["messages"][at]["role"] == "tool" and '"approved"' in text:
                approved += 1
                assert texts[at - 1] in texts[: at - 1], "the same call was there before"
                assert '"needs_confirmation"' in "".join(texts[:at])
    assert approved > 3


def test_generating_rows_leaves_the_shop_as_it_was(worlds):
    world = worlds["train"]
    before = world.conn.execute("SELECT count(*) FROM returns").fetchone()[0]
    list(generate_rows(world, {"conversation": 40}, seed=9))
    assert world.conn.execute("SELECT count(*) FROM returns").fetchone()[0] == before


def test_final_answers_are_short_and_say_only_what_was_returned(both, worlds):
    policies, checked = "30 days, 5 stars", 0
    for row in (row for row in both if row["task"] == "conversation"):
        names = worlds[row["id"].split("-")[0]].items
        said = policies
        for before, message in zip(row["messages"], row["messages"][1:], strict=False):
            if message["role"] == "assistant" and before["role"] == "tool" and "<tool_call>" not in message["content"]:
                verify_answer(message["content"], said, names)
                checked += 1
            said += "\n" + message["content"]
    assert checked > 50


def test_conversations_hold_calls_ask_backs_refusals_errors_and_returns(both):
    kinds = Counter(row["meta"]["kind"] for row in both if row["task"] == "conversation")
    assert {"call", "ask_back", "no_call", "return", "pick", "follow_up", "error"} <= set(kinds)
    quiet = kinds["ask_back"] + kinds["no_call"]
    assert 0.60 <= quiet / sum(kinds.values()) <= 0.70
    for row in both:
        if row["meta"]["kind"] in ("ask_back", "no_call"):
            assert "<tool_call>" not in row["messages"][-1]["content"] and row["meta"]["tool"] is None


def test_categories_are_named_exactly(both):
    answers = {row["messages"][-1]["content"] for row in both if row["task"] == "categorization"}
    assert len(answers) > 10
    assert answers <= {f"Category: {name}" for name in CATEGORIES}


def test_descriptions_say_all_of_the_sheet_and_no_other_number(both):
    for row in (row for row in both if row["task"] == "product_description"):
        sheet, text = row["messages"][1]["content"], row["messages"][-1]["content"]
        assert set(NUMBER.findall(text)) <= set(NUMBER.findall(sheet)), row["id"]
        assert len(text.split()) <= 60
        assert row["meta"]["kind"] != "seo" or len(text) <= 160


@pytest.mark.parametrize("text", ["The Oak Desk.", "The Oak Desk has 2 drawers and 4 legs.", "The Desk has 2 drawers."])
def test_an_unfaithful_description_is_rejected(text):
    with pytest.raises(Rejected):
        verify_description({"name": "Oak Desk", "drawers": "2"}, text)


@pytest.mark.parametrize("answer", ["The Mug is $9.50.", "The Mug is $12.05.", "The Jug is $12.50.", "word " * 61])
def test_an_answer_with_something_made_up_is_rejected(answer):
    with pytest.raises(Rejected):
        verify_answer(answer, '{"name": "Mug", "price": 12.5}', ["Mug", "Jug"])


def test_a_denied_fact_stays_denied():
    assert say_spec("noise cancelling", "no").startswith("no ")
    assert say_spec("dishwasher safe", "no") == "not dishwasher safe"


def test_every_result_has_wordings(worlds):
    keys = set(worlds["train"].book.wordings)
    error = {"error": "something that nobody thought of"}
    assert describe_result("get_inventory", {}, error, random.Random(0))[0] == "error.other"
    for tool, world in ((tool, world) for tool in TOOLS for world in worlds.values()):
        item = next(iter(world.items.values()))
        order = next(order for order in world.orders if order.returnable)
        given = {"query": item.kind, "product": item.name, "destination": "Canada", "order_id": order.id}
        known = {name: given[name] for name in given if name in TOOLS[tool].__annotations__}
        known = known if tool != "initiate_return" else {"order_id": order.id}
        result = run_tool(Session(world.conn, order.customer_id), tool, known)
        assert f"answers.{describe_result(tool, known, result, random.Random(0))[0]}" in keys


def test_a_stored_shop_can_be_used_instead_of_the_built_one(tmp_path):
    from elm_helpers.store import build_store

    build_store(tmp_path / "shop.db").close()
    report = write_dataset(tmp_path, rows=10, eval_rows=10, store_path=tmp_path / "shop.db")
    assert report.counts["train"] == count_tasks(10)
