"""Cilium's outcome, computed from a case as its description reads, without a line of ours: parsing, matching, choice
and addresses are written again here, so that what `reference.py` shares with the engine is checked as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from typing import Any

Case = dict[str, Any]
Address = IPv4Address | IPv6Address
Row = tuple[str, str, str | None]
"""Egress IP, gateway IP, egress interface."""
NO_V4, NO_V6 = ip_address("0.0.0.0"), ip_address("::")
Gateway = tuple[Address, Address, Address, str | None]
"""Node address, sources of both families, interface."""


def rows(case: Case, *, pooled: bool, sort: bool) -> dict[tuple[str, str], Row]:
    """The observer's rows. `pooled`: nodeSelectors count for all entries; `sort`: an interface's addresses are."""
    found: dict[tuple[str, str], Row] = {}
    for policy in sorted(case["policies"], key=lambda each: str(each["metadata"]["name"])):
        spec = policy["spec"]
        if any("podSelector" not in entry and "namespaceSelector" not in entry for entry in spec["selectors"]):
            continue  # refused
        gateways = _gateways(case, spec, sort)
        for pod in case["pods"]:
            if not _selected(case, spec["selectors"], pod, pooled):
                continue
            address, v4, v6, interface = gateways[_fnv1a(pod["uid"]) % len(gateways)]
            for source in filter(None, (pod.get("ip"), pod.get("ipv6"))):
                egress = str(v6 if ":" in source else v4)
                for gateway, networks in (
                    ("0.0.0.1", spec.get("excludedCIDRs") or []),
                    (str(address), spec["destinationCIDRs"]),
                ):
                    for network in networks:
                        if (":" in network) is (":" in source):
                            found.setdefault((source, network), (egress, gateway, interface))
    return found


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector holds."""
    tests = {
        "In": lambda value, values: value in values,
        "NotIn": lambda value, values: value not in values,
        "Exists": lambda value, values: value is not None,
        "DoesNotExist": lambda value, values: value is None,
    }
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        tests[wish["operator"]](labels.get(wish["key"]), wish.get("values"))
        for wish in selector.get("matchExpressions", [])
    )


def _selected(case: Case, entries: list[dict[str, Any]], pod: dict[str, Any], pooled: bool) -> bool:
    labels = {**pod["labels"], "io.kubernetes.pod.namespace": pod["namespace"]}
    namespace = {each["name"]: each["labels"] for each in case["namespaces"]}[pod["namespace"]]
    node = {each["name"]: each["labels"] for each in case["nodes"]}.get(pod["node"], {})
    hits = [
        entry
        for entry in entries
        if matches(entry.get("podSelector", {}), labels) and matches(entry.get("namespaceSelector", {}), namespace)
    ]
    if pooled:
        pool = [entry["nodeSelector"] for entry in entries if "nodeSelector" in entry]
        return bool(hits) and (not pool or any(matches(nodes, node) for nodes in pool))
    return any(matches(entry.get("nodeSelector", {}), node) for entry in hits)


def _gateways(case: Case, spec: dict[str, Any], sort: bool) -> list[Gateway]:
    need = {6 if ":" in network else 4 for network in spec["destinationCIDRs"]}
    found: list[Gateway] = []
    for item in spec.get("egressGateways") or [spec["egressGateway"]]:
        for node in sorted(case["nodes"], key=lambda each: str(each["name"])):
            if ":" not in node["ip"] and matches(item["nodeSelector"], node["labels"]):
                here = node["name"] == case["observer_node"]
                own = dict(_sources(item, node["interfaces"], need, sort)) if here else {}
                found.append((ip_address(node["ip"]), own.get(4, NO_V4), own.get(6, NO_V6), own.get("interface")))
                break
    return sorted(found, key=lambda gateway: int(gateway[0])) or [(NO_V4, NO_V4, NO_V6, None)]


def _sources(item: dict[str, str], interfaces: list[dict[str, Any]], need: set[int], sort: bool) -> Iterator[Any]:
    """Pairs of family and address, once nothing can fail any more, and of `interface` and its name."""
    own: dict[int, Address | None]
    if item.get("egressIP"):
        address = ip_address(item["egressIP"])
        carrier = next((i for i in interfaces if any(ip_interface(x).ip == address for x in i["ips"])), None)
        if carrier is not None:
            own = {version: _primary(carrier, version, sort) for version in need}
            if address.version in need:
                own[address.version] = address
            yield from ((version, source) for version, source in own.items() if source is not None)
        return
    if item.get("interface"):
        exact = [i for i in interfaces if i["name"] == item["interface"]]
        named = [*exact, *(i for i in interfaces if item["interface"] in i["altnames"])][:1]
        chosen = {version: named[0] for version in need if named}
    else:
        sort = False
        chosen = {}
        for version in sorted(need):
            route = f"default_route_v{version}"
            default = next((i for i in interfaces if i[route]), None)
            if default is None or (chosen and default["name"] != chosen[4]["name"]):
                break
            chosen[version] = default
            if _primary(default, version, sort) is None:
                break
    if chosen:
        yield "interface", next(iter(chosen.values()))["name"]
    own = {version: _primary(interface, version, sort) for version, interface in chosen.items()}
    if own.keys() == need and None not in own.values():
        yield from own.items()


def _primary(interface: dict[str, Any], version: int, sort: bool) -> Address | None:
    found = [ip_interface(text) for text in interface["ips"]]
    usable = [each for each in found if each.version == version and not each.ip.is_link_local]
    if sort:  # the generated ones never share a network, so that none is secondary
        usable.sort(key=lambda each: (not each.ip.is_global, int(each.ip)))
    return usable[0].ip if usable else None


def _fnv1a(text: str) -> int:
    value = 2166136261
    for byte in text.encode():
        value = (value ^ byte) * 16777619 % 2**32
    return value
