"""The house style of the lessons. CONTRIBUTING.md says it in words; here every sentence of it is checked."""

import ast
import base64
import io
import json
import re
import subprocess
import sys
import tokenize
import tomllib
import unicodedata

from elm_helpers.paths import ROOT

import nbformat
import pytest
import yaml
from style import (
    NOTEBOOKS,
    Cell,
    count_code,
    count_words,
    find_part,
    find_tagged,
    read_cells,
    read_parts,
    read_promises,
    read_sections,
    read_tree,
)

REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
TAGS = {"setup", "imports", "parameters", "check", "keep_output"}
PROPER = {"Hub", "Python", "Hugging", "Face", "Colab", "Shopify", "Gradio", "Jupyter", "Llama"}  # words with capitals
lessons = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read_table(path) -> dict[str, str]:
    """Return the title table's row under its header, as text."""
    rows = [line for line in read_cells(path)[0].source.splitlines() if line.startswith("|")]
    assert len(rows) == 3, f"{path.name}: the title table has a header, a rule and one row"
    header, _, row = ([cell.strip() for cell in line.strip("|").split("|")] for line in rows)
    assert header == ["Time", "Hardware", "Reads", "Writes"]
    assert len(row) == 4 and all(row)
    return dict(zip(header, row, strict=True))


def read_paths(text: str) -> list[str]:
    """Return the repository paths that stand in backticks."""
    return [name.rstrip("/") for name in re.findall(r"`((?:data|outputs|notebooks)/[^`]*)`", text)]


def read_knobs(path) -> dict[str, object]:
    """Return the parameters cell's names and literals; anything else in it fails."""
    knobs = {}
    for node in find_tagged(path, "parameters").tree().body:
        assert isinstance(node, ast.Assign) and len(node.targets) == 1, f"not NAME = literal: {ast.unparse(node)}"
        knobs[node.targets[0].id] = ast.literal_eval(node.value)  # raises for what is derived
    return knobs


def test_the_course_has_its_six_lessons_with_contiguous_numbers():
    assert [path.stem for path in NOTEBOOKS][:6] == [
        "01_generate_data",
        "02_inspect_tokens",
        "03_train_qlora",
        "04_run_locally",
        "05_push_to_hub",
        "06_build_agent",
    ]
    assert [int(path.stem[:2]) for path in NOTEBOOKS] == list(range(1, len(NOTEBOOKS) + 1))


@lessons
def test_a_file_is_named_by_number_verb_and_object(path):
    assert re.fullmatch(r"\d\d(_[a-z]+){2,}\.ipynb", path.name)
    assert not path.with_suffix(".py").exists(), "the notebook is the only source"


