"""The commands for other machines: the scripts run with stand-ins for what isn't here; the real tools parse the rest.

accelerate's own parser reads what the Slurm script starts, the `hf` command prints the job that it would start, and
`elm`'s parser reads every `elm` command.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from elm_helpers.cli import build_parser
from elm_helpers.commands import parse_overrides
from elm_helpers.paths import ROOT
from elm_helpers.profiles import PROFILES

import pytest
from test_devices import prepare
from test_notebooks import REPOSITORY

FOLDER = ROOT / "data" / "launch"
SCRIPTS = ["hf_job.sh", "serve_vllm.sh", "two_nodes.sbatch"]
GPU = PROFILES["gpu"]


def read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def put_stand_ins(folder, **scripts) -> dict[str, str]:
    """Write commands that aren't installed here, and return the environment in which they come first."""
    for name, body in scripts.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


def run(name: str, environment: dict[str, str], *more: str) -> str:
    done = subprocess.run(
        ["bash", str(FOLDER / name), *more], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_elm(words: list[str]) -> None:
    """Fail unless `elm` has the command and its options."""
    args, rest = build_parser().parse_known_args(words)
    assert args.run
    if words[0] == "train":
        parse_overrides(rest)
    else:
        assert not rest


def test_the_folder_holds_these_files_and_each_says_how_it_is_used():
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted([*SCRIPTS, "router.conf"])
    for path in FOLDER.iterdir():
        assert f"data/launch/{path.name}" in read(path.name), path.name


@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_can_read_the_script(name):
    assert subprocess.run(["bash", "-n", str(FOLDER / name)]).returncode == 0
    assert "set -euo pipefail" in read(name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_elm_commands_and_paths_of_the_script_exist(name):
    found = re.findall(r"(?:\.venv/bin/elm|-m elm_helpers) ([a-z]\w*(?: [^&'\n]*)?)", read(name))
    assert found
    for line in found:
        check_elm([word for word in shlex.split(line.replace('"$@"', "").replace('"', "")) if word])
    for path in re.findall(r"\b(?:data|outputs)/[\w/.-]+\w", read(name)):
        assert (ROOT / path).exists() or path in (f"outputs/{GPU.output}", "outputs/slurm"), path


@pytest.mark.parametrize(("config", "more"), [("ddp", []), ("fsdp_qlora", ["--optim", "adamw_torch"])])
def test_slurm_starts_accelerate_on_each_machine_with_another_rank(config, more, tmp_path, monkeypatch):
    environment = put_stand_ins(
        tmp_path,
        scontrol="echo node-a; echo node-b",
        srun='shift; for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
        accelerate='for word in "$@"; do printf "%s\\n" "$word"; done; echo --end--',
    )
    environment |= {"SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_NNODES": "2", "CONFIG": config}
    environment["ACCELERATE"] = str(tmp_path / "accelerate")
    first, second = (
        part.split("\n")[:-1] for part in run("two_nodes.sbatch", environment, *more).split("--end--\n")[:2]
    )
    assert [first[0], second[0]] == ["launch", "launch"]
    monkeypatch.chdir(ROOT)
    args = [prepare(words[1:])[0] for words in (first, second)]
    assert [int(arg.machine_rank) for arg in args] == [0, 1]
    assert {(arg.num_machines, arg.num_processes, arg.main_process_ip) for arg in args} == {(2, 8, "node-a")}
    assert args[0].config_file == f"data/accelerate/{config}.yaml" and args[0].module
    assert args[0].training_script_args == ["train", "--profile", "gpu", *more]
    assert first == [word if word != "1" else "0" for word in second]


def test_slurm_asks_for_as_many_gpus_as_the_script_counts():
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", read("two_nodes.sbatch"), re.MULTILINE))
    assert (asked["nodes"], asked["ntasks-per-node"]) == ("2", "1")
    assert f"GPUS={asked['gpus-per-node']} " in read("two_nodes.sbatch")


def test_hugging_faces_own_client_takes_the_job():
    """`hf jobs run --dry-run` resolves the job and sends nothing."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # `hf` lies beside this Python
    environment = os.environ | {"HF_TOKEN": "not-a-token", "HF_HUB_OFFLINE": "1", "PATH": path}
    said = run("hf_job.sh", environment, "--dry-run", "--namespace", "somebody")
    assert "Job not submitted" in said and "HF_TOKEN=***" in said
    assert re.search(r"flavor +a100-large\n", said) and re.search(r"timeout +2h\n", said)
    assert REPOSITORY in said and "elm train --profile gpu" in said


def test_vllm_serves_the_adapter_that_the_gpu_profile_writes(tmp_path):
    environment = put_stand_ins(tmp_path, vllm='IFS="|"; echo "$CUDA_VISIBLE_DEVICES|$*|"; sleep 1')
    lines = [line.split("|")[:-1] for line in run("serve_vllm.sh", environment).splitlines()]
    assert [words[:3] for words in sorted(lines)] == [[gpu, "serve", GPU.base_model] for gpu in ("0", "1")]
    for words in lines:
        assert words[words.index("--max-lora-rank") + 1] == str(GPU.lora_rank)
        assert words[words.index("--lora-modules") + 1] == f"elm=outputs/{GPU.output}"
        assert int(words[words.index("--max-model-len") + 1]) >= 2 * GPU.max_length
    assert "--model elm " in read("serve_vllm.sh"), "the gateway asks for the adapter by its name"


def test_the_router_spreads_requests_over_the_ports_of_the_replicas(tmp_path):
    """nginx isn't installed here, so this reads the file's structure: it was not run."""
    text = re.sub(r"#.*", "", read("router.conf"))
    assert text.count("{") == text.count("}") == 5
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    assert all(line[-1] in "{};" for line in lines)
    ports = re.findall(r"server 127\.0\.0\.1:(\d+) ", text)
    environment = put_stand_ins(tmp_path, vllm='while [ "$1" != --port ]; do shift; done; echo "$2"; sleep 1')
    assert ports == sorted(run("serve_vllm.sh", environment).split()) == ["8001", "8002"]
    upstream, target = re.search(r"upstream (\w+)", text)[1], re.search(r"proxy_pass http://(\w+);", text)[1]
    assert upstream == target
    listening = re.search(r"listen (\S+);", text)[1]
    assert f"http://{listening}/v1" in read("serve_vllm.sh")


def test_lesson_09_shows_every_file_of_the_folder():
    lesson = json.loads((ROOT / "notebooks" / "09_scale_up.ipynb").read_text(encoding="utf-8"))
    text = "".join(line for cell in lesson["cells"] for line in cell["source"])
    assert all(name in text for name in (*SCRIPTS, "router.conf"))
