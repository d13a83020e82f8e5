"""Lint over a set of decoded objects: each by itself, then all together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from egresslab.errors import PolicyError
from egresslab.policy.engine import Engine
from egresslab.policy.entries import Upsert
from egresslab.policy.inventory import Kind, Namespace, Node, Pod, Ref, Value, ref_of
from egresslab.policy.lint import single, together
from egresslab.policy.lint.findings import DUPLICATE, REFUSED, UNKNOWN_FIELD, Finding, Rule
from egresslab.policy.lint.schema import check_schema
from egresslab.policy.lint.situation import CILIUM_MAP_SIZE, Located, Report, Situation
from egresslab.policy.lint.workloads import implied_pod, pod_of_template, service_addresses
from egresslab.policy.model import EgressPolicy, GatewayGroup, Network
from egresslab.policy.objects import from_kubernetes, ref_of_object
from egresslab.policy.settings import DEFAULTS, Settings


def lint(
    objects: Sequence[object],
    settings: Settings = DEFAULTS,
    *,
    cluster_networks: Iterable[Network] = (),
    map_size: int = CILIUM_MAP_SIZE,
) -> list[Located]:
    """Everything found, in the order of the input; raises nothing, whatever the objects are."""
    found: list[Located] = []
    subjects: dict[int, str] = {}

    def report(index: int | None, rule: Rule, path: str, message: str, fix: str) -> None:
        subject = subjects.get(index, "cluster") if index is not None else "cluster"
        located = Located(Finding(rule, subject, path, message, fix), index)
        if located not in found:
            found.append(located)

    values = _read(objects, subjects, report)
    situation = _situation(objects, values, settings, cluster_networks, map_size)
    for index, policy in situation.policies.items():
        single.check_policy(index, policy, objects[index], report)
    together.check(situation, report)
    order = len(objects)
    return sorted(found, key=lambda each: each.index if each.index is not None else order)


def _read(objects: Sequence[object], subjects: dict[int, str], report: Report) -> dict[int, Value]:
    values: dict[int, Value] = {}
    seen: dict[Ref, int] = {}
    for index, obj in enumerate(objects):
        leftovers: list[str] = []
        subjects[index] = _subject(obj)
        try:
            value = from_kubernetes(obj, leftovers)
        except PolicyError as error:
            subjects[index] = error.object or subjects[index]
            shown = error.message if error.value is None else f"{error.message} (got {error.value!r})"
            report(index, REFUSED, error.field or "", shown, error.fix or "correct the object")
            continue
        for path in leftovers:
            report(index, UNKNOWN_FIELD, path, "no such field", "remove it or correct its name")
        if value is None:
            continue
        if isinstance(value, EgressPolicy | GatewayGroup):
            check_schema(index, obj, set(leftovers), report)
        ref = ref_of(value)
        if ref in seen:
            message = f"{subjects[index]} was already given; this one replaces it"
            report(index, DUPLICATE, "metadata.name", message, "remove one of the two")
            del values[seen[ref]]
        seen[ref] = index
        values[index] = value
    return values


def _subject(obj: object) -> str:
    ref = ref_of_object(obj)
    if isinstance(obj, dict):
        metadata = obj.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        return f"{obj.get('kind') or 'object'}/{name or '?'}"
    return ref.name if ref else "object"


def _situation(
    objects: Sequence[object],
    values: dict[int, Value],
    settings: Settings,
    cluster_networks: Iterable[Network],
    map_size: int,
) -> Situation:
    situation = Situation(Engine(settings), objects=objects, map_size=map_size)
    engine = situation.engine
    for index, value in values.items():
        engine.apply(Upsert(value))
        match value:
            case EgressPolicy():
                situation.policies[index] = value
            case GatewayGroup():
                situation.groups[index] = value
            case Pod():
                situation.pods.append(value)
            case Node():
                situation.nodes.append(value)
            case Namespace():
                situation.namespaces_known = True
            case _:
                pass
    for obj in objects:
        template = pod_of_template(obj)
        if template is not None:
            situation.pods.append(template)
            engine.apply(Upsert(template))
        situation.inside.update((network, "a service") for network in service_addresses(obj))
    for policy in situation.policies.values():
        for number, selection in enumerate(policy.selections):
            pod = implied_pod(policy, number, selection)
            if pod is not None and Ref(Kind.POD, pod.uid) not in engine.values:
                engine.apply(Upsert(pod))
    situation.inside.update((network, "a network of the cluster") for network in cluster_networks)
    for node in situation.nodes:
        situation.inside.update((network, f"the pods of {node.name}") for network in node.pod_cidrs)
    return situation
