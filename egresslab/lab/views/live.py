"""A picture that keeps itself up to date while a notebook is open: flows are drawn as agents tell of them.

A child process follows the flows and the kernel's own event loop reads it between cells, so there is no thread and
nothing is polled. What it shows while a cell runs comes when the cell is over. It must not outlive the lab's hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import ipywidgets

from egresslab.errors import EgresslabError
from egresslab.flows.flow import Flow, Told, parse
from egresslab.lab import terminal
from egresslab.lab.display import HTML, TEXT

WINDOW_S = 30.0
"""How long a flow stays drawn after it was seen last."""
REDRAW_S = 1.0
KEPT = 500
STYLE = (
    "<style>@media (prefers-reduced-motion: no-preference) {"
    ".egresslab-live .egresslab-route { animation: egresslab-flow 0.7s linear infinite }"
    "@keyframes egresslab-flow { to { stroke-dashoffset: -12 } } }</style>"
)


class Still(Protocol):
    """What can be shown at one moment."""

    def __str__(self) -> str: ...
    def to_html(self) -> str: ...


Draw = Callable[[Sequence[Told]], Still]
"""From the events of the last seconds to what is shown."""


class Live:
    """Shows as a widget in JupyterLab, and as it was at that moment in a report or a terminal."""

    def __init__(self, draw: Draw, kubeconfig: str) -> None:
        self._draw = draw
        self._kubeconfig = kubeconfig
        self._seen: deque[Told] = deque(maxlen=KEPT)
        self._still = draw(())
        self._widget = ipywidgets.HTML(self._page("waiting for flows"))
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    def start(self) -> Live:
        """Begin to follow, if there is an event loop to do it in; in a plain script the picture stays as it is."""
        with contextlib.suppress(RuntimeError):  # no running loop
            loop = asyncio.get_running_loop()
            self._tasks = (
                loop.create_task(self._follow(), name="live view: follow"),
                loop.create_task(self._redraw(), name="live view: redraw"),
            )
        return self

    def stop(self) -> None:
        """End the child and both tasks; safe to call again."""
        for task in self._tasks:
            task.get_loop().call_soon_threadsafe(task.cancel) if task.get_loop().is_running() else task.cancel()
        self._tasks = ()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    async def _follow(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            terminal.egresslab_path(),
            *("observe", "--follow", "-o", "json"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "KUBECONFIG": self._kubeconfig},
        )
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                if line.strip():
                    self._seen.extend(parse(line))
        finally:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.terminate()

    async def _redraw(self) -> None:
        while True:
            await asyncio.sleep(REDRAW_S)
            since = time.time_ns() - int(WINDOW_S * 1e9)
            recent = [told for told in self._seen if told.time_ns >= since]
            try:
                self._still = self._draw(recent)
            except EgresslabError as error:
                self._widget.value = self._page(f"the cluster does not answer: {error}")
                continue
            flows = sum(isinstance(told, Flow) for told in recent)
            self._widget.value = self._page(f"{flows} events in the last {WINDOW_S:g} s")

    def _page(self, note: str) -> str:
        return f'{STYLE}<div class="egresslab-live">{self._still.to_html()}<small>live · {note}</small></div>'

    def __str__(self) -> str:
        return str(self._still)

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle: Any = self._widget._repr_mimebundle_(**options)
        data = dict(bundle[0] if isinstance(bundle, tuple) else bundle)
        return {**data, TEXT: str(self._still), HTML: self._still.to_html()}
