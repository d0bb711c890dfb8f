"""Every keyword that helpers and lessons pass exists in the installed library: a rename shows here first."""

import ast
import contextlib
import importlib
import inspect

import pytest
from style import MODULES, NOTEBOOKS, read_tree

# elm_helpers is among them, so that a lesson that calls a helper wrongly fails here too.
LIBRARIES = (
    *("accelerate", "agent_framework", "autogen_agentchat", "autogen_core", "autogen_ext", "bitsandbytes", "datasets"),
    *("elm_helpers", "fastapi", "httpx", "huggingface_hub", "langchain", "langchain_openai", "mcp", "openai", "peft"),
    *("prometheus_client", "smolagents", "torch", "transformers", "trl", "uvicorn", "xllamacpp"),
)


def read_names(tree: ast.AST) -> dict[str, object]:
    """Return what the imports of these libraries bind: name in the code -> module, class or function.

    What a module doesn't have is bound to NotImplemented.
    """
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LIBRARIES:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name) and hasattr(module, "__path__"):
                    with contextlib.suppress(ModuleNotFoundError):  # a module of a package, unless that is gone too
                        importlib.import_module(f"{node.module}.{alias.name}")
                names[alias.asname or alias.name] = getattr(module, alias.name, NotImplemented)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in LIBRARIES:
                    module = importlib.import_module(alias.name)
                    first = alias.name.split(".")[0]
                    names[alias.asname or first] = module if alias.asname else importlib.import_module(first)
    return names


def find_target(func: ast.expr, names: dict[str, object]) -> object | None:
    """Return what a call calls, where an import says so: `SFTConfig(…)`, `torch.optim.AdamW(…)`."""
    if isinstance(func, ast.Name):
        return names.get(func.id)
    if isinstance(func, ast.Attribute):
        owner = find_target(func.value, names)
        return owner if owner in (None, NotImplemented) else getattr(owner, func.attr, NotImplemented)
    return None


def find_faults(tree: ast.AST) -> tuple[int, list[str]]:
    """Return how many keywords were compared with a signature, and what is wrong."""
    names, compared = read_names(tree), 0
    faults = [f"{name} cannot be imported" for name, value in names.items() if value is NotImplemented]
    for node in ast.walk(tree):
        target = find_target(node.func, names) if isinstance(node, ast.Call) else None
        if target is None:
            continue
        if target is NotImplemented:
            faults.append(f"line {node.lineno}: {ast.unparse(node.func)} does not exist")
            continue
        try:
            parameters = inspect.signature(target).parameters
        except (TypeError, ValueError):  # compiled code says nothing about itself
            continue
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        for keyword in node.keywords:
            if keyword.arg and not takes_any:
                compared += 1
                if keyword.arg not in parameters:
                    faults.append(f"line {node.lineno}: {ast.unparse(node.func)} has no keyword {keyword.arg}")
    return compared, faults


@pytest.mark.parametrize("path", MODULES + NOTEBOOKS, ids=lambda path: path.name)
def test_every_keyword_exists_in_the_installed_library(path):
    _, faults = find_faults(read_tree(path))
    assert not faults, "\n".join([path.name, *faults])


def test_the_comparison_reaches_the_training_code():
    found = [find_faults(read_tree(path))[0] for path in MODULES if path.stem in ("training", "trainer")]
    assert len(found) == 2 and sum(found) >= 10


@pytest.mark.parametrize(
    "code",
    [
        "from trl import SFTConfig\nSFTConfig(max_seq_length=512)",
        "from trl import SFTTrainer\nSFTTrainer(model, tokenizer=None)",
        "import peft\npeft.LoraConfig(rank=8)",
        "from transformers import BitsAndBytesConfig as Config\nConfig.from_nowhere()",
        "import torch\ntorch.optim.AdamW([], learning_rate=1.0)",
        "from trl import DataCollatorForCompletionOnlyLM",
        "import torch.nn.functional\ntorch.nn.functional.softmin_of([])",
    ],
)
def test_a_keyword_or_a_name_that_is_gone_is_found(code):
    assert find_faults(ast.parse(code))[1]


def test_calls_that_are_right_pass():
    code = "from peft import LoraConfig\nfrom trl import SFTConfig as C\n"
    code += "LoraConfig(r=8, lora_alpha=16)\nC(max_length=9, **more)"
    assert find_faults(ast.parse(code)) == (3, [])
