"""A policy changes the source address that the world sees, from wherever the pod runs, and nothing else leaves."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from egresslab.lab import Lab
from tests.e2e.policies import CLUSTER, ELSEWHERE, EXTERNAL, GATEWAY, IFCONFIG, PUBLIC, policy

DATAGRAM = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as talker:
    talker.settimeout(3)
    talker.connect((sys.argv[1], 7777))
    talker.send(b"hello")
    print(talker.recv(100).decode())
"""


def seen(lab: Lab, pod: str, url: str, family: int) -> str:
    return str(lab.observed_address(pod, url, family=family))


def wait_for_address(lab: Lab, pod: str, url: str, family: int, address: str) -> None:
    """Entries are in the kernel well before this gives up; the wait is for the API's watch to deliver."""
    lab.wait_for(f"{address} outside", lambda: seen(lab, pod, url, family) == address, timeout_s=5)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("node", [ELSEWHERE, GATEWAY])
def test_interface_gives_the_source_from_every_node(lab: Lab, node: str, family: int) -> None:
    lab.run_pod("client", node=node)
    before = seen(lab, "client", IFCONFIG, family)
    assert before != PUBLIC[family]
    lab.apply(policy(lab.current_namespace))
    wait_for_address(lab, "client", IFCONFIG, family, PUBLIC[family])
    lab.delete(policy(lab.current_namespace))
    wait_for_address(lab, "client", IFCONFIG, family, before)


@pytest.mark.parametrize("family", [4, 6])
def test_egress_ip_gives_the_source(lab: Lab, family: int) -> None:
    lab.run_pod("client", node=ELSEWHERE)
    lab.apply(policy(lab.current_namespace, source={"egressIP": CLUSTER[family]}))
    wait_for_address(lab, "client", EXTERNAL, family, CLUSTER[family])


def test_no_source_given_takes_the_default_route_interface(lab: Lab) -> None:
    lab.run_pod("client", node=ELSEWHERE)
    lab.apply(policy(lab.current_namespace, source={}))
    wait_for_address(lab, "client", IFCONFIG, 4, CLUSTER[4])
    wait_for_address(lab, "client", IFCONFIG, 6, CLUSTER[6])


def test_https_by_name_as_in_the_tutorials(lab: Lab) -> None:
    lab.run_pod("client", node=ELSEWHERE)
    lab.apply(policy(lab.current_namespace))
    wait_for_address(lab, "client", "https://ifconfig.me", 4, PUBLIC[4])
    assert lab.exec("client", "curl -s -4 https://ifconfig.me").stdout.strip() == PUBLIC[4]


def test_excluded_destination_leaves_by_the_pods_own_node(lab: Lab) -> None:
    node = lab.node(ELSEWHERE)
    lab.run_pod("client", node=ELSEWHERE)
    lab.apply(policy(lab.current_namespace, excludedCIDRs=["192.168.60.0/24"]))
    wait_for_address(lab, "client", IFCONFIG, 4, PUBLIC[4])
    assert seen(lab, "client", EXTERNAL, 4) in [str(address) for address in node.addresses]


def test_pods_that_are_not_selected_are_left_alone(lab: Lab) -> None:
    lab.run_pod("client", node=ELSEWHERE)
    lab.run_pod("bystander", node=ELSEWHERE)
    before = seen(lab, "bystander", IFCONFIG, 4)
    selected = policy(lab.current_namespace, selectors=[{"podSelector": {"matchLabels": {"app": "client"}}}])
    lab.apply(selected)
    wait_for_address(lab, "client", IFCONFIG, 4, PUBLIC[4])
    assert seen(lab, "bystander", IFCONFIG, 4) == before


def test_traffic_inside_the_cluster_is_left_alone(lab: Lab) -> None:
    server = lab.run_pod("server", image="busybox", node=GATEWAY, command=["httpd", "-f", "-p", "8080", "-h", "/etc"])
    lab.run_pod("client", node=ELSEWHERE)
    lab.apply(policy(lab.current_namespace))
    wait_for_address(lab, "client", IFCONFIG, 4, PUBLIC[4])
    address = next(str(a) for a in server.addresses if ip_address(str(a)).version == 4)
    lab.exec("client", f"curl -s --max-time 3 http://{address}:8080/hostname")


def test_udp_and_ping_leave_with_the_egress_address(lab: Lab) -> None:
    lab.run_pod("client", node=ELSEWHERE)
    lab.run_pod("datagrams", image="python", node=ELSEWHERE)
    lab.apply(policy(lab.current_namespace))
    wait_for_address(lab, "client", IFCONFIG, 4, PUBLIC[4])
    with lab.capture("udp port 7777 or icmp or icmp6", interface="any") as capture:
        for family, server in ((4, "203.0.113.10"), (6, "2001:db8:113::10")):
            answer = lab.exec("datagrams", ["python", "-c", DATAGRAM, server]).stdout
            assert answer.startswith(f"{PUBLIC[family]} ")
            lab.exec("client", f"ping -{family} -c 3 -i 0.2 -W 2 {server}")
    pods = (*lab.pod("client").addresses, *lab.pod("datagrams").addresses)
    assert {ip_address(PUBLIC[4]), ip_address(PUBLIC[6])} <= set(capture.sources)
    assert not set(pods) & set(capture.sources)


def test_a_capture_on_the_public_side_shows_only_the_egress_address(lab: Lab) -> None:
    lab.run_pod("remote", node=ELSEWHERE)
    lab.run_pod("local", node=GATEWAY)
    lab.apply(policy(lab.current_namespace))
    for pod in ("remote", "local"):
        wait_for_address(lab, pod, IFCONFIG, 4, PUBLIC[4])
    with lab.capture("tcp dst port 80 and dst net 203.0.113.0/24", interface="any") as capture:
        for pod in ("remote", "local"):
            lab.exec(pod, ["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do curl -s -4 http://ifconfig.me/; done"])
    assert set(capture.sources) == {ip_address(PUBLIC[4])}
