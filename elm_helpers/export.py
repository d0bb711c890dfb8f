"""From an adapter to one file: merge it into the base model and write a GGUF for llama.cpp, once per adapter."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from elm_helpers.base_model import compute_sha256, read_base_model
from elm_helpers.paths import OUTPUTS
from elm_helpers.prompts import GUEST
from elm_helpers.runtime import quiet_libraries

WEIGHTS = ("adapter_model.safetensors", "model.safetensors")
VOCABULARY = ("token_embd.weight", "output.weight")  # matrices that keep 8 bits in a 4-bit file
CHATML = (  # SmolLM2's chat template in Ollama's language, that of Go
    "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
)
MODELFILE = """# ollama create elm -f Modelfile && ollama run elm
FROM ./{gguf}
TEMPLATE \"\"\"{template}\"\"\"
SYSTEM \"\"\"{system}\"\"\"
PARAMETER temperature 0
PARAMETER repeat_penalty 1
PARAMETER num_ctx 4096
PARAMETER stop "<|im_end|>"
PARAMETER stop "<|im_start|>"
"""


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


def write_merged(adapter: Path, out: Path, half: bool = False) -> None:
    """Add the adapter's low-rank update to the base weights and write an ordinary checkpoint.

    W' = W + (alpha / r) · B·A for every adapted layer (Hu et al. 2021, §4.1).

    Args:
        adapter: Folder with the adapter and its tokenizer.
        out: Folder to write.
        half: Write bfloat16, half the bytes, for publishing; else float32, for converting.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = read_base_model(read_base_id(adapter), verbose=False)
    with quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        model.to(torch.bfloat16 if half else torch.float32).save_pretrained(out)
        AutoTokenizer.from_pretrained(find_tokenizer(adapter)).save_pretrained(out)


def write_gguf(model: Path, outtype: str = "q8_0") -> Path:
    """Return the GGUF of a model folder (an adapter, or a whole checkpoint), written on first use.

    Args:
        model: Folder of an adapter or of a checkpoint.
        outtype: ``q8_0`` (8.5 bits a weight, the default), ``q4_0`` (4.5), ``bf16``, ``f16`` or ``f32``.

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
        kind = "f32" if outtype == "q4_0" else outtype  # the converter has no 4-bit format
        beside = converted = Path(folder) / f"converted-{kind}.gguf"
        command = [sys.executable, "-m", "convert_hf_to_gguf", str(source), "--outfile", str(converted)]
        command += ["--outtype", kind]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{model}: llama.cpp's converter failed: {done.stderr.strip()[-300:]}")
        if outtype == "q4_0":
            beside = Path(folder) / out.name
            write_q4_0(converted, beside)
        shutil.move(beside, out)
    return out


def write_q4_0(source: Path, out: Path) -> None:
    """Write an f32 GGUF's matrices in 4 bits, by the rule of llama.cpp's `llama-quantize`, which no package here has.

    32 weights in a row share one scale: 16 bytes and 2, 4.5 bits a weight (format Q4_0). Norms stay as they are. The
    vocabulary's matrix, which also gives the output, keeps 8 bits, as in llama.cpp where a row isn't a multiple of 256
    long. Q4_K_M would gain little here: its blocks are 256 long, and most of SmolLM2's rows 576, so they'd fall back to
    5 or 8 bits.

    Args:
        source: GGUF in ``f32``.
        out: File to write.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    import gguf

    kinds, reader = gguf.GGMLQuantizationType, gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":  # the writer's own
            continue
        value = field.contents()
        if name == "general.file_type":
            value = int(gguf.LlamaFileType.MOSTLY_Q4_0)
        items = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], sub_type=items)
    for tensor in reader.tensors:
        wide = kinds.Q8_0 if tensor.name in VOCABULARY else kinds.Q4_0
        kind = wide if tensor.data.ndim > 1 else tensor.tensor_type
        writer.add_tensor(tensor.name, gguf.quants.quantize(tensor.data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_modelfile(gguf: Path, system: str = GUEST) -> Path:
    """Write the `Modelfile` beside a GGUF with which Ollama prompts the model as it was trained.

    Without it Ollama guesses the template, draws lots and punishes repetition (its defaults are temperature 0.8 and
    repeat_penalty 1.1), and a call repeats the customer's words. What a customer types goes in as it is: Ollama doesn't
    hide a typed ``<|im_end|>``, `encode_prompt` does.

    LM Studio needs no such file: it takes the template from the GGUF, if that lies two folders deep, as in
    ``~/.lmstudio/models/<publisher>/<model>/model-q8_0.gguf`` (or run ``lms import FILE``). The system prompt,
    temperature 0 and repeat penalty 1 are set in the app.

    Args:
        gguf: A file that `write_gguf` wrote from a model that speaks ChatML, such as SmolLM2.
        system: The system prompt, as in training.

    Returns:
        Path of the file, for ``ollama create elm -f Modelfile``.

    Raises:
        ValueError: The model's own chat template is another one, or the system prompt would end its quotes.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    from gguf import GGUFReader

    field = GGUFReader(gguf).get_field("tokenizer.chat_template")
    if field is None or "<|im_start|>" not in field.contents():
        raise ValueError(f"{gguf} has no ChatML template; this Modelfile is for SmolLM2 and its like")
    if '"""' in system:
        raise ValueError(f"the system prompt holds three double quotes, which end it in a Modelfile: {system[:60]!r}")
    path = gguf.with_name("Modelfile")
    text = MODELFILE.format(gguf=gguf.name, template=CHATML, system=system)
    path.write_text(text, encoding="utf-8", newline="\n")  # a \r would become part of every prompt
    return path
