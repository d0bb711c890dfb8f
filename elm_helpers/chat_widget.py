"""A chat with the agent beside the shop's books: widgets where they run, the same conversation as HTML elsewhere."""

import sqlite3
from collections.abc import Mapping, Sequence
from html import escape
from threading import Lock, Timer

from elm_helpers.agent import Conversation, Turn, describe_turn, read_customer, run_turn
from elm_helpers.engines import Engine
from elm_helpers.tool_calls import format_tool_call
from elm_helpers.tools import Session
from elm_helpers.widgets import ROLES, render_trace_html, show_piece

# Inline styles and <b> names, as in widgets.py: it stays readable where a page drops the styles.
BUBBLE = "padding:4px 10px;margin:4px 0;border-radius:8px;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.45"
WARN = "213,94,0"
QUIET = "opacity:0.75;font-size:90%"
CELL = "padding:2px 8px 2px 0;vertical-align:top;text-align:left"
SHORT = ";white-space:nowrap"  # all cells but the last one of a row
GUEST = "nobody is signed in"
ENTER_SECONDS = 0.2  # the text box says "Enter" a moment before it sends what was typed
MOST_ORDERS, MOST_CUSTOMERS = 8, 500  # an imported shop may have a hundred thousand


def show_text(text: str) -> str:
    """Return a text for a page: escaped, with controls and direction marks made visible.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    return escape(show_piece(text).replace("↵\n", "\n"))


def render_turn_html(turn: Mapping, *, is_open: bool = True) -> str:
    """Return one turn as HTML: what the customer said, the answer, and the trace behind it, folded or not.

    Args:
        turn: As `agent.describe_turn` gives it; ``"error"`` beside it is shown instead of an answer.
        is_open: The trace is unfolded.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """

    def bubble(name: str, text: str, colour: str, side: str) -> str:
        style = f"{BUBBLE};margin-{side}:12%;background-color:rgba({colour},0.16)"
        return f'<div style="{style}"><b>{name}</b> {show_text(text)}</div>'

    steps = turn["steps"]
    parts = [bubble("Customer", steps[0]["text"], ROLES["user"], "left")] if steps else []
    if turn["answer"]:
        parts.append(bubble("ELM", turn["answer"], ROLES["assistant"], "right"))
    if turn.get("error"):
        parts.append(bubble("No answer.", turn["error"], WARN, "right"))
    if turn["replaced"]:
        parts.append(
            f'<div style="{QUIET}">The check replaced what the model said by the results in plain words.</div>'
        )
    fold = f"<details{' open' * is_open}><summary>Trace</summary>{render_trace_html(steps)}</details>"
    return f'<div>{"".join(parts)}<div style="{QUIET};margin-bottom:10px">{fold}</div></div>'


def render_chat_html(turns: Sequence[Mapping], account: str = "") -> str:
    """Return a finished conversation as HTML that runs nothing, for pages where widgets don't run.

    Args:
        turns: As `agent.describe_turn` gives them.
        account: HTML of the customer's orders and returns, as `render_account_html` gives it.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    return f"<div>{''.join(render_turn_html(turn, is_open=False) for turn in turns)}{account}</div>"


