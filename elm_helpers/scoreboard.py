"""The scoreboard file: which metrics there are, writing it, and showing it as a table."""

import json
import os
from pathlib import Path

LOWER_IS_BETTER = ("over_call", "invented_argument", "description_invented", "latency_p50_s", "latency_p95_s")
METRICS = (
    *("tool_name", "tool_exact", "over_call", "ask_back", "invented_argument", "category", "description_coverage"),
    *(
        "description_invented",
        "answer_grounded",
        "agent_success",
        "agent_success_pass4",
        "latency_p50_s",
        "latency_p95_s",
    ),
)


def write_scoreboard(scoreboard: dict, out: Path) -> None:
    """Write a scoreboard as JSON, beside first and then renamed, so that no reader meets half a file.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    part.write_text(json.dumps(scoreboard, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, out)


def format_scoreboard(scoreboard: dict) -> str:
    """Return a scoreboard as a table for terminal and README: a metric a row, a system a column.

    Args:
        scoreboard: As `evaluate_systems` returns it; it may lack metrics.

    Returns:
        Markdown. A cell holds the value and its 95 % interval, "–" where it was not measured; the last column n.

    Example:
        >>> rate = {"value": 0.9, "low": 0.596, "high": 0.982, "n": 10}
        >>> print(format_scoreboard({"systems": [{"system": "rules", "metrics": {"tool_name": rate}}]}))
        | metric      | rules        | n  |
        |-------------|--------------|----|
        | tool_name ↑ | 90 % (60–98) | 10 |

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    systems = scoreboard["systems"]
    table = [["metric", *(system["system"] for system in systems), "n"]]
    for name in METRICS:
        found = [system["metrics"].get(name) for system in systems]
        if any(found):
            counts = sorted({metric["n"] for metric in found if metric})
            n = str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
            table.append(
                [f"{name} {'↓' if name in LOWER_IS_BETTER else '↑'}", *(_format_cell(name, m) for m in found), n]
            )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) + " |" for row in table
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _format_cell(name: str, metric: dict | None) -> str:
    if metric is None:
        return "–"
    if name.endswith("_s"):
        return f"{metric['value']:.2g} s ({metric['low']:.2g}–{metric['high']:.2g})"
    return f"{100 * metric['value']:.0f} % ({100 * metric['low']:.0f}–{100 * metric['high']:.0f})"
