"""The chat as a page of its own: Voilà serves it, a scripted engine answers, and the shop is a file to look into."""

import sqlite3

from elm_helpers.store import build_store

import nbformat
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed: `make setup` installs it")
CUSTOMER = "C0008"
EVIL = "<img src=x onerror=document.title='owned'> <b>hello</b>"
PAGE = """
from time import sleep
from elm_helpers.chat_widget import show_chat
from elm_helpers.engines import Completion, Engine
from elm_helpers.store import open_store

lines = {lines!r}

def complete(messages, on_text=None, **options):
    line = lines.pop(0) if lines else "Done."
    for word in line.split(" ") if on_text else ():
        on_text(word + " ")
        sleep(0.1)
    if line == "fail":
        raise RuntimeError("the model is <b>gone</b>")
    return Completion(line, 0, 0, 0.1, 0.1)

show_chat(Engine("scripted", complete), open_store({path!r}), {customer!r})
"""


@pytest.fixture(scope="module")
def order(lab):
    """A shop's file beside the page, and an order in it that can go back."""
    shop = build_store(lab[0] / "store.db")
    query = """SELECT id FROM orders WHERE customer_id = ? AND status = 'delivered'
        AND id NOT IN (SELECT order_id FROM returns) ORDER BY delivered_on DESC"""
    order = shop.execute(query, (CUSTOMER,)).fetchone()["id"]
    shop.close()
    return order


@pytest.fixture(scope="module")
def page(lab, order, open_page):
    folder, told = lab
    lines = [EVIL, "fail", f'<tool_call>initiate_return(order_id="{order}")</tool_call>', "Shall I return it?", "Done."]
    code = PAGE.format(lines=lines, path=str(folder / "store.db"), customer=CUSTOMER)
    kernel = {"display_name": "Python 3", "name": "python3", "language": "python"}
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)], metadata={"kernelspec": kernel})
    nbformat.write(book, folder / "chat.ipynb")
    page = open_page(f"{told['url']}voila/render/chat.ipynb?token={told['token']}")
    page.get_by_role("button", name="Send").wait_for()
    yield page
    page.close()


def ask(page, text: str) -> None:
    box = page.get_by_placeholder("Write to the shop")
    box.fill(text)
    box.press("Enter")


def count_returns(lab, order: str) -> int:
    with sqlite3.connect(lab[0] / "store.db") as shop:
        return shop.execute("SELECT count(DISTINCT id) FROM returns WHERE order_id = ?", (order,)).fetchone()[0]


def test_a_page_answers_shows_a_failure_and_returns_an_order_once(page, lab, order, keep_picture):
    ask(page, EVIL)
    page.get_by_text("7. The customer reads").wait_for()
    assert page.title() != "owned" and page.locator("img[src=x]").count() == 0, "what was said is text"
    ask(page, "anybody there?")
    page.get_by_text("RuntimeError: the model is <b>gone</b>").wait_for()
    ask(page, f"I want to return order {order}")
    confirm = page.get_by_role("button", name="Confirm")
    confirm.wait_for()
    assert count_returns(lab, order) == 0
    confirm.dblclick()
    page.locator("td b", has_text=f"RET-{order}").wait_for()  # the new return, in bold among the books
    sync_api.expect(page.get_by_role("button", name="Send")).to_be_enabled()
    sync_api.expect(confirm).to_have_count(0)
    assert count_returns(lab, order) == 1
    assert page.get_by_text("Customer yes").count() == 1, "a double click is one yes"
    keep_picture(page, "voila_chat")


def test_another_customer_begins_a_new_conversation(page):
    page.locator(".widget-dropdown select").select_option(label="nobody is signed in")
    sync_api.expect(page.get_by_text("The shop's books")).to_be_visible()
    assert page.get_by_text("Customer yes").count() == 0
