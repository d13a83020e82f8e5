"""Two nodes whose runtimes ask by the chained CNI plug-in, in namespaces of their own: pods are made by Debian's
plug-ins as a container runtime calls them, one node's agent is the gateway, and the API says of no pod which addresses
it has.

Run as a process of its own (`python -m tests.kind.chained DIRECTORY`), since it enters namespaces and never leaves it.
It prints one JSON object with what was seen, for the test to judge.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, NetNS

from egresslab.agent.hostplugin import HostPlugin
from egresslab.api.connection import Api, connect
from egresslab.api.crds import definitions
from egresslab.api.resources import CILIUM_POLICIES, CONFIGMAPS, NAMESPACES, NODES, PODS
from egresslab.cluster.testing import running_server
from egresslab.environments.netns.manifests import Applier
from tests.kind.node import AGENT, ASK, ECHO, NODE, PATIENCE_S, WORLD, index, inside, isolate, leftovers, manifest, up
from tests.kind.node import agent as start_agent

GATEWAY, EGRESS = "172.30.0.3", "172.30.0.50"
IPV6 = Path("/proc/sys/net/ipv6/conf/all")
DEBIAN = Path("/usr/lib/cni")
POD_NETWORK, POD_NETWORK_V6 = "10.244.1.0/24", "fd00:10:244:1::/64"
PROGRAM_MS = 1000
"""How long the program tries to reach an agent that is away; without this, ten seconds."""
RELAY = """
import asyncio, ctypes, os, socket, sys
port, namespace = int(sys.argv[1]), sys.argv[2]
listening = socket.create_server(("127.0.0.1", port))
if ctypes.CDLL(None).setns(os.open(namespace, os.O_RDONLY), 0x40000000): raise SystemExit("setns")
async def copy(reader, writer):
    while data := await reader.read(65536): writer.write(data); await writer.drain()
    writer.close()
async def relay(reader, writer):
    there = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(copy(reader, there[1]), copy(there[0], writer), return_exceptions=True)
async def main():
    async with await asyncio.start_server(relay, sock=listening) as server:
        print("up", flush=True); await server.serve_forever()
asyncio.run(main())
"""
ELSEWHERE = """
set -e
mount -t tmpfs tmpfs /run/egresslab-agent
mount -t bpf bpf /sys/fs/bpf
exec nsenter --net=/run/netns/gateway "$@"
"""


def ipv6() -> bool:
    """Whether the kernel has it; pods then have an address of it as well."""
    return IPV6.exists() and (IPV6 / "disable_ipv6").read_text() == "0\n"


@contextmanager
def network() -> Iterator[dict[str, NetNS]]:
    """Both nodes and the world on one wire; the node is the namespace of this process."""
    made = {name: NetNS(name) for name in ("world", "gateway", "chosen", "plain", "early", "again")}
    world, gateway = made["world"], made["gateway"]
    with IPRoute() as node:
        up(node, "lo")
        world.link("add", ifname="wire", kind="bridge")
        world.addr("add", index=up(world, "wire"), address=WORLD, prefixlen=16)
        for where, address in ((node, NODE), (gateway, GATEWAY)):
            port = f"port{address[-1]}"
            where.link("add", ifname="eth0", kind="veth", peer={"ifname": port, "net_ns_fd": "world"})
            where.addr("add", index=up(where, "eth0"), address=address, prefixlen=16)
            where.route("add", dst="default", gateway=WORLD)
            world.link("set", index=up(world, port), master=index(world, "wire"))
        up(world, "lo")
        up(gateway, "lo")
        gateway.addr("add", index=index(gateway, "eth0"), address=EGRESS, prefixlen=16)
        node.route("add", dst="10.244.2.0/24", gateway=GATEWAY)
        gateway.route("add", dst=POD_NETWORK, gateway=NODE)
        world.route("add", dst="10.244.0.0/16", gateway=NODE)
    try:
        yield made
    finally:
        for namespace in made.values():
            namespace.close()
            namespace.remove()


class Runtime:
    """What a container runtime does with the first configuration of its directory."""

    def __init__(self, directory: Path) -> None:
        self.configurations, self.programs = directory / "net.d", directory / "bin"
        self.state = directory / "ipam"
        self.configurations.mkdir()

    def configure(self) -> None:
        families = {POD_NETWORK: "0.0.0.0/0"} | ({POD_NETWORK_V6: "::/0"} if ipv6() else {})
        ranges = [[{"subnet": network}] for network in families]
        routes = [{"dst": everywhere} for everywhere in families.values()]
        ipam = {"type": "host-local", "dataDir": str(self.state), "ranges": ranges, "routes": routes}
        text = json.dumps({"cniVersion": "0.4.0", "name": "net", "plugins": [{"type": "ptp", "ipam": ipam}]})
        (self.configurations / "10-net.conflist").write_text(text)

    @property
    def types(self) -> list[str]:
        """Of the plug-ins that make a pod's network now."""
        return [plugin["type"] for plugin in self._list()["plugins"]]

    def call(self, command: str, pod: str, uid: str = "") -> dict[str, Any]:
        """ADD in order, DEL in reverse: the last result or error, and how long all and the last plug-in took."""
        listed, result, began = self._list(), None, time.monotonic()
        last = began
        plugins = listed["plugins"] if command == "ADD" else reversed(listed["plugins"])
        answer: dict[str, Any] = {}
        for plugin in plugins:
            last = time.monotonic()
            config = {**plugin, "name": listed["name"], "cniVersion": listed["cniVersion"]}
            if result is not None:
                config["prevResult"] = result
            done = subprocess.run(
                [self._program(plugin["type"])],
                input=json.dumps(config),
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
                env={
                    "PATH": os.environ["PATH"],
                    "CNI_COMMAND": command,
                    "CNI_CONTAINERID": f"sandbox-{uid}",
                    "CNI_NETNS": f"/run/netns/{pod}",
                    "CNI_IFNAME": "eth0",
                    "CNI_PATH": f"{self.programs}:{DEBIAN}",
                    "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}"
                    + (f";K8S_POD_UID={uid}" if uid else ""),
                },
            )
            answer = {"code": done.returncode, "said": json.loads(done.stdout) if done.stdout else None}
            if done.returncode:
                break
            result = answer["said"]
        return {**answer, "took": time.monotonic() - began, "last": time.monotonic() - last}

    def _list(self) -> dict[str, Any]:
        first = min(path for path in self.configurations.iterdir() if path.suffix == ".conflist")
        listed: dict[str, Any] = json.loads(first.read_text())
        return listed

    def _program(self, name: str) -> str:
        return str(next(path for folder in (self.programs, DEBIAN) if (path := folder / name).exists()))


