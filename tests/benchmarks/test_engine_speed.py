"""Speed, memory, file size and agreement of every engine in one run: `pytest tests/benchmarks/test_engine_speed.py`.

Every engine answers the same prompts greedily, in a fresh process (`engine_runs.py`). No time is asserted; that ids and
replies are the same is. The tables, and CSV and PNG files, go to ``outputs/benchmarks``. Plain, it is a quick run;
ELM_BENCHMARK_PROMPTS=100 ELM_BENCHMARK_TOKENS=48 ELM_BENCHMARK_ROUNDS=2 is the full one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from elm_helpers.paths import OUTPUTS, ROOT

import engine_runs
import pytest
from engine_runs import MERGED, PROMPTS, QUANTIZED, TYPES
from tables import write_csv

ROUNDS = int(os.environ.get("ELM_BENCHMARK_ROUNDS", "1"))  # ours and raw take turns so often
SLOTS = (1, 4, 8)
SAME = ("replies_fp32", "tokens_fp32", "replies_4bit", "tokens_4bit")


def run_child(kind: str, job: Path) -> dict:
    """Measure in a fresh process."""
    out = job.with_name("out.json")
    command = [sys.executable, engine_runs.__file__, kind, str(job), str(out)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, f"{kind}: {done.stderr[-2000:]}"
    return json.loads(out.read_text(encoding="utf-8"))


def join(rounds: list[dict]) -> dict:
    """Return one engine's rounds as one: all its timings, the largest peak, the replies of the first."""
    lists = {key: [value for found in rounds for value in found[key]] for key in ("first", "decode")}
    return rounds[0] | lists | {"peak": max(found["peak"] for found in rounds)}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What each process found, one after the other."""
    job = tmp_path_factory.mktemp("engines") / "job.json"
    job.write_text(json.dumps({"folder": str(job.parent)}), encoding="utf-8")
    found = {"files": run_child("files", job)}
    job.write_text(json.dumps(found["files"]), encoding="utf-8")
    found["bandwidth"] = run_child("bandwidth", job)
    found["engines"] = {kind: run_child(kind, job) for kind in (QUANTIZED, MERGED)}
    for outtype in TYPES:
        kinds = (f"ours, {outtype}", f"raw llama.cpp, {outtype}")
        rounds = [{kind: run_child(kind, job) for kind in kinds} for _ in range(ROUNDS)]
        found["engines"] |= {kind: join([one[kind] for one in rounds]) for kind in kinds}
    found["slots"] = [run_child(f"{slots} slots", job) for slots in SLOTS]
    found["prefix"] = run_child("prefix", job)["lines"]
    return found


def compute_agreement(first: list[str], second: list[str], tokenizer) -> tuple[float, float]:
    """Return the share of identical replies, and the mean share of tokens before two replies differ."""
    shares = []
    for texts in zip(first, second, strict=True):
        a, b = (tokenizer.encode(text, add_special_tokens=False).ids for text in texts)
        same = next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        shares.append(same / max(len(a), len(b), 1) if a != b else 1.0)
    same = sum(a == b for a, b in zip(first, second, strict=True))
    return same / len(first), sum(shares) / len(shares)


def build_table(measured: dict) -> list[dict]:
    """Return a line for each engine."""
    from tokenizers import Tokenizer

    files, engines, lines = measured["files"], measured["engines"], []
    tokenizer = Tokenizer.from_file(str(Path(files["tokenizer"]) / "tokenizer.json"))
    for name, found in engines.items():
        kind = name.split()[-1] if name.split()[-1] in TYPES else name
        speed, weights = median(found["decode"]), files["weights"].get(kind)
        line = {"engine": name, "prompts": len(found["replies"]), "tokens_per_second": speed}
        line |= {"first_token_seconds": median(found["first"]), "peak_memory_bytes": found["peak"]}
        line |= {"file_bytes": files["sizes"][kind]}
        raw = engines.get(f"raw llama.cpp, {kind}")
        line |= {"times_raw": speed / median(raw["decode"]) if raw else None}
        line |= {"times_transformers": speed / median(engines[QUANTIZED]["decode"])}
        line |= {"limit_tokens_per_second": measured["bandwidth"]["bytes_per_second"] / weights if weights else None}
        line |= {"share_of_limit": speed / line["limit_tokens_per_second"] if weights else None}
        for other, short in ((MERGED, "fp32"), (QUANTIZED, "4bit")):
            pair = compute_agreement(found["replies"], engines[other]["replies"], tokenizer)
            line |= dict(zip((f"same_replies_{short}", f"same_tokens_{short}"), pair, strict=True))
        lines.append(line)
    return lines


def write_plot(table: list[dict], measured: dict, path: Path) -> None:
    """Plot each engine's speed and the memory's limit, its size, the slots' speed, and the first token."""
    from elm_helpers.plots import COLOURS, open_figure, render_png

    names, places = [line["engine"] for line in table], range(len(table))
    with open_figure(2, height=7.2, rows=2) as (figure, (speeds, sizes, slots, prefix)):
        bars = speeds.barh(places, [line["tokens_per_second"] for line in table], color=COLOURS[0])
        speeds.bar_label(bars, fmt="{:.0f}", padding=3)
        limits = [line["limit_tokens_per_second"] or float("nan") for line in table]
        speeds.plot(limits, places, "|", color=COLOURS[3], ms=14, mew=2, label="memory's limit")
        best = max(line["times_transformers"] for line in table if line["engine"].startswith("ours"))
        speeds.set(xlabel="tokens a second", title=f"Up to {best:.0f} times as fast as 4-bit + adapter")
        for key, label, side in (("peak_memory_bytes", "peak memory", -0.2), ("file_bytes", "file", 0.2)):
            sizes.barh([at + side for at in places], [line[key] / 1e9 for line in table], 0.38, label=label)
        smallest = min(table, key=lambda line: line["file_bytes"])
        sizes.set(xlabel="GB", title=f"The smallest file has {smallest['file_bytes'] / 1e6:.0f} MB")
        for axis, labels in ((speeds, names), (sizes, [""] * len(names))):
            axis.set_yticks(places, labels)
            axis.invert_yaxis()
            axis.legend(loc="lower right")
        found = {str(line["slots"]): line["tokens_per_second"] for line in measured["slots"]}
        slots.bar_label(slots.bar(list(found), list(found.values()), 0.5), fmt="{:.0f}", padding=3)
        most = max(found, key=found.get)
        slots.set(xlabel="slots", ylabel="tokens a second, all slots", title=f"{most} slots answer a batch fastest")
        kept = {True: "kept", False: "read anew"}
        labels = [f"{line['fixed_prompt']},\n{kept[line['kept']]}" for line in measured["prefix"]]
        waits = [1000 * line["first_token_seconds"] for line in measured["prefix"]]
        prefix.bar_label(prefix.barh(labels, waits, 0.5), fmt="{:.0f}", padding=3)
        prefix.set(xlabel="ms to the first token", title=f"Kept, it comes {waits[-2] / waits[-1]:.0f} times sooner")
        prefix.invert_yaxis()
        for axis in (speeds, slots, prefix):
            axis.margins(x=0.12, y=0.1)
        path.write_bytes(render_png(figure))


