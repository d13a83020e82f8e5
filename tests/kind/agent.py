"""The agent's own entry, with a kubeconfig instead of a pod's service account, and an account of what it asks the API:
`python -m tests.kind.agent KUBECONFIG FILE` appends a line `VERB PATH` for each request to the file."""

from __future__ import annotations

import logging
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from egresslab.api import connection

KUBECONFIG, ACCOUNT = Path(sys.argv[1]), Path(sys.argv[2])
FILE = os.open(ACCOUNT, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
_connect, _request = connection.connect, aiohttp.ClientSession._request


async def _told(self: aiohttp.ClientSession, method: str, url: Any, **more: Any) -> Any:
    verb = "WATCH" if "watch" in f"{url} {more.get('params')}" else method
    os.write(FILE, f"{verb} {URL(str(url)).path}\n".encode())
    return await _request(self, method, url, **more)


if __name__ == "__main__":
    aiohttp.ClientSession._request = _told  # type: ignore[method-assign]
    connection.connect = lambda kubeconfig=None: _connect(kubeconfig or KUBECONFIG)  # type: ignore[assignment]
    logging.captureWarnings(True)
    runpy.run_module("egresslab.agent", run_name="__main__", alter_sys=False)
