"""A container's log file against the plain text that was written: every way of reading, also after shortening."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egresslab.cluster.node import logs
from egresslab.cluster.node.logs import LogFile, LogRequest

CHUNKS = st.lists(st.text("ab\n", max_size=12).map(str.encode), max_size=12)


async def _read(log: LogFile, request: LogRequest) -> bytes:
    return b"".join([piece async for piece in log.read(request)])


def _last_lines(text: bytes, count: int) -> bytes:
    return b"".join(text.splitlines(keepends=True)[-count:]) if count else b""


@given(CHUNKS, st.integers(0, 6), st.integers(0, 20))
@settings(max_examples=150, deadline=None)
def test_reading_agrees_with_the_text(chunks: list[bytes], tail: int, limit: int) -> None:
    """Whole, tail, limit, and a reopened file, as an adopted container has."""
    text = b"".join(chunks)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log")
        path.touch()
        log = LogFile(path)
        for chunk in chunks:
            with path.open("ab") as file:
                file.write(chunk)
            log.notice()
        for each in (log, LogFile(path)):
            assert asyncio.run(_read(each, LogRequest())) == text
            assert asyncio.run(_read(each, LogRequest(tail_lines=tail))) == _last_lines(text, tail)
            assert asyncio.run(_read(each, LogRequest(limit_bytes=limit))) == text[:limit]
            stamped = asyncio.run(_read(each, LogRequest(timestamps=True))).splitlines(keepends=True)
            assert b"".join(line.split(b" ", 1)[1] for line in stamped) == text
            assert [line[:30] for line in stamped] == sorted(line[:30] for line in stamped)


def test_lines_carry_the_time_of_their_arrival(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`since` takes what came at that time or later."""
    path = tmp_path / "log"
    path.touch()
    log = LogFile(path)
    for second, line in ((10, b"early\n"), (20, b"middle\n"), (30, b"late\n")):
        monkeypatch.setattr(logs.time, "time_ns", lambda second=second: second * 10**9)
        with path.open("ab") as file:
            file.write(line)
        log.notice()
    assert asyncio.run(_read(log, LogRequest(since_ns=20 * 10**9))) == b"middle\nlate\n"
    stamped = asyncio.run(_read(log, LogRequest(timestamps=True))).decode().splitlines()
    assert stamped[1] == "1970-01-01T00:00:20.000000000Z middle"


def test_a_long_log_gives_its_beginning_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the oldest lines go, whole lines stay, and so does a reader's place."""
    monkeypatch.setattr(logs, "LIMIT", 64 * 1024)
    monkeypatch.setattr(logs, "KEEP", 32 * 1024)
    path = tmp_path / "log"
    path.touch()
    log = LogFile(path)
    written = []
    with path.open("ab", buffering=0) as file:
        for number in range(12_000):
            written.append(b"line %d\n" % number)
            file.write(written[-1])
            if number % 100 == 0:
                log.notice()
    for each in (log, LogFile(path)):
        kept = asyncio.run(_read(each, LogRequest()))
        assert b"".join(written).endswith(kept) and kept.startswith(b"line ")
        assert 32 * 1024 - 100 <= len(kept) <= 64 * 1024 + 2000
    assert path.stat().st_blocks * 512 < 80 * 1024 < path.stat().st_size


async def test_following_wakes_on_growth_and_ends_with_the_container(tmp_path: Path) -> None:
    """A follower gets what is written later, and returns once the log has ended."""
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    log = LogFile(path)
    pieces: list[bytes] = []
    first = asyncio.Event()

    async def follow() -> None:
        async for piece in log.read(LogRequest(follow=True)):
            pieces.append(piece)
            first.set()

    task = asyncio.create_task(follow())
    await asyncio.wait_for(first.wait(), 5)
    with path.open("ab") as file:
        file.write(b"two\n")
    log.notice()
    log.end()
    await asyncio.wait_for(task, 5)
    assert b"".join(pieces) == b"one\ntwo\n"
