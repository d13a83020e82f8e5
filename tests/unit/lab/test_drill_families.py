"""A drill is of one address family, whatever says which; and its witness speaks that family's language."""

from __future__ import annotations

import ipaddress
from typing import cast

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from egresslab.api.resources import EGRESSLAB_GATEWAYS, Object, Resource
from egresslab.errors import LabError
from egresslab.lab.client import Client
from egresslab.lab.drills import scene
from egresslab.lab.drills.families import Family, agreed
from egresslab.lab.drills.notebook import plan_of
from egresslab.lab.drills.scene import Addressing, Scene
from egresslab.lab.drills.sender import Pattern
from egresslab.lab.drills.witness import ANNOUNCED, ANSWERED, claim, question
from egresslab.lab.nodes import Node

OWNER, OTHER = "02:01:ac:12:12:0b", "02:01:ac:12:12:0c"
WANTED = ipaddress.ip_address("fd00:18::242")


@pytest.mark.parametrize(
    ("wanted", "virtual", "found"),
    [
        (None, None, Family.IPV4),
        (None, "fd00:18::9", Family.IPV6),
        (Family.IPV6, None, Family.IPV6),
        (Family.IPV6, "fd00:18::9", Family.IPV6),
    ],
)
def test_what_is_asked_for_or_given_decides(wanted: Family | None, virtual: str | None, found: Family) -> None:
    assert agreed(wanted, {"--virtual-ip": virtual})[0] is found


@pytest.mark.parametrize(
    ("wanted", "given", "field"),
    [
        (Family.IPV6, {"--virtual-ip": "172.18.18.9"}, "--virtual-ip"),
        (Family.IPV4, {"--virtual-ip": "fd00:18::9"}, "--virtual-ip"),
        (None, {"--virtual-ip": "fd00:18::9", "--target": "203.0.113.10"}, "--target"),
        (None, {"--target": "example.com"}, "--target"),
    ],
)
def test_two_families_are_refused(wanted: Family | None, given: dict[str, str | None], field: str) -> None:
    with pytest.raises(LabError) as caught:
        agreed(wanted, given)
    assert caught.value.field == field


def test_a_plan_in_words_has_everything_of_its_family() -> None:
    for options in ({"family": "ipv6"}, {"virtual": "fd00:18::9"}, {"target": "2001:db8:113::11"}):
        pattern = plan_of("failover", options).pattern
        assert pattern.family is Family.IPV6
        assert ipaddress.ip_address(pattern.control or "").version == 6
    assert plan_of("failover", {}).pattern == Pattern()


def test_the_scene_is_of_the_targets_family() -> None:
    carried = ("172.18.18.11/24", "fe80::1/64", "fd00:18::11/64")
    node = Node("a", (), {"eth1": tuple(map(ipaddress.ip_interface, carried))})
    for target, network, virtual, primary in (
        ("203.0.113.10", "203.0.113.10/32", "172.18.18.242", "172.18.18.11"),
        ("2001:db8:113::10", "2001:db8:113::10/128", "fd00:18::242", "fd00:18::11"),
    ):
        for addressing, source in ((Addressing.VIRTUAL_IP, virtual), (Addressing.PRIMARY_IP, primary)):
            made = scene.own(addressing, [node], run="r", interface="eth1", namespace="n", target=target, virtual=None)
            assert made.sources == {ipaddress.ip_address(source)}
            assert made.objects[-1][1]["spec"]["destinationCIDRs"] == [network]


class OneGateway:
    """A cluster with an EgressGateway of that spec."""

    def __init__(self, virtual: list[str]) -> None:
        self._spec = {
            "nodeSelector": {"matchLabels": {"gw": "yes"}},
            "source": {"virtualIPs": virtual, "announceInterfaces": ["eth1"]},
        }

    def find(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        if resource is not EGRESSLAB_GATEWAYS:
            return None
        return {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "uid": "u"},
            "spec": self._spec,
        }


def test_of_a_gateway_that_is_there_the_addresses_of_the_family_count() -> None:
    node = Node("a", (), {}, {"gw": "yes"})

    def found(virtual: list[str], target: str) -> Scene:
        client = cast("Client", OneGateway(virtual))
        return scene.existing(client, "out", [node], run="r", namespace="n", target=target)

    both = ["172.18.18.77", "fd00:18::77"]
    assert found(both, "203.0.113.10").virtual == ipaddress.ip_address(both[0])
    assert found(both, "2001:db8:113::10").virtual == ipaddress.ip_address(both[1])
    with pytest.raises(LabError, match="has no IPv6 address"):
        found(both[:1], "2001:db8:113::10")


def test_the_question_is_a_solicitation_as_the_standard_has_it() -> None:
    """RFC 4861, sections 4.3 and 7.1.1: every node must be able to take it for one."""
    asked = question(WANTED.packed)
    read = Ether(asked)
    assert (read.dst, read[IPv6].dst, read[IPv6].hlim) == ("33:33:ff:00:02:42", "ff02::1:ff00:242", 255)
    assert ipaddress.ip_address(read[IPv6].src).is_link_local, "asked from nowhere, all nodes would hear the answer"
    assert read[ICMPv6ND_NS].tgt == str(WANTED)
    assert read[ICMPv6NDOptSrcLLAddr].lladdr == read.src
    sum_found = read[ICMPv6ND_NS].cksum
    del read[ICMPv6ND_NS].cksum
    assert Ether(bytes(read))[ICMPv6ND_NS].cksum == sum_found
    assert claim(asked, WANTED.packed) is None


def advertised(
    *, solicited: int, target: object = WANTED, hops: int = 255, option: Packet | None = None, to: str = "ff02::1"
) -> bytes:
    body: Packet = Ether(src=OWNER, dst=OTHER) / IPv6(src=str(WANTED), dst=to, hlim=hops)
    body /= ICMPv6ND_NA(tgt=str(target), R=0, S=solicited, O=1)
    return bytes(body / option if option else body)


def test_who_is_asked_answers_and_who_is_not_announces() -> None:
    own = ICMPv6NDOptDstLLAddr(lladdr=OWNER)
    assert claim(advertised(solicited=1, option=own, to="fe80::1"), WANTED.packed) == (ANSWERED, OWNER)
    assert claim(advertised(solicited=0, option=own), WANTED.packed) == (ANNOUNCED, OWNER)


def test_who_says_where_to_send_is_believed_over_who_sent_it() -> None:
    other = ICMPv6NDOptDstLLAddr(lladdr=OTHER)
    assert claim(advertised(solicited=0, option=other), WANTED.packed) == (ANNOUNCED, OTHER)
    assert claim(advertised(solicited=1), WANTED.packed) == (ANSWERED, OWNER)


def test_what_claims_nothing_is_no_claim() -> None:
    assert claim(advertised(solicited=1, target="fd00:18::11"), WANTED.packed) is None
    assert claim(advertised(solicited=1, hops=254), WANTED.packed) is None, "it came through a router"
    wish: Packet = Ether(src=OTHER) / IPv6(src="::", dst="ff02::1:ff00:242", hlim=255) / ICMPv6ND_NS(tgt=str(WANTED))
    assert claim(bytes(wish), WANTED.packed) is None, "duplicate address detection"
    for length in range(0, len(advertised(solicited=1)), 7):
        assert claim(advertised(solicited=1)[:length], WANTED.packed) is None
