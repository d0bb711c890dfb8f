"""How long preflight takes: run with `pytest tests/benchmarks`; nothing is asserted about the time."""

import json

from elm_helpers import chat
from elm_helpers.paths import SAMPLE


def test_preflight_of_4000_rows(benchmark, tokenizer):
    lines = (SAMPLE / "ecommerce_train.json").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines] * (4_000 // len(lines))
    assert len(rows) == 4_000
    encoded = benchmark.pedantic(chat.run_preflight, (tokenizer, rows, 2_000), rounds=3)
    assert len(encoded) == len(rows)
