"""The development set of customer requests is well formed, and every call in it is one that the shop's tools accept."""

import json
import re
from pathlib import Path

from elm_helpers.tool_calls import ToolCall, format_tool_call, parse_tool_calls

import pytest

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "customer_requests.jsonl").read_text(encoding="utf-8").splitlines()
]
NORMALISED = {"method", "status", "category"}  # "next-day" means overnight; every other string is the customer's own


def test_rows_are_many_and_unique():
    assert len(ROWS) >= 300
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    assert len({row["text"] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_row(row):
    assert row["customer_id"] is None or re.fullmatch(r"C\d{4}", row["customer_id"])
    assert bool(row["calls"]) == (row["expect"] == "call")
    assert bool(row["missing"]) == (row["expect"] == "ask_back")
    for entry in row["calls"]:
        call = ToolCall(entry["name"], entry["arguments"])
        assert parse_tool_calls(format_tool_call(call)) == [call]
        for name, value in call.arguments.items():
            if isinstance(value, str) and name not in NORMALISED:
                assert value.casefold() in row["text"].casefold()
