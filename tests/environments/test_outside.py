"""The world outside, running: it answers with what it saw, and its firewall refuses in a way that nobody waits for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from egresslab.cluster.outside.config import Server
from egresslab.environments.netns.credentials import write_certificates
from egresslab.environments.netns.paths import OUTSIDE, LabPaths
from egresslab.environments.netns.topology import Topology
from tests.environments.namespaces import inside

pytestmark = pytest.mark.root

LOAD = """
import asyncio, json, pathlib, sys
from egresslab.cluster.outside.firewall import load_rules
from egresslab.cluster.outside.process import load_config
from egresslab.cluster.outside.rules import parse_rules
asyncio.run(load_rules(parse_rules(json.load(sys.stdin), load_config(pathlib.Path(sys.argv[1])).servers)))
"""
ECHO = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as s:
    s.settimeout(3); s.connect((sys.argv[1], 7777)); s.send(b"hello"); print(s.recv(99).decode())
with socket.create_connection((sys.argv[1], 7777), 3) as s:
    for word in (b"one", b"two"):
        s.send(word + b"\\n"); print(s.makefile().readline().strip())
"""


@dataclass
class World:
    """A running world outside."""

    paths: LabPaths
    servers: tuple[Server, ...]
    log: Path
    process: subprocess.Popen[bytes]
    command: list[str]

    def load(self, **data: str) -> None:
        """Load the rules of a ConfigMap's data, as the process itself does."""
        enter = [
            "nsenter",
            f"--net={self.paths.namespace_file(OUTSIDE)}",
            sys.executable,
            "-c",
            LOAD,
            *self.command[-1:],
        ]
        subprocess.run(enter, input=json.dumps(data), text=True, check=True)

    def curl(self, member: str, url: str, *options: str) -> subprocess.CompletedProcess[str]:
        """curl from a node."""
        return inside(self.paths, member, "curl", "-sS", "-m", "5", *options, url)

    def decisions(self, count: int) -> list[tuple[str, str]]:
        """(verdict, source) of what was logged, once that many lines are there; waiting probes are left out."""
        deadline = time.monotonic() + 10
        while True:
            lines = [line.split() for line in self.log.read_text().splitlines()]
            found = [(line[1], line[3].rpartition(":")[0]) for line in lines if not line[3].startswith("192.168.60.14")]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, f"{count} decisions in {lines}"
            time.sleep(0.01)

    def wait_until_serving(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + 20
        while self.curl("lab-worker3", "http://192.168.60.13/").returncode != 0:
            assert time.monotonic() < deadline, "the world outside does not answer"
            assert self.process.poll() is None
            time.sleep(0.02)


@pytest.fixture(scope="module")
def running(fabric: LabPaths, topology: Topology, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The process in its namespace, without an API server."""
    directory = tmp_path_factory.mktemp("outside")
    fabric.root.mkdir(parents=True)
    write_certificates(fabric, topology)
    servers = tuple(Server(name=s.name, addresses=s.addresses, names=s.names) for s in topology.outside.servers)
    config = {
        "network_namespace": str(fabric.namespace_file(OUTSIDE)),
        "certificate": str(fabric.pki / "outside.crt"),
        "key": str(fabric.pki / "outside.key"),
        "servers": [server.model_dump(mode="json") for server in servers],
        "firewall_log": str(directory / "firewall.log"),
    }
    file = directory / "outside.json"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "egresslab.cluster.outside", "--config", str(file)]
    world = World(fabric, servers, directory / "firewall.log", subprocess.Popen(command), command)
    world.wait_until_serving()
    yield world
    world.process.terminate()
    assert world.process.wait(10) == 0
    shutil.rmtree(fabric.root)


@pytest.fixture
def world(running: World) -> World:
    """The running world with an open firewall and an empty log."""
    running.load()
    running.log.write_text("")
    return running


def test_answers_with_the_address_it_saw(world: World) -> None:
    assert world.curl("lab-worker", "http://192.168.60.13/").stdout == "192.168.60.11\n"
    assert world.curl("lab-worker2", "http://[2001:db8:113::10]/ip").stdout == "fd00:60::12\n"
    assert world.curl("lab-worker", "http://203.0.113.10/", "--interface", "eth1").stdout == "172.18.18.11\n"
    forged = world.curl("lab-worker", "http://192.168.60.13/", "-H", "X-Forwarded-For: 192.0.2.1")
    assert forged.stdout == "192.168.60.11\n"


def test_https_under_every_name_with_the_labs_authority(world: World) -> None:
    authority = str(world.paths.pki / "ca.crt")
    for server in world.servers:
        for name in server.names:
            where = f"{name}:443:{server.addresses[0]}"
            answer = world.curl("lab-worker", f"https://{name}/json", "--cacert", authority, "--resolve", where)
            seen = json.loads(answer.stdout)
            assert (seen["address"], seen["host"], seen["server"]) == ("192.168.60.11", name, server.name)
    assert world.curl("lab-worker", "https://192.168.60.13/").returncode == 60  # an authority nobody knows


@pytest.mark.parametrize("address", ["203.0.113.12", "192.168.60.13", "2001:db8:113::20", "fd00:60::13"])
def test_echo_over_udp_and_over_one_tcp_connection(world: World, address: str) -> None:
    answer = inside(world.paths, "lab-worker", sys.executable, "-c", ECHO, address)
    datagram, one, two = answer.stdout.splitlines()
    own = "fd00:60::11" if ":" in address else "192.168.60.11"
    assert datagram.split()[0] == own
    assert datagram.endswith(" hello")
    assert one.removesuffix(" one") == two.removesuffix(" two")
    assert one.split()[0] == own


def test_firewall_lets_the_listed_in_and_resets_the_others_and_logs_both(world: World) -> None:
    world.load(allow="192.168.60.11\nfd00:60::11", servers="external")
    for url in ("http://192.168.60.13/", "http://[fd00:60::13]/"):
        assert world.curl("lab-worker", url).returncode == 0
        refused = world.curl("lab-worker2", url)
        assert refused.returncode == 7  # refused, not timed out (28)
    assert world.curl("lab-worker2", "http://203.0.113.10/").returncode == 0
    assert world.decisions(4) == [
        ("accepted", "192.168.60.11"),
        ("refused", "192.168.60.12"),
        ("accepted", "[fd00:60::11]"),
        ("refused", "[fd00:60::12]"),
    ]


def test_dropping_firewall_leaves_the_refused_waiting(world: World) -> None:
    world.load(allow="192.168.60.11", servers="external", action="drop")
    assert world.curl("lab-worker2", "http://192.168.60.13/", "--connect-timeout", "0.3").returncode == 28


def test_open_connection_outlives_a_change_of_the_list(world: World) -> None:
    world.load(allow="192.168.60.11")
    program = (
        "import socket, sys\n"
        "s = socket.create_connection(('192.168.60.13', 7777), 3); f = s.makefile()\n"
        "for word in sys.stdin:\n s.send(word.encode()); print(f.readline().strip(), flush=True)\n"
    )
    enter = ["nsenter", f"--net={world.paths.namespace_file('lab-worker')}", sys.executable, "-c", program]
    with subprocess.Popen(enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write("before\n")
        first = client.stdout.readline().split()
        world.load(allow="")
        client.stdin.write("after\n")
        assert client.stdout.readline().split() == [*first[:2], "after"]
    assert world.curl("lab-worker", "http://192.168.60.13/").returncode == 7


def test_cloud_nat_rewrites_sources_before_the_firewall_looks(world: World) -> None:
    world.load(nat="192.168.60.0/24 203.0.113.1", allow="203.0.113.1")
    assert world.curl("lab-worker", "http://203.0.113.10/").stdout == "203.0.113.1\n"
    assert world.curl("lab-worker", "http://203.0.113.10/", "--interface", "eth1").returncode == 7


def test_rules_stay_in_force_while_the_process_is_away(world: World) -> None:
    world.load(allow="192.168.60.14", servers="external")
    os.kill(world.process.pid, signal.SIGKILL)
    world.process.wait(10)
    world.process = subprocess.Popen(world.command)
    world.wait_until_serving()
    assert world.curl("lab-worker2", "http://192.168.60.13/").returncode == 7
    assert [decision for decision in world.decisions(1) if decision[0] == "refused"] == [("refused", "192.168.60.12")]
