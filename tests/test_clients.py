"""Every client under notebooks/clients, run as a program against the real gateway and the real model."""

import os
import shutil
import subprocess
import sys

from elm_helpers.paths import ROOT
from elm_helpers.prompts import build_conversation
from elm_helpers.serve import build_app
from elm_helpers.tool_calls import parse_tool_calls

import pytest
from gateway import open_gateway

CLIENTS = ROOT / "notebooks" / "clients"
PROGRAMS = {".py": sys.executable, ".mjs": "node", ".sh": "sh"}
KEY = "a-key-for-this-test"
NAMES = sorted(path.name for path in CLIENTS.iterdir() if path.suffix in PROGRAMS)
NEEDED = {"call_elm.mjs": "node", "call_elm.sh": "curl"}


@pytest.fixture(scope="module")
def url(engine):
    with open_gateway(build_app(engine, KEY)) as served:
        yield served


def run_client(name: str, url: str, key: str) -> subprocess.CompletedProcess:
    if name in NEEDED and not shutil.which(NEEDED[name]):
        pytest.skip(f"{NEEDED[name]} is not installed on this machine")
    environment = os.environ | {"ELM_URL": url, "ELM_API_KEY": key}
    command = [PROGRAMS[(CLIENTS / name).suffix], str(CLIENTS / name)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_there_are_five_clients():
    assert NAMES == ["call_elm.mjs", "call_elm.py", "call_elm.sh", "call_elm_hub.py", "call_elm_openai.py"]


@pytest.mark.parametrize("name", NAMES)
def test_every_client_prints_the_same_answer(name, url, engine):
    done = run_client(name, url, KEY)
    assert done.returncode == 0, done.stderr
    (call,) = parse_tool_calls(done.stdout)
    assert (call.name, call.arguments["max_price"]) == ("search_products", 100)
    alone = engine.complete(build_conversation({"text": "Find wireless headphones under $100"}), max_tokens=100)
    assert done.stdout == alone.text + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_client_with_a_wrong_key_fails_and_prints_no_answer(name, url):
    done = run_client(name, url, "wrong")
    assert done.returncode != 0
    assert "tool_call" not in done.stdout and "401" in done.stdout + done.stderr
