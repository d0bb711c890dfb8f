"""The two sizes of the course: a 2-core CPU that everybody has, and a GPU with 16 GB or more. One switch."""

from dataclasses import dataclass


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
