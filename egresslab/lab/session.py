"""`Lab`: one chapter's hold on a cluster.

Everything here is a request to the Kubernetes API (or the bundled kubectl making one), made in the calling thread;
what a chapter makes is written down and taken away again. It must never know what the cluster is made of.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from egresslab.api.resources import NAMESPACES, NODES, PODS, Object, Resource
from egresslab.errors import EgresslabError, LabError
from egresslab.lab import (
    attachment,
    entries,
    locations,
    machine,
    manifests,
    nodes,
    ownership,
    probes,
    terminal,
    waits,
)
from egresslab.lab.capture import Capture
from egresslab.lab.checks.grader import Grader, Mode
from egresslab.lab.checks.model import Verdict
from egresslab.lab.client import Client
from egresslab.lab.display import Table
from egresslab.lab.entries import IPAddress
from egresslab.lab.exercises import Exercises
from egresslab.lab.firewall import Firewall
from egresslab.lab.nodes import Node, Pod
from egresslab.lab.objects import Objects
from egresslab.lab.observe import Observatory
from egresslab.lab.probes import OUTSIDE_URL, Answer
from egresslab.lab.progress import Progress
from egresslab.lab.terminal import CommandResult
from egresslab.lab.topology import Topology
from egresslab.lab.views.effect import Effect
from egresslab.lab.views.gallery import Gallery
from egresslab.lab.views.live import Live

if TYPE_CHECKING:
    from egresslab.lab.drills.result import DrillResult

T = TypeVar("T")

RUN_VARIABLE = "EGRESSLAB_RUN"
LAB_VARIABLE = "EGRESSLAB_LAB"
PROBE_TIMEOUT_S = 3.0
COMMAND_TIMEOUT_S = 60.0
USUAL_TIMEOUT_S = 60.0
"""Who allows more for a wait has slow nodes, whose commands may take longer by as much."""
DEFAULT_IMAGE = "curlimages/curl"
FOREVER = ("sleep", "infinity")


class Lab:
    """A cluster, a namespace of one's own in it, and the checks of a chapter. Use `Lab.open`."""

    def __init__(self, client: Client, *, chapter: str, mode: Mode, timeout_s: float, run: str | None = None) -> None:
        self._client = client
        client.patience = max(1.0, timeout_s / USUAL_TIMEOUT_S)
        self._chapter = chapter
        self._timeout_s = timeout_s
        self._ledger = ownership.Ledger(run or os.environ.get(RUN_VARIABLE) or secrets.token_hex(3))
        self._files = tempfile.TemporaryDirectory(prefix="egresslab-")
        self._objects = Objects(client, self._ledger)
        progress = Progress.default() if mode is Mode.LEARN else None
        self._grader = Grader(self, chapter, mode, progress, client.patience)
        self._exercises = Exercises(chapter, mode, progress)
        self._gallery = Gallery(self, client)
        self.firewall = Firewall(client, self._ledger.run)
        self.observe = Observatory(client, lambda: self._objects.namespace)
        self._attached: attachment.Attachment | None = None
        atexit.register(self.close)

    @classmethod
    def open(
        cls,
        environment: str = "netns",
        lab: str = "default",
        *,
        chapter: str = "scratch",
        mode: str = Mode.LEARN,
        timeout_s: float = 60.0,
        topology: str = "",
    ) -> Lab:
        """Attach to a lab, and bring it up first if it is down.

        With `environment="kubeconfig"` the cluster is the one that KUBECONFIG points at. `timeout_s` bounds the
        bring-up and every wait that names no time of its own; `mode` is `learn` (a failed check teaches) or `solve`
        (it raises). The usual lab is that of $EGRESSLAB_LAB, if there is one. `topology` is the definition to bring it
        up from, if not the usual one. Raises `LabError` or `EnvironmentFailure`.
        """
        if lab == attachment.DEFAULT_LAB:
            lab = os.environ.get(LAB_VARIABLE, lab)
        found = attachment.attach(environment, lab, timeout_s=timeout_s, say=print, topology=topology)
        timeout_s = max(timeout_s, USUAL_TIMEOUT_S * found.patience)
        opened = cls(Client(found.kubeconfig), chapter=chapter, mode=Mode(mode), timeout_s=timeout_s)
        opened._attached = found
        ready = opened.wait_for("every node to be Ready", lambda: nodes.all_ready(opened.nodes))
        print(f"Attached to {found.environment} lab {found.lab!r}: {len(ready)} nodes Ready.")
        return opened

    # What there is

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, by name."""
        return tuple(sorted((nodes.node(body) for body in self._client.list(NODES)), key=lambda node: node.name))

    @property
    def workers(self) -> tuple[Node, ...]:
        """The nodes that ordinary pods run on."""
        return tuple(node for node in self.nodes if not node.control_plane)

    def node(self, name: str) -> Node:
        """One node."""
        return nodes.node(self._client.get(NODES, name))

    @property
    def current_namespace(self) -> str:
        """The namespace that pods and commands use when none is named."""
        return self._objects.namespace

    def objects(self, resource: Resource) -> list[Object]:
        """Objects of a kind: those of the current namespace, or all of a cluster-wide kind."""
        return self._client.list(resource, self._objects.namespace if resource.namespaced else None)

    def machine(self) -> Table:
        """What `egresslab doctor` finds on this machine."""
        return machine.examine(str(self._client.kubeconfig))

    def topology(self, *, flows: bool = False, live: bool = False) -> Topology | Live:
        """Nodes, this chapter's pods, and the outside, as a picture with a table.

        With `flows`, the ways that agents saw packets take in the last half minute; `live` keeps them up to date.
        """
        return self._gallery.live() if live else self._gallery.topology(flows=flows)

    def effect(self, pod: str) -> Effect:
        """What the rows in the kernel do with a pod's packets, destination by destination."""
        return self._gallery.effect(self.pod(pod))

    # A place of one's own

    def namespace(self) -> str:
        """Make a fresh namespace for this run of the chapter, and use it from here on; returns its name."""
        stem = self._chapter.lstrip("0123456789-") or "scratch"
        name = f"{stem[:40]}-{secrets.token_hex(2)}"
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self._objects.namespace = name
        print(f"In a terminal, to follow along: kubectl config set-context --current --namespace={name}")
        return name

    def apply(self, manifest: manifests.Manifest) -> None:
        """Apply a manifest (YAML text, dictionary, list of them, path) server-side, and say so as kubectl does."""
        self._objects.apply(manifest)

    def delete(self, manifest: manifests.Manifest, *, timeout_s: float | None = None) -> None:
        """Delete the objects of a manifest and wait until they are gone; what is not there is no error."""
        self._objects.delete(manifest, timeout_s=self._patience(timeout_s))

    def label_node(self, node: str, key: str, value: str | None) -> None:
        """Set a label of a node, or remove it (None); closing the lab puts the old one back."""
        self._ledger.set_label(self._client, node, key, value)
        print(f"$ kubectl label node {node} {f'{key}={value} --overwrite' if value is not None else f'{key}-'}")

    def run_pod(
        self,
        name: str,
        image: str = DEFAULT_IMAGE,
        *,
        node: str | None = None,
        labels: Mapping[str, str] | None = None,
        namespace: str | None = None,
        command: Sequence[str] | None = FOREVER,
        timeout_s: float | None = None,
    ) -> Pod:
        """Run a pod and wait until it is Ready; by default it sleeps, has curl, and is labelled `app=NAME`.

        Raises `LabError` with the pod's state and its last events when it does not become Ready in time.
        """
        return self._objects.run_pod(
            name,
            image,
            command=command,
            labels=labels if labels is not None else {"app": name},
            node=node,
            namespace=namespace,
            timeout_s=self._patience(timeout_s),
        )

    def run_pods(
        self, places: Mapping[str, str], *, labels: Mapping[str, str] | None = None, image: str = DEFAULT_IMAGE
    ) -> tuple[Pod, ...]:
        """Run pods at the same time, `places` being their names and nodes, and wait until all are Ready; as `run_pod`.

        They have the same labels, by default `app=NAME` each.
        """
        for name, node in places.items():
            wish = labels if labels is not None else {"app": name}
            self._objects.start_pod(name, image, command=FOREVER, labels=wish, node=node, namespace=None)
        return tuple(self._objects.ready_pod(name, None, timeout_s=self._timeout_s) for name in places)

    def move_pod(self, pod: str, node: str, *, timeout_s: float | None = None) -> Pod:
        """Delete a pod, and run it again elsewhere with the same labels and command, as rescheduling does."""
        return self._objects.move_pod(pod, node, timeout_s=self._patience(timeout_s))

    def pod(self, name: str) -> Pod:
        """A pod of the current namespace, or NAMESPACE/NAME."""
        namespace, name = self._place(name)
        return nodes.pod(self._client.get(PODS, name, namespace))

    def _place(self, pod: str) -> tuple[str, str]:
        namespace, slash, name = pod.rpartition("/")
        return (namespace, name) if slash else (self._objects.namespace, pod)

    # Doing and seeing

    def kubectl(
        self, command: str, *, stdin: str | None = None, check: bool = True, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> CommandResult:
        """Run the bundled kubectl on the current namespace and print what a terminal would show.

        Raises `LabError` with the output for a non-zero exit, unless `check` is false.
        """
        ended = terminal.kubectl(
            command, kubeconfig=self._kubeconfig(), stdin=stdin, timeout_s=timeout_s * self._client.patience
        )
        ended.echo()
        return ended.succeeded() if check else ended

    def egresslab(
        self, command: str, *, stdin: str | None = None, check: bool = True, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> CommandResult:
        """Run `egresslab COMMAND` on the chapter's cluster and print what a terminal would show; as `kubectl`."""
        ended = terminal.egresslab(
            command, kubeconfig=str(self._client.kubeconfig), stdin=stdin, timeout_s=timeout_s * self._client.patience
        )
        ended.echo()
        return ended.succeeded() if check else ended

    def exec(
        self,
        pod: str,
        command: str | Sequence[str],
        *,
        check: bool = True,
        show: bool = True,
        timeout_s: float = 20.0,
    ) -> CommandResult:
        """Run a command in a pod (of the current namespace, or NAMESPACE/NAME), as `kubectl exec` does.

        Prints as `kubectl` does unless told not to; errors are the same.
        """
        words = shlex.split(command) if isinstance(command, str) else list(command)
        namespace, name = self._place(pod)
        ended = self._client.exec(namespace, name, words, timeout_s=timeout_s)
        option = f"-n {namespace} " if "/" in pod else ""
        typed = f"kubectl {option}exec {name} -- {shlex.join(words)}"
        shown = CommandResult(typed, ended.stdout, ended.stderr, ended.exit_code)
        if show:
            shown.echo()
        return shown.succeeded() if check else shown

    def reach(self, pod: str, url: str = OUTSIDE_URL, *, family: int | None = None) -> Answer:
        """Ask the server at `url` through a pod which address it sees; having no answer is an answer too."""
        command = probes.command(url, PROBE_TIMEOUT_S * self._client.patience, family)
        ended = self._client.exec(*self._place(pod), command, timeout_s=2 * PROBE_TIMEOUT_S)
        return probes.read(url, ended)

    def observed_address(self, pod: str, url: str = OUTSIDE_URL, *, family: int | None = None) -> IPAddress:
        """The pod's source address as the server at `url` sees it; `LabError` if no address comes back."""
        answer = self.reach(pod, url, family=family)
        if answer.address is None:
            raise LabError(answer.reason, object=probes.typed(pod, self._objects.namespace, url))
        return answer.address

    def map_entries(self, node: str | None = None) -> entries.Entries:
        """The egress entries that the kernel of a node holds, or of every node."""
        names = [node] if node else [known.name for known in self.nodes]
        return entries.Entries(entries.listings(self._client, names))

    def capture(
        self, expression: str = "tcp", interface: str = "any", *, pod: str | None = None, decode: str = ""
    ) -> Capture:
        """A packet capture outside, as a context manager; afterwards its `sources` are the addresses seen.

        `expression` is tcpdump's (pcap-filter(7)), `interface` one of the outside's: eth0 faces the cluster network,
        eth1 the public one. With `pod` it is made there instead: a pod that has tcpdump and may use it, such as one of
        the image nicolaka/netshoot with hostNetwork. `decode="vxlan"` says what UDP packets are (tcpdump -T), so that
        those of the tunnel are shown with what they carry.
        """
        if pod is None:
            return Capture(self._client, expression, interface, decode=decode)
        return Capture(self._client, expression, interface, self._place(pod), decode)

    def wait_for(self, what: str, predicate: Callable[[], T | waits.Pending], *, timeout_s: float | None = None) -> T:
        """Ask until the answer is true and return it; `LabError` with the last thing seen after the deadline."""
        return waits.wait_for(what, predicate, timeout_s=self._patience(timeout_s))

    def drill(self, kind: str = "failover", **options: Any) -> DrillResult:
        """Traffic through an event, measured (docs/drills.md): `failover` with a mode like `crash`, or `maintenance`.

        `gateway` names an EgressGateway that is there; without it one is made for the drill. Everything is healed and
        removed at the end, also after an interrupt. Raises `LabError` when the drill cannot be done.
        """
        from egresslab.lab.drills import notebook

        return notebook.run(self._client, self._attached, kind, options)

    # Checks

    def check(self, id: str, **subject: Any) -> Verdict:
        """Check a claim and show the verdict; in mode `solve` anything but a pass raises `LabError`."""
        return self._grader.check(id, **subject)

    def hint(self, id: str) -> None:
        """Show the next hint for a check; there are three."""
        self._grader.hint(id)

    def solve(self, exercise: str, attempt: Any = None, /, **given: Any) -> Any:
        """In mode `solve`, apply the solution of an exercise and return its answer; else return the `attempt`."""
        return self._exercises.solve(self, exercise, attempt, given)

    def solution(self, exercise: str) -> None:
        """Show one solution of an exercise."""
        self._exercises.solution(exercise)

    def unsolved(self, exercise: str) -> AbstractContextManager[None]:
        """For the runner: inside, the exercise's check must not pass, or `LabError` is raised."""
        return self._grader.unsolved(exercise)

    def progress(self) -> Table:
        """How far this learner is, chapter by chapter."""
        from egresslab.lab import standing  # reads notebooks, and what reads notebooks takes a second to import

        return standing.table(standing.standings(Progress.default(), standing.all_contents(locations.home())))

    def report(self) -> Table:
        """Every check of this run with its outcome."""
        return self._grader.report()

    # The end

    def cleanup(self, *, timeout_s: float | None = None) -> None:
        """Remove what this run made, wait until it is gone, and say so; safe to call again."""
        made = [owned for owned in self._ledger.objects if owned.resource == NAMESPACES]
        self.observe.close()
        removed = ["the allow-list outside"] if self.firewall.restore() else []
        removed += self._ledger.clear(self._client)
        for owned in made:
            self._objects.wait_gone(owned.resource, owned.name, None, timeout_s=self._patience(timeout_s))
        self._objects.namespace = "default"
        print("\n".join(f"removed {name}" for name in removed) or "nothing to remove")

    def close(self) -> None:
        """Remove what this run made without waiting, and let go of the cluster; safe to call again."""
        atexit.unregister(self.close)
        self._gallery.close()
        self.observe.close()
        try:
            self.firewall.restore()
            for _ in self._ledger.clear(self._client):
                pass
        except EgresslabError as error:
            print(f"clean-up incomplete: {error}")
        finally:
            self._client.close()
            self._files.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _patience(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s

    def _kubeconfig(self) -> str:
        """KUBECONFIG for commands: a file with the namespace laid over the real one, which stays as it is."""
        return terminal.in_namespace(self._client.kubeconfig, self._objects.namespace, Path(self._files.name))