def seen(pod: str) -> str:
    """The address that the world sees of the very next packet of a pod; whoever loses it finds no second one."""
    output, _ = inside(pod, ASK.replace("settimeout(0.5)", "settimeout(15)")).communicate(timeout=60)
    return output.strip()


def impatient(directory: Path) -> bytes:
    """The plug-in, compiled to give up sooner."""
    source = Path(__file__).parents[2] / "egresslab" / "agent" / "cni"
    target = f"egresslab-{platform.machine()}"
    copy = directory / "cni"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("egresslab-*"))
    subprocess.run(["make", "--silent", "-C", str(copy), target, f"DEFINES=-DPATIENCE_MS={PROGRAM_MS}"], check=True)
    return (copy / target).read_bytes()


def until(what: str, ask: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := ask()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_S:g} s for {what}")
        time.sleep(0.02)
    return found


async def populate(api: Api) -> None:
    """Kinds, rights, two nodes, and a policy whose gateway is the other node."""
    objects = [*definitions(), *(obj for obj in manifest("agent.yaml") if obj["kind"] != "DaemonSet")]
    await Applier(api).apply_all(objects)
    for name, address, network in (("node", NODE, POD_NETWORK), ("gateway", GATEWAY, "10.244.2.0/24")):
        labels = {"egress": "true"} if name == "gateway" else {}
        await api.create(NODES, {"metadata": {"name": name, "labels": labels}, "spec": {"podCIDR": network}})
        told = {
            "addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"containerRuntimeVersion": "containerd://1.7.2"},
        }
        await api.patch(NODES, name, {"status": told}, subresource="status")
    await api.create(CILIUM_POLICIES, policy("out", "web"))
    release = {"metadata": {"name": "egresslab-release", "namespace": "kube-system"}, "data": {"state": "installed"}}
    await api.create(CONFIGMAPS, release, "kube-system")
    assert await api.get(NAMESPACES, "default")


def policy(name: str, app: str) -> dict[str, Any]:
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": name},
        "spec": {
            "selectors": [{"podSelector": {"matchLabels": {"app": app}}}],
            "destinationCIDRs": [f"{WORLD}/32"],
            "egressGateway": {"nodeSelector": {"matchLabels": {"egress": "true"}}, "egressIP": EGRESS},
        },
    }


