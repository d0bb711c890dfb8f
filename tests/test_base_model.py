"""The base model without an account: where it comes from, and that nothing half-made is ever used."""

import json
import shutil

from elm_helpers import base_model as bm

import pytest


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No cache and no network: only the packaged copy is left."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_the_packaged_file_is_the_published_one():
    assert bm.find_packaged_gguf(bm.SMOL).name.endswith(".gguf")


def test_it_says_in_one_line_which_source_was_used(capsys, base_model):
    bm.read_base_model()
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert bm.SMOL in line


def test_greedy_output_is_the_same_on_two_loads(base_model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    texts = []
    for _ in range(2):
        model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
        out = model.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.eos_token_id)
        texts.append(tokenizer.decode(out[0]))
    assert texts[0] == texts[1]
    assert "Paris" in texts[0]


def test_a_corrupted_converted_file_is_refused_by_name(tmp_path, offline):
    out = tmp_path / "base" / bm.SMOL.split("/")[-1]
    out.mkdir(parents=True)
    (out / "model.safetensors").write_bytes(b"half a model")
    (out / bm.SUMS).write_text(json.dumps({"model.safetensors": "0" * 64}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"model\.safetensors is corrupted"):
        bm.read_base_model(outputs=tmp_path)


def test_a_missing_converted_file_is_named(tmp_path, offline):
    out = tmp_path / "base" / bm.SMOL.split("/")[-1]
    out.mkdir(parents=True)
    (out / bm.SUMS).write_text(json.dumps({"config.json": "0" * 64}), encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        bm.read_base_model(outputs=tmp_path)


def test_a_corrupted_packaged_file_is_refused_by_name(tmp_path, monkeypatch):
    package = tmp_path / "broken_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "m.gguf").write_bytes(b"not a model")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(bm.PACKAGED, "x/y", ("broken_package", "m.gguf", "f" * 64))
    with pytest.raises(ValueError, match=r"m\.gguf is corrupted"):
        bm.find_packaged_gguf("x/y")


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", stop)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        bm.write_converted(tmp_path / "m.gguf", tmp_path / "base" / "model")
    assert list((tmp_path / "base").iterdir()) == []


def test_the_hubs_cache_comes_first(tmp_path, monkeypatch, capsys, base_model):
    cached = tmp_path / "cached"
    shutil.copytree(base_model, cached)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, local_files_only=False, **__: str(cached))
    assert bm.read_base_model() == cached
    assert "cache" in capsys.readouterr().out


def test_an_unpackaged_model_without_a_network_is_named(offline):
    with pytest.raises(FileNotFoundError, match="owner/unknown: the Hub cannot be reached"):
        bm.read_base_model("owner/unknown")
