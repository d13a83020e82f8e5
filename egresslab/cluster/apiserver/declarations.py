"""The kinds that the embedded cluster serves, as declarations: adding one is adding a row.

A row says where a kind lives, which verbs and subresources it has and which of its fields can be selected. It holds no
behaviour; what is particular to a kind (defaults, validation, columns) is looked up by its `bucket` elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
REVIEW = ("create",)


class StatusWrites(Enum):
    """What writes to the main resource do to `status`."""

    PLAIN = "plain"
    """There is no status subresource: status is a field as any other."""
    APART = "apart"
    """Set through the subresource only; dropped on create."""
    FIRST = "first"
    """As APART, but the creator may set it (nodes)."""


@dataclass(frozen=True, slots=True)
class Column:
    """A printer column of a custom resource (`additionalPrinterColumns`); priority above 0 shows with -o wide."""

    name: str
    type: str
    path: str
    description: str = ""
    priority: int = 0
    format: str = ""


@dataclass(frozen=True, slots=True)
class ResourceType:
    """One served resource.

    `fields` are the paths that field selectors may name beside metadata.name and metadata.namespace; `subresources`
    those beside status, with the kind that they speak; `schema` is the OpenAPI v3 schema of a custom resource.
    """

    group: str
    version: str
    plural: str
    kind: str
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    namespaced: bool = True
    status: StatusWrites = StatusWrites.PLAIN
    subresources: tuple[str, ...] = ()
    generation: bool = False
    fields: tuple[str, ...] = ()
    verbs: tuple[str, ...] = VERBS
    singular: str = ""
    list_kind: str = ""
    columns: tuple[Column, ...] = ()
    schema: Any = None
    custom: bool = False
    scale: Any = None

    @property
    def api_version(self) -> str:
        """As in `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def bucket(self) -> str:
        """Where its objects are kept: one place for all versions, and one for both kinds of Event."""
        return "events" if self.kind == "Event" and not self.custom else f"{self.plural}.{self.group}".rstrip(".")

    @property
    def singular_name(self) -> str:
        """In lower case, for kubectl's command line."""
        return self.singular or self.kind.lower()

    @property
    def list_name(self) -> str:
        """Kind of a list of them."""
        return self.list_kind or f"{self.kind}List"

    @property
    def stored(self) -> bool:
        """Whether it has objects; reviews do not."""
        return "get" in self.verbs

    def serves(self, subresource: str) -> bool:
        """Whether the subresource exists ("" is the resource itself)."""
        return not subresource or subresource in self.subresources or self._has_status(subresource)

    def _has_status(self, subresource: str) -> bool:
        return subresource == "status" and self.status is not StatusWrites.PLAIN


SUBRESOURCE_KINDS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "scale": ("autoscaling", "v1", "Scale", ("get", "patch", "update")),
    "log": ("", "", "", ("get",)),
    "exec": ("", "v1", "PodExecOptions", ("create", "get")),
    "attach": ("", "v1", "PodAttachOptions", ("create", "get")),
    "binding": ("", "v1", "Binding", ("create",)),
    "eviction": ("policy", "v1", "Eviction", ("create",)),
    "token": ("authentication.k8s.io", "v1", "TokenRequest", ("create",)),
    "finalize": ("", "", "", ("update",)),
}
"""Subresource -> group, version, kind (empty: the resource's own) and verbs."""

_POD_FIELDS = (
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
)
_EVENT_FIELDS = (
    *(
        f"involvedObject.{part}"
        for part in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
    ),
    "reason",
    "reportingComponent",
    "source",
    "type",
)
_POD_SUBRESOURCES = ("attach", "binding", "eviction", "exec", "log")
_ALL = ("all",)
_RBAC = "rbac.authorization.k8s.io"
_AUTHN = "authentication.k8s.io"
_AUTHZ = "authorization.k8s.io"
_ADMISSION = ("admissionregistration.k8s.io", "v1")
_API_EXTENSIONS = ("api-extensions",)

BUILT_IN: tuple[ResourceType, ...] = (
    ResourceType(
        "",
        "v1",
        "namespaces",
        "Namespace",
        ("ns",),
        namespaced=False,
        status=StatusWrites.APART,
        subresources=("finalize",),
        fields=("status.phase",),
    ),
    ResourceType(
        "", "v1", "nodes", "Node", ("no",), namespaced=False, status=StatusWrites.FIRST, fields=("spec.unschedulable",)
    ),
    ResourceType(
        "",
        "v1",
        "pods",
        "Pod",
        ("po",),
        _ALL,
        status=StatusWrites.APART,
        subresources=_POD_SUBRESOURCES,
        generation=True,
        fields=_POD_FIELDS,
    ),
    ResourceType("", "v1", "events", "Event", ("ev",), fields=_EVENT_FIELDS),
    ResourceType("", "v1", "configmaps", "ConfigMap", ("cm",)),
    ResourceType("", "v1", "secrets", "Secret", fields=("type",)),
    ResourceType("", "v1", "serviceaccounts", "ServiceAccount", ("sa",), subresources=("token",)),
    ResourceType(
        "",
        "v1",
        "services",
        "Service",
        ("svc",),
        _ALL,
        status=StatusWrites.APART,
        fields=("spec.clusterIP", "spec.type"),
    ),
    ResourceType("", "v1", "endpoints", "Endpoints", ("ep",)),
    ResourceType(
        "apps",
        "v1",
        "deployments",
        "Deployment",
        ("deploy",),
        _ALL,
        status=StatusWrites.APART,
        subresources=("scale",),
        generation=True,
    ),
    ResourceType(
        "apps",
        "v1",
        "replicasets",
        "ReplicaSet",
        ("rs",),
        _ALL,
        status=StatusWrites.APART,
        subresources=("scale",),
        generation=True,
        fields=("status.replicas",),
    ),
    ResourceType("apps", "v1", "daemonsets", "DaemonSet", ("ds",), _ALL, status=StatusWrites.APART, generation=True),
    ResourceType("apps", "v1", "controllerrevisions", "ControllerRevision"),
    ResourceType("coordination.k8s.io", "v1", "leases", "Lease"),
    ResourceType("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
    ResourceType("events.k8s.io", "v1", "events", "Event", ("ev",), fields=_EVENT_FIELDS),
    ResourceType(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        ("crd", "crds"),
        _API_EXTENSIONS,
        namespaced=False,
        status=StatusWrites.APART,
        generation=True,
    ),
    ResourceType(_RBAC, "v1", "roles", "Role"),
    ResourceType(_RBAC, "v1", "rolebindings", "RoleBinding"),
    ResourceType(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False),
    ResourceType(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    ResourceType(
        *_ADMISSION,
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        (),
        _API_EXTENSIONS,
        namespaced=False,
        generation=True,
    ),
    ResourceType(
        *_ADMISSION,
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        (),
        _API_EXTENSIONS,
        namespaced=False,
        generation=True,
    ),
    ResourceType(
        "scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", ("pc",), namespaced=False, generation=True
    ),
    ResourceType(
        "policy",
        "v1",
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        ("pdb",),
        status=StatusWrites.APART,
        generation=True,
    ),
    ResourceType(_AUTHN, "v1", "tokenreviews", "TokenReview", namespaced=False, verbs=REVIEW),
    ResourceType(_AUTHN, "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False, verbs=REVIEW),
    ResourceType(_AUTHZ, "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False, verbs=REVIEW),
    ResourceType(_AUTHZ, "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False, verbs=REVIEW),
    ResourceType(_AUTHZ, "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", namespaced=False, verbs=REVIEW),
    ResourceType(_AUTHZ, "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview", verbs=REVIEW),
)

_ABSENT = """
v1 componentstatuses ComponentStatus cs cluster
v1 persistentvolumeclaims PersistentVolumeClaim pvc
v1 persistentvolumes PersistentVolume pv cluster
v1 replicationcontrollers ReplicationController rc
v1 resourcequotas ResourceQuota quota
v1 limitranges LimitRange limits
apps/v1 statefulsets StatefulSet sts
autoscaling/v2 horizontalpodautoscalers HorizontalPodAutoscaler hpa
batch/v1 jobs Job
batch/v1 cronjobs CronJob cj
certificates.k8s.io/v1 certificatesigningrequests CertificateSigningRequest csr cluster
networking.k8s.io/v1 ingresses Ingress ing
networking.k8s.io/v1 ingressclasses IngressClass cluster
networking.k8s.io/v1 networkpolicies NetworkPolicy netpol
storage.k8s.io/v1 storageclasses StorageClass sc cluster
"""


def _absent(row: str) -> ResourceType:
    version, plural, kind, *rest = row.split()
    short = tuple(word for word in rest if word != "cluster")
    group, _, version = version.rpartition("/")
    return ResourceType(group, version, plural, kind, short, namespaced="cluster" not in rest, verbs=())


ABSENT: tuple[ResourceType, ...] = tuple(_absent(row) for row in _ABSENT.strip().splitlines())
"""Kinds that people ask for and that are not here. Discovery names them without a verb, which `kubectl api-resources`
leaves out; but a command that means one reaches the server, and is answered in the server's words.
"""
