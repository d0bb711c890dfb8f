"""The ELM course's helpers: flat modules, one idea a file. Lessons in `notebooks/` show how each is used."""

import logging
import os

# On CPUs with bf16 units, importing bitsandbytes warns about an optional kernel; no lesson should open with that.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

# oneDNN keeps a compiled kernel and its buffers for each shape of a matrix product, and batches here have many shapes:
# 32 of them in place of 1,024 take a training run's peak from 3.5 to 2.8 GB at the same speed.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
