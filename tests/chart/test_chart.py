"""The chart brings what the lab has, refuses what means nothing, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from egresslab.cluster.testing import RunningServer
from tests.chart.conftest import CHART, Helm, Object

PATIENCE_S = 60.0
"""Kinds go once their objects are gone, which a controller of the server's sees to."""
ROOT = CHART.parents[1]
LAB = ROOT / "environments" / "netns" / "manifests"
SERVED_BY_KUBERNETES_ALONE = {
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Job",
}
"""What our API server does not serve (docs/differences.md)."""


def lab_object(kind: str, name: str) -> Object:
    """An object of the lab's manifests."""
    objects = [obj for file in LAB.glob("*.yaml") for obj in yaml.safe_load_all(file.read_text())]
    (found,) = [obj for obj in objects if obj["kind"] == kind and obj["metadata"]["name"] == name]
    return dict(found)


def pod_of(workload: Object) -> Any:
    """The pod's specification in a workload."""
    return workload["spec"]["template"]["spec"]


def test_rights_and_kinds_are_the_labs_own_files() -> None:
    linked = {path.name: path.resolve() for path in (CHART / "files").rglob("*.yaml")}
    kinds = {path.name: path for path in (ROOT / "egresslab" / "api" / "crds").glob("*.yaml")}
    rights = (LAB / "agent.yaml", LAB / "operator.yaml", LAB.parent / "cilium-backend.yaml")
    assert linked == {**kinds, **{path.name: path for path in rights}}


def test_lint_finds_nothing(helm: Helm) -> None:
    done = helm.run("lint", str(CHART), "--strict", "--namespace", "kube-system", "--kube-version", "1.37.1")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("agent.overlayPort=70000", "/agent/overlayPort"),
        ("operator.replicas=0", "/operator/replicas"),
        ("image.digest=abc", "/image/digest"),
        ("tolerations=[]", "tolerations"),
        ("podNodeLabel.mode=webhook", "/podNodeLabel/mode"),
        ("agent.gate.enabled=maybe", "/agent/gate/enabled"),
        ("agent.gate.confDirectory=net.d", "/agent/gate/confDirectory"),
        ("agent.gate.socket=/run", "socket"),
    ],
)
def test_a_value_that_means_nothing_is_refused_by_its_path(helm: Helm, setting: str, said: str) -> None:
    done = helm.run("template", "e", str(CHART), "-n", "kube-system", "--kube-version", "1.37.1", "--set", setting)
    assert done.returncode != 0 and said in done.stderr


def test_another_namespace_is_refused_with_the_way_to_do_it(helm: Helm) -> None:
    done = helm.run("template", "e", str(CHART), "-n", "default", "--kube-version", "1.37.1")
    assert done.returncode != 0 and "--namespace kube-system" in done.stderr


def literal(template: str) -> Object:
    """What a template says without helm: its lines, but for those that helm would fill in."""
    lines = (CHART / "templates" / template).read_text().split("\n---\n")[0].splitlines()
    return dict(yaml.safe_load("\n".join(line for line in lines if "{{" not in line)))


@pytest.mark.parametrize(
    ("kind", "name", "template"),
    [("DaemonSet", "egresslab-agent", "agent.yaml"), ("Deployment", "egresslab-operator", "operator.yaml")],
)
def test_the_workloads_do_what_the_labs_do(kind: str, name: str, template: str) -> None:
    """Commands, names, ports, probes, accounts and volumes; what only a real kubelet needs comes on top."""
    ours, lab = literal(template), lab_object(kind, name)
    assert (ours["kind"], ours["metadata"]["name"]) == (kind, name)
    assert ours["spec"]["selector"] == lab["spec"]["selector"]
    pod, other = pod_of(ours), pod_of(lab)
    assert pod["serviceAccountName"] == other["serviceAccountName"]
    assert pod["priorityClassName"] == other["priorityClassName"]
    containers = {container["name"]: container for container in pod["containers"]}
    assert containers.keys() == {container["name"] for container in other["containers"]}
    for container in other["containers"]:
        same = containers[container["name"]]
        assert same["command"] == container["command"]
        assert same.get("ports") == container.get("ports")
        assert {env["name"] for env in container["env"]} <= {env["name"] for env in same["env"]}
        if kind == "DaemonSet":
            assert same["readinessProbe"] == container["readinessProbe"]
            assert same["startupProbe"] == container["startupProbe"]
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert mounts <= {mount["mountPath"] for mount in same["volumeMounts"]}


@pytest.mark.parametrize("enabled", [True, False])
def test_the_gate_knows_the_nodes_directories_also_to_leave_them(helm: Helm, enabled: bool) -> None:
    """Without a gate too: agents take away what agents before them put there."""
    k3s = "/var/lib/rancher/k3s/agent/etc/cni/net.d"
    words = (f"agent.gate.enabled={str(enabled).lower()}", f"agent.gate.confDirectory={k3s}")
    objects = helm.template(*(word for setting in words for word in ("--set", setting)))
    (agent,) = [obj for obj in objects if obj["kind"] == "DaemonSet"]
    pod = pod_of(agent)
    container = next(container for container in pod["containers"] if container["name"] == "agent")
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert environment["EGRESSLAB_GATE"] == ("chain" if enabled else "none")
    hosts = {volume["name"]: volume.get("hostPath", {}) for volume in pod["volumes"]}
    mounted = {mount["mountPath"]: hosts[mount["name"]] for mount in container["volumeMounts"]}
    kind = "DirectoryOrCreate"
    assert mounted[environment["EGRESSLAB_CNI_CONFIGURATIONS"]] == {"path": k3s, "type": kind}
    assert mounted[environment["EGRESSLAB_CNI_PROGRAMS"]] == {"path": "/opt/cni/bin", "type": kind}
    # Otherwise nobody would be left to answer.
    assert pod["hostNetwork"] and {"operator": "Exists"} in pod["tolerations"]


