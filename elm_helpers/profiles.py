"""The two sizes of the course: a 2-core CPU that everybody has, and a GPU with 16 GB or more. One switch."""

from dataclasses import dataclass

import yaml


@dataclass(frozen=True)
class Profile:
    """What differs between the sizes; everything else in the course is the same code.

    Attributes:
        name: ``cpu`` or ``gpu``.
        base_model: Hub id of the base model.
        output: Folder under ``outputs/`` that the trained adapter goes to.
        lora_rank: Rank r of the LoRA matrices.
        lora_alpha: Scale of the adapter; the update is multiplied by alpha / r.
        learning_rate: Peak of the schedule.
        epochs: Passes over the rows.
        batch_tokens: Tokens in a batch; bounds the memory of a step. A longer row is a batch of its own.
        max_length: Tokens kept of a row; preflight refuses longer answers.
        activation_checkpointing: Recompute activations in the backward pass to save memory.
        optimizer: Name of the optimizer in `TrainingArguments`.
        attention: Attention implementation: eager is fastest for short rows on a CPU.
    """

    name: str
    base_model: str
    output: str
    lora_rank: int
    lora_alpha: int
    learning_rate: float
    epochs: float
    batch_tokens: int
    max_length: int
    activation_checkpointing: bool
    optimizer: str
    attention: str


PROFILES = {
    "cpu": Profile(
        name="cpu",
        base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
        output="elm-smollm2-135m",
        lora_rank=16,
        lora_alpha=32,
        learning_rate=1e-3,
        epochs=1,
        batch_tokens=320,
        max_length=768,
        activation_checkpointing=False,
        optimizer="adamw_torch",
        attention="eager",
    ),
    "gpu": Profile(
        name="gpu",
        base_model="meta-llama/Llama-3.1-8B-Instruct",
        output="elm-llama-8b",
        lora_rank=16,
        lora_alpha=32,
        learning_rate=2e-4,
        epochs=1,
        batch_tokens=4096,
        max_length=1024,
        activation_checkpointing=True,
        optimizer="paged_adamw_8bit",
        attention="sdpa",
    ),
}


def parse_overrides(words: list[str]) -> dict:
    """Return SFTConfig fields from ``--name value`` pairs; a flag without a value is True.

    Raises:
        ValueError: A word is no SFTConfig field.

    Example:
        >>> parse_overrides(["--learning-rate", "2e-4", "--max-steps", "10"])
        {'learning_rate': 0.0002, 'max_steps': 10}

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    from dataclasses import fields

    from trl import SFTConfig

    known, found, name = {field.name for field in fields(SFTConfig)}, {}, None
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            name = name.replace("-", "_")
            if name not in known:
                raise ValueError(f"{word}: no such option, and SFTConfig has no such field")
            found[name] = read_value(value) if value else True
        elif name is None:
            raise ValueError(f"{word!r}: an SFTConfig field is given as --name value")
        else:
            found[name] = read_value(word)
    return found


def read_value(word: str):
    """Return a word of the command line as number, bool, list or text; "no" is text, as in ``--save-strategy no``.

    Example:
        >>> [read_value(word) for word in ("2e-4", "10", "false", "no", "steps")]
        [0.0002, 10, False, 'no', 'steps']

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    try:
        return float(word) if "e" in word.lower() else word if word == "no" else yaml.safe_load(word)
    except ValueError:
        return yaml.safe_load(word)
