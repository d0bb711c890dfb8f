"""The Hub's real clients against a stand-in of the Hub on loopback: what arrives, and what happens when it can't."""

import json
import os
import subprocess
import sys
from pathlib import Path

from elm_helpers import hub
from elm_helpers.paths import ROOT
from elm_helpers.proof import prove_push

import httpx
import pytest
from hub_server import run_hub
from huggingface_hub import constants
from test_hub import BASE, write_small_adapter

MODEL, DATA = ("models", "ann/elm"), ("datasets", "ann/elm-shop-conversations")


@pytest.fixture
def there(monkeypatch):
    """A Hub of its own for each test; a request that it doesn't know fails the test."""
    with run_hub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield running
        assert not running.unknown


@pytest.fixture
def folder(tmp_path):
    return write_small_adapter(tmp_path / "elm")


@pytest.fixture
def rows(tmp_path):
    from elm_helpers.generate import write_dataset

    write_dataset(tmp_path / "rows", 40, 20)
    return tmp_path / "rows"


def send(folder, token="ann-writes", name="ann/elm", **options):
    return hub.push(folder, name, yes=True, token=token, **options)


def count_commits(there, repo=MODEL) -> int:
    """Return the commits after the first one, which the Hub makes itself."""
    return len(there.repos[repo].commits) - 1


def test_a_push_is_one_private_commit_with_the_bytes_of_the_folder(there, folder):
    lines = send(folder, name="elm")
    assert lines[-1] == f"{there.url}/ann/elm" and there.repos[MODEL].private
    assert count_commits(there) == 1
    for name in hub.REQUIRED:
        assert there.read(*MODEL, name) == (folder / name).read_bytes()
    assert len(there.large) == 1, "the weights went the way of large files"


def test_a_second_push_of_the_same_files_makes_no_commit_and_says_so(there, folder):
    send(folder)
    assert "nothing changed since the last push, so no commit was made" in send(folder)
    assert count_commits(there) == 1
    (folder / "training_summary.json").write_text("{}", encoding="utf-8")
    assert not any("nothing changed" in line for line in send(folder))
    assert count_commits(there) == 2


@pytest.mark.parametrize(
    ("token", "words"),
    [("nobody", "refused the token"), ("ann-reads", "may only read"), ("bob-writes", "may not write to ann/elm")],
)
def test_a_token_that_may_not_write_is_told_so_and_makes_no_repository(there, folder, token, words):
    with pytest.raises(PermissionError, match=words):
        send(folder, token)
    assert not there.repos


def test_a_name_that_holds_something_else_is_taken(there, folder, rows):
    send(folder)
    there.repos[MODEL].commits[-1].files.pop("adapter_model.safetensors")
    with pytest.raises(PermissionError, match=r"ann/elm is taken: it holds adapter_config\.json"):
        send(folder)
    assert count_commits(there) == 1


def test_a_private_push_never_lands_in_a_public_repository(there, folder):
    send(folder, private=False)
    with pytest.raises(PermissionError, match="public already"):
        send(folder)
    assert "nothing changed" in send(folder, private=False)[-2]


def test_a_connection_that_breaks_once_is_mended_within_the_push(there, folder):
    there.lost_uploads = 1
    send(folder)
    assert count_commits(there) == 1


def test_a_connection_lost_half_way_publishes_nothing_and_a_retry_makes_one_commit(there, folder):
    there.lost_uploads = 100
    with pytest.raises(ConnectionError, match="broke off .* run the same command again") as caught:
        send(folder)
    assert "\n" not in str(caught.value)
    assert count_commits(there) == 0 and not there.large
    there.lost_uploads = 0
    send(folder)
    assert count_commits(there) == 1


def test_a_commit_whose_answer_got_lost_is_not_made_twice(there, folder):
    there.lost_replies = 1
    with pytest.raises(ConnectionError, match="broke off"):
        send(folder)
    assert "nothing changed" in send(folder)[-2]
    assert count_commits(there) == 1


def test_a_pull_request_leaves_main_as_it_is(there, folder):
    lines = send(folder, pull_request=True)
    assert lines[-1] == f"{there.url}/ann/elm/discussions/1"
    assert count_commits(there) == 0 and len(there.repos[MODEL].pulls) == 1


def test_a_pull_request_reaches_a_public_repository_of_somebody_else(there, folder):
    send(folder, private=False)
    (folder / "training_summary.json").write_text('{"better": true}', encoding="utf-8")
    with pytest.raises(PermissionError, match="somebody else's"):
        send(folder, "bob-writes", private=False)
    send(folder, "bob-writes", private=False, pull_request=True)
    assert count_commits(there) == 1 and len(there.repos[MODEL].pulls) == 1


