"""The kernel holds what the engine decided, as this node sees it, through any history and any restart of the agent."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egresslab.agent.programmer import Programmer
from egresslab.datapath.datapath import Datapath
from egresslab.datapath.values import GatewaySlot
from egresslab.policy.engine import Engine, Settings
from egresslab.policy.entries import Delete, Upsert
from egresslab.policy.inventory import Interface, Node, Pod, Ref
from egresslab.policy.objects import from_kubernetes, ref_of_object

pytestmark = pytest.mark.root

NODES = ("n1", "n2", "n3")
HERE = "n1"


@pytest.fixture(scope="module")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("bpf")
    subprocess.run(["mount", "-t", "bpf", "bpf", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def node(name: str, *, gateway: bool) -> Node:
    number = NODES.index(name) + 1
    return Node(
        name,
        {"gateway": "yes"} if gateway else {},
        internal_v4=IPv4Address(f"192.0.2.{number}"),
        interfaces=(Interface("eth1", (IPv4Interface(f"198.51.100.{number}/24"),)),),
    )


def pod(number: int, app: str) -> Pod:
    address = ip_address(f"10.0.0.{number}")
    return Pod("default", f"p{number}", f"uid-{number}", {"app": app}, node=NODES[0], addresses=(address,))


def policy(name: str, app: str, destination: str, source: str) -> dict[str, object]:
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": name},
        "spec": {
            "selectors": [{"podSelector": {"matchLabels": {"app": app}}}],
            "destinationCIDRs": [destination],
            "excludedCIDRs": ["203.0.113.0/28"],
            "egressGateway": {
                "nodeSelector": {"matchLabels": {"gateway": "yes"}},
                **({"interface": "eth1"} if source == "interface" else {"egressIP": source}),
            },
        },
    }


apps = st.sampled_from(["a", "b"])
names = st.sampled_from(["p", "q", "r"])
changes = st.one_of(
    st.builds(lambda name, on: Upsert(node(name, gateway=on)), st.sampled_from(NODES), st.booleans()),
    st.builds(lambda number, app: Upsert(pod(number, app)), st.integers(1, 4), apps),
    st.builds(lambda number: Delete(pod(number, "a").ref), st.integers(1, 4)),
    st.builds(
        lambda *args: Upsert(from_kubernetes(policy(*args))),
        names,
        apps,
        st.sampled_from(["203.0.113.0/24", "0.0.0.0/0"]),
        st.sampled_from(["interface", "198.51.100.1", "198.51.100.2"]),
    ),
    st.builds(lambda name: Delete(_ref(name)), names),
)


def _ref(name: str) -> Ref:
    ref = ref_of_object(policy(name, "a", "0.0.0.0/0", "interface"))
    assert ref is not None
    return ref


BEGINNING: list[Upsert | Delete] = [
    *(Upsert(node(name, gateway=True)) for name in NODES),
    *(Upsert(pod(number, "ab"[number % 2])) for number in range(1, 5)),
    Upsert(from_kubernetes(policy("p", "a", "0.0.0.0/0", "interface"))),
    Upsert(from_kubernetes(policy("q", "b", "0.0.0.0/0", "198.51.100.1"))),
]
"""So that every history has something to lose."""

Row = tuple[str, str, GatewaySlot, bool]


def held(datapath: Datapath) -> set[Row]:
    """What the kernel holds, each entry with the content of its slot."""
    slots = dict(datapath.slots.items())
    return {(str(e.source), str(e.destination), slots[e.slot], e.excluded) for e in datapath.policy.items()}


def wanted(engine: Engine) -> set[Row]:
    """What it should hold, computed from the decisions alone."""
    rows = set()
    for entry in engine.entries():
        slot = engine.slots()[entry.slot]
        here = slot.gateway == HERE
        content = GatewaySlot(
            endpoint=slot.gateway_ip if slot.gateway else None,
            source_v4=slot.source_v4 if here else None,
            source_v6=slot.source_v6 if here else None,
            ifindex=7 if here and slot.interface else 0,
            local=here,
        )
        rows.add((str(entry.source), str(entry.destination), content, entry.excluded))
    return rows


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(later=st.lists(changes, max_size=20), restart=st.integers(0, 20))
def test_the_kernel_follows_any_history_and_a_restart_in_the_middle(
    bpffs: Path, later: list[Upsert | Delete], restart: int
) -> None:
    history = [*BEGINNING, *later]
    restart += len(BEGINNING)
    pins = bpffs / "egresslab"
    datapath = Datapath.open(pins, policy_entries=256, slot_entries=64, endpoint_entries=64, nat_entries=64)
    try:
        engine, programmer = Engine(Settings()), Programmer(datapath, HERE, lambda name: 7)
        programmer.adopt(engine)
        for step, change in enumerate(history):
            if step == restart:
                # A new agent hears of everything in another order, so its engine numbers slots differently.
                engine, programmer = Engine(Settings()), Programmer(datapath, HERE, lambda name: 7)
                for earlier in _latest(history[:step]):
                    engine.apply(earlier)
                programmer.adopt(engine)
                assert held(datapath) == wanted(engine)
            programmer.apply(engine.apply(change))
            assert held(datapath) == wanted(engine)
        assert len(dict(datapath.slots.items())) == len(engine.slots())
    finally:
        datapath.close()


def _latest(history: list[Upsert | Delete]) -> list[Upsert]:
    """The values that are still there after a history, in reverse order of arrival."""
    latest: dict[Ref, Upsert | Delete] = {}
    for change in history:
        ref = change.ref if isinstance(change, Delete) else _ref_of(change)
        latest.pop(ref, None)
        latest[ref] = change
    return [change for change in reversed(latest.values()) if isinstance(change, Upsert)]


def _ref_of(change: Upsert) -> Ref:
    from egresslab.policy.inventory import ref_of

    return ref_of(change.value)


def test_adopting_what_is_right_already_writes_nothing(bpffs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datapath = Datapath.open(bpffs / "again", policy_entries=256, slot_entries=64, endpoint_entries=64, nat_entries=64)
    try:
        engine = Engine(Settings())
        for value in (node("n1", gateway=True), node("n2", gateway=True), pod(1, "a")):
            engine.apply(Upsert(value))
        engine.apply(Upsert(from_kubernetes(policy("p", "a", "0.0.0.0/0", "interface"))))
        Programmer(datapath, HERE, lambda name: 7).adopt(engine)
        before = dict(datapath.slots.items())
        written: list[object] = []
        monkeypatch.setattr(type(datapath.slots), "set", lambda *_: pytest.fail("a slot was written"))
        monkeypatch.setattr(type(datapath.policy), "update", lambda _, rows, gone=(): written.extend([*rows, *gone]))
        Programmer(datapath, HERE, lambda name: 7).adopt(engine)
        assert not written
        assert dict(datapath.slots.items()) == before
    finally:
        datapath.close()


def test_destinations_of_both_kinds_are_told_apart(bpffs: Path) -> None:
    """An excluded row and a destination row of one policy share a slot and differ in the flag."""
    datapath = Datapath.open(bpffs / "kinds", policy_entries=256, slot_entries=64, endpoint_entries=64, nat_entries=64)
    try:
        engine, programmer = Engine(Settings()), Programmer(datapath, HERE, lambda name: None)
        programmer.adopt(engine)
        for value in (node("n1", gateway=True), pod(1, "a")):
            programmer.apply(engine.apply(Upsert(value)))
        programmer.apply(engine.apply(Upsert(from_kubernetes(policy("p", "a", "203.0.113.0/24", "198.51.100.1")))))
        rows = {entry.destination: entry for entry in datapath.policy.items()}
        assert rows[ip_network("203.0.113.0/28")].excluded
        assert not rows[ip_network("203.0.113.0/24")].excluded
        assert rows[ip_network("203.0.113.0/28")].slot == rows[ip_network("203.0.113.0/24")].slot
    finally:
        datapath.close()


def test_rows_that_do_not_fit_are_told_and_written_when_there_is_room(bpffs: Path) -> None:
    datapath = Datapath.open(bpffs / "full", policy_entries=4, slot_entries=64, endpoint_entries=64, nat_entries=64)
    try:
        engine, programmer = Engine(Settings()), Programmer(datapath, HERE, lambda name: None)
        programmer.adopt(engine)
        programmer.apply(engine.apply(Upsert(node("n1", gateway=True))))
        programmer.apply(engine.apply(Upsert(from_kubernetes(policy("p", "a", "203.0.113.0/24", "198.51.100.1")))))
        for number in (1, 2, 3):
            programmer.apply(engine.apply(Upsert(pod(number, "a"))))
        complete = [programmer.complete(pod(number, "a").addresses[0]) for number in (1, 2, 3)]
        assert complete == [True, True, False]
        programmer.apply(engine.apply(Delete(pod(1, "a").ref)))
        programmer.apply(engine.apply(Upsert(pod(2, "a"))))
        programmer.apply(engine.apply(Upsert(pod(4, "b"))))
        assert programmer.complete(pod(3, "a").addresses[0])
        assert held(datapath) == wanted(engine)
    finally:
        datapath.close()
