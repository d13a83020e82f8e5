"""What ties a Deployment's ReplicaSets to its history: template hashes, revision numbers, annotations. Pure.

`kubectl rollout history` and `undo` read nothing else.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence

import orjson

from egresslab.api.resources import DEPLOYMENTS, Object
from egresslab.cluster.controllers.ownership import SUFFIX_ALPHABET, owner_reference
from egresslab.cluster.controllers.podstate import is_finished, moment
from egresslab.cluster.controllers.rollout import Bounds, SetState

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
LIMIT = "deployment.kubernetes.io/max-replicas"
OWN_ANNOTATIONS = (
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    LIMIT,
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
)
HASH_LENGTH = 10


def template_hash(template: Object, collisions: int = 0) -> str:
    """A short name for a pod template; `collisions` leads to another one when the first is taken."""
    text = orjson.dumps([plain_template(template), collisions], option=orjson.OPT_SORT_KEYS)
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
    letters = []
    for _ in range(HASH_LENGTH):
        number, index = divmod(number, len(SUFFIX_ALPHABET))
        letters.append(SUFFIX_ALPHABET[index])
    return "".join(letters)


def plain_template(template: Object) -> Object:
    """A template without what its ReplicaSet adds to it."""
    metadata = dict(template.get("metadata") or {})
    metadata["labels"] = {name: value for name, value in (metadata.get("labels") or {}).items() if name != HASH_LABEL}
    metadata.pop("creationTimestamp", None)
    return {**template, "metadata": metadata}


def current_set(deployment: Object, sets: Iterable[Object]) -> Object | None:
    """The oldest ReplicaSet whose template is the Deployment's, its hash label aside."""
    wanted = plain_template(deployment["spec"]["template"])
    matching = [item for item in sets if plain_template(item["spec"]["template"]) == wanted]
    return min(matching, key=_seniority, default=None)


def new_set(deployment: Object, bounds: Bounds, replicas: int, revision: int) -> Object:
    """The ReplicaSet for the Deployment's present template."""
    metadata, spec = deployment["metadata"], deployment["spec"]
    collisions = (deployment.get("status") or {}).get("collisionCount") or 0
    digest = template_hash(spec["template"], collisions)
    template = copy.deepcopy(spec["template"])
    template.setdefault("metadata", {}).setdefault("labels", {})[HASH_LABEL] = digest
    selector = copy.deepcopy(spec["selector"])
    selector.setdefault("matchLabels", {})[HASH_LABEL] = digest
    body: Object = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{metadata['name']}-{digest}",
            "namespace": metadata["namespace"],
            "labels": dict(template["metadata"]["labels"]),
            "annotations": {**inherited(deployment), **sizes_noted(bounds), REVISION: str(revision)},
            "ownerReferences": [owner_reference(deployment, DEPLOYMENTS)],
        },
        "spec": {"replicas": replicas, "selector": selector, "template": template},
    }
    if spec.get("minReadySeconds"):
        body["spec"]["minReadySeconds"] = spec["minReadySeconds"]
    return body


def inherited(deployment: Object) -> dict[str, str]:
    """The Deployment's annotations that its ReplicaSets carry too, such as kubernetes.io/change-cause."""
    given = deployment["metadata"].get("annotations") or {}
    return {name: value for name, value in given.items() if name not in OWN_ANNOTATIONS}


def sizes_noted(bounds: Bounds) -> dict[str, str]:
    """What a ReplicaSet remembers of the Deployment's size, so that a later resize is noticed."""
    return {DESIRED: str(bounds.desired), LIMIT: str(bounds.desired + bounds.max_surge)}


def revision_of(obj: Object) -> int:
    """The revision annotation, 0 without one."""
    try:
        return int((obj["metadata"].get("annotations") or {}).get(REVISION, "0"))
    except ValueError:
        return 0


def annotations_due(deployment: Object, current: Object, old: Sequence[Object]) -> dict[str, str]:
    """Annotations to change on the current set: it bears the highest revision, and remembers its earlier ones."""
    known = current["metadata"].get("annotations") or {}
    wanted = inherited(deployment)
    newest = max((revision_of(item) for item in old), default=0) + 1
    mine = revision_of(current)
    if mine < newest:
        wanted[REVISION] = str(newest)
        if mine:
            earlier = [item for item in known.get(REVISION_HISTORY, "").split(",") if item]
            wanted[REVISION_HISTORY] = ",".join([*earlier, str(mine)])
    return {name: value for name, value in wanted.items() if known.get(name) != value}


def surplus_sets(deployment: Object, old: Sequence[Object]) -> list[Object]:
    """Old sets beyond revisionHistoryLimit, lowest revisions first; only those that have come to rest at zero."""
    limit = deployment["spec"].get("revisionHistoryLimit", 10)
    resting = [item for item in old if "deletionTimestamp" not in item["metadata"]]
    resting.sort(key=lambda item: (revision_of(item), item["metadata"]["name"]))
    return [item for item in resting[: max(0, len(resting) - limit)] if _at_rest(item)]


def set_state(item: Object, current: Object | None, pods: Iterable[Object]) -> SetState:
    """A ReplicaSet with its pods as the rollout counts them."""
    metadata, status = item["metadata"], item.get("status") or {}
    annotations = metadata.get("annotations") or {}
    created = moment(metadata.get("creationTimestamp"))
    return SetState(
        name=metadata["name"],
        age=int(created.timestamp()) if created else 0,
        replicas=item["spec"].get("replicas", 1),
        available=status.get("availableReplicas") or 0,
        current=current is not None and metadata["uid"] == current["metadata"]["uid"],
        known_desired=_number(annotations.get(DESIRED)),
        known_limit=_number(annotations.get(LIMIT)),
        pods_left=sum(not is_finished(pod) for pod in pods),
    )


def _seniority(item: Object) -> tuple[str, str]:
    return item["metadata"].get("creationTimestamp") or "", item["metadata"]["name"]


def _at_rest(item: Object) -> bool:
    status = item.get("status") or {}
    seen = status.get("observedGeneration", 0) >= item["metadata"].get("generation", 0)
    return seen and item["spec"].get("replicas", 1) == 0 and not status.get("replicas")


def _number(text: str | None) -> int | None:
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None
