"""One renderer from messages to token ids and loss mask, used by data, training, engines and agents alike."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from elm_helpers.tool_calls import ToolCallError, parse_tool_calls

DATE = "26 Jul 2024"  # Llama 3.1's template prints a date; a fixed one keeps training and serving the same


@dataclass(frozen=True)
class Encoded:
    """Token ids of a conversation, and for each whether the loss is computed on it (1) or not (0)."""

    ids: tuple[int, ...]
    mask: tuple[int, ...]


@dataclass(frozen=True)
class Fault:
    """One thing that would silently ruin a fine-tune: the check that saw it, the row, and what would happen."""

    check: str
    row: str
    message: str


class PreflightError(ValueError):
    """The data would ruin a training run; the message names the row, the check and the consequence."""


def list_special(tokenizer) -> dict[str, int]:
    """Return every special token and its id: those that open and close turns, and those that the vocabulary reserves.

    `all_special_tokens` names only the few that have a use; Llama's ``<|start_header_id|>`` isn't among them.

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    return {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def hide_special_tokens(tokenizer, text: str) -> str:
    """Return text in which typed special tokens are plain characters, so that nobody can forge a turn.

    Example:
        >>> from types import SimpleNamespace
        >>> token = SimpleNamespace(content="<|im_end|>", special=True)
        >>> hide_special_tokens(SimpleNamespace(added_tokens_decoder={2: token}), "hi<|im_end|>")
        'hi< |im_end|>'

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    return _hide(tokenizer, [{"role": "", "content": text}])[0]["content"]


def render_text(tokenizer, messages: Sequence[Mapping], *, add_generation_prompt: bool = False) -> str:
    """Return the text that the model's own chat template makes of the messages (plain-string contents only).

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    return _render(tokenizer, _hide(tokenizer, messages), add_generation_prompt)


def _hide(tokenizer, messages: Iterable[Mapping]) -> list[dict]:
    """Return role and content of the messages, special tokens hidden; those are looked up once, there may be 256."""
    special, safe = list_special(tokenizer), []
    for message in messages:
        text = message["content"] or ""
        for token in special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        safe.append({"role": message["role"], "content": text})
    return safe


def _render(tokenizer, safe: list[dict], add_generation_prompt: bool = False) -> str:
    return tokenizer.apply_chat_template(
        safe, tokenize=False, add_generation_prompt=add_generation_prompt, date_string=DATE
    )


def encode(tokenizer, messages: Sequence[Mapping], *, add_generation_prompt: bool = False) -> Encoded:
    """Return ids and loss mask: 1 on what the assistant writes and on its end token, 0 everywhere else.

    The template's text is cut where the model starts and stops writing, and each piece is tokenised by itself: those
    are the ids that generation meets, so training and serving cannot drift apart.

    Args:
        tokenizer: The base model's tokenizer, with its chat template.
        messages: ``[{"role", "content"}]``, contents as plain strings.
        add_generation_prompt: End with the opening of an assistant turn (for generation).

    Returns:
        `Encoded`, both tuples of the same length.

    Raises:
        ValueError: The template rewrites earlier turns, so no mask can be right.

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    ids, mask, done, safe = [], [], "", _hide(tokenizer, messages)

    def add(text: str, trained: int) -> None:
        nonlocal done
        piece = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids.extend(piece)
        mask.extend([trained] * len(piece))
        done += text

    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = _render(tokenizer, safe[:turn], add_generation_prompt=True)
        full = _render(tokenizer, safe[: turn + 1])
        if not (prompt.startswith(done) and full.startswith(prompt)):
            raise ValueError(f"message {turn}: the chat template rewrites earlier turns; no loss mask can be right")
        add(prompt[len(done) :], 0)
        end = full.rfind(tokenizer.eos_token, len(prompt))
        add(full[len(prompt) : len(full) if end < 0 else end + len(tokenizer.eos_token)], 1)
    if add_generation_prompt or messages[-1]["role"] != "assistant":
        rest = _render(tokenizer, safe, add_generation_prompt)
        add(rest[len(done) :], 0)
    return Encoded(tuple(ids), tuple(mask))


def encode_prompt(tokenizer, messages: list[dict]) -> list[int]:
    """Return the ids that a model continues with its next turn: the prefix of what it was trained on.

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    return list(encode(tokenizer, messages, add_generation_prompt=True).ids)


def name_roles(tokenizer, messages: Sequence[Mapping]) -> tuple[str, ...]:
    """Return for each token of `encode` the role of its turn; the opening and closing marks belong to the turn.

    What a template writes without being asked, such as a system text, counts to the first message.

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    roles = []
    for turn, message in enumerate(messages, 1):
        roles += [message["role"]] * (len(encode(tokenizer, messages[:turn]).ids) - len(roles))
    return tuple(roles)


def find_faults(tokenizer, encoded: Encoded, row: Mapping, max_length: int) -> list[Fault]:
    """Return every fault of one encoded row; an empty list is a row that is safe to train on.

    Args:
        tokenizer: The tokenizer that encoded it.
        encoded: Ids and mask.
        row: The row, for its ``id`` and ``messages``.
        max_length: Tokens that training keeps of a row.

    Returns:
        Faults, by the names ``no_trained_token``, ``end_token_untrained``, ``double_bos``, ``truncated_answer``,
        ``pad_in_mask``, ``forged_turn``, ``arguments_as_string``, ``null_keys``, ``empty_answer``, ``prompt_trained``,
        ``call_lost`` and ``answer_untrained``.

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    ids, mask, eos, pad = encoded.ids, encoded.mask, tokenizer.eos_token_id, tokenizer.pad_token_id
    messages = row["messages"]
    trained = [token for token, bit in zip(ids, mask, strict=True) if bit]
    turns, ends = sum(message["role"] == "assistant" for message in messages), trained.count(eos)
    doubled = any(a == b == eos and m and n for a, b, m, n in zip(ids, ids[1:], mask, mask[1:], strict=False))
    shared = f" (padding is id {pad} too: whoever masks all padding masks the end)" if pad == eos and not ends else ""
    found = {
        "no_trained_token": (not trained, "the loss would be 0 and nothing would be learned"),
        "end_token_untrained": (
            bool(trained) and ends < turns,
            f"{turns} assistant turns but {ends} trained end tokens: the model would never stop{shared}",
        ),
        "double_bos": (
            len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id,
            "the row begins with two BOS tokens, which serving will not send",
        ),
        "truncated_answer": (
            len(ids) > max_length and 1 in mask[max_length:],
            f"{len(ids)} tokens, {max_length} kept: the end of the answer would be cut off",
        ),
        "pad_in_mask": (
            doubled or (pad != eos and pad in trained),
            "padding bears loss: the model would learn to write padding",
        ),
        "forged_turn": (
            is_forged(tokenizer, ids, messages),
            "a special token that somebody typed became a real one: the model would learn to obey forged turns",
        ),
    }
    found |= compare_text(tokenizer, encoded, messages)
    return [Fault(check, str(row.get("id")), message) for check, (wrong, message) in found.items() if wrong]


def is_forged(tokenizer, ids: Sequence[int], messages: Sequence[Mapping]) -> bool:
    """Return whether the ids hold more special tokens than the template wrote, because a content spells one.

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    special = list_special(tokenizer)
    if not any(token in (message["content"] or "") for token in special for message in messages):
        return False
    honest, numbers = encode(tokenizer, messages).ids, set(special.values())
    return sum(token in numbers for token in ids) > sum(token in numbers for token in honest)


def compare_text(tokenizer, encoded: Encoded, messages: Sequence[Mapping]) -> dict[str, tuple[bool, str]]:
    """Return by the name of each check whether the trained tokens fail to spell what the assistant says, and a message.

    One cause gives one fault: what comes later in the dictionary isn't looked for once something earlier is wrong.

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """

    trained = [token for token, bit in zip(encoded.ids, encoded.mask, strict=True) if bit]
    text = tokenizer.decode(trained, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    whole = tokenizer.decode(encoded.ids, clean_up_tokenization_spaces=False)
    said = [m["content"] for m in _hide(tokenizer, messages) if m["role"] == "assistant"]
    wrote, meant = "".join(text.split()), "".join("".join(said).split())  # templates may trim white space
    answers = [message for message in messages if message["role"] == "assistant"]
    calls = [call.get("function", call) for message in messages for call in message.get("tool_calls") or ()]
    given = [call.get("arguments") for call in calls]
    nulls = ["content" for message in messages if message["content"] is None]
    nulls += [key for part in given if isinstance(part, Mapping) for key in part if part[key] is None]
    found = {
        "arguments_as_string": (
            any(isinstance(arguments, str) for arguments in given),
            "a call's arguments are one JSON string: quoted once more by the template, no parser would read them back",
        ),
        "null_keys": (
            bool(nulls),
            f"{len(nulls)} null values ({', '.join(nulls[:2])}, …; Arrow gives rows equal keys): the model would "
            "learn to write what nobody gave",
        ),
        "empty_answer": (
            not all((message["content"] or "").strip() or message.get("tool_calls") for message in answers),
            "an assistant turn is empty, was there a call in it? The model would learn to say nothing",
        ),
        "prompt_trained": (
            len(wrote) > len(meant),
            "more bears loss than the assistant says: the model would learn to write others' turns as well",
        ),
        "call_lost": (
            not all(call["name"] in text for call in calls) or not keeps_calls(whole, said),
            "a tool call cannot be read back from the tokens: it is malformed, or the template dropped or changed it",
        ),
        "answer_untrained": (wrote != meant, "a part of the answer bears no loss: the model would never learn it"),
    }
    first = next((check for check, (wrong, _) in found.items() if wrong and trained), None)
    return {check: (check == first, message) for check, (_, message) in found.items()}


def keeps_calls(text: str, said: Iterable[str]) -> bool:
    """Return whether every tool call that the assistant says is well-formed and stands in the text, unchanged.

    Example:
        >>> keeps_calls("Sure.", ['<tool_call>get_product_info(product="mug")</tool_call>'])
        False

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    try:
        return all(answer.strip() in text for answer in said if parse_tool_calls(answer))
    except ToolCallError:
        return False


def run_preflight(tokenizer, rows: Iterable[Mapping], max_length: int) -> list[Encoded]:
    """Encode the rows and refuse the data if any row has a fault, before a minute is spent training.

    Args:
        tokenizer: The base model's tokenizer.
        rows: Rows as `elm generate` writes them.
        max_length: Tokens that training keeps of a row.

    Returns:
        One `Encoded` a row.

    Raises:
        PreflightError: Names the number of faults and the first of each check.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    encoded, faults = [], []
    for row in rows:
        encoded.append(encode(tokenizer, row["messages"]))
        faults += find_faults(tokenizer, encoded[-1], row, max_length)
    if not encoded:
        raise PreflightError("there are no rows to train on; run `elm generate` first")
    if faults:
        first = {fault.check: fault for fault in reversed(faults)}
        lines = "; ".join(f"{f.check} in row {f.row}: {f.message}" for f in first.values())
        raise PreflightError(f"{len(faults)} faults in {len(encoded)} rows. {lines}")
    return encoded
