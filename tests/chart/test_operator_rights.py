"""The operator asks for nothing that the chart does not grant, and the chart grants little that it does not ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from egresslab.api.connection import connect
from egresslab.api.resources import EGRESSLAB_GATEWAYS, EGRESSLAB_POLICIES
from egresslab.environments.definitions import definitions
from egresslab.operator.lease import Term, lead
from egresslab.operator.operator import Operator
from tests.kind.test_beside_other_plugins import used
from tests.operator.conftest import OPERATOR, Cluster, agents, cluster, gateway, server, until, voters_of

__all__ = ["agents", "cluster", "server"]

AT_OTHER_TIMES = {
    ("update", "configmaps"),  # another set of voters
    ("get", "events"),  # a problem that is said again
    ("patch", "events"),
}
"""Granted, and used in situations that tests/operator has."""


async def test_it_leads_reports_and_says_problems_with_just_its_rights(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    request = aiohttp.ClientSession._request

    async def told(self: aiohttp.ClientSession, method: str, url: Any, **more: Any) -> Any:
        answer = await request(self, method, url, **more)
        path = str(url).partition("://")[2].partition("/")[2].partition("?")[0]
        if answer.status == 403:
            pytest.fail(f"forbidden: {method} {path}")
        verb = "WATCH" if "watch" in f"{url} {more.get('params')}" else method
        asked.append(f"{verb} /{path}")
        return answer

    async with connect(cluster.server.kubeconfig_for(OPERATOR)) as api:
        await cluster.node("lab-worker2", egress="true")
        await cluster.apply(gateway(), EGRESSLAB_GATEWAYS)
        policy = {
            "apiVersion": "egresslab.dev/v1alpha1",
            "kind": "EgressGatewayPolicy",
            "metadata": {"name": "nowhere"},
            "spec": {
                "selectors": [{"podSelector": {}}],
                "destinationCIDRs": ["203.0.113.0/24"],
                "egressGatewayName": "absent",
            },
        }
        await cluster.apply(policy, EGRESSLAB_POLICIES)
        monkeypatch.setattr(aiohttp.ClientSession, "_request", told)

        def act(term: Term) -> Coroutine[Any, Any, None]:
            return Operator(api.guarded(term.permits), cluster.agents.port, term=term.name).run()

        acting = asyncio.create_task(lead(api, "a", act))
        try:
            await until("voters", lambda: voters_of(cluster))
            await until("a status", lambda: cluster.status(EGRESSLAB_GATEWAYS, "out"))
            await until("a policy's status", lambda: cluster.status(EGRESSLAB_POLICIES, "nowhere"))
        finally:
            acting.cancel()
            with suppress(asyncio.CancelledError):
                await acting
    rules = [
        rule
        for obj in yaml.safe_load_all(Path(definitions("netns"), "manifests", "operator.yaml").read_text())
        if "Role" in obj["kind"]
        for rule in obj.get("rules", ())
    ]
    granted = {(verb, resource.partition("/")[0]) for r in rules for verb in r["verbs"] for resource in r["resources"]}
    assert granted - used(asked) <= AT_OTHER_TIMES
