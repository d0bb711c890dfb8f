"""What a run logs: a history that survives a file, and warnings that come when something is wrong, and only then."""

from elm_helpers import curves

import pytest
from hypothesis import given
from hypothesis import strategies as st

FALLING = [{"step": 5 * n, "loss": 3 / n + 0.3, "grad_norm": 1.2} for n in range(1, 30)]


def test_a_history_is_read_back_as_it_was_written(tmp_path):
    log = [
        {"step": 5, "loss": 2.5, "learning_rate": 1e-3, "grad_norm": 1.0, "tokens": 700, "seconds": 2.0, "epoch": 0.1},
        {"step": 5, "eval_loss": 2.75, "epoch": 0.1},
        {"step": 10, "loss": 1.5, "learning_rate": 0.0, "memory_bytes": 10**9, "tokens_per_second": 300.5},
        {"step": 10, "train_runtime": 9.0},
    ]
    curves.write_history(log, tmp_path / "training_history.csv")
    first, second = curves.read_history(tmp_path)
    assert first == {"step": 5, "loss": 2.5, "eval_loss": 2.75, "learning_rate": 1e-3, "grad_norm": 1.0} | {
        "tokens": 700,
        "seconds": 2.0,
    }
    assert second == {"step": 10, "loss": 1.5, "learning_rate": 0, "memory_bytes": 1e9, "tokens_per_second": 300.5}
    assert [path.name for path in tmp_path.iterdir()] == ["training_history.csv"]


@given(st.lists(st.floats(min_value=1e-6, allow_infinity=False), min_size=1, max_size=20))
def test_losses_survive_the_file_to_the_last_bit(tmp_path_factory, losses):
    folder = tmp_path_factory.mktemp("history")
    curves.write_history([{"step": n, "loss": loss} for n, loss in enumerate(losses)], folder / "training_history.csv")
    assert [line["loss"] for line in curves.read_history(folder)] == losses


def test_the_reference_run_gives_no_alarm_at_any_step(reference):
    history = curves.read_history(reference)
    assert len(history) > 100
    assert [end for end in range(1, len(history) + 1) if curves.find_trouble(history[:end])] == []


@pytest.mark.parametrize(
    ("line", "name", "said"),
    [
        ({"loss": float("nan")}, "nan", "the loss is nan. Lower the learning rate"),
        ({"loss": float("inf")}, "nan", "the loss is inf"),
        ({"loss": 0.0}, "zero", "Does any token bear loss?"),
        ({"loss": 0.4, "grad_norm": 80.0}, "explosion", "the gradient's length is 80, the usual 1.2"),
    ],
)
def test_what_is_wrong_is_said_in_words_with_its_step(line, name, said):
    assert curves.find_trouble(FALLING) == {}
    found = curves.find_trouble([*FALLING, {"step": 150} | line])
    assert list(found) == [name]
    assert said in found[name]
    assert found[name].startswith("step 150: ")


@pytest.mark.parametrize("losses", [[2.5, 2.4, 2.6] * 5, [2.0 + 0.1 * n for n in range(15)], [1.0] + [9.0] * 14])
def test_a_loss_that_stays_or_rises_is_called_flat(losses):
    found = curves.find_trouble([{"step": n, "loss": loss} for n, loss in enumerate(losses)])
    assert "no lower than at the start" in found["flat"]


def test_a_few_steps_are_no_reason_for_an_alarm():
    assert curves.find_trouble([{"step": n, "loss": 2.5} for n in range(8)]) == {}
    assert curves.find_trouble([]) == {}
