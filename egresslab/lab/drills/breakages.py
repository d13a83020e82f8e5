"""Ways to disturb a gateway: what is done, and how it is undone.

Everything is done through Kubernetes, nodes are broken by Fault objects; only taking the API server itself away needs
the environment that the lab is made of. Undoing is safe to repeat, and also undoes what was only half done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from egresslab.api.resources import DEPLOYMENTS, NODES, PODS, Object
from egresslab.environments.base import Environment, Fault, FaultKind
from egresslab.errors import LabError
from egresslab.lab import manifests, nodes, waits
from egresslab.lab.client import Client
from egresslab.lab.drills.strikes import FIX, Strike, Strikes

SYSTEM = "kube-system"
AGENT_LABEL = "app.kubernetes.io/name=egresslab-agent"
OPERATOR = "egresslab-operator"
API_SERVER = "control-plane"
EXEC_TIMEOUT_S = 15.0
BUSY_S = 20.0
API_BACK_S = 60.0
AGENT_BACK_S = 180.0
TABLE = "egresslab_drill"

KILL_AGENT = """
import ctypes, os, signal
RESTART, ALL_THERE_IS = 0x01234567, 0xEFFFFFFC
for entry in os.listdir("/proc"):
    if entry.isdigit():
        try:
            words = open(f"/proc/{entry}/cmdline", "rb").read().split(b"\\0")
        except OSError:
            continue
        if b"egresslab.agent" in words:
            print(entry, flush=True)
            os.kill(int(entry), signal.SIGKILL)
            if entry == "1" and os.stat("/proc/self/ns/pid").st_ino != ALL_THERE_IS:
                ctypes.CDLL(None).reboot(RESTART)
"""
"""No signal from within ends the first process of a PID namespace, which a container's usually is (pid_namespaces(7));
a restart that is asked for there is one of the namespace alone, and does (reboot(2), LINUX_REBOOT_CMD_RESTART)."""


class Mode(StrEnum):
    """What happens to the active gateway."""

    CRASH = "crash"
    """The node dies at once, with everything on it."""
    POWER = "power"
    """It dies, and comes back by itself after a while."""
    AGENT_KILL = "agent-kill"
    """Its agent is killed, the node lives on."""
    LINK_CUT = "link-cut"
    """Its link to the public network is pulled."""
    CLUSTER_CUT = "cluster-cut"
    """Its link to the other nodes is pulled, the one to the public network stays."""
    PARTITION = "partition"
    """All its links are pulled; it lives on and knows nothing of what the others do."""
    API_CUT = "api-cut"
    """It cannot reach the control plane any more."""
    HEADLESS = "headless"
    """Operator and API server are down, then the node dies."""
    BUSY = "busy"
    """Every core of it is busy, for as long as the drill goes on."""


@dataclass(frozen=True, slots=True)
class Breakage:
    """One step each way; `returns_after_s` is set for what comes back by itself while traffic still runs."""

    title: str
    do: Callable[[], None]
    undo: Callable[[], None]
    prepare: Callable[[], None] = lambda: None
    settle: Callable[[], None] = lambda: None
    """Waits, after it was undone, until nothing of it is left."""
    returns_after_s: float | None = None
    api_lost: bool = False
    """Whether the Kubernetes API is away from the event until it is undone."""


def breakage(mode: Mode, client: Client, environment: Environment | None, node: str, run: str) -> Breakage:
    """How to do that to a node in the drill of that run, whose namespace is `drill-RUN`."""
    if mode is Mode.AGENT_KILL:
        settle = agent_back(client, node, containers=1)
        return Breakage(f"the agent on {node} is killed", lambda: kill_agent(client, node), lambda: None, settle=settle)
    if mode is Mode.API_CUT:
        return _api_cut(client, node)
    if mode is Mode.BUSY:
        return _busy(client, node, f"drill-{run}")
    if mode is Mode.HEADLESS:
        return _headless(client, environment, node)
    strikes = Strikes(client, run)
    if mode in (Mode.CRASH, Mode.POWER):
        title, back = (f"{node} dies", None) if mode is Mode.CRASH else (f"{node} loses power", 2.0)
        settle = agent_back(client, node)

        def crash() -> None:
            strikes.strike(Strike.CRASH, node)

        return Breakage(title, crash, strikes.mend, settle=settle, returns_after_s=back)
    network = {Mode.LINK_CUT: "public", Mode.CLUSTER_CUT: "cluster", Mode.PARTITION: None}[mode]

    def cut() -> None:
        strikes.strike(Strike.CUT if network else Strike.PARTITION, node, network)

    return Breakage(f"{node} is cut off {network or 'every network'}", cut, strikes.mend)


def agent_back(client: Client, node: str, containers: int | None = None) -> Callable[[], None]:
    """A wait until the agent's containers there, or as many of them, have been started anew and are ready.

    The kubelet delays the restart of what keeps ending, up to five minutes; whoever drills again and again is spared
    that by a new pod.
    """

    def statuses(body: Object) -> list[Object]:
        return body["status"].get("containerStatuses") or []

    def starts(body: Object) -> int:
        return sum(item["restartCount"] for item in statuses(body))

    pod = agent_pod(client, node)
    body = client.get(PODS, pod, SYSTEM)
    wanted = starts(body) + (containers or len(body["spec"]["containers"]))

    def back() -> bool | waits.Pending:
        body = client.find(PODS, pod, SYSTEM)
        if body is None:
            return bool(agent_pod(client, node))  # its successor, once that is ready
        if _going(body):
            return waits.Pending(f"{pod} is being deleted")
        waiting = [(item["state"].get("waiting") or {}).get("reason") for item in statuses(body)]
        if "CrashLoopBackOff" in waiting:
            client.delete(PODS, pod, SYSTEM)
        now = starts(body)
        return (nodes.ready(body) and now >= wanted) or waits.Pending(f"{wanted - now} restarts to go: {waiting}")

    def settle() -> None:
        waits.wait_for(f"the agent on {node} to be back", back, timeout_s=AGENT_BACK_S * client.patience)

    return settle


def agent_pod(client: Client, node: str) -> str:
    """Name of the agent's ready pod on a node, not of one that is being deleted; `LabError` if there is none."""
    on_node = f"spec.nodeName={node}"
    for body in client.list(PODS, SYSTEM, labelSelector=AGENT_LABEL, fieldSelector=on_node):
        if nodes.ready(body) and not _going(body):
            return str(body["metadata"]["name"])
    raise LabError("no agent is ready there", object=f"node {node}", fix="kubectl -n kube-system get pods -o wide")


