"""What a chapter imports: a lab to act on, checks that prove claims with packets, and views of what happens.

A chapter speaks only Kubernetes, and so does everything here: no module may enter a network namespace, read a lab's
files or talk to the datapath other than by exec into an agent's pod.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from egresslab.errors import LabError

if TYPE_CHECKING:
    from egresslab.lab.session import Lab
    from egresslab.lab.waits import Pending


class Skipped(Exception):  # runners of notebooks know an exception of this name as "does not apply here"
    """A chapter found out, while running, that it cannot run here; the message is the reason."""


def __getattr__(name: str) -> Any:
    """`Lab` and `Pending` when they are asked for: what runs chapters needs neither, nor the clients behind them."""
    if name == "Lab":
        from egresslab.lab.session import Lab

        return Lab
    if name == "Pending":
        from egresslab.lab.waits import Pending

        return Pending
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Lab", "LabError", "Pending", "Skipped"]
