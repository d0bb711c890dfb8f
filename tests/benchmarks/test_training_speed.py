"""Training speed against stock TRL and against this machine's own matrix products: run with `pytest tests/benchmarks`.

Every trainer runs in a fresh process, on the same rows, seed, adapter, 4-bit weights and compute dtype. No time is
asserted; that the loss is the same number is. The table, and CSV and PNG files, go to ``outputs/benchmarks``.
ELM_BENCHMARK_ROWS="48 96 192" and ELM_BENCHMARK_LONG=12 measure other sizes.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from elm_helpers.paths import OUTPUTS, ROOT, SAMPLE
from elm_helpers.profiles import PROFILES

import pytest
from tables import write_csv

SIZES = sorted(int(size) for size in os.environ.get("ELM_BENCHMARK_ROWS", "12 24 48").split())
LONG = int(os.environ.get("ELM_BENCHMARK_LONG", "8"))  # rows of each length
QUANTILES = (0.1, 0.4, 0.7, 0.95)  # of the rows' lengths
BATCH_ROWS = 12  # of the stock trainer
NAMES = {"ours": "ours", "stock": "stock SFTTrainer", "grouped": "stock, grouped by length"}
PARITY = 1e-3  # how far the loss of one batch may be from TRL's own
SEED = 0


def read_encoded(tokenizer, name: str) -> list:
    """Return the encoded rows of a sample file that a trainer takes whole."""
    from elm_helpers.chat import run_preflight

    lines = (SAMPLE / f"ecommerce_{name}.json").read_text(encoding="utf-8").splitlines()
    encoded = run_preflight(tokenizer, [json.loads(line) for line in lines], 4_096)
    return [row for row in encoded if len(row.ids) <= PROFILES["cpu"].max_length]


def build_trainer(kind: str, encoded: list, folder: Path, dtype, positions: list[int]):
    """Return a trainer of one kind; each forward pass adds the positions that it computes to `positions`."""
    from elm_helpers import training
    from elm_helpers.base_model import read_base_model
    from elm_helpers.batches import build_dataset
    from elm_helpers.runtime import quiet_libraries
    from elm_helpers.trainer import CompletionTrainer

    import torch
    from trl import SFTTrainer

    profile = PROFILES["cpu"]
    changes = {"disable_tqdm": True, "logging_strategy": "no", "save_strategy": "no", "seed": SEED}
    changes |= {"per_device_train_batch_size": BATCH_ROWS}
    changes |= {"train_sampling_strategy": "group_by_length"} if kind == "grouped" else {}
    torch.manual_seed(SEED)
    base, quantization = read_base_model(verbose=False), training.build_quantization(dtype)
    attention = profile.attention if kind == "ours" else "sdpa"  # sdpa is what stock loads
    model, tokenizer = training.load_for_training(base, quantization, dtype, attention)
    with quiet_libraries():
        trainer = (CompletionTrainer if kind == "ours" else SFTTrainer)(
            model=model,
            args=training.build_arguments(profile, folder, dtype, changes),
            train_dataset=build_dataset(encoded),
            processing_class=tokenizer,
            peft_config=training.build_lora(profile),
        )
    if kind == "ours":
        trainer.batch_tokens = profile.batch_tokens
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    trainer.model.get_base_model().model.register_forward_pre_hook(
        lambda module, args, given: positions.append(given["input_ids"].numel()), with_kwargs=True
    )
    return trainer


def compute_loss(model, encoded: list) -> float:
    """Return the mean loss per trained token, row by row, computed the same plain way for every trainer."""
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for row in encoded:
            logits = model(input_ids=torch.tensor([row.ids])).logits[0, :-1].float()
            trained = torch.tensor(row.mask[1:], dtype=torch.bool)
            targets = torch.tensor(row.ids[1:])[trained]
            total += float(torch.nn.functional.cross_entropy(logits[trained], targets, reduction="sum"))
            count += len(targets)
    return total / count


def run_trainer(kind: str, folder: Path) -> dict:
    """Train on each size and each length; return their seconds, and speed, memory and loss of the largest size."""
    from elm_helpers.base_model import read_base_model
    from elm_helpers.batches import build_dataset
    from elm_helpers.runtime import MemoryWatch, quiet_libraries
    from elm_helpers.training import choose_compute_dtype

    from peft.helpers import disable_input_dtype_casting
    from transformers import AutoTokenizer

    tokenizer, dtype = AutoTokenizer.from_pretrained(read_base_model(verbose=False)), choose_compute_dtype()
    encoded, held_out, positions = read_encoded(tokenizer, "train"), read_encoded(tokenizer, "eval")[:8], []
    by_length = sorted(encoded, key=lambda row: len(row.ids))
    starts = [min(int(q * len(encoded)), len(encoded) - LONG) for q in QUANTILES]
    runs = [("rows", encoded[:size]) for size in SIZES[::-1]]  # the largest first: its adapter starts at zero
    runs += [("length", by_length[start : start + LONG]) for start in starts]
    points = []
    with MemoryWatch() as watch:
        trainer = build_trainer(kind, runs[0][1], folder, dtype, positions)
        for by, rows in runs:
            trainer.train_dataset = build_dataset(rows)
            positions.clear()
            start, work = time.perf_counter(), time.process_time()
            with quiet_libraries(), disable_input_dtype_casting(trainer.model):
                losses = trainer.train().training_loss
            point = {"by": by, "rows": len(rows), "seconds": time.perf_counter() - start, "positions": sum(positions)}
            point |= {"processor_seconds": time.process_time() - work}  # of all threads: less moved by other work
            point |= {"tokens": sum(len(row.ids) for row in rows), "trained": sum(sum(row.mask) for row in rows)}
            points.append(point)
            if len(points) == 1:
                first = {"peak_memory_bytes": watch.peak, "train_loss": losses}
                first["held_out_loss"] = compute_loss(trainer.model, held_out)
    return first | {"points": points, "dtype": str(dtype).removeprefix("torch.")}


def run_parity(kind: str, folder: Path) -> dict:
    """Return the loss of fixed batches by our trainer and by TRL's own code, on the same 4-bit model in fp32."""
    from elm_helpers.base_model import read_base_model
    from elm_helpers.trainer import CompletionTrainer

    import torch
    from transformers import AutoTokenizer
    from trl import SFTTrainer

    encoded = read_encoded(AutoTokenizer.from_pretrained(read_base_model(verbose=False)), "train")[:12]
    trainer, losses = build_trainer("ours", encoded, folder, torch.float32, []), []
    trainer.model.train()  # in eval mode, CPUs with bf16 units compute 4-bit layers in bf16
    for start in range(0, len(encoded), 4):
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(start, start + 4)])
        of = [kind.compute_loss(trainer, trainer.model, dict(batch)) for kind in (CompletionTrainer, SFTTrainer)]
        losses.append([float(loss) for loss in of])
    return {"losses": losses}


