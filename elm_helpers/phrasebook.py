"""The phrasebook: YAML files of wordings that learners edit, read strictly and split for evaluation."""

import hashlib
import re
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import NoReturn

from elm_helpers.paths import TEMPLATES

import yaml

BRACKETS = re.compile(r"\[([^\[\]]*)\]")
SLOT = re.compile(r"\{(\w+)\}")
SLOTS = {"query", "product", "category", "order_id", "reason", "status", "destination", "method", "promo_code"}
SLOTS |= {"variant", "location", "limit", "min_price", "max_price", "customer_id"}
FILES = ("common", "answers", "descriptions", "categorization")  # flat lists of wordings
HELD_OUT = ("answers.", "descriptions.prompts.", "descriptions.answers.", "categorization.prompts", "common.")
EVAL_SHARE = 0.15  # of every list of wordings, by a hash of its text


class PhrasebookError(ValueError):
    """A mistake in a phrasebook file; the message starts with `file:line:`."""


@dataclass(frozen=True)
class Phrase:
    """One wording. `id` names it for the train/eval split; `arguments` are those that no slot shows."""

    id: str
    text: str
    arguments: dict = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Requests:
    """What customers say to reach one tool; `values` maps a slot to {what they write: what it means}."""

    phrases: tuple[Phrase, ...]
    macros: dict[str, tuple[str, ...]]
    values: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Intent:
    """Requests that no tool answers (`no_call`) or that lack something (`ask_back`), and what to reply.

    `then` is the tool that runs once the customer has answered, and the slot of what was missing; nothing if none does.
    """

    intent: str
    kind: str
    signed_in: str
    asks: tuple[Phrase, ...]
    replies: tuple[Phrase, ...]
    then: tuple[str, ...] = ()


@dataclass(frozen=True)
class Phrasebook:
    """Everything under data/templates but the shop. `wordings` maps "file.key.key" to a list of phrases."""

    requests: dict[str, Requests]
    intents: tuple[Intent, ...]
    wordings: dict[str, tuple[Phrase, ...]]


class _Text(str):
    """A string that knows the line it was read from."""

    line = 1


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads YAML into plain values, but strings know their line."""

    def construct_text(self, node: yaml.ScalarNode) -> _Text:
        text = _Text(self.construct_scalar(node))
        text.line = node.start_mark.line + 1
        return text


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)


def _fail(path: Path, at: object, message: str) -> NoReturn:
    raise PhrasebookError(f"{path.name}:{getattr(at, 'line', 1)}: {message}")


def _read_yaml(path: Path, required: frozenset = frozenset(), optional: frozenset = frozenset()) -> dict:
    """Return the file's mapping; with `required`, no other keys than those and `optional` may stand in it."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        line = error.problem_mark.line + 1 if getattr(error, "problem_mark", None) else 1
        raise PhrasebookError(f"{path.name}:{line}: not YAML, {getattr(error, 'problem', error)}") from error
    if not isinstance(data, dict):
        _fail(path, None, f"found {type(data).__name__}, a mapping of keys is right")
    for key in data:
        if required and key not in required | optional:
            _fail(path, key, f"unknown key {str(key)!r}, known are {', '.join(sorted(required | optional))}")
    if required - set(data):
        _fail(path, None, f"key {min(required - set(data))!r} is missing")
    return data


def _check_text(path: Path, text: object, slots: set[str] | None) -> str:
    """Return the text if brackets close and every slot is known; `slots` None takes any name."""
    if not isinstance(text, str) or not text.strip():
        _fail(path, text, f"found {text!r}, a non-empty text is right (quote yes, no and numbers)")
    if re.search(r"[\[\]{}]", SLOT.sub("", BRACKETS.sub("", text))):
        _fail(path, text, f"brackets in {str(text)!r} are nested or do not close; [a|b] and {{slot}} are right")
    for slot in SLOT.findall(text):
        if slots is not None and slot not in slots:
            _fail(path, text, f"unknown slot {{{slot}}} in {str(text)!r}, known are {', '.join(sorted(slots))}")
    return str(text)


def _read_phrases(path: Path, group: str, items: object, slots: set[str] | None = None) -> tuple[Phrase, ...]:
    if not isinstance(items, list) or not items:
        _fail(path, items, f"{group} holds {type(items).__name__}, a list of wordings is right")
    phrases: dict[str, Phrase] = {}
    for item in items:
        source, arguments = (item.get("text"), item.get("arguments")) if isinstance(item, dict) else (item, {})
        text = _check_text(path, source, slots)
        if not isinstance(arguments, dict):
            _fail(path, source, f"arguments of {text!r} hold {arguments!r}, a mapping is right")
        if text in phrases:
            _fail(path, source, f"{text!r} stands twice in {group}")
        plain = {str(k): str(v) if isinstance(v, str) else v for k, v in arguments.items()}
        phrases[text] = Phrase(f"{group}-{hashlib.sha256(text.encode()).hexdigest()[:8]}", text, plain)
    return tuple(phrases.values())


