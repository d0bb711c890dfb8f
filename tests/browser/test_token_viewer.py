"""The token viewer as a learner meets it: the real lesson in a real JupyterLab in a real browser, on loopback."""

import json
import os
import shutil
import subprocess
import sys
import time

from elm_helpers.paths import ROOT, SAMPLE

import nbformat
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed: `make setup` installs it")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on the PATH (Debian: apt-get install chromium)")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
QUIET += ["--disable-sync", "--no-first-run"]
LESSON = "02_inspect_tokens.ipynb"


@pytest.fixture(scope="module")
def lesson(tmp_path_factory, base_model):
    """The address of a copy of the lesson, at its smoke size, in a JupyterLab that has its own settings."""
    folder = tmp_path_factory.mktemp("lab")
    book = nbformat.read(ROOT / "notebooks" / LESSON, as_version=4)
    cell = next(cell for cell in book.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in cell.metadata.nbmake.mock.items())
    nbformat.write(book, folder / LESSON)
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("RUNTIME", "CONFIG", "DATA")}
    env = os.environ | own | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / "ipython")}
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--port=0",
        f"--notebook-dir={folder}",
    ]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(300):  # the server writes its address into this file once it listens
            found = list((folder / "runtime").glob("jpserver-*.json"))
            if found or server.poll() is not None:
                break
            time.sleep(0.2)
        assert found, (folder / "log").read_text(encoding="utf-8")
        told = json.loads(found[0].read_text(encoding="utf-8"))
        yield f"{told['url']}lab/tree/{LESSON}?token={told['token']}&reset"
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def page(lesson):
    """The lesson in Chromium, after *Run All Cells*."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(120_000)
        page.goto(lesson)
        page.locator(".jp-Notebook").wait_for()
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.locator("button.jupyter-button", has_text="Next").wait_for()
        yield page
        browser.close()


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
    last = page.locator(".jp-OutputArea-output", has_text="of the loss would be on text that customers and tools write")
    last.wait_for(state="attached")
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
