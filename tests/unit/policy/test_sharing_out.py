"""How pods are shared out over gateways: published hash values, and the order of gateways by address."""

from __future__ import annotations

import pytest

from egresslab.policy.hashing import fnv1a_32
from tests.unit.policy import build


@pytest.mark.parametrize(
    ("text", "value"),
    [("", 0x811C9DC5), ("a", 0xE40C292C), ("b", 0xE70C2DE5), ("foobar", 0xBF9CF968)],
)
def test_fnv1a_has_its_published_values(text: str, value: int) -> None:
    assert fnv1a_32(text) == value


def test_ciliums_lists_are_ordered_by_address_and_not_as_written() -> None:
    """Listed, and named, against the order of addresses; an item without a node does not count."""
    names = ["gw-a", "gw-none", "gw-b", "gw-c"]
    numbers = {"gw-a": 12, "gw-b": 11, "gw-c": 3}
    gateways = [{"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": name}}} for name in names]
    pods = [build.pod(f"a{number}", f"10.0.0.{number}") for number in range(40)]
    told = build.engine(
        *(build.node(name, number) for name, number in numbers.items()), build.cilium(egressGateways=gateways), *pods
    )
    order = ["192.168.60.3", "192.168.60.11", "192.168.60.12"]
    expected = {pod["status"]["podIPs"][0]["ip"]: order[fnv1a_32(pod["metadata"]["uid"]) % len(order)] for pod in pods}
    assert {source: gateway for (source, _), (_, gateway) in build.rows(told).items()} == expected
    assert set(expected.values()) == set(order)
