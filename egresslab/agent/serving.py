"""What is answered over HTTP, on a port or on a socket file that only its owner may open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web


@asynccontextmanager
async def serving(application: web.Application, at: Path | tuple[str, int], **options: Any) -> AsyncIterator[None]:
    """Answer while the context is open. `at`: a unix socket's file, or an address and port; `options`: AppRunner's.

    A file that a process before us left there gives way, and none is left behind.
    """
    runner = web.AppRunner(application, access_log=None, **options)
    await runner.setup()
    try:
        if isinstance(at, Path):
            at.parent.mkdir(parents=True, exist_ok=True)
            at.unlink(missing_ok=True)
            await web.UnixSite(runner, str(at)).start()
            at.chmod(0o600)
        else:
            await web.TCPSite(runner, *at, reuse_address=True).start()
        yield
    finally:
        await runner.cleanup()
        if isinstance(at, Path):
            at.unlink(missing_ok=True)
