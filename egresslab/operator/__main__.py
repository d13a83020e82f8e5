"""Entry of the operator: `python -m egresslab.operator [--kubeconfig FILE]`; in a pod it uses its service account."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
from pathlib import Path

from egresslab.agent.programmer import ENTRIES
from egresslab.agent.view import ClusterView
from egresslab.api.connection import Api, connect
from egresslab.api.resources import CILIUM_POLICIES, Object
from egresslab.operator.lease import lead
from egresslab.operator.reports import ProblemReports
from egresslab.policy.engine import Settings
from egresslab.policy.entries import Change, Changes, Problem

POLICY_GROUPS = frozenset({CILIUM_POLICIES.group, "network.deckhouse.io", "egresslab.dev"})


async def operate(api: Api) -> None:
    """Follow the cluster and report on it, until cancelled."""

    def changed(change: Change, changes: Changes) -> None:
        reports.wake.set()

    view = ClusterView(api, Settings(capacity=ENTRIES), changed)
    reports = ProblemReports(api, lambda: problems(view))
    async with asyncio.TaskGroup() as group:
        group.create_task(view.run())
        await view.wait_synced()
        reports.wake.set()
        group.create_task(reports.run())


def problems(view: ClusterView) -> dict[Problem, Object]:
    """What is wrong now, with the policy or gateway concerned, which problems name as `Kind/name`."""
    subjects = {
        f"{obj['kind']}/{obj['metadata']['name']}": obj
        for resource, objects in view.objects.items()
        if resource.group in POLICY_GROUPS
        for obj in objects
    }
    found = view.engine.problems()
    return {problem: subjects[problem.subject] for problem in found if problem.subject in subjects}


async def main(kubeconfig: Path | None, identity: str) -> None:
    """Lead when it is our turn; ends when the lease is lost, so that the pod starts afresh."""
    async with connect(kubeconfig) as api:
        leading = asyncio.create_task(lead(api, identity, lambda: operate(api)))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leading.cancel)
        try:
            await leading
        except asyncio.CancelledError:
            logging.info("stopped")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="egresslab-operator", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(main(parser.parse_args().kubeconfig, os.environ.get("POD_NAME") or socket.gethostname()))
