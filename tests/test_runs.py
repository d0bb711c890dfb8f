"""Runs are kept apart, say what went into them, go on only as they began, and can be compared."""

import json
import subprocess
import sys

from elm_helpers import runs
from elm_helpers.curves import write_history

import pytest

ROWS, HELD_OUT = [{"id": 1, "messages": []}, {"id": 2, "messages": []}], [{"id": 3, "messages": []}]


def describe(out, rows=ROWS, **config):
    return runs.describe_run(
        out, "base/model", {"learning_rate": 1e-3, "seed": 0, "warmup": None} | config, rows, HELD_OUT
    )


def open_two(folder, rows=ROWS, **config):
    """Start a run and resume it with something changed."""
    runs.open_run(folder, describe(folder / "elm"), resume=False)
    return runs.open_run(folder, describe(folder / "elm", rows, **config), resume=True)


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path):
    names = []
    for _ in range(3):
        folder = runs.name_run("elm", tmp_path)
        folder.mkdir()
        names.append(folder.name)
    assert len(set(names)) == 3
    assert all("-elm" in name for name in names)


def test_a_run_says_its_config_versions_seed_and_data(tmp_path):
    runs.open_run(tmp_path / "run", describe(tmp_path / "elm"), resume=False)
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["config"] == {"base_model": "base/model", "learning_rate": 1e-3, "seed": 0, "warmup": None}
    assert record["data"] == {"rows": runs.hash_rows(ROWS), "eval_rows": runs.hash_rows(HELD_OUT)}
    assert {"torch", "transformers", "trl", "peft"} <= set(record["versions"])


def test_the_hash_of_rows_sees_a_letter_a_missing_row_and_the_order():
    hashes = {
        runs.hash_rows(rows) for rows in (ROWS, ROWS[::-1], ROWS[:1], [*ROWS[:1], {"id": 2, "messages": ["x"]}], [])
    }
    assert len(hashes) == 5


def test_a_new_run_never_takes_the_folder_of_another(tmp_path):
    runs.open_run(tmp_path, describe(tmp_path / "elm"), resume=False)
    with pytest.raises(ValueError, match="holds a run already"):
        runs.open_run(tmp_path, describe(tmp_path / "elm"), resume=False)


def test_a_run_goes_on_as_it_began_from_its_last_whole_checkpoint(tmp_path):
    assert open_two(tmp_path) is None
    for name in ("checkpoint-9", "checkpoint-10", ".part/checkpoint-11"):
        (tmp_path / name).mkdir(parents=True)
    assert runs.open_run(tmp_path, describe(tmp_path / "elm"), resume=True) == tmp_path / "checkpoint-10"
    assert not (tmp_path / ".part").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rate": 2e-3}, "was started with learning_rate = 0.001, not 0.002"),
        ({"adam_beta2": 0.95}, "was started with adam_beta2 = None, not 0.95"),
        ({"rows": ROWS[:1]}, "was started with other rows"),
    ],
)
def test_a_run_does_not_go_on_otherwise_than_it_began(tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        open_two(tmp_path, **change)


def test_a_finished_run_does_not_go_on_and_loses_its_checkpoint(tmp_path):
    runs.open_run(tmp_path, describe(tmp_path / "elm"), resume=False)
    (tmp_path / "checkpoint-10").mkdir()
    runs.close_run(tmp_path, {"status": "stopped"})
    assert runs.open_run(tmp_path, describe(tmp_path / "elm"), resume=True) == tmp_path / "checkpoint-10"
    runs.close_run(tmp_path, {"status": "finished"})
    assert runs.find_checkpoint(tmp_path) is None
    with pytest.raises(ValueError, match="has finished"):
        runs.open_run(tmp_path, describe(tmp_path / "elm"), resume=True)


def test_the_newest_run_of_an_adapter_is_found_and_none_is_said_in_one_line(tmp_path):
    for name, out in (("20260101-000000-a", "a"), ("20260102-000000-a", "a"), ("20260103-000000-b", "b")):
        runs.open_run(tmp_path / name, describe(tmp_path / out), resume=False)
    assert runs.find_run(tmp_path / "a", tmp_path).name == "20260102-000000-a"
    with pytest.raises(FileNotFoundError, match="holds no run of .*nothing to resume") as error:
        runs.find_run(tmp_path / "c", tmp_path)
    assert "\n" not in str(error.value)


def test_the_table_shows_only_what_differs_and_what_came_of_it(tmp_path):
    for name, rate in (("one", 1e-3), ("two", 1e-4)):
        runs.open_run(tmp_path / name, describe(tmp_path / "elm", learning_rate=rate), resume=False)
        write_history([{"step": 5, "loss": 2.0}], tmp_path / name / "training_history.csv")
    runs.close_run(tmp_path / "one", {"status": "finished", "steps": 5, "final_loss": 0.5})
    found = runs.read_runs(tmp_path)
    assert [run["history"] for run in found] == [[{"step": 5.0, "loss": 2.0}]] * 2
    head, first, second = runs.format_runs(found).splitlines()
    assert head.split() == ["run", "learning_rate", "status", "steps", "tokens_per_second", "final_loss", "eval_loss"]
    assert first.split() == ["one", "0.001", "finished", "5", "–", "0.5", "–"]
    assert second.split()[:3] == ["two", "0.0001", "started"]


def test_a_read_only_folder_gives_one_clear_line(tmp_path):
    """In a process without root's rights, which would write anywhere."""
    tmp_path.chmod(0o555)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    code = f"""
import os, sys
sys.path.insert(0, {str(runs.OUTPUTS.parent)!r})
from pathlib import Path
from elm_helpers import runs
os.getuid() or os.setuid(65534)
runs.open_run(Path({str(tmp_path)!r}) / "run", {{}}, resume=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].startswith(f"PermissionError: {tmp_path / 'run'} can't be written")
    assert "no checkpoint was written yet" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("file write failed")])
def test_a_full_disk_names_the_last_good_checkpoint_and_leaves_no_part(tmp_path, error):
    for name in ("checkpoint-50", ".part/checkpoint-100"):
        (tmp_path / name).mkdir(parents=True)
    with (
        pytest.raises(OSError, match="the last good checkpoint is .*checkpoint-50: make room"),
        runs.explain_disk(tmp_path, tmp_path),
    ):
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-50"]


def test_a_reporter_that_is_not_installed_is_named_in_one_line():
    runs.check_reporters(["json"])  # any installed package
    with pytest.raises(ValueError, match="report_to: trackio2 is not installed; pip install trackio2"):
        runs.check_reporters(["json", "trackio2"])
