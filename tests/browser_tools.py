"""A real browser for the tests: JupyterLab, Voila and plain pages, driven in Chromium through selenium.

What bites, and what is done about it: JupyterLab says "Idle" before it takes a Run All, so the command is repeated
until a prompt fills; its settings, workspaces and runtime files live in folders of this test alone; a picture's address
is a `blob:`, so pictures are compared by a hash that the page itself computes.

FAIRRECON_PATIENCE=5 makes every wait five times as long, for a machine that is busy with something else.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
ARTIFACTS = Path(os.environ.get("FAIRRECON_ARTIFACTS") or ROOT / "artifacts" / "browser")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--force-device-scale-factor=1")  # fmt: skip
PATIENCE = float(os.environ.get("FAIRRECON_PATIENCE") or 1)
HARMLESS = ("favicon", "fonts.googleapis", "cdn.jsdelivr.net", "Font Awesome")  # fetched for looks, absent offline
PROMPTS = "[...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')].map(e => e.innerText.trim())"
HASH = """
const [image, done] = arguments;
fetch(image.src).then(reply => reply.arrayBuffer()).then(bytes => {
  let hash = 2166136261;
  for (const byte of new Uint8Array(bytes)) hash = Math.imul(hash ^ byte, 16777619);
  done((hash >>> 0) + "/" + bytes.byteLength);
}).catch(() => done(""));
"""


def absent() -> str:
    """Why no browser can be driven here; empty when one can."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "needs selenium: install the extra 'test'"
    lacking = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    return f"needs {' and '.join(lacking)}: apt-get install chromium chromium-driver" if lacking else ""


def require_browser() -> None:
    """Skip the test with a reason where there is no browser; in CI (FAIRRECON_CI=1) fail instead."""
    if reason := absent():
        (pytest.fail if os.environ.get("FAIRRECON_CI") == "1" else pytest.skip)(reason)


# ---------------------------------------------------------------------------------------------------- servers


