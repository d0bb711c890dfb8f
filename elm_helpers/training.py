"""QLoRA through TRL's own trainer, with three small changes that make it fast on a CPU, and a record of every run."""

import json
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path

from elm_helpers.chat import run_preflight
from elm_helpers.curves import write_history
from elm_helpers.devices import agree, gather_adapter, is_sharded, sum_devices
from elm_helpers.profiles import Profile
from elm_helpers.runs import check_reporters, close_run, describe_config, describe_run, explain_disk, open_run
from elm_helpers.runtime import MemoryWatch, quiet_libraries, read_versions, release_memory
from elm_helpers.trainer import build_step_stop, build_trainer, compute_eval_loss, stop_after_step

import torch
from peft import LoraConfig
from peft.helpers import disable_input_dtype_casting
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig
from trl import SFTConfig


@cache
def choose_compute_dtype(bf16: bool | None = None, fp16: bool | None = None) -> torch.dtype:
    """Return the number format that this machine multiplies fastest in.

    bfloat16 on GPUs from Ampere on, float16 on older GPUs. A CPU is measured: with bf16 units (AMX, AVX512-BF16) it is
    2 to 6 times faster in bfloat16, without them 2 to 3 times slower.

    Args:
        bf16: What somebody chose already: True takes bfloat16, False for both takes float32. None measures.
        fp16: The same for float16.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    if bf16 is not None or fp16:
        return torch.bfloat16 if bf16 else torch.float16 if fp16 else torch.float32
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    seconds = {dtype: time_product(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return torch.bfloat16 if 1.5 * seconds[torch.bfloat16] < seconds[torch.float32] else torch.float32


def time_product(dtype: torch.dtype, rows: int = 512, columns: int = 1536, inner: int = 576, tries: int = 20) -> float:
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
        bnb_4bit_quant_storage=dtype if is_sharded() else torch.uint8,  # FSDP and ZeRO-3 cut only floats
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
        "logging_nan_inf_filter": False,
        "save_steps": 50,
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
    release_memory()
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
    """Fine-tune, evaluate and write the adapter's folder; preflight refuses first, and Ctrl-C keeps the best adapter.

    Args:
        model: Base model from `load_for_training`.
        tokenizer: Its tokenizer.
        rows: Training rows, ``{"id", "messages", …}``.
        eval_rows: Held-out rows, for the loss alone.
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
    check_reporters(arguments.report_to)
    run = Path(arguments.output_dir)
    with quiet_libraries():
        config = describe_config(model, lora, arguments, batch_tokens)
        record = describe_run(out, hub_id, config, rows, eval_rows)
        checkpoint = agree(open_run(run, record, resume) if arguments.process_index == 0 else None)
        trainer = build_trainer(model, tokenizer, encoded, held_out, lora, arguments, batch_tokens, callbacks)
        stop = build_step_stop()
        trainer.add_callback(stop)
        with MemoryWatch() as trainer.memory, disable_input_dtype_casting(trainer.model):
            trainer.go_on_from(checkpoint)
            with stop_after_step(stop):
                trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
            seconds = time.perf_counter() - trainer.clock
            kept = trainer.keep_best() if trainer.state.global_step < trainer.state.max_steps else None
            summary = summarise_run(trainer, config, len(rows), seconds, compute_eval_loss(trainer, held_out), kept)
        with explain_disk(out, run):
            write_adapter(trainer, tokenizer, summary, out, hub_id)
            if trainer.is_world_process_zero():
                close_run(run, summary)
    return summary


def summarise_run(trainer, config: dict, rows: int, seconds: float, eval_loss: float, kept: int | None = None) -> dict:
    """Return what ``training_summary.json`` holds; seconds, bytes, and losses per trained token.

    Tokens, seconds, losses and memory are those of the whole run, however often it was resumed. The adapter of a
    stopped run is that of step `kept`, where the loss of the watched rows was lowest; a finished run keeps its last.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    losses, seen = [entry["loss"] for entry in log[-10:]], sum_devices(trainer, trainer.trained_tokens)
    return {
        "status": "finished" if trainer.state.global_step >= trainer.state.max_steps else "stopped",
        "rows": rows,
        "tokens": seen,
        "tokens_per_second": round(seen / seconds, 1),
        "seconds": round(seconds, 1),
        "steps": trainer.state.global_step,
        "kept_step": trainer.state.global_step if kept is None else kept,
        "peak_memory_bytes": max([trainer.read_memory(), *(entry["memory_bytes"] for entry in log)]),
        "final_loss": round(sum(losses) / max(len(losses), 1), 4),
        "eval_loss": round(eval_loss, 4),
        "trainable_parameters": sum(w.numel() for w in gather_adapter(trainer).values()),  # a shard hides it
        "versions": read_versions(),
        "config": config,
    }


def write_adapter(trainer, tokenizer, summary: dict, out: Path, hub_id: str) -> None:
    """Write adapter, tokenizer, generation settings, summary and history beside `out`, then swap the folders.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    weights = gather_adapter(trainer)  # every device has to take part in this, only the first one writes
    if not trainer.is_world_process_zero():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    new = beside / out.name
    try:
        adapter = trainer.accelerator.unwrap_model(trainer.model)
        adapter.peft_config["default"].base_model_name_or_path = hub_id
        adapter.save_pretrained(new, state_dict=weights)
        tokenizer.save_pretrained(new)
        GenerationConfig(
            do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
        ).save_pretrained(new)
        (new / "training_summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
        write_history(trainer.state.log_history, new / "training_history.csv")
        for path in new.iterdir():
            path.chmod(0o644)  # safetensors lets only its owner read
        if out.exists():
            out.rename(beside / "old")
        new.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
