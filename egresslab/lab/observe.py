"""Flows in a notebook: a table of the last ones, and a panel that goes on while cells run.

Both are `egresslab observe` underneath, so that what a chapter shows is what a learner can type.
"""

from __future__ import annotations

import asyncio
import os
import select
import shlex
import subprocess
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from IPython.core.getipython import get_ipython
from IPython.display import DisplayHandle, display

from egresslab.api.resources import PODS
from egresslab.errors import EgresslabError, LabError
from egresslab.flows.agents import NAMESPACE, SELECTOR, command, merged, nobody, running
from egresslab.flows.filters import Filter, arguments
from egresslab.flows.flow import Flow, Lost, Told, Verdict, parse
from egresslab.flows.rendering import COLUMNS, cells, lost_line
from egresslab.flows.times import moment
from egresslab.lab import terminal
from egresslab.lab.client import Client
from egresslab.lab.display import Table
from egresslab.lab.execs import Running

T = TypeVar("T")

READ_TIMEOUT_S = 30.0
START_TIMEOUT_S = 30.0
DEFAULT_LAST = 20
PANEL_ROWS = 12
REDRAW_S = 0.3
"""At most so often a panel is drawn anew, however many flows come."""


def condition(
    namespace: str,
    pod: str = "",
    to_fqdn: str = "",
    verdict: str = "",
    reason: str = "",
    node: str = "",
    since: str = "",
) -> Filter:
    """What is wanted, of a chapter's words; `pod` may be NAMESPACE/NAME, and an empty namespace means all of them."""
    return Filter(
        pods=_given(pod),
        namespaces=() if "/" in pod else _given(namespace),
        nodes=_given(node),
        fqdns=_given(to_fqdn),
        verdicts=_given(verdict),
        reasons=_given(reason),
        since_ns=moment(since, time.time_ns()) if since else None,
    )


def _given(text: str) -> tuple[str, ...]:
    return (text,) if text else ()


def typed(wanted: Filter, **more: object) -> list[str]:
    """The command that shows the same, as a person would type it."""
    options = [word for each in arguments(replace(wanted, since_ns=None)) for word in each.split("=", 1)]
    extra = [word for option, value in more.items() if value for word in (f"--{option}", str(value))]
    return ["observe", *options, *extra]


class Observatory:
    """`lab.observe(…)`, `lab.observe.live(…)`: flows of the current namespace, unless another is named (`""`: all)."""

    def __init__(self, client: Client, namespace: Callable[[], str]) -> None:
        self._client = client
        self._namespace = namespace
        self._panels: list[FlowPanel] = []

    def __call__(
        self, pod: str = "", *, last: int | None = None, namespace: str | None = None, since: str = "", **wanted: str
    ) -> Flows:
        """The last flows that agents saw (20, or all `since` then). `wanted`: `to_fqdn`, `verdict`, `reason`, `node`.

        An agent that does not answer is named in the title; raises `LabError` or `ClusterError` when none does.
        """
        chosen = condition(self._namespace() if namespace is None else namespace, pod, since=since, **wanted)
        number = last if last is not None or since else DEFAULT_LAST
        pods = self._client.list(PODS, NAMESPACE, labelSelector=SELECTOR)
        asked = running(pods, chosen)
        if not asked:
            raise nobody(chosen)
        told, silent = self._ask(asked, command(chosen, last=number, follow=False))
        shown = shlex.join(["egresslab", *typed(chosen, since=since, last=last)])
        if silent:
            shown += f" (no answer from {', '.join(silent)})"
        return Flows.of(merged(told, number), shown)

    def _ask(self, asked: dict[str, str], words: list[str]) -> tuple[list[Told], list[str]]:
        """What agents (node to pod) say, all asked at once, and the nodes of those that do not answer."""
        told: list[Told] = []
        errors: dict[str, EgresslabError] = {}
        started: dict[str, Running] = {}
        for node, pod in asked.items():
            try:
                started[node] = self._client.start(NAMESPACE, pod, words)
            except EgresslabError as error:
                errors[node] = error
        for node, running_ in started.items():
            try:
                ended = running_.result(READ_TIMEOUT_S)
                if ended.exit_code:
                    raise LabError(ended.stderr.strip() or f"exit code {ended.exit_code}", object=running_.shown)
                told += _told(ended.stdout.splitlines())
            except EgresslabError as error:
                errors[node] = error
        if len(errors) == len(asked):
            raise next(iter(errors.values()))
        return told, sorted(errors)

    def live(self, pod: str = "", *, seconds: float = 300.0, namespace: str | None = None, **wanted: str) -> FlowPanel:
        """A panel below this cell with the flows as they come; `stop()` ends it, and so does closing the lab."""
        chosen = condition(self._namespace() if namespace is None else namespace, pod, **wanted)
        panel = FlowPanel(str(self._client.kubeconfig), typed(chosen), seconds=seconds)
        self._panels.append(panel)
        panel.show()
        return panel

    def close(self) -> None:
        """Stop all panels."""
        while self._panels:
            self._panels.pop().stop()


