"""A node as Kind makes it, in namespaces of its own: one pod behind a link with a host route, as kindnet makes it, one
behind a bridge, as the CNI plug-in `bridge` does, an API server that knows them, and the real agent.

Run as a process of its own (`python -m tests.kind.node DIRECTORY`), since it enters namespaces and never leaves them.
It prints one JSON object with what was seen, for the test to judge.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, NetNS

from egresslab.api.connection import Api, connect
from egresslab.api.crds import definitions
from egresslab.api.resources import CILIUM_POLICIES, CONFIGMAPS, NODES, PODS, Object
from egresslab.cluster.testing import running_server
from egresslab.environments.definitions import definitions as environment_files
from egresslab.environments.definitions import read_manifests
from egresslab.environments.netns.manifests import Applier

AGENT = "system:serviceaccount:kube-system:egresslab-agent"
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
PATIENCE_S = 90.0
NODE, WORLD = "172.30.0.2", "172.30.0.100"
EGRESS = "172.30.0.50"
PODS_OF = {"routed": "10.244.1.5", "bridged": "10.244.1.130"}
PORT = 7777


def isolate() -> None:
    """Network and mounts of our own; what is mounted here is seen by nobody else and goes with us."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, kind: str, flags: int = 0) -> None:
        if libc.mount(source.encode(), target.encode(), kind.encode(), flags, None) != 0:
            raise OSError(ctypes.get_errno(), f"mount {target}")

    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", "none", MS_REC | MS_PRIVATE)
    mount("tmpfs", "/run", "tmpfs")
    mount("bpf", "/sys/fs/bpf", "bpf")
    Path("/run/egresslab-agent").mkdir()
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


@contextmanager
def network() -> Iterator[tuple[NetNS, dict[str, NetNS]]]:
    """The node's eth0 towards the world, and the two pods."""
    world, pods = NetNS("world"), {name: NetNS(name) for name in PODS_OF}
    with IPRoute() as node:
        up(node, "lo")
        cable(node, "eth0", world, "world", f"{NODE}/16", f"{WORLD}/16")
        node.addr("add", index=index(node, "eth0"), address=EGRESS, prefixlen=16)
        node.route("add", dst="default", gateway=WORLD)
        # As the plug-in `ptp` leaves it: the gateway's address on the node's end, and a route to the pod alone.
        pod = PODS_OF["routed"]
        cable(node, "vethrouted", pods["routed"], "routed", "10.244.1.1/32", f"{pod}/32")
        node.route("add", dst=f"{pod}/32", oif=index(node, "vethrouted"), scope="link")
        inside = pods["routed"]
        inside.route("add", dst="10.244.1.1/32", oif=index(inside, "eth0"), scope="link")
        inside.route("add", dst="default", gateway="10.244.1.1")
        # As the plug-in `bridge` leaves it: the network on the bridge, the pod's link a port of it.
        node.link("add", ifname="cni0", kind="bridge")
        node.addr("add", index=up(node, "cni0"), address="10.244.1.129", prefixlen=25)
        cable(node, "vethbridged", pods["bridged"], "bridged", None, f"{PODS_OF['bridged']}/25")
        node.link("set", index=index(node, "vethbridged"), master=index(node, "cni0"))
        pods["bridged"].route("add", dst="default", gateway="10.244.1.129")
        world.route("add", dst="10.244.0.0/16", gateway=NODE)
    try:
        yield world, pods
    finally:
        for namespace in (world, *pods.values()):
            namespace.close()
            namespace.remove()


def index(where: Any, name: str) -> int:
    return int(where.link_lookup(ifname=name)[0])


def up(where: Any, name: str) -> int:
    number = index(where, name)
    where.link("set", index=number, state="up")
    return number


def cable(node: Any, outer: str, other: NetNS, namespace: str, outer_address: str | None, inner_address: str) -> None:
    node.link("add", ifname=outer, kind="veth", peer={"ifname": "eth0", "net_ns_fd": namespace})
    for where, name, address in ((node, outer, outer_address), (other, "eth0", inner_address)):
        up(where, "lo")
        number = up(where, name)
        if address is not None:
            text, _, length = address.partition("/")
            where.addr("add", index=number, address=text, prefixlen=int(length))


ECHO = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("{WORLD}", {PORT})); print("up", flush=True)
while True:
    data, peer = s.recvfrom(100); s.sendto(peer[0].encode(), peer)
"""
ASK = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.5); s.sendto(b"?", ("{WORLD}", {PORT}))
try: print(s.recv(100).decode())
except OSError: print("silence")
"""


def inside(namespace: str, code: str, **more: Any) -> subprocess.Popen[str]:
    command = ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-S", "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **more)


def seen(pod: str) -> str:
    """The address that the world sees of a pod."""
    output, _ = inside(pod, ASK).communicate(timeout=10)
    return output.strip()


def until(what: str, ask: Callable[[], Any], otherwise: Callable[[], Any] = lambda: "") -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := ask()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_S:g} s for {what}: {otherwise()}")
        time.sleep(0.05)
    return found


def manifest(name: str) -> list[Object]:
    return read_manifests([environment_files("netns") / "manifests" / name])