def _read_requests(path: Path) -> tuple[str, Requests, list[Intent], dict[str, tuple[Phrase, ...]]]:
    """Return a tool, what customers say to reach it, and the intents and answers that its file may hold as well."""
    optional = frozenset({"macros", "values", "answers", "intents"})
    data = _read_yaml(path, frozenset({"tool", "phrases"}), optional)
    tool, values, macros = str(data["tool"]), {}, data.get("macros") or {}
    for slot, listed in (data.get("values") or {}).items():
        pairs = listed.items() if isinstance(listed, dict) else ((text, text) for text in listed)
        values[str(slot)] = {_check_text(path, text, set()): str(value) for text, value in pairs}
    slots = SLOTS | set(values) | set(macros)
    phrases = _read_phrases(path, tool, data["phrases"], slots)
    macros = {str(k): tuple(_check_text(path, t, slots) for t in v) for k, v in macros.items()}
    answers = _flatten(path, f"answers.{tool}", data.get("answers") or {})
    intents = _build_intents(path, data.get("intents") or [])
    return tool, Requests(phrases, macros, values), intents, answers


def _read_intents(path: Path) -> list[Intent]:
    return _build_intents(path, _read_yaml(path, frozenset({"intents"}))["intents"])


def _build_intents(path: Path, items: list) -> list[Intent]:
    intents, keys = [], {"intent", "kind", "signed_in", "asks", "replies", "then"}
    for item in items:
        name = item.get("intent") if isinstance(item, dict) else None
        if not isinstance(name, str) or set(item) - keys or {"asks", "replies", "kind"} - set(item):
            _fail(path, name, f"intent {name!r} is {item!r:.80}; its keys are {', '.join(sorted(keys))}")
        signed_in = item.get("signed_in", "any")
        signed_in = {True: "yes", False: "no"}.get(signed_in, signed_in)  # YAML reads a bare yes as True
        if item["kind"] not in ("no_call", "ask_back") or signed_in not in ("any", "yes", "no"):
            _fail(path, name, f"intent {name!r}: kind is no_call or ask_back, signed_in is any, yes or no")
        then = item.get("then") or {}
        if not isinstance(then, dict) or len(then) > 1:
            _fail(path, name, f"intent {name!r}: then is {then!r}, one tool: slot is right")
        asks, replies = (_read_phrases(path, f"{name}.{key}", item[key]) for key in ("asks", "replies"))
        then = tuple(str(text) for pair in then.items() for text in pair)
        intents.append(Intent(str(name), str(item["kind"]), str(signed_in), asks, replies, then))
    return intents


def _flatten(path: Path, key: str, value: object) -> dict[str, tuple[Phrase, ...]]:
    if not isinstance(value, dict):
        return {key: _read_phrases(path, key, value)}
    for name in value:
        if not isinstance(name, str):
            _fail(path, next(iter(value)), f"{key} has the key {name!r}, text is right (quote yes, no and numbers)")
    return {k: v for name, item in value.items() for k, v in _flatten(path, f"{key}.{name}", item).items()}


def read_phrasebook(folder: Path = TEMPLATES) -> Phrasebook:
    """Return every wording under `folder`, checked.

    Args:
        folder: Holds requests/*.yaml, talk/*.yaml and the flat files common, answers, descriptions, categorization. A
            file of requests may hold its tool's answers and intents as well.

    Raises:
        PhrasebookError: Names file and line of the first mistake, what was found and what would be right.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    intents = [intent for path in sorted((folder / "talk").glob("*.yaml")) for intent in _read_intents(path)]
    files, requests = [folder / f"{name}.yaml" for name in FILES], {}
    wordings = {k: v for path in files for k, v in _flatten(path, path.stem, _read_yaml(path)).items()}
    for path in sorted((folder / "requests").glob("*.yaml")):
        tool, asked, more, answers = _read_requests(path)
        requests[tool] = asked
        intents += more
        wordings |= answers
    return Phrasebook(requests, tuple(intents), wordings)


@cache
def read_answers(folder: Path = TEMPLATES) -> dict[str, tuple[Phrase, ...]]:
    """Return ELM's own wordings by "tool.case", as `describe_result` names them, read once.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    wordings = read_phrasebook(folder).wordings
    return {key.removeprefix("answers."): v for key, v in wordings.items() if key.startswith("answers.")}


def hash_text(text: str) -> float:
    """Return a number in [0, 1) that depends on the text alone, so that editing one wording moves no other.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def _keep(phrases: tuple[Phrase, ...], split: str) -> tuple[Phrase, ...]:
    ranked = sorted(phrases, key=lambda phrase: hash_text(phrase.text))
    count = max(sum(hash_text(phrase.text) < EVAL_SHARE for phrase in ranked), 1)
    held_out = ranked[: min(count, len(ranked) - 1)]  # a list of one wording is for training only
    return tuple(phrase for phrase in phrases if (phrase in held_out) == (split == "eval"))


def _keep_reasons(values: dict[str, dict[str, str]], split: str) -> dict[str, dict[str, str]]:
    """Return the slots' values; reasons are whole sentences, so they are held out as wordings are."""
    kept = {text: text for text in values.get("reason", {}) if (hash_text(text) < EVAL_SHARE) == (split == "eval")}
    return values | ({"reason": kept} if kept else {})


def keep_split(book: Phrasebook, split: str) -> Phrasebook:
    """Return the wordings that one side may use: no request, reply, prompt or answer is on both.

    Args:
        split: "train" or "eval"; eval has about `EVAL_SHARE` of every list, and at least one.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    requests = {
        tool: replace(r, phrases=_keep(r.phrases, split), values=_keep_reasons(r.values, split))
        for tool, r in book.requests.items()
    }
    intents = [replace(i, asks=_keep(i.asks, split), replies=_keep(i.replies, split)) for i in book.intents]
    kept = {k: _keep(v, split) if k.startswith(HELD_OUT) else v for k, v in book.wordings.items()}
    return Phrasebook(requests, tuple(i for i in intents if i.asks and i.replies), kept)
