"""The servers that `test_serve_load.py` measures, each in its own process: `python serve_runs.py KIND PORT`."""

import sys
import time
from types import SimpleNamespace

from elm_helpers.engines import CONTEXT, Engine, open_llama_cpp
from elm_helpers.export import write_gguf
from elm_helpers.paths import SAMPLE
from elm_helpers.runtime import read_machine

REFERENCE, PARALLEL, WAITING = SAMPLE / "elm-smollm2-135m", 4, 64


def echo(messages, *, on_text, **options):
    """Answer with what was said, in pieces: a model that costs nothing, so that only the gateway is seen."""
    text = messages[-1]["content"]
    for start in range(0, len(text), 4):
        on_text(text[start : start + 4])
    return SimpleNamespace(text=text, prompt_tokens=len(text), completion_tokens=len(text) // 4)


def serve_raw(port: int) -> None:
    """Run llama.cpp's own HTTP server, with the settings of the gateway's engine."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(write_gguf(REFERENCE))
    params.n_ctx, params.n_parallel = CONTEXT * PARALLEL, PARALLEL
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = read_machine()["cores"]
    params.hostnames, params.port, params.verbosity = ["127.0.0.1"], port, -1
    server = xllamacpp.Server(params)
    while server:
        time.sleep(1)


def serve_gateway(engine: Engine, port: int) -> None:
    from elm_helpers.serve import build_app

    import uvicorn

    uvicorn.run(build_app(engine, waiting=WAITING), host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    kind, number = sys.argv[1], int(sys.argv[2])
    if kind == "raw llama.cpp":
        serve_raw(number)
    elif kind == "gateway":
        serve_gateway(open_llama_cpp(REFERENCE, parallel=PARALLEL), number)
    else:
        serve_gateway(Engine("echo", echo, PARALLEL), number)
