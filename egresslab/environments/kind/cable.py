"""Pulls a container's cables, and puts them back in: `python -m egresslab.environments.kind.cable PID up|down NAME…`.

It runs as a container in the network of Docker's own machine, where each cable's other end is, and sets that end down:
the node's end loses its carrier and keeps its addresses and routes, as when a plug is pulled. PID is the first process
of the container whose interfaces NAME… are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from pyroute2 import IPRoute


def switch(pid: int, state: str, names: Iterable[str]) -> None:
    """`state` is up or down; raises FileNotFoundError where the container has no such interface."""
    with IPRoute() as netlink:
        for name in names:
            # The container's own sysfs; it may stand still, so nothing is run in it.
            link = Path("/proc", str(pid), "root", "sys/class/net", name, "iflink")
            netlink.link("set", index=int(link.read_text()), state=state)


if __name__ == "__main__":
    switch(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
