"""What fine-tuning cost: a few plain questions that have nothing to do with the shop, before and after."""

import json
import re
from pathlib import Path

from elm_helpers.engines import Engine, complete_all
from elm_helpers.metrics import Metric, measure_rate
from elm_helpers.paths import ROOT

QUESTIONS = ROOT / "tests" / "data" / "general_ability.jsonl"
PLAIN = {"role": "system", "content": "You are a helpful AI assistant."}


def score_general(engine: Engine, path: Path = QUESTIONS) -> tuple[Metric, list[tuple[str, str, bool]]]:
    """Ask plain questions under a plain system prompt, and look for the right word in each answer.

    Forty questions see a collapse, not a shift of some points: the interval says so.

    Args:
        engine: Who answers, at temperature 0, 60 tokens at most.
        path: JSON Lines of {"ask", "right"}; right is a regular expression.

    Returns:
        (share of right answers, [(question, answer, whether it is right)]).

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    talks = [[PLAIN, {"role": "user", "content": row["ask"]}] for row in rows]
    texts = [reply.text for reply in complete_all(engine, talks, max_tokens=60)]
    right = [bool(re.search(row["right"], text, re.I)) for row, text in zip(rows, texts, strict=True)]
    return measure_rate(right), list(zip([row["ask"] for row in rows], texts, right, strict=True))
