"""One renderer from messages to token ids and loss mask, used by data, training, engines and agents alike."""

from collections.abc import Iterable, Mapping
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


def hide_special_tokens(tokenizer, text: str) -> str:
    """Return text in which typed special tokens are plain characters, so that nobody can forge a turn.

    Example:
        >>> from types import SimpleNamespace
        >>> hide_special_tokens(SimpleNamespace(all_special_tokens=["<|im_end|>"]), "hi<|im_end|>")
        'hi< |im_end|>'

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    for token in tokenizer.all_special_tokens:
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def render_text(tokenizer, messages: list[dict], *, add_generation_prompt: bool = False) -> str:
    """Return the text that the model's own chat template makes of the messages (plain-string contents only).

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    safe = [{"role": m["role"], "content": hide_special_tokens(tokenizer, m["content"])} for m in messages]
    return tokenizer.apply_chat_template(
        safe, tokenize=False, add_generation_prompt=add_generation_prompt, date_string=DATE
    )


def encode(tokenizer, messages: list[dict], *, add_generation_prompt: bool = False) -> Encoded:
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
    ids, mask, done = [], [], ""

    def add(text: str, trained: int) -> None:
        nonlocal done
        piece = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids.extend(piece)
        mask.extend([trained] * len(piece))
        done += text

    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render_text(tokenizer, messages[:turn], add_generation_prompt=True)
        full = render_text(tokenizer, messages[: turn + 1])
        if not (prompt.startswith(done) and full.startswith(prompt)):
            raise ValueError(f"message {turn}: the chat template rewrites earlier turns; no loss mask can be right")
        add(prompt[len(done) :], 0)
        end = full.rfind(tokenizer.eos_token, len(prompt))
        add(full[len(prompt) : len(full) if end < 0 else end + len(tokenizer.eos_token)], 1)
    if add_generation_prompt or messages[-1]["role"] != "assistant":
        rest = render_text(tokenizer, messages, add_generation_prompt=add_generation_prompt)
        add(rest[len(done) :], 0)
    return Encoded(tuple(ids), tuple(mask))


def encode_prompt(tokenizer, messages: list[dict]) -> list[int]:
    """Return the ids that a model continues with its next turn: the prefix of what it was trained on.

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    return list(encode(tokenizer, messages, add_generation_prompt=True).ids)


def find_faults(tokenizer, encoded: Encoded, row: Mapping, max_length: int) -> list[Fault]:
    """Return every fault of one encoded row; an empty list is a row that is safe to train on.

    Args:
        tokenizer: The tokenizer that encoded it.
        encoded: Ids and mask.
        row: The row, for its ``id`` and ``messages``.
        max_length: Tokens that training keeps of a row.

    Returns:
        Faults, by the names ``no_trained_token``, ``end_token_untrained``, ``double_bos``, ``truncated_answer``,
        ``pad_in_mask`` and ``call_lost``.

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    ids, mask, eos, pad = encoded.ids, encoded.mask, tokenizer.eos_token_id, tokenizer.pad_token_id
    trained = [token for token, bit in zip(ids, mask, strict=True) if bit]
    turns = sum(message["role"] == "assistant" for message in row["messages"])
    doubled = any(a == b == eos and m and n for a, b, m, n in zip(ids, ids[1:], mask, mask[1:], strict=False))
    found = {
        "no_trained_token": (not trained, "the loss would be 0 and nothing would be learned"),
        "end_token_untrained": (
            trained.count(eos) < turns,
            f"{turns} assistant turns but {trained.count(eos)} trained end tokens: the model would never stop",
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
        "call_lost": (
            bool(trained) and not keeps_calls(tokenizer, trained, row["messages"]),
            "a tool call in the messages is not in the trained text: the template dropped or changed it",
        ),
    }
    return [Fault(check, str(row.get("id")), message) for check, (wrong, message) in found.items() if wrong]


def keeps_calls(tokenizer, trained: list[int], messages: Iterable[Mapping]) -> bool:
    """Return whether every tool call of the messages can be read back from the trained tokens.

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    answers = [m["content"] for m in messages if m["role"] == "assistant" and "<tool_call>" in m["content"]]
    try:
        found = parse_tool_calls(tokenizer.decode(trained))
        return found == [call for answer in answers for call in parse_tool_calls(answer)]
    except (ToolCallError, TypeError):  # TypeError: the content was no string, so the template had nothing to render
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