def test_metrics_are_found_by_annotations(find: Callable[[str, str], Object]) -> None:
    for kind, name, port in (("DaemonSet", "egresslab-agent", "9880"), ("Deployment", "egresslab-operator", "9882")):
        annotations = find(kind, name)["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/scrape"] == "true"
        assert annotations["prometheus.io/port"] == port


def test_beside_cilium_nothing_is_programmed_and_no_kind_of_cilium_is_touched(helm: Helm) -> None:
    objects = helm.template("--set", "backend=cilium")
    names = {(obj["kind"], obj["metadata"]["name"]) for obj in objects}
    assert ("DaemonSet", "egresslab-announcer") in names and ("DaemonSet", "egresslab-agent") not in names
    assert not any(kind == "CustomResourceDefinition" and "cilium" in name for kind, name in names)
    (settings,) = [obj for obj in objects if obj["metadata"]["name"] == "egresslab-config"]
    assert settings["data"]["backend"] == "cilium"
    (announcer,) = [obj for obj in objects if obj["kind"] == "DaemonSet"]
    assert {container["image"] for container in pod_of(announcer)["containers"]} == {"egresslab:0.1.0"}


def test_only_what_programs_the_node_is_privileged(rendered: list[Object]) -> None:
    for obj in rendered:
        pod = obj["spec"] if obj["kind"] == "Pod" else pod_of(obj) if "template" in obj.get("spec", {}) else None
        if pod is None:
            continue
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            if obj["kind"] != "DaemonSet":
                # Kubernetes, Pod Security Standards, "Restricted".
                assert context["runAsNonRoot"] and not context["allowPrivilegeEscalation"]
                assert context["capabilities"] == {"drop": ["ALL"]}
                assert context["seccompProfile"] == {"type": "RuntimeDefault"}
                assert "hostNetwork" not in pod


def test_nothing_is_granted_without_a_name_for_it(rendered: list[Object]) -> None:
    for obj in rendered:
        for rule in obj.get("rules", ()) if "Role" in obj["kind"] else ():
            words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert "*" not in words and "secrets" not in words, obj["metadata"]["name"]


def kubectl(server: RunningServer, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """As administrator."""
    program = Path(sys.executable).with_name("kubectl")
    options = ["--kubeconfig", str(server.kubeconfig), "--cache-dir", str(server.directory / "cache")]
    return subprocess.run(
        [str(program), *options, *words], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def served(server: RunningServer, objects: list[Object]) -> list[Object]:
    """Objects of kinds that the server knows."""
    if len(server.commands) > 1:
        return objects
    return [obj for obj in objects if obj["kind"] not in SERVED_BY_KUBERNETES_ALONE]


def test_every_manifest_is_valid_where_it_is_applied(server: RunningServer, rendered: list[Object]) -> None:
    """Server-side apply validates against the schema of each kind, and refuses fields that it does not have."""
    listed = {"apiVersion": "v1", "kind": "List", "items": served(server, rendered)}
    words = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
    done = kubectl(server, *words, stdin=json.dumps(listed))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("serverside-applied") == len(listed["items"])


def everything(server: RunningServer) -> set[str]:
    """What there is of the kinds that the chart or helm makes."""
    kinds = "crd,clusterroles,clusterrolebindings,roles,rolebindings,sa,configmaps,secrets,deployments,daemonsets,pods"
    done = kubectl(server, "get", kinds, "-A", "-o", "name")
    assert done.returncode == 0, done.stderr
    made_by_controllers = ("configmap/kube-root-ca.crt", "serviceaccount/default", "pod/", "replicaset")
    return {line for line in done.stdout.split() if not line.startswith(made_by_controllers)}


def test_it_installs_upgrades_and_goes_without_residue(server: RunningServer, helm: Helm, tmp_path: Path) -> None:
    before = everything(server)
    values = tmp_path / "values.yaml"
    real = len(server.commands) > 1
    values.write_text(yaml.safe_dump({"networkPolicy": {"enabled": real}, "operator": {"replicas": 2 if real else 1}}))

    def act(*words: str) -> None:
        done = helm.run(*words, "--namespace", "kube-system", kubeconfig=server.kubeconfig)
        assert done.returncode == 0, done.stderr

    act("install", "egresslab", str(CHART), "--values", str(values))
    made = everything(server)
    assert {"daemonset.apps/egresslab-agent", "deployment.apps/egresslab-operator"} <= made - before
    kubectl(server, "patch", "configmap", "egresslab-release", "-n", "kube-system", "-p", '{"data":{"state":"ending"}}')
    act("upgrade", "egresslab", str(CHART), "--values", str(values), "--set", "agent.overlayPort=8473")
    told = kubectl(
        server, "get", "ds/egresslab-agent", "cm/egresslab-release", "-n", "kube-system", "-o", "yaml"
    ).stdout
    assert '"8473"' in told
    assert "state: installed" in told, "who upgrades after an end that was broken off has agents at work again"
    # The hook is a Job, whose pod needs nodes to run on; what it does is tested by itself.
    act("uninstall", "egresslab", "--no-hooks")
    deadline = time.monotonic() + PATIENCE_S
    while (left := everything(server) - before) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left