async def populate(api: Api) -> None:
    """Kinds, the agent's rights, the node, its pods, and a policy that both obey."""
    objects = [*definitions(), *(obj for obj in manifest("agent.yaml") if obj["kind"] != "DaemonSet")]
    await Applier(api).apply_all(objects)
    labels = {"kubernetes.io/hostname": "node", "egress": "true"}
    await api.create(NODES, {"metadata": {"name": "node", "labels": labels}, "spec": {"podCIDR": "10.244.1.0/24"}})
    status = {
        "addresses": [{"type": "InternalIP", "address": NODE}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    await api.patch(NODES, "node", {"status": status}, subresource="status")
    for name, address in PODS_OF.items():
        spec = {"nodeName": "node", "containers": [{"name": "c", "image": "x"}]}
        pod = {"metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}}, "spec": spec}
        await api.create(PODS, pod, "default")
        told = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}
        await api.patch(PODS, name, told, "default", subresource="status")
    policy = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": "out"},
        "spec": {
            "selectors": [{"podSelector": {"matchLabels": {"app": "web"}}}],
            "destinationCIDRs": [f"{WORLD}/32"],
            "egressGateway": {"nodeSelector": {"matchLabels": {"egress": "true"}}, "egressIP": EGRESS},
        },
    }
    await api.create(CILIUM_POLICIES, policy)
    release = {"metadata": {"name": "egresslab-release", "namespace": "kube-system"}, "data": {"state": "installed"}}
    await api.create(CONFIGMAPS, release, "kube-system")


def agent(kubeconfig: Path, log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """The agent as the chart starts it, with its own account's rights alone."""
    account = kubeconfig.parent / "account"
    variables = {**os.environ, "NODE_NAME": "node", "EGRESSLAB_GATE": "none", "KUBECONFIG": str(kubeconfig)}
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.kind.agent", str(kubeconfig), str(account)],
            stdout=out,
            stderr=out,
            env={**variables, **environment},
        )


def leftovers() -> list[str]:
    """What of ours is on the node."""
    filters = []
    with IPRoute() as node:
        for link in node.get_links():
            for parent in (0xFFFFFFF2, 0xFFFFFFF3):
                for found in node.get_filters(link["index"], parent=parent):
                    options = found.get_attr("TCA_OPTIONS")
                    name = options.get_attr("TCA_BPF_NAME") if options is not None else None
                    if name:
                        filters.append(f"{link.get_attr('IFLA_IFNAME')} {name}")
        names = [link.get_attr("IFLA_IFNAME") for link in node.get_links()]
    pins = [str(path) for path in Path("/sys/fs/bpf/egresslab").rglob("*")]
    return [*filters, *(name for name in names if name == "egress_vxlan"), *pins]


def main(directory: Path) -> dict[str, Any]:
    isolate()
    found: dict[str, Any] = {}
    log = directory / "agent.log"
    with network(), running_server(directory, {AGENT: "system:authenticated"}) as server:
        echo = inside("world", ECHO)
        assert echo.stdout is not None
        echo.stdout.readline()

        async def with_api(act: Callable[[Api], Any]) -> Any:
            async with connect(server.kubeconfig) as api:
                return await act(api)

        asyncio.run(with_api(populate))
        found["before"] = {pod: seen(pod) for pod in PODS_OF}
        kubeconfig = server.kubeconfig_for(AGENT)
        with IPRoute() as node:
            node.link("add", ifname="flannel.1", kind="vxlan", vxlan_id=1, vxlan_port=8472)
        refused = agent(kubeconfig, directory / "refused.log")
        found["refused"] = {"code": refused.wait(PATIENCE_S), "said": (directory / "refused.log").read_text()}
        running = agent(kubeconfig, log, EGRESSLAB_OVERLAY_PORT="8473")
        try:
            until("the agent", lambda: Path("/run/egresslab-agent/ready").exists() or running.poll() is not None)
            for pod in PODS_OF:
                until(f"pod {pod}'s egress", lambda pod=pod: seen(pod) == EGRESS)
            found["after"] = {pod: seen(pod) for pod in PODS_OF}
            found["annotation"] = asyncio.run(with_api(lambda api: api.get(NODES, "node")))["metadata"]["annotations"]
            found["attached"] = leftovers()
            ending = {"data": {"state": "ending"}}
            asyncio.run(with_api(lambda api: api.patch(CONFIGMAPS, "egresslab-release", ending, "kube-system")))
            until("a clear node", lambda: not leftovers(), leftovers)
            found["ready-after"] = Path("/run/egresslab-agent/ready").exists()
            found["last"] = {pod: seen(pod) for pod in PODS_OF}
        finally:
            running.terminate()
            running.wait(PATIENCE_S)
            echo.kill()
            echo.wait()
            found["log"] = log.read_text()
            requests = directory / "account"
            found["requests"] = sorted(set(requests.read_text().splitlines())) if requests.exists() else []
    return found


if __name__ == "__main__":
    assert threading.active_count() == 1
    assert socket.gethostname()
    print(json.dumps(main(Path(sys.argv[1]))))