def render_account_html(store: sqlite3.Connection, customer_id: str | None, new: Sequence[str] = ()) -> str:
    """Return what the shop's database holds of a customer: the newest orders, and all returns.

    Args:
        store: The shop.
        customer_id: The signed-in customer; None is a guest.
        new: Ids of returns to set in bold.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    if customer_id is None:
        return f"<div><b>The shop's books</b><p>{GUEST}</p></div>"
    orders = """SELECT orders.id, placed_on, status, '$' || printf('%.2f', total), group_concat(name, '; ')
        FROM orders JOIN order_lines ON order_id = orders.id JOIN products ON products.id = product_id
        WHERE customer_id = ? GROUP BY orders.id ORDER BY placed_on DESC, orders.rowid DESC LIMIT ?"""
    returns = """SELECT returns.id, returns.status, '$' || printf('%.2f', sum(refund)), returns.order_id
        FROM returns JOIN orders ON orders.id = order_id WHERE customer_id = ? GROUP BY returns.id
        ORDER BY max(returns.rowid) DESC"""

    def table(title: str, heads: Sequence[str], rows: Sequence) -> str:
        lines = []
        for row in (heads, *rows):
            tag = "b" if row is heads or row[0] in new else "span"
            *texts, last = (f"<{tag}>{show_text(str(cell))}</{tag}>" for cell in row)
            cells = "".join(f'<td style="{CELL}{SHORT}">{text}</td>' for text in texts)
            lines.append(f'<tr>{cells}<td style="{CELL}">{last}</td></tr>')
        return f'<p style="margin:6px 0"><b>{title}</b></p><table style="font-size:85%">{"".join(lines)}</table>'

    placed = store.execute(orders, (customer_id, MOST_ORDERS)).fetchall()
    back = store.execute(returns, (customer_id,)).fetchall()
    return (
        f'<div style="line-height:1.35">'
        f"{table('Newest orders', ('order', 'placed', 'status', 'total', 'products'), placed)}"
        f"{table(f'Returns: {len(back)}', ('return', 'status', 'refund', 'order'), back)}</div>"
    )


class Chat:
    """One customer's conversation with the agent, and the widgets that show it.

    JupyterLab runs widgets' handlers in a thread of their own, so a lock lets one message through at a time.
    """

    def __init__(self, engine: Engine, store: sqlite3.Connection, customer_id: str | None):
        import ipywidgets

        self.engine, self.lock, self.build = engine, Lock(), ipywidgets
        found = "SELECT id, name, tier FROM customers ORDER BY id = ? DESC, id LIMIT ?"
        people = store.execute(found, (read_customer(store, customer_id), MOST_CUSTOMERS)).fetchall()
        options = [(GUEST, None)] + [(f"{row['id']} {row['name']} ({row['tier']})", row["id"]) for row in people]
        self.customer = ipywidgets.Dropdown(options=options, value=customer_id, description="Customer")
        self.restart = ipywidgets.Button(description="New conversation")
        self.log, self.consent, self.account = ipywidgets.VBox(), ipywidgets.VBox(), ipywidgets.HTML()
        self.text = ipywidgets.Text(placeholder="Write to the shop, then Enter", continuous_update=False)
        self.send, self.progress = ipywidgets.Button(description="Send", button_style="primary"), ipywidgets.HTML()
        self.store, self.page = store, self._lay_out()
        self.customer.observe(lambda _: self.start(), names="value")
        self.restart.on_click(lambda _: self.start())
        self.send.on_click(lambda _: self.say(self.text.value))
        self.text.on_msg(self._wait_for_text)
        self.start()

    def _lay_out(self):
        w, layout = self.build, self.build.Layout
        self.text.layout.flex, self.send.layout.width, self.customer.layout.width = "1 1 auto", "80px", "320px"
        self.log.layout.flex = "0 0 auto"
        # column-reverse: a browser keeps such a box scrolled to its end
        scrolled = w.Box([self.log], layout=layout(flex_flow="column-reverse", max_height="560px", overflow="auto"))
        top = w.HBox([self.customer, self.restart], layout=layout(flex_flow="row wrap"))
        talk = [top, scrolled, self.progress, self.consent, w.HBox([self.text, self.send])]
        books = w.VBox([self.account], layout=layout(flex="1 1 420px", margin="0 0 0 16px"))
        sides = [w.VBox(talk, layout=layout(flex="1 1 420px")), books]
        return w.HBox(sides, layout=layout(flex_flow="row wrap"))

    def _repr_mimebundle_(self, include=None, exclude=None):
        return self.page._repr_mimebundle_() | {"text/html": render_chat_html(self.turns, self.account.value)}

    def _wait_for_text(self, widget, content, buffers) -> None:
        if content.get("event") == "submit":
            Timer(ENTER_SECONDS, lambda: self.say(self.text.value)).start()

    def start(self) -> None:
        """Begin anew with the chosen customer; what was written into the shop stays."""
        with self.lock:
            self.session, self.conversation = Session(self.store, self.customer.value), Conversation()
            self.turns, self.asked, self.progress.value = [], (), ""
            self.log.children = self.consent.children = ()
            self._show_account()

    def say(self, text: str, button=None) -> None:
        """Send a message and show the answer; the second click of a double click finds nothing to press.

        Args:
            text: What the customer says; without words nothing is sent.
            button: The button that was pressed; one that isn't shown any more does nothing.
        """
        if not text.strip() or not self.lock.acquire(blocking=False):
            return
        try:
            if button is None or button in self.asked:
                self._answer(text)
        finally:
            self.lock.release()

    def _answer(self, text: str) -> None:
        self.asked = self.consent.children = ()
        self.text.value, steps = "", []
        if self.turns:
            self.log.children[-1].value = render_turn_html(self.turns[-1], is_open=False)
        page, draft = self.build.HTML(), []
        self.log.children += (page,)

        def follow(step) -> None:
            steps.append(step)
            draft.clear()
            page.value = render_turn_html(describe_turn(Turn("", tuple(steps))))
            self._show_progress(f"Thinking: {step.title} …")

        def write(piece: str) -> None:
            draft.append(piece)
            self._show_progress(f"ELM writes, not checked yet: {''.join(draft)}")

        self._disable(True)
        try:
            self.conversation, turn = run_turn(
                self.engine, self.session, self.conversation, text, on_step=follow, on_text=write
            )
            shown = describe_turn(turn)
        except (Exception, KeyboardInterrupt) as error:  # whatever happens, the customer reads a sentence
            shown = describe_turn(Turn("", tuple(steps))) | {"error": f"{type(error).__name__}: {error}"}
        finally:
            self._disable(False)
            self.progress.value = ""
        self.turns.append(shown)
        page.value = render_turn_html(shown)
        self._show_account()
        self._ask_consent()

    def _disable(self, busy: bool) -> None:
        for control in (self.customer, self.restart, self.text, self.send):
            control.disabled = busy

    def _show_progress(self, text: str) -> None:
        self.progress.value = f'<div style="{BUBBLE};{QUIET}"><i>{show_text(text)}</i></div>'

    def _show_account(self) -> None:
        new = [write["return_id"] for turn in self.turns for write in turn["writes"]]
        try:
            self.account.value = render_account_html(self.store, self.session.customer_id, new)
        except sqlite3.Error as error:
            self.account.value = f"<p>The shop's books can't be read: {escape(str(error))}</p>"

    def _ask_consent(self) -> None:
        """Show a yes and a no for the write that waits; each time new buttons, so an old click hits nothing."""
        if self.conversation.pending is None:
            return
        # the newest proposal is the one that waits
        proposed = [one for one in self.conversation.results if one.get("status") == "needs_confirmation"]
        refund = f": {', '.join(proposed[-1]['items'])}, refund ${proposed[-1]['refund']:.2f}"
        call = format_tool_call(self.conversation.pending).removeprefix("<tool_call>").removesuffix("</tool_call>")
        waiting = show_text(f"Waits for your yes{refund}\n{call}")
        yes, no = (self.build.Button(description=name) for name in ("Confirm", "Cancel"))
        yes.button_style = "warning"
        yes.on_click(lambda button: self.say("yes", button))
        no.on_click(lambda button: self.say("no", button))
        told = self.build.HTML(f'<div style="{BUBBLE};background-color:rgba({WARN},0.16)">{waiting}</div>')
        self.asked = (yes, no)
        self.consent.children = (told, self.build.HBox([yes, no]))


def show_chat(
    engine: Engine, store: sqlite3.Connection, customer_id: str | None = None, questions: Sequence[str] = ()
) -> Chat:
    """Return a chat with the shop's agent; let it be the last expression of a cell.

    Args:
        engine: The model.
        store: The shop; returns are written into it.
        customer_id: Who is signed in at first; None is a guest. The picker changes it, and begins a new conversation.
        questions: What the customer says at first, so that there is a conversation to see where no widgets run.

    Returns:
        Widgets that carry the conversation as plain HTML too, for pages such as GitHub.

    Raises:
        ValueError: The shop has no such customer.

    Shown in ``notebooks/06_build_agent.ipynb``.
    """
    chat = Chat(engine, store, customer_id)
    for text in questions:
        chat.say(text)
    return chat
