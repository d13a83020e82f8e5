"""The pure parts of the node: names, values, phases and addresses, as Kubernetes' documentation defines them."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Any

import pytest
from dnslib import QTYPE, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from egresslab.api.reflector import ChangeType, ObjectChange
from egresslab.cluster.node.addresses import AddressPool
from egresslab.cluster.node.backoff import delay_before_restart
from egresslab.cluster.node.containers import Exit, Record
from egresslab.cluster.node.dns import Responder
from egresslab.cluster.node.images import Images, UnknownImage, repository
from egresslab.cluster.node.masquerade import ruleset
from egresslab.cluster.node.names import Names, Unknown
from egresslab.cluster.node.podstatus import ContainerState, PodFacts, phase, pod_status, qos_class
from egresslab.cluster.node.processes import Identity
from egresslab.cluster.node.variables import expand, field, resolver_file
from egresslab.cluster.node.volumes import MountError, safe_path
from egresslab.errors import ClusterError

IMAGES = Path(__file__).parents[3] / "environments" / "netns" / "images.yaml"


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("busybox", "busybox"),
        ("docker.io/library/busybox:1.31.1", "busybox"),
        ("curlimages/curl:latest", "curlimages/curl"),
        ("registry.example:5000/curlimages/curl@sha256:abc", "curlimages/curl"),
        ("localhost/nginx:1@sha256:abc", "nginx"),
    ],
)
def test_registry_tag_and_digest_do_not_matter(reference: str, name: str) -> None:
    """An image is found by its repository."""
    assert repository(reference) == name


def test_the_table_names_what_is_missing(tmp_path: Path) -> None:
    """An unknown image lists the known ones, a missing program its Debian package."""
    assert {"busybox", "curlimages/curl", "nginx", "egresslab/agent"} <= set(Images(IMAGES).names())
    table = tmp_path / "images.yaml"
    table.write_text("images: [{names: [tool], programs: {no-such-program: some-package}}]")
    with pytest.raises(UnknownImage, match="apt-get install some-package"):
        Images(table).resolve("tool:1")
    with pytest.raises(UnknownImage, match="use one of tool"):
        Images(table).resolve("other")


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$(A)", "1"),
        ("$$(A)", "$(A)"),
        ("$(B)", "$(B)"),
        ("$A", "$A"),
        ("x$(A)y$(A)", "x1y1"),
        ("$$$(A)", "$1"),
        ("$", "$"),
    ],
)
def test_expansion(text: str, result: str) -> None:
    """Kubernetes API, EnvVar.value."""
    assert expand(text, {"A": "1"}) == result


def test_fields_of_the_downward_api() -> None:
    """Labels as a file have one line each; unknown fields are refused."""
    pod = {"metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"b": "2", "a": "1"}}, "spec": {}}
    assert field(pod, "metadata.labels") == 'a="1"\nb="2"'
    assert field(pod, "metadata.labels['b']") == "2"
    with pytest.raises(ClusterError):
        field(pod, "spec.containers")


def test_resolver_files() -> None:
    """dnsPolicy: search path in the cluster, none on the node's network, and additions of dnsConfig."""
    spec: dict[str, Any] = {"dnsConfig": {"searches": ["lab"], "options": [{"name": "ndots", "value": "1"}]}}
    pod = {"metadata": {"name": "p", "namespace": "n"}, "spec": spec}
    assert resolver_file(pod, "10.96.0.10", "cluster.local").splitlines() == [
        "search n.svc.cluster.local svc.cluster.local cluster.local lab", "nameserver 10.96.0.10", "options ndots:1",
    ]  # fmt: skip
    assert resolver_file({**pod, "spec": {"hostNetwork": True}}, "10.96.0.10", "x") == "nameserver 10.96.0.10\n"


@given(st.text("./a", max_size=12))
def test_paths_stay_below_their_root(path: str) -> None:
    """No hostPath leads out of a node's root."""
    try:
        assert safe_path(Path("/node/root"), path).is_relative_to("/node/root")
    except MountError:
        assert ".." in path


def test_addresses_go_round(tmp_path: Path) -> None:
    """All are used before one comes again; both families have the same number; none left is an error."""
    networks = (IPv4Network("10.0.0.0/29"), IPv6Network("fd00::/64"))
    pool = AddressPool(networks, tmp_path / "cursor")
    first = [pool.take([]) for _ in range(5)]
    assert [str(pair[0]) for pair in first] == ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
    assert first[0][1] == ip_address("fd00::2")
    again = AddressPool(networks, tmp_path / "cursor")
    assert again.take([IPv4Address("10.0.0.2")])[0] == IPv4Address("10.0.0.3")
    with pytest.raises(ClusterError, match="no pod address is free"):
        again.take(address for pair in first for address in pair)


