"""What every run does around its work: keep libraries quiet, watch memory, note versions and the machine."""

import ctypes
import logging
import os
import platform
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import psutil

PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate", "xllamacpp")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' own warnings and loading bars out of a lesson; errors still come through.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    names = ("bitsandbytes", "transformers", "peft", "trl", "huggingface_hub", "hf-to-gguf", "accelerate")
    levels = {name: logging.getLogger(name).level for name in names}
    bars = [m.logging for name, m in sys.modules.items() if name == "transformers.utils"]
    tables = [m for name, m in sys.modules.items() if name == "datasets"]
    try:
        for bar in bars:
            bar.disable_progress_bar()
        for table in tables:
            table.disable_progress_bars()
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for bar in bars:
            bar.enable_progress_bar()
        for table in tables:
            table.enable_progress_bars()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


class MemoryWatch:
    """Samples this process's resident memory every 50 ms in a thread; `peak` is the largest, in bytes."""

    def __enter__(self) -> "MemoryWatch":
        self.peak, self._recent, self._stop = 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.05):
            resident = process.memory_info().rss
            self.peak, self._recent = max(self.peak, resident), max(self._recent, resident)

    def read_peak(self) -> int:
        """Return the largest since the last call."""
        recent, self._recent = max(self._recent, psutil.Process().memory_info().rss), 0
        return recent

    def __exit__(self, *error) -> None:
        self._stop.set()
        self._thread.join()


def release_memory() -> None:
    """Give memory that was freed back to the system: after loading, glibc keeps up to 0.4 GB of it in threads' heaps.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    if hasattr(trim := ctypes.CDLL(None), "malloc_trim"):  # glibc's own call; other systems do without
        trim.malloc_trim(0)


def read_versions() -> dict[str, str]:
    """Return the versions of the packages that decide a result.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    return {name: version(name) for name in PACKAGES}


def read_machine() -> dict[str, str | int]:
    """Return what a reader needs to place a timing: processor, cores and memory (bytes).

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"processor": platform.machine(), "cores": cores, "memory_bytes": psutil.virtual_memory().total}
