"""A packet capture: outside, where the cluster's packets arrive, or in a pod that sits on a node's network.

tcpdump runs in a pod for as long as a `with` block lasts; its packets are counted by source address. What is seen
outside is the last word on which addresses leave the cluster.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from egresslab.errors import LabError
from egresslab.lab.client import Client
from egresslab.lab.display import Table
from egresslab.lab.entries import IPAddress
from egresslab.lab.execs import Running

NAMESPACE, POD = "outside", "capture"
START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0
SOURCE = re.compile(r"^(?:(?!lo )\S+ +(?:In|Out) +)?IP6? (?P<source>\S+) > ")
"""What a host tells itself is on no wire: an outside whose connection has lost its gateway tells itself that nobody is
there."""
TUNNEL_HEADER = re.compile(r", (?:vni|instance) \d+$")
"""How the line of a tunnel's packet ends (tcpdump takes port 8472 for that of OTV unless told otherwise); the packet
inside follows on a line of its own."""

# Immediate mode (pcap(3)): otherwise packets of the last second would still wait in the kernel when it ends.
# The shell ends tcpdump when a line arrives or the connection breaks; after SIGINT it writes out what it has. Debian's
# tcpdump wants to become the user tcpdump, which small images do not have.
SCRIPT = """
grep -q ^tcpdump: /etc/passwd || as="-Z root"
tcpdump --immediate-mode -l -n -t -i "$0" ${2:+-T "$2"} $as "$1" & pid=$!
read line
kill -INT $pid
wait $pid
"""


class Capture:
    """One capture; after the block, `sources` tells how many packets came from which address, and `lines` is what
    tcpdump printed."""

    def __init__(
        self,
        client: Client,
        expression: str,
        interface: str,
        place: tuple[str, str] = (NAMESPACE, POD),
        decode: str = "",
    ) -> None:
        """`place` is the pod, namespace and name, in which tcpdump runs; `decode` what it takes UDP packets for."""
        self._client = client
        self._expression = expression
        self._interface = interface
        self._place = place
        self._decode = decode
        self._running: Running | None = None
        self._sources: Mapping[IPAddress, int] | None = None
        self._lines: tuple[str, ...] = ()

    @property
    def typed(self) -> str:
        """The capture as a person would type it."""
        namespace, pod = self._place
        decode = f" -T {self._decode}" if self._decode else ""
        return f"kubectl -n {namespace} exec {pod} -- tcpdump -n -i {self._interface}{decode} '{self._expression}'"

    @property
    def _where(self) -> str:
        return "every interface" if self._interface == "any" else self._interface

    @property
    def sources(self) -> Mapping[IPAddress, int]:
        """Packets by source address, most first; `LabError` while the capture runs."""
        if self._sources is None:
            raise LabError("the capture is not over yet", fix="look at it after the `with` block")
        return self._sources

    @property
    def lines(self) -> tuple[str, ...]:
        """A line for each packet, without the time, in order; with interface `any` it begins with interface and
        direction. What a tunnel's packet carries stands on a second line of the same text, set in. `LabError` while the
        capture runs."""
        return self._lines if self.sources is not None else ()

    def show(self, first: int = 8) -> None:
        """Print the command and its first lines, as a terminal would; what follows the flags of a packet is cut."""
        shown = [_short(line) for text in self.lines[:first] for line in text.splitlines()]
        more = [f"… and {len(self.lines) - first} more"] if len(self.lines) > first else []
        print(f"$ {self.typed}", *shown, *more, sep="\n")

    def __enter__(self) -> Self:
        command = ["sh", "-c", SCRIPT, self._interface, self._expression, self._decode]
        self._running = self._client.start(*self._place, command)
        self._running.wait_for_text("listening on", START_TIMEOUT_S * self._client.patience)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._running is not None
        self._running.write("stop\n")
        text = self._running.result(STOP_TIMEOUT_S * self._client.patience).stdout
        self._lines = packets(text)
        self._sources = count(self._lines)

    def _repr_mimebundle_(self, **options: object) -> dict[str, str]:
        rows = tuple((str(address), str(packets)) for address, packets in self.sources.items())
        where = "outside" if self._place == (NAMESPACE, POD) else f"in {'/'.join(self._place)}"
        return Table(f"Seen {where} on {self._where}", ("source", "packets"), rows)._repr_mimebundle_(**options)

    def __str__(self) -> str:
        return ", ".join(f"{address}: {packets}" for address, packets in self.sources.items()) or "no packets"


def packets(text: str) -> tuple[str, ...]:
    """What tcpdump printed (tcpdump(1), output of `-n -t`), packet by packet; see `Capture.lines`."""
    found: list[str] = []
    for line in filter(str.strip, text.splitlines()):
        if found and TUNNEL_HEADER.search(found[-1]):
            found[-1] += f"\n    {line}"
        else:
            found.append(line)
    return tuple(found)


def count(lines: Iterable[str]) -> dict[IPAddress, int]:
    """Packets by source address, most first; of a tunnel's packets the outer one, which is what the wire sees."""
    addresses = (_address(found["source"]) for found in map(SOURCE.match, lines) if found)
    return dict(Counter(addresses).most_common())


def _short(line: str) -> str:
    return line.partition(", seq")[0].partition(", ack")[0]


def _address(endpoint: str) -> IPAddress:
    """The address in `192.0.2.1.443`, `2001:db8::1.443` or, without a port, `192.0.2.1` and `2001:db8::1`."""
    host, _, port = endpoint.rpartition(".")
    if port.isdigit() and (":" in host or host.count(".") == 3):
        return ipaddress.ip_address(host)
    return ipaddress.ip_address(endpoint)
