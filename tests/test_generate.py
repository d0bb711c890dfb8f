"""The data set: an exact mix, the same bytes for a seed, every call executed, every text faithful, nothing leaked."""

import json
import random
import re
from collections import Counter, defaultdict
from dataclasses import replace

from elm_helpers import generate
from elm_helpers.answers import NUMBER, Rejected, describe_result, say_spec, verify_answer
from elm_helpers.catalogue import CATEGORIES, read_catalogue
from elm_helpers.dialogue import ORDINALS, _fit_article, mark_one
from elm_helpers.generate import MIX, count_tasks, generate_rows, write_dataset
from elm_helpers.messages import Slot
from elm_helpers.phrasebook import Phrase, PhrasebookError, read_phrasebook
from elm_helpers.prompts import GUEST, SIGNED_IN
from elm_helpers.rows import verify_description
from elm_helpers.tool_calls import format_tool_call, parse_tool_calls
from elm_helpers.tools import TOOLS, Session, run_tool
from elm_helpers.world import read_world

import pytest
from huggingface_hub import DatasetCard
from hypothesis import given
from hypothesis import strategies as st

VAGUE = Phrase("get_inventory-0", "got any")  # a wording that lacks the product
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


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The data at its default size, as `elm generate` writes it."""
    out = tmp_path_factory.mktemp("processed")
    write_dataset(out)
    read = {
        split: [json.loads(line) for line in (out / f"ecommerce_{split}.json").read_text(encoding="utf-8").splitlines()]
        for split in ("train", "eval")
    }
    return read | {"card": out / "README.md"}


def list_prompts(row):
    return [message["content"] for message in row["messages"] if message["role"] == "user"]


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


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "CHUNK", 60)  # the workers import the module anew, but are handed chunks of 60
    for name, workers in (("one", 1), ("two", 2)):
        report = write_dataset(tmp_path / name, rows=150, eval_rows=20, workers=workers)
        assert sum(report.counts["train"].values()) == 150
    one, two = ((tmp_path / name / "ecommerce_train.json").read_bytes() for name in ("one", "two"))
    assert one == two


def test_no_two_prompts_of_a_chunk_are_nearly_the_same(dataset):
    """Word triples of the customers' turns, compared exactly where the sketches only estimate."""
    seen, pairs = defaultdict(list), []
    for row in dataset["train"]:
        words = row["messages"][0]["content"].split()[-3:] + " ".join(list_prompts(row)).lower().split()
        triples = {" ".join(words[at : at + 3]) for at in range(len(words) - 2)}
        for other in {id(o): o for triple in triples for o in seen[triple]}.values():
            if len(triples & other) / len(triples | other) > 0.9:
                pairs.append(row["id"])
        for triple in triples if len(triples) < 40 else ():
            seen[triple].append(triples)
    assert not pairs


def test_a_repeated_prompt_of_an_earlier_chunk_is_drawn_anew(worlds, monkeypatch):
    monkeypatch.setattr(generate, "CHUNK", 10)
    rejects = Counter()
    rows = list(generate_rows(worlds["eval"], {"categorization": 1200}, rejects=rejects))
    assert rejects[f"categorization: {generate.REPEATED}"] > 0
    prompts = Counter(json.dumps(row["messages"][:-1]) for row in rows)
    assert len(prompts) == len(rows)


def test_train_and_eval_prompts_share_no_eight_words_in_a_row(dataset):
    """Names are held out with their products; facts on a sheet and other shops' titles are data, not wording."""

    def list_grams(split):
        grams = set()
        for row in dataset[split]:
            for prompt in list_prompts(row):
                wording = [line for line in prompt.splitlines() if not re.match(r"(- )?[A-Z][\w -]*: ", line)]
                words = re.findall(r"[a-z0-9']+", "\n".join(wording).lower())
                grams |= {tuple(words[at : at + 8]) for at in range(len(words) - 7)}
        return grams

    train, held_out = list_grams("train"), list_grams("eval")
    assert len(train) > 10_000 and len(held_out) > 1_000
    assert sorted(train & held_out) == []


def test_the_default_data_is_made_in_one_go_with_its_card(dataset, tmp_path):
    assert [len(dataset[split]) for split in ("train", "eval")] == [4000, 1000]
    card = DatasetCard.load(dataset["card"])
    assert card.data.license == "apache-2.0"
    assert card.data.configs[0]["data_files"][0] == {"split": "train", "path": "ecommerce_train.json"}
    assert "4,000" in card.text and "1,600" in card.text


def test_a_planted_instruction_changes_nothing(dataset):
    hostile = [row for row in dataset["train"] if row["meta"]["kind"] == "hostile"]
    assert len(hostile) >= 10
    for row in hostile:
        assert {call.name for call in list_calls(row)} == {"get_product_info"}
        answers = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
        assert not any(re.search("HACKED|FREE100|1 dollar|prompt", answer) for answer in answers)


