"""Publishing: what the card says, what a push refuses, and that a dry run touches no network."""

import json
import os
import re
from dataclasses import astuple, replace
from hashlib import sha256

from elm_helpers import hub
from elm_helpers.card import build_model_card, write_model_card
from elm_helpers.cli import main
from elm_helpers.generate import Report, build_dataset_card
from elm_helpers.leaks import read_customers
from elm_helpers.metrics import Metric
from elm_helpers.proof import Proof, describe_proof
from elm_helpers.store import build_store

import pytest
import yaml

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
SUMMARY = {
    **{"rows": 4000, "tokens": 812345, "tokens_per_second": 233.4, "seconds": 3480.5, "steps": 793},
    **{"peak_memory_bytes": 2_410_000_000, "final_loss": 0.2173, "eval_loss": 0.3391, "trainable_parameters": 4884480},
    "versions": {"torch": "2.13.0", "peft": "0.21.2"},
    "config": {"learning_rate": 0.001, "lora_rank": 16, "lora_targets": "all-linear", "quantized": True},
}
RATE = {"value": 0.9312, "low": 0.8801, "high": 0.9612, "n": 204}
BOARD = {
    **{"created": "2026-11-02T10:00:00Z", "base_model": BASE},
    "systems": [
        {"system": "rules", "metrics": {"tool_name": RATE | {"value": 0.75}}},
        {"system": "tuned", "metrics": {"tool_name": RATE, "latency_p50_s": RATE | {"value": 0.5}}},
    ],
}


def write_small_adapter(folder):
    """Write an adapter's folder with stand-in weights: a plan looks at names and bytes, not at numbers."""
    folder.mkdir()
    for name in hub.REQUIRED:
        (folder / name).write_text("{}", encoding="utf-8")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": BASE}), encoding="utf-8")
    (folder / "training_summary.json").write_text(json.dumps(SUMMARY), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 40)
    write_model_card(folder, "ann/elm", BOARD)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_small_adapter(tmp_path / "elm-smollm2-135m")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub, "get_token", lambda: None)
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("the network was touched"))


def read_metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_cards_metadata_is_what_the_hub_reads(folder):
    found = read_metadata((folder / "README.md").read_text(encoding="utf-8"))
    assert (found["license"], found["base_model"], found["library_name"]) == ("apache-2.0", BASE, "peft")
    assert (found["pipeline_tag"], found["language"]) == ("text-generation", "en")
    assert "datasets" not in found
    metrics = found["model-index"][0]["results"][0]["metrics"]
    assert [(m["name"], m["value"]) for m in metrics] == [("tool_name", 0.9312)]
    assert metrics[0]["args"] == {"interval_95": [0.8801, 0.9612], "n": 204}


def test_every_figure_of_the_run_stands_in_the_card(folder):
    card = build_model_card(folder, "ann/elm", BOARD)
    for figure in ("4,000", "812,345", "233.4", "58.0 minutes", "793", "2.41 GB", "4,884,480", "0.2173", "0.3391"):
        assert figure in card, figure
    assert "93 % (88–96)" in card
    assert "4-bit NF4 QLoRA of all linear layers" in card
    assert not re.search(r"\{\w+\}", card)


def test_a_card_without_a_scoreboard_claims_nothing(folder):
    card = build_model_card(folder)
    assert "Not measured yet" in card
    assert "model-index" not in read_metadata(card)
    assert build_model_card(folder, datasets=("ann/elm-data",)).count("ann/elm-data") == 1


def test_an_adapter_of_llama_carries_llamas_licence(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "meta-llama/Llama-3.1-8B-Instruct"}')
    card = build_model_card(folder)
    assert read_metadata(card)["license"] == "llama3.1"
    assert "Built with Llama" in card


def test_a_summary_that_lacks_a_field_is_named(folder):
    (folder / "training_summary.json").write_text('{"rows": 1}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"training_summary\.json lacks 'tokens'"):
        build_model_card(folder)


def test_the_plan_lists_each_file_with_its_size_and_hash(folder):
    (folder / ".cache").mkdir()
    (folder / "checkpoint-5").mkdir()
    (folder / "training_args.bin").write_bytes(b"pickle")
    (folder / ".env").write_text("x", encoding="utf-8")
    plan = hub.plan_push(folder, "ann/elm")
    assert {file.path for file in plan} == set(hub.REQUIRED)
    for path, size, digest in map(astuple, plan):
        content = (folder / path).read_bytes()
        assert (size, digest) == (len(content), sha256(content).hexdigest())


@pytest.mark.parametrize("name", hub.REQUIRED)
def test_a_missing_file_is_refused_by_name(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"lacks {re.escape(name)}"):
        hub.plan_push(folder, "ann/elm")


@pytest.mark.parametrize(
    "base", ["/opt/base", "./base", "base", "outputs/base/x", "..\\base", "data/templates", "", None]
)
def test_a_base_model_that_is_no_hub_id_is_refused(folder, base):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}), encoding="utf-8")
    with pytest.raises(ValueError, match="must be a Hub id"):
        hub.plan_push(folder, "ann/elm")


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_a_broken_config_is_named(folder, text):
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"adapter_config\.json"):
        hub.plan_push(folder, "ann/elm")


