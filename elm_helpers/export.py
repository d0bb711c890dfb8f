"""From an adapter to one file: merge it into the base model and write a GGUF for llama.cpp, once per adapter."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from elm_helpers.base_model import compute_sha256, read_base_model
from elm_helpers.paths import OUTPUTS
from elm_helpers.runtime import quiet_libraries

WEIGHTS = ("adapter_model.safetensors", "model.safetensors")


def read_base_id(adapter: Path) -> str:
    """Return the Hub id of the base model that an adapter belongs to.

    Raises:
        FileNotFoundError: The folder holds no adapter.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    path = adapter / "adapter_config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{adapter} holds no adapter: adapter_config.json is missing; run `elm train` first")
    return json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]


def find_tokenizer(model: Path) -> Path:
    """Return the folder to load a model's tokenizer from: its own, or its base model's, which is the same one.

    The committed reference adapter leaves the tokenizer out: it is a quarter of the folder, and the base model has it.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    return model if (model / "tokenizer.json").is_file() else read_base_model(read_base_id(model), verbose=False)


def find_gguf_path(model: Path, outtype: str = "q8_0") -> Path:
    """Return where a model folder's GGUF belongs: in it if it is a run's output, else in a cache under ``outputs/``.

    The cache's folder carries the first digits of the weights' SHA-256, so another adapter never meets an old file.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    name = f"model-{outtype}.gguf"
    if model.resolve().parent == OUTPUTS:
        return model / name
    weights = next((model / file for file in WEIGHTS if (model / file).is_file()), None)
    if weights is None:
        raise FileNotFoundError(f"{model} holds no model: none of {', '.join(WEIGHTS)} is in it")
    return OUTPUTS / "cache" / f"{model.name}-{compute_sha256(weights)[:12]}" / name


def write_merged(adapter: Path, out: Path) -> None:
    """Add the adapter's low-rank update to the base weights and write an ordinary checkpoint (float32).

    W' = W + (alpha / r) · B·A for every adapted layer (Hu et al. 2021, §4.1).

    Args:
        adapter: Folder with the adapter and its tokenizer.
        out: Folder to write.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = read_base_model(read_base_id(adapter), verbose=False)
    with quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        model.save_pretrained(out)
        AutoTokenizer.from_pretrained(find_tokenizer(adapter)).save_pretrained(out)


def write_gguf(model: Path, outtype: str = "q8_0") -> Path:
    """Return the GGUF of a model folder (an adapter, or a whole checkpoint), written on first use.

    Args:
        model: Folder of an adapter or of a checkpoint.
        outtype: ``q8_0`` (8 bits a weight, the default), ``bf16``, ``f16`` or ``f32``.

    Returns:
        Path of the file; it appears under this name only when it is whole.

    Raises:
        RuntimeError: llama.cpp's converter failed; the message ends with what it said.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    out = find_gguf_path(model, outtype)
    if out.is_file():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".gguf-", dir=out.parent) as folder:
        source = model
        if (model / "adapter_config.json").is_file():
            source = Path(folder) / "merged"
            write_merged(model, source)
        beside = Path(folder) / out.name
        command = [sys.executable, "-m", "convert_hf_to_gguf", str(source)]
        done = subprocess.run(
            [*command, "--outfile", str(beside), "--outtype", outtype], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{model}: llama.cpp's converter failed: {done.stderr.strip()[-300:]}")
        shutil.move(beside, out)
    return out
