"""What a larger run takes: published speeds of GPUs, estimates where there is none, and how many GPUs it needs."""

from dataclasses import dataclass
from functools import cache
from math import ceil

from elm_helpers.budget import Budget
from elm_helpers.paths import TEMPLATES

import yaml

REFERENCE = "RTX 4090"  # the card with a published speed of both methods, that the estimates start from
FILL = 0.9  # share of a card's memory that can be planned with: the allocator can't use every gap


@dataclass(frozen=True)
class Card:
    """A GPU: bytes of memory, and dense half-precision operations a second at its peak."""

    name: str
    memory: float
    peak: float


@dataclass(frozen=True)
class Speed:
    """Tokens a second in training 8 billion parameters on one card, and where the number comes from.

    `how` is the source's address if somebody measured it, else the formula of an estimate.
    """

    tokens_per_second: float
    how: str

    @property
    def is_measured(self) -> bool:
        """Whether it was published, not estimated."""
        return self.how.startswith("https://")


@cache
def read_cards() -> tuple[dict[str, Card], dict[tuple[str, str], Speed]]:
    """Return the cards of cards.yaml by name, and the published speeds by card and method.

    Shown in ``notebooks/09_scale_up.ipynb``.
    """
    data = yaml.safe_load((TEMPLATES / "cards.yaml").read_text(encoding="utf-8"))
    cards = {name: Card(name, one["memory_gb"] * 1e9, one["peak_tflops"] * 1e12) for name, one in data["cards"].items()}
    found = data["published"]
    return cards, {(one["card"], one["method"]): Speed(one["tokens_per_second"], one["source"]) for one in found}


def find_speed(card: str, method: str) -> Speed:
    """Return how fast a card trains: as published, else estimated.

    If the other method was published for this card, the estimate keeps the ratio that the two methods have on an RTX
    4090; if nothing was, it scales the RTX 4090's speed with the peak rates. That is an upper limit: memory bandwidth,
    heat and kernels are left out.

    Args:
        card: A name of cards.yaml.
        method: ``QLoRA`` or ``LoRA``.

    Raises:
        KeyError: There is no such card or method.

    Example:
        >>> find_speed("T4", "QLoRA")
        Speed(tokens_per_second=949.0, how='RTX 4090 QLoRA x 65 / 165.2 TFLOPS')

    Shown in ``notebooks/09_scale_up.ipynb``.
    """
    cards, published = read_cards()
    if (card, method) in published:
        return published[card, method]
    other, same = {"QLoRA": "LoRA", "LoRA": "QLoRA"}[method], published[REFERENCE, method].tokens_per_second
    if (card, other) in published:
        ratio = same / published[REFERENCE, other].tokens_per_second
        how = f"{card} {other} x {ratio:.2f}, as on the {REFERENCE}"
        return Speed(round(published[card, other].tokens_per_second * ratio), how)
    ratio = cards[card].peak / cards[REFERENCE].peak
    how = f"{REFERENCE} {method} x {cards[card].peak / 1e12:g} / {cards[REFERENCE].peak / 1e12:g} TFLOPS"
    return Speed(float(round(same * ratio)), how)


def count_cards(budget: Budget, memory: float) -> int | None:
    """Return how many cards hold a run whose weights, gradients and optimizer are spread over them.

    Full sharding (Rajbhandari et al. 2020, stage 3; FSDP the same) divides these by the number of cards. Activations,
    logits and the unpacked matrix belong to each card's own batch, and stay whole.

    Args:
        budget: Of one card's batch, from `predict_memory`.
        memory: Bytes of one card.

    Returns:
        1 or more; None where not even the batch fits.

    Example:
        >>> budget = Budget(0, 60, 0, 60, 120, 30, 0, 0)
        >>> [count_cards(budget, memory) for memory in (400, 100, 30)]
        [1, 4, None]

    Shown in ``notebooks/09_scale_up.ipynb``.
    """
    shared = budget.weights + budget.adapters + budget.gradients + budget.optimizer
    free = FILL * memory - (budget.total - shared)
    return max(ceil(shared / free), 1) if free > 0 else None
