"""The tunnel's wrapping, by scapy: what RFC 7348 and the VXLAN device put around a packet, byte for byte."""

from __future__ import annotations

from ipaddress import IPv4Address

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from egresslab.datapath.attachments import OVERLAY_PORT
from egresslab.datapath.values import TUNNEL_PORTS

VNI = 0xE6
SIZE = 50
CONGESTED = 3


def wrapped(
    inner: bytes,
    source: IPv4Address,
    destination: IPv4Address,
    *,
    mac: str = "",
    port: int = TUNNEL_PORTS[0],
    identification: int = 1,
) -> bytes:
    """A frame in its wrapping, as the device of an honest node sends it to `mac`. ECN as in RFC 6040."""
    tos = (inner[15] if inner[12:14] == b"\x08\x00" else inner[15] >> 4) & 3
    outer = IP(src=str(source), dst=str(destination), id=identification, tos=2 if tos == CONGESTED else tos, ttl=64)
    tunnel = UDP(sport=port, dport=OVERLAY_PORT, chksum=0) / VXLAN(vni=VNI, flags="Instance")
    return bytes(Ether(dst=mac or inner[:6], src=inner[6:12], type=0x0800) / outer / tunnel / inner)


def peeled(frame: bytes, node: IPv4Address) -> bytes:
    """What a frame of `node` carries, once its wrapping was found to be exactly right; another frame as it is. Its own
    Ethernet header is still to be written, by the neighbour table."""
    outer = IP(frame[14:])
    if outer.version != 4 or outer.src != str(node) or UDP not in outer or outer[UDP].dport != OVERLAY_PORT:
        return frame
    inner = frame[SIZE:]
    assert TUNNEL_PORTS[0] <= outer[UDP].sport < TUNNEL_PORTS[1]
    expected = wrapped(inner, node, IPv4Address(outer.dst), port=outer[UDP].sport, identification=outer.id)
    assert frame[14:] == expected[14:]
    return inner
