"""The witness of drills, asking real kernels: it sees each owner of an address, over IPv4 and over IPv6."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from pyroute2 import IPRoute, NetNS, netns

from egresslab.lab import waits
from egresslab.lab.drills import witness
from egresslab.lab.drills.owners import Owners, owners

SHARED = {4: "172.18.18.242", 6: "fd00:18::242"}
IFA_F_NODAD = 0x02
MACS = ("02:01:ac:12:12:01", "02:01:ac:12:12:0b", "02:01:ac:12:12:0c")
"""Of the witness' own host, and of the two."""
ROUND_S = 0.2


@pytest.fixture(scope="module")
def wire() -> Iterator[tuple[str, list[NetNS]]]:
    """A namespace on a switch, and two hosts on it, neither of which has an address yet."""
    names = [f"witness-{secrets.token_hex(4)}" for _ in range(4)]
    with ExitStack() as stack:
        opened: list[NetNS] = []
        for name in names:
            netns.create(name)
            stack.callback(netns.remove, name)
            opened.append(stack.enter_context(NetNS(name)))
        switch, outside, *hosts = opened
        switch.link("add", ifname="switch", kind="bridge", br_mcast_snooping=0)
        _up(switch, "switch")
        (bridge,) = switch.link_lookup(ifname="switch")
        for member, mac in zip(names[1:], MACS, strict=True):
            peer = {"ifname": "eth1", "net_ns_fd": member, "address": mac}
            switch.link("add", ifname=member[-8:], kind="veth", peer=peer)
            (port,) = switch.link_lookup(ifname=member[-8:])
            switch.link("set", index=port, master=bridge, state="up")
        for member in (outside, *hosts):
            _up(member, "eth1")
        yield names[1], hosts


def _up(member: IPRoute, name: str) -> None:
    (index,) = member.link_lookup(ifname=name)
    member.link("set", index=index, state="up")


def _take(host: IPRoute, address: str) -> None:
    """The address, without asking whether somebody has it."""
    (index,) = host.link_lookup(ifname="eth1")
    host.addr("add", index=index, address=address, prefixlen=64 if ":" in address else 24, flags=IFA_F_NODAD)


def seen(namespace: str, version: int, expected: int) -> Owners:
    """What the witness sees, once it has seen as many owners as expected."""

    def look() -> Owners | waits.Pending:
        words = [sys.executable, witness.__file__, "eth1", SHARED[version], "20"]
        with subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{namespace}", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as asking:
            assert asking.stderr is not None
            assert asking.stderr.readline() == "watching\n"
            try:
                # It asks for as long as nothing is said to it.
                asking.wait(ROUND_S)
            except subprocess.TimeoutExpired:
                said, _ = asking.communicate("stop\n", timeout=20)
        found = owners([tuple(record) for record in json.loads(said)])
        return found if len({reign.hardware for reign in found.reigns}) == expected else waits.Pending(found)

    return waits.wait_for(f"{expected} owners to be seen", look, timeout_s=20)


@pytest.mark.parametrize("version", [4, 6])
def test_each_owner_is_seen_and_two_at_once_are_two(wire: tuple[str, list[NetNS]], version: int) -> None:
    namespace, (first, second) = wire
    _take(first, SHARED[version])
    alone = seen(namespace, version, 1)
    assert {reign.hardware for reign in alone.reigns} == {MACS[1]}
    assert alone.at_once == 1
    _take(second, SHARED[version])
    both = seen(namespace, version, 2)
    assert {reign.hardware for reign in both.reigns} == set(MACS[1:])
    assert both.at_once == 2
