"""The agent on a node whose pods were linked by the usual CNI plug-ins, proved by packets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.kind.apart import run_apart
from tests.kind.node import EGRESS, PODS_OF, manifest

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One run of `tests.kind.node`."""
    return run_apart("tests.kind.node", tmp_path_factory.mktemp("node"))


def test_pods_behind_a_host_route_and_behind_a_bridge_leave_by_the_policy(node: Any) -> None:
    assert node["before"] == PODS_OF
    assert node["after"] == dict.fromkeys(PODS_OF, EGRESS)


def test_programs_are_on_the_pods_own_links_and_on_the_way_out(node: Any) -> None:
    attached = {line for line in node["attached"] if "egresslab:" in line}
    assert {"vethrouted egresslab:from_pod", "vethbridged egresslab:from_pod", "eth0 egresslab:from_wire"} <= attached
    assert not any(line.startswith(("cni0", "vethrouted egresslab:from_wire")) for line in attached)


def test_only_what_leads_out_is_published(node: Any) -> None:
    (published,) = [json.loads(text) for key, text in node["annotation"].items() if key == "egresslab.dev/interfaces"]
    assert set(published) == {"eth0"}


def test_another_tunnel_on_its_port_is_refused_with_the_way_out(node: Any) -> None:
    assert node["refused"]["code"] == 1
    said = node["refused"]["said"]
    assert "another tunnel uses UDP port 8472" in said and "flannel.1" in said
    assert "--set agent.overlayPort=8473" in said


def test_the_end_of_a_release_leaves_nothing_on_the_node(node: Any) -> None:
    """Until `ending` there was plenty; afterwards packets go as they did before anybody installed anything."""
    assert node["attached"] and not node["ready-after"]
    assert node["last"] == node["before"]


def used(requests: list[str]) -> set[tuple[str, str]]:
    """Verb and resource of requests (Kubernetes API, "Determine the request verb")."""
    found = set()
    for line in requests:
        verb, _, path = line.partition(" ")
        parts = path.strip("/").split("/")[2 if path.startswith("/api/") else 3 :]
        if not parts:
            continue
        if parts[0] == "namespaces" and len(parts) > 2:
            parts = parts[2:]
        one = len(parts) > 1
        words = {"GET": "get" if one else "list", "WATCH": "watch", "PATCH": "patch", "POST": "create", "PUT": "update"}
        found.add((words[verb], parts[0]))
    return found


def test_its_rights_are_enough_and_each_is_used(node: Any) -> None:
    assert "orbidden" not in node["log"]
    rules = [rule for obj in manifest("agent.yaml") if "Role" in obj["kind"] for rule in obj.get("rules", ())]
    granted = {(verb, resource) for rule in rules for verb in rule["verbs"] for resource in rule["resources"]}
    assert used(node["requests"]) == granted