class Flows(tuple[Told, ...]):
    """Flow events, oldest first, and the gaps between them; shows as the table that `egresslab observe` prints."""

    typed: str = "egresslab observe"

    @classmethod
    def of(cls, told: Iterable[Told], typed: str) -> Flows:
        """With the command that shows the same."""
        flows = cls(told)
        flows.typed = typed
        return flows

    @property
    def flows(self) -> tuple[Flow, ...]:
        """The events alone."""
        return tuple(told for told in self if isinstance(told, Flow))

    @property
    def lost(self) -> int:
        """How many events are missing."""
        return sum(told.number for told in self if isinstance(told, Lost))

    def table(self) -> Table:
        """The table."""
        return Table(self.typed, tuple(heading.lower() for heading in COLUMNS), tuple(map(_row, self)))

    def __str__(self) -> str:
        return str(self.table())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """IPython writes tuples in its own way otherwise, whatever the bundle says."""
        printer.text(str(self))

    def _repr_mimebundle_(self, **options: object) -> dict[str, str]:
        return self.table()._repr_mimebundle_(**options)


def _row(told: Told) -> tuple[str, ...]:
    if isinstance(told, Flow):
        return cells(told)
    return ("", told.node, lost_line(told), *("" for _ in COLUMNS[3:]))


def _told(lines: Iterable[str]) -> Iterator[Told]:
    for line in lines:
        if line.strip():
            yield from parse(line)


class FlowPanel:
    """The flows of now, kept up to date below the cell that made it, until `stop` or `seconds` are over.

    It reads along whenever the notebook is idle, and when a cell asks for `refresh` or `wait_for`; what it showed last
    stays in the saved notebook.
    """

    def __init__(self, kubeconfig: str, arguments: list[str], *, seconds: float) -> None:
        follow = [*arguments, "--follow"]
        self._typed = shlex.join(["egresslab", *follow])
        self._seen: deque[Told] = deque(maxlen=PANEL_ROWS)
        self._count: Counter[str] = Counter()
        self._rest = b""
        self._drawn = 0.0
        self._until = time.monotonic() + seconds
        self._process = subprocess.Popen(
            [terminal.egresslab_path(), *follow, "-o", "json"],
            env={**os.environ, "KUBECONFIG": kubeconfig},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        self._listening = False
        self._handle: DisplayHandle | None = None
        self._reader: asyncio.AbstractEventLoop | None = None

    def show(self) -> None:
        """Wait until all agents are listened to, draw it here, and go on while the notebook is idle."""
        self._wait(lambda: self._listening, START_TIMEOUT_S, "the agents to be listened to")
        self._handle = display(self.table(), display_id=True) if get_ipython() is not None else None
        try:
            self._reader = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._reader.add_reader(self._pipe, self.refresh)
        self._reader.call_later(max(0.0, self._until - time.monotonic()), self.stop)

    @property
    def flows(self) -> Flows:
        """The last events, as many as the panel shows."""
        return Flows.of(self._seen, self._typed)

    def refresh(self) -> None:
        """Take in what has come and draw it."""
        try:
            while chunk := os.read(self._pipe, 65_536):
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                # The one empty line stands where all agents are listened to.
                self._listening |= b"" in lines
                for told in _told(line.decode() for line in lines):
                    self._take(told)
        except BlockingIOError:
            self._draw()
            return
        self._draw(over=True)
        self.stop()

    def wait_for(self, wanted: Callable[[Flow], bool], *, timeout_s: float = 10.0) -> Flow:
        """The first flow shown that is wanted, those shown already included; `LabError` when none comes in time."""
        return self._wait(
            lambda: next((told for told in self._seen if isinstance(told, Flow) and wanted(told)), None),
            timeout_s,
            "such a flow",
        )

    def _wait(self, look: Callable[[], T | None], timeout_s: float, what: str) -> T:
        """Read along until `look` finds something."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.refresh()
            found = look()
            if found:
                return found
            left = deadline - time.monotonic()
            if left <= 0 or self._process.poll() is not None:
                raise LabError(
                    f"waited {timeout_s:g} s for {what} in vain; the last were:\n{self.flows}", object=self._typed
                )
            select.select([self._pipe], [], [], left)

    def stop(self) -> None:
        """End it; what it shows stays. Safe to call again."""
        if self._reader is not None:
            self._reader.remove_reader(self._pipe)
            self._reader = None
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(5)
            self._draw(over=True)

    def table(self) -> Table:
        """What it shows."""
        forwarded, dropped = self._count[Verdict.FORWARDED], self._count[Verdict.DROPPED]
        state = "" if self._process.poll() is None else ", stopped"
        lost = f", {self._count['lost']} lost" if self._count["lost"] else ""
        caption = f"{self._typed} ({forwarded} forwarded, {dropped} dropped{lost}{state})"
        return Table(caption, tuple(heading.lower() for heading in COLUMNS), tuple(map(_row, self._seen)))

    def _take(self, told: Told) -> None:
        self._seen.append(told)
        if isinstance(told, Flow):
            self._count[told.verdict] += 1
        else:
            self._count["lost"] += told.number

    def _draw(self, *, over: bool = False) -> None:
        if self._handle is not None and (over or time.monotonic() - self._drawn >= REDRAW_S):
            self._drawn = time.monotonic()
            self._handle.update(self.table())
        elif self._reader is not None and self._handle is not None:
            self._reader.call_later(REDRAW_S, self._catch_up, self._drawn)

    def _catch_up(self, drawn: float) -> None:
        """Draw what came in too quickly, unless that was done meanwhile."""
        if self._drawn == drawn and self._handle is not None:
            self._drawn = time.monotonic()
            self._handle.update(self.table())

    def _ipython_display_(self, **_: Any) -> None:
        """It shows itself where it was made."""
