"""What surrounds a container's runner: what the node lends to all pods, and what a runner sees of its own pod."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Protocol

from pyroute2 import AsyncIPRoute

from egresslab.api.connection import Api
from egresslab.api.resources import Object
from egresslab.cluster.events import EventRecorder
from egresslab.cluster.node.addresses import AddressPool
from egresslab.cluster.node.config import NodeConfig
from egresslab.cluster.node.images import Images
from egresslab.cluster.node.logs import LogWatcher
from egresslab.cluster.node.rootfs import Rootfs
from egresslab.cluster.node.sandbox import Sandbox
from egresslab.cluster.node.volumes import Volumes


class Role(Enum):
    """What a container is in its pod."""

    INIT = auto()
    SIDECAR = auto()
    MAIN = auto()


@dataclass(frozen=True, slots=True)
class Services:
    """What the node lends to each of its pods."""

    config: NodeConfig
    api: Api
    host: AsyncIPRoute
    images: Images
    rootfs: Rootfs
    events: EventRecorder
    logs: LogWatcher
    addresses: AddressPool


class PodView(Protocol):
    """What a runner sees of its pod."""

    pod: Object
    directory: Path
    volumes: Volumes

    @property
    def sandbox(self) -> Sandbox:
        """The pod's sandbox, which exists."""

    @property
    def address(self) -> str:
        """Where the pod is reached."""

    def changed(self) -> None:
        """A state is not what it was."""