def test_a_card_that_the_hub_refuses_is_refused_before_any_file_is_sent(there, folder):
    card = folder / "README.md"
    card.write_text(card.read_text(encoding="utf-8").replace("apache-2.0", "unheard-of"), encoding="utf-8")
    with pytest.raises(ValueError, match="unheard-of"):
        send(folder)
    assert count_commits(there) == 0 and not there.large


def test_what_the_scan_refuses_is_never_offered_to_the_hub(there, folder):
    (folder / "notes.txt").write_text("ask ann.smith@mail.com", encoding="utf-8")
    with pytest.raises(ValueError, match=r"notes\.txt, line 1 holds what looks like an e-mail address"):
        send(folder)
    assert not there.asked


def test_a_hub_that_is_not_there_is_one_line(there, folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="cannot be reached"):
        send(folder)


def test_a_proof_of_what_is_not_there_is_one_line(there):
    with pytest.raises(FileNotFoundError, match="ann/gone is not on the Hub"):
        prove_push("ann/gone", token="ann-writes")


def test_the_rows_go_to_a_dataset_repository_with_their_card(there, rows):
    lines = send(rows, name="elm-shop-conversations", kind="dataset")
    assert lines[-1] == f"{there.url}/datasets/{DATA[1]}"
    assert set(there.repos[DATA].commits[-1].files) == {".gitattributes", *hub.DATASET}
    assert count_commits(there, DATA) == 1


def test_the_stand_in_refuses_what_it_does_not_know():
    with run_hub() as running:
        assert httpx.delete(f"{running.url}/api/repos/delete").status_code == 501
        assert running.unknown == ["DELETE /api/repos/delete"]


CLIENTS = """
import json, re, sys
from pathlib import Path
from datasets import load_dataset
from huggingface_hub import ModelCard, list_repo_commits, snapshot_download
from safetensors.torch import load_file, save_file
from elm_helpers.proof import measure_adapter, read_claims

repo, data = sys.argv[1:]
card = ModelCard.load(repo)
card.validate()
said = {}
exec(re.search("```python\\n(.*?)```", card.text, re.DOTALL)[1].replace("print(", "said.update(reply="), globals())
folder = Path(snapshot_download(repo))
tables = load_dataset(data)
idle = Path("idle")
snapshot_download(repo, local_dir=idle)
weights = {k: v * ("lora_B" not in k) for k, v in load_file(idle / "adapter_model.safetensors").items()}
save_file(weights, idle / "adapter_model.safetensors", {"format": "pt"})
print(json.dumps({"reply": said["reply"], "files": [path.name for path in folder.iterdir()],
    "rows": {k: len(v) for k, v in tables.items()}, "role": tables["eval"][0]["messages"][0]["role"],
    "commits": len(list_repo_commits(repo)), "claims": len(read_claims(folder)),
    "idle": measure_adapter(idle), "published": measure_adapter(folder)}))
"""


def test_elm_hf_transformers_peft_and_datasets_read_back_what_was_pushed(tmp_path, reference, base_model, rows):
    with run_hub() as running:
        running.add_model(BASE, base_model)
        quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        home = {"HF_HOME": str(tmp_path / "empty"), "HF_ENDPOINT": running.url, "HF_TOKEN": "ann-writes"}
        known = {"PYTHONPATH": str(ROOT)}

        def run(*words):
            command, where = list(map(str, words)), os.environ | quiet | home | known
            done = subprocess.run(command, env=where, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        elm, hf = (sys.executable, "-m", "elm_helpers", "push", "--yes"), Path(sys.executable).with_name("hf")
        run(*elm, "--dataset", rows)
        said = run(*elm, "--model", reference, "--repo", "ann/elm", "--trained-on", DATA[1])
        assert "prove it: elm push --repo ann/elm --prove" in said
        assert "ann" in run(hf, "auth", "whoami")
        run(hf, "upload", "ann/by-hand", rows, ".", "--repo-type", "dataset", "--private")
        by_hand = ("datasets", "ann/by-hand")
        assert running.repos[by_hand].private
        assert running.read(*by_hand, hub.DATASET[0]) == running.read(*DATA, hub.DATASET[0])
        got = Path(run(hf, "download", "ann/elm", "adapter_model.safetensors", "--quiet").strip())
        assert got.read_bytes() == (reference / "adapter_model.safetensors").read_bytes()
        found = json.loads(run(sys.executable, "-c", CLIENTS, "ann/elm", DATA[1]).splitlines()[-1])
        assert not running.unknown
        card = running.read(*MODEL, "README.md").decode()
    assert found["rows"] == {"train": 40, "eval": 20} and found["role"] == "system"
    assert found["commits"] == 2 and {"scoreboard.png", "training.png", "tokenizer.json"} <= set(found["files"])
    assert found["reply"].startswith("<tool_call>search_products("), "the card's own example, run as it stands"
    assert found["published"] > 1 and found["idle"] == 0 and found["claims"] > 5
    assert f"- {DATA[1]}" in card and 'from_pretrained("ann/elm")' in card
