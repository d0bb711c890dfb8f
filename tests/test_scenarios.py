"""Scripted customers: every scenario can be solved, and no engine that does nothing, or too much, passes by it."""

import json
import re
from dataclasses import replace

from elm_helpers.dialogue import copy_shop
from elm_helpers.engines import Completion, Engine
from elm_helpers.phrasebook import BRACKETS, SLOT, read_phrasebook
from elm_helpers.scenarios import (
    SCRIPTED,
    _fill,
    _read_listed,
    find_wrong_rows,
    read_scenarios,
    read_slots,
    run_scenario,
    score_agent,
)
from elm_helpers.store import build_store, read_split
from elm_helpers.tool_calls import parse_tool_calls
from elm_helpers.tools import TOOLS

import pytest

SCENARIOS = read_scenarios()
by_name = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.id)


def script(reply):
    """An engine that writes ``reply(messages)``."""

    def complete(messages, *, max_tokens=200, temperature=0.0, seed=0, grammar=None, on_text=None):
        return Completion(reply(messages), 10, 10, 0.01, 0.01)

    return Engine("script", complete)


def write_calls(calls, slots):
    """The calls as the model would write them, with the texts of the slots escaped."""
    escaped = {name: json.dumps(str(value), ensure_ascii=False)[1:-1] for name, value in slots.items()}
    return "".join(f"<tool_call>{_fill(call, escaped)}</tool_call>" for call in calls)


def open_perfect(scenario, shop):
    """An engine that is told the right calls of every turn."""
    slots = read_slots(scenario, shop)
    told = {_fill(turn.say, slots): turn.calls for turn in scenario.turns}
    assert len(told) == len(scenario.turns), "two turns in the same words"
    seen = []

    def reply(messages):
        if messages[-1]["role"] != "user":
            seen.append(json.loads(messages[-1]["content"]))
            return "Here you are."
        return write_calls(told[messages[-1]["content"]], slots | _read_listed(seen)) or "All right."

    return script(reply)


def open_returner():
    """An engine that sends back every order whose number it reads."""

    def reply(messages):
        found = [word.strip(".,:;?!") for word in messages[-1]["content"].split() if re.search(r"\d", word)]
        return write_calls([f'initiate_return(order_id="{found[0]}")'] if found else [], {}) or "Shall I?"

    return script(reply)


@pytest.fixture(scope="module")
def shops(shop):
    """The course's shop, its held-out half, and a shop of another seed."""
    return [shop, read_split(shop, "eval"), build_store(seed=7)]


def test_there_are_enough_customers_and_they_need_all_tools():
    assert len(SCENARIOS) >= 58
    assert sum(len(scenario.turns) for scenario in SCENARIOS) >= 150
    needed = {tool: set() for tool in TOOLS}
    for scenario in SCENARIOS:
        for call in (call for turn in scenario.turns for call in turn.calls):
            needed[call.split("(")[0]].add(scenario.id)
    assert all(len(ids) >= 4 for ids in needed.values()), {tool: len(ids) for tool, ids in needed.items()}
    assert sum(bool(scenario.returns) for scenario in SCENARIOS) >= 15
    assert sum(scenario.customer == "guest" for scenario in SCENARIOS) >= 3


def test_they_change_their_mind_mistype_ask_for_strangers_data_and_come_back_late():
    """What a customer does, and how many of the scripts do it."""
    proposed = {one.id: [c for t in one.turns for c in t.calls if c.startswith("initiate_return")] for one in SCENARIOS}
    said = {one.id: " ".join(turn.say for turn in one.turns) for one in SCENARIOS}
    found = {
        "changes their mind": [one for one in SCENARIOS if len(set(proposed[one.id])) > max(1, len(one.returns))],
        "asks for a return and keeps it": [one for one in SCENARIOS if one.id.startswith("keep") and proposed[one.id]],
        "gives a wrong order number": [one for one in SCENARIOS if "{mistyped_order_id}" in said[one.id]],
        "asks for somebody else's data": [one for one in SCENARIOS if any("{other_" in text for text in one.hidden)],
        "confirms twice": [one for one in SCENARIOS if any(turn.again for turn in one.turns) or "twice" in one.id],
        "wants what cannot be done": [
            one for one in SCENARIOS if "cannot" in one.purpose or "Past the time" in one.purpose
        ],
        "refers to a list": [one for one in SCENARIOS if "{first}" in str(one.turns) or "{second}" in str(one.turns)],
        "comes back to something later": [one for one in SCENARIOS if len(one.turns) >= 5],
        "types a call": [one for one in SCENARIOS if "<tool_call>" in said[one.id]],
    }
    wanted = {"gives a wrong order number": 2, "confirms twice": 2, "types a call": 1}
    assert {name: len(ones) for name, ones in found.items() if len(ones) < wanted.get(name, 3)} == {}


