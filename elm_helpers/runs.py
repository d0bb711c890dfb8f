"""Every training run has a folder of its own: what went in, how it went, and from where it can go on."""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path

from elm_helpers.curves import read_history
from elm_helpers.paths import OUTPUTS
from elm_helpers.runtime import read_machine, read_versions

KEPT_ARGUMENTS = (
    "learning_rate",
    "num_train_epochs",
    "lr_scheduler_type",
    "warmup_steps",
    "max_steps",
    "max_length",
    "optim",
    "bf16",
    "fp16",
    "activation_checkpointing",
    "seed",
)
HOW_IT_RUNS = re.compile(  # beginnings of the arguments' names that don't decide what is learned
    "output_dir|run_name|report_to|disable_tqdm|logging|log_|save|eval|hub|push_to|use_cpu|dataloader|"
    "gradient_checkpointing|project|trackio|ddp|load_best|metric_for|greater_is"
)
RUNS = OUTPUTS / "runs"
RECORD, PART = "run.json", ".part"  # a checkpoint is written in PART, and renamed once it is whole


def name_run(name: str, runs: Path = RUNS) -> Path:
    """Return the folder of a new run, ``<time>-<name>``, which is not made yet.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (f"{stamp}-{name}" if not again else f"{stamp}-{name}-{again + 1}" for again in count())
    return next(runs / name for name in names if not (runs / name).exists())


def hash_rows(rows: Sequence[dict]) -> str:
    """Return a fingerprint of rows: the same rows in the same order have the same one.

    Example:
        >>> hash_rows([{"a": 1, "b": 2}]) == hash_rows([{"b": 2, "a": 1}])
        True
        >>> hash_rows([{"a": 1}, {"a": 2}]) == hash_rows([{"a": 2}, {"a": 1}])
        False

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]


def describe_run(out: Path, base_model: str, config: dict, rows: Sequence[dict], eval_rows: Sequence[dict]) -> dict:
    """Return what ``run.json`` holds: everything that decides how a run goes.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    record = {
        "out": str(Path(out).resolve()),
        "status": "started",
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "config": {"base_model": base_model} | config,
        "data": {"rows": hash_rows(rows), "eval_rows": hash_rows(eval_rows)},
        "versions": read_versions(),
        "machine": read_machine(),
    }
    return json.loads(json.dumps(record, default=str))  # as it will be read back


def check_reporters(names: list[str]) -> None:
    """Check that what a run is to be reported to is installed.

    Raises:
        ValueError: It isn't.

    Example:
        >>> check_reporters(["nowhere"])
        Traceback (most recent call last):
        ValueError: report_to: nowhere is not installed; pip install nowhere, or leave report_to out

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    for name in names:
        if find_spec(name) is None:
            raise ValueError(f"report_to: {name} is not installed; pip install {name}, or leave report_to out")


def describe_config(model, lora, arguments, batch_tokens: int) -> dict:
    """Return every setting that decides what is learned: the usual ones, and each that isn't at its default.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    from trl import SFTConfig

    default = SFTConfig("unused", bf16=False, use_cpu=arguments.use_cpu).to_dict()
    targets = lora.target_modules
    return {
        key: value
        for key, value in arguments.to_dict().items()
        if key in KEPT_ARGUMENTS or (value != default[key] and not HOW_IT_RUNS.match(key))
    } | {
        "lora_rank": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_targets": targets if isinstance(targets, str) else ", ".join(sorted(targets)),
        "batch_tokens": batch_tokens,
        "quantized": bool(getattr(model, "is_loaded_in_4bit", False)),
    }


def write_record(run: Path, record: dict) -> None:
    """Write ``run.json``, in one go.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    part = run / f"{RECORD}.part"
    part.write_text(json.dumps(record, indent=1), encoding="utf-8")
    os.replace(part, run / RECORD)


def read_record(run: Path) -> dict:
    """Return what ``run.json`` of a run holds.

    Raises:
        FileNotFoundError: The folder holds no run.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    if not (run / RECORD).is_file():
        raise FileNotFoundError(f"{run}: no {RECORD} there, so there is no run to go on with")
    return json.loads((run / RECORD).read_text(encoding="utf-8"))


def open_run(run: Path, record: dict, resume: bool) -> Path | None:
    """Make a run's folder, or check that one can go on; return the checkpoint to go on from, if there is one.

    Args:
        run: Folder of the run.
        record: What `describe_run` says of this start.
        resume: Go on with the run that the folder holds.

    Raises:
        FileNotFoundError: There is no run to go on with.
        ValueError: The folder holds a run already; or it was started otherwise, or has ended.
        OSError: The folder can't be written.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    if not resume:
        if (run / RECORD).exists():
            raise ValueError(f"{run} holds a run already: go on with it (resume), or give the new one another folder")
        with explain_disk(run, run):
            run.mkdir(parents=True, exist_ok=True)
            write_record(run, record)
        return None
    before = read_record(run)
    if before["status"] == "finished":
        raise ValueError(f"{run} has finished: there is nothing to resume; start a new run")
    for part in ("config", "data"):
        for key in sorted(before[part] | record[part], key=str):
            was, now = before[part].get(key), record[part].get(key)
            if was != now:
                what = f"{key} = {was}, not {now}" if part == "config" else f"other {key}"
                raise ValueError(f"{run} was started with {what}: resume it with the same, or start a new run")
    shutil.rmtree(run / PART, ignore_errors=True)
    return find_checkpoint(run)


