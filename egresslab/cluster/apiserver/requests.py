"""What a request asks for: the verb and the place that a method, a path and a query mean (Kubernetes API concepts).

Pure parsing; whether the place exists is for the registry to say, whether the verb may be done for the authorizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from egresslab.cluster.apiserver import status
from egresslab.cluster.apiserver.authentication import User

_NAMESPACE_SUBRESOURCES = ("status", "finalize")
_METHODS = {"PUT": "update", "PATCH": "patch", "POST": "create", "GET": "get", "HEAD": "get", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Place:
    """Part of the API below a group and version; empty parts are not given."""

    group: str
    version: str
    plural: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def place(path: str) -> Place | None:
    """The place that `/api/v1/…` or `/apis/GROUP/VERSION/…` names; None for any other path."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) > 1:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 2:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces" and not (len(rest) == 3 and rest[2] in _NAMESPACE_SUBRESOURCES):
        namespace, rest = rest[1], rest[2:]
    if len(rest) > 3 or any(not part for part in rest):
        return None
    plural, name, subresource = (*rest, "", "", "")[:3]
    return Place(group, version, plural, namespace, name, subresource)


def flag(query: Mapping[str, str], name: str) -> bool:
    """A boolean query parameter."""
    return query.get(name, "").lower() in ("1", "true")


def number(query: Mapping[str, str], name: str) -> int | None:
    """A whole number from the query, or None; raises 400 for anything else."""
    text = query.get(name, "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise status.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax ({name})') from None


def verb(method: str, where: Place, query: Mapping[str, str]) -> str:
    """Kubernetes' verb for an HTTP method on a resource; raises 405 for other methods."""
    found = _METHODS.get(method)
    if found is None:
        raise status.method_not_allowed()
    if not where.name and found == "get":
        return "watch" if flag(query, "watch") else "list"
    if not where.name and found == "delete":
        return "deletecollection"
    return found


@dataclass(slots=True)
class WriteOptions:
    """How a write is to be done; `warnings` are sent back in Warning headers.

    `validation` is what to do about unknown fields: Strict, Warn or Ignore.
    """

    user: User
    manager: str = "unknown"
    dry_run: bool = False
    force: bool = False
    validation: str = "Warn"
    warnings: list[str] = field(default_factory=list)


def named(where: Place, query: Mapping[str, str]) -> str:
    """The name that a request is about, for rules with resourceNames: also that of a list or watch whose field selector
    asks for one name (k8s.io/apiserver, RequestInfo)."""
    terms = (term.replace("==", "=").partition("=") for term in query.get("fieldSelector", "").split(","))
    return where.name or next((value for path, _, value in terms if path == "metadata.name"), "")


def write_options(user: User, query: Mapping[str, str], agent: str) -> WriteOptions:
    """From the query, with the first word of the User-Agent as the manager of last resort."""
    validation = query.get("fieldValidation") or "Warn"
    if validation not in ("Strict", "Warn", "Ignore"):
        raise status.bad_request(f'fieldValidation: Unsupported value: "{validation}"')
    dry_run = query.get("dryRun", "")
    if dry_run not in ("", "All"):
        raise status.bad_request(f'dryRun: Unsupported value: "{dry_run}": supported values: "All"')
    manager = query.get("fieldManager") or agent.partition("/")[0][:128] or "unknown"
    return WriteOptions(user, manager, dry_run == "All", flag(query, "force"), validation)
