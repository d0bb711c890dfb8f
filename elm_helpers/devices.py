"""One device or many: what `accelerate launch` changes. On one device, every function here changes nothing."""

import os

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list


def is_sharded() -> bool:
    """Return whether `accelerate launch` was told to spread the weights themselves over the devices.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    return any(os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("FSDP", "DEEPSPEED"))


def agree(value):
    """Return the first process's value in every process: what is measured, or read off a clock, may differ.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    PartialState(cpu=not torch.cuda.is_available())  # joins the other processes, if there are any
    return broadcast_object_list([value])[0]


def leave_devices() -> None:
    """Say goodbye to the other devices, so that none of them waits for this one.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    PartialState().destroy_process_group()


def gather_adapter(trainer) -> dict[str, torch.Tensor]:
    """Return the adapter's weights in bf16, gathered from the devices that they lie on; every device has to ask.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return {name: weight.to(torch.bfloat16) for name, weight in weights.items() if "lora_" in name}


def sum_devices(trainer, number: int) -> int:
    """Return the sum of a number over the devices.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    return int(trainer.accelerator.reduce(torch.tensor(number, device=trainer.accelerator.device)))
