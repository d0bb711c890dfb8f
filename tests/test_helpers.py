"""The house style of elm_helpers: small, one direction, said in words, and torch only where it is needed."""

import ast
import inspect
import re
import subprocess
import sys

import pytest
from style import MODULES, NOTEBOOKS, read_tree

# A module imports only from modules before it. A new module gets its place here.
ORDER = [
    *("paths", "profiles", "runtime", "curves", "runs", "signatures", "scoreboard"),
    *("catalogue", "shop", "store", "account", "tools", "tool_calls", "prompts"),
    *("redact", "chat_logs", "tables", "fields", "layouts", "shelves", "goods", "sales", "writers", "importers"),
    "fetch",
    *("phrasebook", "messages", "answers", "world", "strangers", "rows", "dialogue", "conversations", "chat_rows"),
    *("generate", "limits", "metrics", "grounding", "stated", "grammar", "sheets", "cases", "judge"),
    *("base_model", "chat", "budget", "scale", "batches", "devices", "trainer", "training", "export", "engines"),
    *("careful", "rules", "evaluate", "compare", "general", "consent", "context", "guard", "agent"),
    *("scenarios", "openai_form", "serve", "faults", "plots", "board_plots", "card", "leaks", "hub", "proof"),
    *("live", "memory_plot", "widgets", "chat_widget", "frameworks", "course", "reference"),
    *("commands", "cli"),
]
# These may import torch; no other module imports it itself.
TORCH = {"base_model", "chat", "batches", "devices", "trainer", "training", "engines"}
LIGHT = ("paths", "profiles", "store", "tools", "tool_calls", "prompts", "phrasebook", "rows", "generate")
modules = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
Functions = ast.FunctionDef | ast.AsyncFunctionDef


def list_imports(path, everywhere: bool = True) -> set[str]:
    """Return the full names of what a module imports: at its top, or in functions as well."""
    nodes = ast.walk(read_tree(path)) if everywhere else read_tree(path).body
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "elm_helpers":
            names |= {f"elm_helpers.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def list_functions(path) -> list[Functions]:
    return [node for node in ast.walk(read_tree(path)) if isinstance(node, Functions)]


def list_public(path) -> list[Functions]:
    return [node for node in read_tree(path).body if isinstance(node, Functions) and not node.name.startswith("_")]


def count_docstring(node: Functions) -> int:
    """Return the lines that a docstring takes."""
    return node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0


def test_every_module_has_its_place_in_the_order():
    found = {path.stem for path in MODULES} - {"__init__", "__main__"}
    assert len(found) >= 15
    assert found <= set(ORDER), f"give {sorted(found - set(ORDER))} a place in ORDER"


@modules
def test_a_module_imports_only_from_modules_before_it(path):
    if path.stem in ("__init__", "__main__"):
        return
    before = ORDER[: ORDER.index(path.stem)]
    used = {name.split(".")[1] for name in list_imports(path) if name.startswith("elm_helpers.")}
    assert used <= set(before), f"{path.name} imports {sorted(used - set(before))}, which stand after it"


@modules
def test_only_the_model_modules_import_torch_themselves(path):
    heavy = {"torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "xllamacpp"}
    used = {name.split(".")[0] for name in list_imports(path, everywhere=False)} & heavy
    assert path.stem in TORCH or not used, f"{path.name} imports {sorted(used)} at its top"


def test_importing_the_data_and_tool_helpers_does_not_import_torch():
    code = "; ".join(f"import elm_helpers.{name}" for name in LIGHT)
    code += "; import sys; print([m for m in ('torch', 'transformers', 'datasets', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


@modules
def test_a_module_says_what_it_is_and_has_at_most_300_lines(path):
    assert ast.get_docstring(read_tree(path))
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def count_code(path) -> int:
    """Return the lines that hold code: no blank lines, no comments, no docstrings."""
    tree, lines = read_tree(path), path.read_text(encoding="utf-8").splitlines()
    documented = (ast.Module, ast.ClassDef, *Functions.__args__)
    docs = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)]
    inside = {number for doc in docs for number in range(doc.lineno, doc.end_lineno + 1)}
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in inside
        for number, line in enumerate(lines, 1)
    )


def test_the_package_has_at_most_8900_lines_of_code():
    """Docstrings are as long as the code here, and learners read them, so they don't count; code does."""
    sizes = {path.stem: count_code(path) for path in MODULES}
    assert sum(sizes.values()) <= 8_900, sizes


@modules
def test_a_function_has_at_most_40_lines_and_60_with_its_docstring(path):
    for node in list_functions(path):
        lines = node.end_lineno - node.lineno + 1
        assert lines - count_docstring(node) <= 40, f"{path.name} {node.name}: {lines - count_docstring(node)} lines"
        assert lines <= 60, f"{path.name} {node.name}: {lines} lines with its docstring"


@modules
def test_a_public_function_is_documented_and_points_to_its_lesson(path):
    lessons = {lesson.name for lesson in NOTEBOOKS}
    for node in list_public(path):
        text = ast.get_docstring(node) or ""
        last = text.splitlines()[-1] if text else ""
        shown = re.fullmatch(r"Shown in ``notebooks/([\w]+\.ipynb)``\.", last)
        assert shown, f"{path.name} {node.name}: the docstring's last line is {last!r}"
        assert shown[1] in lessons, f"{path.name} {node.name}: {shown[1]} doesn't exist"


@modules
def test_an_args_section_names_the_arguments_that_there_are(path):
    for node in list_public(path):
        block = re.search(
            r"^Args:\n((?: {4,}.*\n?|\n)+)", inspect.cleandoc(ast.get_docstring(node) or ""), re.MULTILINE
        )
        named = re.findall(r"^    (\w+):", block[1], re.MULTILINE) if block else []
        there = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        assert set(named) <= set(there), f"{path.name} {node.name} describes {sorted(set(named) - set(there))}"


@modules
def test_nothing_passes_keywords_through_unseen(path):
    """A function inside a function is nobody's interface, so it may."""
    classes = [node for node in read_tree(path).body if isinstance(node, ast.ClassDef)]
    open_to_all = [*read_tree(path).body, *(node for owner in classes for node in owner.body)]
    named = [node.name for node in open_to_all if isinstance(node, Functions) and node.args.kwarg]
    assert not named, f"{path.name}: no **kwargs in {named}"


@modules
def test_values_are_frozen_dataclasses(path):
    for node in ast.walk(read_tree(path)):
        for mark in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if "dataclass" in ast.unparse(mark):
                assert "frozen=True" in ast.unparse(mark), f"{path.name} {node.name}"


@modules
def test_text_files_are_opened_as_utf_8(path):
    for node in ast.walk(read_tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            given = {keyword.arg for keyword in node.keywords}
            if node.func.attr in ("read_text", "write_text"):
                assert "encoding" in given, f"{path.name} line {node.lineno}: Windows would use another encoding"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            mode = next((argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant)), "r")
            given = {keyword.arg for keyword in node.keywords}
            assert "b" in mode or "encoding" in given, f"{path.name} line {node.lineno}: open without an encoding"
