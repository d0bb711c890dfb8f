"""TRL's trainer with three small changes: packed batches, a prompt read once in each, a loss where it is borne."""

import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

from elm_helpers.batches import TokenBudgetSampler, build_dataset, pack_rows, pick_trained, shift_labels
from elm_helpers.chat import Encoded
from elm_helpers.curves import find_trouble, write_history
from elm_helpers.devices import is_sharded, sum_devices
from elm_helpers.runs import PART, explain_disk
from elm_helpers.runtime import MemoryWatch

import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerState
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback
from trl import SFTTrainer
from trl.models.utils import _ForwardRedirection

PROMPT_TOKENS = 24  # rows that begin alike for so long have the same system prompt
EAGER_TOKENS = 400  # tokens; a longer sequence would take over 3 GB with eager attention
WATCHED_ROWS = 32  # held-out rows whose loss is followed while training


class CompletionTrainer(SFTTrainer):
    """TRL's trainer with token-budget batches, and a loss that leaves out the work that changes nothing.

    The rows of a batch are packed into one sequence without padding, and what all of them begin with, the system
    prompt, stands in it once: every row attends to it and to itself. Only the positions that bear loss are multiplied
    by the 49,152-word output matrix. The loss is the same number (test_training.py holds it to 1e-3). With activation
    checkpointing, on a GPU, batches stay padded: their attention needs no mask of its own.
    """

    batch_tokens = 256
    trained_tokens = 0
    clock = 0.0  # when training began; evaluations are taken out, and a resumed run began that much earlier
    watched: list[Encoded] = []  # held-out rows whose loss is followed while training
    memory: MemoryWatch | None = None
    best: tuple[float, int, dict] = (math.inf, 0, {})  # lowest loss of the watched rows, its step, the adapter then

    def get_train_dataloader(self) -> DataLoader:
        """Batches by `TokenBudgetSampler` in place of a fixed number of rows."""
        rows, padded = self.train_dataset["input_ids"], self.args.activation_checkpointing
        once = 0 if padded else PROMPT_TOKENS  # tokens that are read once a batch
        lengths, prompts = [max(len(ids) - once, 1) for ids in rows], [tuple(ids[:once]) for ids in rows]
        sampler = TokenBudgetSampler(lengths, self.batch_tokens, self.args.seed, prompts, padded)
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
        total, count = self.sum_losses(model, inputs)
        # With several devices, `num_items_in_batch` counts the tokens of all of them, and gradients are averaged.
        loss = total / count if num_items_in_batch is None else total / num_items_in_batch * self.args.world_size
        self.trained_tokens += int(inputs["attention_mask"].sum())
        return (loss, {"loss": loss}) if return_outputs else loss

    def sum_losses(self, model, inputs: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch's cross-entropy, summed, and its number of trained tokens.

        With several devices `model` is wrapped, and only a call of the wrapper shares gradients or gathers weights. So
        it is called, with `_sum_losses` in the place of the model's own forward.
        """
        plain = self.accelerator.unwrap_model(model)
        return _ForwardRedirection()(model, plain, self._sum_losses, plain.get_base_model(), inputs)

    def _sum_losses(self, base, inputs: dict) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask, labels = inputs["input_ids"], inputs["attention_mask"], inputs["labels"]
        with self.accelerator.autocast():  # the model's own forward is passed by, and with it its autocast
            if self.args.activation_checkpointing:
                targets = shift_labels(labels)
                states = base.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            else:
                packed, targets = pack_rows(ids, mask, labels, base.dtype)
                with choose_attention(base, targets.numel()):
                    states = base.model(**packed, use_cache=False).last_hidden_state
            trained = pick_trained(targets)
            logits = base.lm_head(states[trained]).float()
        return torch.nn.functional.cross_entropy(logits, targets[trained], reduction="sum"), (targets != -100).sum()

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
            tokens = sum_devices(self, self.trained_tokens)
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
        if metrics["eval_loss"] < self.best[0] and not is_sharded():
            adapter = {name: weight.detach().clone() for name, weight in self._list_trained()}
            self.best = (metrics["eval_loss"], self.state.global_step, adapter)
        self.clock += time.perf_counter() - start
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _list_trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]

    def keep_best(self) -> int:
        """Put the adapter with the lowest loss of the watched rows back, if there is one; return its step."""
        loss, step, adapter = self.best
        with torch.no_grad():
            for name, weight in self._list_trained() if adapter else ():
                weight.copy_(adapter[name])
        return step if adapter else self.state.global_step

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


@contextmanager
def choose_attention(model, tokens: int) -> Iterator[None]:
    """Read a long sequence with SDPA on a CPU; a short one, and any on a GPU, as the model was loaded.

    Eager attention is the fastest for short sequences, but keeps a (tokens, tokens) matrix for every head of every
    layer until the backward pass: 0.9 GB at 750 tokens. SDPA keeps none.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    loaded = model.config._attn_implementation
    if model.device.type == "cpu" and tokens > EAGER_TOKENS:
        model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(loaded)


def build_step_stop():
    """Build the `TrainerCallback` that ends a run after a step once its `asked` is true, with a checkpoint.

    Before a checkpoint it has the run log and look at the held-out rows, so that what is saved ends at its own step.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """

    class StepStop(TrainerCallback):
        """Looks at `asked` after every step."""

        asked = False

        def on_step_end(self, args, state, control, **more):
            if any(gather_object([self.asked])):  # Ctrl-C reaches the devices one after the other, and none stops alone
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
    """Return the mean loss per trained token of held-out rows; every device takes its share of the batches.

    The model stays in training mode, which changes nothing (there is no dropout): on CPUs with bf16 units,
    `model.eval()` would repack the 4-bit weights in place and no later step could train.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    rows, devices = build_dataset(encoded), trainer.accelerator
    lengths, padded = [len(e.ids) for e in encoded], trainer.args.activation_checkpointing
    batches = list(TokenBudgetSampler(lengths, trainer.batch_tokens, seed=0, padded=padded))
    total = torch.zeros((), device=devices.device)
    with torch.no_grad(), trainer.compute_loss_context_manager():
        for start in range(0, len(batches), devices.num_processes):
            mine = start + devices.process_index
            batch = batches[mine % len(batches)]
            inputs = trainer._prepare_inputs(trainer.data_collator([rows[i] for i in batch]))
            loss, _ = trainer.sum_losses(trainer.model_wrapped, inputs)
            total += loss * (mine < len(batches))  # one too many only keeps step: sharded weights need every device
    return float(devices.reduce(total)) / sum(sum(e.mask) for e in encoded)