# Put together here, so that no scanner takes this file for a leak.
SECRETS = {
    "hf": "hf" + "_" + "aB3" * 11 + "x",
    "openai": "sk" + "-proj-" + "aB3_" * 8,
    "aws": "AK" + "IA" + "ABCDEFGH12345678",
    "github": "gh" + "p_" + "a1B2" * 9,
    "key": "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
}


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("before", [0, (1 << 20) - 9], ids=["at the start", "over the edge of two reads"])
def test_a_secret_is_refused_by_file_and_never_repeated(folder, kind, before):
    (folder / "notes.txt").write_text(" " * before + SECRETS[kind], encoding="utf-8")
    with pytest.raises(ValueError, match=r"notes\.txt holds what looks like") as caught:
        hub.plan_push(folder, "ann/elm")
    assert SECRETS[kind] not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["task-oriented-dialogue-systems-42", "hf_hub_download(repo_id=x)", "sk-learn is a library"]
)
def test_ordinary_words_are_no_secret(folder, text):
    (folder / "notes.txt").write_text(text, encoding="utf-8")
    assert len(hub.plan_push(folder, "ann/elm")) == len(hub.REQUIRED) + 1


@pytest.mark.parametrize("repo", ["a/b/c", "-elm", "ann/el m"])
def test_a_wrong_repository_name_is_refused(folder, repo):
    with pytest.raises(ValueError, match="(?i)repo"):
        hub.push(folder, repo)


def test_a_push_is_a_dry_run_until_you_say_yes(folder):
    lines = hub.push(folder)
    assert lines[0] == "dry run for model <your name>/elm-smollm2-135m: nothing was sent"
    assert "7 files" in lines[-1]


def test_without_a_token_a_push_says_how_to_get_one(folder):
    with pytest.raises(PermissionError, match="hf auth login"):
        hub.push(folder, "ann/elm", yes=True)


def build_error(status: int):
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    request = httpx2.Request("POST", "https://hub.example/api")
    return HfHubHTTPError("it said\n\nno", response=httpx2.Response(status, request=request))


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, PermissionError, "refused the token"),
        (403, PermissionError, "ann/elm"),
        (409, PermissionError, "taken"),
        (500, ConnectionError, "500"),
    ],
)
def test_what_the_hub_refuses_becomes_one_line(status, kind, words):
    with pytest.raises(kind, match=words) as caught, hub.explain_hub_errors("ann/elm"):
        raise build_error(status)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("notes.md", "write to ann.smith@mail.com", "an e-mail address"),
        ("notes.txt", "my number is +1 212 555 0123", "a phone number"),
        ("card.json", '{"paid with": "4111 1111 1111 1111"}', "a card number"),
        ("rows.json", '{"a": 1}\n{"iban": ["GB29 NWBK 6016 1331 9268 19"]}\n', "an IBAN"),
        ("rows.csv", "name,mail\nAnn,ann.smith@mail.com\n", "an e-mail address"),
        ("chat.json", '{"text": "I am jane  MILLER"}', "a customer's name"),
        ("hidden.json", '{"note": "h\\u0066_' + "A" * 34 + '"}', "a Hugging Face token"),
    ],
)
def test_personal_data_is_refused_by_file_line_and_kind_and_never_repeated(folder, name, content, kind):
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"holds what looks like {kind}; take it out")) as caught:
        hub.plan_push(folder, "ann/elm", names=["Jane Miller"])
    assert name in str(caught.value) and not re.search(r"smith|4111|NWBK|0123|miller|AAAA", str(caught.value))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "model-q8_0.gguf", "training.png"])
def test_what_hides_between_or_behind_numbers_is_found(folder, name):
    numbers = bytes(range(128, 256)) * 100
    (folder / name).write_bytes(numbers + b"ask ann.smith@mail.com" + numbers)
    with pytest.raises(ValueError, match=rf"{re.escape(name)} holds what looks like an e-mail address"):
        hub.plan_push(folder, "ann/elm")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.csv", "step,loss\n1,0.3148653565881227\n2,3055079424\n"),
        ("sizes.json", '{"peak_memory_bytes": 3055079424, "sha256": "' + "4f" * 32 + '"}'),
        ("rows.json", '{"text": "[PERSON_1] wrote to [EMAIL_1] and service@shop.example"}'),
        (
            "asked.json",
            '{"text": "i was wondering if i culd return 383438-8162-3502428, the pedal bin 30 l soft close"}',
        ),
    ],
)
def test_numbers_placeholders_and_order_numbers_are_nobodys_data(folder, name, content):
    (folder / name).write_text(content, encoding="utf-8")
    assert name in {file.path for file in hub.plan_push(folder, "ann/elm", names=["Jane Miller"])}


