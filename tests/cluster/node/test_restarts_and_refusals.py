"""How a container's end, its probes and its mistakes show, and what the node does about them."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Cluster, pod, until

pytestmark = pytest.mark.root


def _container(cluster: Cluster, name: str) -> dict[str, Any]:
    return cluster.container(name)


def _waiting(cluster: Cluster, name: str) -> dict[str, str]:
    return dict(_container(cluster, name)["state"].get("waiting") or {"reason": ""})


def test_crash_loop_backs_off(cluster: Cluster) -> None:
    """The first restart is at once, the second waits ten seconds and says so."""
    cluster.apply(pod("crash", "sh", "-c", "echo broken; exit 3"))
    until(lambda: _waiting(cluster, "crash")["reason"] == "CrashLoopBackOff", "the back-off")
    container = _container(cluster, "crash")
    assert container["restartCount"] == 1 and container["lastState"]["terminated"]["exitCode"] == 3
    assert _waiting(cluster, "crash")["message"].startswith("back-off 10s restarting failed container=main pod=crash_")
    assert "BackOff" in [reason for reason, _ in cluster.events("crash")]
    cluster.delete("crash")


@pytest.mark.parametrize(
    ("policy", "code", "phase"), [("Never", 0, "Succeeded"), ("Never", 4, "Failed"), ("OnFailure", 0, "Succeeded")]
)
def test_restart_policy(cluster: Cluster, policy: str, code: int, phase: str) -> None:
    """A pod that is not restarted ends in the phase of its exit code."""
    cluster.apply(pod("ends", "sh", "-c", f"echo bye > /dev/termination-log; exit {code}", restartPolicy=policy))
    until(lambda: cluster.pod("ends")["status"]["phase"] == phase, phase)
    terminated = _container(cluster, "ends")["state"]["terminated"]
    assert (terminated["exitCode"], terminated["message"]) == (code, "bye\n")
    assert terminated["reason"] == ("Error" if code else "Completed")
    cluster.delete("ends")


def test_unknown_image_says_what_to_do_and_can_be_mended(cluster: Cluster) -> None:
    """ImagePullBackOff names the images there are; a new image in the pod is taken at once."""
    cluster.apply(pod("unknown", "sleep", "1000", image="registry.example/team/app:1"))
    until(lambda: _waiting(cluster, "unknown")["reason"] == "ImagePullBackOff", "ImagePullBackOff")
    messages = " ".join(message for _, message in cluster.events("unknown"))
    assert "busybox" in messages and "images.yaml" in messages
    cluster.kubectl("set", "image", "pod/unknown", "main=busybox")
    cluster.ready("unknown")
    cluster.delete("unknown")


def test_mistakes_in_a_pod_are_named(cluster: Cluster) -> None:
    """A missing ConfigMap, and a program that does not exist."""
    env = [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "absent", "key": "x"}}}]
    cluster.apply(pod("config", "sleep", "1", container={"env": env}), pod("program", "no-such-program"))
    until(lambda: _waiting(cluster, "config")["reason"] == "CreateContainerConfigError", "the missing ConfigMap")
    assert 'configmap "absent" not found' in _waiting(cluster, "config")["message"]
    until(lambda: _container(cluster, "program").get("lastState"), "the missing program")
    terminated = _container(cluster, "program")["lastState"]["terminated"]
    assert terminated["reason"] == "StartError" and "no-such-program" in terminated["message"]
    for name in ("config", "program"):
        cluster.delete(name)


def test_readiness_follows_the_probe(cluster: Cluster) -> None:
    """Ready when the command succeeds, not ready when it fails, without a restart."""
    probe = {"exec": {"command": ["test", "-e", "/tmp/ok"]}, "periodSeconds": 1, "failureThreshold": 1}
    cluster.apply(pod("probed", "sleep", "1000", container={"readinessProbe": probe}))
    until(lambda: _container(cluster, "probed")["state"].get("running"), "it runs")
    assert not _container(cluster, "probed")["ready"]
    cluster.exec("probed", "touch", "/tmp/ok")
    cluster.ready("probed")
    cluster.exec("probed", "rm", "/tmp/ok")
    until(lambda: not _container(cluster, "probed")["ready"], "not ready any more")
    assert _container(cluster, "probed")["restartCount"] == 0
    cluster.delete("probed")


def test_liveness_restarts(cluster: Cluster) -> None:
    """A container that fails its liveness probe is killed and started again."""
    probe = {"tcpSocket": {"port": 9}, "periodSeconds": 1, "failureThreshold": 2}
    cluster.apply(pod("dead", "sleep", "1000", container={"livenessProbe": probe}))
    until(lambda: _container(cluster, "dead").get("restartCount") == 1, "the restart")
    reasons = [reason for reason, _ in cluster.events("dead")]
    assert "Unhealthy" in reasons and "Killing" in reasons
    cluster.delete("dead")


def test_startup_probe_holds_the_others_back(cluster: Cluster) -> None:
    """Not started, hence not ready, until the startup probe succeeds."""
    startup = {"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1, "failureThreshold": 60}
    cluster.apply(pod("slow", "sleep", "1000", container={"startupProbe": startup}))
    until(lambda: _container(cluster, "slow")["state"].get("running"), "it runs")
    container = _container(cluster, "slow")
    assert (container["started"], container["ready"]) == (False, False)
    cluster.exec("slow", "touch", "/tmp/up")
    assert cluster.ready("slow")["status"]["containerStatuses"][0]["started"]
    cluster.delete("slow")


def test_hooks_and_grace(cluster: Cluster) -> None:
    """postStart before ready; preStop, then TERM, at deletion; a program that ends on TERM is not killed."""
    lifecycle = {
        "postStart": {"exec": {"command": ["sh", "-c", "echo post >> /node/log"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "echo pre >> /node/log"]}},
    }
    script = "trap 'echo term >> /node/log; exit 0' TERM; while true; do sleep 0.05; done"
    volumes = [{"name": "node", "hostPath": {"path": "/hooks", "type": "DirectoryOrCreate"}}]
    container = {"lifecycle": lifecycle, "volumeMounts": [{"name": "node", "mountPath": "/node"}]}
    cluster.apply(pod("hooked", "sh", "-c", script, container=container, volumes=volumes))
    cluster.ready("hooked")
    cluster.kubectl("delete", "pod", "hooked", "--timeout=30s")
    assert (cluster.nodes["n1"].config.root / "hooks/log").read_text() == "post\npre\nterm\n"
