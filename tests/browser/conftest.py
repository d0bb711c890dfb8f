"""A real JupyterLab and a real Chromium, on loopback, for the lessons as a learner meets them."""

import json
import os
import shutil
import subprocess
import sys
import time

from elm_helpers.paths import OUTPUTS, ROOT

import nbformat
import pytest

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
QUIET += ["--disable-sync", "--no-first-run"]
LONG = 240_000  # milliseconds that a whole lesson may take
PICTURES = OUTPUTS / "browser"


@pytest.fixture(scope="module")  # not longer: Playwright holds an event loop, and other tests need their own
def chromium():
    """The system's Chromium, headless."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed: `make setup` installs it")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no `chromium` on the PATH (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def open_page(chromium):
    """A function: an address in a window of a laptop's size."""

    def open_address(address: str):
        page = chromium.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(60_000)
        page.goto(address)
        return page

    return open_address


@pytest.fixture(scope="session")
def keep_picture():
    """A function: keeps what a page, or a part of it, looks like under ``outputs/browser/``."""

    def keep(seen, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        seen.screenshot(path=PICTURES / f"{name}.png")

    return keep


def start_server(folder, module: str, *options: str):
    """Start a Jupyter server with settings of its own; return the process and what it tells of itself."""
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("RUNTIME", "CONFIG", "DATA")}
    calm = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
    (folder / "config" / "labconfig").mkdir(parents=True)
    (folder / "config" / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(calm), encoding="utf-8")
    env = os.environ | own | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / "ipython")}
    command = [sys.executable, "-m", module, "--no-browser", "--allow-root", "--port=0", *options]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    for _ in range(300):  # the server writes its address into this file once it listens
        found = list((folder / "runtime").glob("jpserver-*.json"))
        if found or server.poll() is not None:
            break
        time.sleep(0.2)
    assert found, (folder / "log").read_text(encoding="utf-8")
    return server, json.loads(found[0].read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory, chromium):
    """A running JupyterLab, which also serves notebooks as Voilà pages: its folder, and what it tells of itself."""
    folder = tmp_path_factory.mktemp("lab")
    server, told = start_server(folder, "jupyterlab", f"--notebook-dir={folder}")
    yield folder, told
    server.terminate()
    server.wait(timeout=30)


@pytest.fixture(scope="module")
def open_lesson(lab, open_page, base_model):
    """A function: the lesson at its smoke size in JupyterLab, run until the text `last` is there; `extra` is a cell."""
    folder, told = lab

    def run(lesson: str, last: str, extra: str = ""):
        book = nbformat.read(ROOT / "notebooks" / lesson, as_version=4)
        cell = next(cell for cell in book.cells if "parameters" in cell.metadata.get("tags", []))
        cell.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in cell.metadata.nbmake.mock.items())
        book.cells += [nbformat.v4.new_code_cell(extra)] if extra else []
        nbformat.write(book, folder / lesson)
        page = open_page(f"{told['url']}lab/tree/{lesson}?token={told['token']}&reset")
        page.locator(".jp-Notebook").wait_for()
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.locator(".jp-OutputArea-output", has_text=last).last.wait_for(state="attached", timeout=LONG)
        return page

    return run
