"""Traffic that a drill measures by: runs inside a pod, alone, on Python's standard library.

It keeps TCP connections open, opens new ones, and sends UDP datagrams and ICMP echoes at fixed intervals to a server
that answers each with the source address it saw. Every sending and every answer is written down with its time; what
they mean is decided elsewhere. It must never import anything of this project: the file itself is what a pod gets.

    python traffic.py run CONFIG-AS-JSON       until told to stop; afterwards it waits to be asked
    python traffic.py stop | dump | clock      from another process in the same container

`dump` prints one line of JSON: flows, source addresses, and the records (deflated, base64) as `RECORD` packs them.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import gc
import heapq
import ipaddress
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

RECORD = struct.Struct("<BBHIQ")
"""Kind, number of the source address (0: not told), flow, sequence number, time in ns since the epoch."""
SENT, ANSWERED, OPENED, FAILED, LATE = range(1, 6)
"""Kinds. FAILED: `sequence` is the errno; LATE: this program woke too late, by `sequence` microseconds."""
UDP, ICMP, NEW, CONTROL, FIRST_KEPT = range(5)
"""Flows. NEW: a connection for each sequence number; CONTROL: datagrams that take no gateway; from FIRST_KEPT on one
flow for each kept connection."""

LATENESS_NS = 3_000_000
READ_AT_LEAST_NS = 2_000_000
NEW_PATIENCE_NS = 3_000_000_000
SO_TIMESTAMPNS = 35
ECHO_REQUEST, ECHO_REQUEST_V6 = 8, 128
LONGEST = 2048

Job = Callable[[], None]


class Log:
    """Records in memory; nothing is written to a file while it matters."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.sources: list[str] = [""]

    def note(self, kind: int, flow: int, sequence: int, at: int, source: str = "") -> None:
        """One record."""
        if source not in self.sources:
            self.sources.append(source)
        self.data += RECORD.pack(kind, self.sources.index(source), flow, sequence & 0xFFFFFFFF, at)

    def dump(self, config: dict[str, Any]) -> str:
        """The whole log as one line."""
        packed = base64.b64encode(zlib.compress(bytes(self.data), 6)).decode()
        return json.dumps({"config": config, "sources": self.sources, "records": packed})


