"""What `test_engine_speed.py` measures, each in its own process: `python engine_runs.py KIND JOB.json OUT.json`."""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from elm_helpers.paths import ROOT, SAMPLE

PROMPTS = int(os.environ.get("ELM_BENCHMARK_PROMPTS", "6"))
TOKENS = int(os.environ.get("ELM_BENCHMARK_TOKENS", "24"))  # of a reply, at most
REFERENCE = SAMPLE / "elm-smollm2-135m"
TYPES = ("q8_0", "q4_0", "f16")
SLOT_REQUESTS = max(16, PROMPTS)
PREFIXED = 4  # questions behind each fixed prompt
WARM_UP = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
QUANTIZED, MERGED = "transformers, 4-bit + adapter", "transformers, merged fp32"


def read_conversations() -> list[list[dict]]:
    """Return held-out conversations that end where the model answers: the sample's, then customers' own requests."""
    from elm_helpers.prompts import build_conversation

    rows = [json.loads(line) for line in (SAMPLE / "ecommerce_eval.json").read_text(encoding="utf-8").splitlines()]
    path = ROOT / "tests" / "data" / "customer_requests.jsonl"
    requests = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["messages"][:-1] for row in rows] + [build_conversation(request) for request in requests]


def run_files(job: dict, kind: str) -> dict:
    """Write every file that an engine reads, and the ids of every prompt; what is timed later finds them there."""
    from elm_helpers.chat import encode_prompt
    from elm_helpers.export import find_tokenizer, write_gguf, write_merged
    from elm_helpers.prompts import build_system, build_system_with_tools

    from gguf import GGUFReader
    from transformers import AutoTokenizer

    own, merged = find_tokenizer(REFERENCE), Path(job["folder"]) / "merged"
    tokenizer, conversations = AutoTokenizer.from_pretrained(own), read_conversations()
    assert len(conversations) >= SLOT_REQUESTS, f"there are no more than {len(conversations)} prompts"
    write_merged(REFERENCE, merged)
    files = {outtype: str(write_gguf(REFERENCE, outtype)) for outtype in TYPES}
    sizes = {outtype: Path(path).stat().st_size for outtype, path in files.items()}
    sizes[MERGED] = (merged / "model.safetensors").stat().st_size
    sizes[QUANTIZED] = sum(
        (folder / f"{name}.safetensors").stat().st_size
        for folder, name in ((own, "model"), (REFERENCE, "adapter_model"))
    )
    weights = {outtype: sum(int(t.n_bytes) for t in GGUFReader(path).tensors) for outtype, path in files.items()}
    fixed = {}
    for name, system in (("one line", build_system(None)), ("tools and rules", build_system_with_tools(None))):
        asked = [[{"role": "system", "content": system}, m[-1]] for m in conversations[-PREFIXED:]]
        fixed[name] = [encode_prompt(tokenizer, messages) for messages in asked]
    prompts = [{"messages": m, "ids": encode_prompt(tokenizer, m)} for m in (WARM_UP, *conversations[:SLOT_REQUESTS])]
    found = {"files": files, "sizes": sizes, "weights": weights | {MERGED: sizes[MERGED]}, "fixed": fixed}
    return found | {"merged": str(merged), "warm_up": prompts[0], "prompts": prompts[1:], "tokenizer": str(own)}


