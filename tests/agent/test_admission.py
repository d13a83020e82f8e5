"""Who waits at the gate, for how long, and what is said to those who may not pass. The kernel and the API are stood in
for; tests/kind has the real ones."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, ip_address
from types import SimpleNamespace
from typing import Any

import pytest

from egresslab.agent import admission
from egresslab.agent.admission import Admission
from egresslab.agent.chain import Attachment, Call
from egresslab.agent.claims import Claims
from egresslab.agent.peers import Word
from egresslab.api.resources import NAMESPACES
from egresslab.errors import DatapathError
from egresslab.policy.entries import Slot
from egresslab.policy.inventory import Pod

POD = ip_address("10.244.1.5")
HERE, THERE = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
OBJECT = {"kind": "Pod", "metadata": {"namespace": "demo", "name": "client", "uid": "u1"}}


class World:
    """What an agent knows: pods and namespaces of the API, a policy, links."""

    def __init__(self) -> None:
        self.claims = Claims("n1", {"n1": HERE, "n2": THERE}.get)
        self.node, self.known = "n1", True
        self.namespaces: dict[str, Any] = {"demo": {}}
        self.slots: list[Slot] = []
        """Of the policies that select the pod."""
        self.link = asyncio.Event()
        self.waited: list[float] = []
        self.told: list[tuple[str, list[IPv4Address], Word | None]] = []
        self.endpoints: dict[Any, Any] = {}
        self.objects = {NAMESPACES: self.namespaces}
        self.engine = SimpleNamespace(slots=self.numbered, entries_of=self.entries_of)
        stand_in: Any = self
        self.gate = Admission("n1", stand_in, self.claims, stand_in, stand_in, stand_in, lambda: HERE)
        self.gate.peers = stand_in

    def tell_again(self, namespace: str, name: str) -> None:
        if self.known and (namespace, name) == ("demo", "client"):
            self.claims.complete(OBJECT, Pod("demo", "client", "u1", {}, node=self.node))

    def numbered(self) -> dict[int, Slot]:
        return {slot.number: slot for slot in self.slots}

    def entries_of(self, uid: str) -> list[Any]:
        return [SimpleNamespace(slot=slot.number) for slot in self.slots]

    def doubt(self, uid: str) -> None:
        """Links are looked at again."""

    async def wait_ready(self, uid: str, timeout_s: float) -> None:
        self.waited.append(timeout_s)
        if not self.link.is_set():
            raise DatapathError("not ready within 0 s: its link was not found", object=f"Pod/{uid}")

    async def wait_learnt(self, uid: str, timeout_s: float) -> bool:
        return True

    def gateways(self, keys: set[Any]) -> set[IPv4Address]:
        return set()

    async def wait_programmed(self, uid: str, gateways: Any, word: Word | None = None) -> None:
        self.told.append((uid, list(gateways), word))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """One in which the pod demo/client is known and nobody selects it."""
    monkeypatch.setattr(admission, "KNOWN_S", 0.2)
    return World()


def call(command: str = "ADD", container: str = "c1", name: str = "client") -> Call:
    return Call(command, "1.0.0", Attachment("demo", name, "u1", container, (POD,)), {})


def slot(number: int = 1, *, fail_open: bool = False) -> Slot:
    return Slot(number, "n2", THERE, fail_open=fail_open)


async def test_a_pod_that_nobody_selects_passes_at_once(world: World) -> None:
    await world.gate.answer(call())
    assert not world.waited and not world.told


async def test_a_selected_pod_passes_once_its_gateway_was_told(world: World) -> None:
    world.slots = [slot()]
    world.link.set()
    await world.gate.answer(call())
    assert world.told == [("u1", [THERE], Word("demo", "client", "u1", (POD,)))]


async def test_a_selected_pod_without_a_link_is_refused_by_name_and_reason(world: World) -> None:
    world.slots = [slot(1), slot(2, fail_open=True)]
    with pytest.raises(DatapathError) as caught:
        await world.gate.answer(call())
    assert caught.value.object == "Pod/demo/client" and "its link was not found" in caught.value.message
    assert "failMode: Open" in str(caught.value.fix)
    assert world.waited == [admission.PATIENCE_S]


async def test_policies_that_fail_open_keep_no_pod_from_starting(world: World) -> None:
    world.slots = [slot(fail_open=True)]
    await world.gate.answer(call())
    assert world.waited == [admission.OPEN_PATIENCE_S] and not world.told


@pytest.mark.parametrize("missing", ["pod", "binding", "namespace"])
async def test_what_the_api_has_not_told_is_waited_for_and_then_refused(world: World, missing: str) -> None:
    """A namespace's labels may be what a policy selects by."""
    if missing == "pod":
        world.known = False
    elif missing == "binding":
        world.node = "n2"
    else:
        world.namespaces.clear()
    with pytest.raises(DatapathError, match="has not told node n1") as caught:
        await world.gate.answer(call())
    assert caught.value.object == "Pod/demo/client" and not len(world.claims)


async def test_a_pod_and_its_namespace_may_be_heard_of_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "KNOWN_S", 30.0)
    world.known, world.slots = False, [slot()]
    world.namespaces.clear()
    world.link.set()
    adding = asyncio.create_task(world.gate.answer(call()))
    await asyncio.sleep(0)
    world.known = True
    world.tell_again("demo", "client")
    await asyncio.sleep(0)
    assert not adding.done()
    world.gate.namespace_known("demo")
    async with asyncio.timeout(10):
        await adding
    assert world.told


async def test_the_end_of_a_sandbox_ends_what_it_claimed(world: World) -> None:
    await world.gate.answer(call())
    await world.gate.answer(call("DEL", "an older one"))
    assert len(world.claims) == 1
    await world.gate.answer(call("DEL"))
    assert not len(world.claims)


async def test_a_node_cannot_claim_what_another_nodes_pod_has(world: World) -> None:
    world.node = "n2"
    word = Word("demo", "client", "u1", (POD,))
    assert await world.gate.take(word, THERE, 1)
    for owner in (SimpleNamespace(node=HERE), SimpleNamespace(node=None)):
        world.endpoints[POD] = owner
        assert not await world.gate.take(word, THERE, 1)
