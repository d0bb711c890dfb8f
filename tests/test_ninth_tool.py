"""A ninth tool takes one declaration and one file of phrases; all the rest of the package follows from these two."""

import json
import os
import re
import shutil
import subprocess
import sys

from elm_helpers.paths import ROOT

import pytest
import yaml

FUNCTION = '''
def get_opening_hours(session: Session, branch: str, day: Literal["weekday", "saturday"] = "weekday") -> dict:
    """Say when one of the shops is open.

    Args:
        branch: Which shop.
        day: Which day.
    """
    hours = {"northgate": "9:00", "riverside": "10:30"}
    if branch.lower() not in hours:
        return {"error": f"no shop is called {shorten(branch)}; the shops are {', '.join(hours)}"}
    return {"branch": branch, "day": day, "opens": hours[branch.lower()], "closes": "18:00"}


'''
PHRASES = """
tool: get_opening_hours
phrases:
  - "when does {branch} open?"
  - "opening hours of {branch}"
  - "how long is the {branch} shop open {day}?"
  - "is {branch} open {day}"
  - "tell me the hours of your {branch} shop"
  - "until when can I come to {branch}?"
  - "hours {branch}"
values:
  branch: [Northgate, Riverside]
  day: {on Saturday: saturday, during the week: weekday}
answers:
  done:
    - "{branch} is open from {opens} to {closes}."
    - "You can come to {branch} between {opens} and {closes}."
  given:
    - "{branch}"
    - "the one in {branch}"
intents:
  - intent: hours_of_the_service_team
    kind: no_call
    asks: ["when can I phone you?", "are you there at night?", "hours of the hotline"]
    replies: ["The service team answers e-mails all day.", "You can write at any time."]
  - intent: hours_without_branch
    kind: ask_back
    then: {get_opening_hours: branch}
    asks: ["when do you open?", "opening hours please", "are you open today"]
    replies: ["Which shop do you mean?", "For which of the shops?"]
"""
LOOK = """
import json, sys
from elm_helpers import agent, metrics
from elm_helpers.engines import Completion, Engine
from elm_helpers.catalogue import read_catalogue
from elm_helpers.generate import generate_rows
from elm_helpers.grammar import build_copying_gbnf, build_gbnf
from elm_helpers.careful import find_missing
from elm_helpers.phrasebook import read_phrasebook
from elm_helpers.prompts import build_system_with_tools
from elm_helpers.store import build_store
from elm_helpers.tool_calls import ToolCall, format_tool_call, parse_tool_calls
from elm_helpers.tools import TOOLS, Session, build_json_schema
from elm_helpers.world import read_world

store, book, titles = build_store(":memory:"), read_phrasebook(), read_catalogue().titles
worlds = {split: read_world(store, book, titles, split) for split in ("train", "eval")}
sizes = {"tool_calling": 90, "conversation": 600}
rows = {split: list(generate_rows(world, sizes)) for split, world in worlds.items()}
call = ToolCall("get_opening_hours", {"branch": "Northgate"})
asked = [{"role": "user", "content": "is Northgate open?"}]
scripted = lambda text: (lambda messages, **_: Completion(text.pop(0), 0, 0, 0.0, 0.0))
right = agent.run_turn(Engine("x", scripted([format_tool_call(call), "It opens at 9:00."])), Session(store),
                       agent.Conversation(), "is Northgate open?")[1]
lie = [format_tool_call(call), "It opens at 7:00.", "At 7:00."]
wrong = agent.run_turn(Engine("x", scripted(lie)), Session(store), agent.Conversation(), "is Northgate open?")[1]
json.dump({
    "tools": len(TOOLS), "rows": rows,
    "schema": build_json_schema("get_opening_hours"), "prompt": build_system_with_tools(None),
    "grammar": build_gbnf(), "copying": build_copying_gbnf(asked),
    "parsed": parse_tool_calls(format_tool_call(call))[0].arguments,
    "missing": find_missing(ToolCall("get_opening_hours", {"branch": "your"})),
    "invented": metrics.find_invented(ToolCall("get_opening_hours", {"branch": "Leeds"}), "is Northgate open?"),
    "answers": [right.answer, wrong.answer],
}, sys.stdout)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the package says in a copy of the repository that has the two additions and nothing else."""
    copy = tmp_path_factory.mktemp("ninth")
    shutil.copytree(ROOT / "elm_helpers", copy / "elm_helpers", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "data" / "templates", copy / "data" / "templates")
    tools = copy / "elm_helpers" / "tools.py"
    text = tools.read_text(encoding="utf-8")
    before, rest = text.split("TOOLS = {", 1)
    declared = (
        before
        + FUNCTION
        + "TOOLS = {"
        + rest.replace(
            "        get_similar_products,\n", "        get_similar_products,\n        get_opening_hours,\n", 1
        )
    )
    tools.write_text(declared, encoding="utf-8")
    (copy / "data/templates/requests/get_opening_hours.yaml").write_text(PHRASES, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", LOOK], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def list_rows(found, split: str, kind: str = "") -> list[dict]:
    """Return a side's rows that call the new tool, of one kind or of all."""
    return [
        row
        for row in found["rows"][split]
        if row["meta"].get("kind", "").startswith(kind)
        and any("get_opening_hours(" in m["content"] for m in row["messages"] if m["role"] == "assistant")
    ]


@pytest.mark.parametrize("split", ["train", "eval"])
def test_rows_call_the_new_tool_as_often_as_the_others(found, split):
    calls = [row for row in found["rows"][split] if row["task"] == "tool_calling"]
    mine = [row for row in calls if row["meta"]["tool"] == "get_opening_hours"]
    assert len(calls) == 90 and len(mine) in (90 // found["tools"], 90 // found["tools"] + 1)
    assert {
        text for row in mine for text in ("saturday", "weekday") if f'day="{text}"' in row["messages"][-1]["content"]
    }


def test_its_conversations_are_answered_in_its_own_words(found):
    answers = [m["content"] for row in list_rows(found, "train", "call") for m in row["messages"][-1:]]
    assert any(" from 9:00 to 18:00." in text or "between 9:00 and 18:00." in text for text in answers), answers[:5]


def test_a_request_that_leaves_something_out_is_asked_back_and_then_called(found):
    rows = list_rows(found, "train", "ask_then_call")
    assert rows
    asked, reply, given, call = (message["content"] for message in rows[0]["messages"][1:5])
    assert "open" in asked and "shop" in reply and "northgate" in given.lower() or "riverside" in given.lower()
    assert call.startswith('<tool_call>get_opening_hours(branch="')


def test_a_request_that_only_looks_like_it_gets_no_call(found):
    said = [message["content"].lower() for row in found["rows"]["train"] for message in row["messages"]]
    assert any("hotline" in text or "phone you" in text or "at night" in text for text in said)


def test_schema_prompt_grammar_and_parser_know_it(found):
    parameters = found["schema"]["function"]["parameters"]
    assert parameters["required"] == ["branch"] and parameters["properties"]["day"]["enum"] == ["weekday", "saturday"]
    assert 'get_opening_hours(branch: str, day: "weekday" | "saturday" = "weekday")  # Say when' in found["prompt"]
    assert 'get-opening-hours ::= "get_opening_hours(" "branch=" string' in found["grammar"]
    assert "get_opening_hours(" in found["copying"] and "Northgate" in found["copying"]
    assert found["parsed"] == {"branch": "Northgate"}


def test_the_checks_of_arguments_know_it(found):
    assert found["missing"] == ["branch"]
    assert found["invented"] == ["branch"]


def test_the_agent_calls_it_and_answers_in_its_words_when_the_model_lies(found):
    right, replaced = found["answers"]
    assert right == "It opens at 9:00."
    assert replaced == "Northgate is open from 9:00 to 18:00."


def test_the_page_in_contributing_names_the_files_and_keys_that_there_are():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Add a tool")[1].split("\n## ")[0]
    paths = re.findall(r"`((?:elm_helpers|tests|data)/[\w/.]+\.\w+)`", page)
    assert len(paths) >= 6 and all((ROOT / path).is_file() for path in paths), paths
    keys = set(yaml.safe_load(PHRASES))
    assert keys == {"tool", *re.findall(r"^   - `(\w+)`:", page, re.MULTILINE)}
