"""From `kubectl run` to a running pod and back: what a user sees of one, and what its containers see."""

from __future__ import annotations

import pytest

from .conftest import Cluster, pod, until

pytestmark = pytest.mark.root


def test_kubectl_run_exec_and_delete(cluster: Cluster) -> None:
    """The tutorials' client: `kubectl run`, `kubectl exec`, gone after `kubectl delete`."""
    overrides = '{"spec":{"nodeName":"n1"}}'
    image = ["--image=curlimages/curl", "--labels=app=client", "--overrides", overrides]
    cluster.kubectl("run", "client", *image, "--command", "--", "sleep", "infinity")
    running = cluster.ready("client")
    assert cluster.exec("client", "sh", "-c", "echo $HOSTNAME; curl --version | head -n 1 | cut -c1-4").split() == [
        "client",
        "curl",
    ]
    cluster.delete("client")
    uid = running["metadata"]["uid"]
    node = cluster.nodes["n1"]
    assert not (node.config.pods / uid).exists()
    assert f"veth{uid[:8]}" not in node.run("ip", "-o", "link")


def test_a_pod_that_is_torn_away_does_not_keep_the_node_busy(cluster: Cluster) -> None:
    """The object is gone before the container's end is noticed: nobody is left to be told of it."""
    for name in ("torn-1", "torn-2"):
        cluster.apply(pod(name, "sleep", "infinity"))
        cluster.ready(name)
        cluster.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    cluster.apply(pod("next", "sleep", "infinity"))
    cluster.ready("next")
    cluster.delete("next")


def test_status_reads_as_a_kubelets(cluster: Cluster) -> None:
    """Conditions, addresses and container statuses are those that kubectl and controllers rely on."""
    cluster.apply(pod("status", "sleep", "1000"))
    status = cluster.ready("status")["status"]
    conditions = {item["type"]: item["status"] for item in status["conditions"]}
    assert conditions == dict.fromkeys(
        ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"), "True"
    )
    (container,) = status["containerStatuses"]
    assert container["imageID"].startswith("sha256:") and container["containerID"].startswith("bubblewrap://")
    assert (container["ready"], container["started"], container["restartCount"]) == (True, True, 0)
    assert status["phase"] == "Running" and status["qosClass"] == "BestEffort"
    assert status["hostIP"] == "192.168.60.11" and len(status["hostIPs"]) == 2
    assert [item["ip"].split(":")[0].split(".")[0] for item in status["podIPs"]] == ["10", "fd00"]
    reasons = [reason for reason, _ in cluster.events("status")]
    assert {"Pulled", "Created", "Started"} <= set(reasons)
    cluster.delete("status")


def test_environment_and_downward_fields(cluster: Cluster) -> None:
    """Values, references and expansion, in Kubernetes' order."""
    cluster.kubectl("create", "configmap", "settings", "--from-literal=colour=green", "--from-literal=SHAPE=round")
    cluster.kubectl("create", "secret", "generic", "hidden", "--from-literal=word=sesame")
    env = [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)-$(MISSING)-$$(A)"},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
        {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "word"}}},
        {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "x", "optional": True}}},
    ]
    container = {"env": env, "envFrom": [{"prefix": "P_", "configMapRef": {"name": "settings"}}]}
    command = ["sh", "-c", "echo arg=$(A); env; sleep 1000"]
    cluster.apply(pod("variables", *command, container=container))
    status = cluster.ready("variables")["status"]
    lines = set(cluster.kubectl("logs", "variables").stdout.splitlines())
    expected = {
        "arg=1", "A=1", "B=1-$(MISSING)-$(A)", "NODE=n1", f"IP={status['podIP']}", "LABEL=variables", "COLOUR=green",
        "WORD=sesame", "P_SHAPE=round", "KUBERNETES_SERVICE_HOST=192.168.60.11", "HOSTNAME=variables",
    }  # fmt: skip
    assert expected <= lines
    assert not any(line.startswith("NONE=") for line in lines)
    cluster.delete("variables")


