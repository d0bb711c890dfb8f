"""The GPU size, as far as no GPU is needed to prove it: its recipe, its template, its 8 billion shapes, its refusal."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from elm_helpers import training
from elm_helpers.base_model import SMOL
from elm_helpers.budget import LINEAR, count_adapter
from elm_helpers.paths import ROOT, SAMPLE
from elm_helpers.profiles import PROFILES

import pytest
import torch
from test_budget import LLAMA

GPU = PROFILES["gpu"]
both = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["Ampere and later", "T4"])


def read_rows(name: str) -> list[dict]:
    rows = [json.loads(line) for line in (SAMPLE / name).read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 40
    return rows


@pytest.mark.parametrize(("major", "dtype"), [(7, torch.float16), (8, torch.bfloat16), (9, torch.bfloat16)])
def test_a_t4_computes_in_fp16_although_torch_can_emulate_bf16_on_it(major, dtype, monkeypatch):
    """torch's own question, asked of the properties of a card that isn't here."""
    properties = type("Card", (), {"major": major})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    training.choose_compute_dtype.cache_clear()
    try:
        assert training.choose_compute_dtype() == dtype
    finally:
        training.choose_compute_dtype.cache_clear()


@both
def test_the_training_arguments_come_back_from_json_as_they_went(dtype, tmp_path):
    from trl import SFTConfig

    arguments = training.build_arguments(GPU, tmp_path, dtype)
    assert (arguments.bf16, arguments.fp16) == (dtype == torch.bfloat16, dtype == torch.float16)
    written = json.loads(arguments.to_json_string())
    known = {name: value for name, value in written.items() if name in SFTConfig.__dataclass_fields__}
    assert json.loads(SFTConfig(**known).to_json_string()) == written
    assert (written["optim"], written["learning_rate"], written["max_length"]) == ("paged_adamw_8bit", 2e-4, 1024)
    assert arguments.activation_checkpointing is True


def test_the_optimizer_is_bitsandbytes_paged_adamw_in_8_bits(tmp_path):
    from bitsandbytes.optim import AdamW
    from transformers import Trainer

    kind, options = Trainer.get_optimizer_cls_and_kwargs(training.build_arguments(GPU, tmp_path, torch.bfloat16))
    assert kind is AdamW
    assert (options["is_paged"], options["optim_bits"], options["lr"]) == (True, 8, 2e-4)


def test_the_adapters_shape_comes_back_from_its_file(tmp_path):
    from peft import LoraConfig

    lora = training.build_lora(GPU)
    lora.save_pretrained(tmp_path)
    read = LoraConfig.from_pretrained(tmp_path)
    assert (read.r, read.lora_alpha, read.target_modules) == (16, 32, "all-linear")
    assert read.to_dict() | {"inference_mode": None} == lora.to_dict() | {"inference_mode": None}


@both
def test_the_quantisation_comes_back_from_its_dictionary(dtype):
    from transformers import BitsAndBytesConfig

    quantization = training.build_quantization(dtype)
    read = BitsAndBytesConfig.from_dict(json.loads(quantization.to_json_string(use_diff=False)))
    assert read.to_dict() == quantization.to_dict()
    assert (read.quantization_method(), read.bnb_4bit_use_double_quant) == ("nf4", True)
    assert read.bnb_4bit_compute_dtype == dtype


def test_every_row_of_the_sample_passes_preflight_on_llamas_template(llama):
    from elm_helpers import chat

    for name in ("ecommerce_train.json", "ecommerce_eval.json"):
        rows = read_rows(name)
        for row, encoded in zip(rows, chat.run_preflight(llama, rows, GPU.max_length), strict=True):
            trained = [token for token, bit in zip(encoded.ids, encoded.mask, strict=True) if bit]
            answers = [m["content"].strip() for m in row["messages"] if m["role"] == "assistant"]
            assert llama.decode(trained) == "".join(answer + "<|eot_id|>" for answer in answers)
            assert encoded.ids.count(llama.bos_token_id) == 1


def test_a_dry_run_of_the_8b_model_trains_its_adapter_and_nothing_else():
    """Forward, loss and backward through all 32 blocks on the meta device: every shape fits, and it takes no memory."""
    from peft import get_peft_model
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        model = get_peft_model(LlamaForCausalLM(LLAMA).to(torch.bfloat16), training.build_lora(GPU))
        ids, mask = torch.zeros(4, 512, dtype=torch.long), torch.ones(4, 1, 512, 512, dtype=torch.bool)
    model.train()
    model.activation_checkpointing_enable()
    model.enable_input_require_grads()
    base = model.get_base_model()
    base.set_attn_implementation(GPU.attention)
    states = base.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    logits = base.lm_head(states[:, -100:]).float()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -100:].flatten())
    loss.backward()
    assert logits.shape == (4, 100, 128_256)
    trained = {name: p for name, p in model.named_parameters() if p.grad is not None}
    assert trained and all("lora_" in name for name in trained)
    assert {name.split(".")[-4] for name in trained} == set(LINEAR)
    assert sum(p.grad.numel() for p in trained.values()) == count_adapter(LLAMA, GPU.lora_rank) == 41_943_040


def test_the_gpu_sizes_recipe_trains_the_small_model(base_model, tmp_path):
    """All of it but the size: NF4, checkpointing, sdpa on padded batches, 8-bit AdamW (which pages only on a GPU)."""
    dtype = torch.float32
    model, tokenizer = training.load_for_training(base_model, training.build_quantization(dtype), dtype, GPU.attention)
    changes = {"max_steps": 2, "logging_steps": 1, "disable_tqdm": True}
    summary = training.train_adapter(
        model,
        tokenizer,
        [row for row in read_rows("ecommerce_train.json") if row["task"] == "tool_calling"][:8],
        read_rows("ecommerce_eval.json")[:2],
        training.build_lora(GPU),
        training.build_arguments(GPU, tmp_path / "steps", dtype, changes),
        out=tmp_path / "elm",
        hub_id=GPU.base_model,
        batch_tokens=256,
    )
    assert summary["steps"] == 2
    assert summary["config"]["activation_checkpointing"] is True
    assert 0 < summary["final_loss"] < 20
    written = json.loads((tmp_path / "elm" / "adapter_config.json").read_text(encoding="utf-8"))
    assert written["base_model_name_or_path"] == GPU.base_model


class GatedHub(BaseHTTPRequestHandler):
    """The far side of the wire: a Hub that shows what a gated model's folder holds, and hands out none of it."""

    hidden = False

    def do_GET(self):
        if "/revision/" in self.path and not self.hidden:
            files = [{"rfilename": name} for name in ("config.json", "model.safetensors")]
            self.answer(200, {"id": GPU.base_model, "sha": "a" * 40, "siblings": files})
        elif "/tree/" in self.path and not self.hidden:
            names = ("config.json", "model.safetensors")
            self.answer(200, [{"type": "file", "path": name, "size": 1, "oid": "b" * 40} for name in names])
        else:
            self.answer(403, {"error": "Access to this model is restricted."})

    do_HEAD = do_GET  # noqa: N815

    def answer(self, status: int, body) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        if status == 403:
            self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture(params=[False, True], ids=["files refused", "everything refused"])
def gated_hub(request):
    handler = type("Hub", (GatedHub,), {"hidden": request.param})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_gated_model_gives_one_line_with_the_page_to_visit_and_what_needs_no_account(gated_hub, tmp_path):
    """The real client of huggingface_hub meets a real refusal over HTTP, as `elm train --profile gpu` would."""
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    environment |= {"HF_ENDPOINT": gated_hub, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}
    data = SAMPLE / "ecommerce_train.json"
    command = [
        "train",
        "--profile",
        "gpu",
        "--data",
        str(data),
        "--eval-data",
        str(data),
        "--out",
        str(tmp_path / "elm"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "elm_helpers", *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for told in (GPU.base_model, "gated", f"{gated_hub}/{GPU.base_model}", "HF_TOKEN", SMOL, "--profile cpu"):
        assert told in done.stderr
    assert not (tmp_path / "elm").exists()
