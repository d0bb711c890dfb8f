"""What the benchmarks write beside their plots."""

import csv
from pathlib import Path


def write_csv(path: Path, lines: list[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
