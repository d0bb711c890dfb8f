"""The data set: rows of four tasks in an exact mix, streamed, the same bytes for the same seed."""

import json
import os
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from elm_helpers.answers import Rejected
from elm_helpers.catalogue import read_catalogue
from elm_helpers.chat_rows import build_chat
from elm_helpers.conversations import build_call, build_conversation
from elm_helpers.paths import TEMPLATES
from elm_helpers.phrasebook import Phrasebook, PhrasebookError, hash_text, read_phrasebook
from elm_helpers.prompts import build_system
from elm_helpers.rows import build_category, build_description
from elm_helpers.store import build_store, open_store
from elm_helpers.tools import TOOLS
from elm_helpers.world import World, read_world

from rensa import RMinHash, RMinHashDeduplicator

MIX = {"product_description": 0.4, "conversation": 0.3, "categorization": 0.2, "tool_calling": 0.1}
BUILDERS = dict(zip(MIX, (build_description, build_conversation, build_category, build_call), strict=True))
NO_TOOLS = {"signed_in": False, "tool": None, "register": "plain"}
ATTEMPTS = 40
SEEN_BITS = 1 << 25  # one for each prompt seen: 4 MB for any number of rows, at the price of a rare needless retry
SIZES = {1e3: "n<1K", 1e4: "1K<n<10K", 1e5: "10K<n<100K", 1e6: "100K<n<1M"}  # as the Hub writes them
REPEATED, NEARLY = "prompt that an earlier row has", "prompt that is nearly an earlier row's"
CHUNK = 4_000  # rows that are built together, by one process, and compared with each other for near-duplicates
MOST_WAITING = 4  # chunks that may be built ahead of the one being written
HASH_SEED = 42  # the only one that rensa's deduplicator takes
NEAR, HASHES, BANDS = 0.8, 128, 16  # share of equal word triples; 16 bands of 8 hashes find nearly all above it


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


def _plan_rows(counts: dict[str, int], seed: int, split: str) -> Iterator[tuple[str, int]]:
    """Yield (task, index) of every row, tasks shuffled."""
    left, order = dict(counts), random.Random(f"{seed}-{split}-order")
    while sum(left.values()):
        task = order.choices(list(left), list(left.values()))[0]
        yield task, counts[task] - left[task]
        left[task] -= 1


