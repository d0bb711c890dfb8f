"""The committed reference adapter: how it is trained, how it is scored, and the README's figures from its artefacts."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from elm_helpers.agent import Conversation, describe_turn, run_turn
from elm_helpers.cases import build_case, read_rows
from elm_helpers.compare import compare_answers, count_confusions, group_scores, name_register, name_tool
from elm_helpers.course import run_notebooks
from elm_helpers.engines import Engine
from elm_helpers.evaluate import SYSTEMS, answer_cases, build_board, open_systems, score_requests
from elm_helpers.general import score_general
from elm_helpers.judge import Answer, score_answers
from elm_helpers.metrics import Metric, measure_rate
from elm_helpers.paths import OUTPUTS, ROOT, SAMPLE
from elm_helpers.profiles import PROFILES
from elm_helpers.runs import name_run
from elm_helpers.scenarios import read_scenarios, score_agent
from elm_helpers.scoreboard import METRICS, format_scoreboard, write_scoreboard
from elm_helpers.store import build_store
from elm_helpers.tools import Session

START = "<!-- figures: written by `elm render` from data/sample, checked by tests/test_readme.py -->"
END = "<!-- end of figures -->"
TALK_START = "<!-- conversation: written by `elm render` from data/sample, checked by tests/test_readme.py -->"
TALK_END = "<!-- end of conversation -->"
TALKER = "C0008"  # the customer of the README's conversation
SCORED_ROWS = 1_800
SCORED_MIX = {"tool_calling": 0.1, "conversation": 0.6, "categorization": 0.15, "product_description": 0.15}
SCORED_EACH = {"call": 200, "ask_back": 200, "no_call": 60, "category": 200, "description": 200}
CALLS_ONLY = ("base+few-shot", "base+grammar")  # these rungs are about calling: titles and sheets of facts are left out
AGENTS, SHOPS = ("rules", "tuned+grammar"), (0, 7, 8, 9)  # who talks to the scripted customers, in which shops
BY_HAND = ("rules", "tuned", "tuned+grammar")
PAIRS = (("rules", "tuned"), ("tuned", "tuned+grammar"))
REFERENCE_ROWS, REFERENCE_SHARES = 9_600, {"long": 0.15}
REFERENCE_MIX = {"tool_calling": 0.38, "conversation": 0.44, "categorization": 0.13, "product_description": 0.05}


def render_course() -> None:
    """Renew everything that is committed from a run: reference adapter, its scoreboard, and the lessons' kept outputs.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    out = SAMPLE / PROFILES["cpu"].output
    train_reference(out)
    score_reference(out)
    run_notebooks(keep=True)


