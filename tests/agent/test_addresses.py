"""Egress IPs come to the gateway's interface and go again, and nothing that others put there is touched."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from pyroute2 import AsyncIPRoute, netns

from egresslab.agent.addresses import AssignedAddresses
from egresslab.agent.interfaces import read_interfaces
from egresslab.netlink import dump
from egresslab.policy.assignments import Assignment, assignments
from egresslab.policy.entries import Delete, Reason, Upsert
from egresslab.policy.inventory import ActiveChoice
from egresslab.policy.model import Dialect, GroupKey
from tests.unit.policy import build

IPV4, IPV6 = ip_address("192.168.60.100"), ip_address("fd00:60::100")
ASSIGN = {"egresslab.dev/assign-egress-ip": "true"}
WEB = build.pod("a", "10.0.0.1")


def cilium(address: str = str(IPV4), **annotations: str) -> build.Object:
    policy = build.cilium(
        egressGateway={"nodeSelector": {"matchLabels": {"egress": "true"}}, "egressIP": address},
    )
    policy["metadata"]["annotations"] = {**ASSIGN, **annotations}
    return policy


# Who is to carry what.


def test_the_gateway_alone_is_given_the_egress_ip_where_its_network_is() -> None:
    told = build.engine(build.node("gw-a", 2), build.node("gw-b", 3), cilium(), WEB)
    assert assignments(told, "gw-a") == {Assignment(IPV4, "eth0")}
    assert assignments(told, "gw-b") == frozenset()
    (problem,) = [p for p in told.problems() if p.reason is Reason.EGRESS_IP_NOT_FOUND]
    assert "is on no interface yet" in problem.message
    build.tell(told, build.node("gw-a", 2, gateway=False))
    assert assignments(told, "gw-a") == frozenset()
    assert assignments(told, "gw-b") == {Assignment(IPV4, "eth0")}


def test_an_interface_may_be_named_for_an_address_of_no_network() -> None:
    told = build.engine(build.node("gw-a", 2), cilium("203.0.113.77"), WEB)
    assert assignments(told, "gw-a") == frozenset()
    assert "no interface has a network for it" in told.problems()[0].message
    build.tell(told, cilium("203.0.113.77", **{"egresslab.dev/assign-egress-ip-to": "eth1"}))
    assert assignments(told, "gw-a") == {Assignment(ip_address("203.0.113.77"), "eth1")}


def test_nothing_is_assigned_unasked() -> None:
    told = build.engine(build.node("gw-a", 2), cilium(**{"egresslab.dev/assign-egress-ip": "false"}), WEB)
    assert assignments(told, "gw-a") == frozenset()


def test_a_standby_group_assigns_on_the_holder_of_its_lease_while_a_policy_uses_it() -> None:
    key = GroupKey(Dialect.EGRESSLAB, "out")
    out = build.gateway(source={"addresses": [str(IPV4), str(IPV6)], "assign": True})
    told = build.engine(build.node("gw-a", 2), build.node("gw-b", 3), out, WEB)
    told.apply(Upsert(ActiveChoice(key, "gw-b")))
    assert assignments(told, "gw-b") == frozenset()
    build.tell(told, build.policy())
    assert assignments(told, "gw-b") == {Assignment(IPV4, "eth0"), Assignment(IPV6, "eth0")}
    assert assignments(told, "gw-a") == frozenset()
    told.apply(Delete(ActiveChoice(key, "gw-b").ref))
    assert assignments(told, "gw-b") == frozenset()


# What becomes of it on an interface.


@pytest.fixture
async def netlink() -> AsyncIterator[AsyncIPRoute]:
    """A namespace with eth0 and eth1, 192.168.60.12/24 and fd00:60::12/64 on eth0."""
    name = f"egress-test-{secrets.token_hex(4)}"
    netns.create(name)
    try:
        async with AsyncIPRoute(netns=name) as found:
            await found.link("add", ifname="eth0", kind="veth", peer={"ifname": "eth1"})
            for ifname in ("eth1", "eth0"):
                (index,) = await found.link_lookup(ifname=ifname)
                await found.link("set", index=index, state="up")
            await found.addr("add", index=index, address="192.168.60.12", prefixlen=24)
            await found.addr("add", index=index, address="fd00:60::12", prefixlen=64)
            yield found
    finally:
        netns.remove(name)


async def carried(netlink: AsyncIPRoute) -> set[str]:
    """ADDRESS/PREFIX@INTERFACE of everything global."""
    links = {link["index"]: link.get("ifname") for link in await dump(netlink.link)}
    return {
        f"{item.get('local') or item.get('address')}/{item['prefixlen']}@{links[item['index']]}"
        for item in await dump(netlink.addr)
        if item["scope"] == 0
    }


BASE = {"192.168.60.12/24@eth0", "fd00:60::12/64@eth0"}
OURS = {"192.168.60.100/32@eth0", "fd00:60::100/128@eth0"}
WANTED = {Assignment(IPV4, "eth0"), Assignment(IPV6, "eth0")}


@pytest.mark.root
async def test_what_is_wanted_comes_and_goes(netlink: AsyncIPRoute, tmp_path: Path) -> None:
    wanted = set(WANTED)
    addresses = AssignedAddresses(tmp_path / "addresses.json", lambda: wanted)
    assert set(await addresses.reconcile(netlink)) == WANTED
    assert await carried(netlink) == BASE | OURS
    assert await addresses.reconcile(netlink) == []
    wanted.clear()
    await addresses.reconcile(netlink)
    assert await carried(netlink) == BASE


@pytest.mark.root
async def test_nothing_is_left_when_the_policy_goes_while_the_agent_is_away(
    netlink: AsyncIPRoute, tmp_path: Path
) -> None:
    await AssignedAddresses(tmp_path / "addresses.json", lambda: WANTED).reconcile(netlink)
    await AssignedAddresses(tmp_path / "addresses.json", lambda: ()).reconcile(netlink)
    assert await carried(netlink) == BASE


@pytest.mark.root
async def test_what_others_put_there_stays(netlink: AsyncIPRoute, tmp_path: Path) -> None:
    (index,) = await netlink.link_lookup(ifname="eth1")
    await netlink.addr("add", index=index, address=str(IPV4), prefixlen=24)
    wanted = {Assignment(IPV4, "eth0")}
    addresses = AssignedAddresses(tmp_path / "addresses.json", lambda: wanted)
    assert await addresses.reconcile(netlink) == []
    wanted.clear()
    await addresses.reconcile(netlink)
    assert await carried(netlink) == BASE | {"192.168.60.100/24@eth1"}


@pytest.mark.root
async def test_an_address_that_somebody_took_off_comes_back_and_one_may_move(
    netlink: AsyncIPRoute, tmp_path: Path
) -> None:
    wanted = {Assignment(IPV4, "eth0")}
    addresses = AssignedAddresses(tmp_path / "addresses.json", lambda: wanted)
    await addresses.reconcile(netlink)
    (index,) = await netlink.link_lookup(ifname="eth0")
    await netlink.addr("del", index=index, address=str(IPV4), prefixlen=32)
    assert set(await addresses.reconcile(netlink)) == wanted
    wanted = {Assignment(IPV4, "eth1")}
    assert set(await addresses.reconcile(netlink)) == wanted
    assert await carried(netlink) == BASE | {"192.168.60.100/32@eth1"}


@pytest.mark.root
async def test_an_assigned_address_is_never_the_interfaces_own(netlink: AsyncIPRoute, tmp_path: Path) -> None:
    await AssignedAddresses(tmp_path / "addresses.json", lambda: WANTED).reconcile(netlink)
    (eth0,) = [interface for interface in await read_interfaces(netlink) if interface.name == "eth0"]
    found = [str(address) for address in eth0.addresses]
    assert [text for text in found if "." in text] == ["192.168.60.12/24", "192.168.60.100/32"]
    assert [text for text in found if ":" in text] == ["fd00:60::12/64", "fd00:60::100/128"]