@lessons
def test_a_notebook_is_valid_and_its_kernel_has_a_display_name(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    nbformat.validate(book)
    assert set(book["metadata"]) <= {"kernelspec", "language_info"}, "no widget state or editor settings"
    assert book["metadata"]["kernelspec"]["display_name"]
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert "version" not in book["metadata"].get("language_info", {})


@lessons
def test_the_title_is_number_and_verb_in_sentence_case(path):
    title = read_cells(path)[0].first_line
    number, verb = path.stem.split("_")[:2]
    assert re.match(rf"# {int(number)}\. {verb.capitalize()}\b", title), title
    words = re.findall(r"[\w-]+", title)[2:]
    assert not [word for word in words if word.istitle() and word not in PROPER], f"sentence case: {title}"


@lessons
def test_headings_hold_no_emoji(path):
    for cell in read_cells(path):
        headings = re.findall(r"^#+ .*$", "" if cell.is_code else cell.source, re.MULTILINE)
        bad = [char for line in headings for char in line if unicodedata.category(char) in ("So", "Cs", "Co")]
        assert not bad, f"{cell.place}: {bad}"


@lessons
def test_under_the_title_stand_the_badge_one_promise_and_the_table(path):
    title = read_cells(path)[0]
    blocks = [block.strip() for block in title.source.split("\n\n")]
    place = REPOSITORY.replace("https://github.com/", "https://colab.research.google.com/github/")
    link = f"{place}/blob/main/notebooks/{path.name}"
    assert len(blocks) == 4, f"{title.place}: title, badge, promise, table, parted by blank lines"
    assert re.fullmatch(rf"\[!\[Open in Colab\]\(https://[^)]+\.svg\)\]\({re.escape(link)}\)", blocks[1])
    assert len(re.findall(r"[.!?](?=\s|$)", blocks[2])) == 1 and blocks[2].endswith("."), "the promise is one sentence"
    assert re.search(r"\d+ (s|min|h)\b", read_table(path)["Time"])


@lessons
def test_a_lesson_reads_what_is_committed_or_what_an_earlier_lesson_writes(path):
    written = [name for other in NOTEBOOKS if other < path for name in read_paths(read_table(other)["Writes"])]
    for name in read_paths(read_table(path)["Reads"]):
        if name.startswith(("outputs", "data/processed", "data/raw")):
            inside = [
                made for made in written if f"{name}/".startswith(f"{made}/") or f"{made}/".startswith(f"{name}/")
            ]
            assert inside, f"{path.name} reads {name}, which no earlier lesson writes"
        else:
            assert list(ROOT.glob(name)), f"{path.name} reads {name}, which isn't in the repository"
    for name in read_paths(read_table(path)["Writes"]):
        assert name.startswith(("outputs", "data/processed", "data/raw")), f"{name} would change a committed file"


@lessons
def test_what_you_learn_and_need_come_second(path):
    part = read_parts(path)[1]
    assert part.cells[0] == read_cells(path)[1] and part.heading == "What you'll learn"
    assert part.cells[0].source.count("\n## ") == 1 and "\n## You need" in part.cells[0].source
    assert len(read_promises(part, "What you'll learn")) >= 3


@lessons
def test_setup_imports_and_parameters_follow_in_that_order(path):
    cells = read_parts(path)[1].cells
    assert [cell.tags[0] for cell in cells if cell.is_code] == ["setup", "imports", "parameters"], path.name
    assert cells[-1].is_code, "a section's heading follows the parameters"
    assert all(set(cell.tags) <= TAGS for cell in read_cells(path)), f"tags are {sorted(TAGS)}"


def test_the_setup_cell_is_the_same_bytes_everywhere_and_fetches_the_course_only_on_colab():
    texts = {find_tagged(path, "setup").source for path in NOTEBOOKS}
    assert len(texts) == 1
    text = texts.pop()
    assert f"git clone --depth 1 --quiet {REPOSITORY} /content/elm" in text
    first, last = find_tagged(NOTEBOOKS[0], "setup").tree().body
    assert ast.unparse(first) == "import sys"
    assert isinstance(last, ast.If) and ast.unparse(last.test) == "'google.colab' in sys.modules" and not last.orelse
    assert "--constraint ../constraints.txt" in text
    assert "try" not in text and "except" not in text


@lessons
def test_everything_is_imported_once_in_one_cell(path):
    for cell in read_cells(path):
        if not cell.is_code or "setup" in cell.tags:
            continue
        found = [node for node in ast.walk(cell.tree()) if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert bool(found) == ("imports" in cell.tags), f"{cell.place}: imports stand in the imports cell, only there"
    kinds = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign)
    assert all(isinstance(node, kinds) for node in find_tagged(path, "imports").tree().body), "no try, no if"


@lessons
def test_parameters_are_at_most_eight_commented_literals(path):
    cell, knobs = find_tagged(path, "parameters"), read_knobs(path)
    assert 1 <= len(knobs) <= 8
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]*", name) for name in knobs), list(knobs)
    tokens = list(tokenize.generate_tokens(io.StringIO(cell.source).readline))
    commented = {token.start[0] for token in tokens if token.type == tokenize.COMMENT and len(token.string) > 8}
    for node in ast.parse(cell.source).body:
        assert {node.lineno, node.end_lineno} & commented, f"{cell.place}: {ast.unparse(node)} has no comment"


@lessons
def test_every_parameter_turns_something(path):
    later = [cell for cell in read_cells(path) if cell.is_code and "parameters" not in cell.tags]
    used = {node.id for cell in later for node in ast.walk(cell.tree()) if isinstance(node, ast.Name)}
    assert set(read_knobs(path)) <= used, f"{path.name}: never used: {set(read_knobs(path)) - used}"