class Clockwork:
    """Calls jobs at fixed intervals, and whoever has something to read."""

    def __init__(self, log: Log) -> None:
        self.selector = selectors.DefaultSelector()
        self.stopped = False
        self._log = log
        self._due: list[tuple[int, int, int, Job]] = []

    def every(self, interval_ms: float, job: Job, phase_ms: float = 0.0) -> None:
        """Call `job` each `interval_ms`, the first time after `phase_ms`."""
        interval = int(interval_ms * 1e6)
        heapq.heappush(self._due, (time.monotonic_ns() + int(phase_ms * 1e6), len(self._due), interval, job))

    def run(self) -> None:
        """Until `stopped`."""
        read = 0
        while not self.stopped:
            at, number, interval, job = self._due[0]
            now = time.monotonic_ns()
            if now < at or now - read > READ_AT_LEAST_NS:
                for key, _ in self.selector.select(max(0, at - now) / 1e9):
                    key.data()
                read = time.monotonic_ns()
                continue
            if now - at > LATENESS_NS:
                self._log.note(LATE, 0, min((now - at) // 1000, 0xFFFFFFFF), time.time_ns())
                # What was missed is not made up for in a burst.
                at = now
            job()
            heapq.heapreplace(self._due, (at + interval, number, interval, job))


class Datagrams:
    """UDP datagrams or ICMP echoes, one each interval, told apart by their sequence numbers."""

    def __init__(self, log: Log, flow: int, target: tuple[str, int], family: int) -> None:
        self._log, self._flow, self._target = log, flow, target
        self._sequence = 0
        self._echo = ECHO_REQUEST if family == socket.AF_INET else ECHO_REQUEST_V6
        protocol = 0
        if flow == ICMP:
            protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
        self.socket = socket.socket(family, socket.SOCK_DGRAM, protocol)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def send(self) -> None:
        """The next one. A refusal by the network is no different from a loss."""
        self._sequence += 1
        if self._flow != ICMP:
            packet = b"%d" % self._sequence
        else:
            # The kernel fills in the identifier and the checksum (icmp(7), ping sockets).
            packet = struct.pack("!BBHHHI", self._echo, 0, 0, 0, self._sequence & 0xFFFF, self._sequence)
        self._log.note(SENT, self._flow, self._sequence, time.time_ns())
        with contextlib.suppress(OSError):
            self.socket.sendto(packet, self._target)

    def receive(self) -> None:
        """All that has arrived, each with the time at which the kernel had it."""
        while True:
            try:
                data, ancillary, _, _ = self.socket.recvmsg(LONGEST, 64)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about an earlier datagram
            at = time.time_ns()
            for _, _, content in ancillary:
                seconds, nanoseconds = struct.unpack("@ll", content)
                at = seconds * 1_000_000_000 + nanoseconds
            if self._flow != ICMP:
                source, _, text = data.decode().split(" ", 2)
                self._log.note(ANSWERED, self._flow, int(text), at, source)
            else:
                self._log.note(ANSWERED, ICMP, struct.unpack_from("!I", data, 8)[0], at)


class Connection:
    """A TCP connection that says its lines when told to and notes what comes back, until it breaks."""

    def __init__(self, clockwork: Clockwork, log: Log, flow: int, target: tuple[str, int], family: int) -> None:
        self._clockwork, self._log, self.flow = clockwork, log, flow
        self.sequence = 0
        self.answered = 0
        self.open = False
        self._pending = b""
        self._received = b""
        self.socket: socket.socket | None = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = self.socket.connect_ex(target)
        if code not in (0, errno.EINPROGRESS):
            self.fail(code)
            return
        self._watch(selectors.EVENT_READ | selectors.EVENT_WRITE)

    def _watch(self, events: int) -> None:
        assert self.socket is not None
        try:
            self._clockwork.selector.modify(self.socket, events, self.ready)
        except KeyError:
            self._clockwork.selector.register(self.socket, events, self.ready)

    def say(self) -> None:
        """Send the next line, if there is still anybody to say it to."""
        if self.socket is None:
            return
        self.sequence += 1
        self._log.note(SENT, self.flow, self.sequence, time.time_ns())
        self._pending += b"%d\n" % self.sequence
        if self.open:
            self._flush()

    def _flush(self) -> None:
        assert self.socket is not None
        try:
            sent = self.socket.send(self._pending)
            self._pending = self._pending[sent:]
        except BlockingIOError:
            pass  # the window is full for as long as nothing is acknowledged; the next line tries again
        except OSError as error:
            self.fail(error.errno or 0)

    def ready(self) -> None:
        """Connected, answered or broken."""
        assert self.socket is not None
        at = time.time_ns()
        if not self.open:
            code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.fail(code)
                return
            self.open = True
            self._log.note(OPENED, self.flow, 0, at)
            self._watch(selectors.EVENT_READ)
            if self._pending:
                self._flush()
            return
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(error.errno or 0)
            return
        if not data:
            self.fail(errno.EPIPE)
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            source, _, text = line.decode().split(" ", 2)
            self.answered += 1
            self.hear(int(text), at, source)

    def hear(self, sequence: int, at: int, source: str) -> None:
        """One answer."""
        self._log.note(ANSWERED, self.flow, sequence, at, source)

    def fail(self, code: int) -> None:
        """It broke, or the other side hung up (EPIPE)."""
        self._log.note(FAILED, self.flow, code, time.time_ns())
        self.close()

    def close(self) -> None:
        """Let go; reset it, so that no port is kept waiting."""
        if self.socket is not None:
            if self.socket in self._clockwork.selector.get_map():
                self._clockwork.selector.unregister(self.socket)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()
            self.socket = None


class Newcomer(Connection):
    """A connection for one question: opened, asked, answered, closed. Its sequence number stands for all of it."""

    number = 0

    def say(self) -> None:
        """Its one line."""
        self.sequence = self.number - 1
        super().say()

    def hear(self, sequence: int, at: int, source: str) -> None:
        """Its one answer."""
        super().hear(sequence, at, source)
        self.close()


class Traffic:
    """All flows together."""

    def __init__(self, config: dict[str, Any], directory: Path) -> None:
        self._config, self._directory = config, directory
        self._log = Log()
        self._clockwork = Clockwork(self._log)
        address = ipaddress.ip_address(config["target"])
        self._family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        self._target = (config["target"], int(config["port"]))
        self._newcomers: list[tuple[int, Newcomer]] = []
        self._opened = 0
        self._kept: list[Connection] = []
        self._announced = False

    def run(self) -> None:
        """Until SIGTERM; then the log is there for `dump`."""
        signal.signal(signal.SIGTERM, self._stop)
        gc.disable()
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, int(self._config["niceness"]))
        interval = float(self._config["interval_ms"])
        targets = {UDP: self._target, ICMP: self._target}
        if self._config["control"]:
            targets[CONTROL] = (self._config["control"], self._target[1])
        for flow, target in targets.items():
            datagrams = Datagrams(self._log, flow, target, self._family)
            self._clockwork.selector.register(datagrams.socket, selectors.EVENT_READ, datagrams.receive)
            self._clockwork.every(interval, datagrams.send, interval * flow / 4)
        count, spacing = int(self._config["connections"]), float(self._config["connection_interval_ms"])
        for number in range(count):
            kept = Connection(self._clockwork, self._log, FIRST_KEPT + number, self._target, self._family)
            self._kept.append(kept)
            self._clockwork.every(spacing, kept.say, spacing * number / count)
        if self._config["new_per_second"]:
            self._clockwork.every(1000 / float(self._config["new_per_second"]), self._open)
        self._clockwork.every(50, self._look_around)
        self._clockwork.run()
        for connection in [*self._kept, *(newcomer for _, newcomer in self._newcomers)]:
            connection.close()
        (self._directory / "log").write_text(self._log.dump(self._config))
        (self._directory / "done").touch()

    def _stop(self, *_: object) -> None:
        self._clockwork.stopped = True

    def _open(self) -> None:
        self._opened += 1
        newcomer = Newcomer(self._clockwork, self._log, NEW, self._target, self._family)
        newcomer.number = self._opened
        newcomer.say()
        self._newcomers.append((time.monotonic_ns(), newcomer))

    def _look_around(self) -> None:
        """Give up newcomers that nobody answers; say when every kept connection has been answered."""
        now = time.monotonic_ns()
        while self._newcomers and (
            self._newcomers[0][1].socket is None or now - self._newcomers[0][0] > NEW_PATIENCE_NS
        ):
            self._newcomers.pop(0)[1].close()
        if not self._announced and all(connection.answered for connection in self._kept):
            self._announced = True
            (self._directory / "ready").touch()


def main(words: list[str]) -> int:
    """See the module's docstring."""
    directory = Path(os.environ.get("TRAFFIC_DIRECTORY", "/tmp/traffic"))
    if words[0] == "run":
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "pid").write_text(str(os.getpid()))
        Traffic(json.loads(words[1]), directory).run()
        while not (directory / "leave").exists():
            time.sleep(0.2)
    elif words[0] == "stop":
        os.kill(int((directory / "pid").read_text()), signal.SIGTERM)
    elif words[0] == "dump":
        deadline = time.monotonic() + 20
        while not (directory / "done").exists():
            if time.monotonic() > deadline:
                return 1
            time.sleep(0.02)
        print((directory / "log").read_text())
    elif words[0] == "clock":
        for line in sys.stdin:
            print(f"\n{line.strip()} {time.time_ns()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
