"""TRL's trainer with three small changes: token-budget batches, a prompt read once, a loss where it is borne."""

import math
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

from elm_helpers.chat import Encoded
from elm_helpers.curves import find_trouble, write_history
from elm_helpers.runs import PART, explain_disk
from elm_helpers.runtime import MemoryWatch

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import DynamicCache, TrainerCallback, TrainerState
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback
from trl import SFTTrainer

WATCHED_ROWS = 32  # held-out rows whose loss is followed while training
PROMPT_TOKENS = 24  # rows that begin alike for so long have the same system prompt


class TokenBudgetSampler:
    """Batches of rows of like length, as many as fit a number of tokens: no time goes into padding.

    Rows are shuffled, then sorted by length inside pools, so a batch holds like lengths but mixed tasks; the order
    of the batches changes every epoch. Rows of another group, such as another system prompt, get batches of their own.
    """

    def __init__(self, lengths: list[int], batch_tokens: int, seed: int, groups: list | None = None, pool: int = 512):
        self.seed, self.epoch, self.batches = seed, 0, []
        groups = groups or [0] * len(lengths)
        order = random.Random(seed).sample(range(len(lengths)), len(lengths))
        for start in range(0, len(order), pool):
            batch: list[int] = []
            for row in sorted(order[start : start + pool], key=lambda row: (groups[row], lengths[row])):
                full = lengths[row] * (len(batch) + 1) > batch_tokens
                if batch and (full or groups[row] != groups[batch[0]]):
                    self.batches.append(batch)
                    batch = []
                batch.append(row)
            self.batches.append(batch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, so that a resumed run sees the same batches."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        yield from random.Random(f"{self.seed}-{self.epoch}").sample(self.batches, len(self.batches))


class CompletionTrainer(SFTTrainer):
    """TRL's trainer with token-budget batches, and a loss that leaves out the work that changes nothing.

    What all rows of a batch begin with, the system prompt, is read once and its keys and values are shared: a prefix
    cache, as servers have, but one that gradients flow through. And only the positions that bear loss are multiplied by
    the 49,152-word output matrix. The loss is the same number (test_training.py holds it to 1e-3).
    """

    batch_tokens = 768
    trained_tokens = 0
    clock = 0.0  # when training began; evaluations are taken out, and a resumed run began that much earlier
    watched: list[Encoded] = []  # held-out rows whose loss is followed while training
    memory: MemoryWatch | None = None

    def get_train_dataloader(self) -> DataLoader:
        """Batches by `TokenBudgetSampler` in place of a fixed number of rows."""
        rows = self.train_dataset["input_ids"]
        once = 0 if self.args.activation_checkpointing else PROMPT_TOKENS  # tokens that are read once a batch
        lengths, prompts = [max(len(ids) - once, 1) for ids in rows], [tuple(ids[:once]) for ids in rows]
        sampler = TokenBudgetSampler(lengths, self.batch_tokens, self.args.seed, prompts)
        return self.accelerator.prepare(
            DataLoader(
                self.train_dataset.select_columns(["input_ids", "labels"]),
                batch_sampler=sampler,
                collate_fn=self.data_collator,
                pin_memory=self.args.dataloader_pin_memory,
            )
        )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean cross-entropy of the trained tokens (summed over the batch, divided by their number)."""
        base = self.accelerator.unwrap_model(model).get_base_model()
        ids, mask, labels = inputs["input_ids"], inputs["attention_mask"], inputs["labels"]
        shared = 0 if self.args.activation_checkpointing else count_shared(ids, labels)
        with self.accelerator.autocast():  # the model's own wrapper is passed by, and with it its autocast
            cache = None
            if shared:
                cache = DynamicCache(config=base.config)
                base.model(input_ids=ids[:1, :shared], past_key_values=cache, use_cache=True)
                cache.batch_repeat_interleave(len(ids))
            states = base.model(
                input_ids=ids[:, shared:], attention_mask=mask, past_key_values=cache, use_cache=bool(shared)
            )
            targets = labels[:, shared + 1 :]
            trained = targets != -100
            logits = base.lm_head(states.last_hidden_state[:, :-1][trained]).float()
        total = torch.nn.functional.cross_entropy(logits, targets[trained], reduction="sum")
        loss = total / (trained.sum() if num_items_in_batch is None else num_items_in_batch)
        self.trained_tokens += int(mask.sum()) if torch.is_grad_enabled() else 0
        return (loss, {"loss": loss}) if return_outputs else loss

    def go_on_from(self, checkpoint: Path | None) -> None:
        """Count on from the tokens and seconds of a checkpoint, or from 0."""
        log = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")).log_history if checkpoint else []
        last = next((entry for entry in reversed(log) if "tokens" in entry), {"tokens": 0, "seconds": 0.0})
        self.trained_tokens = last["tokens"] if self.is_world_process_zero() else 0  # the devices' counts are summed
        self.clock = time.perf_counter() - last["seconds"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add tokens, seconds, speed and memory to what is logged, keep it as CSV; stop at a loss that is no number."""
        if "loss" in logs:
            last = next((e for e in reversed(self.state.log_history) if "tokens" in e), {"tokens": 0, "seconds": 0.0})
            tokens = int(self.accelerator.reduce(torch.tensor(self.trained_tokens, device=self.args.device)))
            seconds = time.perf_counter() - self.clock
            speed = (tokens - last["tokens"]) / max(seconds - last["seconds"], 1e-9)
            logs.update(tokens=tokens, seconds=seconds, tokens_per_second=speed, memory_bytes=self.read_memory())
        super().log(logs, start_time)
        if self.is_world_process_zero() and "train_runtime" not in logs:
            run = Path(self.args.output_dir)
            with explain_disk(run, run):
                write_history(self.state.log_history, run / "training_history.csv")
        if not math.isfinite(logs.get("loss", 0.0)):
            raise ValueError(f"stopped at {find_trouble(self.state.log_history)['nan']}")

    def read_memory(self) -> int:
        """Return the peak of memory since the last call: VRAM on a GPU, resident on a CPU, in bytes."""
        if not torch.cuda.is_available():
            return self.memory.read_peak() if self.memory else 0
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """Follow the loss of the watched rows, by `compute_eval_loss`: the model stays in training mode."""
        start = time.perf_counter()
        metrics = {"eval_loss": compute_eval_loss(self, self.watched)}
        self.clock += time.perf_counter() - start
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, model, trial) -> None:
        """Write a checkpoint beside its place, then rename it: a killed run leaves a whole one or none."""
        run, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        with explain_disk(run, run):
            try:
                self.args.output_dir = str(run / PART)
                super()._save_checkpoint(model, trial)
            finally:
                self.args.output_dir = str(run)
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                for path in filter(Path.is_file, (run / PART / name).rglob("*")):
                    with open(path, "rb") as file:  # so that it is on the disk, not only on its way there
                        os.fsync(file.fileno())
                old = [path for path in run.glob("checkpoint-*") if path.name != name]
                shutil.rmtree(run / name, ignore_errors=True)
                (run / PART / name).rename(run / name)
                for path in (*old, run / PART):
                    shutil.rmtree(path, ignore_errors=True)
            self.accelerator.wait_for_everyone()


