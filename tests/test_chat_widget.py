"""The chat widget without a browser: texts are set, buttons pressed, and the shop's database is read."""

import re
import time
from html import unescape

from elm_helpers.agent import Conversation, describe_turn, run_turn
from elm_helpers.chat_widget import render_account_html, render_chat_html, show_chat
from elm_helpers.engines import Completion, Engine
from elm_helpers.tool_calls import ToolCall, format_tool_call
from elm_helpers.tools import Session

import pytest
from test_widgets import EVIL, Tags

CUSTOMER = "C0008"
TAGS = {"div", "p", "b", "small", "details", "summary", "i", "span", "table", "tr", "th", "td"}
SEARCH = '<tool_call>search_products(query="wireless headphones", max_price=100)</tool_call>'


def build_scripted(*lines):
    """An engine that says prepared lines, the last one for ever; an exception among them is raised."""
    left = list(lines)

    def complete(messages, *, on_text=None, **options):
        line = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(line, BaseException):
            raise line
        for piece in re.findall(r"\S+\s*", line) if on_text else ():
            on_text(piece)
        return Completion(line, 0, 0, 0.25, 0.0)

    return Engine("scripted", complete)


@pytest.fixture
def order(own_shop):
    query = """SELECT id FROM orders WHERE customer_id = ? AND status = 'delivered'
        AND id NOT IN (SELECT order_id FROM returns) ORDER BY delivered_on DESC"""
    return own_shop.execute(query, (CUSTOMER,)).fetchone()["id"]


@pytest.fixture
def waiting(own_shop, order):
    """A chat in which a return waits for a yes; what the engine says afterwards is always the same."""
    call = format_tool_call(ToolCall("initiate_return", {"order_id": order}))
    engine = build_scripted(call, "Shall I go ahead?", "Done.")
    return show_chat(engine, own_shop, CUSTOMER, [f"I want to return order {order}"])


def count_returns(shop, order) -> int:
    return shop.execute("SELECT count(DISTINCT id) FROM returns WHERE order_id = ?", (order,)).fetchone()[0]


def type_in(chat, text: str) -> None:
    chat.text.value = text
    chat.send.click()


def read(page: str) -> str:
    return unescape(re.sub(r"<[^>]*>", " ", page))


def test_a_typed_question_is_answered_with_the_trace_beside_it(own_shop):
    chat = show_chat(build_scripted(SEARCH, "I found some wireless headphones."), own_shop, CUSTOMER)
    type_in(chat, "wireless headphones under $100")
    (turn,) = chat.log.children
    text = read(turn.value)
    assert "Customer  wireless headphones under $100" in text and "I found some wireless headphones." in text
    assert SEARCH in text, "what the model wrote"
    assert "parsed:  search_products  query is 'wireless headphones'; max_price is 100" in text
    assert '"price"' in text, "the tool's result"
    assert [f"{n}. " in text for n in range(1, 8)] == [True] * 7
    assert "0.25 s" in text
    assert chat.text.value == ""


def test_enter_sends_what_arrives_just_after_it_once(own_shop):
    """The browser says "submit" before it sends the new value."""
    chat = show_chat(build_scripted("Hello."), own_shop, CUSTOMER)
    chat.text._handle_custom_msg({"event": "submit"}, [])
    chat.text.value = "hello there"
    for _ in range(100):
        if chat.turns:
            break
        time.sleep(0.05)
    chat.text._handle_custom_msg({"event": "focus"}, [])
    assert [turn["steps"][0]["text"] for turn in chat.turns] == ["hello there"]


@pytest.mark.parametrize("text", ["", "  \n"])
def test_nothing_is_sent_without_words(own_shop, text):
    chat = show_chat(build_scripted("Hello."), own_shop, CUSTOMER)
    type_in(chat, text)
    assert chat.turns == [] and chat.log.children == ()


def test_confirm_appears_when_a_write_waits_and_writes_once(waiting, own_shop, order):
    assert count_returns(own_shop, order) == 0
    told, buttons = waiting.consent.children
    assert f'initiate_return(order_id="{order}")' in read(told.value) and "refund $" in read(told.value)
    assert [button.description for button in buttons.children] == ["Confirm", "Cancel"]
    buttons.children[0].click()
    assert count_returns(own_shop, order) == 1
    assert waiting.turns[-1]["steps"][0]["text"] == "yes"
    assert waiting.consent.children == ()
    written = waiting.turns[-1]["writes"][0]["return_id"]
    assert f"<b>{written}</b>" in waiting.account.value


def test_a_double_click_on_confirm_sends_one_yes(waiting, own_shop, order):
    confirm = waiting.asked[0]
    confirm.click()
    confirm.click()
    assert len(waiting.turns) == 2 and count_returns(own_shop, order) == 1


def test_cancel_says_no_and_writes_nothing_and_a_late_confirm_does_nothing(waiting, own_shop, order):
    confirm, cancel = waiting.asked
    cancel.click()
    confirm.click()
    assert [turn["steps"][0]["text"] for turn in waiting.turns[1:]] == ["no"]
    assert count_returns(own_shop, order) == 0 and waiting.consent.children == ()


def test_an_old_confirm_cannot_agree_to_the_next_write(own_shop):
    """A double click whose second half arrives after another return was asked for."""
    rows = own_shop.execute(
        "SELECT id FROM orders WHERE customer_id = ? AND status = 'delivered' AND id NOT IN"
        " (SELECT order_id FROM returns) ORDER BY delivered_on DESC LIMIT 2",
        (CUSTOMER,),
    ).fetchall()
    first, second = (format_tool_call(ToolCall("initiate_return", {"order_id": row["id"]})) for row in rows)
    chat = show_chat(build_scripted(first, "Sure?", "Done.", "Done.", second, "Sure?"), own_shop, CUSTOMER)
    type_in(chat, "please return it")
    old = chat.asked[0]
    old.click()
    type_in(chat, "and return the other one")
    assert chat.conversation.pending
    old.click()
    assert [count_returns(own_shop, row["id"]) for row in rows] == [1, 0]


