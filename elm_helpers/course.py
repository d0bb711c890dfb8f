"""Run the lessons without JupyterLab: in order, with progress, and the scoreboard at the end."""

import json
import re
import time
from dataclasses import asdict
from pathlib import Path

from elm_helpers.cases import read_rows
from elm_helpers.paths import OUTPUTS, ROOT, SAMPLE
from elm_helpers.profiles import PROFILES
from elm_helpers.runs import name_run
from elm_helpers.scoreboard import format_scoreboard

LESSONS = sorted((ROOT / "notebooks").glob("0[1-6]_*.ipynb"))

START = "<!-- figures: written by `elm render` from data/sample, checked by tests/test_readme.py -->"
END = "<!-- end of figures -->"
SCORED_ROWS, SCORED_SYSTEMS = 150, ("rules", "base", "base+tools", "tuned", "tuned+grammar")
SCORED_MIX = {"tool_calling": 0.25, "conversation": 0.4, "categorization": 0.2, "product_description": 0.15}
REFERENCE_ROWS, REFERENCE_SHARES = 9_600, {"long": 0.15}
REFERENCE_MIX = {"tool_calling": 0.38, "conversation": 0.44, "categorization": 0.13, "product_description": 0.05}


def run_notebooks(keep: bool = False) -> None:
    """Run lessons 01-06 at the size of their parameter cells; copies with all outputs go to ``outputs/course/``.

    Args:
        keep: Also store the outputs of cells tagged ``keep_output`` in the notebooks themselves.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed; the copy in ``outputs/course/`` shows where.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    import nbformat
    from nbclient import NotebookClient

    (OUTPUTS / "course").mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    for path in LESSONS:
        book = nbformat.read(path, as_version=4)
        cells = sum(cell.cell_type == "code" for cell in book.cells)
        stated = re.search(r"^\| (\d+ min) ", book.cells[0].source, re.MULTILINE)[1]
        print(f"{path.stem}: {cells} cells, about {stated}", end="", flush=True)
        begun = time.perf_counter()
        place = {"metadata": {"path": str(path.parent)}}
        client = NotebookClient(book, timeout=None, resources=place, extra_arguments=["--IPKernelApp.log_level=40"])
        client.on_cell_executed = lambda **_: print(".", end="", flush=True)
        try:
            client.execute()
        finally:
            nbformat.write(book, OUTPUTS / "course" / path.name)
        print(f" {time.perf_counter() - begun:.0f} s", flush=True)
        if keep:
            write_kept_outputs(path, book)
    print(f"\n{len(LESSONS)} lessons in {(time.perf_counter() - start) / 60:.1f} minutes\n")
    show_results()


def render_course() -> None:
    """Renew everything that is committed from a run: reference adapter, its scoreboard, and the lessons' kept outputs.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    out = SAMPLE / PROFILES["cpu"].output
    train_reference(out)
    score_reference(out)
    run_notebooks(keep=True)


