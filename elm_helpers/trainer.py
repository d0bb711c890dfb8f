"""TRL's trainer with two small changes: batches that fit a token budget, and a loss on the trained positions only."""

import random
from collections.abc import Iterator

from elm_helpers.chat import Encoded

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from trl import SFTTrainer


class TokenBudgetSampler:
    """Batches of rows of like length, as many as fit a number of tokens: no time goes into padding.

    Rows are shuffled, then sorted by length inside pools, so a batch holds like lengths but mixed tasks; the order
    of the batches changes every epoch.
    """

    def __init__(self, lengths: list[int], batch_tokens: int, seed: int, pool: int = 256):
        self.seed, self.epoch, self.batches = seed, 0, []
        order = random.Random(seed).sample(range(len(lengths)), len(lengths))
        for start in range(0, len(order), pool):
            batch, longest = [], 0
            for row in sorted(order[start : start + pool], key=lengths.__getitem__):
                longest = max(longest, lengths[row])
                if batch and longest * (len(batch) + 1) > batch_tokens:
                    self.batches.append(batch)
                    batch, longest = [], lengths[row]
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
    """TRL's trainer with token-budget batches, and a loss that only projects the trained positions.

    Only the positions that bear loss are multiplied by the 49,152-word output matrix; on the others the logits would
    be computed and thrown away. The loss is the same number (test_training.py holds it to 1e-3).
    """

    batch_tokens = 768
    trained_tokens = 0

    def get_train_dataloader(self) -> DataLoader:
        """Batches by `TokenBudgetSampler` in place of a fixed number of rows."""
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
        sampler = TokenBudgetSampler(lengths, self.batch_tokens, self.args.seed)
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
        targets = inputs["labels"][:, 1:]
        trained = targets != -100
        with self.accelerator.autocast():  # the model's own wrapper is passed by, and with it its autocast
            states = base.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
            logits = base.lm_head(states.last_hidden_state[:, :-1][trained]).float()
        total = torch.nn.functional.cross_entropy(logits, targets[trained], reduction="sum")
        loss = total / (trained.sum() if num_items_in_batch is None else num_items_in_batch)
        self.trained_tokens += int(inputs["attention_mask"].sum()) if torch.is_grad_enabled() else 0
        return (loss, {"loss": loss}) if return_outputs else loss


def build_dataset(encoded: list[Encoded]) -> Dataset:
    """Return the rows as TRL takes them ready-made: ``input_ids`` and ``labels``, -100 where no loss is computed.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    labels = [[t if bit else -100 for t, bit in zip(e.ids, e.mask, strict=True)] for e in encoded]
    return Dataset.from_dict({"input_ids": [list(e.ids) for e in encoded], "labels": labels})


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
