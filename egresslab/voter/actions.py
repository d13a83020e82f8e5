"""What the deciding part asks the acting part to do, in the order given."""

from __future__ import annotations

from dataclasses import dataclass

from egresslab.datapath.probe import Request
from egresslab.voter.messages import Message


@dataclass(frozen=True, slots=True)
class Probe:
    """Send a probe; to this very node: run it through its own program and hand the answer in."""

    node: str
    request: Request


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to each of the nodes."""

    nodes: tuple[str, ...]
    message: Message


@dataclass(frozen=True, slots=True)
class SetHolder:
    """Write who holds a lease; None: nobody has since the group came to be known here."""

    lease: int
    node: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Silence:
    """Answer for the lease's addresses no more, or again. What follows in the list relies on it having been done."""

    lease: int
    silent: bool


@dataclass(frozen=True, slots=True)
class Announce:
    """This node has just taken the lease: tell neighbours where its addresses are."""

    lease: int


Action = Probe | Tell | SetHolder | Silence | Announce
