"""What all labs of a machine share: the state directory, /run/netns, names of namespaces, ports on loopback.

Everything here happens under the lock of the state directory, so that labs may come and go at the same time.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from egresslab.environments.netns.kernel import MS_BIND, MS_REC, MS_SHARED, mount, mounts_below, unmount
from egresslab.environments.netns.labrecord import LabRecord, all_labs
from egresslab.environments.netns.locks import locked
from egresslab.environments.netns.paths import NAMESPACES, STATE
from egresslab.errors import EnvironmentFailure

PATIENCE_S = 10.0
FIRST_PORT, PORTS = 6443, 400
MARKER = STATE / ".made-run-netns"


@contextmanager
def host_locked() -> Iterator[None]:
    """Hold what labs share; the state directory is there afterwards."""
    with locked(STATE, PATIENCE_S, "another lab that is just being made or removed"):
        yield


def prepare_namespaces_directory() -> None:
    """Make /run/netns a shared mount of its own, as ip-netns(8) does, so that names show in every mount namespace.

    What we made of it is noted, for `sweep`.
    """
    if NAMESPACES in mounts_below(NAMESPACES):
        return
    made = "mount" if NAMESPACES.exists() else "directory"
    MARKER.write_text(made)
    NAMESPACES.mkdir(mode=0o755, exist_ok=True)
    mount(str(NAMESPACES), NAMESPACES, "none", MS_BIND | MS_REC)
    mount("none", NAMESPACES, "none", MS_SHARED | MS_REC)


def sweep() -> None:
    """Remove what labs share when there is no lab any more."""
    if any(entry != MARKER for entry in STATE.iterdir()):
        return
    if MARKER.exists():
        try:
            if not any(NAMESPACES.iterdir()):
                unmount(NAMESPACES, detach=False)
                if MARKER.read_text() == "directory":
                    NAMESPACES.rmdir()
        except OSError as error:
            # Somebody else uses it by now, and then it is theirs.
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
        MARKER.unlink()
    STATE.rmdir()


def check_names(record: LabRecord) -> None:
    """Raise `EnvironmentFailure` when a namespace that the lab would make exists and is not its own."""
    for other in all_labs():
        shared = set(record.namespaces()) & set(other.namespaces())
        if other.lab != record.lab and shared:
            raise EnvironmentFailure(
                f"the name of network namespace {min(shared)} is taken by lab {other.lab}",
                object=f"lab {record.lab}",
                fix="choose another name for the lab or for the node",
            )
    for name in record.namespaces():
        if (NAMESPACES / name).exists():
            raise EnvironmentFailure(
                "exists already and no lab made it",
                object=f"network namespace {name}",
                fix=f"if it is a leftover: rm -rf /run/egresslab/{record.lab}; ip netns delete {name}",
            )


def free_port(own_lab: str) -> int:
    """A port on loopback for an API server: 6443, or the next one that no lab has and nobody listens on."""
    taken = {record.api_port for record in all_labs() if record.lab != own_lab}
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        if port in taken:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise EnvironmentFailure(
        f"no free port on 127.0.0.1 from {FIRST_PORT} to {FIRST_PORT + PORTS - 1}",
        object="API server",
        fix="take a lab down with `egresslab down --lab NAME`",
    )