def find_run(out: Path, runs: Path = RUNS) -> Path:
    """Return the newest run that trains the adapter `out`.

    Raises:
        FileNotFoundError: There is none.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    found = [path.parent for path in runs.glob(f"*/{RECORD}") if read_record(path.parent)["out"] == str(out.resolve())]
    if not found:
        raise FileNotFoundError(f"{runs} holds no run of {out}: there is nothing to resume; start one without --resume")
    return max(found, key=lambda run: (read_record(run)["started"], run.name))


def choose_run(out: Path, resume: bool, overrides: dict) -> tuple[Path, dict]:
    """Return the folder of a run that trains `out`, and the overrides; a resumed run keeps its number format.

    Raises:
        FileNotFoundError: There is no run to resume.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    if not resume:
        return Path(overrides.get("output_dir") or name_run(out.name)), overrides
    run = Path(overrides.get("output_dir") or find_run(out))
    formats = {key: read_record(run)["config"][key] for key in ("bf16", "fp16")}  # measured anew, it might be another
    return run, formats | overrides


def find_checkpoint(run: Path) -> Path | None:
    """Return a run's last whole checkpoint.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    return max(run.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), default=None)


@contextmanager
def explain_disk(folder: Path, run: Path) -> Iterator[None]:
    """Say in one line that `folder` can't be written, and from where the run can go on.

    Raises:
        OSError: Something in the block could not be written, such as for a full disk; a `PermissionError` stays one.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    try:
        yield
    except Exception as error:  # torch, safetensors and tokenizers each have an error of their own for a full disk
        shutil.rmtree(run / PART, ignore_errors=True)
        last = find_checkpoint(run)
        kept = (
            f"the last good checkpoint is {last}: make room, then resume" if last else "no checkpoint was written yet"
        )
        kind = PermissionError if isinstance(error, PermissionError) else OSError
        raise kind(f"{folder} can't be written ({error}); {kept}") from error


def close_run(run: Path, summary: dict) -> None:
    """Keep a run's summary; a finished run needs its checkpoint no more.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    write_record(run, read_record(run) | {"status": summary["status"], "summary": summary})
    if summary["status"] == "finished":
        for path in run.glob("checkpoint-*"):
            shutil.rmtree(path)


def read_runs(runs: Path = RUNS) -> list[dict]:
    """Return the runs that are kept, oldest first: name, status, facts, summary and history of each.

    The facts are everything that may differ: config, hashes of the data, and versions.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    found = []
    for path in sorted(Path(runs).glob(f"*/{RECORD}")):
        record = read_record(path.parent)
        history = read_history(path.parent) if (path.parent / "training_history.csv").is_file() else []
        facts = record["config"] | record["data"] | record["versions"] | {"cores": record["machine"]["cores"]}
        kept = {"name": path.parent.name, "status": record["status"], "summary": record.get("summary", {})}
        found.append(kept | {"facts": facts, "history": history})
    return found


def list_differences(runs: Sequence[dict]) -> list[str]:
    """Return the names of the facts in which runs differ.

    Example:
        >>> list_differences([{"facts": {"rank": 4, "seed": 0}}, {"facts": {"rank": 16, "seed": 0}}])
        ['rank']

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    names = dict.fromkeys(name for run in runs for name in run["facts"])
    return [name for name in names if len({str(run["facts"].get(name)) for run in runs}) > 1]


def format_runs(runs: Sequence[dict]) -> str:
    """Return a table of runs: only what differs between them, and what came of it.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    differing = list_differences(runs)
    results = ("steps", "tokens_per_second", "final_loss", "eval_loss")
    lines = [["run", *differing, "status", *results]]
    for run in runs:
        facts = [str(run["facts"].get(name, "–")) for name in differing]
        lines.append([run["name"], *facts, run["status"], *(str(run["summary"].get(key, "–")) for key in results)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)
