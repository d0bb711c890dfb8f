"""The ELM course's helpers: flat modules, one idea a file. Lessons in `notebooks/` show how each is used."""

import logging

# On CPUs with bf16 units, importing bitsandbytes warns about an optional kernel; no lesson should open with that.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
