"""Whatever a client sends is stored or refused: nothing that is JSON ends in a defect of ours."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from ipaddress import IPv4Network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egresslab.api.crds import definitions
from egresslab.cluster.apiserver import protobuf
from egresslab.cluster.apiserver.admission import Admission
from egresslab.cluster.apiserver.authentication import User
from egresslab.cluster.apiserver.bootstrap import bootstrap
from egresslab.cluster.apiserver.definitions import Publisher
from egresslab.cluster.apiserver.registry import Registry
from egresslab.cluster.apiserver.requests import WriteOptions
from egresslab.cluster.apiserver.status import Refusal
from egresslab.cluster.apiserver.store import Store
from egresslab.cluster.apiserver.webhooks import Webhooks
from egresslab.cluster.apiserver.writing import Writer
from tests.cluster.apiserver.conftest import pod, policy

SERVICES = IPv4Network("10.96.0.0/16")
LABELS = {"app": "x"}
TEMPLATE = {"metadata": {"labels": LABELS}, "spec": pod("t")["spec"]}


def _other(definition: dict[str, Any]) -> dict[str, Any]:
    """A definition of another group."""
    names, spec = {"name": "widgets.example.com"}, definition["spec"]
    return {
        "metadata": names,
        "spec": {**spec, "group": "example.com", "names": {"plural": "widgets", "kind": "Widget"}},
    }


SEEDS: dict[tuple[str, str], dict[str, Any]] = {
    ("", "pods"): pod("a"),
    ("", "services"): {"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}], "selector": LABELS}},
    ("", "nodes"): {"metadata": {"name": "a"}, "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}},
    ("apps", "deployments"): {
        "metadata": {"name": "a"},
        "spec": {"selector": {"matchLabels": LABELS}, "template": TEMPLATE},
    },
    ("apiextensions.k8s.io", "customresourcedefinitions"): _other(definitions()[-1]),
    ("cilium.io", "ciliumegressgatewaypolicies"): policy("a"),
}
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
OPTIONS = WriteOptions(User("test"), "test", validation="Ignore")


class World:
    """A writer over a store in memory."""

    def __init__(self) -> None:
        self.store, self.registry = Store(None), Registry()
        for kind in self.registry.all():
            self.store.bucket(kind.bucket, kind.fields)
        Publisher(self.store, self.registry)
        self.writer = Writer(self.store, Admission(self.store, Webhooks(self.store), SERVICES, accounts=False))

    async def prepare(self) -> None:
        await bootstrap(self.store, self.registry, self.writer, SERVICES, None)
        kind = self.registry.named("customresourcedefinitions", "apiextensions.k8s.io")
        for definition in definitions():
            await self.writer.create(kind, "", definition, OPTIONS)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside a value."""
    found = [path] if path else []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        found += places(item, (*path, key))
    return found


def damaged(value: Any, path: tuple[Any, ...], junk: Any) -> Any:
    """A copy with something else at one place."""
    if not path:
        return copy.deepcopy(junk)
    if isinstance(value, dict):
        return {key: damaged(item, path[1:], junk) if key == path[0] else item for key, item in value.items()}
    return [damaged(item, path[1:], junk) if index == path[0] else item for index, item in enumerate(value)]


@pytest.fixture(scope="module")
def world() -> Callable[..., None]:
    """Does something with a writer; only a Refusal may come of it."""
    made = World()
    asyncio.run(made.prepare())

    def attempt(group: str, plural: str, act: Callable[[Any, str], Any]) -> None:
        kind = made.registry.named(plural, group)
        bucket = made.store.bucket(kind.bucket)
        before = dict(bucket.entries)
        try:
            asyncio.run(act(made.writer, kind))
        except Refusal as refusal:
            assert refusal.code in (400, 403, 404, 409, 413, 415, 422)
            assert refusal.message
        for key in [key for key in bucket.entries if key not in before]:
            made.store.remove(bucket, bucket.entries[key].object())

    return attempt


@pytest.mark.parametrize("place", SEEDS, ids="/".join)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_object_is_stored_or_refused(world: Any, place: tuple[str, str], data: Any) -> None:
    seed = copy.deepcopy(SEEDS[place])
    body = damaged(seed, data.draw(st.sampled_from(places(seed))), data.draw(JUNK))
    world(*place, lambda writer, kind: writer.create(kind, "default" if kind.namespaced else "", body, OPTIONS))


@pytest.mark.parametrize(
    "media",
    [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    ],
)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_patch_is_applied_or_refused(world: Any, media: str, data: Any) -> None:
    seed = {
        "metadata": {"labels": {"a": "b"}, "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}]},
        "spec": {"ports": [{"port": 80, "name": "x"}], "$setElementOrder/ports": [{"port": 80}]},
    }
    if "json-patch" in media:
        body: Any = [
            {
                "op": "replace",
                "path": data.draw(st.sampled_from(["/spec", "/metadata/labels", "/a/b", ""])),
                "value": data.draw(JUNK),
            }
        ]
    elif "apply" in media:
        whole = {**copy.deepcopy(SEEDS["", "services"]), "apiVersion": "v1", "kind": "Service"}
        body = damaged(whole, data.draw(st.sampled_from(places(whole))), data.draw(JUNK))
    else:
        body = damaged(seed, data.draw(st.sampled_from(places(seed))), data.draw(JUNK))
    world("", "services", lambda writer, kind: writer.patch(kind, "default", "kubernetes", body, media, OPTIONS))


@given(st.binary(max_size=60))
def test_bytes_that_are_no_protobuf_are_refused(junk: bytes) -> None:
    for body in (junk, protobuf.MAGIC + junk):
        try:
            protobuf.decode(body)
        except (protobuf.ProtobufError, UnicodeDecodeError):
            continue