def train_reference(out: Path) -> dict:
    """Train the reference adapter: the course's recipe on more rows, most of them short, none of them held out.

    The lesson trains on a part of 4,000 rows in minutes; this takes 9,600 rows whose mix leans to tool calls and to
    requests that need none, and leaves out most of the long conversations.

    Args:
        out: Folder of the adapter.

    Returns:
        The summary of the run.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    from elm_helpers import training
    from elm_helpers.base_model import read_base_model
    from elm_helpers.batches import choose_rows
    from elm_helpers.card import write_model_card
    from elm_helpers.chat import encode
    from elm_helpers.generate import write_dataset
    from elm_helpers.live import build_live_plot

    import torch

    torch.manual_seed(0)
    profile, dtype, data = PROFILES["cpu"], training.choose_compute_dtype(), OUTPUTS / "reference"
    write_dataset(data, REFERENCE_ROWS, 200, REFERENCE_MIX, seed=1)
    folder = read_base_model(profile.base_model)
    model, tokenizer = training.load_for_training(folder, training.build_quantization(dtype), dtype, profile.attention)
    train, held_out = (read_rows(data / f"ecommerce_{part}.json") for part in ("train", "eval"))
    sizes = {row["id"]: len(encode(tokenizer, row["messages"]).ids) for row in train + held_out}
    train, held_out = ([row for row in part if sizes[row["id"]] <= profile.max_length] for part in (train, held_out))
    train = choose_rows(train, REFERENCE_SHARES, sizes)
    arguments = training.build_arguments(profile, name_run("reference"), dtype)
    summary = training.train_adapter(
        model,
        tokenizer,
        train,
        held_out,
        training.build_lora(profile),
        arguments,
        out=out,
        hub_id=profile.base_model,
        batch_tokens=profile.batch_tokens,
        callbacks=(build_live_plot(),),
    )
    write_model_card(out)
    (out / "tokenizer.json").unlink()  # the base model has the same one, and git keeps every copy
    return summary


def score_reference(out: Path) -> None:
    """Score the reference adapter and renew the README's figures and the model card.

    Writes into the adapter's folder: ``scoreboard.json`` (held-out rows), ``requests.json`` (hand-written requests) and
    ``details.json`` (paired comparisons, groups, confusions, and plain questions before and after).

    Args:
        out: Folder of the adapter.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    from elm_helpers.card import write_model_card
    from elm_helpers.generate import write_dataset

    data, profile = OUTPUTS / "reference" / "score", PROFILES["cpu"]
    write_dataset(data, 0, SCORED_ROWS, SCORED_MIX, seed=2)
    cases = [build_case(row) for row in read_rows(data / "ecommerce_eval.json", SCORED_EACH)]
    talk = [case for case in cases if case.kind in ("call", "ask_back", "no_call")]
    systems = open_systems(out, SYSTEMS)
    rows = {system.name: answer_cases(system, talk if system.name in CALLS_ONLY else cases) for system in systems}
    scores = {name: score_answers(found) for name, found in rows.items()}
    agents = {system.name: score_customers(system.engine) for system in open_systems(out, AGENTS)}
    for name, found in agents.items():
        scores[name] |= {metric: found[metric] for metric in METRICS if metric in found}
    board = build_board(scores, profile.name, profile.base_model)
    write_scoreboard(board, out / "scoreboard.json")
    by_hand = {
        system.name: score_requests(system.engine, system.build_system, system.examples)
        for system in open_systems(out, BY_HAND)
    }
    requests = {name: {key: asdict(m) for key, m in found.metrics.items()} for name, found in by_hand.items()}
    details = {"own rows": describe_answers(rows)}
    details |= {"customers": {name: {k: asdict(m) for k, m in found.items()} for name, found in agents.items()}}
    details |= {"by hand": describe_answers({name: found.answers for name, found in by_hand.items()})}
    engines = {system.name: system.engine for system in open_systems(out, ("base", "tuned"))}
    details |= {"general": {name: asdict(score_general(engine)[0]) for name, engine in engines.items()}}
    for name, content in (("requests.json", requests), ("details.json", details)):
        (out / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    write_model_card(out, scoreboard=board)
    write_readme(out)


def write_readme(out: Path) -> None:
    """Talk to the reference agent, keep it as ``conversation.json``, and renew what the README shows of the artefacts.

    Args:
        out: Folder of the adapter, with everything that `score_reference` writes.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    (agent,) = open_systems(out, AGENTS[-1:])
    (out / "conversation.json").write_text(json.dumps(talk_to(agent.engine), indent=1), encoding="utf-8")
    names = ("training_summary", "scoreboard", "requests", "details", "conversation")
    *figures, turns = (json.loads((out / f"{name}.json").read_text(encoding="utf-8")) for name in names)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    parts = (START, END, format_figures(*figures)), (TALK_START, TALK_END, format_conversation(turns))
    for start, end, content in parts:
        before, rest = text.split(start)
        text = f"{before}{start}\n{content}\n{end}{rest.split(end)[1]}"
    (ROOT / "README.md").write_text(text, encoding="utf-8")


def talk_to(engine: Engine) -> list[dict]:
    """Return a conversation of four turns in the course's shop, as `agent.describe_turn` describes each.

    Args:
        engine: Who runs in the agent.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    store, talk, turns = build_store(), Conversation(), []
    newest = "SELECT id FROM orders WHERE customer_id = ? AND status = 'delivered' ORDER BY placed_on DESC LIMIT 1"
    (order,) = store.execute(newest, (TALKER,)).fetchone()
    said = (f"I want to return order {order}", "yes, please", "Find wireless headphones under $100")
    for text in (*said, "how much is express shipping to Canada?"):
        talk, turn = run_turn(engine, Session(store, TALKER), talk, text)
        turns.append(describe_turn(turn))
    return turns


def format_conversation(turns: Sequence[Mapping]) -> str:
    """Return a conversation as Markdown: who said what, and the calls between.

    Args:
        turns: As `talk_to` gives them.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    lines = []
    for turn in turns:
        said, *steps = turn["steps"]
        called = [step["text"] for step in steps if step["step"] == 3]
        lines += [f"> **Customer:** {said['text']}", *(f"> `{text}`" for text in called)]
        plain = " *(said by the agent: the check refused the model's own answer)*" if turn["replaced"] else ""
        lines += ["> **ELM:** " + turn["answer"].replace("\n", "  \n> ") + plain]
    return "\n>\n".join(lines)


def score_customers(engine: Engine) -> dict[str, Metric]:
    """Return how the agent does with scripted customers: each once in four shops, and four times in the first one.

    Four shops give other orders, products and people to the same scripts, so that `agent_success` stands on more than
    200 conversations; `agent_success_pass4` stands on one for each script.

    Args:
        engine: Who runs in the agent.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    scripts, hits, counts = read_scenarios(), Counter(), Counter()
    for seed in SHOPS:
        found = score_agent(engine, scripts, build_store(seed=seed), tries=4 if seed == SHOPS[0] else 0)
        hits.update({name: round(metric.value * metric.n) for name, metric in found.items()})
        counts.update({name: metric.n for name, metric in found.items()})
    return {name: measure_rate([at < hits[name] for at in range(n)]) for name, n in counts.items()}


def describe_answers(answers: Mapping[str, Sequence[Answer]]) -> dict:
    """Return what lies behind the rates: systems compared case by case, and the tuned one's groups and confusions.

    Args:
        answers: System -> its answers, all to the same cases.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    best = answers["tuned+grammar"]
    paired = [
        {"first": one, "second": two} | asdict(compare_answers(answers[one], answers[two], metric))
        for one, two in PAIRS
        if {one, two} <= answers.keys()
        for metric in ("tool_name", "tool_exact", "over_call", "ask_back")
    ]
    groups = {
        name: {group: asdict(m) for group, m in group_scores(best, "tool_exact", by).items()}
        for name, by in (("tool", name_tool), ("register", name_register))
    }
    confusions = [[right, found, n] for (right, found), n in sorted(count_confusions(best).items())]
    return {"paired": paired, "tool_exact": groups, "confusions": confusions}


def format_figures(summary: dict, board: dict, requests: dict, details: dict) -> str:
    """Return the README's figures as Markdown, from nothing but the artefacts of the reference run.

    Args:
        summary: ``training_summary.json``.
        board: ``scoreboard.json``.
        requests: ``requests.json``: system → metric → value, low, high, n.
        details: ``details.json``, as `score_reference` writes it.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    by_hand = {"systems": [{"system": name, "metrics": metrics} for name, metrics in requests.items()]}
    minutes, peak = summary["seconds"] / 60, summary["peak_memory_bytes"] / 1e9
    run = (
        f"The reference run: {summary['rows']:,} rows, {summary['tokens']:,} tokens, {minutes:.0f} minutes on a shared"
        f" 2-core CPU at {summary['tokens_per_second']:.0f} tokens/s, {peak:.1f} GB at its peak,"
        f" {summary['trainable_parameters']:,} trainable parameters."
    )
    title = "On requests that were written apart from the phrasebook:"
    pairs = [pair for pair in details["by hand"]["paired"] if pair["metric"] == "tool_exact"]
    paired = "Case by case, on those requests: " + "; ".join(
        f"{pair['second']} against {pair['first']}: {pair['only_second']} calls exact that the other missed,"
        f" {pair['only_first']} the other way, p {pair['p'] or 'below 0.0001'}"
        for pair in pairs
    )
    before, after = (details["general"][name] for name in ("base", "tuned"))
    general = (
        f"Of {before['n']} plain questions that have nothing to do with a shop, the base model answers"
        f" {before['value']:.0%} and the tuned one {after['value']:.0%}: what fine-tuning cost."
    )
    tables = [format_scoreboard(board).strip(), title, format_scoreboard(by_hand).strip()]
    return "\n\n".join([*tables, f"{paired} (McNemar, exact).", general, run])
