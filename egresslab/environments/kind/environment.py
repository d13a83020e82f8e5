"""A lab on Kind, as an `Environment`: networks and the world outside first, then the cluster, then what makes it a lab.

Every step looks whether its work is done already, so that a second `up` reuses what is there and finishes what a
first one began. `down` goes by names and labels alone, so that it also removes what a crash left.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path

from egresslab.environments.base import Fault, NodeStatus, Outcome, Phase, ProcessStatus, Progress, Status
from egresslab.environments.definitions import definitions
from egresslab.environments.kind import faultkeeper
from egresslab.environments.kind.cluster import Cluster
from egresslab.environments.kind.commands import Commands
from egresslab.environments.kind.faults import Faults
from egresslab.environments.kind.image import ensure_image
from egresslab.environments.kind.plan import LABEL, NETWORK_VARIABLE, Datapath, Plan
from egresslab.environments.kind.preflight import CILIUM_CHART, examine, require
from egresslab.environments.kind.versions import pinned
from egresslab.environments.netns.faultkeeper import keep
from egresslab.environments.netns.locks import locked
from egresslab.environments.netns.paths import LAB_NAME
from egresslab.environments.netns.topology import load_topology
from egresslab.errors import EnvironmentFailure

IMAGE = os.environ.get("EGRESSLAB_IMAGE", "egresslab:0.1.0")
LOCK_PATIENCE_S = 5.0
CREATE_S, LOAD_S, DOWN_S = 900.0, 600.0, 300.0
IMAGES = "EGRESSLAB_KIND_IMAGES"
"""Variable with more images that nodes are given, since they cannot pull them."""
HELD = "dev.egresslab.images"
"""Label of a node image that names the images it brings."""
LOADED = "images"
"""File in the lab's directory with the images that its nodes were given."""


