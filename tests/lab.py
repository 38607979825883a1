"""A JupyterLab on loopback and a browser: the fixtures that `conftest.py` hands to all tests, and what one does with them."""
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage", "--disable-extensions"]
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here; install one, or name it in CHROMIUM")
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},  # all cells stay in the page, so all can be checked
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url, seconds=60):
    "Waits until a server answers."
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    return False


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    "A JupyterLab on a copy of nbs/: (address, that copy). Nobody's settings are read and no notebook of the checkout is saved over."
    home = tmp_path_factory.mktemp("lab")
    notebooks = home / "nbs"
    shutil.copytree(ROOT / "nbs", notebooks, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "runs"))
    for name in ("tests", "environments"):  # some chapters read files of theirs
        (home / name).symlink_to(ROOT / name)
    for name, values in SETTINGS.items():
        path = home / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    env = {**os.environ, **{name: str(home / folder) for name, folder in folders.items()}}
    env["VIDEOSSR_CACHE"] = os.environ.get("VIDEOSSR_CACHE") or str(home / "cache")
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={notebooks}", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.password="]
    with open(home / "server.log", "w") as log:
        server = subprocess.Popen(command, cwd=notebooks, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        assert answers(f"{address}/api/status"), (home / "server.log").read_text()[-2000:]
        yield address, notebooks
    finally:
        server.terminate()  # shuts its kernels down as well
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def page():
    "A page in a headless browser; of a module only, because Playwright holds the thread's event loop while it is open."
    api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser; it comes with the extra dev")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS, timeout=60_000)
        yield browser.new_page(viewport={"width": 1400, "height": 1100})
        browser.close()


def run_all(page, address, name, picture, seconds=240):
    "Opens a notebook, runs it from the menu, waits for the last cell and takes a picture of the page."
    page.goto(f"{address}/lab/tree/{name}?reset", timeout=60_000)
    page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook", timeout=60_000)
    page.locator("#jp-main-statusbar").get_by_text("ipykernel) | Idle").wait_for(timeout=60_000)
    page.locator(".lm-MenuBar-itemLabel").get_by_text("Run", exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text("Restart Kernel and Run All Cells…", exact=True).click()
    page.locator(".jp-Dialog-button.jp-mod-warn").click()
    page.wait_for_function(
        """() => {
            const cells = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')].filter(cell => cell.querySelector('.cm-content').innerText.trim());
            const prompts = cells.map(cell => cell.querySelector('.jp-InputPrompt').innerText.trim());
            const failed = document.querySelector('.jp-Notebook [data-mime-type="application/vnd.jupyter.error"]');
            return failed || (prompts.length && prompts.every(prompt => /^\\[\\d+\\]:$/.test(prompt)));
        }""",
        timeout=1000 * seconds,
    )
    page.wait_for_timeout(500)  # the last picture
    page.screenshot(path=picture)


def shown(page):
    "What stands under the cells: widths of pictures, error texts, rendered widgets, other texts."
    return page.evaluate(
        """() => {
            const all = selector => [...document.querySelectorAll('.jp-Notebook ' + selector)];
            return {
                pictures: all('.jp-OutputArea-output img').map(picture => picture.naturalWidth),
                errors: all('[data-mime-type="application/vnd.jupyter.error"]').map(error => error.innerText),
                widgets: all('.jupyter-widgets').length,
                text: all('.jp-OutputArea-output').map(output => output.innerText).join('\\n'),
            };
        }"""
    )
