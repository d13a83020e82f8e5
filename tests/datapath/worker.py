"""A process inside a node's namespace that runs packets through programs: devices and routes are then the node's."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

from egresslab.datapath.datapath import Datapath
from egresslab.datapath.testing import Node
from egresslab.datapath.trial import Outcome, test_run
from egresslab.datapath.values import Count, Program, Reason

from .wrapping import peeled

CLONE_NEWNET = 0x4000_0000
_held: dict[str, Datapath] = {}


def enter(namespace: str, pin_dir: Path) -> None:
    """First thing in the process, before anything else runs in it."""
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    os.close(fd)
    _held["node"] = Datapath.open(pin_dir, policy_entries=4096, nat_entries=65_536)


def held() -> Datapath:
    """The datapath of the node whose namespace this process is in."""
    return _held["node"]


def run_here(
    program: Program, frame: bytes, ifindex: int, mark: int, counts: Program
) -> tuple[Outcome, list[tuple[Reason, Count]]]:
    """The outcome, and what the counters of `counts` gained."""
    counters = _held["node"].counters
    before = {reason: counters.get(counts, reason).packets for reason in Reason}
    outcome = test_run(_held["node"], program, frame, ifindex=ifindex, mark=mark)
    after = {reason: counters.get(counts, reason) for reason in Reason}
    return outcome, [(reason, count) for reason, count in after.items() if count.packets != before[reason]]


@dataclass
class Bench:
    """Runs packets on one node."""

    node: Node
    pool: ProcessPoolExecutor = field(init=False)
    wrapped: bool = False
    """Whether the last packet came out in a wrapping."""

    def __enter__(self) -> Bench:
        self.pool = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=enter, initargs=(self.node.namespace, self.node.pin_dir)
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()

    def run(self, program: Program, frame: bytes, ifindex: int, mark: int = 0) -> tuple[Outcome, Reason]:
        """The outcome and its reason; what was wrapped for the tunnel is found right and given without its wrapping."""
        outcome, gained = self._ask(program, frame, ifindex, mark, program)
        if len(gained) == 2 and Reason.NOT_OURS in gained:
            # One of the kernel's own frames may have come by (multicast reports, neighbours); not every time, though.
            again = self._ask(program, frame, ifindex, mark, program)[1]
            assert len(again) == 1, f"exactly one verdict is counted for a packet, not {again}"
            gained.remove(Reason.NOT_OURS)
        assert len(gained) == 1, f"exactly one verdict is counted for a packet, not {gained}"
        return outcome, gained[0]

    def unwrap(self, frame: bytes, ifindex: int) -> tuple[Outcome, Reason | None]:
        """The same for a packet of the tunnel that meets `from_wire`; the reason is `from_overlay`'s, or None when the
        packet was left to the device."""
        outcome, gained = self._ask(Program.FROM_WIRE, frame, ifindex, 0, Program.FROM_OVERLAY)
        return outcome, gained[0] if gained else None

    def _ask(
        self, program: Program, frame: bytes, ifindex: int, mark: int, counts: Program
    ) -> tuple[Outcome, list[Reason]]:
        call: Callable[..., tuple[Outcome, list[tuple[Reason, Count]]]] = run_here
        outcome, gained = self.pool.submit(call, program, frame, ifindex, mark, counts).result(timeout=60)
        inner = peeled(outcome.frame, self.node.v4)
        self.wrapped = inner != outcome.frame
        return replace(outcome, frame=inner), [reason for reason, _ in gained]
