"""Many devices: the ready configurations, two real processes that train as one, and a process that is killed."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from elm_helpers.paths import ROOT, SAMPLE

import psutil
import pytest

CONFIGS = sorted((ROOT / "data" / "accelerate").glob("*.yaml"))
LAUNCH = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
TWO = [*LAUNCH, "--config_file", str(ROOT / "data" / "accelerate" / "two_cpus.yaml"), "--main_process_port", "0"]
# One thread a process on both sides, or else the same product is summed in another order. Plain SGD at a constant rate:
# Adam would hide a gradient of the wrong size, and a warm-up's first step changes nothing.
TRAIN = shlex.split(
    "-m elm_helpers train --max-steps 2 --logging-steps 1 --warmup-steps 0 --lr-scheduler-type constant "
    "--optim sgd --learning-rate 0.5"
)
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
configs = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def read_commands(path: Path) -> list[list[str]]:
    """Return the commands that a configuration's comments show, `…` completed by the one before."""
    found = []
    for line in re.findall(r"^# +((?:accelerate launch|…) .*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
        words = shlex.split(line)
        if words[0] == "…":
            at = found[0].index("-m")
            words = [*found[0][:at], *words[1:], *found[0][at:]]
        found.append(words)
    return found


def prepare(words: list[str]) -> tuple:
    """Return accelerate's own reading of a command, and the environment that it gives the processes."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    args.deepspeed_fields_from_accelerate_config = "zero_stage"
    return args, prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)


def test_there_is_a_configuration_for_each_way_of_training():
    assert [path.stem for path in CONFIGS] == ["ddp", "deepspeed_zero3", "fsdp_qlora", "two_cpus"]


@configs
def test_accelerate_reads_the_configuration(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes >= 2
    assert config.machine_rank == 0


@configs
def test_the_commands_in_the_comments_are_commands(path, monkeypatch):
    from elm_helpers.cli import build_parser
    from elm_helpers.commands import parse_overrides

    monkeypatch.chdir(ROOT)
    commands = read_commands(path)
    assert commands
    for words in commands:
        assert words[:2] == ["accelerate", "launch"]
        args, _ = prepare(words[2:])
        assert args.module and args.training_script == "elm_helpers"
        assert Path(args.config_file).resolve() == path
        _, rest = build_parser().parse_known_args(args.training_script_args)
        parse_overrides(rest)


def test_the_lesson_shows_the_same_commands():
    lesson = (ROOT / "notebooks" / "03_train_qlora.ipynb").read_text(encoding="utf-8")
    shown = [shlex.split(line) for line in re.findall(r'"(accelerate launch .*?)\\n"', lesson)]
    assert shown == [read_commands(ROOT / words[3])[0] for words in shown]
    assert sorted(Path(words[3]).name for words in shown) == [path.name for path in CONFIGS]


def test_two_machines_differ_in_their_rank_alone(monkeypatch):
    monkeypatch.chdir(ROOT)
    path = ROOT / "data" / "accelerate" / "ddp.yaml"
    first, second = (prepare(words[2:])[0] for words in read_commands(path)[1:])
    assert (first.machine_rank, second.machine_rank) == (0, 1) or (first.node_rank, second.node_rank) == (0, 1)
    assert first.num_machines == second.num_machines == 2
    assert first.main_process_ip == second.main_process_ip


@configs
def test_weights_that_are_spread_are_stored_as_floats(path, monkeypatch):
    """The environment that accelerate sets for its processes is what `is_sharded` looks at."""
    from elm_helpers import devices, training

    import torch

    monkeypatch.chdir(ROOT)
    for name, value in prepare(read_commands(path)[0][2:])[1].items():
        monkeypatch.setenv(name, value)
    spread = path.stem in ("fsdp_qlora", "deepspeed_zero3")
    assert devices.is_sharded() == spread
    stored = training.build_quantization(torch.bfloat16).bnb_4bit_quant_storage
    assert stored == (torch.bfloat16 if spread else torch.uint8)


def test_the_fsdp_plugin_takes_the_configuration(monkeypatch):
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import ShardingStrategy, StateDictType

    monkeypatch.chdir(ROOT)
    words = read_commands(ROOT / "data" / "accelerate" / "fsdp_qlora.yaml")[0]
    for name, value in prepare(words[2:])[1].items():
        monkeypatch.setenv(name, value)
    # These two look for a GPU at once; all the rest comes from the file.
    plugin = FullyShardedDataParallelPlugin(sync_module_states=False, cpu_ram_efficient_loading=False)
    assert plugin.fsdp_version == 1 and plugin.use_orig_params is False
    assert plugin.sharding_strategy == ShardingStrategy.FULL_SHARD
    assert plugin.state_dict_type == StateDictType.FULL_STATE_DICT


def test_four_bit_weights_stored_as_floats_compute_the_same():
    import torch
    from bitsandbytes.nn import Linear4bit

    torch.manual_seed(0)
    weight, inputs = torch.randn(64, 128), torch.randn(3, 128)
    outputs = []
    for storage in (torch.uint8, torch.bfloat16):
        layer = Linear4bit(128, 64, bias=False, quant_type="nf4", quant_storage=storage, compute_dtype=torch.float32)
        layer.load_state_dict({"weight": weight})
        layer.to("cpu")
        assert layer.weight.dtype == storage
        outputs.append(layer(inputs))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("rows", [40, 41, 47])
def test_every_device_gets_batches_of_its_own(rows):
    from elm_helpers.batches import TokenBudgetSampler

    from accelerate.data_loader import BatchSamplerShard

    def deal(epoch):
        sampler = TokenBudgetSampler([50] * rows, 150, seed=0)
        sampler.set_epoch(epoch)
        return [list(BatchSamplerShard(sampler, 2, rank)) for rank in range(2)]

    first, second = deal(0)
    assert len(first) == len(second), "a device with fewer batches would leave the other one waiting"
    assert {row for batch in first + second for row in batch} == set(range(rows))
    twice = len(first + second) - len(list(TokenBudgetSampler([50] * rows, 150, seed=0)))
    assert twice <= 1, "only the last step may be filled up"
    assert deal(1) != [first, second]


def write_rows(folder: Path, count: int = 24) -> list[str]:
    """Write a few rows of both kinds, and return the options that name them."""
    words = []
    for option, name, size in (("--data", "train", count), ("--eval-data", "eval", 4)):
        lines = (SAMPLE / f"ecommerce_{name}.json").read_text(encoding="utf-8").splitlines()[:size]
        (folder / f"{name}.json").write_text("\n".join(lines), encoding="utf-8")
        words += [option, str(folder / f"{name}.json")]
    return words


@pytest.fixture(scope="module")
def one_and_two(base_model, tmp_path_factory):
    """The same command on one process, two batches a step, and on two, one batch each: (folder, what it printed)."""
    folder = tmp_path_factory.mktemp("devices")
    rows, found = write_rows(folder), []
    for name, launcher, more in (
        ("one", [sys.executable], ["--gradient-accumulation-steps", "2"]),
        ("two", TWO, []),
    ):
        command = [
            *launcher,
            *TRAIN,
            *rows,
            "--out",
            str(folder / name),
            "--output-dir",
            str(folder / f"{name}-run"),
            *more,
        ]
        done = subprocess.run(command, cwd=folder, env=ENV, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append((folder / name, done.stdout))
    return found


def read_losses(folder: Path) -> list[float]:
    with open(folder / "training_history.csv", encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_two_processes_reach_the_losses_of_one(one_and_two):
    (one, _), (two, _) = one_and_two
    expected = read_losses(one)
    assert len(expected) == 2
    assert expected[0] != pytest.approx(expected[1], abs=0.01), "the two steps look alike, so nothing was tested"
    assert read_losses(two) == pytest.approx(expected, abs=1e-3)
    summaries = [json.loads((out / "training_summary.json").read_text(encoding="utf-8")) for out in (one, two)]
    assert summaries[0]["tokens"] == summaries[1]["tokens"] > 1000
    assert summaries[1]["eval_loss"] == pytest.approx(summaries[0]["eval_loss"], abs=1e-3)


def test_two_processes_write_the_adapter_of_one(one_and_two):
    import torch
    from safetensors.torch import load_file

    one, two = (load_file(out / "adapter_model.safetensors") for out, _ in one_and_two)
    assert one.keys() == two.keys()
    ones, twos = (
        torch.cat([weights[name].float().flatten() for name in one if "lora_B" in name]) for weights in (one, two)
    )
    assert ones.norm() > 0, "B starts at zero: nothing was trained"
    assert (ones - twos).norm() / ones.norm() < 0.01


def test_only_the_first_process_prints_and_writes(one_and_two):
    (one, said_alone), (two, said) = one_and_two
    assert said.count("adapter in") == said.count("Base model") == said_alone.count("Base model") == 1
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    assert [path.name for path in two.parent.iterdir() if path.name.startswith(".")] == []


def test_a_killed_process_ends_the_job_with_a_message(base_model, tmp_path):
    command = [*TWO, *TRAIN, *write_rows(tmp_path), "--out", str(tmp_path / "elm"), "--max-steps", "500"]
    command += ["--output-dir", str(tmp_path / "run")]
    with open(tmp_path / "said", "w+", encoding="utf-8") as said:
        job = subprocess.Popen(command, cwd=tmp_path, env=ENV, stdout=said, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 240
            while "| 1/500 [" not in (tmp_path / "said").read_text(encoding="utf-8"):
                assert job.poll() is None and time.monotonic() < deadline, (tmp_path / "said").read_text("utf-8")
                time.sleep(0.2)
            workers = [child for child in psutil.Process(job.pid).children() if child.environ().get("RANK")]
            assert len(workers) == 2
            next(worker for worker in workers if worker.environ()["RANK"] == "1").kill()
            assert job.wait(timeout=90) != 0
            assert not psutil.wait_procs(workers, timeout=10)[1], "a process was left behind"
        finally:
            for process in (*psutil.Process(job.pid).children(), job) if job.poll() is None else ():
                process.kill()
    text = (tmp_path / "said").read_text(encoding="utf-8")
    assert re.search(r"rank +: 1 ", text) and "SIGKILL" in text, text[-2000:]
    assert not (tmp_path / "elm").exists()
