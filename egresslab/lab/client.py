"""Requests to the Kubernetes API from a notebook: plain, blocking, one at a time.

A notebook's kernel already runs an event loop, so the asyncio client cannot be waited for in a cell without a thread;
the official client's synchronous half does without either. It must never read anything that a stranger with the same
kubeconfig could not read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import urllib3
import yaml
from kubernetes import client as kube
from kubernetes import config as kube_config

from egresslab.api.connection import ApiError, PatchType, Unreachable
from egresslab.api.resources import PODS, Object, Resource
from egresslab.errors import LabError
from egresslab.lab.execs import ExecResult, Running

REQUEST_TIMEOUT_S = 15.0
FIELD_MANAGER = "egresslab-lab"
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"


class Client:
    """Requests on any kind that the API server serves.

    Every method raises `ApiError` for an error answer, `Unreachable` for none.
    """

    patience = 1.0
    """By how much longer than usual commands may take, as on emulated processors."""

    def __init__(self, kubeconfig: Path) -> None:
        """Read the kubeconfig; `LabError` if it is not usable. Nothing is sent yet."""
        configuration = kube.Configuration()
        try:
            kube_config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
        except (OSError, kube_config.ConfigException, yaml.YAMLError) as error:
            raise LabError(
                f"no way to a cluster: {error}",
                object=str(kubeconfig),
                fix="bring a lab up with `egresslab up`, or point KUBECONFIG at a cluster",
            ) from error
        configuration.retries = False
        self.kubeconfig = kubeconfig
        self._client = kube.ApiClient(configuration)
        self._discovered: dict[str, dict[str, Resource]] = {}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def resource(self, api_version: str, kind: str) -> Resource:
        """Where objects of that kind live, from the server's discovery documents.

        Raises `LabError` when the server has no such kind.
        """
        if kind not in self._discovered.get(api_version, {}):
            self._discovered[api_version] = self._discover(api_version)
        try:
            return self._discovered[api_version][kind]
        except KeyError:
            known = ", ".join(sorted(self._discovered[api_version])) or "nothing"
            raise LabError(
                f"the cluster serves no such kind in {api_version} (it serves {known})",
                object=kind,
                fix="check apiVersion and kind; a custom resource needs its definition applied first",
            ) from None

    def _discover(self, api_version: str) -> dict[str, Resource]:
        path = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
        try:
            answer = self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return {}
            raise
        group, _, version = api_version.rpartition("/")
        return {
            entry["kind"]: Resource(group, version, entry["name"], entry["kind"], bool(entry["namespaced"]))
            for entry in answer.get("resources", [])
            if "/" not in entry["name"]
        }

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """One object."""
        return self.request("GET", resource.path(namespace, name))

    def find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        """One object, or None if there is none of that name."""
        try:
            return self.get(resource, name, namespace)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(self, resource: Resource, namespace: str | None = None, **selectors: str) -> list[Object]:
        """All objects; `selectors` are labelSelector and fieldSelector."""
        answer = self.request("GET", resource.path(namespace), query=selectors)
        return cast("list[Object]", answer.get("items") or [])

    def apply(self, resource: Resource, body: Object) -> Object:
        """Server-side apply."""
        namespace, name = body["metadata"].get("namespace"), body["metadata"]["name"]
        return self.request(
            "PATCH",
            resource.path(namespace, name),
            body,
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            content_type=PatchType.APPLY,
        )

    def merge(self, resource: Resource, name: str, patch: Object, namespace: str | None = None) -> Object:
        """JSON merge patch (RFC 7396)."""
        return self.request("PATCH", resource.path(namespace, name), patch, content_type=PatchType.MERGE)

    def delete(
        self, resource: Resource, name: str, namespace: str | None = None, *, grace_s: int | None = None
    ) -> bool:
        """Ask for deletion; False if there was nothing to delete."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        try:
            self.request("DELETE", resource.path(namespace, name), options)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        """A request with a JSON answer."""
        data = self._send(method, path, body, query or {}, content_type, accept="application/json")
        return cast(Object, json.loads(data)) if data else {}

    def text(self, path: str, **query: str) -> str:
        """A GET with an answer in plain text, such as a pod's log."""
        return self._send("GET", path, None, query, "application/json", accept="*/*").decode(errors="replace")

    def _send(
        self, method: str, path: str, body: object, query: dict[str, str], content_type: str, accept: str
    ) -> bytes:
        serialized = self._client.param_serialize(
            method=method,
            resource_path=path,
            query_params=list(query.items()),
            header_params={"Accept": accept, "Content-Type": content_type},
            # The client's JSON encoder knows application/json and its kin, not the YAML that server-side apply wants.
            body=json.dumps(body) if content_type == PatchType.APPLY else body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = self._client.call_api(*serialized, _request_timeout=REQUEST_TIMEOUT_S)
            data: bytes = answer.read()
        except (urllib3.exceptions.HTTPError, OSError, kube.ApiException) as error:
            raise Unreachable(f"the API server did not answer: {error}", object=f"{method} {path}") from error
        if answer.status >= 400:
            raise _error(answer.status, data, path)
        return data

    def exec(self, namespace: str, pod: str, command: Sequence[str], *, timeout_s: float) -> ExecResult:
        """Run a command in a pod's default container, without a terminal and without input.

        Raises `LabError` when it has not ended after `timeout_s` seconds, times `patience`; its own failure is in the
        exit code.
        """
        return self.begin(namespace, pod, command).result(timeout_s * self.patience)

    def begin(self, namespace: str, pod: str, command: Sequence[str]) -> Running:
        """Begin a command in a pod's default container, without input; its end may be waited for later."""
        container = self._default_container(namespace, pod)
        return Running(self._client, namespace, pod, command, container=container, stdin=False)

    def start(self, namespace: str, pod: str, command: Sequence[str]) -> Running:
        """Start a command in a pod's default container, with an open standard input."""
        container = self._default_container(namespace, pod)
        return Running(self._client, namespace, pod, command, container=container, stdin=True)

    def _default_container(self, namespace: str, pod: str) -> str | None:
        """What kubectl takes when no container is named: the one that an annotation names, else the first. An API
        server asks for a name as soon as there are two."""
        body = self.find(PODS, pod, namespace)
        if body is None:
            return None  # exec says so better
        annotated = body["metadata"].get("annotations", {}).get(DEFAULT_CONTAINER)
        return str(annotated or body["spec"]["containers"][0]["name"])


def _error(status: int, data: bytes, path: str) -> ApiError:
    try:
        answer: Any = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        answer = {}
    message = str(answer.get("message") or data.decode(errors="replace")[:200] or f"HTTP {status}")
    return ApiError(message, status=status, reason=str(answer.get("reason") or "Unknown"), object=path)
