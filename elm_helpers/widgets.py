"""What a notebook shows beside text: tokens with their loss mask, and the agent's trace, as HTML that runs nothing."""

import unicodedata
from collections.abc import Mapping, Sequence
from html import escape

from elm_helpers.chat import Encoded, encode

# Inline styles only: notebooks that nobody trusted yet drop style sheets. Half-clear colours suit light and dark.
BOX = "font-family:monospace;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7"
TRAINED = "background-color:rgba(0,158,115,0.30);border-bottom:2px solid rgb(0,158,115)"
READ = "background-color:rgba(128,128,128,0.13)"
SPECIAL = "border:1px solid rgb(213,94,0);border-radius:3px"
STEPS = 7  # the seed's query → model → call → execute → model → answer → customer


def show_piece(text: str) -> str:
    """Return a token's text with what an eye cannot see made visible: line breaks, controls, direction marks.

    Example:
        >>> show_piece("a\\n"), show_piece("\\u202e")
        ('a↵\\n', '⟨U+202E⟩')

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    seen = {"\n": "↵\n", "\t": "⇥\t"}
    hidden = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    return "".join(seen.get(c) or (f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in hidden else c) for c in text)


def render_tokens_html(tokenizer, encoded: Encoded, messages: Sequence[Mapping] | None = None) -> str:
    """Return a conversation's tokens as HTML: green and underlined where the loss is computed, special ones boxed.

    Args:
        tokenizer: The tokenizer that encoded it.
        encoded: Ids and mask.
        messages: The conversation, to name its turns above the tokens.

    Returns:
        One ``<div>`` without scripts; every token is a ``<span>`` whose title holds its id.

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    special, spans = set(tokenizer.all_special_ids), []
    for token, bit in zip(encoded.ids, encoded.mask, strict=True):
        text = tokenizer.decode([token])
        if "\ufffd" in text:  # a part of a character: only the whole sequence of tokens spells it
            text = str(tokenizer.convert_ids_to_tokens(token))
        style = (TRAINED if bit else READ) + (f";{SPECIAL}" if token in special else "")
        about = f"id {token}, {'trained' if bit else 'only read'}{', special' if token in special else ''}"
        spans.append(f'<span title="{about}" style="{style}">{escape(show_piece(text))}</span>')
    trained, count = sum(encoded.mask), len(encoded.ids)
    caption = f"{count} tokens, {trained} of them trained ({trained / max(count, 1):.0%})"
    if messages:
        caption += f"; turns: {escape(' → '.join(str(message['role']) for message in messages))}"
    legend = f'<span style="{TRAINED}">trained</span> <span style="{READ}">only read</span>'
    legend += f' <span style="{SPECIAL}">special</span>'
    return f'<div><p>{caption} &nbsp; {legend}</p><div style="{BOX}">{"".join(spans)}</div></div>'


def show_tokens(tokenizer, rows: Sequence[Mapping]):
    """Return a viewer that steps through rows; let it be the last expression of a cell.

    Args:
        tokenizer: The base model's tokenizer.
        rows: Rows with ``messages``.

    Returns:
        An ipywidgets box; without ipywidgets the first row as `IPython.display.HTML`.

    Raises:
        ValueError: There are no rows.

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    if not rows:
        raise ValueError("there are no rows to show")

    def render(number: int) -> str:
        messages = rows[number]["messages"]
        return render_tokens_html(tokenizer, encode(tokenizer, messages), messages)

    try:
        import ipywidgets
    except ImportError:
        from IPython.display import HTML

        return HTML(render(0))
    page = ipywidgets.HTML(render(0))
    slider = ipywidgets.IntSlider(0, 0, len(rows) - 1, description="row")
    back, on = (ipywidgets.Button(description=text) for text in ("Previous", "Next"))
    slider.observe(lambda change: setattr(page, "value", render(change["new"])), names="value")
    back.on_click(lambda _: setattr(slider, "value", max(slider.value - 1, slider.min)))
    on.on_click(lambda _: setattr(slider, "value", min(slider.value + 1, slider.max)))
    return ipywidgets.VBox([ipywidgets.HBox([back, on, slider]), page])


def render_trace_html(steps: Sequence[Mapping]) -> str:
    """Return the agent's trace as HTML: the number of each step, what happened, how long it took, and the text.

    Args:
        steps: ``{"step": 1 to 7, "title", "text", "seconds"}`` each, as `agent.describe_turn` gives them.

    Raises:
        ValueError: A step's number is not 1 to 7.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    items = []
    for step in steps:
        if step["step"] not in range(1, STEPS + 1):
            raise ValueError(f"step {step['step']!r}: the trace has the steps 1 to {STEPS}")
        took = f" <small>{step['seconds']:.2f} s</small>" if step["seconds"] else ""
        head = f"<b>{int(step['step'])}. {escape(str(step['title']))}</b>{took}"
        text = show_piece(str(step["text"])).replace("↵\n", "\n")
        items.append(f'<div style="margin:6px 0">{head}<div style="{BOX};{READ}">{escape(text)}</div></div>')
    total = sum(step["seconds"] for step in steps)
    return f"<div><p>{len(steps)} steps, {total:.2f} s</p>{''.join(items)}</div>"
