"""Who answers for an address on a network: runs inside a pod, alone, on Python's standard library.

It keeps asking for the address (ARP, RFC 826) from a hardware address that nobody has, so that nobody's cache learns
anything from the answers, and writes down every answer and every announcement with time and hardware address. Like
`traffic`, the file itself is what a pod gets; it must never import anything of this project.

    python witness.py INTERFACE ADDRESS INTERVAL-MS     until a line or the end of standard input; prints JSON
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time

ETH_P_ARP = 0x0806
ARP = struct.Struct("!HHBBH6s4s6s4s")
REQUEST, REPLY = 1, 2
BROADCAST = b"\xff" * 6
NOBODY = bytes.fromhex("02ffd7111100")
ASKED, ANSWERED, ANNOUNCED = "asked", "answered", "announced"


def question(address: bytes) -> bytes:
    """An ARP probe (RFC 5227, section 2.1.1): who has the address, asked by somebody without one."""
    body = ARP.pack(1, 0x0800, 6, 4, REQUEST, NOBODY, bytes(4), bytes(6), address)
    return BROADCAST + NOBODY + struct.pack("!H", ETH_P_ARP) + body


def claim(frame: bytes, address: bytes) -> tuple[str, str] | None:
    """(answered or announced, hardware address) when the frame says who has the address."""
    if len(frame) < 14 + ARP.size:
        return None
    _, _, _, _, operation, hardware, sender, _, target = ARP.unpack_from(frame, 14)
    if sender != address or hardware == NOBODY:
        return None
    kind = ANSWERED if operation == REPLY and target != address else ANNOUNCED
    return kind, ":".join(f"{octet:02x}" for octet in hardware)


def watch(interface: str, address: str, interval_ms: float) -> list[tuple[int, str, str]]:
    """(ns since the epoch, kind, hardware address) of everything until standard input says something."""
    wanted = socket.inet_aton(address)
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
    wire.bind((interface, ETH_P_ARP))
    print("watching", file=sys.stderr, flush=True)
    records: list[tuple[int, str, str]] = []
    due = time.monotonic()
    while True:
        ready, _, _ = select.select([wire, sys.stdin], [], [], max(0.0, due - time.monotonic()))
        if sys.stdin in ready:
            return records
        if wire in ready and (found := claim(wire.recv(2048), wanted)):
            records.append((time.time_ns(), *found))
        if time.monotonic() >= due:
            due = max(due + interval_ms / 1000, time.monotonic())
            records.append((time.time_ns(), ASKED, ""))
            wire.send(question(wanted))


if __name__ == "__main__":
    json.dump(watch(sys.argv[1], sys.argv[2], float(sys.argv[3])), sys.stdout)
    print(flush=True)