def _build_row(
    world: World, task: str, index: int, seed: int, is_new: Callable[[dict], str], rejects: Counter, first: int = 0
) -> dict:
    """Return one row from its own seed; an attempt that fails or repeats is counted, and the next draws anew."""
    row = None
    for attempt in range(first, first + ATTEMPTS):
        shift = max(attempt - first - ATTEMPTS // 2, 0)  # of another kind, where a shop has nothing for this one
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
        problem = is_new(row)
        if not problem:
            return row
        rejects[f"{task}: {problem}"] += 1
    if row is None:
        often = ", ".join(f"{reason} ({count} times)" for reason, count in rejects.most_common(3))
        raise ValueError(
            f"{task}, row {index}: {ATTEMPTS} attempts were rejected, most often {often}; the shop may have too few"
            " products in a category, or orders, for it: import more, or give the task 0 in --mix"
        )
    return row


def _build_chunk(world: World, plan: Iterable[tuple[str, int]], seed: int) -> tuple[list[dict], Counter]:
    """Return the rows of one chunk and its rejects: what is nearly said already is dropped (MinHash, Broder 1997)."""
    near, rejects = RMinHashDeduplicator(NEAR, HASHES, True, BANDS), Counter()

    def is_new(row: dict) -> str:
        words = row["messages"][0]["content"].split()[-3:]  # guests get other answers than customers
        words += " ".join(m["content"] for m in row["messages"] if m["role"] == "user").lower().split()
        sketch = RMinHash(HASHES, HASH_SEED)
        sketch.update([" ".join(words[at : at + 3]) for at in range(len(words) - 2)])
        return "" if near.add(row["id"], sketch) else NEARLY

    rows = [_build_row(world, task, index, seed, is_new, rejects) for task, index in plan]
    return rows, rejects


@cache
def _open_world(store_path: Path | None, split: str) -> World:
    conn = build_store(":memory:") if store_path is None else open_store(store_path)
    return read_world(conn, read_phrasebook(), read_catalogue().titles, split)


def _build_chunk_apart(store_path: Path | None, split: str, plan: list, seed: int) -> tuple[list[dict], Counter]:
    """Build a chunk in a worker process, which opens the shop and reads the phrasebook once."""
    return _build_chunk(_open_world(store_path, split), plan, seed)


def _share_chunks(
    pool: Executor, store_path: Path | None, split: str, plans: Iterator, seed: int
) -> Iterator[tuple[list[dict], Counter]]:
    """Yield chunks in order; only a few are under way, so memory does not grow with their number."""
    waiting: deque[Future] = deque()
    for plan in plans:
        waiting.append(pool.submit(_build_chunk_apart, store_path, split, plan, seed))
        if len(waiting) > MOST_WAITING:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _drop_repeats(
    world: World, chunks: Iterable[tuple[list[dict], Counter]], seed: int, rejects: Counter
) -> Iterator[dict]:
    """Yield the rows of all chunks; one whose prompt an earlier chunk has is drawn anew."""
    seen = bytearray(SEEN_BITS >> 3)

    def is_new(row: dict) -> str:
        bit = int(hash_text("\n".join(m["content"] for m in row["messages"][:-1])) * SEEN_BITS)
        known = seen[bit >> 3] >> (bit & 7) & 1
        seen[bit >> 3] |= 1 << (bit & 7)
        return REPEATED if known else ""

    for rows, counts in chunks:
        rejects.update(counts)
        for row in rows:
            if is_new(row):
                index = int(row["id"].rpartition("-")[2])
                row = _build_row(world, row["task"], index, seed, is_new, rejects, first=ATTEMPTS)
            yield row


def generate_rows(
    world: World, counts: dict[str, int], seed: int = 0, rejects: Counter | None = None
) -> Iterator[dict]:
    """Yield the rows of one side, tasks shuffled, in memory that does not grow with their number.

    Args:
        world: From `read_world`.
        counts: Rows of each task, as `count_tasks` gives them.
        seed: Each row draws from `seed-split-task-index-attempt` alone.
        rejects: Counts the attempts that were thrown away, by reason.

    Yields:
        {"id", "task", "messages", "meta"}; every call in it ran, every answer was verified.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    plans = batched(_plan_rows(counts, seed, world.split), CHUNK)
    chunks = (_build_chunk(world, plan, seed) for plan in plans)
    yield from _drop_repeats(world, chunks, seed, Counter() if rejects is None else rejects)


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Yield lists of so many items; itertools has it from Python 3.12 on.

    Example:
        >>> list(batched("abc", 2))
        [['a', 'b'], ['c']]

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    items = iter(items)
    while part := list(islice(items, size)):
        yield part


def _check_book(book: Phrasebook) -> None:
    """Refuse a phrasebook that doesn't know every tool, or knows one that there isn't."""
    named = {*book.requests, *(intent.then[0] for intent in book.intents if intent.then)}
    if unknown := named - set(TOOLS):
        raise PhrasebookError(f"requests and talk: found {sorted(unknown)}, the tools are {', '.join(TOOLS)}")
    for tool in TOOLS:
        if tool not in book.requests:
            raise PhrasebookError(f"requests/{tool}.yaml: found no such file, expected what customers say to reach it")
        if not any(key.startswith(f"answers.{tool}.") for key in book.wordings):
            raise PhrasebookError(f"requests/{tool}.yaml: found no answers, expected how ELM words a result")


def write_dataset(
    out: Path,
    rows: int = 4000,
    eval_rows: int = 1000,
    mix: dict[str, float] | None = None,
    seed: int = 0,
    store_path: Path | None = None,
    workers: int = 1,
) -> Report:
    """Write ecommerce_train.json and ecommerce_eval.json (JSON Lines), beside first and then renamed.

    Args:
        out: Folder; it is made.
        rows: Rows for training.
        eval_rows: Rows held out: no product, request, answer wording or title of theirs is in training.
        mix: Share of each task, None for 40 / 30 / 20 / 10.
        seed: The same seed, files and shop give the same bytes.
        store_path: A shop, such as an imported one; None builds the course's.
        workers: Processes that build chunks of 4,000 rows; the bytes don't depend on their number.

    Raises:
        PhrasebookError: A phrasebook file has a mistake.
        ValueError: The catalogue or the mix has one, or the shop has too little to talk about.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    started, written, rejects = time.perf_counter(), {}, Counter()
    conn = build_store(":memory:") if store_path is None else open_store(store_path)
    book, titles, out = read_phrasebook(), read_catalogue().titles, Path(out)
    _check_book(book)
    out.mkdir(parents=True, exist_ok=True)
    for split, size in (("train", rows), ("eval", eval_rows)):
        path, counts = out / f"ecommerce_{split}.json", count_tasks(size, mix)
        part, world = path.with_suffix(".json.part"), read_world(conn, book, titles, split)
        with part.open("w", encoding="utf-8", newline="\n") as file, ExitStack() as stack:
            drawn = generate_rows(world, counts, seed, rejects)
            if workers > 1 and size > CHUNK:
                pool = stack.enter_context(ProcessPoolExecutor(workers, get_context("spawn")))
                plans = batched(_plan_rows(counts, seed, split), CHUNK)
                drawn = _drop_repeats(world, _share_chunks(pool, store_path, split, plans, seed), seed, rejects)
            for row in drawn:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        os.replace(part, path)
        written[split] = counts
    report = Report(written, dict(rejects.most_common()), round(time.perf_counter() - started, 2))
    (out / "README.md").write_text(build_dataset_card(report, seed), encoding="utf-8")
    return report


def build_dataset_card(report: Report, seed: int) -> str:
    """Return the card that goes with the files to a dataset repository: what is in them and how it was checked.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    rows = [f"| {split} | {' | '.join(f'{n:,}' for n in counts.values())} |" for split, counts in report.counts.items()]
    table = "\n".join([f"| | {' | '.join(MIX)} |", f"|---{'|---' * len(MIX)}|", *rows])
    sizes = {split: sum(counts.values()) for split, counts in report.counts.items()}
    total = sum(sizes.values())
    size = next((label for most, label in SIZES.items() if total < most), "n>1M")
    card = (TEMPLATES / "dataset_card.md").read_text(encoding="utf-8")
    table = f"{total:,} rows: {' and '.join(f'{n:,} {split}' for split, n in sizes.items())}.\n\n{table}"
    return card.format(size=size, seed=seed, table=table, rejected=f"{sum(report.rejects.values()):,}")
