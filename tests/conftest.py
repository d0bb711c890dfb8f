"""What every test may rely on: a shop in memory, and a session that can't reach the network by accident."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)  # nothing is asserted on a time
settings.load_profile("shared machine")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked workers would print a warning
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def shop():
    """The built shop, shared: only for tests that don't write to it."""
    from elm_helpers.store import build_store

    conn = build_store(":memory:", seed=0)
    yield conn
    conn.close()


@pytest.fixture
def own_shop(shop):
    """A copy of the shop that a test may write to."""
    import sqlite3

    conn = sqlite3.connect(":memory:", check_same_thread=False)
    shop.backup(conn)
    conn.row_factory = shop.row_factory
    conn.execute("PRAGMA foreign_keys = ON")
    yield conn
    conn.close()


@pytest.fixture(scope="session")
def base_model():
    """The real base model's folder, converted on first use."""
    from elm_helpers.base_model import read_base_model

    return read_base_model(verbose=False)


@pytest.fixture(scope="session")
def reference():
    """The reference adapter that is committed with the course."""
    from elm_helpers.paths import SAMPLE

    return SAMPLE / "elm-smollm2-135m"


@pytest.fixture(scope="session")
def engine(reference):
    """The reference adapter in llama.cpp: the real model, real decoding."""
    from elm_helpers.engines import open_llama_cpp

    return open_llama_cpp(reference, parallel=2)


@pytest.fixture(scope="session")
def smol(base_model):
    """The base model's real tokenizer and chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_model)


@pytest.fixture(scope="session")
def llama(base_model):
    """SmolLM2's vocabulary with Llama 3.1's special tokens and its real template (the tokenizer itself is gated)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model)
    tokenizer.add_special_tokens(
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|finetune_right_pad_id|>"}
    )
    tokenizer.add_tokens(["<|start_header_id|>", "<|end_header_id|>"], special_tokens=True)
    template = Path(find_spec("trl").origin).parent / "chat_templates" / "llama3_1.jinja"
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    return tokenizer


@pytest.fixture(params=["smol", "llama"])
def tokenizer(request):
    """Both of them, one after the other."""
    return request.getfixturevalue(request.param)
