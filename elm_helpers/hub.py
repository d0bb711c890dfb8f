"""Publishing on the Hugging Face Hub: a folder to look at, a plan of what would be sent, then one commit."""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from elm_helpers.card import read_base, read_card, write_model_card
from elm_helpers.leaks import scan_file
from elm_helpers.paths import OUTPUTS, TEMPLATES
from elm_helpers.redact import build_redactor
from elm_helpers.runtime import quiet_libraries

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

REQUIRED = (
    *("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("generation_config.json", "training_summary.json", "README.md"),
)
COPIED = (  # from the adapter's folder, where it has them
    *("adapter_model.safetensors", "adapter_config.json", "generation_config.json", "training_summary.json"),
    *("training_history.csv", "training.png", "scoreboard.json", "details.json"),
)
DATASET = ("ecommerce_train.json", "ecommerce_eval.json", "README.md")
SENT = (".safetensors", ".json", ".jinja", ".txt", ".model", ".md", ".csv", ".png", ".gguf", ".py")  # no pickles
HINTS = {"model": "`elm train` writes it, `elm push` the rest", "dataset": "`elm generate` writes it"}


@dataclass(frozen=True)
class PlannedFile:
    """One file of a push: its name in the repository, bytes, and SHA-256."""

    path: str
    size: int
    sha256: str


def find_scoreboard(model: Path) -> dict | None:
    """Return an adapter's scoreboard: the one in its folder, or the last one if that is newer than the weights.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    weights, last = model / "adapter_model.safetensors", OUTPUTS / "scoreboard.json"
    newer = model.resolve().parent == OUTPUTS and last.is_file() and last.stat().st_mtime > weights.stat().st_mtime
    path = model / "scoreboard.json" if (model / "scoreboard.json").is_file() else last if newer else None
    return json.loads(path.read_text(encoding="utf-8")) if path else None


def stage_adapter(
    model: Path,
    out: Path,
    repo_id: str | None = None,
    *,
    merged: bool = False,
    gguf: bool = False,
    datasets: Iterable[str] = (),
) -> Path:
    """Put together in a new folder what is published of an adapter, its card too; the run's folder stays as it is.

    Args:
        model: Folder of the adapter.
        out: Folder to make anew.
        repo_id: ``owner/name`` for the card; None is the folder's name.
        merged: Add the whole model, adapter included, as ``merged/`` in bfloat16.
        gguf: Add the whole model as a GGUF in 8 bits.
        datasets: Hub ids of the training rows.

    Returns:
        `out`: adapter, tokenizer and chat template, generation config, summary, scoreboard, plots, handler and card.

    Raises:
        ValueError: `model` holds no adapter of this course.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    from elm_helpers.curves import read_history
    from elm_helpers.export import find_tokenizer, write_gguf, write_merged
    from elm_helpers.plots import plot_scoreboard, plot_training, render_png

    if out.resolve() in (model.resolve(), *model.resolve().parents):
        raise ValueError(f"{model} is a staged folder, or holds one: name the folder of the run")
    base, board, names = read_base(model), find_scoreboard(model), ["tokenizer_config.json", "chat_template.jinja"]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    vocabulary = find_tokenizer(model)
    sources = [model / name for name in COPIED] + [vocabulary / name for name in ("tokenizer.json", *names)]
    for path in (*sources, TEMPLATES / "handler.py", TEMPLATES / "vllm_tool_parser.py"):
        if path.is_file():
            shutil.copy(path, out / path.name)
    if (out / "training_history.csv").is_file() and not (out / "training.png").is_file():
        (out / "training.png").write_bytes(render_png(plot_training(read_history(out), f"LoRA of {base}")))
    if board:
        (out / "scoreboard.json").write_text(json.dumps(board, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        rates = ("tool_name", "tool_exact", "over_call", "ask_back", "category")
        (out / "scoreboard.png").write_bytes(render_png(plot_scoreboard(board, rates)))
    if merged:
        write_merged(model, out / "merged", half=True)
    if gguf:
        shutil.copy(write_gguf(model), out / "model-q8_0.gguf")
    write_model_card(out, repo_id, board, tuple(datasets))
    return out


def plan_push(
    folder: Path, repo_id: str | None = None, *, kind: str = "model", names: Iterable[str] = ()
) -> list[PlannedFile]:
    """Return the files that a push would send, after looking for what must not leave this machine.

    Hidden files, links, checkpoints and pickles stay here; of a dataset nothing but its two files and the card is sent.

    Args:
        folder: A staged adapter, or a folder that `elm generate` wrote.
        repo_id: Checked if given.
        kind: ``model`` or ``dataset``.
        names: Customers who must not be in it.

    Raises:
        ValueError: A required file lacks, the card is not valid, the base model is no Hub id, or a file holds a secret
            or personal data; it says which file and what.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    folder, required = Path(folder), REQUIRED if kind == "model" else DATASET
    if repo_id and "<" not in repo_id:
        validate_repo_id(repo_id)
    for name in required:
        if not (folder / name).is_file():
            raise ValueError(f"{folder} lacks {name}; {HINTS[kind]}")
    if kind == "model":
        read_base(folder)
    read_card(folder, kind)
    wanted = [folder / name for name in DATASET] if kind == "dataset" else [*folder.glob("*"), *folder.glob("merged/*")]
    files = [path for path in sorted(wanted) if path.suffix in SENT and not path.name.startswith(".")]
    redactor = build_redactor(names)
    return [
        PlannedFile(path.relative_to(folder).as_posix(), *scan_file(path, redactor))
        for path in files
        if path.is_file() and not path.is_symlink()
    ]


@contextmanager
def explain_hub_errors(repo_id: str) -> Iterator[None]:
    """Turn what the Hub's client raises into one line that says what to do.

    Raises:
        PermissionError: The token is refused, or may not write there.
        FileNotFoundError: There is no such repository.
        ConnectionError: The Hub cannot be reached, broke off, or answered something else.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    try:
        yield
    except PermissionError:
        raise
    except (HTTPError, OSError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        status = getattr(getattr(cause, "response", None), "status_code", None)
        said = " ".join(str(cause).split())[:300] or type(cause).__name__
        if isinstance(cause, RepositoryNotFoundError):
            raise FileNotFoundError(f"{repo_id} is not on the Hub, or it is private and not this token's") from error
        if status == 401:
            raise PermissionError("the Hub refused the token (401): make a new one, then `hf auth login`") from error
        if status == 403:
            raise PermissionError(
                f"you may not write to {repo_id} (403): it is somebody else's, or the token lacks the role write; "
                "choose --repo <your name>/..., or a token that may"
            ) from error
        if status == 409:
            raise PermissionError(f"{repo_id} is taken (409): choose another name (--repo)") from error
        what = f"answered {status}" if status else "cannot be reached, or the connection broke off"
        raise ConnectionError(
            f"the Hub {what} ({said}); nothing is published until the last step, so run the same command again"
        ) from error


def name_repo(name: str, token: str | None = None) -> str:
    """Return ``owner/name``; where the owner is left out, it is the token's.

    Raises:
        PermissionError: There is no token, or it may only read.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    if not (token := token or get_token()):
        raise PermissionError("no Hugging Face token: set HF_TOKEN or run `hf auth login`")
    with explain_hub_errors(name):
        found = HfApi(token=token).whoami()
    if found.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise PermissionError(f"the token of {found['name']} may only read: make one with the role write")
    return name if "/" in name else f"{found['name']}/{name}"


def open_repo(api: HfApi, name: str, kind: str, private: bool) -> str:
    """Make a repository, or find that it is there and fit to be written to, and return its newest commit.

    Raises:
        PermissionError: It is public against `private`, or holds something else.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    try:
        info = api.repo_info(name, repo_type=kind, revision="main")
    except RepositoryNotFoundError:
        api.create_repo(name, repo_type=kind, private=private)
        info = api.repo_info(name, repo_type=kind, revision="main")
    there = {file.rfilename for file in info.siblings or ()} - {".gitattributes", "README.md"}
    if private and info.private is False:
        raise PermissionError(f"{name} is public already: allow that (--public), or choose another name (--repo)")
    if there and (REQUIRED if kind == "model" else DATASET)[0] not in there:
        raise PermissionError(f"{name} is taken: it holds {', '.join(sorted(there)[:3])}; choose another name (--repo)")
    return info.sha


def push(
    folder: Path,
    repo_id: str | None = None,
    *,
    kind: str = "model",
    yes: bool = False,
    private: bool = True,
    pull_request: bool = False,
    token: str | None = None,
    names: Iterable[str] = (),
) -> list[str]:
    """Publish a folder in one commit; without `yes` nothing is sent, and no network is touched.

    Args:
        folder: A staged adapter, or a folder that `elm generate` wrote.
        repo_id: ``owner/name``; the owner is the token's when left out, the name the folder's.
        kind: ``model`` or ``dataset``.
        yes: Really push.
        private: Only you see the repository.
        pull_request: Open one instead of writing to ``main``.
        token: Token with the role write; None takes ``HF_TOKEN`` or the one of `hf auth login`.
        names: Customers who must not be in it.

    Returns:
        Lines that say what would be or was sent; after a push the last is the URL.

    Raises:
        ValueError: `plan_push` refuses the folder, or the Hub its card.
        PermissionError: `name_repo` or `open_repo` refuses, or the Hub does.
        ConnectionError: The Hub cannot be reached.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    folder, name = Path(folder), repo_id or Path(folder).name
    planned = plan_push(folder, name, kind=kind, names=names)
    lines = [f"{file.path:<28} {file.size:>13,} bytes  sha256 {file.sha256[:12]}" for file in planned]
    lines.append(f"{len(planned)} files, {sum(file.size for file in planned) / 1e6:,.1f} MB, one commit")
    if not yes:
        target = name if "/" in name else f"<your name>/{name}"
        return [f"dry run for {kind} {target}: nothing was sent", *lines]
    name = name_repo(name, token)
    api = HfApi(token=token)
    place = f"{api.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"
    adds = [CommitOperationAdd(path_in_repo=f.path, path_or_fileobj=folder / f.path) for f in planned]
    message = f"Upload {folder.name} ({len(planned)} files)"
    with explain_hub_errors(name), quiet_libraries():
        before = open_repo(api, name, kind, private)
        done = api.create_commit(name, adds, commit_message=message, repo_type=kind, create_pr=pull_request)
    if done.oid == before:
        return [*lines, "nothing changed since the last push, so no commit was made", place]
    return [*lines, f"commit {done.oid[:12]}", done.pr_url or place]


def publish_adapter(
    model: Path,
    repo_id: str | None = None,
    *,
    merged: bool = False,
    gguf: bool = False,
    datasets: Iterable[str] = (),
    yes: bool = False,
    private: bool = True,
    pull_request: bool = False,
    names: Iterable[str] = (),
) -> list[str]:
    """Stage an adapter under ``outputs/push`` and push it: `stage_adapter`, then `push`, with their arguments.

    Returns:
        The lines of `push`, and how to prove what was pushed.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    name = repo_id or model.name
    name = name_repo(name) if yes else name if "/" in name else f"<your name>/{name}"
    folder = stage_adapter(model, OUTPUTS / "push" / model.name, name, merged=merged, gguf=gguf, datasets=datasets)
    lines = push(folder, name, yes=yes, private=private, pull_request=pull_request, names=names)
    return [*lines, f"prove it: elm push --repo {name} --prove" if yes else f"the files lie in {folder}"]
