"""The break-it lab: each fault is caught by its own check, in both templates; the row as it was by none."""

import json

from elm_helpers import chat
from elm_helpers.faults import FAULTS
from elm_helpers.paths import SAMPLE

import pytest
from test_chat import DIALOGUE
from test_chat import find_faults as find_checks

ROW = {"id": "r1", "messages": DIALOGUE}


@pytest.fixture(scope="module")
def rows():
    """Sample rows in which a tool is called and its result used."""
    lines = (SAMPLE / "ecommerce_train.json").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    found = [row for row in rows if "tool" in [message["role"] for message in row["messages"]]]
    assert len(found) >= 10
    return found


def break_row(tokenizer, name, row):
    make, check = FAULTS[name]
    broken = make(tokenizer, chat.encode(tokenizer, row["messages"]), row, 2_000)
    return chat.find_faults(tokenizer, *broken), check


def test_the_lab_has_at_least_eight_faults_for_nearly_as_many_checks():
    assert len(FAULTS) >= 8
    assert len({check for _, check in FAULTS.values()}) >= len(FAULTS) - 1  # two ways to lose the end token


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_caught_by_the_check_that_is_named_and_by_no_other(tokenizer, name):
    faults, check = break_row(tokenizer, name, ROW)
    assert [fault.check for fault in faults] == [check]
    assert faults[0].row == "r1"
    assert len(faults[0].message) > 30


@pytest.mark.parametrize("name", FAULTS)
def test_it_is_caught_in_every_sample_row_with_a_tool(smol, rows, name):
    for row in rows:
        faults, check = break_row(smol, name, row)
        assert [fault.check for fault in faults] == [check], row["id"]


def test_the_row_as_it_was_has_no_fault(tokenizer, rows):
    for row in (ROW, *rows):
        assert chat.find_faults(tokenizer, chat.encode(tokenizer, row["messages"]), row, 2_000) == []


@pytest.mark.parametrize("name", FAULTS)
def test_breaking_a_row_leaves_the_row_itself_as_it_was(smol, name):
    before = json.dumps(ROW)
    break_row(smol, name, ROW)
    assert json.dumps(ROW) == before


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_says_in_one_line_how_it_comes_about(name):
    first = FAULTS[name][0].__doc__.splitlines()[0]
    assert first.endswith(".") and len(first.split()) >= 8


def test_padding_that_shares_the_end_tokens_id_is_named_in_the_message(smol):
    assert smol.pad_token_id == smol.eos_token_id
    assert "padding is id 2 too" in break_row(smol, "mask_padding_by_id", ROW)[0][0].message
    assert "padding" not in break_row(smol, "stop_before_the_end", ROW)[0][0].message


@pytest.mark.parametrize("name", ["put_calls_beside_the_text", "write_arguments_as_string", "fill_keys_with_null"])
def test_a_whole_run_is_refused_for_a_fault_in_its_rows(smol, name):
    make, check = FAULTS[name]
    _, row, _ = make(smol, chat.encode(smol, DIALOGUE), ROW, 512)
    with pytest.raises(chat.PreflightError, match=f"1 faults in 2 rows. {check} in row r1"):
        chat.run_preflight(smol, [{"id": "r0", "messages": DIALOGUE}, row], max_length=512)


def test_arrow_really_fills_the_keys_of_a_structured_call_with_null_and_leaves_ours_alone(smol):
    from datasets import Dataset

    def call(name, **arguments):
        function = {"name": name, "arguments": arguments}
        said = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
        return {"id": name, "messages": [*DIALOGUE[:2], said]}

    mixed = [call("search_products", query="mug"), call("get_customer_orders", order_id="7")]
    read = Dataset.from_list(mixed)[0]
    assert read["messages"][2]["tool_calls"][0]["function"]["arguments"] == {"query": "mug", "order_id": None}
    assert find_checks(smol, chat.encode(smol, read["messages"]), read["messages"]) == {"null_keys"}
    ours = [{"messages": DIALOGUE}, {"messages": DIALOGUE[:3]}]
    assert Dataset.from_list(ours).to_list() == ours
