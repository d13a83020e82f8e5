"""The datapath of one node: programs and maps, pinned, so that they outlive the process that loaded them.

`Datapath.open` loads the object or adopts what is pinned. Nothing here decides which pod uses which gateway, and
closing or killing the process never changes what the kernel does with packets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from egresslab.datapath.values import NodeConfig


class Datapath:
    """Maps and programs of one node.

    Attributes: `policy` (PolicyMap), `slots` (SlotMap), `endpoints` (EndpointMap), `cluster_cidrs` (CidrSet),
    `nat` (FlowTable), `counters` (Counters), `flows` (FlowEvents); `replaced`: names of what `open` had to put in
    place of an older layout (empty when everything was adopted or new), `adopted`: whether pinned programs were kept.
    """

    @classmethod
    def open(
        cls,
        pin_dir: Path,
        *,
        policy_entries: int = 131_072,
        slot_entries: int = 4_096,
        endpoint_entries: int = 65_536,
        nat_entries: int = 262_144,
        flow_buffer_bytes: int = 1 << 20,
    ) -> Self:
        """Load, or adopt what is pinned below `pin_dir` (a directory on a bpffs).

        A pinned map whose layout or size differs from the object's is replaced by an empty one; programs that are
        already attached go on with the old one until `attach_*` replaces them, so fill the maps first.
        Raises DatapathError with what the kernel said (the verifier's log for a program).
        """
        raise NotImplementedError

    def configure(self, config: NodeConfig) -> None:
        """Tell the programs about their node; takes effect with the next packet."""
        raise NotImplementedError

    def close(self) -> None:
        """Close file descriptors; pins, links and traffic stay."""
        raise NotImplementedError

    @staticmethod
    def remove(pin_dir: Path) -> None:
        """Unpin everything. Detach first: attached programs keep their maps alive until then."""
        raise NotImplementedError
