"""The real reference adapter, merged and quantised, in the real llama.cpp; and in 4 bits through transformers."""

import json

from elm_helpers import engines
from elm_helpers.agent import Conversation, describe_turn, run_turn
from elm_helpers.chat import encode_prompt
from elm_helpers.export import find_gguf_path, find_tokenizer, read_base_id
from elm_helpers.paths import OUTPUTS
from elm_helpers.prompts import build_conversation
from elm_helpers.tool_calls import parse_tool_calls
from elm_helpers.tools import Session

import pytest

QUESTION = "Find wireless headphones under $100"


def test_the_reference_model_writes_a_call_that_parses(engine):
    reply = engine.complete(build_conversation({"text": QUESTION}))
    calls = parse_tool_calls(reply.text)
    assert calls[0].name == "search_products"
    assert reply.completion_tokens > 5
    assert 0 < reply.first_token_seconds <= reply.seconds


def test_greedy_answers_repeat_and_streaming_gives_the_same_text(engine):
    messages, pieces = build_conversation({"text": QUESTION}), []
    first = engine.complete(messages)
    second = engine.complete(messages, on_text=pieces.append)
    assert first.text == second.text == "".join(pieces)


def test_a_batch_answers_in_order(engine):
    texts = ["hello", QUESTION, "what's your return policy?"]
    conversations = [build_conversation({"text": text}) for text in texts]
    alone = [engine.complete(messages).text for messages in conversations]
    together = [reply.text for reply in engines.complete_all(engine, conversations)]
    assert "<tool_call>" in together[1]
    assert sum(a == b for a, b in zip(alone, together, strict=True)) >= 2  # batching may round one differently


def test_the_prompt_is_sent_as_the_ids_of_training(engine, reference):
    from transformers import AutoTokenizer

    messages = build_conversation({"text": QUESTION})
    ids = encode_prompt(AutoTokenizer.from_pretrained(find_tokenizer(reference)), messages)
    assert engine.complete(messages, max_tokens=1).prompt_tokens == len(ids)


def test_a_conversation_that_does_not_fit_is_refused_with_its_length(engine):
    with pytest.raises(ValueError, match=r"the conversation has \d+ tokens"):
        engine.complete([{"role": "user", "content": "word " * 6000}])


def test_both_engines_give_the_same_call(reference, engine):
    slow = engines.open_transformers(reference)
    messages = build_conversation({"text": QUESTION})
    assert parse_tool_calls(slow.complete(messages, max_tokens=60).text)[0].name == "search_products"


def test_the_seeds_example_end_to_end_on_the_real_model(engine, own_shop):
    customer = own_shop.execute("SELECT id FROM customers ORDER BY id").fetchone()["id"]
    _, turn = run_turn(engine, Session(own_shop, customer), Conversation(), QUESTION)
    data = describe_turn(turn)
    result = next(step["result"] for step in data["steps"] if step["step"] == 4)
    offered = {p["name"]: p["price"] for p in result["products"]}
    assert offered
    assert max(offered.values()) <= 100
    names = [row["name"] for row in own_shop.execute("SELECT name FROM products")]
    assert {name for name in names if name in data["answer"]} <= set(offered)
    assert any(name in data["answer"] for name in offered)


def test_a_grammar_only_lets_well_formed_calls_through(engine):
    from elm_helpers.grammar import build_gbnf

    reply = engine.complete(build_conversation({"text": QUESTION}), temperature=1.5, seed=3, grammar=build_gbnf())
    parse_tool_calls(reply.text)  # would raise


def test_the_adapter_names_its_base_model_by_hub_id(reference):
    assert read_base_id(reference) == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_what_is_derived_from_the_committed_adapter_goes_to_the_cache(reference):
    assert find_gguf_path(reference).parent.parent == OUTPUTS / "cache"


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no model"):
        find_gguf_path(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        engines.open_engine(tmp_path / "nothing")


def test_an_unknown_engine_is_refused(tmp_path):
    with pytest.raises(ValueError, match="choose auto, llama.cpp, transformers or a URL"):
        engines.open_engine(tmp_path, "onnx")


def test_a_server_over_http_is_one_more_engine(engine):
    """A real HTTP round trip on loopback: the gateway in front of llama.cpp, and the URL engine in front of that."""
    import socket
    import threading
    import time

    from elm_helpers.serve import build_app

    import uvicorn

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(build_app(engine), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        reply = engines.connect_url(f"http://127.0.0.1:{port}/v1", "elm").complete(
            build_conversation({"text": QUESTION})
        )
    finally:
        server.should_exit = True
        thread.join(10)
    assert parse_tool_calls(reply.text)[0].name == "search_products"


def test_the_summary_of_the_reference_says_what_it_was_trained_with(reference):
    summary = json.loads((reference / "training_summary.json").read_text(encoding="utf-8"))
    assert summary["versions"]["torch"].startswith("2.")
    assert summary["config"]["quantized"] is True