def test_a_question_between_proposal_and_yes_is_in_the_scripts_and_the_yes_still_counts(shop):
    scenario = next(one for one in SCENARIOS if one.id == "return-question-in-between")
    result = run_scenario(open_perfect(scenario, shop), scenario, shop)
    assert [len(turn.writes) for turn in result.turns] == [0, 0, 0, 1]


def test_every_call_that_a_perfect_assistant_makes_can_be_run(shop):
    for scenario in SCENARIOS:
        slots = dict.fromkeys(("first", "second", "third"), "Mug") | read_slots(scenario, shop)
        for turn in scenario.turns:
            assert len(parse_tool_calls(write_calls(turn.calls, slots))) == len(turn.calls)


@by_name
def test_a_perfect_assistant_satisfies_every_customer_in_every_shop(scenario, shops):
    for shop in shops:
        result = run_scenario(open_perfect(scenario, shop), scenario, shop)
        assert result.reasons == ()
        assert len(result.turns) == len(scenario.turns) + sum(turn.again for turn in scenario.turns)
        assert sum(len(turn.writes) for turn in result.turns) == len(scenario.returns)


@by_name
def test_no_customer_is_satisfied_by_silence(scenario, shop):
    assert run_scenario(script(lambda messages: "I am sorry."), scenario, shop).reasons


def test_an_assistant_that_returns_everything_is_caught_where_nobody_asked_for_it(shop):
    results = {one.id: run_scenario(open_returner(), one, shop) for one in SCENARIOS}
    for scenario in SCENARIOS:
        written = sum(len(turn.writes) for turn in results[scenario.id].turns)
        assert written <= len(scenario.returns) or results[scenario.id].reasons, scenario.id
    assert any("should not be there" in reason for reason in results["keep-yes-with-nothing-waiting"].reasons)
    assert any("is missing" in reason for reason in results["return-one-of-two"].reasons)
    passed = [one for one in SCENARIOS if not results[one.id].reasons]
    assert all(call.startswith("initiate_return") for one in passed for turn in one.turns for call in turn.calls)


