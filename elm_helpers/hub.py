"""Publishing on the Hugging Face Hub: a model card from the run's own figures, a plan to look at, then one commit."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from elm_helpers.paths import ROOT, TEMPLATES
from elm_helpers.scoreboard import format_scoreboard

from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCardData, get_token
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import validate_repo_id

REQUIRED = (
    *("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("generation_config.json", "training_summary.json", "README.md"),
)
SENT = (".safetensors", ".json", ".jinja", ".txt", ".model", ".md", ".csv", ".png", ".gguf")  # no pickles
LICENSES = {"HuggingFaceTB/": "apache-2.0", "meta-llama/Llama-3.1": "llama3.1"}
SECRETS = {
    "a Hugging Face token": rb"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{20,}",
    "an API key (sk-…)": rb"(?<![A-Za-z0-9_-])sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}",
    "an AWS key": rb"(?<![A-Za-z0-9])AKIA[0-9A-Z]{16}(?![0-9A-Za-z])",
    "a GitHub token": rb"(?<![A-Za-z0-9])gh[pousr]_[A-Za-z0-9]{36}",
    "a private key": rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----",
}


@dataclass(frozen=True)
class PlannedFile:
    """One file of a push: its name in the repository, bytes, and SHA-256."""

    path: str
    size: int
    sha256: str


def read_base(folder: Path) -> str:
    """Return the base model's Hub id from ``adapter_config.json``.

    Raises:
        ValueError: The file lacks, or it names a local folder, which nobody else could load.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    path = Path(folder) / "adapter_config.json"
    base = str(_read_json(path).get("base_model_name_or_path"))
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", base) or Path(base).exists() or (ROOT / base).exists():
        raise ValueError(f"{path}: base_model_name_or_path is {base!r}, it must be a Hub id such as owner/model")
    return base


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"{path.parent} lacks {path.name}; `elm train` writes it")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object")
    return found


def build_model_card(
    folder: Path, repo_id: str | None = None, scoreboard: dict | None = None, datasets: tuple[str, ...] = ()
) -> str:
    """Build the model card; every figure in it is read from the run's summary and scoreboard.

    Args:
        folder: Folder of the adapter.
        repo_id: ``owner/name``; None is the folder's name.
        scoreboard: What ``scoreboard.json`` holds; None says that nothing was measured.
        datasets: Hub ids of published training data, if there are any.

    Raises:
        ValueError: A file or field lacks, or the base model is no Hub id.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    folder = Path(folder)
    repo_id, base, summary = repo_id or folder.name, read_base(folder), _read_json(folder / "training_summary.json")
    name, systems = repo_id.split("/")[-1], (scoreboard or {}).get("systems", [])
    tuned = next((one["metrics"] for one in systems if one["system"] == "tuned"), {})
    results = [
        EvalResult("text-generation", "elm", "ELM held-out rows", "accuracy", round(m["value"], 4), metric_name=metric)
        for metric, m in tuned.items()
        if not metric.endswith("_s")
    ]
    metadata = ModelCardData(
        license=next((found for start, found in LICENSES.items() if base.startswith(start)), "apache-2.0"),
        **{"base_model": base, "library_name": "peft", "pipeline_tag": "text-generation", "language": "en"},
        **{"tags": ["lora", "qlora", "e-commerce", "tool-calling"], "datasets": list(datasets) or None},
        **({"model_name": name, "eval_results": results} if results else {}),
    )
    layers = str(summary.get("config", {}).get("lora_targets")).replace("-", " ")
    quantized = "4-bit NF4 QLoRA" if summary.get("config", {}).get("quantized") else "LoRA without quantisation"
    return (
        (TEMPLATES / "model_card.md")
        .read_text(encoding="utf-8")
        .format(
            method=f"{quantized} of {layers} layers",
            metadata=metadata.to_yaml().strip(),
            **{"name": name, "base": base, "repo_id": repo_id},
            built_with=" Built with Llama." if base.startswith("meta-llama/") else "",
            training=_describe_training(summary, folder),
            evaluation=_describe_scores(scoreboard),
            versions=", ".join(f"{package} {number}" for package, number in summary.get("versions", {}).items()),
        )
    )


def _describe_training(summary: dict, folder: Path) -> str:
    try:
        figures = {
            "rows": f"{summary['rows']:,}",
            "tokens": f"{summary['tokens']:,} ({summary['tokens_per_second']:,} a second)",
            "time": f"{summary['seconds'] / 60:.1f} minutes, {summary['steps']} steps",
            "peak memory": f"{summary['peak_memory_bytes'] / 1e9:.2f} GB",
            "trainable parameters": f"{summary['trainable_parameters']:,}",
            "loss": f"{summary['final_loss']} in training, {summary['eval_loss']} on held-out rows",
        }
        figures |= {key.replace("_", " "): value for key, value in sorted(summary["config"].items())}
    except KeyError as error:
        raise ValueError(f"{folder / 'training_summary.json'} lacks {error}; train again") from None
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in figures.items())])


def _describe_scores(scoreboard: dict | None) -> str:
    if not scoreboard:
        return "Not measured yet: `elm evaluate` writes the scoreboard that belongs here."
    notes = f"Measured {scoreboard.get('created', 'at an unknown time')}, base model {scoreboard.get('base_model')}."
    return f"{format_scoreboard(scoreboard)}\n\n95 % intervals in brackets; ↑ more is better, ↓ less is. {notes}"


def write_model_card(folder: Path, repo_id: str | None = None, scoreboard: dict | None = None) -> Path:
    """Write the card as ``README.md`` of the adapter's folder and return its path; arguments as `build_model_card`.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    path = Path(folder) / "README.md"
    path.write_text(build_model_card(Path(folder), repo_id, scoreboard), encoding="utf-8")
    return path


