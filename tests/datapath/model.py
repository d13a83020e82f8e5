"""What must become of a packet, in Python and scapy, written from the documentation and sharing nothing with the C."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from egresslab.datapath.values import IPAddress, IPNetwork, PolicyEntry, Reason, Verdict


def ip_layer(frame: Packet) -> Packet:
    return frame[IP] if IP in frame else frame[IPv6]


def rebuilt(frame: Packet) -> Packet:
    """The same packet with every checksum and length computed anew."""
    copy = Ether(bytes(frame))
    for layer in (IP, TCP, UDP, ICMP):
        if layer in copy and hasattr(copy[layer], "chksum"):
            if layer is UDP and copy[UDP].chksum == 0 and IP in copy:
                continue
            del copy[layer].chksum
    for layer in (ICMPv6EchoRequest, ICMPv6EchoReply):
        if layer in copy:
            del copy[layer].cksum
    return Ether(bytes(copy))


def checksums_are_right(frame: bytes) -> bool:
    return bytes(rebuilt(Ether(frame))) == frame


@dataclass
class Model:
    """A gateway's state as far as verdicts depend on it."""

    entries: list[PolicyEntry]
    inside: list[IPNetwork]
    egress: dict[int, dict[int, IPAddress]]
    """Slot of this gateway, then IP version, to egress address."""
    elsewhere: set[int] = field(default_factory=set)
    """Slots whose gateway is another node."""

    def decide(self, source: IPAddress, destination: IPAddress) -> PolicyEntry | None:
        """The longest prefix that matches."""
        matching = [e for e in self.entries if e.source == source and destination in e.destination]
        return max(matching, key=lambda entry: entry.destination.prefixlen, default=None)

    def from_pod(self, frame: Packet) -> tuple[Verdict, Reason, Packet]:
        """Verdict, reason, and the frame that leaves (unchanged unless translated)."""
        layer = ip_layer(frame)
        source, destination = ip_address(layer.src), ip_address(layer.dst)
        if any(destination in network for network in self.inside):
            return Verdict.PASS, Reason.IN_CLUSTER, frame
        entry = self.decide(source, destination)
        if entry is None:
            return Verdict.PASS, Reason.NO_ENTRY, frame
        if entry.excluded:
            return Verdict.PASS, Reason.EXCLUDED, frame
        if entry.slot in self.elsewhere:
            return Verdict.REDIRECT, Reason.STEERED, frame
        if entry.slot not in self.egress:
            return Verdict.DROP, Reason.NO_GATEWAY, frame
        address = self.egress[entry.slot].get(source.version)
        if address is None:
            return Verdict.DROP, Reason.NO_EGRESS_IP, frame
        return Verdict.REDIRECT, Reason.TRANSLATED, translated(frame, source=address)


def translated(
    frame: Packet, *, source: IPAddress | None = None, destination: IPAddress | None = None, hops: int = 1
) -> Packet:
    """One side's address changed, one hop less, checksums computed from nothing."""
    copy = Ether(bytes(frame))
    layer = ip_layer(copy)
    if source is not None:
        layer.src = str(source)
    if destination is not None:
        layer.dst = str(destination)
    if isinstance(layer, IP):
        layer.ttl -= hops
    else:
        layer.hlim -= hops
    return rebuilt(copy)