def say(value: float | None, form: str) -> str:
    """Return a number for the table; a dash where there is none."""
    return f"{value:{form}}" if value is not None else "-".rjust(int(form.split(".")[0]))


def test_every_engine_reads_the_same_ids(measured):
    expected = [len(prompt["ids"]) for prompt in measured["files"]["prompts"][:PROMPTS]]
    assert len(expected) == PROMPTS
    for name, found in measured["engines"].items():
        assert found["prompt_tokens"] == expected, name
        assert len(found["replies"]) == PROMPTS, name


def test_our_engine_writes_what_raw_llama_cpp_writes(measured):
    for outtype in TYPES:
        ours, raw = (measured["engines"][f"{who}, {outtype}"]["replies"] for who in ("ours", "raw llama.cpp"))
        assert sum(a == b for a, b in zip(ours, raw, strict=True)) >= 0.95 * PROMPTS, outtype


def test_a_kept_prefix_is_not_read_again(measured):
    for anew, kept in zip(measured["prefix"][::2], measured["prefix"][1::2], strict=True):
        assert anew["tokens_read"] == anew["prompt_tokens"]
        assert kept["tokens_read"] < anew["tokens_read"]


def test_speed_memory_size_and_agreement_of_every_engine(measured, capsys):
    folder = OUTPUTS / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    table = build_table(measured)
    for name, lines in (("speed", table), ("slots", measured["slots"]), ("prefix", measured["prefix"])):
        write_csv(folder / f"engine_{name}.csv", lines)
    write_plot(table, measured, folder / "engine_speed.png")
    with capsys.disabled():
        print(f"\n{PROMPTS} prompts; memory reads {measured['bandwidth']['bytes_per_second'] / 1e9:.1f} GB/s")
        print(f"{'':29} {'tok/s':>6} {'first s':>7} {'peak GB':>7} {'MB':>5} {'x raw':>5} {'x 4bit':>6} ", end="")
        print(f"{'of limit':>8} {'= fp32':>6} {'tokens':>6} {'= 4bit':>6} {'tokens':>6}")
        for line in table:
            print(f"{line['engine']:29} {line['tokens_per_second']:6.1f} {line['first_token_seconds']:7.3f} ", end="")
            print(f"{line['peak_memory_bytes'] / 1e9:7.2f} {line['file_bytes'] / 1e6:5.0f} ", end="")
            print(f"{say(line['times_raw'], '5.2f')} {line['times_transformers']:6.1f} ", end="")
            print(f"{say(line['share_of_limit'], '8.0%')} ", end="")
            print(" ".join(f"{line[f'same_{what}']:6.0%}" for what in SAME))
        for line in measured["slots"]:
            print(f"{line['slots']} slots: {line['tokens_per_second']:.0f} tokens/s, ", end="")
            print(f"first token {line['first_token_seconds']:.3f} s, peak {line['peak_memory_bytes'] / 1e9:.2f} GB")
        for line in measured["prefix"]:
            print(f"{line['fixed_prompt']:15} {'kept' if line['kept'] else 'read anew':9} ", end="")
            print(f"{line['tokens_read']:5.0f} of {line['prompt_tokens']:.0f} tokens, ", end="")
            print(f"{line['first_token_seconds']:.3f} s to the first token")
        print(f"in {folder}")
    lines = {line["engine"]: line for line in table}
    assert all(line["tokens_per_second"] > 0 and line["same_tokens_4bit"] > 0 for line in table)
    assert lines["ours, q8_0"]["same_tokens_fp32"] >= 0.9
    assert lines["ours, q4_0"]["file_bytes"] < lines["ours, q8_0"]["file_bytes"] < lines["ours, f16"]["file_bytes"]
    assert all((folder / f"engine_{name}").stat().st_size > 100 for name in ("speed.png", "slots.csv", "prefix.csv"))
