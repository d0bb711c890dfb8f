"""What a notebook shows beside text: tokens with their loss mask, and the agent's trace, as HTML that runs nothing."""

import unicodedata
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from operator import itemgetter

from elm_helpers.chat import Encoded, encode, list_special, name_roles

# Inline styles only: notebooks that nobody trusted yet drop style sheets. Half-clear colours suit light and dark. Where
# a page drops inline styles as well, <b>, the turns' names and the ids are still there.
BOX = "font-family:monospace;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7"
LOW = "line-height:1.35"
READ = "background-color:rgba(128,128,128,0.13)"
TRAINED = "border-bottom:3px solid currentColor"
TOKEN = f"display:inline-block;vertical-align:top;text-align:center;line-height:1.3;margin:1px;{READ}"
ID = "display:block;font-size:65%;font-weight:normal;line-height:1.3;opacity:0.8"
SPECIAL = "border:1px solid rgb(213,94,0);border-radius:3px"
# Okabe & Ito 2008: four colours that colour-blind readers can tell apart, and each turn is named as well
ROLES = {"system": "128,128,128", "user": "230,159,0", "assistant": "0,114,178", "tool": "0,158,115"}
NEWLINE = "\n"
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


def name_special(tokenizer) -> dict[int, str]:
    """Return what the tokenizer uses its special tokens for, by id, such as {1: "BOS", 2: "EOS = PAD"}.

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    names = {}
    for name in ("bos", "eos", "pad"):
        token = getattr(tokenizer, f"{name}_token_id")
        if token is not None:
            names[token] = f"{names[token]} = {name.upper()}" if token in names else name.upper()
    return names


def render_tokens_html(tokenizer, encoded: Encoded, roles: Sequence[str] = (), *, ids: bool = True) -> str:
    """Return a conversation's tokens as HTML: turns by colour, bold and underlined where the loss is computed.

    Args:
        tokenizer: The tokenizer that encoded it.
        encoded: Ids and mask.
        roles: The role of each token, as `chat.name_roles` gives them; without them there are no turns.
        ids: Show each token's id under it; the id is in the token's title in any case.

    Returns:
        One ``<div>`` without scripts. Special tokens have a frame, and BOS, EOS and padding their name.

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    special, names = set(list_special(tokenizer).values()), name_special(tokenizer)

    def render(token: int, bit: int, role: str) -> str:
        text = tokenizer.decode([token])
        if "\ufffd" in text:  # a part of a character: only the whole sequence of tokens spells it
            text = str(tokenizer.convert_ids_to_tokens(token))
        shown, name = show_piece(text), names.get(token, "")
        about = [f"id {token}", "trained" if bit else "only read", *(["special", name] if token in special else [])]
        style = [TOKEN] * ids + [SPECIAL] * (token in special) + [TRAINED] * bit
        below = f'<sub style="{ID}">{token} {name}</sub>' if ids else ""
        tag = "b" if bit else "span"
        head = f'<{tag} title="{", ".join(filter(None, about))}" style="{";".join(style)}">'
        return f"{head}{escape(shown.removesuffix(NEWLINE))}{below}</{tag}>{NEWLINE * shown.endswith(NEWLINE)}"

    blocks, all_roles = [], roles or [""] * len(encoded.ids)
    for role, tokens in groupby(zip(encoded.ids, encoded.mask, all_roles, strict=True), key=itemgetter(2)):
        first, *rest = (render(*token) for token in tokens)
        spans = first.rstrip() + "".join(rest).rstrip()
        colour = f"background-color:rgba({ROLES.get(role, '128,128,128')},0.22)"
        head = f"<i>{escape(role)}</i> " if role else ""
        blocks.append(f'<div style="{BOX};{colour};padding:2px 6px;margin:2px 0">{head}{spans}</div>')
    trained, count = sum(encoded.mask), len(encoded.ids)
    caption = f"{count} tokens, {trained} of them trained ({trained / max(count, 1):.0%})"
    legend = f'<b style="{TRAINED}">trained</b> only read <span style="{SPECIAL}">special</span>'
    marks = ", ".join(f"{name} is {token}" for token, name in names.items())
    return f"<div><p>{caption} &nbsp; {legend} &nbsp; {marks}</p>{''.join(blocks)}</div>"


