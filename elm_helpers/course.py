"""Run the lessons without JupyterLab: in order, with progress, and the scoreboard at the end."""

import json
import re
import time
from pathlib import Path

from elm_helpers.paths import OUTPUTS, ROOT
from elm_helpers.scoreboard import format_scoreboard

LESSONS = sorted((ROOT / "notebooks").glob("0[1-6]_*.ipynb"))


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
        stated = re.findall(r"^\| (\d+ min) ", book.cells[0].source, re.MULTILINE)[0]
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
