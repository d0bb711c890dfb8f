"""QLoRA through TRL's own trainer, with three small changes that make it fast on a CPU, and a record of every run."""

import csv
import json
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path

from elm_helpers.chat import run_preflight
from elm_helpers.profiles import Profile
from elm_helpers.runtime import MemoryWatch, quiet_libraries, read_versions
from elm_helpers.trainer import CompletionTrainer, build_dataset, compute_eval_loss

import torch
from peft import LoraConfig
from peft.helpers import disable_input_dtype_casting
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig
from trl import SFTConfig

KEPT_ARGUMENTS = (
    "learning_rate",
    "num_train_epochs",
    "lr_scheduler_type",
    "warmup_steps",
    "max_steps",
    "max_length",
    "optim",
    "bf16",
    "fp16",
    "activation_checkpointing",
    "seed",
)


@cache
def choose_compute_dtype() -> torch.dtype:
    """Return the number format that this machine multiplies fastest in.

    bfloat16 on GPUs from Ampere on, float16 on older GPUs. A CPU is measured: with bf16 units (AMX, AVX512-BF16) it is
    2 to 6 times faster in bfloat16, without them 2 to 3 times slower.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    seconds = {dtype: time_product(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return torch.bfloat16 if 1.5 * seconds[torch.bfloat16] < seconds[torch.float32] else torch.float32


def time_product(dtype: torch.dtype, rows: int = 512, columns: int = 1536, inner: int = 576, tries: int = 5) -> float:
    """Return the seconds of the fastest of some matrix products, in the shape of the small model's feed-forward layer.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
    spent = []
    for _ in range(tries):
        start = time.perf_counter()
        torch.nn.functional.linear(left, right)
        spent.append(time.perf_counter() - start)
    return min(spent)


def build_quantization(dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return QLoRA's quantisation: 4-bit NF4 weights, their scales quantised again (Dettmers et al. 2023, §3).

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def build_lora(profile: Profile) -> LoraConfig:
    """Return the adapter's shape: rank r on all linear layers, no dropout (Hu et al. 2021).

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    return LoraConfig(
        r=profile.lora_rank,
        lora_alpha=profile.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def build_arguments(profile: Profile, out: Path, dtype: torch.dtype, overrides: dict | None = None) -> SFTConfig:
    """Return TRL's training arguments of a profile.

    Args:
        profile: The course size.
        out: Folder that checkpoints go to.
        dtype: The compute dtype, from `choose_compute_dtype`.
        overrides: SFTConfig fields that replace the profile's.

    Raises:
        TypeError: An override is no field of SFTConfig.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    arguments = {
        "output_dir": str(out),
        "num_train_epochs": profile.epochs,
        "learning_rate": profile.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 10,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "max_length": profile.max_length,
        "optim": profile.optimizer,
        "activation_checkpointing": profile.activation_checkpointing,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_steps": 5,
        "save_strategy": "no",
        "report_to": "none",
        "seed": 0,
    }
    return SFTConfig(**arguments | (overrides or {}))


def load_for_training(folder: Path, quantization: BitsAndBytesConfig | None, dtype: torch.dtype, attention: str):
    """Return (model, tokenizer) of a base-model folder, quantised while loading.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    with quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, quantization_config=quantization, attn_implementation=attention
        )
        tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:  # Llama has none; TRL masks padding by position, so the end token can serve
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def train_adapter(
    model,
    tokenizer,
    rows: list[dict],
    eval_rows: list[dict],
    lora: LoraConfig,
    arguments: SFTConfig,
    *,
    out: Path,
    hub_id: str,
    batch_tokens: int,
    callbacks: tuple = (),
    resume: bool = False,
) -> dict:
    """Fine-tune, evaluate and write the adapter's folder; preflight refuses first.

    Args:
        model: Base model from `load_for_training`.
        tokenizer: Its tokenizer.
        rows: Training rows, ``{"id", "messages", …}``.
        eval_rows: Held-out rows for the loss; none of them is trained on.
        lora: Shape of the adapter.
        arguments: TRL's training arguments.
        out: Folder of the adapter; replaced only when everything has been written.
        hub_id: The base model's id, kept in ``adapter_config.json``.
        batch_tokens: Tokens in a batch.
        callbacks: Such as a live plot.
        resume: Go on from the last checkpoint.

    Returns:
        The summary that ``training_summary.json`` holds.

    Raises:
        PreflightError: The rows would ruin the run.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    encoded = run_preflight(tokenizer, rows, arguments.max_length)
    held_out = run_preflight(tokenizer, eval_rows, arguments.max_length)
    with quiet_libraries():
        trainer = CompletionTrainer(
            model=model,
            args=arguments,
            train_dataset=build_dataset(encoded),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=list(callbacks),
        )
        trainer.batch_tokens = batch_tokens
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:  # TRL stores adapters in bf16; small updates would be rounded away
                parameter.data = parameter.data.float()
        start = time.perf_counter()
        with MemoryWatch() as watch, disable_input_dtype_casting(trainer.model):
            trainer.train(resume_from_checkpoint=resume or None)
            seconds = time.perf_counter() - start
            eval_loss = compute_eval_loss(trainer, held_out)
        summary = summarise_run(trainer, lora, arguments, len(rows), seconds, watch, eval_loss)
        write_adapter(trainer, tokenizer, summary, watch, out, hub_id)
    return summary


def summarise_run(trainer, lora, arguments, rows, seconds, watch, eval_loss) -> dict:
    """Return what ``training_summary.json`` holds; seconds, bytes, and losses per trained token.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    seen = trainer.trained_tokens
    config = {key: value for key, value in arguments.to_dict().items() if key in KEPT_ARGUMENTS}
    return {
        "rows": rows,
        "tokens": seen,
        "tokens_per_second": round(seen / seconds, 1),
        "seconds": round(seconds, 1),
        "steps": trainer.state.global_step,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else watch.peak,
        "final_loss": round(sum(losses[-10:]) / max(len(losses[-10:]), 1), 4),
        "eval_loss": round(eval_loss, 4),
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "versions": read_versions(),
        "config": config
        | {"lora_rank": lora.r, "lora_alpha": lora.lora_alpha, "lora_targets": "all-linear"}
        | {"batch_tokens": trainer.batch_tokens, "quantized": bool(getattr(trainer.model, "is_loaded_in_4bit", 0))},
    }


def write_adapter(trainer, tokenizer, summary: dict, watch: MemoryWatch, out: Path, hub_id: str) -> None:
    """Write adapter, tokenizer, generation settings, summary and history beside `out`, then swap the folders.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        adapter = trainer.accelerator.unwrap_model(trainer.model)
        adapter.to(torch.bfloat16)
        adapter.peft_config["default"].base_model_name_or_path = hub_id
        adapter.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        GenerationConfig(
            do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
        ).save_pretrained(beside)
        (beside / "training_summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
        write_history(trainer.state.log_history, beside / "training_history.csv")
        with open(beside / "memory_history.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("seconds", "resident_bytes"), *watch.trace])
        if out.exists():
            shutil.rmtree(out)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_history(log_history: list[dict], path: Path) -> None:
    """Write one CSV line per logged step: step, loss, learning rate, gradient norm.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    columns = ["step", "loss", "learning_rate", "grad_norm"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(entry for entry in log_history if "loss" in entry)
