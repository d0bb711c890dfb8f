"""How long a customer waits: question → call → tool → checked answer, with the reference adapter in llama.cpp.

Run with ``pytest tests/benchmarks/test_agent_latency.py -s``; two minutes on two cores.
"""

import time
from dataclasses import replace

from elm_helpers.agent import Conversation, run_turn
from elm_helpers.careful import restrain
from elm_helpers.metrics import measure_quantile
from elm_helpers.paths import OUTPUTS
from elm_helpers.tools import Session

import pytest
from tables import write_csv

KINDS = 12  # of each question, one for as many products
QUESTIONS = (
    "Do you have any {kind}?",
    "Is the {product} in stock?",
    "What can you tell me about the {product}?",
    "How much is delivery of the {product} to Leeds?",
)
TARGET = {"p50": 1.5, "p95": 4.0}  # seconds


@pytest.fixture(scope="module")
def turns(engine, shop):
    """A line for each turn that used one tool: seconds, tokens of its prompts, and tokens that were in the cache."""
    asked, lines, times = [], [], []

    def complete(messages, **options):
        done = engine.complete(messages, **options)
        times.append(done)
        return done

    kinds = shop.execute("SELECT kind, min(name) AS product FROM products GROUP BY kind ORDER BY kind").fetchall()
    for row in kinds[:: len(kinds) // KINDS][:KINDS]:
        asked += [text.format(**dict(row)) for text in QUESTIONS]
    timed = restrain(replace(engine, complete=complete))
    for at, text in enumerate(["Where is my order?", *asked]):
        times.clear()
        start = time.perf_counter()
        _, turn = run_turn(timed, Session(shop, "C0008"), Conversation(), text)
        line = {"question": text, "seconds": time.perf_counter() - start, "model_calls": len(times)}
        line |= {"tools": sum(step.step == 4 for step in turn.steps), "replaced": bool(turn.replaced)}
        line |= {
            f"{name}_tokens": sum(getattr(one, f"{name}_tokens") for one in times) for name in ("prompt", "cached")
        }
        lines += [line] * bool(at)  # the first one warms up
    return lines


def test_there_are_enough_questions_and_nearly_all_used_one_tool(turns):
    assert len(turns) >= 40
    assert sum(line["tools"] == 1 for line in turns) >= 0.8 * len(turns)


def test_both_model_calls_of_a_turn_share_the_prefix_cache(turns):
    for line in turns:
        assert line["cached_tokens"] > 0
    two = [line for line in turns if line["model_calls"] == 2]
    assert sum(line["cached_tokens"] for line in two) / sum(line["prompt_tokens"] for line in two) > 0.3


def test_the_wait_for_a_checked_answer(turns, capsys):
    used = [line for line in turns if line["tools"] == 1]
    folder = OUTPUTS / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "agent_latency.csv", turns)
    seconds = [line["seconds"] for line in used]
    cached = sum(line["cached_tokens"] for line in used) / sum(line["prompt_tokens"] for line in used)
    with capsys.disabled():
        print(f"\n{len(turns)} questions, {len(used)} with one tool; {sum(one['replaced'] for one in used)} replaced")
        for name, share in (("p50", 0.5), ("p95", 0.95)):
            found = measure_quantile(seconds, share)
            print(f"{name} {found.value:.2f} s ({found.low:.2f}–{found.high:.2f}), target {TARGET[name]} s")
        print(f"{cached:.0%} of the prompts' tokens were in the prefix cache; {folder / 'agent_latency.csv'}")
    assert all(value > 0 for value in seconds)