def test_delays_between_restarts() -> None:
    """At once, then 10 s, doubled up to five minutes."""
    assert [delay_before_restart(number) for number in range(1, 9)] == [0, 10, 20, 40, 80, 160, 300, 300]


def test_masquerading_spares_the_cluster_of_the_same_family() -> None:
    """One rule for each family, with an exception for each inside network of that family."""
    pods, inside = IPv4Network("10.244.1.0/24"), IPv6Network("fd00:10:244::/48")
    (rule,) = [
        command["add"]["rule"] for command in ruleset([pods], [inside])["nftables"] if "rule" in command.get("add", {})
    ]
    assert len(rule["expr"]) == 2 and rule["expr"][-1] == {"masquerade": None}


def _change(kind: ChangeType, obj: dict[str, Any]) -> ObjectChange:
    return ObjectChange(kind, obj, None)


def test_names_of_services() -> None:
    """Cluster IPs, endpoints of headless services, external names; and that a deleted one is gone."""
    names = Names("cluster.local", {"Example.com": (IPv4Address("203.0.113.20"),)})
    service = {"metadata": {"name": "s", "namespace": "n"}, "spec": {"clusterIP": "10.96.0.5"}}
    external = {
        "metadata": {"name": "e", "namespace": "n"},
        "spec": {"type": "ExternalName", "externalName": "example.com"},
    }
    headless = {"metadata": {"name": "h", "namespace": "n"}, "spec": {"clusterIP": "None"}}
    endpoint = {"addresses": ["10.244.1.5"], "hostname": "zero"}
    labels = {"kubernetes.io/service-name": "h"}
    slice_ = {"metadata": {"name": "h-1", "namespace": "n", "labels": labels}, "endpoints": [endpoint]}
    for obj in (service, external, headless):
        names.hear_service(_change(ChangeType.ADDED, obj))
    names.hear_slice(_change(ChangeType.ADDED, slice_))
    expected = {
        "s.n.svc": "10.96.0.5",
        "e.n.svc": "203.0.113.20",
        "h.n.svc": "10.244.1.5",
        "zero.h.n.svc": "10.244.1.5",
    }
    for name, address in expected.items():
        assert names.look_up(f"{name}.cluster.local.") == (ip_address(address),)
    assert names.look_up("EXAMPLE.com") == (IPv4Address("203.0.113.20"),)
    assert names.look_up("svc.cluster.local") == ()
    assert names.look_up("fd00-10--5.n.pod.cluster.local") == (ip_address("fd00:10::5"),)
    names.hear_service(_change(ChangeType.DELETED, service))
    assert names.look_up("s.n.svc.cluster.local") is Unknown.NAME


def test_dns_answers_on_the_wire() -> None:
    """Both families, an empty answer for the family there is none of, NXDOMAIN with an SOA, and truncation."""
    many = tuple(IPv4Address("203.0.113.10") + number for number in range(64))
    responder = Responder(Names("cluster.local", {"one.example": many[:1], "many.example": many}), "cluster.local")

    def ask(name: str, kind: str, limit: int = 512) -> DNSRecord:
        answer = responder.answer(DNSRecord.question(name, kind).pack(), limit)
        assert answer is not None and len(answer) <= limit
        return DNSRecord.parse(answer)

    assert [str(record.rdata) for record in ask("one.example", "A").rr] == ["203.0.113.10"]
    empty = ask("one.example", "AAAA")
    assert (empty.header.rcode, empty.rr, empty.auth[0].rtype) == (0, [], QTYPE.SOA)
    assert ask("none.example", "A").header.rcode == 3
    assert ask("many.example", "A").header.tc == 1
    assert len(ask("many.example", "A", 65535).rr) == 64
    assert responder.answer(b"not a question", 512) is None


