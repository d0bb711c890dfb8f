"""The live view: one picture that redraws itself in a notebook, one bar elsewhere, and warnings said once."""

from elm_helpers import live

import matplotlib.pyplot as plt
import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments


class Kernel:
    """Stands for the notebook's shell; it has a kernel, as only a notebook's has."""

    kernel = True


class Handle:
    def __init__(self, shown):
        self.shown = shown

    def update(self, image):
        self.shown.append(image)


@pytest.fixture
def notebook(monkeypatch):
    """Pretend to be in a notebook; gives the list of what is shown there."""
    shown = []
    monkeypatch.setattr(live, "get_ipython", Kernel)
    monkeypatch.setattr(live, "display", lambda image, display_id: shown.append(image) or Handle(shown))
    return shown


def follow(folder, losses, seconds=0.0, main=True, **options):
    """Drive a live plot as the trainer would, two steps a loss."""
    plot, control = live.build_live_plot(seconds), TrainerControl()
    state = TrainerState(max_steps=2 * len(losses), is_world_process_zero=main)
    args = TrainingArguments(output_dir=str(folder), use_cpu=True, bf16=False, **options)
    plot.on_train_begin(args, state, control)
    for loss in losses:
        for _ in range(2):
            state.global_step += 1
            plot.on_step_end(args, state, control)
        logs = {
            "loss": loss,
            "learning_rate": 1e-3,
            "grad_norm": 1.0,
            "tokens_per_second": 312.0,
            "memory_bytes": 2.7e9,
        }
        state.log_history.append(logs | {"step": state.global_step})
        plot.on_log(args, state, control, logs=logs)
    state.log_history.append({"train_runtime": 1.0, "step": state.global_step})
    plot.on_log(args, state, control, logs={"train_runtime": 1.0})
    plot.on_train_end(args, state, control)


def test_outside_a_notebook_a_bar_shows_the_numbers_and_the_time_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(live, "display", lambda *a, **k: pytest.fail("it displayed"))
    follow(tmp_path, [2.0, 1.0, 0.5])
    shown = capsys.readouterr().err
    assert "6/6" in shown and "<" in shown  # tqdm's elapsed<remaining
    assert "loss 0.50, rate 1.0e-03, gradient 1.0, 312 tokens/s, 2.7 GB" in shown


def test_disable_tqdm_keeps_it_quiet(tmp_path, capsys):
    follow(tmp_path, [2.0, 1.0], disable_tqdm=True)
    assert capsys.readouterr() == ("", "")


def test_in_a_notebook_one_display_redraws_itself_at_most_once_a_second_and_leaves_the_last_state(tmp_path, notebook):
    follow(tmp_path, [2.0, 1.0, 0.5, 0.4], seconds=60)
    assert len(notebook) == 2  # the first, and the one at the end
    assert all(len(image.data) < 150_000 for image in notebook)
    assert notebook[0].alt.startswith("step 2 of 8, ") and "min left: loss 2.00" in notebook[0].alt
    assert plt.get_fignums() == []


def test_the_picture_is_kept_with_the_run(tmp_path):
    follow(tmp_path, [2.0, 1.0], disable_tqdm=True)
    assert [path.name for path in tmp_path.iterdir()] == ["training.png"]
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")


def test_what_looks_wrong_is_said_once(tmp_path, capsys):
    follow(tmp_path, [2.0, 0.0, 0.0, 0.0], disable_tqdm=True)
    assert capsys.readouterr().out.count("Warning: step 4: the loss is 0") == 1


def test_only_the_first_of_several_devices_shows_or_keeps_anything(tmp_path, capsys):
    follow(tmp_path, [2.0, 0.0], main=False)
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
