"""From rows to batches: which rows are trained on, which go together, and how they become one sequence."""

import random
from collections import Counter
from collections.abc import Iterator

from elm_helpers.chat import Encoded

import torch
from datasets import Dataset

EVEN = 32  # numbers of tokens are rounded up to a multiple of it: a CPU prepares its kernels anew for every new shape
LONG = 330  # tokens; a longer row is a whole conversation, which takes the time of several short ones


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


def shift_labels(labels: torch.Tensor) -> torch.Tensor:
    """Return for each position the label of the next one, -100 for the last: (rows, length) both.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)


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
        What the model takes: ``input_ids`` and ``position_ids`` (1, tokens), rounded up to a multiple of `EVEN` by
        repeats of the first token that nothing else sees and that bear no loss, and an additive ``attention_mask``
        (1, 1, tokens, tokens) that lets a token see the prompt and what is before it in its own row. And for each
        token the one that should follow, or -100, (1, tokens).

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    shared = count_shared(ids, labels)
    rest = mask[:, shared:].bool()
    row, column = rest.nonzero(as_tuple=True)
    first = torch.arange(shared, device=ids.device)
    row, position = torch.cat([torch.full_like(first, -1), row]), torch.cat([first, column + shared])
    targets = torch.cat([torch.full_like(first, -100), shift_labels(labels)[:, shared:][rest]])
    tokens = torch.cat([ids[0, :shared], ids[:, shared:][rest]])
    empty = (0, -len(tokens) % EVEN)
    tokens, row, position, targets = (
        torch.nn.functional.pad(part, empty, value=fill)
        for part, fill in ((tokens, int(tokens[0])), (row, -2), (position, 0), (targets, -100))
    )
    seen = ((row[:, None] == row) | (row == -1)) & (position[:, None] >= position)
    hidden = torch.zeros(seen.shape, dtype=dtype, device=ids.device).masked_fill(~seen, torch.finfo(dtype).min)
    packed = {"input_ids": tokens[None], "position_ids": position[None]}
    return packed | {"attention_mask": hidden[None, None]}, targets[None]


def pick_trained(targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return row and column of the positions that bear loss, rounded up to a multiple of `EVEN` by some that bear none.

    Args:
        targets: The token that should follow each, or -100, (rows, tokens).

    Example:
        >>> row, column = pick_trained(torch.tensor([[-100, 5, 6, *[-100] * 61]]))
        >>> len(column), column[:2].tolist()
        (32, [1, 2])

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    trained = targets != -100
    few = min(int(trained.sum()) + -int(trained.sum()) % EVEN, targets.numel())
    order = trained.flatten().to(torch.uint8).argsort(descending=True, stable=True)[:few]
    return order // targets.shape[1], order % targets.shape[1]


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
