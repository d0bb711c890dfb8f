"""What each `elm` command does; `cli` holds their options."""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from elm_helpers.paths import OUTPUTS, ROOT, SAMPLE
from elm_helpers.profiles import PROFILES, parse_overrides
from elm_helpers.runs import choose_run

import yaml

STORE = ROOT / "data" / "store.db"
REFERENCE = SAMPLE / "elm-smollm2-135m"


def find_default_model() -> Path:
    """Return the adapter that you trained, or else the reference adapter that came with the repository.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    trained = OUTPUTS / PROFILES["cpu"].output
    return trained if (trained / "adapter_config.json").is_file() else REFERENCE


def read_lines(path: Path) -> list[dict]:
    """Return the objects of a JSON Lines file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is no JSON object; the message names file and line.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error}); one object a line is right") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: found {type(row).__name__}; a JSON object is right")
        rows.append(row)
    return rows


def open_shop(path: Path):
    """Return the shop at `path`, built on first use from the course's catalogue.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    from elm_helpers.store import build_store, open_store

    if not path.exists():
        print(f"{path}: found no shop, so the course's is built there; `elm import` makes your own", file=sys.stderr)
        build_store(path).close()
    return open_store(path)


def run_generate(args: argparse.Namespace) -> None:
    """Write the training and evaluation rows.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    from elm_helpers.generate import write_dataset

    mix = yaml.safe_load(args.mix) if args.mix else None
    report = write_dataset(Path(args.out), args.rows, args.eval_rows, mix, args.seed, args.store, args.workers)
    print(f"{args.rows} training and {args.eval_rows} evaluation rows in {args.out}, {report.seconds:.1f} s")
    print("rejected attempts:", json.dumps(report.rejects))


def run_import(args: argparse.Namespace) -> None:
    """Import a shop's exports: products, orders, customers, reviews, coupons and chat logs.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    from elm_helpers.fetch import fetch_shop
    from elm_helpers.importers import describe_report, import_path

    mapping = dict(pair.split("=", 1) for pair in args.map or [] if "=" in pair)
    if len(mapping) < len(args.map or []):
        raise ValueError(f"--map: found {args.map}, expected field=column, each field once")
    live = "://" in args.PATH
    path = fetch_shop(args.PATH) if live else Path(args.PATH)
    report = import_path(path, Path(args.store), args.format, args.replace, mapping)
    print("\n".join(describe_report(report, args.json)))
    if live:
        shutil.rmtree(path)  # customers' data lies in the store alone, and the next fetch starts anew


def run_train(args: argparse.Namespace) -> None:
    """Fine-tune on the file's rows and write the adapter.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    from elm_helpers import training
    from elm_helpers.base_model import read_base_model
    from elm_helpers.card import write_model_card
    from elm_helpers.devices import agree, leave_devices
    from elm_helpers.live import build_live_plot

    import torch

    profile = PROFILES[args.profile]
    out = Path(args.out or OUTPUTS / profile.output)
    run, overrides = choose_run(out, args.resume, parse_overrides(args.override))
    rows, eval_rows = read_lines(Path(args.data)), read_lines(Path(args.eval_data))
    dtype, run = agree((training.choose_compute_dtype(overrides.get("bf16"), overrides.get("fp16")), run))
    overrides = {"ddp_find_unused_parameters": False} | overrides  # every weight of an adapter is used in every step
    arguments = training.build_arguments(profile, run, dtype, overrides)
    with arguments.main_process_first(desc="the base model is read"):
        folder = read_base_model(args.base_model or profile.base_model, verbose=arguments.process_index == 0)
    torch.manual_seed(arguments.seed)
    model, tokenizer = training.load_for_training(folder, training.build_quantization(dtype), dtype, profile.attention)
    summary = training.train_adapter(
        model,
        tokenizer,
        rows,
        eval_rows,
        training.build_lora(profile),
        arguments,
        out=out,
        hub_id=args.base_model or profile.base_model,
        batch_tokens=args.batch_tokens or profile.batch_tokens,
        callbacks=(build_live_plot(),),
        resume=args.resume,
    )
    if arguments.process_index == 0:
        write_model_card(out)
        print(json.dumps({key: value for key, value in summary.items() if key not in ("versions", "config")}))
        print(f"adapter in {out}, run in {run}")
    leave_devices()
    if summary["status"] == "stopped":
        raise KeyboardInterrupt(f"at step {summary['steps']}, with the adapter saved; --resume goes on from there")


