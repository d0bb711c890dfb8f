"""The real reference adapter, merged and quantised, in the real llama.cpp; and in 4 bits through transformers."""

import json
import re
from dataclasses import replace

from elm_helpers import engines
from elm_helpers.agent import Conversation, describe_turn, run_turn
from elm_helpers.chat import encode_prompt, render_text
from elm_helpers.context import MEMORY_CHARACTERS, measure_memory
from elm_helpers.export import find_gguf_path, find_tokenizer, read_base_id, write_modelfile, write_q4_0
from elm_helpers.grounding import find_price_limits, find_ungrounded
from elm_helpers.paths import OUTPUTS
from elm_helpers.prompts import GUEST, build_conversation
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


def test_a_conversation_of_seven_turns_stays_true_and_inside_its_memory(engine, shop):
    """What the model makes of it is its own affair; what is shown is true, and all that was said is still sent."""
    asked = [QUESTION, "Tell me more about the second one", "How much is express delivery to Leeds?", "Thanks!"]
    asked += ["Which codes can I use?", "Is the Corvane Hush 40 in stock?", "And the first one from that list?"]
    seen, talk = [], Conversation()

    def complete(messages, **options):
        seen.append(messages)
        return engine.complete(messages, **options)

    names = [row["name"] for row in shop.execute("SELECT name FROM products")]
    for at, text in enumerate(asked, 1):
        talk, turn = run_turn(replace(engine, complete=complete), Session(shop, "C0008"), talk, text)
        assert find_ungrounded(turn.answer, list(talk.results), asked[:at], names, find_price_limits(text)) == []
    assert len(talk.results) >= 3
    assert max(measure_memory(messages) for messages in seen) <= MEMORY_CHARACTERS
    assert [message["content"] for message in seen[-1] if message["role"] == "user"] == asked


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


def write_small_gguf(path, template, seed=0):
    """Write an f32 GGUF with a vocabulary, a matrix and a norm; return the three."""
    import numpy as np
    from gguf import GGUFWriter, TokenType

    rng = np.random.default_rng(seed)
    tensors = {"token_embd.weight": (3, 96), "blk.0.ffn_up.weight": (8, 96), "blk.0.attn_norm.weight": (96,)}
    tensors = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in tensors.items()}
    writer = GGUFWriter(path, "llama")
    writer.add_file_type(0)
    writer.add_token_list(["a", "b", "\u0120c"])
    writer.add_token_types([TokenType.NORMAL, TokenType.NORMAL, TokenType.CONTROL])
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_a_4_bit_file_keeps_the_norms_the_vocabulary_at_8_bits_and_every_field(tmp_path, smol):
    import numpy as np
    from gguf import GGUFReader
    from gguf.quants import dequantize

    before = write_small_gguf(tmp_path / "f32.gguf", smol.chat_template)
    write_q4_0(tmp_path / "f32.gguf", tmp_path / "q4_0.gguf")
    old, new = GGUFReader(tmp_path / "f32.gguf"), GGUFReader(tmp_path / "q4_0.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in new.tensors}
    assert list(kinds.values()) == ["Q8_0", "Q4_0", "F32"]
    assert [list(tensor.shape) for tensor in new.tensors] == [list(tensor.shape) for tensor in old.tensors]
    fields = [{name: field.contents() for name, field in reader.fields.items()} for reader in (old, new)]
    assert fields[0] | {"general.file_type": 2} == fields[1]
    for tensor, steps in zip(new.tensors, (127, 8, np.inf), strict=True):
        weights = before[tensor.name].reshape(-1, 32)
        error = np.abs(dequantize(tensor.data, tensor.tensor_type).reshape(-1, 32) - weights)
        step = np.abs(weights).max(axis=1, keepdims=True) / steps  # one scale for 32 weights
        assert (error <= 1.01 * step).all(), tensor.name


def render_go(template, messages):
    """Return what Go makes of a template that is text, one range over the messages, and text."""
    text = re.fullmatch(r"(.*){{ range .Messages }}(.*){{ end }}(.*)", template, re.DOTALL)
    turns = [text[2].replace("{{ .Role }}", m["role"]).replace("{{ .Content }}", m["content"]) for m in messages]
    return "".join([text[1], *turns, text[3]])


def test_ollamas_prompt_is_the_one_of_training(tmp_path, smol):
    write_small_gguf(tmp_path / "model-q8_0.gguf", smol.chat_template)
    path = write_modelfile(tmp_path / "model-q8_0.gguf")
    text = path.read_bytes().decode()
    template, system = (re.search(f'\n{word} """(.*?)"""\n', text, re.DOTALL)[1] for word in ("TEMPLATE", "SYSTEM"))
    assert re.search(r"^FROM \./(.+)$", text, re.MULTILINE)[1] == "model-q8_0.gguf"
    assert system == GUEST
    said = [("user", "hi {{ .Role }}"), ("assistant", "Hello!\nWhat can I do?"), ("user", "  a mug, 5 $ \U0001f600\n")]
    messages = [{"role": "system", "content": system}, *({"role": role, "content": words} for role, words in said)]
    assert render_go(template, messages) == render_text(smol, messages, add_generation_prompt=True)
    stops = re.findall(r'^PARAMETER stop "(.+)"$', text, re.MULTILINE)
    assert smol.eos_token in stops
    assert {"PARAMETER temperature 0", "PARAMETER repeat_penalty 1"} <= set(text.splitlines())


def test_a_modelfile_is_refused_where_it_would_prompt_wrongly(tmp_path, llama, smol):
    write_small_gguf(tmp_path / "llama.gguf", llama.chat_template)
    with pytest.raises(ValueError, match="has no ChatML template"):
        write_modelfile(tmp_path / "llama.gguf")
    write_small_gguf(tmp_path / "smol.gguf", smol.chat_template)
    with pytest.raises(ValueError, match="three double quotes"):
        write_modelfile(tmp_path / "smol.gguf", 'Say """hi"""')
    assert not (tmp_path / "Modelfile").exists()
