"""JupyterLab in headless Chromium, for the tests that look at a chapter as a learner does."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen
from typing import Any

import psutil
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from egresslab.lab import jupyter, waits

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
TOKEN = "for-this-test-only"
START_S = 120.0


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def jupyterlab(lab: str, kubeconfig: Path, chapters: Path, log: Path) -> Iterator[str]:
    """The server as `egresslab labs open` starts it, on a copy of the chapters; yields the address of JupyterLab."""
    port = free_port()
    options = [f"--IdentityProvider.token={TOKEN}", "--LabApp.expose_app_in_browser=True", "--ServerApp.port_retries=0"]
    start = jupyter.launch(lab, kubeconfig, chapters, port=port, browser=False, options=options)
    with log.open("wb") as file:
        server = Popen(list(start.command), env=dict(start.environment), stdin=DEVNULL, stdout=file, stderr=STDOUT)
    try:
        waits.wait_for("JupyterLab to listen", lambda: _listens(port), timeout_s=START_S)
        yield f"http://127.0.0.1:{port}/lab/tree/{jupyter.FIRST}?token={TOKEN}"
    finally:
        family = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
        for member in family:
            member.terminate()
        _, alive = psutil.wait_procs(family, timeout=5)
        for member in alive:
            member.kill()
        server.wait(timeout=10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def chromium(directory: Path) -> Iterator[Chrome]:
    """A browser with a profile of its own."""
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    sizes = ("--window-size=1400,1600", "--force-device-scale-factor=1")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={directory}", *sizes):
        options.add_argument(argument)
    driver = Chrome(options, Service(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def execute(driver: Chrome, command: str, arguments: str = "{}") -> Any:
    """Run one of JupyterLab's own commands, as its menus do, and wait for it."""
    call = f"window.jupyterapp.commands.execute({command!r}, {arguments})"
    return driver.execute_async_script(f"{call}.then(() => arguments[0](true), e => arguments[0]('' + e))")


def wait(driver: Chrome, seconds: float, script: str) -> Any:
    """Wait until a script in the page gives something true, and return it."""
    return WebDriverWait(driver, seconds, poll_frequency=0.2).until(lambda d: d.execute_script(script))