@pytest.mark.parametrize("error", [RuntimeError("the model is <b>gone</b>"), KeyboardInterrupt()])
def test_an_engine_that_fails_is_a_message_and_the_chat_goes_on(own_shop, error):
    chat = show_chat(build_scripted(error, "Hello again."), own_shop, CUSTOMER, ["hello"])
    text = read(chat.log.children[0].value)
    assert type(error).__name__ in text and "Traceback" not in text
    assert Tags(chat.log.children[0].value).tags <= TAGS
    assert not chat.send.disabled and chat.progress.value == ""
    type_in(chat, "hello?")
    assert chat.turns[-1]["answer"] == "Hello again." and len(chat.log.children) == 2


def test_a_confirmation_that_failed_can_be_tried_again_and_writes_once(own_shop, order):
    call = format_tool_call(ToolCall("initiate_return", {"order_id": order}))
    chat = show_chat(build_scripted(call, "Sure?", OSError("gone"), "Done."), own_shop, CUSTOMER, ["please return it"])
    chat.asked[0].click()
    assert count_returns(own_shop, order) == 1
    for button in chat.asked[:1]:
        button.click()
    assert count_returns(own_shop, order) == 1


def test_a_shop_that_cannot_be_read_is_a_message(own_shop):
    chat = show_chat(build_scripted("Hello."), own_shop, CUSTOMER)
    own_shop.execute("DROP TABLE returns")
    type_in(chat, "hello")
    assert "can't be read" in chat.account.value


def test_controls_are_locked_and_the_draft_is_seen_while_the_model_writes(own_shop):
    seen = []

    def complete(messages, *, on_text=None, **options):
        on_text("It <i>is")
        seen.append((chat.send.disabled, chat.text.disabled, chat.customer.disabled, read(chat.progress.value).strip()))
        chat.say("a second message meanwhile")
        return Completion("Hello.", 0, 0, 0.0, 0.0)

    chat = show_chat(Engine("scripted", complete), own_shop, CUSTOMER)
    type_in(chat, "hello")
    assert seen == [(True, True, True, "ELM writes, not checked yet: It <i>is")]
    assert len(chat.turns) == 1 and not chat.send.disabled


def test_a_reset_and_another_customer_clear_the_conversation_and_keep_the_shop(waiting, own_shop, order):
    confirm = waiting.asked[0]
    waiting.customer.value = "C0001"
    assert waiting.turns == [] and waiting.log.children == () and waiting.consent.children == ()
    assert waiting.conversation == Conversation() and waiting.session.customer_id == "C0001"
    assert order not in waiting.account.value
    confirm.click()
    assert count_returns(own_shop, order) == 0
    type_in(waiting, "hello")
    waiting.restart.click()
    assert waiting.turns == [] and waiting.session == Session(own_shop, "C0001")


def test_a_customer_that_the_shop_does_not_know_is_refused(own_shop):
    with pytest.raises(ValueError, match="C9999"):
        show_chat(build_scripted("Hello."), own_shop, "C9999")


def test_the_picker_offers_the_signed_in_customer_of_a_shop_with_very_many(own_shop):
    more = [(f"B{n:05}", "none") for n in range(1000)]
    own_shop.executemany("INSERT INTO customers (id, tier) VALUES (?, ?)", more)
    chat = show_chat(build_scripted("Hello."), own_shop, CUSTOMER)
    assert chat.customer.value == CUSTOMER and len(chat.customer.options) < 600


def test_a_guest_sees_no_books(own_shop):
    chat = show_chat(build_scripted("Hello."), own_shop)
    assert "nobody is signed in" in chat.account.value and "<table" not in chat.account.value


def test_what_anybody_typed_never_becomes_a_tag(own_shop, order):
    own_shop.execute("UPDATE products SET name = name || ?", (EVIL,))
    own_shop.execute("UPDATE customers SET name = name || ?", (EVIL,))
    call = format_tool_call(ToolCall("initiate_return", {"order_id": order, "reason": EVIL}))
    chat = show_chat(build_scripted(call, EVIL, "plain"), own_shop, CUSTOMER, [f"{EVIL} return {order}"])
    pages = [chat.log.children[0].value, chat.account.value, chat.consent.children[0].value]
    pages.append(chat._repr_mimebundle_()["text/html"])
    for page in pages:
        seen = Tags(page)
        assert "onerror" in read(page) or "onerror" in page
        assert seen.tags <= TAGS and seen.attributes <= {"style", "open"}


def test_where_no_widgets_run_the_same_conversation_is_html(waiting, order):
    bundle = waiting._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    text = read(bundle["text/html"])
    assert f"I want to return order {order}" in text and waiting.turns[0]["answer"] in text
    assert "Newest orders" in text and "4. The agent runs initiate_return" in text
    assert "<script" not in bundle["text/html"] and " open" not in bundle["text/html"]


def test_a_finished_conversation_can_be_rendered_without_a_widget(own_shop):
    session = Session(own_shop, CUSTOMER)
    after, turn = run_turn(build_scripted(SEARCH, "It costs $777."), session, Conversation(), "headphones under $100")
    page = render_chat_html([describe_turn(turn)], render_account_html(own_shop, CUSTOMER))
    assert "The check replaced what the model said" in page and "Newest orders" in page
