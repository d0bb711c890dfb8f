"""Ways to run the model behind one small interface: messages in, text and timings out."""

import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from elm_helpers.base_model import read_base_model
from elm_helpers.chat import encode_prompt
from elm_helpers.export import find_tokenizer, read_base_id, write_gguf
from elm_helpers.runtime import quiet_libraries, read_machine
from elm_helpers.tool_calls import ToolCall, format_tool_call

MAX_TOKENS = 200
CONTEXT = 4096  # tokens a conversation may take in one slot


@dataclass(frozen=True)
class Completion:
    """What a model wrote, and what it cost: tokens, seconds in all, to the first token, prompt tokens not read anew."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    first_token_seconds: float
    cached_tokens: int = 0


@dataclass(frozen=True)
class Engine:
    """A running model.

    Attributes:
        name: ``llama.cpp``, ``transformers`` or a URL.
        complete: ``complete(messages, max_tokens=, temperature=, seed=, grammar=, on_text=) -> Completion``;
            ``on_text`` is called with each new piece of text.
        parallel: Requests that it answers at the same time.
        takes_grammar: It can hold a reply to a GBNF.
    """

    name: str
    complete: Callable[..., Completion]
    parallel: int = 1
    takes_grammar: bool = False


def complete_all(
    engine: Engine,
    conversations: Iterable[list[dict]],
    *,
    max_tokens: int = MAX_TOKENS,
    temperature: float = 0.0,
    seed: int = 0,
    grammar: str | None = None,
) -> Iterable[Completion]:
    """Yield one completion a conversation, in order, with all of the engine's slots kept busy.

    Args:
        engine: The model.
        conversations: Messages of each.
        max_tokens: Tokens that a reply may have.
        temperature: 0 is greedy.
        seed: Of the sampling.
        grammar: GBNF that every reply must follow, or None.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, "grammar": grammar}
    with ThreadPoolExecutor(engine.parallel) as pool:
        yield from pool.map(lambda messages: engine.complete(messages, **options), conversations)


def open_engine(model: str | Path, kind: str = "auto", *, parallel: int = 4) -> Engine:
    """Open a model folder, or reach a server, by the engine that fits.

    Args:
        model: Folder of an adapter or checkpoint; or the base URL of an OpenAI-compatible server, whose key is in
            ``ELM_UPSTREAM_KEY``; or the model's name at the URL in `kind`.
        kind: ``auto`` (llama.cpp), ``llama.cpp``, ``transformers``, or a base URL.
        parallel: Slots of llama.cpp, or requests that a URL is sent at the same time.

    Raises:
        FileNotFoundError: There is no model in the folder.
        ValueError: No such engine.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    web, key = ("http://", "https://"), os.environ.get("ELM_UPSTREAM_KEY")
    if kind.startswith(web):
        return connect_url(kind, str(model), key, parallel=parallel)
    if str(model).startswith(web):
        return connect_url(str(model), None, key, parallel=parallel)
    if not Path(model).is_dir():
        raise FileNotFoundError(f"{model} is no folder; train a model first, or use data/sample/elm-smollm2-135m")
    if kind in ("auto", "llama.cpp"):
        return open_llama_cpp(Path(model), parallel=parallel)
    if kind == "transformers":
        return open_transformers(Path(model))
    raise ValueError(f"engine {kind!r}: choose auto, llama.cpp, transformers or a URL")


def open_llama_cpp(model: Path, *, outtype: str = "q8_0", parallel: int = 4) -> Engine:
    """Run a model folder's GGUF in llama.cpp, inside this process; the GGUF is made on first use.

    Args:
        model: Folder of an adapter or checkpoint.
        outtype: Number format of the weights.
        parallel: Requests answered at once; they share the machine's cores.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    import xllamacpp
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(find_tokenizer(model))
    params = xllamacpp.CommonParams()
    params.model.path = str(write_gguf(model, outtype))
    params.n_ctx, params.n_parallel = CONTEXT * parallel, parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = read_machine()["cores"]
    params.port, params.verbosity = 0, -1
    server = xllamacpp.Server(params)

    def complete(messages, *, max_tokens=MAX_TOKENS, temperature=0.0, seed=0, grammar=None, on_text=None):
        start, pieces, first = time.perf_counter(), [], []

        def take(chunk) -> None:
            choice = chunk["choices"][0]
            if choice["text"]:
                first[:] = first or [time.perf_counter() - start]
                pieces.append(choice["text"])
                if on_text:
                    on_text(choice["text"])
            if chunk.get("timings"):
                timings.update(chunk["timings"])

        timings: dict = {}
        ids = encode_prompt(tokenizer, messages)
        if len(ids) + max_tokens > CONTEXT:
            raise ValueError(f"the conversation has {len(ids)} tokens; {CONTEXT - max_tokens} fit beside a reply")
        request = {"prompt": ids, "n_predict": max_tokens, "temperature": temperature, "seed": seed, "stream": True}
        if grammar:
            request["grammar"] = grammar
        server.handle_completions(request | {"cache_prompt": True, "timings_per_token": True}, take)
        seconds = time.perf_counter() - start
        counts, cached = (len(ids), timings.get("predicted_n", 0)), len(ids) - timings.get("prompt_n", len(ids))
        return Completion("".join(pieces), *counts, seconds, (first or [seconds])[0], cached)

    return Engine("llama.cpp", complete, parallel, takes_grammar=True)


