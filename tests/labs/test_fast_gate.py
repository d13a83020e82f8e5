"""The fast gate: a chapter as a learner opens it runs without an error under pytest-notebook, without papermill.

`pytest --nb-test-files labs` does the same for every chapter, on the lab that EGRESSLAB_LAB names.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_notebook.nb_regression import NBRegressionFixture

from egresslab.lab import chapters, jupyter
from egresslab.lab.progress import STATE_VARIABLE

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.mark.timeout(120)
def test_the_first_chapter_runs_as_it_stands(lab_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(jupyter.LAB_VARIABLE, lab_name)
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path))
    gate = NBRegressionFixture(exec_timeout=90, diff_ignore=("/cells", "/metadata"))
    assert gate.check(str(chapters.home() / jupyter.FIRST), raise_errors=False).diff_filtered == []
