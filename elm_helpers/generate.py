"""The data set: rows of four tasks in an exact mix, streamed, the same bytes for the same seed."""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elm_helpers.answers import Rejected
from elm_helpers.catalogue import read_catalogue
from elm_helpers.chat_rows import build_chat
from elm_helpers.conversations import build_call, build_conversation
from elm_helpers.phrasebook import hash_text, read_phrasebook
from elm_helpers.prompts import build_system
from elm_helpers.rows import build_category, build_description
from elm_helpers.store import build_store, open_store
from elm_helpers.world import World, read_world

MIX = {"product_description": 0.4, "conversation": 0.3, "categorization": 0.2, "tool_calling": 0.1}
BUILDERS = dict(zip(MIX, (build_description, build_conversation, build_category, build_call), strict=True))
NO_TOOLS = {"signed_in": False, "tool": None, "register": "plain"}
ATTEMPTS = 40
SEEN_BITS = 1 << 25  # one for each prompt seen: 4 MB for any number of rows, at the price of a rare needless retry
REPEATED = "prompt that an earlier row has"


@dataclass(frozen=True)
class Report:
    """What `write_dataset` did: rows by file and task, rejected attempts by reason, wall-clock seconds."""

    counts: dict[str, dict[str, int]]
    rejects: dict[str, int]
    seconds: float


def count_tasks(rows: int, mix: dict[str, float] | None = None) -> dict[str, int]:
    """Split a number of rows over the tasks, exactly (largest remainder).

    Args:
        rows: How many in all.
        mix: Share of each task; they need not add up to 1. None is the course's 40 / 30 / 20 / 10.

    Raises:
        ValueError: An unknown task, a negative share, or nothing but zeros.

    Example:
        >>> count_tasks(4000)
        {'product_description': 1600, 'conversation': 1200, 'categorization': 800, 'tool_calling': 400}

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    mix = MIX if mix is None else mix
    if set(mix) - set(MIX) or min(mix.values(), default=0) < 0 or not sum(mix.values()) > 0 or rows < 0:
        raise ValueError(
            f"mix: found {mix} for {rows} rows, right are shares of {', '.join(MIX)}, at least one above 0"
        )
    exact = {task: rows * mix.get(task, 0) / sum(mix.values()) for task in MIX}
    counts = {task: int(share + 1e-9) for task, share in exact.items()}
    for task in sorted(MIX, key=lambda task: counts[task] - exact[task])[: rows - sum(counts.values())]:
        counts[task] += 1
    return counts


def _build_row(world: World, task: str, index: int, seed: int, seen: bytearray, rejects: Counter) -> dict:
    """Return one row from its own seed; an attempt that fails or repeats a prompt is counted, the next draws anew."""
    row = None
    for attempt in range(ATTEMPTS):
        shift = max(attempt - ATTEMPTS // 2, 0)  # of another kind, where a shop has nothing for this one
        try:
            chat = build_chat(world, index) if task == "conversation" and not attempt else None
            rng = random.Random(f"{seed}-{world.split}-{task}-{index}-{attempt}")
            parts = chat or BUILDERS[task](world, index + shift, rng)
        except Rejected as error:
            rejects[f"{task}: {error}"] += 1
            continue
        meta = NO_TOOLS | parts["meta"]
        turns = [("system", build_system("somebody" if meta["signed_in"] else None)), *parts["turns"]]
        messages = [{"role": role, "content": text} for role, text in turns]
        row = {"id": f"{world.split}-{task}-{index:06}", "task": task, "messages": messages, "meta": meta}
        bit = int(hash_text("\n".join(text for _, text in turns[:-1])) * SEEN_BITS)
        if not seen[bit >> 3] >> (bit & 7) & 1:
            seen[bit >> 3] |= 1 << (bit & 7)
            return row
        rejects[f"{task}: {REPEATED}"] += 1
    if row is None:
        raise ValueError(f"{task}, row {index}: {ATTEMPTS} attempts were rejected; most often {rejects.most_common(3)}")
    return row


def generate_rows(
    world: World, counts: dict[str, int], seed: int = 0, rejects: Counter | None = None
) -> Iterator[dict]:
    """Yield the rows of one side, tasks shuffled, in memory that does not grow with their number.

    Args:
        world: From `read_world`.
        counts: Rows of each task, as `count_tasks` gives them.
        seed: Each row draws from `seed-split-task-index` alone.
        rejects: Counts the attempts that were thrown away, by reason.

    Yields:
        {"id", "task", "messages", "meta"}; every call in it ran, every answer was verified.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    left, order, seen = dict(counts), random.Random(f"{seed}-{world.split}-order"), bytearray(SEEN_BITS >> 3)
    rejects = Counter() if rejects is None else rejects
    while sum(left.values()):
        task = order.choices(list(left), list(left.values()))[0]
        yield _build_row(world, task, counts[task] - left[task], seed, seen, rejects)
        left[task] -= 1


def write_dataset(
    out: Path,
    rows: int = 4000,
    eval_rows: int = 1000,
    mix: dict[str, float] | None = None,
    seed: int = 0,
    store_path: Path | None = None,
) -> Report:
    """Write ecommerce_train.json and ecommerce_eval.json (JSON Lines), beside first and then renamed.

    Args:
        out: Folder; it is made.
        rows: Rows for training.
        eval_rows: Rows held out: no product, request, answer wording or title of theirs is in training.
        mix: Share of each task, None for 40 / 30 / 20 / 10.
        seed: The same seed, files and shop give the same bytes.
        store_path: A shop, such as an imported one; None builds the course's.

    Raises:
        PhrasebookError: A phrasebook file has a mistake.
        ValueError: The catalogue or the mix has one, or the shop has too little to talk about.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    started, written, rejects = time.perf_counter(), {}, Counter()
    conn = build_store(":memory:") if store_path is None else open_store(store_path)
    book, titles, out = read_phrasebook(), read_catalogue().titles, Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for split, size in (("train", rows), ("eval", eval_rows)):
        path, counts = out / f"ecommerce_{split}.json", count_tasks(size, mix)
        part, world = path.with_suffix(".json.part"), read_world(conn, book, titles, split)
        with part.open("w", encoding="utf-8", newline="\n") as file:
            for row in generate_rows(world, counts, seed, rejects):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        os.replace(part, path)
        written[split] = counts
    return Report(written, dict(rejects.most_common()), round(time.perf_counter() - started, 2))