def test_a_row_that_is_written_without_a_yes_is_seen(shop, own_shop):
    order = own_shop.execute("SELECT id FROM orders WHERE id NOT IN (SELECT order_id FROM returns)").fetchone()[0]
    line = own_shop.execute("SELECT * FROM order_lines WHERE order_id = ?", (order,)).fetchone()
    row = ("R1", order, line["line"], "just so", round(line["price"] * line["quantity"], 2), "approved", "2026-11-02")
    own_shop.execute("INSERT INTO returns VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    assert any(order in reason for reason in find_wrong_rows(shop, own_shop, []))


def test_any_other_change_is_seen(shop, own_shop):
    assert find_wrong_rows(shop, own_shop, []) == []
    own_shop.execute("UPDATE products SET price = price + 1 WHERE id = (SELECT min(id) FROM products)")
    assert [reason.split(":")[0] for reason in find_wrong_rows(shop, own_shop, [])] == ["products", "products"]


def test_a_shop_with_an_open_transaction_is_copied_as_it_is_seen_and_stays_open(shop, tmp_path):
    file = build_store(tmp_path / "shop.db")
    file.execute("UPDATE products SET price = 1.5")
    copy = copy_shop(file)
    assert file.in_transaction
    assert {row[0] for row in copy.execute("SELECT price FROM products")} == {1.5}
    copy.execute("DELETE FROM products WHERE id = 'P0001'")
    copy.commit()
    again = copy_shop(copy)
    left, all_of_them = (len(one.execute("SELECT 1 FROM products").fetchall()) for one in (again, file))
    assert left == all_of_them - 1 > 100
    file.rollback()
    assert find_wrong_rows(shop, file, []) == []
    file.close()


def test_a_return_of_nothing_is_a_mistake_of_the_scenario(shop):
    with pytest.raises(ValueError, match="order W0 has nothing to send back"):
        find_wrong_rows(shop, shop, [{"order_id": "W0"}])


def test_an_answer_that_shows_what_has_to_stay_hidden_fails(shop):
    scenario = next(scenario for scenario in SCENARIOS if scenario.id == "somebody-elses-order")
    secret = read_slots(scenario, shop)["other_product"]
    scenario = replace(scenario, turns=(replace(scenario.turns[0], say="What about the {other_product}?"),))
    result = run_scenario(script(lambda messages: f"It holds the {secret}."), scenario, shop)
    assert result.reasons == (f"turn 1: {secret} was shown",)


def test_a_turn_that_raises_is_a_failure_and_not_the_end(shop):
    def fail(messages):
        raise RuntimeError("out of memory")

    results = []
    scores = score_agent(script(fail), SCENARIOS[:2], shop, tries=0, on_result=results.append)
    assert (len(results), scores["agent_success"].value) == (2, 0.0)
    assert all("turn 1 raised RuntimeError('out of memory')" in result.reasons[0] for result in results)


def test_pass_4_wants_all_four_and_sampling_uses_the_seeds(shop):
    scenario = next(scenario for scenario in SCENARIOS if scenario.id == "keep-after-all")
    perfect, used = open_perfect(scenario, shop), []

    def complete(messages, *, temperature=0.0, seed=0):
        used.append((temperature, seed))
        if seed == 3:
            return Completion("Hm.", 1, 1, 0.0, 0.0)
        return perfect.complete(messages)

    results = []
    scores = score_agent(Engine("script", complete), [scenario], shop, temperature=0.5, on_result=results.append)
    assert set(used) == {(0.0, 0), (0.5, 1), (0.5, 2), (0.5, 3), (0.5, 4)}
    assert (scores["agent_success"].value, scores["agent_success_pass4"].value) == (1.0, 0.0)
    assert [bool(result.reasons) for result in results] == [False, False, False, True, False]
    assert scores["answer_grounded"].n == 5 * len(scenario.turns)
    assert scores["answer_untrue"].value == 0


def test_a_replaced_answer_is_not_grounded_and_a_second_try_is(shop):
    said = []

    def lie(messages):
        said.append(1)
        return "It costs $1.23." if len(said) == 1 else "Hm."

    scores = score_agent(script(lie), SCENARIOS[:1], shop, tries=0)
    assert (scores["answer_grounded"].value, scores["answer_second_try"].value) == (1.0, 0.5)
    scores = score_agent(script(lambda messages: "It costs $1.23."), SCENARIOS[:1], shop, tries=0)
    assert (scores["answer_grounded"].value, scores["answer_untrue"].value) == (0.0, 0.0)


def test_two_runs_say_the_same(shop):
    first, again = ([run_scenario(open_returner(), one, shop).reasons for one in SCENARIOS[15:20]] for _ in range(2))
    assert first == again


def test_no_turn_is_a_phrase_of_the_phrasebook():
    def expand(text):
        found = BRACKETS.search(text)
        return (
            [text]
            if not found
            else [one for part in found[1].split("|") for one in expand(text.replace(found[0], part, 1))]
        )

    def plain(text):
        return " ".join(re.findall(r"\w+", SLOT.sub("_", text).casefold()))

    book, known = read_phrasebook(), set()
    phrases = [phrase.text for requests in book.requests.values() for phrase in requests.phrases]
    phrases += [phrase.text for intent in book.intents for phrase in intent.asks]
    phrases += [phrase.text for key, texts in book.wordings.items() if "follow" in key for phrase in texts]
    for text in phrases:
        known |= {plain(one) for one in expand(text)}
    assert len(known) > 3000
    copied = [turn.say for scenario in SCENARIOS for turn in scenario.turns if plain(turn.say) in known]
    assert copied == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    purpose: A plain no.\n", "", "scenario keep-after-all, field purpose: found None; a str is right"),
        ("    purpose: A plain no.\n", "    purpos: A plain no.\n", "scenario keep-after-all, field purpose"),
        (
            "id: keep-doubtful-yes",
            "id: keep-after-all",
            "scenario keep-after-all, field turns or id: found 3; right are 2 to 7, and an id of its own",
        ),
        ("customer: gold customer\n", "customer: king\n", "scenario code-for-gold, field customer: found 'king'"),
        (
            "mailed {promo_code}",
            "mailed {code}",
            r"code-for-gold, turn 1, field say: found \{code\}; right are customer_id",
        ),
        ("again: true", "again: often", "return-confirmation-replayed, turn 2, field again: found 'often'; a bool"),
        ("again: true", "agane: true", "return-confirmation-replayed, turn 2, field agane: found an unknown field"),
        ("FROM fresh f JOIN typo", "FROM stale f JOIN typo", "role owner of a returnable order: found no such table"),
        (
            '    returns: [{order_id: "{order_id}", product: "{other_product}"}]',
            "    returns: [{product: x}]",
            "order_id",
        ),
    ],
)
def test_a_mistake_in_the_file_names_scenario_and_field(tmp_path, old, new, message):
    text = SCRIPTED.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "scripted.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"scripted\.yaml: .*{message}"):
        read_scenarios(path)
