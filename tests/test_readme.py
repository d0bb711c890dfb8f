"""The README: its commands parse, its links resolve, and its figures are the artefacts'."""

import json
import re
import shlex

from elm_helpers import cli
from elm_helpers.paths import SAMPLE
from elm_helpers.reference import END, START, TALK_END, TALK_START, format_conversation, format_figures

import pytest
from style import NOTEBOOKS, ROOT, read_cells

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
REFERENCE = SAMPLE / "elm-smollm2-135m"


def list_lines():
    return [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]


def test_the_readme_shows_commands():
    assert len(list_lines()) >= 3


@pytest.mark.parametrize("line", [line for line in list_lines() if "elm " in line])
def test_an_elm_command_of_the_readme_parses(line):
    words = shlex.split(line)
    assert words[0] == ".venv/bin/elm"
    args = cli.build_parser().parse_args(words[1:])
    assert args.run


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`elm (\w+)", README))))
def test_an_elm_command_that_the_prose_names_exists_or_is_said_to_be_planned(command):
    known = {run.__name__.removeprefix("run_") for run in cli.COMMANDS}
    assert command in known or re.search(rf"planned \(`elm {command}`\)", README)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make (\w+)|`make (\w+)`", README, re.MULTILINE))))
def test_a_make_target_of_the_readme_exists(target):
    name = next(filter(None, target))
    assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), name


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_a_link_of_the_readme_resolves(link):
    assert (ROOT / link).exists(), link


@pytest.mark.parametrize("folder", ["notebooks", "elm_helpers", "data", "tests"])
def test_the_tree_of_the_readme_names_what_is_there(folder):
    assert re.search(rf"^{folder}/ ", README, re.MULTILINE)
    assert (ROOT / folder).is_dir()


def test_every_lesson_has_its_line_in_the_table():
    lessons = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    assert len(lessons) >= 6
    assert all(f"notebooks/{name}" in README for name in lessons)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_time_of_a_lesson_is_the_one_that_its_title_names(path):
    (line,) = [line for line in README.splitlines() if line.startswith("| [") and f"notebooks/{path.name})" in line]
    title = [line for line in read_cells(path)[0].source.splitlines() if line.startswith("|")]
    assert line.split("|")[-2].strip() == title[2].split("|")[1].strip()


def test_the_conversation_is_the_one_that_was_kept():
    turns = json.loads((REFERENCE / "conversation.json").read_text(encoding="utf-8"))
    assert len(turns) == 4
    block = README.split(TALK_START)[1].split(TALK_END)[0].strip()
    assert block == format_conversation(turns).strip()
    shown = [product for step in turns[2]["steps"] for product in step.get("result", {}).get("products", [])]
    assert shown and all(product["price"] <= 100 for product in shown)


def test_the_figures_are_those_of_the_artefacts():
    summary = json.loads((REFERENCE / "training_summary.json").read_text(encoding="utf-8"))
    board = json.loads((REFERENCE / "scoreboard.json").read_text(encoding="utf-8"))
    requests = json.loads((REFERENCE / "requests.json").read_text(encoding="utf-8"))
    details = json.loads((REFERENCE / "details.json").read_text(encoding="utf-8"))
    block = README.split(START)[1].split(END)[0].strip()
    assert block == format_figures(summary, board, requests, details).strip()