def main(directory: Path) -> dict[str, Any]:
    isolate()
    if ipv6():
        (IPV6 / "forwarding").write_text("1")
    found: dict[str, Any] = {}
    runtime = Runtime(directory)
    with network(), running_server(directory, {AGENT: "system:authenticated"}) as server:
        running: dict[str, subprocess.Popen[Any]] = {"echo": inside("world", ECHO)}

        def call_api(act: Callable[[Api], Any]) -> Any:
            async def with_api() -> Any:
                async with connect(server.kubeconfig) as api:
                    return await act(api)

            return asyncio.run(with_api())

        def make_pod(name: str, app: str) -> str:
            spec = {"nodeName": "node", "containers": [{"name": "c", "image": "x"}]}
            pod = {"metadata": {"name": name, "namespace": "default", "labels": {"app": app}}, "spec": spec}
            return str(call_api(lambda api: api.create(PODS, pod, "default"))["metadata"]["uid"])

        def agent_here(gate: str = "chain") -> subprocess.Popen[Any]:
            Path("/run/egresslab-agent/ready").unlink(missing_ok=True)
            started = start_agent(
                kubeconfig,
                directory / "agent.log",
                EGRESSLAB_GATE=gate,
                EGRESSLAB_CNI_CONFIGURATIONS=str(runtime.configurations),
                EGRESSLAB_CNI_PROGRAMS=str(runtime.programs),
            )
            ready = Path("/run/egresslab-agent/ready").exists
            until("the node's agent", lambda: ready() or started.poll() is not None)
            return started

        def end(name: str) -> None:
            process = running.pop(name)
            process.terminate()
            process.wait(PATIENCE_S)

        try:
            kubeconfig = server.kubeconfig_for(AGENT)
            port = server.url.rpartition(":")[2]
            words = ["nsenter", "--net=/run/netns/gateway", sys.executable, "-S", "-c", RELAY]
            here = f"/proc/{os.getpid()}/ns/net"
            running["relay"] = subprocess.Popen([*words, port, here], stdout=subprocess.PIPE, text=True)
            for name in ("echo", "relay"):
                assert (running[name].stdout or sys.stdin).readline() == "up\n"
            call_api(populate)
            runtime.configure()
            account = directory / "gateway"
            account.mkdir()
            words = ["unshare", "--mount", "sh", "-c", ELSEWHERE, "sh", sys.executable, "-m", "tests.kind.agent"]
            with (directory / "gateway.log").open("ab") as out:
                running["gateway"] = subprocess.Popen(
                    [*words, str(kubeconfig), str(account / "account")],
                    stdout=out,
                    stderr=out,
                    env={**os.environ, "NODE_NAME": "gateway", "EGRESSLAB_GATE": "none"},
                )
            HostPlugin(runtime.configurations, runtime.programs).install()
            running["agent"] = agent_here("none")
            found["types-before"] = [*runtime.types, *(path.name for path in runtime.programs.iterdir())]
            end("agent")
            running["agent"] = agent_here()
            found["types"] = runtime.types
            annotated = "egresslab.dev/interfaces"

            def published() -> bool:
                nodes = call_api(lambda api: api.list(NODES))[0]
                return all(annotated in node["metadata"].get("annotations", {}) for node in nodes)

            until("both agents' interfaces", published)
            first = make_pod("chosen", "web")
            found["add"] = runtime.call("ADD", "chosen", first)
            found["first packet"] = seen("chosen")
            told = call_api(lambda api: api.get(PODS, "chosen", "default"))
            found["told by the API"] = told.get("status", {}).get("podIPs")
            other = make_pod("plain", "other")
            found["unselected"] = runtime.call("ADD", "plain", other)
            found["unselected packet"] = seen("plain")
            found["del"] = runtime.call("DEL", "chosen", first)
            # The same pod in another sandbox, which gets another address.
            found["again"] = runtime.call("ADD", "chosen", first)
            found["packet again"] = seen("chosen")
            # A thread, since the runtime asks before the API server knows the pod; it does not tell the pod's UID.
            with ThreadPoolExecutor(1) as pool:
                early = pool.submit(runtime.call, "ADD", "early")
                until("its address", lambda: list(runtime.state.glob("net/10.244.1.5")))
                found["early answered"] = early.done()
                make_pod("early", "web")
                found["early"] = early.result(PATIENCE_S)
            found["early packet"] = seen("early")

            runtime.configure()
            until("the plug-in again", lambda: "egresslab" in runtime.types)
            end("agent")
            found["types without an agent"] = runtime.types
            late = make_pod("again", "web")
            program = runtime.programs / "egresslab"
            whole = program.read_bytes()
            program.write_bytes(impatient(directory))
            found["alone"] = runtime.call("ADD", "again", late)
            found["del alone"] = runtime.call("DEL", "again", late)
            running["agent"] = agent_here()
            found["program again"] = program.read_bytes() == whole
            found["add after"] = runtime.call("ADD", "again", late)
            found["packet after"] = seen("again")
            ending = {"data": {"state": "ending"}}
            call_api(lambda api: api.patch(CONFIGMAPS, "egresslab-release", ending, "kube-system"))
            until("a clear node", lambda: not leftovers())
            found["types after"] = runtime.types
            found["program after"] = program.exists()
            found["files after"] = sorted(path.name for path in runtime.configurations.iterdir())
        finally:
            for name in list(running):
                end(name)
            found["log"] = (directory / "agent.log").read_text() if (directory / "agent.log").exists() else ""
    return found


if __name__ == "__main__":
    assert threading.active_count() == 1
    print(json.dumps(main(Path(sys.argv[1]))))
