"""What a node says of its pods counts until the API says something, and of its own pods alone."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address
from typing import Any

import aiohttp
import pytest

from egresslab.agent.chain import MIRROR
from egresslab.agent.claims import Claim, Claims
from egresslab.agent.peers import PORT, Peers, Word, serve_peers
from egresslab.agent.view import slim_pod
from egresslab.policy.inventory import Pod
from egresslab.policy.objects import parse_pod

NODES = {"n1": IPv4Address("192.0.2.1"), "n2": IPv4Address("192.0.2.2")}
OLD, NEW, THIRD = "10.244.1.5", "10.244.1.9", "10.244.1.11"


def said(*addresses: str, node: str | None = "n1", uid: str = "u1", phase: str = "Pending", **metadata: Any) -> Any:
    """A pod as the API says, as an agent keeps it."""
    status = {"phase": phase, "podIPs": [{"ip": address} for address in addresses]}
    names = {"name": "client", "namespace": "demo", "uid": uid, "resourceVersion": "1", **metadata}
    return slim_pod({"metadata": names, "spec": {"nodeName": node} if node else {}, "status": status})


def claim(*addresses: str, key: str = "u1", claimant: IPv4Address | None = None) -> Claim:
    return Claim(key, "demo", "client", tuple(map(ip_address, addresses)), "c1", claimant)


@pytest.fixture
def claims() -> Claims:
    """Of node n1."""
    return Claims("n1", NODES.get)


def addresses(claims: Claims, obj: Any) -> list[str]:
    pod: Pod = claims.complete(obj, parse_pod(obj))
    return [str(address) for address in pod.addresses]


def test_a_claim_stands_in_until_the_api_says_something(claims: Claims) -> None:
    assert addresses(claims, said()) == []
    made = claim(NEW)
    claims.hold(made)
    assert addresses(claims, said()) == [NEW] and made.taken.is_set() and made.uid == "u1"
    assert addresses(claims, said(NEW)) == [NEW] and not len(claims)
    assert addresses(claims, said()) == []


def test_an_old_sandboxs_address_is_not_the_apis_word_on_the_new_one(claims: Claims) -> None:
    """The kubelet goes on saying the old address, then none, then the new."""
    claims.hold(claim(NEW))
    for told, counts in (((OLD,), [NEW]), ((), [NEW]), ((OLD,), [NEW]), ((THIRD,), [THIRD])):
        assert addresses(claims, said(*told)) == counts
    assert not len(claims)


def test_it_ends_with_the_sandbox_that_it_was_made_for(claims: Claims) -> None:
    claims.hold(claim(NEW))
    assert not claims.release("u1", "an older sandbox")
    assert addresses(claims, said()) == [NEW]
    assert claims.release("u1", "c1")
    assert addresses(claims, said()) == []


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_finished_has_no_address(claims: Claims, phase: str) -> None:
    claims.hold(claim(NEW))
    assert addresses(claims, said(phase=phase)) == [] and not len(claims)


def test_a_pod_that_is_gone_takes_its_claim_along(claims: Claims) -> None:
    claims.hold(claim(NEW))
    addresses(claims, said())
    claims.forget(said(uid="another"))
    assert len(claims) == 1
    claims.forget(said())
    assert not len(claims)


def test_a_static_pod_is_found_by_what_its_kubelet_calls_it(claims: Claims) -> None:
    mirror = said(uid="of-the-api", annotations={MIRROR: "u1", "other": "x"})
    made = claim(NEW)
    claims.hold(made)
    assert addresses(claims, mirror) == [NEW] and made.uid == "of-the-api"


def test_a_runtime_that_tells_no_uid_means_the_pod_of_that_name(claims: Claims) -> None:
    claims.hold(claim(NEW, key="demo/client"))
    assert addresses(claims, said()) == [NEW]


def test_a_pod_is_waited_for_until_it_is_this_nodes(claims: Claims) -> None:
    """The kubelet may have heard of the binding before the agent does."""
    claims.hold(claim(NEW))
    assert addresses(claims, said(node=None)) == addresses(claims, said(node="n2")) == []
    assert addresses(claims, said(node="n1")) == [NEW]


def test_another_node_is_believed_for_its_own_pods_alone(claims: Claims) -> None:
    claims.hold(claim(NEW, claimant=NODES["n2"]))
    assert addresses(claims, said(node="n2")) == [NEW]
    claims.hold(claim(NEW, claimant=NODES["n2"]))
    assert addresses(claims, said(node="n1")) == [] and not len(claims)


def test_an_address_given_to_another_pod_ends_what_the_first_never_used(claims: Claims) -> None:
    first = claim(NEW)
    claims.hold(first)
    assert claims.hold(claim(NEW, key="u2")) == [first]
    assert addresses(claims, said()) == []


async def test_a_gateway_hears_of_a_pod_before_it_is_asked() -> None:
    gateway, node = IPv4Address("127.0.0.85"), IPv4Address("127.0.0.86")
    word = Word("demo", "client", "u1", (ip_address(NEW), ip_address("fd00::9")))
    heard: list[tuple[Word, IPv4Address]] = []

    async def takes(told: Word, peer: IPv4Address, patience_s: float) -> bool:
        heard.append((told, peer))
        return True

    async def holds(uid: str, patience_s: float) -> bool:
        return False

    async with serve_peers(gateway, holds, lambda: None, takes=takes), Peers(lambda: node) as peers:
        await peers.wait_programmed("u1", [gateway], word)
        assert heard == [(word, node)]
        async with aiohttp.ClientSession() as http:
            wrong: list[Any] = [{}, [], {**word.body, "addresses": []}, {**word.body, "addresses": ["x"]}]
            for body in wrong:
                async with http.put(f"http://{gateway}:{PORT}/pods/u1", json=body) as answer:
                    assert answer.status == 400
    assert len(heard) == 1