def plan_push(folder: Path, repo_id: str | None = None) -> list[PlannedFile]:
    """Return the files that a push would send, after looking for what must not leave this machine.

    Hidden files, folders (checkpoints) and pickles stay here.

    Raises:
        ValueError: A required file lacks, the base model is no Hub id, or a file holds a secret; its name is said.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    folder = Path(folder)
    if repo_id:
        validate_repo_id(repo_id)
    for name in REQUIRED:
        if not (folder / name).is_file():
            hint = "write_model_card writes it" if name == "README.md" else "`elm train` writes it"
            raise ValueError(f"{folder} lacks {name}; {hint}")
    read_base(folder)
    files = [path for path in sorted(folder.iterdir()) if path.suffix in SENT and not path.name.startswith(".")]
    return [_scan(path) for path in files if path.is_file() and not path.is_symlink()]


def _scan(path: Path) -> PlannedFile:
    digest, tail = hashlib.sha256(), b""
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            found = [kind for kind, pattern in SECRETS.items() if re.search(pattern, tail + chunk)]
            if found:
                raise ValueError(
                    f"{path} holds what looks like {found[0]}; take it out (and revoke it) before you push"
                )
            tail = chunk[-256:]
    return PlannedFile(path.name, path.stat().st_size, digest.hexdigest())


@contextmanager
def explain_hub_errors(repo_id: str) -> Iterator[None]:
    """Turn what the Hub's client raises into one line that says what to do.

    Raises:
        PermissionError: The token is refused, or may not write there.
        ConnectionError: The Hub cannot be reached, or answered something else.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    try:
        yield
    except PermissionError:
        raise
    except (HTTPError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        said = " ".join(str(error).split())[:300]
        if status == 401:
            raise PermissionError("the Hub refused the token (401): make a new one, then `hf auth login`") from error
        if status == 403:
            raise PermissionError(f"the token may not write to {repo_id} (403): it needs the role write") from error
        what = f"answered {status}" if status else "cannot be reached (check the network and HF_ENDPOINT)"
        raise ConnectionError(f"the Hub {what}: {said}") from error


def push(
    folder: Path, repo_id: str | None = None, *, yes: bool = False, private: bool = True, token: str | None = None
) -> list[str]:
    """Publish an adapter in one commit; without `yes` nothing is sent, and no network is touched.

    Args:
        folder: Folder of the adapter.
        repo_id: ``owner/name``; the owner is the token's when left out, the name the folder's.
        yes: Really push.
        private: Only you see the repository.
        token: Token with the role write; None takes ``HF_TOKEN`` or the one of `hf auth login`.

    Returns:
        Lines that say what would be or was sent; after a push the last is the repository's URL.

    Raises:
        ValueError: `plan_push` refuses the folder.
        PermissionError: There is no token, or the Hub refuses it, or the repository is public against `private`.
        ConnectionError: The Hub cannot be reached.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    folder, name = Path(folder), repo_id or Path(folder).name
    planned = plan_push(folder, name)
    lines = [f"{file.path:<28} {file.size:>13,} bytes  sha256 {file.sha256[:12]}" for file in planned]
    lines.append(f"{len(planned)} files, {sum(file.size for file in planned) / 1e6:,.1f} MB, one commit")
    if not yes:
        target = name if "/" in name else f"<your name>/{name}"
        return [f"dry run for {target}: nothing was sent", *lines]
    token = token or get_token()
    if not token:
        raise PermissionError("no Hugging Face token: set HF_TOKEN or run `hf auth login`")
    api = HfApi(token=token)
    with explain_hub_errors(name):
        name = name if "/" in name else f"{api.whoami()['name']}/{name}"
        try:
            api.create_repo(name, private=private)
        except HTTPError as error:
            if getattr(getattr(error, "response", None), "status_code", None) != 409:  # 409: it exists
                raise
            if private and api.model_info(name, revision="main").private is False:
                raise PermissionError(f"{name} is public already: allow that (--public), or choose a name") from None
        adds = [CommitOperationAdd(path_in_repo=f.path, path_or_fileobj=folder / f.path) for f in planned]
        api.create_commit(name, adds, commit_message=f"Upload {folder.name} ({len(planned)} files)")
    return [*lines, f"{api.endpoint}/{name}"]