def run_products(kind: str, folder: Path) -> dict:
    """Return how fast this machine multiplies, in the shapes and the dtype of the model's own linear layers.

    Every layer's product is timed forward (rows · W) and backward (gradient · Wᵀ), as many rows as a batch has tokens.
    """
    from elm_helpers.base_model import read_base_model
    from elm_helpers.training import choose_compute_dtype

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(read_base_model(verbose=False)))
    shapes = [m.weight.shape for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    lora, dtype, rows = PROFILES["cpu"].lora_rank, choose_compute_dtype(), PROFILES["cpu"].batch_tokens
    seconds = {}
    for out, inner in set(shapes):
        weight, left, grad = (torch.randn(size, dtype=dtype) for size in ((out, inner), (rows, inner), (rows, out)))
        spent = []
        for _ in range(12):
            start = time.perf_counter()
            torch.nn.functional.linear(left, weight)
            grad @ weight
            spent.append(time.perf_counter() - start)
        seconds[out, inner] = min(spent)
    flops = sum(4 * rows * out * inner for out, inner in shapes)
    return {
        "flops_per_second": flops / sum(seconds[tuple(shape)] for shape in shapes),
        "linear": sum(shape.numel() for shape in shapes),
        "lora": sum(lora * sum(shape) for shape in shapes),
        "head": model.lm_head.weight.numel(),
    }


def count_flops(machine: dict, tokens: int, trained: int) -> int:
    """Return the operations of a training pass's matrix products.

    A frozen weight takes 2 a token forward and 2 backward, for the gradient of its input; its own gradient isn't
    computed, so it's 4, not 6. A LoRA weight is trained: 6. The vocabulary's matrix is frozen and only the trained
    tokens need it: 4 each. Attention's own products, unpacking the 4 bits and the optimizer count as nothing.
    """
    return tokens * (4 * machine["linear"] + 6 * machine["lora"]) + trained * 4 * machine["head"]


def run_child(kind: str, folder: Path) -> dict:
    """Measure in a fresh process."""
    out = folder / f"{kind}.json"
    command = [sys.executable, __file__, kind, str(out)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What each process found, one after the other: the machine, the parity, and the three trainers."""
    folder = tmp_path_factory.mktemp("speed")
    return {kind: run_child(kind, folder) for kind in ("products", "parity", *NAMES)}


def build_table(measured: dict) -> list[dict]:
    """Return a line for each trainer, from its largest size."""
    machine, lines = measured["products"], []
    for kind, name in NAMES.items():
        found = measured[kind]
        point = found["points"][0]
        possible = machine["flops_per_second"] * point["seconds"]
        speed = point["tokens"] / point["seconds"]
        stock = measured["stock"]["points"][0]
        line = {"trainer": name, "rows": point["rows"], "tokens": point["tokens"], "positions": point["positions"]}
        line |= {key: point[key] for key in ("seconds", "processor_seconds")} | {"tokens_per_second": speed}
        line |= {"times_stock": speed * stock["seconds"] / stock["tokens"]}
        line |= {"share_of_products": count_flops(machine, point["tokens"], point["trained"]) / possible}
        line |= {"share_computed": count_flops(machine, point["positions"], point["trained"]) / possible}
        line |= {key: found[key] for key in ("peak_memory_bytes", "train_loss", "held_out_loss", "dtype")}
        lines.append(line)
    return lines


def write_plots(measured: dict, folder: Path) -> None:
    """Plot seconds against rows, and seconds a row against the rows' length."""
    from elm_helpers.plots import open_figure, render_png

    slopes = {}
    with open_figure(2) as (figure, (by_rows, by_length)):
        for kind, name in NAMES.items():
            points = measured[kind]["points"]
            rows = sorted((p["rows"], p["seconds"]) for p in points if p["by"] == "rows")
            slopes[kind] = rows[-1][1] / rows[-1][0]
            by_rows.plot(*zip(*rows, strict=True), marker="o", label=name)
            length = [(p["tokens"] / p["rows"], p["seconds"] / p["rows"]) for p in points if p["by"] == "length"]
            by_length.plot(*zip(*length, strict=True), marker="o", label=name)
        by_rows.set(xlabel="rows", ylabel="seconds", xlim=(0, None), ylim=(0, None))
        by_rows.set_title(f"A row takes {slopes['ours']:.2f} s with ours, {slopes['stock']:.2f} s with stock")
        by_rows.legend()
        by_length.set(xlabel="tokens a row (mean)", ylabel="seconds a row", xlim=(0, None), ylim=(0, None))
        by_length.set_title("Time grows with a row's length")
        (folder / "training_speed.png").write_bytes(render_png(figure))


def test_the_loss_of_fixed_batches_is_trls_own(measured):
    losses = measured["parity"]["losses"]
    assert len(losses) == 3
    assert all(loss > 0.1 for pair in losses for loss in pair)
    assert max(abs(ours - stock) for ours, stock in losses) < PARITY


def test_speed_memory_and_loss_of_the_three_trainers(measured, capsys):
    folder = OUTPUTS / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    table, machine = build_table(measured), measured["products"]
    write_csv(folder / "training_speed.csv", table)
    points = [{"trainer": NAMES[kind]} | point for kind in NAMES for point in measured[kind]["points"]]
    write_csv(folder / "training_time.csv", points)
    write_plots(measured, folder)
    with capsys.disabled():
        print(f"\n{table[0]['rows']} rows, {table[0]['tokens']:,} tokens, {table[0]['dtype']}; ", end="")
        print(f"the machine's own products: {machine['flops_per_second'] / 1e9:,.0f} GFLOP/s")
        print(f"{'':26} {'tokens/s':>8} {'x stock':>8} {'of products':>11} {'computed':>8} ", end="")
        print(f"{'peak GB':>8} {'train':>7} {'held out':>8}")
        for line in table:
            print(f"{line['trainer']:26} {line['tokens_per_second']:8,.0f} {line['times_stock']:8.2f} ", end="")
            print(f"{line['share_of_products']:11.0%} {line['share_computed']:8.0%} ", end="")
            print(f"{line['peak_memory_bytes'] / 1e9:8.2f} {line['train_loss']:7.3f} {line['held_out_loss']:8.3f}")
        print(f"in {folder}")
    assert len({line["tokens"] for line in table}) == 1, "not the same rows"
    assert len({line["dtype"] for line in table}) == 1, "not the same compute dtype"
    assert all(line["tokens_per_second"] > 0 and line["held_out_loss"] > 0 for line in table)
    assert all((folder / name).stat().st_size > 500 for name in ("training_time.csv", "training_speed.png"))


if __name__ == "__main__":
    kind, out = sys.argv[1], Path(sys.argv[2])
    run = {"products": run_products, "parity": run_parity}.get(kind, run_trainer)
    out.write_text(json.dumps(run(kind, out.parent / f"{kind}-steps")), encoding="utf-8")
