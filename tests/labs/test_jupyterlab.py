"""What a learner sees: chapter 00 in JupyterLab, all cells run, the marks of the checks, in light and in dark."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from egresslab.environments.netns.environment import NetnsEnvironment
from egresslab.lab import chapters, jupyter
from egresslab.lab.progress import STATE_VARIABLE

browser = pytest.importorskip("tests.labs.browser", reason="needs selenium", exc_type=ImportError)

pytestmark = [pytest.mark.root, pytest.mark.slow]

OPEN = "return !!window.jupyterapp && document.querySelectorAll('.jp-NotebookPanel .jp-InputPrompt').length > 5"
READY = "return (document.querySelector('.jp-Notebook-ExecutionIndicator') || {dataset: {}}).dataset.status === 'idle'"
MARKS = "return [...document.querySelectorAll('.egresslab-check strong')].map(e => e.textContent)"
OVER = "return [...document.querySelectorAll('.jp-RenderedText')].some(e => /removed namespace/.test(e.textContent))"
CONTRAST = """
const box = document.querySelector('.egresslab-check'), style = getComputedStyle(box);
const ground = getComputedStyle(document.querySelector('.jp-Notebook')).backgroundColor;
const level = text => { const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(
    v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126*r + 0.7152*g + 0.0722*b };
const [a, b] = [level(style.color), level(ground)].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05);
"""


@pytest.mark.timeout(180)
@pytest.mark.skipif(not browser.DRIVER.exists(), reason="needs the packages chromium and chromium-driver")
def test_a_learner_runs_all_cells_of_the_first_chapter_and_sees_the_marks(
    lab_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    labs = tmp_path / "labs"
    shutil.copytree(chapters.home(), labs)
    kubeconfig = NetnsEnvironment(lab_name).kubeconfig()
    pictures = Path(os.environ.get("EGRESSLAB_SCREENSHOTS", str(tmp_path)))
    with (
        browser.jupyterlab(lab_name, kubeconfig, labs, tmp_path / "server.log") as address,
        browser.chromium(tmp_path / "profile") as driver,
    ):
        driver.set_script_timeout(90)
        driver.get(address)
        browser.wait(driver, 60, OPEN)
        opened = "return window.jupyterapp.shell.currentWidget.context.path"
        assert driver.execute_script(opened) == jupyter.FIRST
        browser.wait(driver, 60, READY)
        assert browser.execute(driver, "notebook:run-all-cells") is True
        browser.wait(driver, 60, OVER)
        marks = driver.execute_script(MARKS)
        assert marks == ["✔ pass", "✔ pass", "… not attempted"]
        assert not driver.execute_script("return document.querySelector('.jp-RenderedText[data-mime-type$=stderr]')")
        for theme in ("JupyterLab Light", "JupyterLab Dark"):
            assert browser.execute(driver, "apputils:change-theme", f"{{theme: '{theme}'}}") is True
            light = str(theme.endswith("Light")).lower()
            browser.wait(driver, 20, f"return document.body.dataset.jpThemeLight === '{light}'")
            browser.wait(driver, 20, "return !document.querySelector('#jupyterlab-splash')")
            assert driver.execute_script(CONTRAST) > 7, theme
            driver.execute_script("document.querySelector('.egresslab-topology').scrollIntoView()")
            driver.save_screenshot(str(pictures / f"{theme.split()[1].lower()}.png"))


def test_a_terminal_knows_the_lab_and_completes_kubectl(
    lab_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path))
    kubeconfig = NetnsEnvironment(lab_name).kubeconfig()
    start = jupyter.launch(lab_name, kubeconfig, tmp_path, port=1, browser=False)
    typed = "complete -p kubectl; kubectl get nodes -o name; egresslab kubeconfig; exit\n"
    shell = ["bash", "--rcfile", str(tmp_path / "terminal.bashrc"), "-i"]
    environment = {**start.environment, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    ended = subprocess.run(
        shell,
        input=typed,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )
    for part in ("__start_kubectl kubectl", "node/lab-worker3", str(kubeconfig)):
        assert part in ended.stdout, ended.stderr