def train_reference(out: Path) -> dict:
    """Train the reference adapter: the course's recipe on more rows, most of them short, none of them held out.

    The lesson trains on a part of 4,000 rows in minutes; this takes 9,600 rows whose mix leans to tool calls and to
    requests that need none, and leaves out most of the long conversations.

    Args:
        out: Folder of the adapter.

    Returns:
        The summary of the run.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    from elm_helpers import training
    from elm_helpers.base_model import read_base_model
    from elm_helpers.batches import choose_rows
    from elm_helpers.chat import encode
    from elm_helpers.generate import write_dataset
    from elm_helpers.hub import write_model_card
    from elm_helpers.live import build_live_plot

    import torch

    torch.manual_seed(0)
    profile, dtype, data = PROFILES["cpu"], training.choose_compute_dtype(), OUTPUTS / "reference"
    write_dataset(data, REFERENCE_ROWS, 200, REFERENCE_MIX, seed=1)
    folder = read_base_model(profile.base_model)
    model, tokenizer = training.load_for_training(folder, training.build_quantization(dtype), dtype, profile.attention)
    train, held_out = (read_rows(data / f"ecommerce_{part}.json") for part in ("train", "eval"))
    sizes = {row["id"]: len(encode(tokenizer, row["messages"]).ids) for row in train + held_out}
    train, held_out = ([row for row in part if sizes[row["id"]] <= profile.max_length] for part in (train, held_out))
    train = choose_rows(train, REFERENCE_SHARES, sizes)
    arguments = training.build_arguments(profile, name_run("reference"), dtype)
    summary = training.train_adapter(
        model,
        tokenizer,
        train,
        held_out,
        training.build_lora(profile),
        arguments,
        out=out,
        hub_id=profile.base_model,
        batch_tokens=profile.batch_tokens,
        callbacks=(build_live_plot(),),
    )
    write_model_card(out)
    (out / "tokenizer.json").unlink()  # the base model has the same one, and git keeps every copy
    return summary


def score_reference(out: Path) -> None:
    """Score the reference adapter on held-out rows and on hand-written requests; renew the README's figures.

    Writes ``scoreboard.json`` and ``requests.json`` into the adapter's folder, and its model card anew.

    Args:
        out: Folder of the adapter.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    from elm_helpers.careful import restrain
    from elm_helpers.engines import open_llama_cpp
    from elm_helpers.evaluate import evaluate_model, score_requests
    from elm_helpers.generate import write_dataset
    from elm_helpers.hub import write_model_card

    data = OUTPUTS / "reference" / "score"
    write_dataset(data, 0, SCORED_ROWS, SCORED_MIX, seed=2)
    board = evaluate_model(out, read_rows(data / "ecommerce_eval.json"), out / "scoreboard.json", SCORED_SYSTEMS)
    engine, found = open_llama_cpp(out), {}
    for name, runner in (("tuned", engine), ("tuned+grammar", restrain(engine))):
        metrics = score_requests(runner).metrics
        found[name] = {key: asdict(metric) for key, metric in metrics.items()}
    (out / "requests.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    write_model_card(out, scoreboard=board)
    summary = json.loads((out / "training_summary.json").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(START)
    figures = format_figures(summary, board, found)
    (ROOT / "README.md").write_text(f"{before}{START}\n{figures}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def format_figures(summary: dict, board: dict, requests: dict) -> str:
    """Return the README's figures as Markdown, from nothing but the artefacts of the reference run.

    Args:
        summary: ``training_summary.json``.
        board: ``scoreboard.json``.
        requests: ``requests.json``: system → metric → value, low, high, n.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    by_hand = {"systems": [{"system": name, "metrics": metrics} for name, metrics in requests.items()]}
    minutes, peak = summary["seconds"] / 60, summary["peak_memory_bytes"] / 1e9
    run = (
        f"The reference run: {summary['rows']:,} rows, {summary['tokens']:,} tokens, {minutes:.0f} minutes on a shared"
        f" 2-core CPU at {summary['tokens_per_second']:.0f} tokens/s, {peak:.1f} GB at its peak,"
        f" {summary['trainable_parameters']:,} trainable parameters."
    )
    title = "On requests that were written apart from the phrasebook:"
    return "\n\n".join([format_scoreboard(board).strip(), title, format_scoreboard(by_hand).strip(), run])


def write_kept_outputs(path: Path, executed) -> None:
    """Copy the outputs of cells tagged ``keep_output`` into the notebook; every other cell stays as it is.

    Streams, errors and widget views are left out: they are noise on a page.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    import nbformat

    book = nbformat.read(path, as_version=4)
    for cell, done in zip(book.cells, executed.cells, strict=True):
        if cell.cell_type != "code":
            continue
        kept = []
        if "keep_output" in cell.metadata.get("tags", []):
            for output in done.outputs:
                if output.output_type in ("display_data", "execute_result"):
                    output.data = {k: v for k, v in output.data.items() if "widget" not in k}
                    kept.append(nbformat.from_dict(dict(output) | {"metadata": {}}))
                    if "execution_count" in kept[-1]:
                        kept[-1].execution_count = None
        cell.outputs, cell.execution_count = kept, None
    nbformat.write(book, path)


def show_results() -> None:
    """Print the scoreboard and where everything lies.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    board = OUTPUTS / "scoreboard.json"
    print(format_scoreboard(json.loads(board.read_text(encoding="utf-8"))))
    for what, where in {
        "data": ROOT / "data" / "processed",
        "adapter": OUTPUTS / "elm-smollm2-135m",
        "scoreboard": board,
        "lessons with their outputs": OUTPUTS / "course",
    }.items():
        print(f"{what:>27}: {where.relative_to(ROOT)}")
    print('\nNext: make lab, or .venv/bin/elm chat --customer C0001 --once "Find wireless headphones under $100"')
