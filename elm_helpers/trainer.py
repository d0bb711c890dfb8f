"""TRL's trainer with three small changes: packed batches, a prompt read once in each, a loss where it is borne."""

import random
from collections import Counter
from collections.abc import Iterator

from elm_helpers.chat import Encoded

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from trl import SFTTrainer
from trl.models.utils import _ForwardRedirection

LONG = 330  # tokens; a longer row is a whole conversation, which takes the time of several short ones
PROMPT_TOKENS = 24  # rows that begin alike for so long have the same system prompt


class TokenBudgetSampler:
    """Batches of as many rows as fit a number of tokens, in an order that changes every epoch.

    Rows that are packed count with their own tokens. Rows that are padded count with the longest of their batch; they
    are sorted by length inside pools, so that little is padded. Rows of another group, such as another system prompt,
    get batches of their own.
    """

    def __init__(
        self, lengths: list[int], batch_tokens: int, seed: int, groups: list | None = None, padded: bool = False
    ):
        self.seed, self.epoch, self.batches = seed, 0, []
        order, pool = random.Random(seed).sample(range(len(lengths)), len(lengths)), 512
        if padded:
            pools = [order[start : start + pool] for start in range(0, len(order), pool)]
            order = [row for part in pools for row in sorted(part, key=lambda row: lengths[row])]
        filling: dict = {}
        for row in order:
            group = groups[row] if groups else None
            batch = filling.get(group, [])
            sizes = [lengths[other] for other in (*batch, row)]
            if batch and (max(sizes) * len(sizes) if padded else sum(sizes)) > batch_tokens:
                self.batches.append(batch)
                batch = []
            filling[group] = [*batch, row]
        self.batches += filling.values()

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, so that a resumed run sees the same batches."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        yield from random.Random(f"{self.seed}-{self.epoch}").sample(self.batches, len(self.batches))


class CompletionTrainer(SFTTrainer):
    """TRL's trainer with token-budget batches, and a loss that leaves out the work that changes nothing.

    The rows of a batch are packed into one sequence without padding, and what all of them begin with, the system
    prompt, stands in it once: every row attends to it and to itself. Only the positions that bear loss are multiplied
    by the 49,152-word output matrix. The loss is the same number (test_training.py holds it to 1e-3). With activation
    checkpointing, on a GPU, batches stay padded: their attention needs no mask of its own.
    """

    batch_tokens = 256
    trained_tokens = 0

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
        targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
        with self.accelerator.autocast():  # the model's own forward is passed by, and with it its autocast
            if self.args.activation_checkpointing:
                states = base.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            else:
                packed, targets = pack_rows(ids, mask, labels, base.dtype)
                states = base.model(**packed, use_cache=False).last_hidden_state
            trained = targets != -100
            logits = base.lm_head(states[trained]).float()
        return torch.nn.functional.cross_entropy(logits, targets[trained], reduction="sum"), trained.sum()


def pack_rows(
    ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype
) -> tuple[dict, torch.Tensor]:
    """Return a padded batch as one sequence of its real tokens, the prompt that all rows begin with first and once.

    Args:
        ids: Token ids, (rows, length).
        mask: 1 for a token, 0 for padding, the same shape.
        labels: The same shape, -100 where no loss is computed.
        dtype: The model's number format.

    Returns:
        What the model takes: ``input_ids`` and ``position_ids`` (1, tokens), and an additive ``attention_mask``
        (1, 1, tokens, tokens) that lets a token see the prompt and what is before it in its own row. And for each
        token the one that should follow, or -100, (1, tokens).

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    shared = count_shared(ids, labels)
    rest = mask[:, shared:].bool()
    row, column = rest.nonzero(as_tuple=True)
    first = torch.arange(shared, device=ids.device)
    row, position = torch.cat([torch.full_like(first, -1), row]), torch.cat([first, column + shared])
    after = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    targets = torch.cat([torch.full_like(first, -100), after[:, shared:][rest]])
    seen = ((row[:, None] == row) | (row == -1)) & (position[:, None] >= position)
    hidden = torch.zeros(seen.shape, dtype=dtype, device=ids.device).masked_fill(~seen, torch.finfo(dtype).min)
    packed = {"input_ids": torch.cat([ids[0, :shared], ids[:, shared:][rest]])[None], "position_ids": position[None]}
    return packed | {"attention_mask": hidden[None, None]}, targets[None]


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


def choose_rows(rows: list[dict], shares: dict[str, float], sizes: dict[str, int] | None = None) -> list[dict]:
    """Return the first share of each task's rows, in file order: the mix that a run trains on.

    The file keeps its 40 / 30 / 20 / 10 mix; a run may weigh the tasks differently, because a token spent on long
    descriptions is a token not spent on tool calls.

    Args:
        rows: Rows as `elm generate` writes them.
        shares: Share of each task's rows to keep, 0 to 1; a task that is not named is kept whole. With `sizes`,
            ``long`` is the share of the rows of over `LONG` tokens, whatever their task.
        sizes: Row id -> tokens.

    Example:
        >>> rows = [{"task": "conversation", "id": str(i)} for i in range(4)]
        >>> [row["id"] for row in choose_rows(rows, {"conversation": 0.5})]
        ['0', '1']
        >>> [row["id"] for row in choose_rows(rows, {"long": 0}, {"0": 400, "1": 60, "2": 90, "3": 700})]
        ['1', '2']

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    kinds = ["long" if sizes and sizes[row["id"]] > LONG else row["task"] for row in rows]
    left = {kind: round(n * shares.get(kind, 1.0)) for kind, n in Counter(kinds).items()}
    kept = []
    for row, kind in zip(rows, kinds, strict=True):
        if left[kind] > 0:
            left[kind] -= 1
            kept.append(row)
    return kept


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
