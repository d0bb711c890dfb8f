"""The token viewer as a learner meets it: the real lesson in a real JupyterLab in a real browser, on loopback."""

import json

from elm_helpers.paths import SAMPLE

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed: `make setup` installs it")


LAST = "of the loss would be on text that customers and tools write"


@pytest.fixture(scope="module")
def page(open_lesson):
    """The lesson in Chromium, after *Run All Cells*."""
    page = open_lesson("02_inspect_tokens.ipynb", LAST)
    page.locator("button.jupyter-button", has_text="Next").wait_for()
    yield page
    page.close()


@pytest.fixture(scope="module")
def rows():
    lines = (SAMPLE / "ecommerce_train.json").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:40]]


def test_colours_bold_and_ids_survive_jupyterlabs_sanitizer(page):
    shown = page.locator(".widget-html-content")
    colours = shown.locator("i").evaluate_all("all => all.map(i => getComputedStyle(i.parentElement).backgroundColor)")
    assert len(set(colours)) >= 3
    weights = shown.locator("b[title]").evaluate_all("all => all.map(b => getComputedStyle(b).fontWeight)")
    assert weights and all(int(weight) >= 600 for weight in weights)
    first = shown.locator("[title^='id ']").first
    assert first.get_attribute("title") == "id 1, only read, special, BOS"
    sync_api.expect(first.locator("sub")).to_have_text("1 BOS")


def test_next_the_task_list_and_the_ids_box_change_what_is_shown(page, rows):
    shown = page.locator(".widget-html-content")
    sync_api.expect(shown).to_contain_text(f"row {rows[0]['id']}")
    page.locator("button.jupyter-button", has_text="Next").click()
    sync_api.expect(shown).to_contain_text(f"row {rows[1]['id']}")
    page.locator(".widget-dropdown select").select_option("categorization")
    page.locator(".widget-checkbox input").uncheck()
    sync_api.expect(shown).to_contain_text("Category: ")  # without ids between its tokens
    tasks = {row["id"]: row["task"] for row in rows}
    assert tasks[shown.locator("p").first.inner_text().removeprefix("row ")] == "categorization"


def test_the_lesson_shows_the_learner_no_error_and_no_warning(page):
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