@lessons
def test_smoke_values_are_parameters_of_the_same_type(path):
    knobs = read_knobs(path)
    for cell in read_cells(path):
        assert not cell.mock or "parameters" in cell.tags, f"{cell.place}: mock values stand in the parameters cell"
    for name, value in find_tagged(path, "parameters").mock.items():
        assert name in knobs, f"{path.name}: mock sets {name}, which isn't a parameter"
        assert isinstance(value, (int, float, str, bool)), "nbmake writes values as text"
        same = type(value) is type(knobs[name]) or {type(value), type(knobs[name])} <= {int, float}
        assert same or knobs[name] is None, f"{path.name}: {name} is {knobs[name]!r}, the smoke value {value!r}"


@lessons
def test_no_code_asks_whether_it_is_a_smoke_run(path):
    names = {node.id for node in ast.walk(read_tree(path)) if isinstance(node, ast.Name)}
    assert not [name for name in names if "smoke" in name.lower()]
    assert not [cell.place for cell in read_cells(path) if cell.is_code and "PYTEST_CURRENT_TEST" in cell.source]


@lessons
def test_a_code_cell_has_at_most_25_lines(path):
    cells = [cell for cell in read_cells(path) if cell.is_code and "imports" not in cell.tags]
    long = {cell.place: len(cell.source.splitlines()) for cell in cells}
    assert not {place: lines for place, lines in long.items() if lines > 25}


@lessons
def test_a_heading_starts_its_cell(path):
    for cell in read_cells(path)[2:]:
        text = "" if cell.is_code else re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
        assert not re.search(r"\n## ", text), f"{cell.place}: one ## heading a cell, on its first line"
        assert not re.search(r"^# ", text, re.MULTILINE), f"{cell.place}: only the title has one #"


@lessons
def test_every_section_ends_in_a_check_that_can_fail(path):
    sections = read_sections(path)
    assert len(sections) >= 2, f"{path.name} teaches {len(sections)} sections"
    for section in sections:
        last = section.cells[-1]
        assert "check" in last.tags, f"{last.place}: section '{section.heading}' doesn't end in a check"
        asserts = [node for node in ast.walk(last.tree()) if isinstance(node, ast.Assert)]
        assert asserts, f"{last.place} asserts nothing"
        assert not [node for node in asserts if isinstance(node.test, ast.Constant)], f"{last.place} can't fail"
        assert not [cell for cell in section.cells[:-1] if "check" in cell.tags], f"two checks in '{section.heading}'"


@lessons
def test_a_section_gives_a_reason_runs_a_cell_and_reads_its_output_back_in_words(path):
    for section in read_sections(path):
        cells = section.cells
        for before, cell, after in zip(cells, cells[1:], cells[2:], strict=False):
            if cell.is_code:
                assert not before.is_code, f"{cell.place}: no reason stands before it"
                assert not after.is_code, f"{cell.place}: its output isn't read back in words"
        code = [number for number, cell in enumerate(cells[:-1]) if cell.is_code]
        assert code, f"{cells[0].place}: section '{section.heading}' runs nothing"
        told = " ".join(cell.source for cell in cells[code[0] + 1 :] if not cell.is_code)
        assert re.search(r"\d", told), f"section '{section.heading}' of {path.name} names no number"
        for cell in cells:
            folded = re.sub(r"<details>.*?</details>", "", cell.source, flags=re.DOTALL)
            assert cell.is_code or count_words(folded) <= 120, f"{cell.place}: {count_words(folded)} words, at most 120"


@lessons
def test_prose_and_code_are_in_balance(path):
    words = sum(count_words(cell.source) for cell in read_cells(path) if not cell.is_code)
    lines = sum(count_code(cell.source) for cell in read_cells(path) if cell.is_code and "setup" not in cell.tags)
    assert 3 <= words / lines <= 20, f"{path.name}: {words} words for {lines} lines of code"


@lessons
def test_the_lesson_closes_with_try_it_recap_in_practice_and_next(path):
    assert [part.heading for part in read_parts(path)][-4:] == ["Try it", "Recap", "In practice", "Next"]
    for heading in ("Recap", "In practice", "Next"):
        assert not [cell.place for cell in find_part(path, heading).cells if cell.is_code]


def read_exercises(path) -> list[Cell]:
    """Return the cells of *Try it* that are headed as exercises."""
    return [cell for cell in find_part(path, "Try it").cells if not cell.is_code and cell.source.startswith("### ")]


