"""Carries out network plans in a short-lived process of its own: `python -m …netns.builder`, a JSON order on stdin.

Making a namespace and opening a netlink socket in it both need to *be* in it. A process of our own may move about as
it likes, because it does nothing else and ends; a notebook kernel or the command line never leaves its namespace.
On failure the process prints one line of JSON {"step", "errno", "message"} to stderr and exits 1; what was made by then
stays, for whoever ordered it knows from its record what to remove.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from egresslab.environments.netns.kernel import MS_BIND, enter_network, make_tap, mount, unshare_network
from egresslab.environments.netns.paths import NAMESPACES

CARRIER_DEADLINE_S, CARRIER_PAUSE_S = 3.0, 0.01


class Step:
    """What is being done, for the error message."""

    def __init__(self) -> None:
        self.text = "read the order"


def make_namespace(name: str) -> None:
    """Move this process into a new namespace and bind it to its name; raises FileExistsError for a name in use."""
    path = NAMESPACES / name
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o444))
    unshare_network()
    mount("/proc/self/ns/net", path, "none", MS_BIND)


def _up(ip: IPRoute, name: str) -> int:
    (index,) = ip.link_lookup(ifname=name)
    ip.link("set", index=index, state="up")
    return int(index)


def build(order: dict[str, Any], step: Step) -> None:
    """Make every namespace of the order with its links, addresses and routes."""
    fabric_name = order["fabric"]
    sockets: dict[str, IPRoute] = {}
    if all(plan["name"] != fabric_name for plan in order["create"]):
        step.text = f"enter the namespace {fabric_name}"
        enter_network(NAMESPACES / fabric_name)
        sockets[fabric_name] = IPRoute()
    for plan in order["create"]:
        step.text = f"make the namespace {plan['name']}"
        make_namespace(plan["name"])
        # A netlink socket belongs to the namespace it was opened in, wherever the process goes later.
        sockets[plan["name"]] = IPRoute()
        for key, value in plan["sysctls"].items():
            step.text = f"set {key} in {plan['name']}"
            Path("/proc/sys", key).write_text(value)
    fabric = sockets[fabric_name]
    bridges = {name: fabric.link_lookup(ifname=name) for name in order["bridges"]}
    for plan in order["create"]:
        ip = sockets[plan["name"]]
        _up(ip, "lo")
        for link in plan["links"]:
            step.text = f"make the link {link['name']} in {plan['name']}"
            if link["kind"] == "veth":
                _cable(fabric, bridges[link["bridge"]][0], link, plan["name"])
                _up(ip, link["name"])
            else:
                snoop_nothing = {"br_forward_delay": 0, "br_mcast_snooping": 0}
                ip.link("add", ifname=link["name"], kind="bridge", mtu=link["mtu"], **snoop_nothing)
                bridges[link["name"]] = [_up(ip, link["name"])]
    for tap in order.get("taps", ()):
        step.text = f"make the port {tap['port']}"
        _tap(fabric, bridges[tap["bridge"]][0], tap, fabric_name)
    for plan in order["create"]:
        ip = sockets[plan["name"]]
        names = {"lo", *(link["name"] for link in plan["links"])}
        indexes = {name: ip.link_lookup(ifname=name)[0] for name in names}
        for link_name, address in plan["addresses"]:
            step.text = f"add {address} to {link_name} in {plan['name']}"
            host, prefix = address.split("/")
            ip.addr("add", index=indexes[link_name], address=host, prefixlen=int(prefix))
        for route in plan["routes"]:
            step.text = f"add the route to {route['destination']} via {route['via']} in {plan['name']}"
            family = {} if route["destination"] != "default" else {"family": 10 if ":" in route["via"] else 2}
            ip.route(
                "add",
                dst=route["destination"],
                gateway=route["via"],
                oif=indexes[route["link"]],
                priority=route["metric"],
                **family,
            )
    for socket in sockets.values():
        socket.close()


def _cable(fabric: IPRoute, bridge: int, link: dict[str, Any], namespace: str) -> None:
    """A veth from the fabric into a namespace; its fabric end is made a port of the bridge."""
    # A crashed node's cable goes with its namespace, but the kernel takes its time over that.
    for stale in fabric.link_lookup(ifname=link["port"]):
        fabric.link("del", index=stale)
    descriptor = os.open(NAMESPACES / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        peer = {"ifname": link["name"], "net_ns_fd": descriptor, "mtu": link["mtu"], "address": link["mac"]}
        fabric.link("add", ifname=link["port"], kind="veth", mtu=link["mtu"], peer=peer)
    finally:
        os.close(descriptor)
    (port,) = fabric.link_lookup(ifname=link["port"])
    fabric.link("set", index=port, master=bridge, state="up")


def _tap(fabric: IPRoute, bridge: int, tap: dict[str, Any], namespace: str) -> None:
    """A port of the bridge for a virtual machine, which opens it by name in the fabric's namespace."""
    enter_network(NAMESPACES / namespace)
    make_tap(tap["port"])
    (port,) = fabric.link_lookup(ifname=tap["port"])
    fabric.link("set", index=port, mtu=tap["mtu"], master=bridge, state="up")


def switch(order: dict[str, Any], step: Step) -> None:
    """Set ports of the fabric up or down, and see them so; ports that are gone are let be (their node is gone)."""
    step.text = f"enter the namespace {order['fabric']}"
    enter_network(NAMESPACES / order["fabric"])
    with IPRoute() as ip:
        indexes = []
        for port in order["ports"]:
            step.text = f"set the port {port} {order['state']}"
            for index in ip.link_lookup(ifname=port):
                ip.link("set", index=index, state=order["state"])
                indexes.append(index)
        # The kernel passes a carrier's return on at most once a second (linkwatch), and only then do packets flow. An
        # interface that its node has set down never has one; that is no reason to fail.
        deadline = time.monotonic() + CARRIER_DEADLINE_S
        while order["state"] == "up" and time.monotonic() < deadline:
            if all(link.get("operstate") == "UP" for index in indexes for link in ip.get_links(index)):
                return
            time.sleep(CARRIER_PAUSE_S)


def main() -> int:
    """Read one order and carry it out."""
    step = Step()
    try:
        order = json.load(sys.stdin)
        {"build": build, "switch": switch}[order["do"]](order, step)
    except (OSError, NetlinkError) as error:
        code = error.code if isinstance(error, NetlinkError) else error.errno
        print(json.dumps({"step": step.text, "errno": code, "message": str(error)}), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
