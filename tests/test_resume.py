"""Runs that are killed, interrupted, or out of disk: real training in processes of its own, and real signals.

The model is real in all but size: a Llama of two layers with the base model's tokenizer, in NF4. A step takes
milliseconds, so that a run can be killed often. Lesson 3 stops and resumes the course's own model.
"""

import csv
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time

from elm_helpers import cli
from elm_helpers.paths import SAMPLE

import pytest
from safetensors.torch import load_file

STEPS = 20
WORDS = "--max-steps 20 --save-steps 6 --logging-steps 1 --batch-tokens 96 --bf16 false --disable-tqdm"


@pytest.fixture(scope="module")
def processes():
    """Makes processes that have imported everything but computed nothing, so that many starts cost little."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["elm_helpers.training", "elm_helpers.live"])
    return context


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, base_model, smol):
    """The folder of a base model with two layers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder, config = tmp_path_factory.mktemp("tiny"), AutoConfig.from_pretrained(base_model)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}
    for key, value in (shape | {"num_attention_heads": 4, "num_key_value_heads": 2}).items():
        setattr(config, key, value)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    smol.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with short training and evaluation rows."""
    folder = tmp_path_factory.mktemp("data")
    lines = (SAMPLE / "ecommerce_train.json").read_text(encoding="utf-8").splitlines()
    lines = sorted((line for line in lines if json.loads(line)["task"] == "categorization"), key=len)
    (folder / "train.json").write_text("\n".join(lines[:24]), encoding="utf-8")
    (folder / "eval.json").write_text("\n".join(lines[24:28]), encoding="utf-8")
    return folder


def train(words, model, log, prepare=None):
    """In a process of its own: be `elm train`, its output in a file."""
    from elm_helpers import base_model

    import torch

    torch.set_num_threads(1)  # threads that wait for one another are slow when a machine is busy
    sys.stdout = sys.stderr = open(log, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
    base_model.read_base_model = lambda hub_id, verbose: model
    if prepare:
        prepare()
    sys.exit(cli.main(["train", *words]))


class Trainer:
    """`elm train` on one folder, again and again."""

    def __init__(self, processes, tiny, data, folder):
        self.processes, self.tiny, self.folder, self.run, self.out = (
            processes,
            tiny,
            folder,
            folder / "run",
            folder / "elm",
        )
        self.words = ["--data", data / "train.json", "--eval-data", data / "eval.json", "--out", self.out]
        self.words = [*map(str, [*self.words, "--output-dir", self.run]), *WORDS.split()]

    def start(self, *words, prepare=None):
        log = self.folder / "log"
        process = self.processes.Process(target=train, args=([*self.words, *words], self.tiny, log, prepare))
        process.start()
        return process

    def finish(self, *words, prepare=None):
        """Return (exit code, what was printed since)."""
        log = self.folder / "log"
        before = log.stat().st_size if log.exists() else 0
        process = self.start(*words, prepare=prepare)
        process.join()
        return process.exitcode, log.read_text(encoding="utf-8")[before:]

    def wait_for_step(self, process, step):
        while process.is_alive() and not any(int(line["step"]) >= step for line in self.read_curve()):
            time.sleep(0.02)

    def read_curve(self):
        path = self.run / "training_history.csv"
        if not path.exists():
            return []
        with open(path, encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def read_losses(self):
        return [(line["step"], line["loss"], line["learning_rate"], line["grad_norm"]) for line in self.read_curve()]

    def read_adapter(self):
        return load_file(self.out / "adapter_model.safetensors")

    def read_summary(self):
        return json.loads((self.out / "training_summary.json").read_text(encoding="utf-8"))


def is_same(left, right):
    """Whether two adapters are equal bit for bit."""
    return left.keys() == right.keys() and all(left[name].equal(right[name]) for name in left)


@pytest.fixture(scope="module")
def whole(processes, tiny, data, tmp_path_factory):
    """A run that nothing disturbed."""
    trainer = Trainer(processes, tiny, data, tmp_path_factory.mktemp("whole"))
    code, said = trainer.finish()
    assert code == 0, said
    return trainer


def test_the_same_seed_gives_the_same_losses_and_the_same_adapter(whole, processes, tiny, data, tmp_path):
    again = Trainer(processes, tiny, data, tmp_path)
    assert again.finish()[0] == 0
    assert again.read_losses() == whole.read_losses()
    assert is_same(again.read_adapter(), whole.read_adapter())


def test_a_finished_run_keeps_curve_picture_and_record_and_no_checkpoint(whole):
    assert {path.name for path in whole.run.iterdir()} == {"run.json", "training_history.csv", "training.png"}
    curve = whole.read_curve()
    assert [line["step"] for line in curve] == [str(n) for n in range(1, STEPS + 1)]
    assert [line["step"] for line in curve if line["eval_loss"]] == ["6", "12", "18", "20"]
    assert int(curve[-1]["tokens"]) == whole.read_summary()["tokens"]
    assert all(float(line["memory_bytes"]) > 1e8 and float(line["tokens_per_second"]) > 0 for line in curve)
    seconds = [float(line["seconds"]) for line in curve]
    assert seconds == sorted(seconds) and seconds[-1] <= whole.read_summary()["seconds"] + 0.1


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_killed_at_random_points_ends_with_the_same_adapter_bit_for_bit(
    seed, whole, processes, tiny, data, tmp_path
):
    dice, trainer = random.Random(seed), Trainer(processes, tiny, data, tmp_path)
    words, kills = (), sorted(dice.sample(range(1, STEPS + 1), 2))
    for step in kills:
        process = trainer.start(*words)
        trainer.wait_for_step(process, step)
        time.sleep(dice.uniform(0, 0.4))
        process.kill()
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)
        words = ("--resume",)
        if process.exitcode == 0:  # it was too fast for the last kill
            break
    else:
        assert trainer.finish("--resume")[0] == 0
    assert trainer.read_losses() == whole.read_losses()
    assert is_same(trainer.read_adapter(), whole.read_adapter())
    ours, theirs = trainer.read_summary(), whole.read_summary()
    for key in ("tokens", "steps", "final_loss", "eval_loss", "rows", "status"):
        assert ours[key] == theirs[key], key
    assert ours["seconds"] > 0.3 * theirs["seconds"]


def die_at(name, call):
    """Make a function that makes the process kill itself in the middle of writing a checkpoint."""

    def prepare():
        from elm_helpers import trainer

        import torch
        from transformers import TrainerState

        owner = {"save": torch, "save_to_json": TrainerState, "rename": type(trainer.Path())}[name]
        real, seen = getattr(owner, name), []

        def deadly(*args, **more):
            inside = any(".part" in str(arg) for arg in args)
            seen.extend([1] if inside else [])
            if len(seen) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **more)

        setattr(owner, name, deadly)

    return prepare


class DieAt:
    """`die_at`, in a form that another process can be given."""

    def __init__(self, *place):
        self.place = place

    def __call__(self):
        die_at(*self.place)()


@pytest.mark.parametrize("place", [("save", 5), ("save_to_json", 2), ("rename", 2)])
def test_a_run_killed_inside_a_save_goes_on_from_the_checkpoint_before(place, whole, processes, tiny, data, tmp_path):
    trainer = Trainer(processes, tiny, data, tmp_path)
    code, said = trainer.finish(prepare=DieAt(*place))
    assert code == -signal.SIGKILL, said
    assert [path.name for path in trainer.run.glob("checkpoint-*")] == ["checkpoint-6"]
    assert (trainer.run / ".part" / "checkpoint-12").is_dir()
    assert trainer.finish("--resume")[0] == 0
    assert trainer.read_losses() == whole.read_losses()
    assert is_same(trainer.read_adapter(), whole.read_adapter())


def test_ctrl_c_ends_after_the_step_with_the_adapter_saved_and_can_go_on(whole, processes, tiny, data, tmp_path):
    trainer = Trainer(processes, tiny, data, tmp_path)
    process = trainer.start()
    trainer.wait_for_step(process, 4)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    said = (tmp_path / "log").read_text(encoding="utf-8")
    assert process.exitcode == 1, said
    assert "Stopping after this step" in said
    assert "Traceback" not in said
    summary = trainer.read_summary()
    assert summary["status"] == "stopped" and 4 <= summary["steps"] < STEPS
    assert f"stopped at step {summary['steps']}" in said.splitlines()[-1]
    assert trainer.read_curve()[-1]["step"] == str(summary["steps"])
    assert not is_same(trainer.read_adapter(), whole.read_adapter())
    assert trainer.finish("--resume")[0] == 0
    assert trainer.read_losses() == whole.read_losses()
    assert is_same(trainer.read_adapter(), whole.read_adapter())


class RiseAfterTheFirst:
    """The loss of the watched rows is lowest at the first look."""

    def __call__(self):
        from elm_helpers import trainer

        looks = iter(range(1, 100))
        trainer.compute_eval_loss = lambda *_: float(next(looks))


def test_ctrl_c_saves_the_adapter_of_the_lowest_held_out_loss(processes, tiny, data, tmp_path):
    trainer = Trainer(processes, tiny, data, tmp_path)
    process = trainer.start(prepare=RiseAfterTheFirst())
    trainer.wait_for_step(process, 7)
    best = load_file(trainer.run / "checkpoint-6" / "adapter_model.safetensors")
    os.kill(process.pid, signal.SIGINT)
    process.join()
    summary = trainer.read_summary()
    assert summary["kept_step"] == 6 < summary["steps"] < 12
    kept = trainer.read_adapter()
    last = load_file(trainer.run / f"checkpoint-{summary['steps']}" / "adapter_model.safetensors")
    assert is_same(kept, {name: weight.to(kept[name].dtype) for name, weight in best.items()})
    assert not is_same(kept, {name: weight.to(kept[name].dtype) for name, weight in last.items()})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--learning-rate", "2e-3"), "was started with learning_rate = 0.001, not 0.002"),
        (("--batch-tokens", "128"), "was started with batch_tokens = 96, not 128"),
        ((), "has finished"),
    ],
)
def test_resuming_otherwise_is_refused_in_one_line(words, said, whole, processes, tiny, tmp_path):
    if words:  # as if it had not ended
        record = json.loads((whole.run / "run.json").read_text(encoding="utf-8"))
        other = Trainer(processes, tiny, tmp_path, tmp_path)
        other.run.mkdir()
        (other.run / "run.json").write_text(json.dumps(record | {"status": "started"}), encoding="utf-8")
        other.words[:4] = whole.words[:4]
    else:
        other = whole
    code, printed = other.finish("--resume", *words)
    assert code == 2
    assert said in printed.splitlines()[-1]
    assert "Traceback" not in printed


def test_nothing_to_resume_is_said_in_one_line_before_anything_is_loaded(tmp_path, capsys):
    assert cli.main(["train", "--resume", "--out", str(tmp_path / "elm")]) == 2
    assert "nothing to resume" in capsys.readouterr().err


class LimitFiles:
    """No file may grow over so many bytes: a full disk, as far as a program can tell."""

    def __init__(self, size):
        self.size = size

    def __call__(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


@pytest.mark.parametrize("size", [100_000, 1_000_000])  # less than the adapter; less than the tokenizer
def test_a_full_disk_gives_one_line_keeps_the_last_good_checkpoint_and_the_run_goes_on(
    size, whole, processes, tiny, data, tmp_path
):
    trainer = Trainer(processes, tiny, data, tmp_path)
    process = trainer.start()
    trainer.wait_for_step(process, 8)
    process.kill()
    process.join()
    code, said = trainer.finish("--resume", prepare=LimitFiles(size))
    assert code == 1
    assert "can't be written" in said.splitlines()[-1]
    assert f"the last good checkpoint is {trainer.run / 'checkpoint-6'}" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not (trainer.run / ".part").exists()
    assert trainer.finish("--resume")[0] == 0
    assert is_same(trainer.read_adapter(), whole.read_adapter())


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_old_adapter(whole, processes, tiny, data, tmp_path):
    trainer = Trainer(processes, tiny, data, tmp_path)
    trainer.out.mkdir()
    (trainer.out / "old").touch()
    code, said = trainer.finish("--learning-rate", "1e30", "--warmup-steps", "0", "--max-grad-norm", "0")
    assert code == 2
    assert "the loss is nan" in said.splitlines()[-1]
    assert [path.name for path in trainer.out.iterdir()] == ["old"]


def test_a_disk_that_fills_up_at_the_end_leaves_the_old_adapter(processes, tiny, data, tmp_path):
    trainer = Trainer(processes, tiny, data, tmp_path)
    trainer.out.mkdir()
    (trainer.out / "old").touch()
    code, said = trainer.finish("--save-strategy", "no", prepare=LimitFiles(100_000))
    assert code == 1
    assert f"{trainer.out} can't be written" in said.splitlines()[-1]
    assert "no checkpoint was written yet" in said.splitlines()[-1]
    assert [path.name for path in trainer.out.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