def open_transformers(model: Path) -> Engine:
    """Run the base model in 4 bits with the adapter on top, as it was trained: the slow path, for comparison.

    Args:
        model: Folder of an adapter.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    from elm_helpers.training import build_quantization, choose_compute_dtype, load_for_training

    import torch
    from peft import PeftModel

    dtype = choose_compute_dtype()
    base = read_base_model(read_base_id(model), verbose=False)
    network, tokenizer = load_for_training(base, build_quantization(dtype), dtype, "sdpa")
    with quiet_libraries():
        network = PeftModel.from_pretrained(network, model).eval()

    def complete(messages, *, max_tokens=MAX_TOKENS, temperature=0.0, seed=0, grammar=None, on_text=None):
        if grammar:
            raise ValueError("the transformers engine takes no grammar; use llama.cpp")
        start, first = time.perf_counter(), []

        def take(text: str) -> None:
            first[:] = first or [time.perf_counter() - start]
            if on_text and text:
                on_text(text)

        ids = torch.tensor([encode_prompt(tokenizer, messages)], device=network.device)
        sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        limits = {"max_new_tokens": max_tokens, "eos_token_id": tokenizer.eos_token_id}
        limits |= {"pad_token_id": tokenizer.pad_token_id, "attention_mask": torch.ones_like(ids)}
        torch.manual_seed(seed)
        with torch.no_grad(), quiet_libraries():
            out = network.generate(input_ids=ids, streamer=build_streamer(tokenizer, take), **limits, **sampling)
        new = out[0, ids.shape[1] :]
        text = tokenizer.decode(new, skip_special_tokens=True)
        seconds = time.perf_counter() - start
        return Completion(text, ids.shape[1], len(new), seconds, (first or [seconds])[0])

    return Engine("transformers", complete)


def build_streamer(tokenizer, take: Callable[[str], None]):
    """Return a transformers streamer that hands each finished piece of text to `take`.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    from transformers import TextStreamer

    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    streamer.on_finalized_text = lambda text, stream_end=False: take(text)  # type: ignore[method-assign]
    return streamer


def connect_url(
    url: str, model: str | None = None, key: str | None = None, *, parallel: int = 4, seconds: float = 120
) -> Engine:
    """Reach an OpenAI-compatible server (vLLM, Ollama, an Endpoint, `elm serve`); it applies the chat template.

    Args:
        url: Base URL that ends in ``/v1``.
        model: The model's name there; None takes ``elm`` if the server lists it, else the first one.
        key: Bearer key, from the environment.
        parallel: Requests that it is sent at the same time.
        seconds: Time that an answer may take; then `complete` raises TimeoutError.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    import httpx

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    client = httpx.Client(base_url=url.rstrip("/"), timeout=seconds, headers=headers)
    if model is None:
        listed = [one["id"] for one in client.get("/models").raise_for_status().json()["data"]]
        model = "elm" if "elm" in listed else listed[0]

    def complete(messages, *, max_tokens=MAX_TOKENS, temperature=0.0, seed=0, grammar=None, on_text=None):
        start, form = time.perf_counter(), {"Content-Type": "application/json"}
        body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": temperature}
        # llama.cpp's server and vLLM take a grammar; `elm serve` refuses it by name.
        body |= {"seed": seed} | ({"grammar": grammar} if grammar else {})
        try:
            answer = client.post("/chat/completions", content=json.dumps(body), headers=form)
        except httpx.TimeoutException:
            raise TimeoutError(f"{url} gave no answer within {seconds:g} s") from None
        if answer.status_code in (400, 413, 422):
            raise ValueError(answer.text[:300])
        answer.raise_for_status()
        text, usage = _read_reply(answer.text)
        if on_text:
            on_text(text)
        seconds_taken = time.perf_counter() - start
        counts = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
        return Completion(text, *counts, seconds_taken, seconds_taken)

    return Engine(url, complete, parallel)


def _read_reply(body: str) -> tuple[str, dict]:
    """Return the text of an OpenAI answer, its calls in the wire format, and its numbers of tokens."""
    try:
        reply = json.loads(body)
        message = reply["choices"][0]["message"]
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        written = [format_tool_call(ToolCall(call["name"], json.loads(call["arguments"]))) for call in calls]
        return "".join([message.get("content") or "", *written]), reply.get("usage") or {}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise RuntimeError(f"the server answered in another form: {error}") from None
