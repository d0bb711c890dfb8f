"""The gateway under load, and llama.cpp's own HTTP server beside it: `pytest -s tests/benchmarks/test_serve_load.py`.

1, 4, 16 and 64 clients ask mixed, held-out prompts of two real servers, each in its own process, in turns. No time is
asserted; that nobody gets somebody else's answer is, and that memory stays flat over 2,000 requests (with a model that
costs nothing, so that it is the gateway's memory). The raw server is given token ids, its easiest case. Table, CSV and
PNG go to ``outputs/benchmarks``. ELM_BENCHMARK_REQUESTS=96 is a longer run.
"""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from elm_helpers.paths import OUTPUTS, ROOT

import httpx
import psutil
import pytest
import serve_runs
from engine_runs import read_conversations
from tables import write_csv

REQUESTS = int(os.environ.get("ELM_BENCHMARK_REQUESTS", "32"))  # of each server, for each number of clients, a round
CLIENTS, TURNS = (1, 4, 16, 64), ("gateway", "raw llama.cpp", "raw llama.cpp", "gateway")
PROMPTS, TOKENS, MANY = 24, 48, 2_000
MOST_MORE = 8e6  # bytes that the gateway may hold after 2,000 requests above what it held after 200


@contextmanager
def run_server(kind: str):
    """Start one of the servers, wait until it answers, give its URL and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, serve_runs.__file__, kind, str(port)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    url, answer = f"http://127.0.0.1:{port}", None
    try:
        while not (answer and answer.status_code == 200):
            assert process.poll() is None, f"{kind} has ended"
            time.sleep(0.2)
            try:
                answer = httpx.get(f"{url}/health")
            except httpx.TransportError:
                continue
        yield url, psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def ask_all(kind: str, url: str, prompts: list[dict], clients: int, requests: int) -> dict:
    """Let so many clients ask; return each answer with its prompt's number, the waits, and the whole time."""
    client = httpx.Client(base_url=url, timeout=300, limits=httpx.Limits(max_connections=None))

    def ask(number: int) -> tuple[int, str, float]:
        prompt, start = prompts[number % len(prompts)], time.perf_counter()
        if kind == "raw llama.cpp":
            body = {"prompt": prompt["ids"], "n_predict": TOKENS, "temperature": 0.0, "cache_prompt": True}
            text = client.post("/completion", json=body).raise_for_status().json()["content"]
        else:
            body = {"inputs": prompt["messages"], "parameters": {"max_new_tokens": TOKENS}}
            text = client.post("/", json=body).raise_for_status().json()[0]["generated_text"]
        return number % len(prompts), text, time.perf_counter() - start

    start = time.perf_counter()
    with client, ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(ask, range(requests)))
    return {"answers": answers, "seconds": time.perf_counter() - start}


def judge(found: dict, alone: dict[int, str]) -> dict:
    """Count answers that differ from the single client's, and those that belong to another prompt."""
    waits = sorted(wait for _, _, wait in found["answers"])
    other = {text: number for number, text in alone.items()}
    wrong = [(number, text) for number, text, _ in found["answers"] if text != alone[number]]
    return {
        "requests_per_s": round(len(waits) / found["seconds"], 2),
        "p50_s": round(waits[len(waits) // 2], 3),
        "p95_s": round(waits[int(len(waits) * 0.95)], 3),
        "differ": len(wrong),
        "crossed": sum(text in other for _, text in wrong),
    }


@pytest.fixture(scope="module")
def measured(smol):
    """A line a server and number of clients."""
    from elm_helpers.chat import encode_prompt

    prompts = [{"messages": talk, "ids": encode_prompt(smol, talk)} for talk in read_conversations()[:PROMPTS]]
    lines = []
    with run_server("gateway") as (url, process), run_server("raw llama.cpp") as (raw, raw_process):
        urls = {"gateway": (url, process), "raw llama.cpp": (raw, raw_process)}
        alone = {
            kind: {number: text for number, text, _ in ask_all(kind, urls[kind][0], prompts, 1, PROMPTS)["answers"]}
            for kind in urls
        }
        for clients in CLIENTS:
            rounds = {kind: {"answers": [], "seconds": 0.0} for kind in urls}
            for kind in TURNS:
                found = ask_all(kind, urls[kind][0], prompts, clients, REQUESTS)
                rounds[kind]["answers"] += found["answers"]
                rounds[kind]["seconds"] += found["seconds"]
            for kind, found in rounds.items():
                memory = round(urls[kind][1].memory_info().rss / 1e6)
                line = {"server": kind, "clients": clients, "requests": len(found["answers"])}
                lines.append(line | judge(found, alone[kind]) | {"memory_mb": memory})
    same = sum(alone["gateway"][number] == alone["raw llama.cpp"][number] for number in range(PROMPTS))
    return lines, same


def plot(lines: list[dict], path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for number, kind in enumerate(dict.fromkeys(line["server"] for line in lines)):
        own, style = [line for line in lines if line["server"] == kind], {"marker": "o", "color": f"C{number}"}
        clients = [line["clients"] for line in own]
        axes[0].plot(clients, [line["requests_per_s"] for line in own], label=kind, **style)
        axes[1].plot(clients, [line["p50_s"] for line in own], label=f"{kind}, median", **style)
        axes[1].plot(clients, [line["p95_s"] for line in own], label=f"{kind}, 95 %", linestyle=":", **style)
    for axis, label in zip(axes, ("requests a second", "wait, seconds"), strict=True):
        axis.set(xscale="log", xlabel="clients at a time", ylabel=label, ylim=(0, None))
        axis.set_xticks(CLIENTS, [str(number) for number in CLIENTS])
        axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def test_load_and_what_the_gateway_costs_beside_llama_cpps_own_server(measured):
    lines, same = measured
    folder = OUTPUTS / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "serve_load.csv", lines)
    plot(lines, folder / "serve_load.png")
    print()
    for line in lines:
        print("  ".join(f"{key} {value}" for key, value in line.items()))
    for clients in CLIENTS:
        ours, raw = (line["requests_per_s"] for line in lines if line["clients"] == clients)
        print(f"{clients} clients: the gateway takes {raw / ours:.3f} of llama.cpp's own time a request")
    print(f"{same} of {PROMPTS} single-client answers are the same from both")
    assert [line["crossed"] for line in lines if line["server"] == "gateway"] == [0] * len(CLIENTS)


def test_memory_stays_flat_over_2000_requests():
    prompts = [{"messages": [{"role": "user", "content": f"question {n} " + "word " * (n % 50)}]} for n in range(101)]
    with run_server("echo") as (url, process):
        ask_all("echo", url, prompts, 16, 200)
        before = process.memory_info().rss
        found = ask_all("echo", url, prompts, 16, MANY)
        after = process.memory_info().rss
    rate = MANY / found["seconds"]
    print(
        f"\n{MANY} requests, {rate:.0f} a second without a model, {before / 1e6:.1f} MB before, {after / 1e6:.1f} after"
    )
    assert all(text == prompts[number]["messages"][0]["content"] for number, text, _ in found["answers"])
    assert after - before < MOST_MORE
