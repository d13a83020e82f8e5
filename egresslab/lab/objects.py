"""Making and unmaking objects for a chapter: everything made is written down, and said as kubectl would say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from egresslab.api.resources import EVENTS, PODS, Object, Resource
from egresslab.lab import manifests, nodes, waits
from egresslab.lab.client import Client
from egresslab.lab.nodes import Pod
from egresslab.lab.ownership import Ledger, Owned

LAST_EVENTS = 2


class Objects:
    """Objects of one chapter; `namespace` is where those go that name none."""

    def __init__(self, client: Client, ledger: Ledger) -> None:
        self._client = client
        self._ledger = ledger
        self.namespace = "default"

    def apply(self, manifest: manifests.Manifest) -> None:
        """Server-side apply of every object of a manifest, in order."""
        for body in manifests.read(manifest):
            resource, body = self._placed(body)
            metadata = body["metadata"]
            before = self._client.find(resource, metadata["name"], metadata.get("namespace"))
            after = self._client.apply(resource, self._ledger.stamp(body, resource))
            self._ledger.note(Owned(resource, metadata["name"], metadata.get("namespace")))
            print(f"{typed_name(resource, metadata['name'])} {_change(before, after)}")

    def delete(self, manifest: manifests.Manifest, *, timeout_s: float) -> None:
        """Delete every object of a manifest and wait until it is gone; what is not there is no error."""
        for body in manifests.read(manifest):
            resource, body = self._placed(body)
            name, namespace = body["metadata"]["name"], body["metadata"].get("namespace")
            deleted = self._client.delete(resource, name, namespace)
            self.wait_gone(resource, name, namespace, timeout_s=timeout_s)
            print(f"{typed_name(resource, name)} {'deleted' if deleted else 'was not there'}")

    def run_pod(
        self,
        name: str,
        image: str,
        *,
        command: Sequence[str] | None,
        labels: Mapping[str, str],
        node: str | None,
        namespace: str | None,
        timeout_s: float,
    ) -> Pod:
        """Run a pod and wait until it is Ready; `LabError` with its state and last events when it is not in time."""
        self.start_pod(name, image, command=command, labels=labels, node=node, namespace=namespace)
        return self.ready_pod(name, namespace, timeout_s=timeout_s)

    def start_pod(
        self,
        name: str,
        image: str,
        *,
        command: Sequence[str] | None,
        labels: Mapping[str, str],
        node: str | None,
        namespace: str | None,
    ) -> None:
        """Make a pod without waiting for it."""
        words = tuple(command) if command is not None else None
        place = namespace or self.namespace
        self.apply(manifests.pod(name, place, image=image, command=words, labels=labels, node=node))

    def ready_pod(self, name: str, namespace: str | None, *, timeout_s: float) -> Pod:
        """Wait until a pod is Ready; errors as for `run_pod`."""
        place = namespace or self.namespace
        return waits.wait_for(f"pod {name} to be Ready", lambda: self._ready_pod(name, place), timeout_s=timeout_s)

    def move_pod(self, name: str, node: str, *, timeout_s: float) -> Pod:
        """Delete a pod, and run it again elsewhere with the same labels, image and command."""
        body = self._client.get(PODS, name, self.namespace)
        container, labels = body["spec"]["containers"][0], body["metadata"].get("labels") or {}
        self._client.delete(PODS, name, self.namespace, grace_s=1)
        self.wait_gone(PODS, name, self.namespace, timeout_s=timeout_s)
        print(f"pod/{name} deleted")
        return self.run_pod(
            name,
            container["image"],
            command=container.get("command"),
            labels=labels,
            node=node,
            namespace=None,
            timeout_s=timeout_s,
        )

    def wait_gone(self, resource: Resource, name: str, namespace: str | None, *, timeout_s: float) -> None:
        """Wait until an object is no more."""

        def gone() -> bool | waits.Pending:
            left = self._client.find(resource, name, namespace)
            return True if left is None else waits.Pending(f"still there: {left.get('status') or 'no status'}")

        waits.wait_for(f"{resource.kind} {name} to be gone", gone, timeout_s=timeout_s)

    def _placed(self, body: Object) -> tuple[Resource, Object]:
        resource = self._client.resource(body["apiVersion"], body["kind"])
        if resource.namespaced and not body["metadata"].get("namespace"):
            body = {**body, "metadata": {**body["metadata"], "namespace": self.namespace}}
        return resource, body

    def _ready_pod(self, name: str, namespace: str) -> Pod | waits.Pending:
        body = self._client.get(PODS, name, namespace)
        if nodes.ready(body):
            return nodes.pod(body)
        events = self._client.list(EVENTS, namespace, fieldSelector=f"involvedObject.name={name}")
        last = "; ".join(str(event.get("message")) for event in events[-LAST_EVENTS:])
        return waits.Pending(f"{nodes.phase(body)}{f' ({last})' if last else ''}")


def typed_name(resource: Resource, name: str) -> str:
    """An object's name as kubectl prints it."""
    kind = resource.kind.lower()
    return f"{kind}.{resource.group}/{name}" if resource.group else f"{kind}/{name}"


def _change(before: Object | None, after: Object) -> str:
    if before is None:
        return "created"
    same = before["metadata"].get("resourceVersion") == after["metadata"].get("resourceVersion")
    return "unchanged" if same else "configured"