@contextlib.contextmanager
def serving(kind: str, folder: Path, scratch: Path, target: str = "", **environment) -> Iterator[str]:
    """JupyterLab ("lab") or Voila ("voila") on `folder`, with every file of its own in `scratch`; yields its address.

    `target` is the notebook that Voila shows; `environment` is added for the kernels.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    private = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "JUPYTERLAB_SETTINGS_DIR": "settings", "IPYTHONDIR": "ipython",
    }  # fmt: skip
    variables = os.environ | {name: str(scratch / part) for name, part in private.items()} | environment
    _quiet_lab(scratch / "settings")
    log = (scratch / f"{kind}.log").open("w+", encoding="utf-8")
    server = subprocess.Popen(
        _command(kind, folder, port, target), cwd=folder, env=variables, stdout=log, stderr=log, start_new_session=True
    )
    try:
        _wait_for_port(server, port, Path(log.name))
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
        log.close()


def _command(kind: str, folder: Path, port: int, target: str) -> list[str]:
    if kind == "voila":
        return [sys.executable, "-m", "voila", target, "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1",
                "--show_tracebacks=True", "--VoilaConfiguration.extension_denylist=jupyterlab-jupytext"]  # fmt: skip
    return [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
            "--ServerApp.port_retries=0", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}",
            "--ServerApp.disable_check_xsrf=True",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]  # fmt: skip


def _quiet_lab(settings: Path) -> None:
    """No news and no update toasts: they cover cells."""
    folder = settings / "@jupyterlab" / "apputils-extension"
    folder.mkdir(parents=True, exist_ok=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
    (folder / "notification.jupyterlab-settings").write_text(json.dumps(quiet))


def _wait_for_port(server: subprocess.Popen, port: int, log: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start:\n{log.read_text(encoding='utf-8')[-3000:]}")


# ---------------------------------------------------------------------------------------------------- pages


class Page:
    """One browser window, with the few verbs that the tests need.

    Parameters
    ----------
    width, height : int
        Of the window in CSS pixels. Tall enough, JupyterLab keeps every cell in the page.
    """

    def __init__(self, width: int = 1300, height: int = 1500):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in (*FLAGS, f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.page_load_strategy = "none"  # Voila answers after the notebook has run: our own waits are longer
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(
            options=options, service=webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        )
        self.resize(width, height)
        self.driver.set_script_timeout(30 * PATIENCE)

    def resize(self, width: int, height: int) -> None:
        """Give the page itself (not the window around it) this size in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, address: str) -> None:
        """Go to an address; messages of the page before are forgotten. A file is there to its last element after it."""
        self.script("window.isBefore = true")
        self.driver.get(address)
        self.driver.get_log("browser")
        if address.startswith("file:"):
            there = "return document.readyState === 'complete' && location.protocol === 'file:' && !window.isBefore"
            self.wait(lambda: self.script(there), f"{address} did not load")

    def script(self, source: str, *arguments):
        """Run JavaScript in the page and return what it returns."""
        return self.driver.execute_script(source, *arguments)

    def all(self, selector: str) -> list:
        """Every element that matches a CSS selector."""
        return self.driver.find_elements("css selector", selector)

    def wait(self, condition: Callable, what: str, seconds: float = 60, pause: float = 0.05):
        """The first true answer of `condition()`; fails with `what` and a screenshot after `seconds`."""
        end = time.monotonic() + seconds * PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(Exception):  # an element may be replaced while we look at it
                if answer := condition():
                    return answer
            time.sleep(pause)
        self.screenshot("failed")
        raise AssertionError(f"waited {seconds * PATIENCE:g} s in vain: {what}")

    def first(self, selector: str, seconds: float = 60):
        """The first element that matches, scrolled into view."""
        reveal = "const e = document.querySelector(arguments[0]); e && e.scrollIntoView({block: 'center'}); return e"
        return self.wait(lambda: self.script(reveal, selector), f"no {selector} in the page", seconds)

    def hash(self, image) -> str:
        """A hash of the bytes of an <img>, computed in the page; empty while it has none."""
        return self.driver.execute_async_script(HASH, image)

    def new_picture(self, image, old: str, seconds: float = 30) -> float:
        """Wait until an <img> shows other bytes than `old`; the seconds it took."""
        began = time.monotonic()
        self.wait(lambda: self.hash(image) not in ("", old), "the picture did not change", seconds, pause=0.01)
        return time.monotonic() - began

    def press(self, element, *keys: str) -> None:
        """Focus an element as Tab would, and press keys."""
        from selenium.webdriver import ActionChains

        self.script("arguments[0].focus()", element)
        ActionChains(self.driver).send_keys(*keys).perform()

    def keys(self, keys: str) -> None:
        """Type into what has the focus; a control key at the beginning is held for the rest."""
        from selenium.webdriver import ActionChains, Keys

        actions = ActionChains(self.driver)
        if keys[0] == Keys.CONTROL:
            actions.key_down(Keys.CONTROL).send_keys(keys[1:]).key_up(Keys.CONTROL)
        else:
            actions.send_keys(keys)
        actions.perform()

    def drag(self, handle, pixels: float) -> None:
        """Take an element with the mouse, move it sideways in steps, let go."""
        from selenium.webdriver import ActionChains

        actions = ActionChains(self.driver, duration=20).click_and_hold(handle)
        for _ in range(8):
            actions = actions.move_by_offset(round(pixels / 8), 0)
        actions.release().perform()

    def severe(self) -> list[str]:
        """Errors in the page's console, less those of decorations fetched from elsewhere."""
        entries = self.driver.get_log("browser")
        return [
            e["message"][:300]
            for e in entries
            if e["level"] == "SEVERE" and not any(h in e["message"] for h in HARMLESS)
        ]

    def screenshot(self, name: str) -> Path:
        """Keep what the window shows as artifacts/browser/<name>.png."""
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTIFACTS / f"{name}.png"
        self.driver.save_screenshot(str(path))
        return path

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()


# ---------------------------------------------------------------------------------------------------- JupyterLab


