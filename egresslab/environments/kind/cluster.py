"""What a new cluster of Kind is given before it is a lab: the egress datapath by helm, the way from the world outside
to the API server, names of servers outside, and the pods of the namespace `outside`.

Everything is applied, so that a second run finishes what a first one began.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from egresslab.environments.base import Progress
from egresslab.environments.definitions import PACKAGE, definitions, read_manifests
from egresslab.environments.kind.certificates import write_certificate
from egresslab.environments.kind.commands import Commands
from egresslab.environments.kind.image import deployment
from egresslab.environments.kind.plan import NAMESPACES, SHARED, Datapath, Plan
from egresslab.environments.kind.preflight import CILIUM_CHART
from egresslab.environments.kind.versions import pinned
from egresslab.errors import EnvironmentFailure

READY_S = 300
TOKEN_HOURS = 24 * 30
CRDS = PACKAGE / "api" / "crds"
FIREWALL = {"kind": "ServiceAccount", "name": "firewall", "namespace": "outside"}


class Cluster:
    """The cluster of one plan, through its kubeconfig."""

    def __init__(self, plan: Plan, commands: Commands, image: str) -> None:
        self._plan = plan
        self._commands = commands
        self._image = image
        self.kubeconfig = plan.state / "kubeconfig"

    def kubectl(self, *words: str, stdin: str | None = None, timeout_s: float = 60.0) -> str:
        """The bundled kubectl as administrator."""
        from egresslab.environments.netns.doctor import kubectl_path

        program = kubectl_path() or "kubectl"
        return self._commands.run(
            str(program), "--kubeconfig", str(self.kubeconfig), *words, stdin=stdin, timeout_s=timeout_s
        )

    def apply(self, objects: list[dict[str, Any]]) -> None:
        """Server-side apply."""
        listed = {"apiVersion": "v1", "kind": "List", "items": objects}
        words = (
            "apply",
            "--server-side",
            "--validate=ignore",
            "--force-conflicts",
            "--field-manager=egresslab-environment",
            "-f",
            "-",
        )
        self.kubectl(*words, stdin=json.dumps(listed))

    def answers(self) -> bool:
        """Whether the API server does, and all nodes are Ready."""
        if not self.kubeconfig.exists():
            return False
        try:
            nodes = self.nodes()
        except EnvironmentFailure:
            return False
        return len(nodes) == len(self._plan.topology.nodes) and all(nodes.values())

    def nodes(self) -> dict[str, bool]:
        """Node to whether it is Ready."""
        found = json.loads(self.kubectl("get", "nodes", "-o", "json", "--request-timeout=5s", timeout_s=15))
        return {
            node["metadata"]["name"]: any(
                condition["type"] == "Ready" and condition["status"] == "True"
                for condition in node["status"].get("conditions", ())
            )
            for node in found["items"]
        }

    def install(self, *, bare: bool) -> None:
        """The datapath; with `bare` the cluster's network alone."""
        if self._plan.datapath is Datapath.CILIUM:
            self._helm(
                "cilium",
                os.environ.get("EGRESSLAB_CILIUM_CHART", CILIUM_CHART),
                *("--version", pinned()["CILIUM"], "--values", str(definitions("kind") / "cilium-values.yaml")),
                *("--set", f"k8sServiceHost={self._plan.containers()[self._plan.topology.control_plane.name]}"),
                *("--set", "k8sServicePort=6443"),
            )
            return
        if bare:
            return
        repository, _, tag = self._image.rpartition(":")
        self._helm(
            "egresslab",
            str(deployment() / "chart"),
            *("--values", str(definitions("kind") / "egresslab-values.yaml")),
            *("--set", f"image.repository={repository}", "--set-string", f"image.tag={tag}"),
            *("--set", f"cluster.serviceNetworks={{{','.join(map(str, self._plan.service_ranges))}}}"),
        )

    def _helm(self, release: str, chart: str, *words: str) -> None:
        self._commands.run(
            *("helm", "upgrade", "--install", release, chart, "--kubeconfig", str(self.kubeconfig)),
            *("--namespace", "kube-system", "--timeout", f"{READY_S}s", *words),
            timeout_s=READY_S + 30,
            log=self._plan.state / "helm.log",
        )

    def open_to_the_world(self, namespaces: bool) -> None:
        """The namespace `outside`: its pods, its settings, and a kubeconfig for the world's programs.

        `namespaces`: the world's network namespace can be entered from the control plane."""
        objects = read_manifests([definitions("netns") / "manifests" / "outside.yaml"])
        for obj in objects:
            if obj["kind"] == "RoleBinding":
                obj["subjects"] = [FIREWALL]
        accounts = [obj for obj in objects if obj["kind"] != "Pod"]
        name = {"name": FIREWALL["name"], "namespace": FIREWALL["namespace"]}
        accounts.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": name})
        self.apply([obj for obj in accounts if obj["kind"] == "Namespace"])
        self.apply(accounts)
        pods = [obj for obj in objects if obj["kind"] == "Pod"]
        for pod in pods:
            if namespaces or pod["metadata"]["name"] != "capture":
                self._replace(self._here(pod))
        token = self.kubectl("create", "token", FIREWALL["name"], "-n", "outside", f"--duration={TOKEN_HOURS}h")
        own = yaml.safe_load(self.kubeconfig.read_text())["clusters"][0]["cluster"]
        plan = self._plan
        server = f"https://{plan.address(plan.topology.control_plane, plan.topology.primary)}:6443"
        _write_kubeconfig(plan.state / "outside.kubeconfig", server, own["certificate-authority-data"], token.strip())

    def _replace(self, pod: dict[str, Any]) -> None:
        """Apply a pod; one that is there and was made otherwise gives way, since pods cannot be changed."""
        try:
            self.apply([pod])
        except EnvironmentFailure:
            name = ("pod", pod["metadata"]["name"], "-n", pod["metadata"]["namespace"])
            self.kubectl("delete", *name, "--now", "--ignore-not-found")
            self.apply([pod])

    def _here(self, pod: dict[str, Any]) -> dict[str, Any]:
        """A pod of the namespace `outside` as Kind's control plane can run it."""
        spec = pod["spec"]
        for container in spec["containers"]:
            container["image"], container["imagePullPolicy"] = self._image, "IfNotPresent"
            container["securityContext"] = {"privileged": True, "runAsUser": 0}
        if pod["metadata"]["name"] == "capture":
            del pod["metadata"]["annotations"]
            spec["volumes"] = [{"name": "world", "hostPath": {"path": NAMESPACES}}]
            (container,) = spec["containers"]
            container["volumeMounts"] = [
                {"name": "world", "mountPath": NAMESPACES, "mountPropagation": "HostToContainer"}
            ]
            # A container of the control plane cannot be in the world's network; its tcpdump goes there instead.
            inside = f'exec nsenter --net={NAMESPACES}/outside /usr/bin/tcpdump "$@"'
            write = f"printf '#!/bin/sh\\n%s\\n' '{inside}' > /usr/local/bin/tcpdump"
            container["command"] = ["sh", "-c", f"{write} && chmod +x /usr/local/bin/tcpdump && exec sleep infinity"]
        assert all(volume["hostPath"]["path"] in (SHARED, NAMESPACES) for volume in spec["volumes"])
        return pod

    def trust_the_world(self) -> None:
        """Certificates of servers outside, signed by the cluster's authority, which every pod has at hand."""
        plan = self._plan
        if not (plan.state / "pki" / "outside.crt").exists():
            container = plan.containers()[plan.topology.control_plane.name]
            authority, key = (
                self._commands.docker("exec", container, "cat", f"/etc/kubernetes/pki/ca.{end}")
                for end in ("crt", "key")
            )
            servers = plan.topology.outside.servers
            names = dict.fromkeys(name for server in servers for name in server.names)
            addresses = dict.fromkeys(address for server in servers for address in server.addresses)
            write_certificate(plan.state / "pki", authority, key, list(names), list(addresses))
        self.apply(read_manifests([definitions("kind") / "trust.yaml"]))

    def teach_faults(self) -> None:
        """The kind Fault, which the chart leaves out: only a lab has somebody who carries them out."""
        self.apply(read_manifests([CRDS / "egresslab.dev_faults.yaml"]))
        self.kubectl("wait", "--for=condition=Established", "crd/faults.egresslab.dev", "--timeout=30s")

    def use_what_is_here(self) -> None:
        """No image is pulled that a node has (where there is no registry)."""
        self.apply(read_manifests([definitions("kind") / "airgap" / "pull-policy.yaml"]))

    def name_servers(self) -> None:
        """Names of servers outside, told by the cluster's DNS."""
        lines = [
            f"{address} {name}"
            for server in self._plan.topology.outside.servers
            for address in server.addresses
            if address.version == 4 or self._plan.dual
            for name in server.names
        ]
        hosts = "    hosts {\n" + "".join(f"      {line}\n" for line in lines) + "      fallthrough\n    }\n"
        found = json.loads(self.kubectl("get", "configmap", "coredns", "-n", "kube-system", "-o", "json"))
        corefile = found["data"]["Corefile"]
        if hosts in corefile:
            return
        ready = corefile.replace("    ready\n", f"    ready\n{hosts}", 1)
        if ready == corefile:
            raise EnvironmentFailure("has no line `ready`", object="ConfigMap kube-system/coredns", field="Corefile")
        patch = json.dumps({"data": {"Corefile": ready}})
        self.kubectl("patch", "configmap", "coredns", "-n", "kube-system", "--type=merge", "-p", patch)

    def wait(self, progress: Progress) -> None:
        """Until nodes are Ready and everything is rolled out; raises `EnvironmentFailure` saying what is not."""
        limit = f"--timeout={READY_S}s"
        self.kubectl("wait", "--for=condition=Ready", "nodes", "--all", limit, timeout_s=READY_S + 15)
        listed = self.kubectl("get", "daemonsets,deployments", "-n", "kube-system", "-o", "name").split()
        for name in listed:
            progress.note(f"waiting for {name.partition('/')[2]}")
            self.kubectl("rollout", "status", name, "-n", "kube-system", limit, timeout_s=READY_S + 15)
        self.kubectl("wait", "--for=condition=Ready", "pods", "--all", "-n", "outside", limit, timeout_s=READY_S + 15)


def _write_kubeconfig(path: Path, server: str, authority: str, token: str) -> None:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": "outside", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "outside"}}],
        "current-context": "lab",
    }
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(yaml.safe_dump(content))
    fresh.replace(path)
