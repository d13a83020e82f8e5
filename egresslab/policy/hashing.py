"""The hashes by which pods are shared out and gateways elected. Pure functions of text, the same on every node."""

from __future__ import annotations

import hashlib

FNV_OFFSET = 0x811C9DC5
FNV_PRIME = 0x01000193


def fnv1a_32(text: str) -> int:
    """FNV-1a, 32 bits, over the UTF-8 bytes (draft-eastlake-fnv); Cilium spreads endpoints by it."""
    value = FNV_OFFSET
    for byte in text.encode("utf-8", "surrogatepass"):
        value = (value ^ byte) * FNV_PRIME & 0xFFFFFFFF
    return value


def election_order(group: str, node: str) -> str:
    """Deckhouse elects the eligible node for which this is lowest."""
    return hashlib.sha256(f"{group}#{node}".encode("utf-8", "surrogatepass")).hexdigest()


def bucket_of(namespace: str, name: str, buckets: int) -> int:
    """The bucket of a pod in a spreading group; by name, so that a StatefulSet's pod keeps its gateway."""
    digest = hashlib.blake2b(f"{namespace}/{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % buckets


def weight(bucket: int, node: str) -> bytes:
    """Rendezvous weight: a bucket goes to the eligible node for which this is highest."""
    return hashlib.blake2b(f"{bucket}#{node}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