def show_tokens(tokenizer, rows: Sequence[Mapping]):
    """Return a viewer that steps through rows, all or those of one task; let it be the last expression of a cell.

    Args:
        tokenizer: The base model's tokenizer.
        rows: Rows with ``messages``, and ``task`` to choose by.

    Returns:
        An ipywidgets box that carries the first row as plain HTML too, for pages where nothing runs, such as GitHub;
        without ipywidgets that HTML alone.

    Raises:
        ValueError: There are no rows.

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    if not rows:
        raise ValueError("there are no rows to show")

    def render(row: Mapping, ids: bool = True) -> str:
        messages = row["messages"]
        page = render_tokens_html(tokenizer, encode(tokenizer, messages), name_roles(tokenizer, messages), ids=ids)
        return f"<p>row {escape(str(row.get('id')))}</p>{page}"

    try:
        import ipywidgets
    except ImportError:
        from IPython.display import HTML

        return HTML(render(rows[0]))

    class Viewer(ipywidgets.VBox):
        def _repr_mimebundle_(self, **options):
            return super()._repr_mimebundle_(**options) | {"text/html": render(rows[0])}

    tasks = ["all tasks", *sorted({str(row["task"]) for row in rows if "task" in row})]
    task, ids = ipywidgets.Dropdown(options=tasks), ipywidgets.Checkbox(True, description="ids", indent=False)
    slider = ipywidgets.IntSlider(0, 0, len(rows) - 1, description="row")
    back, on = (ipywidgets.Button(description=text) for text in ("Previous", "Next"))
    page = ipywidgets.HTML()

    def draw(change=None) -> None:
        chosen = [row for row in rows if task.value in (tasks[0], row.get("task"))]
        slider.max = len(chosen) - 1
        page.value = render(chosen[slider.value], ids.value)

    for control in (slider, task, ids):
        control.observe(draw, names="value")
    back.on_click(lambda _: setattr(slider, "value", max(slider.value - 1, slider.min)))
    on.on_click(lambda _: setattr(slider, "value", min(slider.value + 1, slider.max)))
    draw()
    controls = ipywidgets.HBox([back, on, slider, task, ids], layout=ipywidgets.Layout(flex_flow="row wrap"))
    return Viewer([controls, page])


def render_trace_html(steps: Sequence[Mapping]) -> str:
    """Return the agent's trace as HTML: the number of each step, what happened, how long it took, and the text.

    Args:
        steps: ``{"step": 1 to 7, "title", "text", "seconds"}`` each, and the parsed ``"tool_calls"`` where there are
            any, as `agent.describe_turn` gives them.

    Raises:
        ValueError: A step's number is not 1 to 7.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """

    def read_call(call: Mapping) -> str:
        said = "; ".join(f"{name} is {value!r}" for name, value in call["arguments"].items())
        return f"<small>parsed: <b>{escape(call['name'])}</b> {escape(show_piece(said))}</small>"

    items = []
    for step in steps:
        if step["step"] not in range(1, STEPS + 1):
            raise ValueError(f"step {step['step']!r}: the trace has the steps 1 to {STEPS}")
        took = f" <small>{step['seconds']:.2f} s</small>" if step["seconds"] else ""
        head = f"<b>{int(step['step'])}. {escape(str(step['title']))}</b>{took}"
        text = show_piece(str(step["text"])).replace("↵\n", "\n")
        parsed = "".join(f"<div>{read_call(call)}</div>" for call in step.get("tool_calls", ()))
        items.append(
            f'<div style="margin:6px 0">{head}<div style="{BOX};{READ};{LOW}">{escape(text)}</div>{parsed}</div>'
        )
    total = sum(step["seconds"] for step in steps)
    return f'<div style="{LOW}"><p style="margin:2px 0">{len(steps)} steps, {total:.2f} s</p>{"".join(items)}</div>'