def test_a_text_that_nobody_can_read_is_refused(folder):
    (folder / "notes.txt").write_bytes("ask ann.smith@mail.com".encode("utf-16"))
    with pytest.raises(ValueError, match=r"notes\.txt is no UTF-8 text"):
        hub.plan_push(folder, "ann/elm")
    (folder / "notes.txt").unlink()
    (folder / "notes.json").write_text("{} and more", encoding="utf-8")
    with pytest.raises(ValueError, match=r"notes\.json is no JSON"):
        hub.plan_push(folder, "ann/elm")


def test_real_customers_are_looked_for_and_the_courses_own_are_not(tmp_path):
    assert read_customers(tmp_path / "none.db") == []
    conn = build_store(tmp_path / "store.db")
    assert read_customers(tmp_path / "store.db") == []
    conn.execute("UPDATE customers SET name = 'Jane Miller', email = 'jane@mail.com' WHERE id = 'C0001'")
    conn.commit()
    assert read_customers(tmp_path / "store.db") == ["Jane Miller"]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("license: apache-2.0\n", "", "the metadata lacks license"),
        ("language: en", "language: [en", "the metadata on top is broken"),
        ("library_name: peft", "library_name:", "the metadata lacks library_name"),
    ],
)
def test_a_card_with_broken_metadata_is_refused(folder, before, after, words):
    path = folder / "README.md"
    path.write_text(path.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        hub.plan_push(folder, "ann/elm")


def test_a_dataset_needs_its_two_files_and_a_card_that_names_them(tmp_path):
    for name in hub.DATASET[:2]:
        (tmp_path / name).write_text('{"id": "1"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"lacks README\.md; `elm generate` writes it"):
        hub.plan_push(tmp_path, kind="dataset")
    report = Report({"train": {"tool_calling": 1}, "eval": {"tool_calling": 1}}, {}, 0.1)
    card = build_dataset_card(report, 0)
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    (tmp_path / "store.json").write_text("{}", encoding="utf-8")
    assert {file.path for file in hub.plan_push(tmp_path, kind="dataset")} == set(hub.DATASET)
    (tmp_path / "README.md").write_text(card.replace("ecommerce_eval.json", "gone.json"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"names gone\.json, which the folder lacks"):
        hub.plan_push(tmp_path, kind="dataset")


def test_a_staged_folder_has_plots_handler_and_a_card_that_shows_them(folder, tmp_path):
    (folder / "training_history.csv").write_text("step,loss,learning_rate\n1,2.0,0.1\n2,1.5,0.1\n", encoding="utf-8")
    rates = dict.fromkeys(("tool_name", "tool_exact", "over_call", "ask_back", "category"), RATE)
    board = BOARD | {"systems": [{"system": "tuned", "metrics": rates}]}
    (folder / "scoreboard.json").write_text(json.dumps(board), encoding="utf-8")
    stage = hub.stage_adapter(folder, tmp_path / "stage", "ann/elm", datasets=["ann/rows"])
    names = {file.path for file in hub.plan_push(stage, "ann/elm")}
    assert names >= {*hub.REQUIRED, "training.png", "scoreboard.png", "scoreboard.json", "handler.py"}
    card = (stage / "README.md").read_text(encoding="utf-8")
    assert "](training.png)" in card and "`handler.py`" in card and "merged" not in card
    assert read_metadata(card)["datasets"] == ["ann/rows"]
    first = [file.sha256 for file in hub.plan_push(stage)]
    again = hub.stage_adapter(folder, tmp_path / "stage", "ann/elm", datasets=["ann/rows"])
    assert [file.sha256 for file in hub.plan_push(again)] == first, "the same run gives the same bytes"


def test_a_staged_folder_is_not_staged_onto_itself(folder):
    for out in (folder, folder.parent):
        with pytest.raises(ValueError, match="name the folder of the run"):
            hub.stage_adapter(folder, out)
    assert (folder / "adapter_model.safetensors").is_file()


def test_a_scoreboard_that_is_older_than_the_weights_is_not_theirs(folder, monkeypatch):
    monkeypatch.setattr(hub, "OUTPUTS", folder.parent)
    last, weights = folder.parent / "scoreboard.json", folder / "adapter_model.safetensors"
    last.write_text(json.dumps(BOARD), encoding="utf-8")
    os.utime(weights, (1, 1))
    assert hub.find_scoreboard(folder) == BOARD
    os.utime(last, (0, 0))
    assert hub.find_scoreboard(folder) is None


def test_a_proof_needs_a_repository(capsys):
    assert main(["push", "--prove"]) == 2
    assert "--prove needs --repo" in capsys.readouterr().err


def test_a_figure_that_does_not_hold_ends_the_proof():
    claims = {"tool_name": Metric(0.9, 0.85, 0.94, 200), "category": Metric(0.9, 0.85, 0.94, 200)}
    scores = {"tool_name": Metric(0.2, 0.06, 0.51, 10), "category": Metric(0.8, 0.49, 0.94, 10)}
    proof = Proof("ann/elm", "a" * 40, (9, 1), 3.0, claims, scores)
    with pytest.raises(ValueError, match="don't meet what was measured: tool_name$"):
        describe_proof(proof)
    assert describe_proof(replace(proof, scores={"category": scores["category"]}))[-1].startswith("each interval meets")
