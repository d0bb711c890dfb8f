"""What lies behind the reference adapter's rates, from answers alone."""

import json

from elm_helpers.cases import Case
from elm_helpers.judge import Answer
from elm_helpers.metrics import measure_rate
from elm_helpers.paths import SAMPLE
from elm_helpers.reference import AGENTS, BY_HAND, PAIRS, SCORED_EACH, SHOPS, describe_answers, score_customers
from elm_helpers.tool_calls import ToolCall, format_tool_call

CALL = ToolCall("get_inventory", {"product": "mug"})
TALK = ({"role": "user", "content": "the mug"},)
CASES = [
    Case("1", "call", None, TALK, "", ((CALL,),), "terse"),
    Case("2", "ask_back", None, TALK, "order_id", (), "polite"),
]


def answer(*texts):
    return [Answer(case, text, None) for case, text in zip(CASES, texts, strict=True)]


def test_systems_are_compared_in_pairs_and_the_best_one_is_taken_apart():
    right, wrong = answer(format_tool_call(CALL), "Which order is it?"), answer("no", format_tool_call(CALL))
    found = describe_answers({"rules": wrong, "tuned": wrong, "tuned+grammar": right})
    last = {pair["metric"]: pair for pair in found["paired"] if pair["first"] == "tuned"}
    assert set(last) == {"tool_name", "tool_exact", "over_call", "ask_back"}
    assert all((pair["only_first"], pair["only_second"]) == (0, 1) for pair in last.values())
    assert found["tool_exact"]["tool"]["get_inventory"]["value"] == 1.0
    assert found["confusions"] == [["ask_back", "no call", 1], ["get_inventory", "get_inventory", 1]]
    json.dumps(found)


def test_the_customers_of_four_shops_are_counted_together(monkeypatch):
    seen = []

    def score(engine, scripts, store, *, tries):
        seen.append((store, tries))
        return {"agent_success": measure_rate([True, False])} | (
            {"agent_success_pass4": measure_rate([True])} if tries else {}
        )

    monkeypatch.setattr("elm_helpers.reference.score_agent", score)
    monkeypatch.setattr("elm_helpers.reference.build_store", lambda seed: seed)
    found = score_customers(None)
    assert seen == [(0, 4), (7, 0), (8, 0), (9, 0)] and [shop for shop, _ in seen] == list(SHOPS)
    assert (found["agent_success"].value, found["agent_success"].n, found["agent_success_pass4"].n) == (0.5, 8, 1)


def test_the_committed_figures_have_the_cases_that_the_scoreboard_promises():
    board = json.loads((SAMPLE / "elm-smollm2-135m" / "scoreboard.json").read_text(encoding="utf-8"))
    systems = {system["system"]: system["metrics"] for system in board["systems"]}
    assert len(systems) == 7 and set(AGENTS) | set(BY_HAND) | {name for pair in PAIRS for name in pair} <= set(systems)
    few = {"invented_argument", "agent_success_pass4", "latency_p50_s", "latency_p95_s"}  # calls made, scripts, clocks
    counts = {m["n"] for metrics in systems.values() for name, m in metrics.items() if name not in few}
    assert min(counts) >= 200 == SCORED_EACH["call"]