def state_directory() -> Path:
    """Where labs on Kind keep their files; no root is needed there (XDG base directories)."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base, "egresslab", "kind")


class KindEnvironment:
    """One lab. EGRESSLAB_KIND_NODE_IMAGE and EGRESSLAB_KIND_IMAGES (more to load) help where there is no registry."""

    patience = 1.0

    def __init__(
        self,
        lab: str = "default",
        topology: Path | None = None,
        *,
        bare: bool = False,
        datapath: str | None = None,
        image: str = IMAGE,
    ) -> None:
        """`datapath` is that of a new lab; one that is there keeps its own."""
        if not LAB_NAME.fullmatch(lab):
            raise EnvironmentFailure("not a name for a lab", object="lab", field="name", value=lab)
        self._bare = bare
        self._image = image
        node_image = os.environ.get("EGRESSLAB_KIND_NODE_IMAGE") or pinned()["NODE_IMAGE"]
        state = state_directory() / lab
        self._topology_file = topology or _known(state / "topology.yaml") or definitions("netns") / "topology.yaml"
        parsed = load_topology(self._topology_file)
        chosen = _chosen(state / "datapath", lab, datapath)
        self._plan = Plan(lab, parsed, chosen, state, node_image)
        shim = self._plan.state / "bin"
        environment = {NETWORK_VARIABLE: self._plan.network(parsed.primary)}
        self._commands = Commands(environment)
        self._kind = Commands({**environment, "PATH": f"{shim}{os.pathsep}{os.environ.get('PATH', os.defpath)}"})
        self._cluster = Cluster(self._plan, self._commands, image)
        self._faults = Faults(self._plan, self._commands, image)

    @property
    def lab(self) -> str:
        """Name of the lab."""
        return self._plan.lab

    def kubeconfig(self) -> Path:
        """Path of the kubeconfig; raises `EnvironmentFailure` when there is no lab."""
        if not self._cluster.kubeconfig.exists():
            raise EnvironmentFailure("is not up", object=f"lab {self.lab}", fix=self._fix("up"))
        return self._cluster.kubeconfig

    def create(self, progress: Progress) -> Outcome:
        """Bring the lab up; each step is left out where its work is done."""
        began = time.monotonic()
        steps: dict[str, float] = {}
        with locked(self._plan.state, LOCK_PATIENCE_S, f"another command at work on lab {self.lab}"):
            if (self._plan.state / "done").exists() and self._cluster.answers():
                self._start_keeper()
                return Outcome(False, time.monotonic() - began)
            for name, step in (
                ("looking at Docker, kind and helm", self._preflight),
                ("egresslab's image", lambda p: self._build(p)),
                ("networks", lambda p: self._make_networks()),
                ("the world outside", lambda p: self._make_outside()),
                ("cluster", self._make_cluster),
                ("nodes' networks", lambda p: self._attach_nodes()),
                ("images on the nodes", self._load_images),
                ("egress datapath", lambda p: self._cluster.install(bare=self._bare)),
                ("names and pods of the world outside", lambda p: self._introduce()),
                ("everything ready", self._cluster.wait),
            ):
                progress.step(name)
                start = time.monotonic()
                step(progress)
                steps[name] = time.monotonic() - start
            self._start_keeper()
            (self._plan.state / "done").touch()
        return Outcome(True, time.monotonic() - began, steps)

    def delete(self, progress: Progress) -> bool:
        """Remove the cluster, and every container and network that bears the lab's name."""
        docker = self._commands.docker
        mine = ("--filter", f"label={LABEL}={self.lab}")
        cluster = ("--filter", f"label=io.x-k8s.kind.cluster={self._plan.cluster}")
        containers = {
            *docker("ps", "--all", "--quiet", *mine).split(),
            *docker("ps", "--all", "--quiet", *cluster).split(),
        }
        networks = docker("network", "ls", "--quiet", *mine).split()
        there = bool(containers or networks or self._plan.state.exists())
        faultkeeper.end(self._plan.state)
        if containers:
            progress.step("removing containers")
            docker("rm", "--force", "--volumes", *sorted(containers), timeout_s=DOWN_S)
        if networks:
            progress.step("removing networks")
            docker("network", "rm", *networks)
        self._unbind()
        if self._plan.state.exists():
            shutil.rmtree(self._plan.state)
        return there

    def status(self) -> Status:
        """How the lab is doing."""
        seen = {
            name: self._commands.inspect("container", container)
            for name, container in {**self._plan.containers(), "outside": self._plan.outside}.items()
        }
        if not any(seen.values()):
            return Status(self.lab, "kind", Phase.ABSENT, None, None)
        try:
            ready = self._cluster.nodes() if self._cluster.kubeconfig.exists() else {}
        except EnvironmentFailure:
            ready = {}
        faults = self._faults.in_force()
        nodes = tuple(
            NodeStatus(
                node.name,
                str(node.role),
                {name: tuple(map(str, addresses)) for name, addresses in node.addresses.items()},
                ready.get(node.name),
                tuple(fault for fault in faults if fault.target == node.name),
            )
            for node in self._plan.topology.nodes
        )
        processes = tuple(
            ProcessStatus(
                name,
                (state["State"]["Pid"] or None) if state else None,
                None,
                int(state["RestartCount"]) if state else 0,
                held=bool(state and state["State"]["Paused"]),
            )
            for name, state in seen.items()
        )
        keeper = faultkeeper.running(self._plan.state)
        processes += (ProcessStatus("faults", keeper.pid if keeper else None, None, 0),)
        whole = all(ready.get(node.name) for node in self._plan.topology.nodes)
        built = (self._plan.state / "done").exists()
        phase = Phase.RUNNING if whole and built else Phase.DEGRADED if built else Phase.BUILDING
        return Status(self.lab, "kind", phase, self._cluster.kubeconfig, self._plan.cluster, nodes, processes, faults)

    def break_(self, fault: Fault) -> None:
        """Break a node, by the container runtime."""
        self._faults.break_(fault)

    def heal(self, target: str) -> None:
        """Mend every fault of a node."""
        self._faults.heal(target)

    def faults(self) -> tuple[Fault, ...]:
        """What is broken on purpose right now."""
        return self._faults.in_force()

    def keep_faults(self) -> None:
        """Carry out the lab's Fault objects until told to stop: what the process `faultkeeper` does."""
        claims = self._plan.state / "fault-objects"
        asyncio.run(keep(self._faults, self._plan.topology, claims, self.kubeconfig()))

    def _start_keeper(self) -> None:
        if not self._bare:
            faultkeeper.start(self._plan.state, self.lab)

    # Steps.

    def _preflight(self, progress: Progress) -> None:
        chart = os.environ.get("EGRESSLAB_CILIUM_CHART", CILIUM_CHART)
        found = list(
            examine(
                self._commands, self._plan.datapath, node_image=self._plan.node_image, image=self._image, chart=chart
            )
        )
        require(found)
        for directory in ("bin", "outside", "namespaces"):
            (self._plan.state / directory).mkdir(exist_ok=True)
        (self._plan.state / "datapath").write_text(str(self._plan.datapath))
        # Commands that come later ask for no topology.
        if self._topology_file.parent != self._plan.state:
            shutil.copyfile(self._topology_file, self._plan.state / "topology.yaml")
        docker = self._commands.where("docker")
        shim = self._plan.state / "bin" / "docker"
        shim.write_text(self._plan.docker_shim(str(docker)))
        shim.chmod(0o755)
        self._plan.write(old_cgroups=self._commands.docker("info", "--format", "{{.CgroupVersion}}") == "1")

    def _build(self, progress: Progress) -> None:
        if ensure_image(self._commands, self._image):
            progress.note(f"built {self._image}")

    def _make_networks(self) -> None:
        for words in self._plan.networks():
            if self._commands.inspect("network", words[-1]) is None:
                try:
                    self._commands.docker("network", "create", *words)
                except EnvironmentFailure as error:
                    if "overlaps" not in error.message:
                        raise
                    raise EnvironmentFailure(
                        "another network of Docker's has these addresses",
                        object=f"network {words[-1]}",
                        value=next(word for word in words if word.startswith("--subnet")),
                        fix="take down the lab that has them (docker network ls --filter label=" + LABEL + ")",
                    ) from error

    def _make_outside(self) -> None:
        plan, docker = self._plan, self._commands.docker
        container = self._commands.inspect("container", plan.outside)
        if container is None:
            docker(
                *("run", "--detach", "--name", plan.outside, "--hostname", "outside", "--privileged"),
                *("--restart", "unless-stopped", "--label", f"{LABEL}={self.lab}", "--user", "0:0"),
                *("--network", plan.network(plan.topology.primary)),
                *plan.router_place(plan.topology.primary),
                *("--volume", f"{plan.state}:/lab", self._image),
                *("python", "-m", "egresslab.environments.kind.world", "/lab/world.json"),
            )
        elif not container["State"]["Running"]:
            docker("start", plan.outside)
        container = self._commands.inspect("container", plan.outside)
        for name in plan.topology.networks:
            if plan.network(name) not in container["NetworkSettings"]["Networks"]:
                docker("network", "connect", *plan.router_place(name), plan.network(name), plan.outside)
        self._bind(int(container["State"]["Pid"]))

    @property
    def _namespace(self) -> Path:
        return self._plan.state / "namespaces" / "outside"

    def _bind(self, pid: int) -> None:
        """Give the world's network namespace a name that the control plane sees, where we may; else there are no
        captures outside."""
        if os.geteuid() != 0 or not Path(f"/proc/{pid}/ns/net").exists():
            return
        if self._namespace.exists() and _mounted(self._namespace):
            if self._namespace.stat().st_ino == Path(f"/proc/{pid}/ns/net").stat().st_ino:
                return
            # Of a container that was started again since.
            self._commands.run("umount", "--lazy", str(self._namespace))
        directory = str(self._namespace.parent)
        if not _mounted(directory):
            # Mounts below it are passed on to the control plane's container only from a shared mount.
            self._commands.run("mount", "--bind", directory, directory)
            self._commands.run("mount", "--make-shared", directory)
        self._namespace.touch()
        self._commands.run("mount", "--bind", f"/proc/{pid}/ns/net", str(self._namespace))

    def _unbind(self) -> None:
        for path in (self._namespace, self._namespace.parent):
            while _mounted(path):
                self._commands.run("umount", "--lazy", str(path))

    def _make_cluster(self, progress: Progress) -> None:
        plan = self._plan
        if plan.cluster in self._kind.run("kind", "get", "clusters").split():
            if not self._cluster.kubeconfig.exists():
                self._kind.run(
                    "kind",
                    "export",
                    "kubeconfig",
                    "--name",
                    plan.cluster,
                    "--kubeconfig",
                    str(self._cluster.kubeconfig),
                )
            return
        progress.note("kind says what it does in " + str(plan.state / "kind.log"))
        self._kind.run(
            *("kind", "create", "cluster", "--config", str(plan.state / "kind.yaml"), "--name", plan.cluster),
            *("--kubeconfig", str(self._cluster.kubeconfig), "--retain", "--verbosity", "1"),
            timeout_s=CREATE_S,
            log=plan.state / "kind.log",
        )

    def _attach_nodes(self) -> None:
        for node in self._plan.topology.nodes:
            self._faults.attach(node.name)

    def _load_images(self, progress: Progress) -> None:
        """The project's image, and those that the variable names."""
        record = self._plan.state / LOADED
        node = self._commands.inspect("image", self._plan.node_image) or {}
        held = ((node.get("Config") or {}).get("Labels") or {}).get(HELD, "")
        known = [*held.split(), *(record.read_text().split() if record.exists() else [])]
        for image in (self._image, *os.environ.get(IMAGES, "").split()):
            if image not in known:
                progress.note(image)
                self._kind.run("kind", "load", "docker-image", image, "--name", self._plan.cluster, timeout_s=LOAD_S)
                known.append(image)
                record.write_text("\n".join(known))

    def _introduce(self) -> None:
        self._cluster.trust_the_world()
        self._cluster.open_to_the_world(self._namespace.exists() and _mounted(self._namespace))
        self._cluster.name_servers()
        if not self._bare:
            self._cluster.teach_faults()
        if os.environ.get(IMAGES):
            self._cluster.use_what_is_here()

    def _fix(self, verb: str) -> str:
        return f"egresslab {verb} --environment kind --lab {self.lab}"


def _chosen(record: Path, lab: str, wanted: str | None) -> Datapath:
    known = record.read_text() if record.exists() else None
    if known is not None and wanted not in (None, known):
        raise EnvironmentFailure(
            "runs with another datapath",
            object=f"lab {lab}",
            field="datapath",
            value=known,
            fix=f"`egresslab down --environment kind --lab {lab}` first",
        )
    return Datapath(known or wanted or Datapath.EGRESSLAB)


def _known(path: Path) -> Path | None:
    return path if path.is_file() else None


def _mounted(path: Path | str) -> bool:
    """Whether something is mounted there; unlike os.path.ismount(), also of a directory on itself (proc(5),
    mountinfo)."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return str(path) in {line.split()[4] for line in lines}
