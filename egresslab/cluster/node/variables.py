"""A container's environment variables, from every place that a pod may take them from.

Expansion follows Kubernetes' rules: `$(NAME)` is a variable defined before, `$$` is one dollar sign, and what cannot be
resolved stays as it is written.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from typing import Any

from egresslab.api.resources import CONFIGMAPS, SECRETS, Object, Resource
from egresslab.errors import ClusterError

REFERENCE = re.compile(r"\$(\$|\(([-._a-zA-Z][-._a-zA-Z0-9]*)\))")
SUBSCRIPT = re.compile(r"(?P<path>.+)\['(?P<key>[^']+)'\]")

Fetch = Callable[[Resource, str, bool], Awaitable[Object | None]]
"""Gets a ConfigMap or Secret of the pod's namespace; None when it is missing and that is allowed."""


class ConfigError(ClusterError):
    """The container cannot be made as its pod wants it (CreateContainerConfigError)."""


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` replaced, for command, args and values."""

    def value(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return variables.get(match[2], match[0])

    return REFERENCE.sub(value, text)


def field(pod: Object, path: str) -> str:
    """What a fieldRef names; raises `ConfigError` for a field that the downward API does not have."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    if match := SUBSCRIPT.fullmatch(path):
        if match["path"] in ("metadata.labels", "metadata.annotations"):
            return str((metadata.get(match["path"].split(".")[1]) or {}).get(match["key"], ""))
    elif path in ("metadata.labels", "metadata.annotations"):
        pairs = metadata.get(path.split(".")[1]) or {}
        return "\n".join(f'{key}="{value}"' for key, value in sorted(pairs.items()))
    simple: dict[str, Callable[[], Any]] = {
        "metadata.name": lambda: metadata["name"],
        "metadata.namespace": lambda: metadata["namespace"],
        "metadata.uid": lambda: metadata["uid"],
        "spec.nodeName": lambda: spec.get("nodeName", ""),
        "spec.serviceAccountName": lambda: spec.get("serviceAccountName", "default"),
        "status.podIP": lambda: status.get("podIP", ""),
        "status.podIPs": lambda: ",".join(item["ip"] for item in status.get("podIPs") or []),
        "status.hostIP": lambda: status.get("hostIP", ""),
        "status.hostIPs": lambda: ",".join(item["ip"] for item in status.get("hostIPs") or []),
    }
    if path not in simple:
        raise ConfigError("the downward API has no such field", object=metadata["name"], field="fieldPath", value=path)
    return str(simple[path]())


def resource_field(container: Object, reference: Object) -> str:
    """What a resourceFieldRef names; no limit is enforced here, so one that is not set reads 0."""
    kind, _, name = str(reference["resource"]).partition(".")
    return str(((container.get("resources") or {}).get(kind) or {}).get(name, "0"))


def decoded(obj: Object) -> dict[str, bytes]:
    """Keys and contents of a ConfigMap or Secret."""
    if obj["kind"] == "Secret":
        return {key: base64.b64decode(value) for key, value in (obj.get("data") or {}).items()}
    plain = {key: str(value).encode() for key, value in (obj.get("data") or {}).items()}
    return plain | {key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}


async def variables(pod: Object, container: Object, given: Mapping[str, str], fetch: Fetch) -> dict[str, str]:
    """All variables: `given` ones, then envFrom, then env in order; raises `ConfigError` for what is missing."""
    result = dict(given)
    for source in container.get("envFrom") or []:
        for key, resource in (("configMapRef", CONFIGMAPS), ("secretRef", SECRETS)):
            if reference := source.get(key):
                obj = await fetch(resource, reference["name"], bool(reference.get("optional")))
                for name, content in decoded(obj).items() if obj else ():
                    result[f"{source.get('prefix', '')}{name}"] = content.decode(errors="replace")
    for item in container.get("env") or []:
        value = await _value(pod, container, item, result, fetch)
        if value is not None:
            result[item["name"]] = value
    return result


async def _value(pod: Object, container: Object, item: Object, known: Mapping[str, str], fetch: Fetch) -> str | None:
    source = item.get("valueFrom")
    if not source:
        return expand(str(item.get("value") or ""), known)
    if reference := source.get("fieldRef"):
        return field(pod, reference["fieldPath"])
    if reference := source.get("resourceFieldRef"):
        return resource_field(container, reference)
    for key, resource in (("configMapKeyRef", CONFIGMAPS), ("secretKeyRef", SECRETS)):
        if reference := source.get(key):
            optional = bool(reference.get("optional"))
            obj = await fetch(resource, reference["name"], optional)
            content = decoded(obj).get(reference["key"]) if obj else None
            if content is None and not optional:
                raise ConfigError(
                    f"couldn't find key {reference['key']} in {resource.kind} {reference['name']}",
                    object=f"Pod/{pod['metadata']['name']}",
                    field=f"env {item['name']}",
                )
            return None if content is None else content.decode(errors="replace")
    raise ConfigError(
        "a source of variables this node does not know", field=f"env {item['name']}", value=sorted(source)
    )


def hosts_file(pod: Object, hostname: str, addresses: list[str]) -> str:
    """/etc/hosts as the kubelet writes it, hostAliases included."""
    lines = ["# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines += ["fe00::0\tip6-localnet", "ff02::1\tip6-allnodes", "ff02::2\tip6-allrouters"]
    lines += [f"{ip_address(address)}\t{hostname}" for address in addresses]
    for alias in pod["spec"].get("hostAliases") or []:
        lines.append("\t".join([alias["ip"], *(alias.get("hostnames") or [])]))
    return "\n".join(lines) + "\n"


def resolver_file(pod: Object, server: str, domain: str) -> str:
    """/etc/resolv.conf for the pod's dnsPolicy; what the node itself resolves are the names of the world outside."""
    spec = pod["spec"]
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    servers, searches, options = [server], [], {}
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet"):
        searches = [f"{pod['metadata']['namespace']}.svc.{domain}", f"svc.{domain}", domain]
        options = {"ndots": "5"}
    elif policy == "None":
        servers = []
    extra = spec.get("dnsConfig") or {}
    servers += extra.get("nameservers") or []
    searches += extra.get("searches") or []
    options |= {option["name"]: option.get("value") for option in extra.get("options") or []}
    lines = [f"search {' '.join(searches)}"] if searches else []
    lines += [f"nameserver {address}" for address in dict.fromkeys(servers)]
    if options:
        words = (name if value is None else f"{name}:{value}" for name, value in options.items())
        lines.append(f"options {' '.join(words)}")
    return "\n".join(lines) + "\n"
