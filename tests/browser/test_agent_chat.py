"""Lesson 6 as a learner meets it: run in a real JupyterLab with the real model, then talked to in a real browser."""

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed: `make setup` installs it")
LOOK = """query = "SELECT order_id, status FROM returns ORDER BY rowid DESC LIMIT 1"
print("rows:", *map(tuple, shop.execute(query)))"""
CUSTOMER = "C0008"


@pytest.fixture(scope="module")
def page(open_lesson):
    """The lesson in Chromium, after *Run All Cells*, with one more cell that looks into the shop's database."""
    page = open_lesson("06_build_agent.ipynb", "rows: (", extra=LOOK)
    page.get_by_role("button", name="Send").wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    yield page
    page.close()


@pytest.fixture(scope="module")
def order(shop):
    """An order that can go back and that the lesson leaves alone: it returns the two newest with one product."""
    query = """SELECT id FROM orders WHERE customer_id = ? AND status = 'delivered' AND id NOT IN
        (SELECT order_id FROM returns) AND (SELECT count(*) FROM order_lines WHERE order_id = orders.id) = 1
        ORDER BY delivered_on DESC"""
    return [row["id"] for row in shop.execute(query, (CUSTOMER,))][2]


def ask(page, text: str):
    """Type a message, press Enter, and return the turn that it became once it is answered."""
    box = page.get_by_placeholder("Write to the shop")
    box.fill(text)
    box.press("Enter")
    turn = page.locator(".widget-html-content", has_text=text).filter(has_text="7. The customer reads")
    turn.last.wait_for()
    return turn.last


def test_the_lesson_shows_the_learner_no_error_and_no_warning(page):
    progress = page.locator("[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts()
    assert not "".join(progress).strip(), "bars that wipe themselves away are all that goes there"
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0


def test_a_question_is_answered_and_a_return_is_confirmed_with_the_button(page, order, keep_picture):
    turn = ask(page, "Find a coffee grinder under $80")
    sync_api.expect(turn).to_contain_text("parsed: search_products")
    sync_api.expect(turn).to_contain_text("5. ELM is asked again, with the result")
    sync_api.expect(turn.locator("div", has_text="ELM").first).to_be_visible()
    page.get_by_role("button", name="New conversation").click()
    sync_api.expect(turn).to_have_count(0)
    ask(page, f"I want to return order {order}")
    confirm = page.get_by_role("button", name="Confirm")
    confirm.wait_for()
    keep_picture(page.locator(".jp-OutputArea-output", has=confirm), "agent_chat_waiting")
    confirm.dblclick()
    confirm.wait_for(state="detached")
    books = page.locator(".widget-html-content", has_text="Newest orders")
    sync_api.expect(books.locator("td b", has_text=f"RET-{order}")).to_have_count(1)
    keep_picture(page.locator(".jp-OutputArea-output", has=books), "agent_chat")
    cell = page.locator(".jp-CodeCell", has_text='print("rows:"').last
    cell.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    sync_api.expect(cell.locator(".jp-OutputArea-output")).to_contain_text(f"rows: ('{order}', 'approved')")
