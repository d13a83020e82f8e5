"""The child that executes one notebook with papermill: `python -m egresslab.lab.runner.worker JOB`.

A process of its own, so that a chapter that hangs can be ended whole. Progress goes to standard output, one JSON line
for each cell; everything else that is printed goes to standard error, which the runner keeps as the chapter's log.
"""

from __future__ import annotations

import os
import sys

# jsonschema, if it finds this, compiles a grammar for URIs when it is imported, which takes longer than many a cell;
# nothing in a notebook's format is checked with it.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

import nbformat  # noqa: E402
import papermill  # noqa: E402
from nbclient.exceptions import CellTimeoutError, DeadKernelError  # noqa: E402
from papermill.exceptions import PapermillExecutionError  # noqa: E402

from egresslab.lab.runner.job import Ending, Job, Step  # noqa: E402
from egresslab.lab.runner.red import with_red  # noqa: E402

START_TIMEOUT_S = 60


def main(text: str) -> Ending:
    """Execute the job; what became of it is told by the exit code and, in full, by the executed notebook."""
    job = Job.from_text(text)
    progress = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    notebook = nbformat.read(job.notebook, as_version=4)
    if job.red:
        notebook = with_red(notebook)
    # papermill adds one cell for injected parameters.
    total = len(notebook.cells) + (1 if job.parameters else 0)

    def began(cell: nbformat.NotebookNode, cell_index: int) -> None:
        progress.write(Step(cell_index, total, str(cell.id)).to_text() + "\n")

    try:
        papermill.execute_notebook(
            notebook,
            str(job.executed),
            parameters=dict(job.parameters),
            kernel_name="python3",
            cwd=str(job.notebook.parent),
            progress_bar=False,
            execution_timeout=job.cell_timeout_s,
            start_timeout=START_TIMEOUT_S,
            on_cell_start=began,
        )
    except PapermillExecutionError as error:
        return _ended(Ending.CELL_FAILED, error)
    except CellTimeoutError as error:
        return _ended(Ending.CELL_TIMEOUT, error)
    except DeadKernelError as error:
        return _ended(Ending.KERNEL_DIED, error)
    return Ending.COMPLETE


def _ended(ending: Ending, error: Exception) -> Ending:
    print(error, file=sys.stderr)
    return ending


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
