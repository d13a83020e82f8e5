"""A pod's volumes as folders of the node: made before its containers start, refreshed while they run.

Everything is below the pod's own directory, but for hostPath volumes, which are paths below the node's root.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from time import time

from egresslab.api.connection import Api, ApiError
from egresslab.api.resources import CONFIGMAPS, SECRETS, SERVICE_ACCOUNTS, Object, Resource
from egresslab.cluster.node.rootfs import Mount
from egresslab.cluster.node.variables import ConfigError, decoded, expand, field, resource_field
from egresslab.errors import ClusterError

logger = logging.getLogger(__name__)

TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_VOLUME = "service-account"
TOKEN_LIFETIME_S = 3607
"""What Kubernetes asks for when it adds a token volume itself."""

ROOT_CERTIFICATES = "kube-root-ca.crt"
REFRESH_S = 60.0
KNOWN = ("emptyDir", "hostPath", "configMap", "secret", "projected", "downwardAPI")
CHANGING = ("configMap", "secret", "projected", "downwardAPI")


class MountError(ClusterError):
    """A volume cannot be made (FailedMount)."""


def safe_path(root: Path, path: str) -> Path:
    """`path` below `root`, whatever it says; symbolic links inside are not followed out of it."""
    parts = [part for part in PurePosixPath("/", path).parts[1:] if part not in ("", ".")]
    if ".." in parts:
        raise MountError("a path must not contain '..'", value=path)
    return root.joinpath(*parts)


def with_token_volume(pod: Object) -> Object:
    """The pod with a service account volume where the API server has not added one and nobody declined it."""
    spec = pod["spec"]
    containers = [*(spec.get("initContainers") or []), *spec["containers"]]
    mounted = any(mount["mountPath"] == TOKEN_FOLDER for item in containers for mount in item.get("volumeMounts") or [])
    if mounted or spec.get("automountServiceAccountToken") is False:
        return pod
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_LIFETIME_S}},
        {"configMap": {"name": ROOT_CERTIFICATES, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    volume = {"name": TOKEN_VOLUME, "projected": {"sources": sources}}
    mount = {"name": TOKEN_VOLUME, "mountPath": TOKEN_FOLDER, "readOnly": True}

    def mounting(items: list[Object] | None) -> list[Object]:
        return [{**item, "volumeMounts": [*(item.get("volumeMounts") or []), mount]} for item in items or []]

    return {
        **pod,
        "spec": {
            **spec,
            "volumes": [*(spec.get("volumes") or []), volume],
            "containers": mounting(spec["containers"]),
            "initContainers": mounting(spec.get("initContainers")),
        },
    }


class Volumes:
    """The volumes of one pod."""

    def __init__(self, api: Api, folder: Path, root: Path, ca: Path) -> None:
        self._api = api
        self._folder = folder
        self._root = root
        self._ca = ca
        self._token_renewals: dict[Path, float] = {}

    async def fetch(self, namespace: str, resource: Resource, name: str, optional: bool) -> Object | None:
        """A ConfigMap or Secret; raises `ConfigError` when it is missing and not optional."""
        try:
            obj = await self._api.get(resource, name, namespace)
        except ApiError as error:
            if error.status != 404:
                raise
            if resource is CONFIGMAPS and name == ROOT_CERTIFICATES:
                data = {"ca.crt": self._ca.read_text()}
                return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
            if optional:
                return None
            text = f'{resource.plural.rstrip("s")} "{name}" not found'
            raise ConfigError(text, object=f"{resource.kind}/{name}") from error
        return {**obj, "kind": resource.kind}

    async def prepare(self, pod: Object) -> None:
        """Make every volume; raises `MountError` or `ConfigError` naming the volume."""
        for volume in pod["spec"].get("volumes") or []:
            kinds = [kind for kind in KNOWN if kind in volume]
            if not kinds:
                wanted = ", ".join(sorted(set(volume) - {"name"}))
                raise MountError(
                    f"this node has no volumes of type {wanted}",
                    object=f"volume {volume['name']}",
                    fix=f"use one of {', '.join(KNOWN)}",
                )
            if kinds[0] == "hostPath":
                self._host_path(volume)
            elif kinds[0] == "emptyDir":
                self._make(self._path(volume), 0o777)
            else:
                await self._fill(pod, volume)

    async def refresh(self, pod: Object) -> None:
        """Write again what may have changed at the API server, and tokens that will soon expire."""
        for volume in pod["spec"].get("volumes") or []:
            if any(kind in volume for kind in CHANGING):
                await self._fill(pod, volume)

    def changing(self, pod: Object) -> bool:
        """Whether `refresh` has anything to do."""
        return any(kind in volume for volume in pod["spec"].get("volumes") or [] for kind in CHANGING)

    def mounts(self, pod: Object, container: Object, privileged: bool, environment: Mapping[str, str]) -> list[Mount]:
        """Where a container sees them; raises `MountError` for a mount without volume."""
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or []}
        result = []
        for mount in container.get("volumeMounts") or []:
            volume = volumes.get(mount["name"])
            if volume is None:
                raise MountError("the pod has no such volume", object=container["name"], value=mount["name"])
            is_host = "hostPath" in volume
            source = self._host(volume) if is_host else self._path(volume)
            if sub := mount.get("subPath") or expand(mount.get("subPathExpr") or "", environment):
                source = safe_path(source, sub)
                if not source.exists():
                    self._make(source, 0o755)
            writable = is_host or "emptyDir" in volume
            read_only = bool(mount.get("readOnly")) or not writable
            result.append(Mount(source, mount["mountPath"], read_only, devices=is_host and privileged))
        return result

    def _path(self, volume: Object) -> Path:
        return self._folder / str(volume["name"])

    def _host(self, volume: Object) -> Path:
        return safe_path(self._root, str(volume["hostPath"]["path"]))

    def _make(self, path: Path, mode: int) -> None:
        if not path.exists():
            path.mkdir(parents=True)
            path.chmod(mode)

    def _host_path(self, volume: Object) -> None:
        path, kind = self._host(volume), volume["hostPath"].get("type") or ""
        if kind == "DirectoryOrCreate":
            self._make(path, 0o755)
        elif kind == "FileOrCreate":
            if not path.exists():
                path.touch(0o644)
        elif not path.exists():
            if kind:
                text = f"hostPath type check failed: {volume['hostPath']['path']} is not a {kind.lower()}"
                raise MountError(
                    text, object=f"volume {volume['name']}", fix="use type DirectoryOrCreate, or create it"
                )
            self._make(path, 0o755)

    async def _fill(self, pod: Object, volume: Object) -> None:
        folder = self._path(volume)
        self._make(folder, 0o755)
        sources = volume["projected"].get("sources") or [] if "projected" in volume else [volume]
        default = next((volume[kind].get("defaultMode") for kind in CHANGING if kind in volume), None)
        for source in sources:
            await self._project(pod, folder, source, 0o644 if default is None else int(default))

    async def _project(self, pod: Object, folder: Path, source: Object, default_mode: int) -> None:
        namespace = pod["metadata"]["namespace"]
        for key, resource, name_key in (("configMap", CONFIGMAPS, "name"), ("secret", SECRETS, "secretName")):
            if reference := source.get(key):
                name = reference.get(name_key) or reference["name"]
                optional = bool(reference.get("optional"))
                obj = await self.fetch(namespace, resource, name, optional)
                self._write_keys(folder, reference, decoded(obj) if obj else {}, optional, name, default_mode)
        if reference := source.get("downwardAPI"):
            for item in reference.get("items") or []:
                self._write(folder, item["path"], _downward(pod, item).encode(), item.get("mode") or default_mode)
        if reference := source.get("serviceAccountToken"):
            path = safe_path(folder, reference["path"])
            if time() >= self._token_renewals.get(path, 0.0):
                token, expires = await self._token(pod, reference)
                self._write(folder, reference["path"], token.encode(), default_mode)
                self._token_renewals[path] = time() + (expires - time()) * 0.8

    def _write_keys(
        self, folder: Path, reference: Object, content: Mapping[str, bytes], optional: bool, name: str, mode: int
    ) -> None:
        items = reference.get("items")
        if items is None:
            items = [{"key": key, "path": key} for key in content]
        for item in items:
            if item["key"] in content:
                self._write(folder, item["path"], content[item["key"]], item.get("mode") or mode)
            elif not optional:
                raise MountError(f"references non-existent config key: {item['key']}", object=name)

    def _write(self, folder: Path, name: str, content: bytes, mode: int) -> None:
        path = safe_path(folder, name)
        if path.exists() and path.read_bytes() == content:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.tmp")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        draft.chmod(mode)
        draft.replace(path)

    async def _token(self, pod: Object, reference: Object) -> tuple[str, float]:
        metadata = pod["metadata"]
        bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        spec: Object = {
            "audiences": [reference["audience"]] if reference.get("audience") else [],
            "expirationSeconds": reference.get("expirationSeconds") or TOKEN_LIFETIME_S,
            "boundObjectRef": bound,
        }
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        account = pod["spec"].get("serviceAccountName") or "default"
        try:
            answer = await self._api.create(SERVICE_ACCOUNTS, body, metadata["namespace"], "token", account)
        except ApiError as error:
            text = f"failed to fetch token: {error.message}"
            raise MountError(text, object=f"ServiceAccount/{account}") from error
        expires = datetime.fromisoformat(answer["status"]["expirationTimestamp"])
        return str(answer["status"]["token"]), expires.timestamp()


def _downward(pod: Object, item: Object) -> str:
    if reference := item.get("fieldRef"):
        return field(pod, reference["fieldPath"])
    reference = item["resourceFieldRef"]
    container = next(c for c in pod["spec"]["containers"] if c["name"] == reference["containerName"])
    return resource_field(container, reference)
