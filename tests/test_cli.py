"""The `elm` command: what it promises in --help, its exit codes, and files that are never half-written."""

import json
import subprocess
import sys

from elm_helpers import cli, commands
from elm_helpers.store import build_store

import pytest

COMMANDS = ["generate", "import", "train", "evaluate", "answer", "chat", "push", "serve"]


def run(*words):
    return subprocess.run([sys.executable, "-m", "elm_helpers", *map(str, words)], capture_output=True, text=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_with_its_default(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for option, settings in cli.COMMANDS[getattr(commands, f"run_{command}")].items():
        assert option in shown
        if settings.get("default") is not None and "action" not in settings:
            assert "default" in shown


def test_generate_writes_the_same_bytes_for_the_same_seed(tmp_path):
    for name in ("a", "b"):
        assert cli.main(["generate", "--rows", "60", "--eval-rows", "20", "--out", str(tmp_path / name)]) == 0
    for file in ("ecommerce_train.json", "ecommerce_eval.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_bad_input_ends_with_2_and_one_line_that_names_it(tmp_path):
    broken = tmp_path / "requests.jsonl"
    broken.write_text('{"id": 1, "text": "hi"}\n{"id": 2, "text": \n', encoding="utf-8")
    done = run("answer", "--in", broken, "--out", tmp_path / "answers.jsonl")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "requests.jsonl, line 2" in done.stderr
    assert not (tmp_path / "answers.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": 1}', "neither a string in 'text'"),
        ('{"id": 1, "text": 5}', "neither a string in 'text'"),
        ('{"id": 1, "messages": ["hi"]}', "list of objects"),
        ('{"id": 1, "text": "hi", "customer_id": 5}', "customer_id is 5"),
        ("[1]", "found list"),
    ],
)
def test_a_request_of_the_wrong_form_is_named_by_file_line_and_field(tmp_path, capsys, line, said):
    path = tmp_path / "requests.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    assert cli.main(["answer", "--in", str(path), "--out", str(tmp_path / "out.jsonl")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "line 1" in error


def test_answer_keeps_order_and_reports_calls(tmp_path, reference):
    requests = [
        {"id": "a", "text": "Find wireless headphones under $100"},
        {"id": "b", "messages": [{"role": "user", "content": "hello"}], "customer_id": "C0001"},
    ]
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text("\n".join(map(json.dumps, requests)), encoding="utf-8")
    assert cli.main(["answer", "--model", str(reference), "--in", str(path), "--out", str(out)]) == 0
    answers = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [answer["id"] for answer in answers] == ["a", "b"]
    assert all(set(answer) == {"id", "text", "tool_calls", "error", "seconds"} for answer in answers)
    assert answers[0]["tool_calls"][0]["name"] == "search_products"
    assert answers[0]["error"] is None


def test_chat_once_prints_answer_steps_and_writes(tmp_path, reference, capsys):
    words = ["chat", "--model", str(reference), "--customer", "C0001", "--json", "--store", str(tmp_path / "store.db")]
    assert cli.main([*words, "--once", "Find wireless headphones under $100"]) == 0
    turn = json.loads(capsys.readouterr().out)
    assert {"answer", "steps", "writes"} <= set(turn)
    assert turn["writes"] == []


def test_an_unknown_customer_is_bad_input(tmp_path, reference, capsys):
    words = ["chat", "--model", str(reference), "--store", str(tmp_path / "store.db"), "--once", "hi"]
    assert cli.main([*words, "--customer", "nobody"]) == 2
    assert "'nobody' is not in the shop" in capsys.readouterr().err


def test_a_push_looks_for_the_customers_of_the_shop_that_it_is_told(tmp_path, capsys):
    shop, rows = tmp_path / "mine.db", tmp_path / "rows"
    conn = build_store(shop)
    conn.execute("UPDATE customers SET name = 'Jane Miller', email = 'jane@mail.com' WHERE id = 'C0001'")
    conn.commit()
    cli.main(["generate", "--rows", "5", "--eval-rows", "5", "--out", str(rows)])
    (rows / "ecommerce_train.json").write_text('{"text": "Hello, Jane Miller"}\n', encoding="utf-8")
    assert cli.main(["push", "--dataset", str(rows), "--store", str(shop)]) == 2
    assert "line 1 holds what looks like a customer's name" in capsys.readouterr().err
    assert cli.main(["push", "--dataset", str(rows), "--store", str(tmp_path / "typo.db")]) == 2
    assert "typo.db: found no shop" in capsys.readouterr().err


def test_a_training_option_that_does_not_exist_is_refused(capsys):
    assert cli.main(["train", "--data", __file__, "--learning-rat", "1"]) == 2
    assert "--learning-rat: no such option" in capsys.readouterr().err


def test_an_option_of_no_command_is_refused():
    with pytest.raises(SystemExit) as stop:
        cli.main(["generate", "--nonsense"])
    assert stop.value.code == 2


def test_the_console_script_is_installed():
    done = subprocess.run([sys.executable, "-m", "elm_helpers", "--help"], capture_output=True, text=True, check=True)
    assert all(command in done.stdout for command in COMMANDS)
