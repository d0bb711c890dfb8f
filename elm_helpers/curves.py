"""What a run logs while it trains: one line of numbers at a time, and warnings in words when they look wrong."""

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median

COLUMNS = (
    *("step", "loss", "eval_loss", "learning_rate", "grad_norm"),
    *("tokens", "seconds", "tokens_per_second", "memory_bytes"),
)


def merge_history(log_history: Sequence[Mapping]) -> list[dict]:
    """Return one line a step from what the trainer logged; a held-out loss joins the line of its step.

    Example:
        >>> merge_history([{"step": 5, "loss": 2.0}, {"step": 5, "eval_loss": 2.1}, {"step": 5, "train_runtime": 9}])
        [{'step': 5, 'loss': 2.0, 'eval_loss': 2.1}]

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    lines: dict[int, dict] = {}
    for entry in log_history:
        if "loss" in entry or "eval_loss" in entry:
            lines.setdefault(entry["step"], {}).update({key: entry[key] for key in COLUMNS if key in entry})
    return list(lines.values())


def write_history(log_history: Sequence[Mapping], path: Path) -> None:
    """Write the history as CSV, one line a logged step; seconds, bytes, and nats a token.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    part = path.with_name(f"{path.name}.part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(merge_history(log_history))
    os.replace(part, path)


def read_history(folder: Path) -> list[dict]:
    """Return the lines of a run's ``training_history.csv``, all values as numbers.

    Raises:
        FileNotFoundError: The folder holds no history.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    with open(Path(folder) / "training_history.csv", newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def find_trouble(history: Sequence[Mapping]) -> dict[str, str]:
    """Return what looks wrong in a history so far, in words: name of the trouble → what is seen, and what to do.

    Args:
        history: Lines as `read_history` gives them, or the trainer's own log.

    Example:
        >>> find_trouble([{"step": 5, "loss": 0.0}])["zero"]
        'step 5: the loss is 0, so nothing is learned. Does any token bear loss? Look at the masks of some rows.'

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    lines = [line for line in history if "loss" in line]
    found: dict[str, str] = {}
    if not lines:
        return found
    step, loss = int(lines[-1]["step"]), lines[-1]["loss"]
    losses = [line["loss"] for line in lines]
    norms = [line["grad_norm"] for line in lines if math.isfinite(line.get("grad_norm", math.nan))]
    if not math.isfinite(loss):
        found["nan"] = f"step {step}: the loss is {loss}. Lower the learning rate; with fp16, train in bf16 or fp32."
        return found
    if loss < 1e-6:
        text = "so nothing is learned. Does any token bear loss? Look at the masks of some rows."
        found["zero"] = f"step {step}: the loss is 0, {text}"
    elif len(lines) >= 12 and mean(losses[-5:]) > 0.97 * mean(losses[:5]):
        text = "The learning rate is too low or far too high, or the adapter is not being trained."
        found["flat"] = f"step {step}: the loss is no lower than at the start ({loss:.2f}). {text}"
    if len(norms) >= 6 and norms[-1] > 20 * max(median(norms[:-1]), 0.1):
        text = "Such a step undoes what was learned: lower the learning rate, and look at the rows around it."
        found["explosion"] = (
            f"step {step}: the gradient's length is {norms[-1]:.0f}, the usual {median(norms):.1f}. {text}"
        )
    return found


def format_progress(history: Sequence[Mapping]) -> str:
    """Return a run's last numbers as a line to read.

    Example:
        >>> format_progress([{"step": 5, "loss": 0.71234, "learning_rate": 1e-3, "memory_bytes": 2.7e9}])
        'loss 0.71, rate 1.0e-03, 2.7 GB'

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    last = {key: value for line in history for key, value in line.items()}
    forms = {"loss": "loss {:.2f}", "eval_loss": "held-out loss {:.2f}", "learning_rate": "rate {:.1e}"}
    forms |= {"grad_norm": "gradient {:.1f}", "tokens_per_second": "{:,.0f} tokens/s"}
    parts = [form.format(last[key]) for key, form in forms.items() if key in last]
    return ", ".join(parts + ([f"{last['memory_bytes'] / 1e9:.1f} GB"] if "memory_bytes" in last else []))
