"""Containers' output: a plain file that the container itself writes, and beside it an index of when what came.

Output needs no process in between, so a container goes on writing while no kubelet runs. Times are those at which the
kubelet noticed the output; what came while it was away carries the time of its return.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from bisect import bisect_right
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import inotify_simple

from egresslab.cluster.node.kernel import punch_hole

ENTRY = struct.Struct("<QQ")
"""One index entry: end offset in bytes, arrival in nanoseconds of the epoch, of the bytes since the entry before."""

MERGE_NS = 5_000_000
BATCH_S = 0.02
"""Notifications are gathered for this long, so that a chatty container does not keep the kubelet busy."""

LIMIT = 10 * 1024 * 1024
KEEP = LIMIT // 2
BLOCK = 64 * 1024
PAGE = 4096


@dataclass(frozen=True, slots=True)
class LogRequest:
    """What of a log is wanted (PodLogOptions); `since_ns` in nanoseconds of the epoch."""

    follow: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    since_ns: int | None = None
    limit_bytes: int | None = None


def rfc3339(nanoseconds: int) -> str:
    """A time as the kubelet writes it in front of log lines."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


class LogFile:
    """One container's log; `ended` is set when nobody will write to it any more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ended = asyncio.Event()
        self._index = path.with_suffix(".times")
        self._waiters: set[asyncio.Future[None]] = set()
        entries = self._entries()
        self._start = entries[0][0] if entries and entries[0][1] == 0 else 0
        self._seen, self._seen_at = entries[-1] if entries else (0, 0)

    @property
    def size(self) -> int:
        """Bytes written so far, those thrown away included."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def notice(self) -> None:
        """Note how far the output has come, and wake those who follow it."""
        size = self.size
        if size > self._seen:
            now = time.time_ns()
            with self._index.open("r+b" if self._index.exists() else "w+b") as index:
                fresh = now - self._seen_at < MERGE_NS
                index.seek(-ENTRY.size if fresh else 0, os.SEEK_END)
                index.write(ENTRY.pack(size, self._seen_at if fresh else now))
            self._seen = size
            self._seen_at = self._seen_at if fresh else now
            if size - self._start > LIMIT:
                self._shorten(size - KEEP)
        self._wake()

    def end(self) -> None:
        """The container is gone."""
        self.notice()
        self.ended.set()
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def _shorten(self, wish: int) -> None:
        """Throw away what is older than `wish` (an offset): storage is given back, offsets stay."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            newline = os.pread(descriptor, BLOCK, wish).find(b"\n")
            start = wish + newline + 1
            punch_hole(descriptor, 0, start - start % PAGE)
        finally:
            os.close(descriptor)
        rest = [(end, at) for end, at in self._entries() if end > start and at]
        draft = self._index.with_suffix(".new")
        draft.write_bytes(b"".join(ENTRY.pack(*entry) for entry in [(start, 0), *rest]))
        draft.replace(self._index)
        self._start = start

    def _entries(self) -> list[tuple[int, int]]:
        try:
            data = self._index.read_bytes()
        except FileNotFoundError:
            return []
        return [(end, at) for end, at in ENTRY.iter_unpack(data[: len(data) - len(data) % ENTRY.size])]

    async def read(self, request: LogRequest) -> AsyncIterator[bytes]:
        """The log in pieces; with `follow` until the container has ended."""
        self.notice()
        left = request.limit_bytes
        async for piece in self._pieces(request):
            if left is not None:
                piece = piece[:left]
                left -= len(piece)
            if piece:
                yield piece
            if left == 0:
                return

    async def _pieces(self, request: LogRequest) -> AsyncIterator[bytes]:
        offset = self._first_offset(request)
        if not request.timestamps:
            async for block in self.follow(offset, wait=request.follow):
                yield block
            return
        rest = b""
        async for block in self.follow(offset, wait=request.follow):
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            times = self._entries()
            stamped = []
            for line in lines:
                stamped.append(self._stamp(times, offset) + line + b"\n")
                offset += len(line) + 1
            if stamped:
                yield b"".join(stamped)
        if rest:
            yield self._stamp(self._entries(), offset) + rest

    async def follow(self, offset: int, *, wait: bool = True) -> AsyncIterator[bytes]:
        """Raw bytes from an offset on; with `wait` until the container has ended, else what there is."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            while True:
                ended = self.ended.is_set()
                block = os.pread(descriptor, BLOCK, offset)
                if block:
                    offset += len(block)
                    yield block
                elif ended or not wait:
                    return
                else:
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.add(waiter)
                    await waiter
        finally:
            os.close(descriptor)

    def _first_offset(self, request: LogRequest) -> int:
        offset = self._start
        if request.since_ns is not None:
            entries = self._entries()
            before = [end for end, at in entries if at < request.since_ns]
            offset = max(offset, before[-1] if before else 0)
        if request.tail_lines is not None:
            offset = max(offset, self._tail_offset(request.tail_lines))
        return offset

    def _tail_offset(self, lines: int) -> int:
        """Where the last `lines` lines begin."""
        position = self.size
        if lines == 0 or position == 0:
            return position
        with self.path.open("rb") as log:
            log.seek(position - 1)
            # A newline at the very end closes the last line, it does not begin another one.
            wanted = lines + 1 if log.read(1) == b"\n" else lines
            while position > self._start:
                begin = max(self._start, position - BLOCK)
                log.seek(begin)
                block = log.read(position - begin)
                found = block.count(b"\n")
                if found >= wanted:
                    for _ in range(wanted):
                        cut = block.rindex(b"\n")
                        block = block[:cut]
                    return begin + cut + 1
                wanted -= found
                position = begin
        return self._start

    @staticmethod
    def _stamp(entries: list[tuple[int, int]], offset: int) -> bytes:
        position = bisect_right(entries, offset, key=lambda entry: entry[0])
        at = entries[min(position, len(entries) - 1)][1] if entries else time.time_ns()
        return rfc3339(at).encode() + b" "


class LogWatcher:
    """Tells log files when they grow: one inotify descriptor for all; `run` is the task that reads it."""

    def __init__(self) -> None:
        self._inotify = inotify_simple.INotify(nonblocking=True)
        self._watched: dict[int, LogFile] = {}
        self._changed = asyncio.Event()

    def add(self, log: LogFile) -> None:
        """Watch a file that exists."""
        self._watched[self._inotify.add_watch(log.path, inotify_simple.flags.MODIFY)] = log
        log.notice()

    def remove(self, log: LogFile) -> None:
        """Stop watching; a file that is not watched is let be."""
        for number in [number for number, other in self._watched.items() if other is log]:
            del self._watched[number]
            try:
                self._inotify.rm_watch(number)
            except OSError:
                # The kernel dropped the watch together with the file.
                continue

    async def run(self) -> None:
        """Read notifications until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                loop.add_reader(self._inotify.fileno(), self._readable)
                await self._changed.wait()
                self._changed.clear()
                events = list(self._inotify.read(timeout=0))
                if any(event.mask & inotify_simple.flags.Q_OVERFLOW for event in events):
                    changed = set(self._watched)
                else:
                    changed = {event.wd for event in events}
                for number in changed:
                    if (log := self._watched.get(number)) is not None:
                        log.notice()
                await asyncio.sleep(BATCH_S)
        finally:
            loop.remove_reader(self._inotify.fileno())
            self._inotify.close()

    def _readable(self) -> None:
        asyncio.get_running_loop().remove_reader(self._inotify.fileno())
        self._changed.set()