def test_volumes(cluster: Cluster) -> None:
    """Each kind of volume shows what it should, and read-only ones refuse writing."""
    cluster.kubectl("create", "configmap", "pages", "--from-literal=index.html=hello")
    volumes = [
        {"name": "pages", "configMap": {"name": "pages"}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "node", "hostPath": {"path": "/var/data", "type": "DirectoryOrCreate"}},
        {"name": "info", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]
    mounts = [
        {"name": "pages", "mountPath": "/pages"},
        {"name": "pages", "mountPath": "/etc/one.html", "subPath": "index.html"},
        {"name": "scratch", "mountPath": "/scratch"},
        {"name": "node", "mountPath": "/node"},
        {"name": "info", "mountPath": "/info"},
    ]
    cluster.apply(pod("volumes", "sleep", "1000", container={"volumeMounts": mounts}, volumes=volumes))
    cluster.ready("volumes")
    assert cluster.exec("volumes", "cat", "/pages/index.html", "/etc/one.html", "/info/name") == "hellohellovolumes"
    assert cluster.kubectl("exec", "volumes", "--", "touch", "/pages/new", check=False).returncode == 1
    cluster.exec("volumes", "sh", "-c", "echo kept > /scratch/file; echo kept > /node/file; echo x > /anywhere")
    assert (cluster.nodes["n1"].config.root / "var/data/file").read_text() == "kept\n"
    assert cluster.exec("volumes", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/namespace") == "default"
    cluster.delete("volumes")


def test_service_account_token_opens_the_api(cluster: Cluster) -> None:
    """What a pod finds under /var/run/secrets is accepted by the API server, and its certificate is trusted."""
    cluster.apply(pod("api", "sleep", "1000", image="curlimages/curl"))
    cluster.ready("api")
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    url = "https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/apis/authentication.k8s.io/v1/selfsubjectreviews"
    body = '{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}'
    headers = f"-H 'Content-Type: application/json' -H \"Authorization: Bearer $(cat {folder}/token)\""
    review = f"curl -s --cacert {folder}/ca.crt {headers} -d '{body}' {url}"
    assert "system:serviceaccount:default:default" in cluster.exec("api", "sh", "-c", review)
    cluster.delete("api")


def test_init_containers_come_first(cluster: Cluster) -> None:
    """Init containers run one after the other; the pod is Pending until they are done."""
    share = {"volumeMounts": [{"name": "share", "mountPath": "/share"}], "image": "busybox"}
    init = [
        {"name": "one", "command": ["sh", "-c", "sleep 0.3; echo one >> /share/order"], **share},
        {"name": "two", "command": ["sh", "-c", "echo two >> /share/order"], **share},
    ]
    main = {key: value for key, value in share.items() if key != "image"}
    volumes = [{"name": "share", "emptyDir": {}}]
    cluster.apply(pod("init", "sleep", "1000", container=main, initContainers=init, volumes=volumes))
    status = cluster.ready("init")["status"]
    assert cluster.exec("init", "cat", "/share/order") == "one\ntwo\n"
    assert [item["state"]["terminated"]["reason"] for item in status["initContainerStatuses"]] == ["Completed"] * 2
    cluster.delete("init")


def test_nginx_serves_and_has_curl(cluster: Cluster) -> None:
    """The tutorials' deployment: nginx answers, and curl is in the same image."""
    probe = {"readinessProbe": {"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 1}}
    cluster.apply(
        pod("web", image="nginx:latest", container={"ports": [{"name": "http", "containerPort": 80}], **probe})
    )
    cluster.ready("web")
    assert "Welcome to nginx" in cluster.exec("web", "curl", "-s", "localhost")
    assert "GET / HTTP" in cluster.kubectl("logs", "web").stdout
    cluster.delete("web")


def test_addresses_assigned_by_a_privileged_host_pod(cluster: Cluster) -> None:
    """The tutorials' egress-ip-assign pod: addresses come with it and go with its preStop hook."""
    script = "for i in $EGRESS_IPS; do ip address {} $i dev eth0; done"
    container = {
        "args": [f"{script.format('add')}; sleep 10000000"],
        "securityContext": {"privileged": True},
        "env": [{"name": "EGRESS_IPS", "value": "192.168.61.100/24 192.168.62.101/24"}],
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", script.format("del")]}}},
    }
    image = "docker.io/library/busybox:1.31.1"
    cluster.apply(pod("assign", "/bin/sh", "-c", image=image, hostNetwork=True, container=container))
    assert cluster.ready("assign")["status"]["podIP"] == "192.168.60.11"
    node = cluster.nodes["n1"]
    until(lambda: "192.168.62.101/24" in node.run("ip", "address", "show", "eth0"), "both addresses are there")
    cluster.kubectl("delete", "pod", "assign", "--timeout=30s")
    listing = node.run("ip", "address", "show", "eth0")
    assert "192.168.61.100" not in listing and "192.168.62.101" not in listing
