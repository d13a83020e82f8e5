"""Entry of the operator: `python -m egresslab.operator [--kubeconfig FILE]`; in a pod it uses its service account.

EGRESSLAB_POD_NODE_WEBHOOK is `off` where no webhook configuration asks the operator to label pods with their node.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    # Importing makes much and leaves no garbage: looking for some took a seventh of the time.
    gc.disable()

import argparse
import asyncio
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from egresslab.agent.exposition import serve_metrics
from egresslab.api.connection import connect
from egresslab.operator.lease import Term, lead
from egresslab.operator.metrics import PORT, OperatorMetrics
from egresslab.operator.operator import Operator
from egresslab.operator.webhook import serve_webhook


async def main(kubeconfig: Path | None, identity: str) -> None:
    """Lead when it is our turn; ends when the lease is lost, so that the pod starts afresh."""
    async with connect(kubeconfig) as api:
        metrics = OperatorMetrics(api)
        stretch = int(os.environ.get("EGRESSLAB_STRETCH", 1))

        def act(term: Term) -> Coroutine[Any, Any, None]:
            return Operator(api.guarded(term.permits), metrics=metrics, term=term.name, stretch=stretch).run()

        leading = asyncio.create_task(lead(api, identity, act))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leading.cancel)
        try:
            async with AsyncExitStack() as serving:
                address = os.environ.get("POD_IP") or "127.0.0.1"
                await serving.enter_async_context(serve_metrics(address, PORT, metrics.read))
                if os.environ.get("EGRESSLAB_POD_NODE_WEBHOOK") != "off":
                    await serving.enter_async_context(serve_webhook(api))
                await leading
        except asyncio.CancelledError:
            logging.info("stopped")


if __name__ == "__main__":
    gc.freeze()
    gc.enable()
    parser = argparse.ArgumentParser(prog="egresslab-operator", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(main(parser.parse_args().kubeconfig, os.environ.get("POD_NAME") or socket.gethostname()))
