"""TRL's trainer with three small changes: token-budget batches, a prompt read once, a loss where it is borne."""

import random
from collections.abc import Iterator

from elm_helpers.chat import Encoded

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import DynamicCache
from trl import SFTTrainer
from trl.models.utils import _ForwardRedirection

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
        shared = 0 if self.args.activation_checkpointing else count_shared(ids, labels)
        with self.accelerator.autocast():  # the model's own forward is passed by, and with it its autocast
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
        return torch.nn.functional.cross_entropy(logits, targets[trained], reduction="sum"), trained.sum()


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


def compute_eval_loss(trainer: CompletionTrainer, encoded: list[Encoded]) -> float:
    """Return the mean loss per trained token of held-out rows; every device takes its share of the batches.

    The model stays in training mode, which changes nothing (there is no dropout): on CPUs with bf16 units,
    `model.eval()` would repack the 4-bit weights in place and no later step could train.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    rows, devices = build_dataset(encoded), trainer.accelerator
    batches = list(TokenBudgetSampler([len(e.ids) for e in encoded], trainer.batch_tokens, seed=0))
    total = torch.zeros((), device=devices.device)
    with torch.no_grad(), trainer.compute_loss_context_manager():
        for start in range(0, len(batches), devices.num_processes):
            mine = start + devices.process_index
            batch = batches[mine % len(batches)]
            inputs = trainer._prepare_inputs(trainer.data_collator([rows[i] for i in batch]))
            loss, _ = trainer.sum_losses(trainer.model_wrapped, inputs)
            total += loss * (mine < len(batches))  # one too many only keeps step: sharded weights need every device
    return float(devices.reduce(total)) / sum(sum(e.mask) for e in encoded)