def _going(body: Object) -> bool:
    return "deletionTimestamp" in body["metadata"]


def kill_agent(client: Client, node: str) -> None:
    """SIGKILL for the agent's process on a node; its container is started again by the kubelet."""
    ended = client.exec(SYSTEM, agent_pod(client, node), ["python", "-c", KILL_AGENT], timeout_s=EXEC_TIMEOUT_S)
    if ended.exit_code not in (0, 137) or (ended.exit_code == 0 and not ended.stdout.strip()):
        raise LabError(f"could not be killed: {ended.stderr.strip()[-300:]}", object=f"agent on {node}")


def _api_cut(client: Client, node: str) -> Breakage:
    """The control plane's own node forgets the other one's addresses: nothing from there reaches the API server."""
    known = [nodes.node(body) for body in client.list(NODES)]
    addresses = [str(a) for one in known if one.name == node for a in one.addresses if a.version == 4]
    plane = next(one.name for one in known if one.control_plane)
    pod = agent_pod(client, plane)
    rules = "; ".join(
        f"add rule inet {TABLE} input ip saddr {address} tcp dport {{ 6443 }} drop; "
        f"add rule inet {TABLE} input ip saddr {address} tcp sport {{ 10250 }} drop"
        for address in addresses
    )
    chain = f"add chain inet {TABLE} input {{ type filter hook input priority -10; }}"

    def nft(text: str, *, check: bool = True) -> None:
        ended = client.exec(SYSTEM, pod, ["nft", text], timeout_s=EXEC_TIMEOUT_S)
        if check and ended.exit_code:
            raise LabError(f"nft: {ended.stderr.strip()}", object=f"agent pod on {plane}")

    return Breakage(
        f"{node} cannot reach the control plane",
        lambda: nft(f"add table inet {TABLE}; {chain}; {rules}"),
        lambda: nft(f"delete table inet {TABLE}", check=False),
    )


def _headless(client: Client, environment: Environment | None, node: str) -> Breakage:
    if environment is None:
        raise LabError("nobody here can stop the API server", object=f"drill mode {Mode.HEADLESS}", fix=FIX)
    crash, stop = Fault(FaultKind.CRASH, node), Fault(FaultKind.STOP, API_SERVER)
    replicas = client.get(DEPLOYMENTS, OPERATOR, SYSTEM)["spec"].get("replicas", 1)

    def scale(count: int) -> None:
        client.merge(DEPLOYMENTS, OPERATOR, {"spec": {"replicas": count}}, SYSTEM)

    def prepare() -> None:
        scale(0)
        environment.break_(stop)

    def undo() -> None:
        broken = {fault.target for fault in environment.faults()}
        for target in (API_SERVER, node):
            if target in broken:
                environment.heal(target)
        waits.wait_for("the API server to answer", lambda: client.list(NODES), timeout_s=API_BACK_S * client.patience)
        scale(replicas)

    return Breakage(
        f"operator and API server are down, and {node} dies",
        lambda: environment.break_(crash),
        undo,
        prepare,
        agent_back(client, node),
        api_lost=True,
    )


def _busy(client: Client, node: str, namespace: str) -> Breakage:
    """A pod for each core that does nothing as fast as it can; they go with the namespace."""
    cores = int(client.get(NODES, node)["status"]["capacity"]["cpu"])
    names = [f"busy-{number}" for number in range(cores)]

    def do() -> None:
        for name in names:
            command = ("sh", "-c", "while :; do :; done")
            client.apply(PODS, manifests.pod(name, namespace, image="busybox", command=command, labels={}, node=node))
        waits.wait_for("busy pods to run", running, timeout_s=BUSY_S * client.patience)

    def running() -> bool | waits.Pending:
        idle = [name for name in names if not nodes.ready(client.get(PODS, name, namespace))]
        return not idle or waits.Pending(f"not running: {', '.join(idle)}")

    def undo() -> None:
        for name in names:
            client.delete(PODS, name, namespace, grace_s=0)

    return Breakage(f"{cores} cores of {node} are busy", do, undo)
