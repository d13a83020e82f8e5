"""What a change would do, before it is made: entries and gateways that move, pods that change their source address.

Two states are computed apart and compared as the gateways would hold them, so that slot numbers play no part.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_network

from egresslab.policy.engine import Engine
from egresslab.policy.entries import NO_GATEWAY, Problem, Upsert
from egresslab.policy.inventory import Value
from egresslab.policy.model import Network
from egresslab.policy.rows import ListedRow, listing
from egresslab.policy.settings import DEFAULTS, Settings

Key = tuple[str, Network]
"""Source and destination: the policy may spell a destination in several ways."""


@dataclass(frozen=True, slots=True)
class Moved:
    """One entry that stays and changes."""

    before: ListedRow
    after: ListedRow


@dataclass(frozen=True, slots=True)
class Readdressed:
    """A pod whose packets to a destination would come from another address.

    None stands for untranslated, "dropped" for none that leaves.
    """

    pod: str
    address: str
    destination: str
    before: str | None
    after: str | None


@dataclass(slots=True)
class Plan:
    """The difference between two states."""

    added: list[ListedRow] = field(default_factory=list)
    removed: list[ListedRow] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    pods: list[Readdressed] = field(default_factory=list)
    new_problems: list[Problem] = field(default_factory=list)
    solved_problems: list[Problem] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.moved or self.new_problems or self.solved_problems)


def plan(before: Iterable[Value], after: Iterable[Value], settings: Settings = DEFAULTS) -> Plan:
    """What going from one set of values to the other would change."""
    old, new = _State(before, settings), _State(after, settings)
    result = Plan()
    for key in sorted(old.rows.keys() | new.rows.keys(), key=_listed):
        was, becomes = old.rows.get(key), new.rows.get(key)
        if was is None and becomes is not None:
            result.added.append(becomes)
        elif was is not None and becomes is None:
            result.removed.append(was)
        elif was is not None and becomes is not None and was != becomes:
            result.moved.append(Moved(was, becomes))
        else:
            continue
        address, network = key
        from_address, to_address = old.source(address, network), new.source(address, network)
        if address in old.pods and address in new.pods and from_address != to_address:
            pod = new.pods[address]
            result.pods.append(Readdressed(pod, address, str(network), from_address, to_address))
    result.new_problems = sorted(new.problems - old.problems)
    result.solved_problems = sorted(old.problems - new.problems)
    return result


class _State:
    def __init__(self, values: Iterable[Value], settings: Settings) -> None:
        engine = Engine(settings)
        engine.apply_all(Upsert(value) for value in values)
        self.rows: dict[Key, ListedRow] = {
            (row.source, ip_network(row.destination, strict=False)): row
            for row in listing(engine.entries(), engine.slots(), None)
        }
        self.pods = {
            str(address): str(state.pod)
            for state in engine.pods.by_uid.values()
            for address in engine.pods.owned(state)
        }
        self.problems = set(engine.problems())

    def source(self, address: str, network: Network) -> str | None:
        """Where packets come from, by the entry for the destination or the next wider one."""
        for length in range(network.prefixlen, -1, -1):
            row = self.rows.get((address, network.supernet(new_prefix=length)))
            if row is not None:
                return _source(row)
        return None


def _listed(key: Key) -> tuple[int, str, int, int]:
    address, network = key
    return network.version, address, int(network.network_address), network.prefixlen


def _source(row: ListedRow) -> str | None:
    if row.gateway_node is None:
        return "dropped" if row.gateway_ip == str(NO_GATEWAY) else None
    return "dropped" if row.egress_ip in ("0.0.0.0", "::") else row.egress_ip