def run_answer(args: argparse.Namespace) -> None:
    """Answer a file of requests: the model's first reply to each, tools not executed.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    from elm_helpers.careful import restrain
    from elm_helpers.engines import complete_all, open_engine
    from elm_helpers.prompts import build_conversation
    from elm_helpers.tool_calls import ToolCallError, parse_tool_calls

    requests = read_lines(Path(args.input))
    conversations = [build_conversation(request, f"{args.input}, line {n}") for n, request in enumerate(requests, 1)]
    engine = open_engine(args.model or find_default_model(), args.engine)
    engine = restrain(engine) if args.grammar else engine
    out = Path(args.out)
    beside = out.with_name(f".{out.name}.part")
    with open(beside, "w", encoding="utf-8") as file:
        for request, reply in zip(requests, complete_all(engine, conversations), strict=True):
            calls, error = [], None
            try:
                calls = [{"name": c.name, "arguments": c.arguments} for c in parse_tool_calls(reply.text)]
            except ToolCallError as problem:
                error = problem.reason
            line = {"id": request.get("id"), "text": reply.text, "tool_calls": calls, "error": error}
            file.write(json.dumps(line | {"seconds": round(reply.seconds, 3)}, ensure_ascii=False) + "\n")
    os.replace(beside, out)
    print(f"{len(requests)} answers in {out}")


def run_chat(args: argparse.Namespace) -> None:
    """Talk to the agent; tools are executed against the shop.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    from elm_helpers.agent import Conversation, describe_turn, read_customer, run_turn
    from elm_helpers.careful import restrain
    from elm_helpers.engines import open_engine
    from elm_helpers.tools import Session

    store = open_shop(Path(args.store))
    session = Session(store, read_customer(store, args.customer))
    engine = restrain(open_engine(args.model or find_default_model(), args.engine, parallel=1))
    conversation = Conversation()
    while True:
        try:
            text = args.once or input("you> ").strip()
        except EOFError:
            return
        if text:
            conversation, turn = run_turn(engine, session, conversation, text)
            print(json.dumps(describe_turn(turn), ensure_ascii=False) if args.json else f"elm> {turn.answer}")
        if args.once:
            return


def run_evaluate(args: argparse.Namespace) -> None:
    """Score the systems on held-out rows and write the scoreboard.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    from elm_helpers.cases import read_rows
    from elm_helpers.evaluate import evaluate_model, format_scoreboard

    rows = read_rows(Path(args.data), args.rows or None)
    board = evaluate_model(Path(args.model or find_default_model()), rows, Path(args.out), args.systems.split(","))
    print(format_scoreboard(board))
    print(f"scoreboard in {args.out}")


def run_push(args: argparse.Namespace) -> None:
    """Publish an adapter, or with --dataset a folder of rows; a dry run unless --yes is given.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    from elm_helpers.hub import publish_adapter, push
    from elm_helpers.leaks import read_customers
    from elm_helpers.proof import describe_proof, prove_push

    if args.prove:
        if not args.repo:
            raise ValueError("--prove needs --repo owner/name: what was published")
        print(*describe_proof(prove_push(args.repo)), sep="\n")
        return
    store = Path(args.store)
    if store != STORE and not store.is_file():
        raise FileNotFoundError(f"{store}: found no shop, expected the one whose customers' names must not be sent")
    send = {"yes": args.yes, "private": not args.public, "pull_request": args.pr, "names": read_customers(store)}
    if args.dataset:
        lines = push(Path(args.dataset), args.repo or "elm-shop-conversations", kind="dataset", **send)
    else:
        model = Path(args.model or find_default_model())
        more = {"merged": args.merged, "gguf": args.gguf, "datasets": args.trained_on or ()}
        lines = publish_adapter(model, args.repo, **more, **send)
    print(*lines, sep="\n")


def run_serve(args: argparse.Namespace) -> None:
    """Serve a model over HTTP, in OpenAI's form; whoever asks runs the tools, as lesson 8 does.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    from elm_helpers.engines import open_engine
    from elm_helpers.serve import run_server

    engine = open_engine(args.model or find_default_model(), args.engine)
    run_server(engine, host=args.host, port=args.port, seconds=args.seconds)


def run_course(args: argparse.Namespace) -> None:
    """Run the lessons 01-06 in order, and show the scoreboard.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    from elm_helpers.course import run_notebooks

    run_notebooks()


def run_render(args: argparse.Namespace) -> None:
    """Run the lessons at full size, keep the chosen outputs in them, and renew the reference adapter.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    from elm_helpers.reference import render_course

    render_course()
