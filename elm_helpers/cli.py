"""The `elm` command: the same work as the lessons, without a notebook."""

import argparse
import sys
from collections.abc import Callable

from elm_helpers import commands
from elm_helpers.commands import STORE
from elm_helpers.paths import OUTPUTS, PROCESSED
from elm_helpers.profiles import PROFILES

NUMBER, FLAG = {"type": int}, {"action": "store_true"}
MODEL = {"help": "folder of the adapter (default: the one that you trained, else the reference adapter)"}
ENGINE = {"default": "auto", "help": "llama.cpp, transformers, or a URL that ends in /v1 (default: llama.cpp)"}
TRAIN = {"default": str(PROCESSED / "ecommerce_train.json"), "help": "training rows, JSON Lines"}
HELD_OUT = {"default": str(PROCESSED / "ecommerce_eval.json"), "help": "held-out rows, JSON Lines"}
COMMANDS: dict[Callable, dict[str, dict]] = {  # function -> its options, as `add_argument` takes them
    commands.run_generate: {
        "--rows": NUMBER | {"default": 4000, "help": "training rows"},
        "--eval-rows": NUMBER | {"default": 1000, "help": "evaluation rows"},
        "--mix": {"help": "shares of the tasks, as '{tool_calling: 1}' (default: 40, 30, 20, 10 %%)"},
        "--seed": NUMBER | {"default": 0, "help": "the same seed gives the same bytes"},
        "--out": {"default": str(PROCESSED), "help": "folder of the two files"},
        "--store": {"help": "SQLite file of a shop (default: the course's shop, built in memory)"},
        "--workers": NUMBER | {"default": 1, "help": "processes; the bytes don't depend on their number"},
    },
    commands.run_import: {
        "PATH": {"help": "export file, a folder of them, shopify://SHOP or woocommerce://HOST"},
        "--store": {"default": str(STORE), "help": "SQLite file of the shop, made if missing"},
        "--format": {"default": "auto", "help": "what the file is, such as shopify-products, instead of finding out"},
        "--map": {"action": "append", "metavar": "FIELD=COLUMN", "help": "name=Titel, for a column of another name"},
        "--replace": FLAG | {"help": "empty the shop first, in the same transaction"},
        "--json": FLAG | {"help": "end with one line of JSON"},
    },
    commands.run_train: {
        "--profile": {"choices": list(PROFILES), "default": "cpu", "help": "size of the course"},
        "--base-model": {"help": "Hub id of another base model (default: the profile's)"},
        "--data": TRAIN,
        "--eval-data": HELD_OUT,
        "--out": {"help": "folder of the adapter (default: outputs/elm-…)"},
        "--batch-tokens": NUMBER | {"help": "tokens of a batch, bounds the memory of a step (default: the profile's)"},
        "--resume": FLAG | {"help": "go on with the newest run of --out, from its last checkpoint"},
    },
    commands.run_evaluate: {
        "--model": MODEL,
        "--data": HELD_OUT,
        "--rows": NUMBER | {"default": 0, "help": "rows of each kind to use, 0 for all"},
        "--systems": {"default": "rules,base,base+tools,tuned", "help": "comma-separated"},
        "--out": {"default": str(OUTPUTS / "scoreboard.json"), "help": "file to write"},
    },
    commands.run_answer: {
        "--model": MODEL,
        "--in": {"dest": "input", "required": True, "help": "JSON Lines, {id, text} or {id, messages} a line"},
        "--out": {"required": True, "help": "JSON Lines to write, same order"},
        "--engine": ENGINE,
        "--grammar": {
            "action": argparse.BooleanOptionalAction,
            "default": True,
            "help": "calls in the request's words alone; one that lacks something becomes a question",
        },
    },
    commands.run_chat: {
        "--model": MODEL,
        "--customer": {"help": "id or e-mail of the signed-in customer, such as C0001 (default: a guest)"},
        "--once": {"help": "ask one question and stop"},
        "--json": FLAG | {"help": "print {answer, steps, writes}, one JSON line a turn"},
        "--store": {"default": str(STORE), "help": "SQLite file of the shop, built if missing"},
        "--engine": ENGINE,
    },
    commands.run_push: {
        "--model": MODEL,
        "--repo": {"help": "owner/name on the Hub (default: the token's owner, and the folder's name)"},
        "--dataset": {"metavar": "DIR", "help": "push the rows in this folder to a dataset repository instead"},
        "--merged": FLAG | {"help": "add the whole model in bfloat16, adapter included"},
        "--gguf": FLAG | {"help": "add the whole model in 8 bits for llama.cpp"},
        "--trained-on": {"action": "append", "metavar": "ID", "help": "Hub id of a dataset, for the card; repeatable"},
        "--store": {
            "default": str(STORE),
            "help": "SQLite file of your shop; its customers' names are never sent",
        },
        "--yes": FLAG | {"help": "really push; without it, only show what would be pushed"},
        "--public": FLAG | {"help": "make the repository public (default: private)"},
        "--pr": FLAG | {"help": "open a pull request instead of writing to main"},
        "--prove": FLAG | {"help": "download --repo into an empty folder, load it, and score it against its card"},
    },
    commands.run_serve: {
        "--model": {"help": MODEL["help"] + "; or the base URL of an OpenAI-compatible server, ends in /v1"},
        "--engine": ENGINE,
        "--host": {"default": "127.0.0.1", "help": "address to listen on"},
        "--port": NUMBER | {"default": 8000, "help": "TCP port"},
        "--seconds": NUMBER | {"default": 120, "help": "time of a request, waiting included; then it gets 504"},
    },
    commands.run_course: {},
    commands.run_render: {},
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the `elm` command; every default and unit stands in its --help.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    parser = argparse.ArgumentParser(prog="elm", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for run, options in COMMANDS.items():
        name = run.__name__.removeprefix("run_")
        first = (run.__doc__ or "").splitlines()[0]
        command = subparsers.add_parser(name, help=first, description=first)
        command.set_defaults(run=run)
        for option, settings in options.items():
            shown = settings.get("help", "")
            if settings.get("default") is not None and "default" not in shown:
                settings = settings | {"help": f"{shown} (default: %(default)s)"}
            command.add_argument(option, **settings)
    return parser


def main(words: list[str] | None = None) -> int:
    """Run one command; 0 is done, 2 is bad input (one line on stderr), 1 is anything else.

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    parser = build_parser()
    args, rest = parser.parse_known_args(words)
    if rest and args.command != "train":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.override = rest
    try:
        args.run(args)
    except (ValueError, FileNotFoundError, PermissionError) as error:
        print(f"elm {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:  # no connection, no room on the disk
        print(f"elm {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"elm {args.command}: stopped {stop}".rstrip(), file=sys.stderr)
        return 1
    return 0
