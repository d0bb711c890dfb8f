"""Reads lessons and helper modules into the shapes that the house-style tests ask about."""

import ast
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from elm_helpers.paths import ROOT

from IPython.core.inputtransformer2 import TransformerManager

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
MODULES = sorted((ROOT / "elm_helpers").glob("*.py"))


@dataclass(frozen=True)
class Cell:
    """One cell; `place` names it in a failure."""

    place: str
    kind: str
    source: str
    tags: tuple[str, ...]
    outputs: tuple[dict, ...]
    mock: dict
    counted: bool

    @property
    def is_code(self) -> bool:
        return self.kind == "code"

    @property
    def first_line(self) -> str:
        return (self.source.splitlines() or [""])[0]

    def tree(self) -> ast.Module:
        """Return the cell's syntax tree, with magics turned into the calls that IPython makes of them."""
        return ast.parse(TransformerManager().transform_cell(self.source))


@dataclass(frozen=True)
class Part:
    """Cells under one `## ` heading, its own markdown cell first."""

    heading: str
    cells: tuple[Cell, ...]


@cache
def read_cells(path: Path) -> tuple[Cell, ...]:
    """Return the notebook's cells."""
    cells = []
    for number, raw in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        meta, source = raw["metadata"], raw["source"]
        cells.append(
            Cell(
                place=f"{path.name} cell {number}",
                kind=raw["cell_type"],
                source=source if isinstance(source, str) else "".join(source),
                tags=tuple(meta.get("tags", ())),
                outputs=tuple(raw.get("outputs", ())),
                mock=meta.get("nbmake", {}).get("mock", {}),
                counted=raw.get("execution_count") is not None,
            )
        )
    return tuple(cells)


def read_parts(path: Path) -> list[Part]:
    """Return what comes before the first `## ` heading, then a part for each heading."""
    parts: list[tuple[str, list[Cell]]] = [("", [])]
    for cell in read_cells(path):
        if not cell.is_code and cell.first_line.startswith("## "):
            parts.append((cell.first_line[3:].strip(), []))
        parts[-1][1].append(cell)
    return [Part(heading, tuple(cells)) for heading, cells in parts]


def read_sections(path: Path) -> list[Part]:
    """Return the taught parts: those after the introduction and before *Try it*."""
    parts = read_parts(path)
    headings = [part.heading for part in parts]
    assert "Try it" in headings, f"{path.name} has no '## Try it'"
    return parts[2 : headings.index("Try it")]


def find_part(path: Path, heading: str) -> Part:
    """Return the part under a heading; its absence fails the test that asks."""
    found = [part for part in read_parts(path) if part.heading == heading]
    assert len(found) == 1, f"{path.name} has {len(found)} parts '## {heading}', not 1"
    return found[0]


def find_tagged(path: Path, tag: str) -> Cell:
    """Return the one code cell with a tag."""
    found = [cell for cell in read_cells(path) if tag in cell.tags]
    assert len(found) == 1 and found[0].is_code, f"{path.name} has {len(found)} cells tagged {tag}, not 1 code cell"
    return found[0]


def read_promises(part: Part, heading: str) -> list[str]:
    """Return the bold lead words of the bullets under a heading, e.g. "- **Split.** …" gives "Split"."""
    text = part.cells[0].source.split(f"## {heading}", 1)[1].split("\n## ")[0]
    bullets = [line for line in text.splitlines() if re.match(r"[-*] ", line)]
    leads = [re.match(r"[-*] \*\*(.+?)\*\*", line) for line in bullets]
    assert all(leads), f"{part.cells[0].place}: every bullet starts with **lead words**"
    return [lead[1].strip(" .:,?") for lead in leads]


def count_words(markdown: str) -> int:
    """Return the words of prose: no code fences, tables, tags, link targets or heading marks."""
    text = re.sub(r"```.*?```", " ", markdown, flags=re.DOTALL)
    text = re.sub(r"^\|.*$", " ", text, flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", " ", re.sub(r"<[^>]+>", " ", text))
    return len(re.findall(r"\w[\w'’.-]*", text))


def count_code(source: str) -> int:
    """Return the lines of code that are neither blank nor only a comment."""
    return sum(1 for line in source.splitlines() if line.strip() and not line.strip().startswith("#"))


def read_tree(path: Path) -> ast.Module:
    """Return the syntax tree of a module, or of all code cells of a notebook as one."""
    if path.suffix == ".py":
        return ast.parse(path.read_text(encoding="utf-8"))
    return ast.Module([node for cell in read_cells(path) if cell.is_code for node in cell.tree().body], type_ignores=[])