def run_bandwidth(job: dict, kind: str) -> dict:
    """Return the bytes a second that this machine reads from memory, all cores at once, by the fastest of two ways."""
    from elm_helpers.runtime import read_machine

    import numpy as np

    cores, best = read_machine()["cores"], 0.0
    parts = [np.ones(2**27 // cores, dtype=np.float32) for _ in range(cores)]  # 512 MB: no cache holds it
    with ThreadPoolExecutor(cores) as pool:
        for read in (np.sum, lambda part: part @ part):
            for _ in range(6):
                start = time.perf_counter()
                list(pool.map(read, parts))
                best = max(best, sum(part.nbytes for part in parts) / (time.perf_counter() - start))
    return {"bytes_per_second": best}


def open_merged(folder: str):
    """Open the merged fp32 checkpoint in plain transformers, as an engine."""
    from elm_helpers.chat import encode_prompt
    from elm_helpers.engines import Completion, Engine, build_streamer
    from elm_helpers.runtime import quiet_libraries

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def complete(messages, *, max_tokens):
        start, first = time.perf_counter(), []
        streamer = build_streamer(tokenizer, lambda text: first.append(time.perf_counter() - start))
        ids = torch.tensor([encode_prompt(tokenizer, messages)])
        limits = {"max_new_tokens": max_tokens, "do_sample": False}
        limits |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        with torch.no_grad(), quiet_libraries():
            out = network.generate(input_ids=ids, attention_mask=torch.ones_like(ids), streamer=streamer, **limits)
        new, seconds = out[0, ids.shape[1] :], time.perf_counter() - start
        text = tokenizer.decode(new, skip_special_tokens=True)
        return Completion(text, ids.shape[1], len(new), seconds, (first or [seconds])[0])

    return Engine(MERGED, complete)


def run_engine(job: dict, kind: str) -> dict:
    """Answer every prompt, one at a time, through the course's engines."""
    from elm_helpers.engines import open_llama_cpp, open_transformers
    from elm_helpers.runtime import MemoryWatch

    with MemoryWatch() as watch:
        if kind == QUANTIZED:
            engine = open_transformers(REFERENCE)
        elif kind == MERGED:
            engine = open_merged(job["merged"])
        else:
            engine = open_llama_cpp(REFERENCE, outtype=kind.split()[-1], parallel=1)
        engine.complete(WARM_UP, max_tokens=4)
        asked = job["prompts"][:PROMPTS]
        replies = [engine.complete(prompt["messages"], max_tokens=TOKENS) for prompt in asked]
    return {
        "replies": [reply.text for reply in replies],
        "prompt_tokens": [reply.prompt_tokens for reply in replies],
        "first": [reply.first_token_seconds for reply in replies],
        "decode": [
            (reply.completion_tokens - 1) / (reply.seconds - reply.first_token_seconds)
            for reply in replies
            if reply.completion_tokens > 4
        ],
        "peak": watch.peak,
    }


def open_raw(path: str):
    """Open llama.cpp's own server on a file, with none of our code around it but its settings."""
    from elm_helpers.engines import CONTEXT
    from elm_helpers.runtime import read_machine

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = path, CONTEXT, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = read_machine()["cores"]
    params.port, params.verbosity = 0, -1
    return xllamacpp.Server(params)


def run_raw(job: dict, kind: str) -> dict:
    """Send llama.cpp the same ids directly, and take its own timings of prompt and decoding."""
    from elm_helpers.runtime import MemoryWatch

    with MemoryWatch() as watch:
        server = open_raw(job["files"][kind.split()[-1]])
        request = {"temperature": 0.0, "seed": 0, "cache_prompt": True}
        server.handle_completions(request | {"prompt": job["warm_up"]["ids"], "n_predict": 4})
        asked = job["prompts"][:PROMPTS]
        answers = [server.handle_completions(request | {"prompt": p["ids"], "n_predict": TOKENS}) for p in asked]
    times = [answer["timings"] for answer in answers]
    return {
        "replies": [answer["choices"][0]["text"] for answer in answers],
        "prompt_tokens": [len(prompt["ids"]) for prompt in asked],
        "first": [t["prompt_ms"] / 1000 for t in times],
        "decode": [(t["predicted_n"] - 1) / t["predicted_ms"] * 1000 for t in times if t["predicted_n"] > 4],
        "peak": watch.peak,
    }


def run_slots(job: dict, kind: str) -> dict:
    """Answer the prompts with so many slots busy at once; a small machine's cores are shared by them."""
    from elm_helpers.engines import complete_all, open_llama_cpp
    from elm_helpers.runtime import MemoryWatch

    with MemoryWatch() as watch:
        engine = open_llama_cpp(REFERENCE, parallel=int(kind.split()[0]))
        list(complete_all(engine, [WARM_UP] * engine.parallel, max_tokens=4))
        start = time.perf_counter()
        replies = list(complete_all(engine, [prompt["messages"] for prompt in job["prompts"]], max_tokens=TOKENS))
        seconds = time.perf_counter() - start
    tokens = sum(reply.completion_tokens for reply in replies)
    line = {"slots": engine.parallel, "requests": len(replies), "tokens": tokens, "seconds": seconds}
    line |= {"tokens_per_second": tokens / seconds, "peak_memory_bytes": watch.peak}
    return line | {"first_token_seconds": median(reply.first_token_seconds for reply in replies)}


def run_prefix(job: dict, kind: str) -> dict:
    """Time the first token with the fixed prompt read anew each time, and with it kept from the question before."""
    server, lines = open_raw(job["files"]["q8_0"]), []
    for name, asked in job["fixed"].items():
        for keep in (False, True):
            request = {"temperature": 0.0, "n_predict": 1, "cache_prompt": keep}
            server.handle_completions(request | {"prompt": asked[-1]})
            seconds, read = [], []
            for ids in asked[:-1]:
                start = time.perf_counter()
                answer = server.handle_completions(request | {"prompt": ids})
                seconds.append(time.perf_counter() - start)
                read.append(answer["timings"]["prompt_n"])
            line = {"fixed_prompt": name, "kept": keep, "prompt_tokens": median(map(len, asked[:-1]))}
            lines.append(line | {"tokens_read": median(read), "first_token_seconds": median(seconds)})
    return {"lines": lines}


if __name__ == "__main__":
    kind, job, out = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), Path(sys.argv[3])
    runs = {"files": run_files, "bandwidth": run_bandwidth, "prefix": run_prefix}
    run = runs.get(kind, run_slots if kind.endswith("slots") else run_raw if kind.startswith("raw") else run_engine)
    out.write_text(json.dumps(run(job, kind)), encoding="utf-8")
