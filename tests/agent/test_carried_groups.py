"""What an announcer's voter is told: slow enough for addresses that end by themselves, and where to put them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface, ip_address

import pytest

from egresslab.agent.announcer import carried_group
from egresslab.agent.interfaces import NodeInterface
from egresslab.policy.dialects.egresslab import parse_gateway
from egresslab.policy.model import GatewayGroup
from egresslab.voter.carrier import LONGEST_STAY_NS
from egresslab.voter.files import Candidate, Group, Pace


def interface(name: str, *addresses: str, default: bool = False, altname: str = "") -> NodeInterface:
    found = tuple((IPv6Interface if ":" in text else IPv4Interface)(text) for text in addresses)
    return NodeInterface(
        name, 1, None, True, found, (altname,) if altname else (), ("ipv4", "ipv6") if default else (), 1500, ()
    )


ETH0 = interface("eth0", "192.168.60.12/24", "fd00:60::12/64", default=True)
ETH1 = interface("eth1", "172.18.18.12/24", altname="public")
GROUP = Group(7, "egresslab.dev/v1alpha1/out", (Candidate("a"),))


def gateway(**source: object) -> GatewayGroup:
    spec = {"nodeSelector": {}, "source": source}
    metadata = {"name": "out"}
    return parse_gateway(
        {"apiVersion": "egresslab.dev/v1alpha1", "kind": "EgressGateway", "metadata": metadata, "spec": spec}
    )


@pytest.mark.parametrize(
    ("source", "where"),
    [
        ({"virtualIPs": ["172.18.18.200"]}, ("eth1",)),
        ({"virtualIPs": ["192.168.60.200", "fd00:60::200"]}, ("eth0",)),
        ({"virtualIPs": ["203.0.113.7"]}, ("eth0",)),
        ({"virtualIPs": ["203.0.113.7"], "announceInterfaces": ["public"]}, ("eth1",)),
        ({"addresses": ["172.18.18.200"], "assign": True}, ("eth1",)),
        ({"addresses": ["172.18.18.200"], "assign": True, "interface": "eth0"}, ("eth0",)),
        ({"virtualIPs": ["203.0.113.7"], "announceInterfaces": ["eth9"]}, ()),
    ],
)
def test_an_address_goes_to_the_interface_named_or_of_its_network_or_of_the_default_route(
    source: dict[str, object], where: tuple[str, ...]
) -> None:
    found = carried_group(GROUP, gateway(**source), [ETH0, ETH1])
    texts = source.get("virtualIPs") or source["addresses"]
    assert isinstance(texts, list)
    assert (found.addresses, found.announce) == (tuple(map(ip_address, texts)), where)


def test_without_an_address_only_the_lease_moves() -> None:
    found = carried_group(GROUP, gateway(interface="eth1"), [ETH0, ETH1])
    assert (found.addresses, found.announce) == ((), ())


@pytest.mark.parametrize("pace", [Pace(), Pace(10, 1), Pace(200, 3), Pace(1000, 1), Pace(5000, 4)])
def test_a_grant_outlasts_the_longest_stay_of_an_address(pace: Pace) -> None:
    found = carried_group(replace(GROUP, pace=pace), gateway(virtualIPs=["172.18.18.200"]), [ETH1])
    assert found.pace.duration_ns > LONGEST_STAY_NS + 2 * found.pace.interval_ns
    assert found.pace.duration_ns >= pace.duration_ns
    assert found.pace.recoveries == pace.recoveries