def run_all(page: Page, address: str, notebook: str, seconds: float = 180) -> None:
    """Open a notebook in JupyterLab and run all of its cells; fails if one raises."""
    page.open(f"{address}/lab/tree/{notebook}?reset")
    page.first(".jp-Notebook .jp-CodeCell", 120)
    ready = "return document.querySelector('.jp-Notebook-ExecutionIndicator[data-status=idle]') && "
    ready += "/Python/.test(document.querySelector('.jp-Toolbar-kernelName')?.innerText)"
    page.wait(lambda: page.script(ready), "the kernel did not start", 90)
    started = f"return {PROMPTS}.some(t => /\\[(\\d+|\\*)\\]/.test(t))"
    for _ in range(10):  # "idle" comes before the session takes requests: ask again until a prompt fills
        time.sleep(1)
        for accept in page.all(".jp-Dialog .jp-mod-accept"):  # "Select Kernel", when asked too early
            accept.click()
        with contextlib.suppress(Exception):  # the menu may still be moving
            next(item for item in page.all(".lm-MenuBar-item") if item.text == "Run").click()
            page.first(".lm-Menu-item[data-command='runmenu:run-all']", 5).click()
            page.wait(lambda: page.script(started), "nothing runs", 5)
            break
    waiting = f"return {PROMPTS}.some(t => /\\[[ *]?\\]/.test(t))"  # [ ] not run yet, [*] at work; hidden code has none
    done = lambda: not page.script(waiting) and page.script(ready)
    page.wait(lambda: done() or page.all(ERROR), "the notebook did not finish", seconds, pause=0.2)
    errors = [element.text[-800:] for element in page.all(ERROR)]
    assert not errors, f"{notebook}: {errors[0]}"


def cell_with(page: Page, text: str):
    """The first cell of the open notebook that shows `text`, scrolled to; scrolls on while it is not drawn."""
    cells = "[...document.querySelectorAll('.jp-Notebook .jp-Cell')]"
    found = f"return {cells}.find(cell => cell.innerText.includes(arguments[0]))"
    if cell := page.script(found, text):
        page.script("arguments[0].scrollIntoView({block: 'center'})", cell)
        return cell
    page.script(
        "const o = document.querySelector('.jp-WindowedPanel-outer'); if (!o) return; const end = o.scrollHeight - 5;"
        "o.scrollTop = o.scrollTop + o.clientHeight >= end ? 0 : o.scrollTop + 600"
    )
    return None


ERROR = ".jp-Notebook .jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']"


def stop_kernels(address: str) -> None:
    """End every kernel of a JupyterLab server, as a reader does before the next notebook."""
    with urllib.request.urlopen(f"{address}/api/kernels", timeout=60) as reply:
        kernels = json.load(reply)
    for kernel in kernels:
        request = urllib.request.Request(f"{address}/api/kernels/{kernel['id']}", method="DELETE")
        urllib.request.urlopen(request, timeout=60).close()


def smoke_run(tmp_path_factory) -> Path:
    """The folder for $FAIRRECON_RUNS with a finished smoke run: that of $FAIRRECON_SMOKE, or one made now.

    The workers of one test run share it: the first makes it, the others wait. That of $FAIRRECON_SMOKE may still be
    under way, as in `.ci/run`: then its output is in a file beside it, `.log`, and its end is told by another one.
    """
    if given := os.environ.get("FAIRRECON_SMOKE"):
        log, done, failed = (Path(f"{given}.{end}") for end in ("log", "done", "failed"))
        while log.exists() and not done.exists():
            assert not failed.exists(), log.read_text(encoding="utf-8")[-4000:]
            time.sleep(0.5)
        return Path(given)
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    runs, done = base / "smoke-runs", base / "smoke-runs.done"
    with FileLock(base / "smoke-runs.lock"):
        if not done.exists():
            environment = dict(os.environ, FAIRRECON_RUNS=str(runs), FAIRRECON_HOME=str(ROOT), FAIRRECON_LEGIBLE="1")
            command = [sys.executable, "-m", "fairrecon_lab.cli", "smoke"]
            made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            assert made.returncode == 0, made.stderr[-4000:]
            done.touch()
    return runs


def has_widget(source: Path) -> bool:
    """Whether a notebook's source has a cell tagged "widget"."""
    return '# %% tags=["widget"]' in source.read_text(encoding="utf-8")


def smoke_copy(notebook: Path, folder: Path) -> Path:
    """A copy of a notebook in `folder` whose profile is smoke."""
    content = nbformat.read(notebook, as_version=4)
    cell = next(cell for cell in content.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source = cell.source.replace('profile = "tutorial"', 'profile = "smoke"')
    assert "smoke" in cell.source.splitlines()[0], f"{notebook.name}: the parameters cell has another form"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / notebook.name
    nbformat.write(content, path)
    return path
