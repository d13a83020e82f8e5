"""Server-side apply without a server."""

from __future__ import annotations

import copy
from typing import Any

from egresslab.cluster.apiserver import applying
from egresslab.cluster.apiserver.authentication import User
from egresslab.cluster.apiserver.declarations import BUILT_IN
from egresslab.cluster.apiserver.requests import WriteOptions

(DEPLOYMENTS,) = (kind for kind in BUILT_IN if kind.plural == "deployments")
PROBE = {"exec": {"command": ["true"]}, "periodSeconds": 1}


def deployment(**container: Any) -> dict[str, Any]:
    pod = {"containers": [{"name": "main", "image": "busybox", **container}]}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod}}
    metadata = {"name": "d", "namespace": "default", "resourceVersion": "1"}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def container(obj: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = obj["spec"]["template"]["spec"]["containers"][0]
    return found


def applied(live: dict[str, Any], intent: dict[str, Any], manager: str = "one") -> dict[str, Any]:
    options = WriteOptions(User(manager), manager)
    return applying.apply(DEPLOYMENTS, copy.deepcopy(live), copy.deepcopy(intent), options, "")


def test_a_structure_that_is_no_longer_stated_goes_with_its_defaults() -> None:
    live = deployment(startupProbe=PROBE)
    applying.claim(DEPLOYMENTS, live, "one")
    container(live)["startupProbe"]["successThreshold"] = 1
    assert "startupProbe" not in container(applied(live, deployment()))


def test_what_somebody_else_stated_in_it_stays() -> None:
    live = deployment(startupProbe=PROBE)
    applying.claim(DEPLOYMENTS, live, "one")
    live = applied(live, deployment(startupProbe={"periodSeconds": 1}), "two")
    assert container(applied(live, deployment()))["startupProbe"] == {"periodSeconds": 1}
