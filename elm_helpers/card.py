"""The model card: metadata for the Hub and text for people, every figure read from the run's own files."""

import json
import re
from pathlib import Path

from elm_helpers.paths import ROOT, TEMPLATES
from elm_helpers.scoreboard import format_scoreboard

import yaml
from huggingface_hub import DatasetCard, EvalResult, ModelCard, ModelCardData

LICENSES = {"HuggingFaceTB/": "apache-2.0", "meta-llama/Llama-3.1": "llama3.1"}
FIELDS = {  # kind of repository -> its card's class, and the metadata that it must have
    "model": (ModelCard, ("license", "base_model", "language", "library_name", "pipeline_tag", "tags")),
    "dataset": (DatasetCard, ("license", "language", "pretty_name", "task_categories", "size_categories", "configs")),
}
EXTRAS = {  # file or folder of the push -> what the card says of it
    "merged": "`merged/` holds the whole model: `hf download {repo_id} --include 'merged/*' --local-dir elm`, then "
    '`from_pretrained("elm/merged")`. (Not `subfolder`: transformers would find the adapter first.)',
    "model-q8_0.gguf": "`model-q8_0.gguf` is the whole model in 8 bits, for llama.cpp: `llama-server -hf {repo_id}`.",
    "handler.py": "`handler.py` lets a dedicated Inference Endpoint serve the adapter: "
    '`{{"inputs": ..., "parameters": {{...}}}}` in, `[{{"generated_text": ...}}]` out.',
    "vllm_tool_parser.py": "`vllm_tool_parser.py` teaches vLLM the form of the tool calls (`--tool-parser-plugin`).",
}


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
    results = [_build_result(metric, m) for metric, m in tuned.items() if not metric.endswith("_s")]
    metadata = ModelCardData(
        license=next((found for start, found in LICENSES.items() if base.startswith(start)), "apache-2.0"),
        **{"base_model": base, "library_name": "peft", "pipeline_tag": "text-generation", "language": "en"},
        **{"tags": ["lora", "qlora", "e-commerce", "tool-calling"], "datasets": list(datasets) or None},
        **({"model_name": name, "eval_results": results} if results else {}),
    )
    picture = "\n\n![Each rate of each system, with its interval](scoreboard.png)"
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
            evaluation=_describe_scores(scoreboard) + picture * (folder / "scoreboard.png").is_file(),
            extras="".join(
                f"\n- {said.format(repo_id=repo_id)}" for path, said in EXTRAS.items() if (folder / path).exists()
            ),
            plot="\n![Loss, learning rate, speed and memory of the run](training.png)\n"
            * (folder / "training.png").is_file(),
            versions=", ".join(f"{package} {number}" for package, number in summary.get("versions", {}).items()),
        )
    )


def _build_result(metric: str, found: dict) -> EvalResult:
    """Return a figure for `model-index`; its interval and the number of cases stand in the metric's ``args``."""
    spread = {"interval_95": [found["low"], found["high"]], "n": found["n"]}
    figure = {"metric_value": round(found["value"], 4), "metric_name": metric, "metric_args": spread}
    return EvalResult("text-generation", "elm", "ELM held-out rows", metric, **figure)


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


def write_model_card(
    folder: Path, repo_id: str | None = None, scoreboard: dict | None = None, datasets: tuple[str, ...] = ()
) -> Path:
    """Write the card as ``README.md`` of the adapter's folder and return its path; arguments as `build_model_card`.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    path = Path(folder) / "README.md"
    path.write_text(build_model_card(Path(folder), repo_id, scoreboard, datasets), encoding="utf-8")
    return path


def read_card(folder: Path, kind: str = "model") -> ModelCard | DatasetCard:
    """Return the card of a folder, after checking its metadata; the Hub checks it again when it is pushed.

    Args:
        folder: Holds ``README.md``.
        kind: ``model`` or ``dataset``.

    Raises:
        ValueError: Metadata is missing or broken, or a dataset's card names a file that isn't there.

    Shown in ``notebooks/05_push_to_hub.ipynb``.
    """
    path, (card, required) = Path(folder) / "README.md", FIELDS[kind]
    try:
        found = card.load(path)
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: the metadata on top is broken: {' '.join(str(error).split())[:200]}") from None
    data = found.data.to_dict()
    if lacking := [field for field in required if not data.get(field)]:
        raise ValueError(f"{path}: the metadata lacks {', '.join(lacking)}")
    named = [file["path"] for config in data.get("configs", ()) for file in config["data_files"]]
    if lost := [name for name in named if not (Path(folder) / name).is_file()]:
        raise ValueError(f"{path} names {', '.join(lost)}, which the folder lacks")
    return found