def test_two_wishes_are_two_calls_in_a_row_and_one_answer(dataset):
    rows = [row for row in dataset["train"] if row["meta"]["kind"] == "two_tools"]
    assert len(rows) >= 10
    for row in rows:
        assert [m["role"] for m in row["messages"]][1:7] == ["user", *["assistant", "tool"] * 2, "assistant"]
        assert len({call.name for call in list_calls(row)}) == 2


def test_after_an_error_the_customer_corrects_and_the_call_goes_well(dataset):
    rows = [row for row in dataset["train"] if row["meta"]["kind"] == "recover"]
    assert len(rows) >= 10
    for row in rows:
        results = [json.loads(m["content"]) for m in row["messages"] if m["role"] == "tool"]
        assert "error" in results[0] and "error" not in results[-1]


def test_calls_also_name_things_that_no_shop_here_sells(dataset, worlds):
    calls = [call for row in dataset["train"] if row["task"] == "tool_calling" for call in list_calls(row)]
    named = [call.arguments["product"] for call in calls if "product" in call.arguments]
    known = " ".join(worlds["train"].items).lower()
    foreign = [name for name in named if name.lower() not in known]
    assert len(set(foreign)) > 60


def test_no_product_or_query_ends_where_a_name_was_cut(dataset):
    calls = [call for split in ("train", "eval") for row in dataset[split] for call in list_calls(row)]
    said = [call.arguments.get(name, "") for call in calls for name in ("product", "query")]
    assert len([text for text in said if text]) > 500
    assert not [text for text in said if re.search(r" (an?|and|by|for|from|in|no|of|on|or|the|to|with|w)$", text, re.I)]


def test_one_of_a_list_is_told_by_its_place_its_price_or_a_word_that_only_its_name_holds():
    listed = [{"name": name, "price": n} for name, n in (("Red Cup", 5.0), ("Blue Cup", 9.0), ("Mini Cup", 7.0))]
    said = {mark_one(listed, 1, random.Random(seed)) for seed in range(40)}
    assert said == {ORDINALS[1], "blue", "most expensive"}
    assert "cheapest" not in {mark_one(listed, 2, random.Random(seed)) for seed in range(40)}
    assert mark_one([{"name": "Cup", "price": 5}] * 2, 1, random.Random(0)) == ORDINALS[1]


def test_a_brand_s_own_thing_takes_no_article():
    own, other = ({"product": Slot(name)} for name in ("Xanda's mixer", "Xanda mixer"))
    assert _fit_article("is the {product} good, or my {product}", own) == "is {product} good, or {product}"
    assert _fit_article("is the {product} good", other) == "is the {product} good"


@pytest.mark.parametrize(
    ("units", "named"),
    [({"Northgate": 0}, "Mug at Northgate"), ({"online": None}, "Mug online"), ({"Northgate": 0, "online": 0}, "Mug")],
)
def test_what_one_place_lacks_is_not_said_of_the_whole_shop(units, named):
    result = {"product": "Mug", "stock": [{"variant": "standard", "units": units}], "restock_date": None}
    case, slots = describe_result("get_inventory", {}, result, random.Random(0))
    assert case in ("get_inventory.gone", "get_inventory.unknown") and slots["product"] == named


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
            fine = "error" not in result or "order" in result["error"] or "no product matches" in result["error"]
            assert fine, (row["id"], result)
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
    wanted = {"call", "ask_back", "no_call", "return", "pick", "follow_up", "error", "recover", "two_tools", "hostile"}
    assert wanted <= set(kinds)
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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"requests": {}}, "requests/search_products.yaml: found no such file"),
        ({"requests": {"get_stock": ()}}, r"found \['get_stock'\], the tools are search_products,"),
        ({"wordings": {}}, "requests/search_products.yaml: found no answers"),
        ({"phrases": (VAGUE, VAGUE)}, "'got any' makes a wrong call: get_inventory needs product"),
    ],
)
def test_a_tool_without_its_phrases_is_refused_in_words(tmp_path, monkeypatch, change, said):
    book = read_phrasebook()
    if phrases := change.pop("phrases", None):
        asked = replace(book.requests["get_inventory"], phrases=phrases)
        change = {"requests": book.requests | {"get_inventory": asked}}
    monkeypatch.setattr("elm_helpers.generate.read_phrasebook", lambda: replace(book, **change))
    with pytest.raises(PhrasebookError, match=said):
        write_dataset(tmp_path, rows=40, eval_rows=10, mix={"tool_calling": 1})


def test_a_stored_shop_can_be_used_instead_of_the_built_one(tmp_path):
    from elm_helpers.store import build_store

    build_store(tmp_path / "shop.db").close()
    report = write_dataset(tmp_path, rows=10, eval_rows=10, store_path=tmp_path / "shop.db")
    assert report.counts["train"] == count_tasks(10)