def test_addresses_have_names() -> None:
    """PTR records for the world outside (all names of an address), services and headless endpoints."""
    outside = (ip_address("203.0.113.10"), ip_address("2001:db8:113::10"))
    names = Names("cluster.local", {"ifconfig.me": outside, "ipv4.ifconfig.me": outside[:1]})
    for name, address in (("s", "10.96.0.5"), ("h", "None")):
        service = {"metadata": {"name": name, "namespace": "n"}, "spec": {"clusterIP": address}}
        names.hear_service(_change(ChangeType.ADDED, service))
    labels = {"kubernetes.io/service-name": "h"}
    endpoint = {"addresses": ["10.244.1.5"], "hostname": "zero"}
    slice_ = {"metadata": {"name": "h-1", "namespace": "n", "labels": labels}, "endpoints": [endpoint]}
    names.hear_slice(_change(ChangeType.ADDED, slice_))
    responder = Responder(names, "cluster.local")

    def ask(name: str, kind: str = "PTR") -> tuple[int, list[str]]:
        answer = responder.answer(DNSRecord.question(name, kind).pack(), 512)
        assert answer is not None
        parsed = DNSRecord.parse(answer)
        return parsed.header.rcode, [str(record.rdata).rstrip(".") for record in parsed.rr]

    assert ask(ip_address("203.0.113.10").reverse_pointer) == (0, ["ifconfig.me", "ipv4.ifconfig.me"])
    assert ask(ip_address("2001:db8:113::10").reverse_pointer) == (0, ["ifconfig.me"])
    assert ask("5.0.96.10.IN-ADDR.arpa.") == (0, ["s.n.svc.cluster.local"])
    assert ask("5.1.244.10.in-addr.arpa") == (0, ["zero.h.n.svc.cluster.local"])
    assert ask("10.113.0.203.in-addr.arpa", "A") == (0, [])
    assert ask("99.113.0.203.in-addr.arpa")[0] == ask("300.1.1.1.in-addr.arpa")[0] == ask("in-addr.arpa")[0] == 3


RECORD = Record("c", 0, "id", "busybox", "sha256:0", Identity(1, 1), None, None, 0, {})


def _facts(policy: str, *states: ContainerState, init: tuple[ContainerState, ...] = ()) -> PodFacts:
    spec = {"restartPolicy": policy, "containers": [{"name": state.name} for state in states]}
    pod = {"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}
    hosts = (IPv4Address("192.168.60.11"),)
    return PodFacts(pod, states, init, hosts, (), True, "2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC))


def _state(code: int | None = None, *, run: bool = True, last: bool = False) -> ContainerState:
    ended = None if code is None else Exit(code, "Error" if code else "Completed", 0)
    previous = (RECORD, Exit(1, "Error", 0)) if last else None
    return ContainerState("c", "busybox", run=RECORD if run else None, exit=ended, last=previous)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (_facts("Always", _state(run=False)), "Pending"),
        (_facts("Always", _state()), "Running"),
        (_facts("Always", _state(0)), "Running"),
        (_facts("Always", _state(run=False, last=True)), "Running"),
        (_facts("Always", _state(), _state(run=False)), "Pending"),
        (_facts("Never", _state(0), _state(0)), "Succeeded"),
        (_facts("Never", _state(0), _state(2)), "Failed"),
        (_facts("Never", _state(0), _state()), "Running"),
        (_facts("OnFailure", _state(2)), "Running"),
        (_facts("OnFailure", _state(0)), "Succeeded"),
        (_facts("Always", _state(run=False), init=(_state(),)), "Pending"),
        (_facts("Always", _state(run=False), init=(_state(3),)), "Pending"),
        (_facts("Never", _state(run=False), init=(_state(3),)), "Failed"),
    ],
)
def test_phases(facts: PodFacts, expected: str) -> None:
    """Kubernetes documentation, "Pod Lifecycle"."""
    assert phase(facts) == expected


def test_conditions_keep_the_time_of_their_last_change() -> None:
    """Only what has changed gets a new time; conditions of others stay."""
    previous = {
        "conditions": [
            {"type": "Ready", "status": "False", "lastTransitionTime": "before"},
            {"type": "Initialized", "status": "True", "lastTransitionTime": "before"},
            {"type": "example.com/gate", "status": "True", "lastTransitionTime": "before"},
        ]
    }
    state = _state()
    state.ready = True
    times = {
        item["type"]: item["lastTransitionTime"] for item in pod_status(_facts("Always", state), previous)["conditions"]
    }
    assert times["Initialized"] == times["example.com/gate"] == "before"
    assert times["Ready"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_quality_of_service(resources: dict[str, Any], expected: str) -> None:
    """Kubernetes documentation, "Pod Quality of Service Classes"."""
    assert qos_class({"spec": {"containers": [{"resources": resources}]}}) == expected
