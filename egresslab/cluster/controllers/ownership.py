"""Who owns an object: reading and writing controller references, and children whose names make creation repeatable."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from egresslab.api.connection import Api, ApiError, Unreachable
from egresslab.api.resources import PODS, Object, Resource
from egresslab.api.selectors import LabelSelector

logger = logging.getLogger(__name__)

SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Kubernetes' alphabet for generated names: without vowels and digits that could spell words."""
SUFFIX_LENGTH = 5
NAME_LIMIT = 63
RETRY_PAUSE_S = 0.2
ORPHANS = "orphans"


@dataclass(frozen=True, slots=True)
class Claim:
    """Which of the objects in sight belong to an owner, which it should adopt, which it must let go."""

    owned: tuple[Object, ...]
    adopt: tuple[Object, ...]
    release: tuple[Object, ...]


def controller_of(obj: Object) -> Object | None:
    """The owner reference with `controller: true`, of which there is at most one."""
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            found: Object = reference
            return found
    return None


def controller_key(obj: Object) -> tuple[object, ...]:
    """Index keys: the controller's UID, or (ORPHANS, namespace) for an object that nobody controls."""
    reference = controller_of(obj)
    if reference is not None:
        return (reference["uid"],)
    return ((ORPHANS, obj["metadata"].get("namespace", "")),)


def owner_reference(owner: Object, resource: Resource) -> Object:
    """The reference that makes `owner` the controller of an object."""
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def claim(owner: Object, selector: LabelSelector, mine: Iterable[Object], orphans: Iterable[Object]) -> Claim:
    """Sort `mine` (controlled by the owner) and `orphans` (controlled by nobody) by whether the selector wants them.

    An owner that is being deleted adopts nothing and releases nothing (Kubernetes' ControllerRefManager).
    """
    deleting = "deletionTimestamp" in owner["metadata"]
    owned, adopt, release = [], [], []
    for obj in mine:
        if deleting or selector.matches(obj["metadata"].get("labels") or {}):
            owned.append(obj)
        else:
            release.append(obj)
    if not deleting and selector.requirements:
        for obj in orphans:
            metadata = obj["metadata"]
            if "deletionTimestamp" not in metadata and selector.matches(metadata.get("labels") or {}):
                adopt.append(obj)
    return Claim(tuple(owned), tuple(adopt), tuple(release))


async def adopt(api: Api, owner: Object, resource: Resource, obj: Object, kind: Resource) -> Object:
    """Make `owner` the controller of `obj`; 409 Conflict when `obj` has changed in the meantime."""
    references = [*(obj["metadata"].get("ownerReferences") or ()), owner_reference(owner, resource)]
    return await _set_owners(api, obj, kind, references)


async def release(api: Api, owner: Object, obj: Object, kind: Resource) -> Object:
    """Take `owner`'s reference off `obj`."""
    uid = owner["metadata"]["uid"]
    references = [item for item in obj["metadata"].get("ownerReferences") or () if item["uid"] != uid]
    return await _set_owners(api, obj, kind, references)


async def _set_owners(api: Api, obj: Object, kind: Resource, references: list[Object]) -> Object:
    metadata = obj["metadata"]
    guard = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
    body: Object = {"metadata": {**guard, "ownerReferences": references or None}}
    return await api.patch(kind, metadata["name"], body, metadata.get("namespace"))


def generated_name(base: str, source: random.Random) -> str:
    """`base` and a random suffix, within the 63 characters that a pod's host name may have."""
    suffix = "".join(source.choice(SUFFIX_ALPHABET) for _ in range(SUFFIX_LENGTH))
    return base[: NAME_LIMIT - SUFFIX_LENGTH] + suffix


def pod_from_template(owner: Object, resource: Resource, template: Object, labels: Mapping[str, str]) -> Object:
    """A pod as `template` describes it, controlled by `owner`, without a name yet."""
    given = template.get("metadata") or {}
    metadata: Object = {
        "generateName": f"{owner['metadata']['name']}-",
        "namespace": owner["metadata"]["namespace"],
        "labels": {**(given.get("labels") or {}), **labels},
        "ownerReferences": [owner_reference(owner, resource)],
    }
    for field in ("annotations", "finalizers"):
        if given.get(field):
            metadata[field] = given[field]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


async def create_pod(api: Api, pod: Object, source: random.Random) -> Object:
    """Create `pod` exactly once under a generated name; the server's answer.

    A request that got no answer may still have been carried out. It is repeated under the same name until its fate is
    known, so that no pod is made twice. Raises `ApiError` when the server refuses.
    """
    namespace = pod["metadata"]["namespace"]
    while True:
        metadata = {**pod["metadata"], "name": generated_name(pod["metadata"]["generateName"], source)}
        unanswered = False
        while True:
            try:
                return await api.create(PODS, {**pod, "metadata": metadata}, namespace)
            except Unreachable as error:
                logger.info("pod %s/%s: fate unknown, asking again: %s", namespace, metadata["name"], error)
                unanswered = True
                await asyncio.sleep(RETRY_PAUSE_S)
            except ApiError as error:
                if error.status != 409 or error.reason != "AlreadyExists":
                    raise
                break
        if unanswered:
            existing = await api.get(PODS, metadata["name"], namespace)
            reference = controller_of(existing)
            if reference is not None and reference["uid"] == metadata["ownerReferences"][0]["uid"]:
                return existing


async def delete_pod(api: Api, pod: Object) -> None:
    """Delete `pod`, asking until the answer is known; one that is already gone is fine.

    Raises `ApiError` when the server refuses.
    """
    metadata = pod["metadata"]
    while True:
        try:
            await api.delete(PODS, metadata["name"], metadata["namespace"], uid=metadata["uid"])
        except Unreachable as error:
            logger.info("pod %s/%s: fate unknown, asking again: %s", metadata["namespace"], metadata["name"], error)
            await asyncio.sleep(RETRY_PAUSE_S)
        except ApiError as error:
            # 409: the name belongs to another pod by now.
            if error.status not in (404, 409):
                raise
            return
        else:
            return