@lessons
def test_exercises_ask_for_a_prediction_and_fold_the_answer(path):
    exercises = read_exercises(path)
    assert len(exercises) >= 3
    for number, cell in enumerate(exercises, 1):
        assert cell.source.startswith(f"### {number}. "), f"{cell.place}: ### {number}. …"
        asked, fold, answer = cell.source.partition("<details>")
        assert re.search(r"predict", asked, re.IGNORECASE), f"{cell.place} asks for no prediction"
        assert fold and answer.rstrip().endswith("</details>"), f"{cell.place}: the answer is folded in <details>"
        head = re.match(r"\s*<summary>Answer \(\d+ min, (easy|medium|hard)\)</summary>\n\n", answer)
        assert head, f"{cell.place}: <summary>Answer (5 min, easy)</summary>, then a blank line"
        assert count_words(answer[head.end() :]) >= 8, f"{cell.place}: that is no answer"


@lessons
def test_one_exercise_turns_a_hyperparameter_and_compares_the_runs(path):
    names = read_knobs(path)
    turned = [
        c
        for c in read_exercises(path)
        if re.search("compare", c.source, re.I) and any(f"`{n}" in c.source for n in names)
    ]
    assert turned, f"{path.name}: no exercise names one of {list(names)} in backticks and says compare"


@lessons
def test_the_recap_answers_what_was_promised_in_the_same_order(path):
    promised = read_promises(read_parts(path)[1], "What you'll learn")
    assert read_promises(find_part(path, "Recap"), "Recap") == promised


@lessons
def test_next_leads_on(path):
    following = NOTEBOOKS[NOTEBOOKS.index(path) + 1 :][:1]
    target = following[0].name if following else "../README.md"
    assert f"]({target})" in find_part(path, "Next").cells[-1].source


@lessons
def test_outputs_are_kept_only_where_a_cell_asks_for_it(path):
    for cell in read_cells(path):
        if "keep_output" not in cell.tags:
            assert not cell.outputs and not cell.counted, f"{cell.place}: strip it with nbstripout"
        for output in cell.outputs:
            assert output["output_type"] in ("display_data", "execute_result"), (
                f"{cell.place} keeps a stream or an error"
            )
            assert "application/vnd.jupyter.widget-view+json" not in output["data"], f"{cell.place} keeps a widget"
            for mime, data in output["data"].items():
                text = data if isinstance(data, str) else json.dumps(data) if isinstance(data, dict) else "".join(data)
                size = len(base64.b64decode(text)) if mime.startswith("image/") and "svg" not in mime else len(text)
                assert size < 150_000, f"{cell.place}: {mime} of {size:,} bytes"


@lessons
def test_nbstripout_as_in_pre_commit_leaves_the_notebook_as_it_is(path):
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    args = next(hook["args"] for repo in config["repos"] for hook in repo["hooks"] if hook["id"] == "nbstripout")
    command = [sys.executable, "-m", "nbstripout", "--verify", *args, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@lessons
def test_links_to_files_resolve(path):
    for cell in read_cells(path):
        text = "" if cell.is_code else re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text):
            if not target.startswith(("https://", "http://", "#", "attachment:")):
                assert (path.parent / target.split("#")[0]).exists(), f"{cell.place}: {target} doesn't exist"


@lessons
def test_code_installs_nothing_hides_no_warning_and_names_no_place_of_one_machine(path):
    for cell in read_cells(path):
        if cell.is_code and "setup" not in cell.tags:
            bad = re.search(r"^\s*[!%]\s*(pip|conda|apt)|filterwarnings|simplefilter", cell.source, re.MULTILINE)
            assert not bad, f"{cell.place}: {bad[0]}"
        bad = re.search(r"(?<![\w.~])/(home|root|work|tmp|Users|mnt)/", cell.source)
        assert not bad, f"{cell.place}: {bad[0]}"
        assert not re.search(r"\bhf_[A-Za-z0-9]{20,}", cell.source), f"{cell.place} holds a token"


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("03_train_qlora", {"BitsAndBytesConfig", "LoraConfig", "SFTConfig"}),
        ("06_build_agent", {"parse_tool_calls", "run_tool"}),
    ],
)
def test_what_the_learner_came_to_see_is_called_in_the_open(name, calls):
    tree = read_tree(ROOT / "notebooks" / f"{name}.ipynb")
    made = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert calls <= made, f"{name} hides {calls - made}"
