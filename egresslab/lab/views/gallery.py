"""The views of one lab: which values go into which picture, and the live ones that have to be stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from egresslab.api.resources import PODS
from egresslab.flows.flow import Told
from egresslab.lab import entries, nodes, probes
from egresslab.lab.client import Client
from egresslab.lab.nodes import Node, Pod
from egresslab.lab.topology import Place, Topology, network_of
from egresslab.lab.views import effect, ways
from egresslab.lab.views.effect import Effect
from egresslab.lab.views.live import Live

RECENT_S = 30.0


class Subject(Protocol):
    """What is drawn."""

    @property
    def nodes(self) -> tuple[Node, ...]: ...
    @property
    def current_namespace(self) -> str: ...


class Gallery:
    """Makes views of a lab."""

    def __init__(self, lab: Subject, client: Client) -> None:
        self._lab = lab
        self._client = client
        self._live: list[Live] = []

    def topology(self, *, flows: bool = False) -> Topology:
        """Nodes, pods and the outside; with `flows` also the ways that packets took in the last half minute."""
        drawn = self._plain()
        return self._with(drawn, ways.recent(str(self._client.kubeconfig), RECENT_S)) if flows else drawn

    def live(self) -> Live:
        """The topology, kept up to date until `close`."""
        view = Live(lambda told: self._with(self._plain(), told), str(self._client.kubeconfig))
        self._live.append(view.start())
        return view

    def effect(self, pod: Pod) -> Effect:
        """What the rows of every node do with a pod's packets."""
        known = self._lab.nodes
        return effect.effect(pod, known, entries.listings(self._client, [node.name for node in known]))

    def close(self) -> None:
        """Stop what is live."""
        while self._live:
            self._live.pop().stop()

    def _plain(self) -> Topology:
        known = self._lab.nodes
        pods = [nodes.pod(body) for body in self._client.list(PODS, self._lab.current_namespace)]
        networks = Topology(known, pods, ()).networks
        outside = tuple(Place(name, address, network_of(address, networks)) for name, address in probes.SERVERS)
        return Topology(known, pods, outside)

    def _with(self, drawn: Topology, told: Sequence[Told]) -> Topology:
        return drawn.with_ways(ways.ways(told, [self._lab.current_namespace]))
