"""The operator asks each node what its voter sees, and is told nothing rather than something old."""

from __future__ import annotations

import asyncio
import json
import time
from ipaddress import IPv4Address
from pathlib import Path

import aiohttp

from egresslab.agent.peers import PORT, serve_peers
from egresslab.agent.reportfile import ReportFile
from egresslab.voter.files import LeaseReport, NodeReport, Report, parse_report, write

HERE = IPv4Address("127.0.0.83")
LEASE = LeaseReport(7, "egresslab.dev/v1alpha1/out", "n1", 3, held=True)


async def nobody(uid: str, patience_s: float) -> bool:
    return False


async def test_the_voters_report_is_handed_on_while_it_is_fresh(tmp_path: Path) -> None:
    arrived: asyncio.Queue[Report] = asyncio.Queue()
    file = ReportFile(tmp_path / "voter.json", arrived.put_nowait)
    following = asyncio.create_task(file.run())
    async with serve_peers(HERE, nobody, lambda: file.fresh), aiohttp.ClientSession() as http:

        async def ask() -> tuple[int, str]:
            async with http.get(f"http://{HERE}:{PORT}/gateways") as answer:
                return answer.status, await answer.text()

        assert (await ask())[0] == 503
        for said in (
            Report("n1", time.time(), 1, True, leases=(LEASE,), nodes=(NodeReport("n2", False),)),
            Report("n1", time.time(), 2, True),
        ):
            write(tmp_path / "voter.json", said)
            async with asyncio.timeout(5):
                assert await arrived.get() == said
            status, text = await ask()
            assert (status, parse_report(json.loads(text))) == (200, said)
        write(tmp_path / "voter.json", Report("n1", time.time() - 60, 2, True))
        async with asyncio.timeout(5):
            await arrived.get()
        assert (await ask())[0] == 503
        (tmp_path / "voter.json").write_text("{")
        write(tmp_path / "voter.json", Report("n1", time.time(), 3, True))
        async with asyncio.timeout(5):
            assert (await arrived.get()).generation == 3
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
