"""First process of the container that is the world outside: `python -m egresslab.environments.kind.world FILE`.

It gives the container's interfaces their addresses, makes it a router, waits until there is a way to the API server,
and then becomes the programs that every lab's world consists of (`egresslab.cluster.outside`).
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

PAUSE_S = 0.2
IFA_F_NODAD = 0x02
"""linux/if_addr.h; nobody else has the lab's addresses, so they need not be asked about before they are used."""
CONFIG = Path("/run/outside.json")
SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    # Whoever asks for a neighbour bears the router's address there, or a node with a strict filter does not answer.
    "net/ipv4/conf/all/arp_announce": "2",
    "net/ipv6/conf/all/forwarding": "1",
}


def set_addresses(wanted: dict[str, list[str]]) -> bool:
    """Add what is missing; False while an interface is."""
    with IPRoute() as netlink:
        for name, addresses in wanted.items():
            found = netlink.link_lookup(ifname=name)
            if not found:
                return False
            netlink.link("set", index=found[0], state="up")
            for text in addresses:
                address, _, length = text.partition("/")
                try:
                    netlink.addr("add", index=found[0], address=address, prefixlen=int(length), flags=IFA_F_NODAD)
                except NetlinkError as error:
                    if error.code != errno.EEXIST:
                        raise
    return True


def main(file: Path) -> None:
    """Never returns."""
    world: dict[str, Any] = json.loads(file.read_text())
    for key, value in SYSCTLS.items():
        Path("/proc/sys", key).write_text(value)
    while not set_addresses(world["addresses"]):
        time.sleep(PAUSE_S)
    kubeconfig = Path(world["outside"]["kubeconfig"])
    while not kubeconfig.exists():
        time.sleep(PAUSE_S)
    CONFIG.write_text(json.dumps(world["outside"]))
    os.execv(sys.executable, [sys.executable, "-m", "egresslab.cluster.outside", "--config", str(CONFIG)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