def build_step_stop():
    """Build the `TrainerCallback` that ends a run after a step once its `asked` is true, with a checkpoint.

    Before a checkpoint it has the run log and look at the held-out rows, so that what is saved ends at its own step.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """

    class StepStop(TrainerCallback):
        """Looks at `asked` after every step."""

        asked = False

        def on_step_end(self, args, state, control, **more):
            if self.asked:
                control.should_training_stop = control.should_save = True
            if control.should_save:
                control.should_log = control.should_evaluate = True
            if state.global_step >= state.max_steps:  # resumed from its end, transformers would train one step more
                control.should_save = False

    return StepStop()


@contextmanager
def stop_after_step(stop) -> Iterator[None]:
    """Let Ctrl-C, and *Interrupt* in Jupyter, end the run after its step; a second one ends it at once.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """

    def ask(number, frame):
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        print("\nStopping after this step; the adapter will be saved. Interrupt again to stop at once.", flush=True)

    if threading.current_thread() is not threading.main_thread():  # only the main thread hears signals
        yield
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def count_shared(ids: torch.Tensor, labels: torch.Tensor) -> int:
    """Return how many tokens all rows of a batch begin with, before any that bears loss; 0 where sharing gains nothing.

    Args:
        ids: Token ids, (rows, length).
        labels: The same shape, -100 where no loss is computed.

    Example:
        >>> ids = torch.tensor([[5, 6, 7, 1, 2], [5, 6, 7, 3, 4]])
        >>> count_shared(ids, torch.tensor([[-100, -100, -100, -100, 2], [-100, -100, -100, -100, 4]]))
        3

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    if len(ids) < 2:
        return 0
    alike = (ids == ids[:1]).all(0) & (labels == -100).all(0)
    shared = int(alike.int().cumprod(0).sum())
    untrained = int((labels == -100).all(0).int().cumprod(0).sum())
    return max(min(shared, untrained - 1), 0)


def build_dataset(encoded: list[Encoded]) -> Dataset:
    """Return the rows as TRL takes them ready-made: ``input_ids`` and ``labels``, -100 where no loss is computed.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    labels = [[t if bit else -100 for t, bit in zip(e.ids, e.mask, strict=True)] for e in encoded]
    return Dataset.from_dict({"input_ids": [list(e.ids) for e in encoded], "labels": labels})


def build_trainer(
    model, tokenizer, encoded, held_out, lora, arguments, batch_tokens: int, callbacks: tuple
) -> CompletionTrainer:
    """Return the trainer, its adapter in fp32; progress is shown by the callbacks alone.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    trainer = CompletionTrainer(
        model=model,
        args=arguments,
        train_dataset=build_dataset(encoded),
        processing_class=tokenizer,
        peft_config=deepcopy(lora),  # it gets the layers' names written into it
        callbacks=list(callbacks),
    )
    for printer in (DEFAULT_PROGRESS_CALLBACK, PrinterCallback):
        trainer.remove_callback(printer)
    trainer.batch_tokens, trainer.watched = batch_tokens, held_out[:WATCHED_ROWS]
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # TRL stores adapters in bf16; small updates would be rounded away
            parameter.data = parameter.data.float()
    return trainer


def compute_eval_loss(trainer: CompletionTrainer, encoded: list[Encoded]) -> float:
    """Return the mean loss per trained token of held-out rows.

    The model stays in training mode, which changes nothing (there is no dropout): on CPUs with bf16 units,
    `model.eval()` would repack the 4-bit weights in place and no later step could train.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    rows = build_dataset(encoded)
    total = 0.0
    with torch.no_grad(), trainer.compute_loss_context_manager():
        for batch in TokenBudgetSampler([len(e.ids) for e in encoded], trainer.batch_tokens, seed=0):
            inputs = trainer._prepare_inputs(trainer.data_collator([rows[i] for i in batch]))
            total += float(trainer.compute_loss(trainer.model, inputs, num_items_in_batch=1))
    return total / sum(sum(e.mask) for e in encoded)
