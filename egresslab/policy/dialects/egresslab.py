"""`egresslab.dev/v1alpha1`: our superset (docs/dialect.md). Unknown fields are refused: a typo must not open a hole."""

from __future__ import annotations

import re
from enum import StrEnum
from ipaddress import ip_address
from urllib.parse import urlsplit

from egresslab.policy.fields import Fields, open_object
from egresslab.policy.model import (
    Address,
    Choice,
    Dialect,
    EgressPolicy,
    Eligibility,
    Failback,
    FailbackPolicy,
    FailMode,
    GatewayGroup,
    GroupKey,
    HealthProbe,
    Member,
    PolicyKey,
    ProbeProtocol,
    Source,
    SourceKind,
    UpstreamProbe,
)
from egresslab.policy.selections import read_selections


class Mode(StrEnum):
    """How a gateway uses its nodes."""

    STANDBY = "Standby"
    SPREAD = "Spread"


DEFAULT_FAILBACK_DELAY_S = 300
MAX_PRIORITY = 1_000_000
ELIGIBLE = Eligibility(ready=True, schedulable=True, healthy=True, sourced=True)
_DOMAIN = re.compile(r"(\*\.)?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)*[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def parse_gateway(obj: object, leftovers: list[str] | None = None) -> GatewayGroup:
    """The group in one EgressGateway; raises `PolicyError`."""
    fields, metadata = open_object(obj, "EgressGateway")
    spec = fields.child("spec")
    nodes = spec.selector("nodeSelector") if spec else None
    if spec is None or nodes is None:
        raise fields.refusal("spec.nodeSelector", "is required", fix="add nodeSelector; {} means every node")
    mode = spec.one_of("mode", Mode, Mode.STANDBY)
    source, announce = _source(spec, mode)
    group = GatewayGroup(
        key=GroupKey(Dialect.EGRESSLAB, metadata.text("name")),
        members=(Member(nodes, source),),
        choice=Choice.FIRST_BY_NAME if mode is Mode.STANDBY else Choice.RENDEZVOUS,
        eligibility=ELIGIBLE,
        announce_interfaces=announce,
        failback=_failback(spec),
        health=_health(spec),
        replicate_sessions=spec.boolean("sessionReplication", True),
    )
    spec.close(strict=True)
    return group


def parse_policy(obj: object, leftovers: list[str] | None = None) -> EgressPolicy:
    """The policy in one EgressGatewayPolicy; raises `PolicyError`."""
    fields, metadata = open_object(obj, "EgressGatewayPolicy")
    spec = fields.child("spec")
    if spec is None:
        raise fields.refusal(
            "spec", "is required", fix="add spec with egressGatewayName, selectors and destinationCIDRs"
        )
    gateway = spec.required_text("egressGatewayName", "name the EgressGateway to use")
    if not spec.list("selectors"):
        raise spec.refusal(
            "selectors", "at least one entry is required", fix="add one; podSelector: {} selects every pod"
        )
    destinations = spec.cidrs("destinationCIDRs")
    domains = tuple(_domain(spec, index, name) for index, name in enumerate(spec.texts("destinationDomains")))
    if not destinations and not domains:
        raise spec.refusal("destinationCIDRs", "no destination", fix="list destinationCIDRs or destinationDomains")
    policy = EgressPolicy(
        key=PolicyKey(Dialect.EGRESSLAB, metadata.text("name")),
        selections=read_selections(spec, needs_pod_or_namespace=False, strict=True),
        destinations=destinations,
        exclusions=spec.cidrs("excludedCIDRs"),
        domains=domains,
        group=GroupKey(Dialect.EGRESSLAB, gateway),
        fail_mode=spec.one_of("failMode", FailMode, FailMode.CLOSED),
        priority=spec.integer("priority", 0, -MAX_PRIORITY, MAX_PRIORITY),
    )
    spec.close(strict=True)
    return policy


def _source(spec: Fields, mode: Mode) -> tuple[Source, tuple[str, ...]]:
    source = spec.child("source")
    if source is None:
        return Source(), ()
    virtual = source.addresses("virtualIPs")
    addresses = source.addresses("addresses")
    interface = source.text("interface")
    announce = source.texts("announceInterfaces")
    assign = source.boolean("assign", False)
    source.close(strict=True)
    if assign:
        return _assigned(source, mode, addresses, interface, bool(virtual)), ()
    if sum(map(bool, (virtual, addresses, interface))) > 1:
        raise source.refusal(
            "virtualIPs", "virtualIPs, addresses and interface exclude each other", fix="keep one of them"
        )
    if virtual and mode is Mode.SPREAD:
        raise source.refusal(
            "virtualIPs",
            "a virtual address has one holder, and Spread has many gateways",
            fix="use mode: Standby, or source.addresses",
        )
    if announce and not virtual:
        raise source.refusal(
            "announceInterfaces", "only virtual addresses are announced", fix="remove it, or add virtualIPs"
        )
    if virtual:
        return Source(SourceKind.VIRTUAL, addresses=virtual), announce
    if addresses:
        return Source(SourceKind.ADDRESS, addresses=addresses), ()
    if interface:
        return Source(SourceKind.INTERFACE, interface=interface), ()
    return Source(), ()


def _assigned(source: Fields, mode: Mode, addresses: tuple[Address, ...], interface: str, virtual: bool) -> Source:
    if not addresses or virtual:
        fix = "add addresses, or remove assign (virtualIPs are held without being assigned)"
        raise source.refusal("assign", "only addresses are assigned", value=True, fix=fix)
    if mode is Mode.SPREAD:
        fix = "use mode: Standby, or let the nodes carry their addresses and remove assign"
        raise source.refusal("assign", "an address has one carrier, and Spread has many gateways", value=True, fix=fix)
    return Source(SourceKind.ADDRESS, interface or None, addresses, assign=True)


def _failback(spec: Fields) -> Failback:
    failback = spec.child("failback")
    if failback is None:
        return Failback()
    policy = failback.one_of("policy", FailbackPolicy, FailbackPolicy.NEVER)
    delay = failback.integer("delaySeconds", DEFAULT_FAILBACK_DELAY_S, 1, 86_400)
    if failback.has("delaySeconds") and policy is not FailbackPolicy.DELAYED:
        raise failback.refusal(
            "delaySeconds", "counts with policy Delayed only", value=delay, fix="set policy: Delayed"
        )
    failback.close(strict=True)
    return Failback(policy, float(delay) if policy is FailbackPolicy.DELAYED else 0.0)


def _health(spec: Fields) -> HealthProbe:
    health = spec.child("health")
    if health is None:
        return HealthProbe()
    probe = HealthProbe(
        interval_s=health.integer("intervalMilliseconds", 50, 10, 60_000) / 1000,
        failures=health.integer("failures", 3, 1, 100),
        recoveries=health.integer("recoveries", 3, 1, 100),
        upstream=tuple(_upstream(item) for item in health.items("upstream")),
    )
    health.close(strict=True)
    return probe


def _upstream(item: Fields) -> UpstreamProbe:
    protocol = item.one_of("protocol", ProbeProtocol)
    target = item.required_text("target", "name the target: an address for ICMP, a URL for HTTP")
    if protocol is ProbeProtocol.ICMP:
        item.address("target")
    else:
        _url(item, target)
    probe = UpstreamProbe(
        protocol,
        target,
        interval_s=item.integer("intervalMilliseconds", 1000, 10, 600_000) / 1000,
        timeout_s=item.integer("timeoutMilliseconds", 1000, 10, 600_000) / 1000,
        failures=item.integer("failures", 3, 1, 100),
    )
    item.close(strict=True)
    return probe


def _url(item: Fields, target: str) -> None:
    try:
        parts = urlsplit(target)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        ok = False
    if not ok:
        raise item.refusal("target", "not an http or https URL", value=target, fix="write e.g. http://203.0.113.10/")


def _domain(spec: Fields, index: int, name: str) -> str:
    lowered = name.lower().rstrip(".")
    try:
        ip_address(lowered)
    except ValueError:
        if len(lowered) <= 253 and _DOMAIN.fullmatch(lowered):
            return lowered
        fix = "write a name like api.example.com or *.example.com"
    else:
        fix = "write addresses as destinationCIDRs"
    raise spec.refusal(f"destinationDomains[{index}]", "not a domain name", value=name, fix=fix)
