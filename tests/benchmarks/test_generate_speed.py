"""Rows a second and peak memory of the generator: run with `pytest tests/benchmarks`; no time is asserted.

ELM_BENCHMARK_ROWS="400000" ELM_BENCHMARK_WORKERS=2 measures another size; 400,000 rows take minutes.
"""

import json
import os
import subprocess
import sys
import time

from elm_helpers.paths import ROOT

import psutil
import pytest

SIZES = [int(size) for size in os.environ.get("ELM_BENCHMARK_ROWS", "4000 40000").split()]
WORKERS = int(os.environ.get("ELM_BENCHMARK_WORKERS", "1"))
MOST_MORE = 150e6  # bytes that a process may hold above what 4,000 rows take: the chunks that wait to be written
WRITE = """
import sys
from elm_helpers.generate import write_dataset
if __name__ == "__main__":
    out, rows, workers = sys.argv[1:]
    print(write_dataset(out, int(rows), 0, workers=int(workers)).seconds)
"""


def list_memory(process: psutil.Process) -> list[int]:
    """Return the resident bytes of a process and of its workers, those that have just ended left out."""
    found = []
    for each in (process, *process.children(recursive=True)):
        try:
            found.append(each.memory_info().rss)
        except psutil.Error:
            continue
    return found


def measure(rows: int, workers: int, folder) -> dict[str, float]:
    """Write so many rows in a fresh process and watch it: seconds, and the peak of its largest process and of all."""
    script = folder / "write.py"
    script.write_text(WRITE, encoding="utf-8")
    command = [sys.executable, str(script), str(folder), str(rows), str(workers)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    process, largest, total = psutil.Process(started.pid), 0, 0
    while started.poll() is None:
        memory = list_memory(process) or [0]
        largest, total = max(largest, *memory), max(total, sum(memory))
        time.sleep(0.02)
    assert started.returncode == 0
    with (folder / "ecommerce_train.json").open(encoding="utf-8") as file:
        assert sum(1 for line in file if json.loads(line)["id"]) == rows
    return {"seconds": float(started.stdout.read()), "largest": largest, "total": total}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """What 4,000 rows take: one chunk, whose rows are compared with each other."""
    return measure(4_000, 1, tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize("rows", SIZES)
def test_memory_does_not_grow_with_the_number_of_rows(rows, small, benchmark, tmp_path, capsys):
    found = benchmark.pedantic(measure, (rows, WORKERS, tmp_path), rounds=1)
    benchmark.extra_info.update(found)
    with capsys.disabled():
        speed, largest, total = rows / found["seconds"], found["largest"] / 1e6, found["total"] / 1e6
        print(f"\n{rows:9,} rows  {WORKERS} worker(s)  {found['seconds']:7.1f} s  {speed:7,.0f} rows/s", end="")
        print(f"  peak {largest:5.0f} MB in the largest process, {total:5.0f} MB in all")
    assert small["largest"] > 20e6, "the watch saw the process"
    assert found["largest"] < small["largest"] + MOST_MORE
