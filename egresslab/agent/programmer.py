"""Decisions into the kernel's maps: an engine's entries and slots as this node holds them, writing only differences.

An agent that starts finds maps that an earlier one filled and that packets are using. It keeps every kernel slot whose
content is wanted as it is, gives new choices numbers that nothing uses yet, and only then moves entries: at no moment
does an entry point at a slot that means something else than it did or should.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Set

from egresslab.datapath.datapath import Datapath
from egresslab.datapath.leases import lease_number
from egresslab.datapath.values import DROP_SLOT, GatewaySlot, IPAddress, IPNetwork, PolicyEntry
from egresslab.errors import DatapathError
from egresslab.policy.engine import Engine
from egresslab.policy.entries import NO_GATEWAY, NO_SOURCE_V4, NO_SOURCE_V6, Changes, Entry, Slot, localise
from egresslab.policy.model import GroupKey
from egresslab.policy.sources import Resolved
from egresslab.policy.standby import own_source

logger = logging.getLogger(__name__)

SLOTS = 4_096
"""How many gateway choices one node's kernel holds."""
ENTRIES = 131_072
"""How many policy entries of each family it holds."""

RowKey = tuple[IPAddress, IPNetwork]


class Programmer:
    """Keeps the kernel's `egress_policy` and `gateway_slots` equal to an engine's, as seen from node `node`.

    `interface_index` gives the index of an interface by name or alternative name, None while there is none.
    """

    def __init__(self, datapath: Datapath, node: str, interface_index: Callable[[str], int | None]) -> None:
        self._datapath = datapath
        self._node = node
        self._interface_index = interface_index
        self._numbers: dict[int, int] = {}
        """Engine's slot number to the kernel's."""
        self._engine = Engine()
        """Whose slots these are, from `adopt` on."""
        self._taken: set[int] = {DROP_SLOT}
        self._meaning: dict[int, Slot] = {}
        """Kernel's slot number to what it stands for."""
        self._refused: dict[RowKey, PolicyEntry] = {}
        """Rows that did not fit. Whoever lets pods send asks `complete` first: a missing row must never mean a leak."""

    @property
    def incomplete(self) -> Set[IPAddress]:
        """Addresses of pods of which the kernel does not hold every row."""
        return {source for source, _ in self._refused}

    def complete(self, source: IPAddress) -> bool:
        """Whether the kernel holds every row of a pod's address."""
        return source not in self.incomplete

    def gateway_of(self, number: int) -> str | None:
        """The gateway node that a kernel slot stands for, None without one."""
        slot = self._meaning.get(number)
        return slot.gateway if slot is not None else None

    def adopt(self, engine: Engine) -> None:
        """Make the kernel equal to the engine's whole state; to be called once, before `apply`."""
        self._engine = engine
        held = dict(self._datapath.slots.items())
        self._taken = {DROP_SLOT, *held}
        spare: dict[GatewaySlot, list[int]] = {}
        for number, content in held.items():
            spare.setdefault(content, []).append(number)
        fresh: list[Slot] = []
        for slot in engine.slots().values():
            same = spare.get(self._local(slot))
            if same:
                self._numbers[slot.number] = same.pop()
                self._meaning[self._numbers[slot.number]] = slot
            else:
                fresh.append(slot)
        for slot in fresh:
            self._write(slot)
        present = {(row.source, row.destination): row for row in self._datapath.policy.items()}
        wanted = {(entry.source, entry.destination): self._row(entry) for entry in engine.entries()}
        changed = {key: row for key, row in wanted.items() if present.get(key) != row}
        stale = present.keys() - wanted.keys()
        self._update(changed, stale)
        kept = set(self._numbers.values())
        for number in held.keys() - kept:
            self._free(number)
        logger.info(
            "adopted %d slots, %d of them new; entries: %d written, %d removed",
            len(kept),
            len(fresh),
            len(changed),
            len(stale),
        )

    def apply(self, changes: Changes) -> None:
        """Write what changed: new and moved slots, then entries, then slots that nothing uses any more."""
        for change in changes.slots:
            if change.after is not None:
                self._write(change.after)
        if changes.entries:
            rows = [self._row(change.after) for change in changes.entries if change.after is not None]
            gone = {(c.before.source, c.before.destination) for c in changes.entries if c.before is not None}
            self._update({(row.source, row.destination): row for row in rows}, gone)
        for change in changes.slots:
            if change.after is None and change.before is not None:
                self._free(self._numbers.pop(change.before.number))

    def slots_of(self, key: GroupKey) -> frozenset[int]:
        """The kernel's numbers of the slots that follow a group's lease."""
        return frozenset(number for number, slot in self._meaning.items() if slot.lease == key)

    def rewrite_slots(self) -> None:
        """Write every slot whose content differs, after something changed that only this node's view of it shows: an
        interface's index, or what this node would leave with as the holder of a lease."""
        for slot in self._engine.slots().values():
            if self._datapath.slots.get(self._number(slot.number)) != self._local(slot):
                self._write(slot)

    def _update(self, rows: dict[RowKey, PolicyEntry], gone: Set[RowKey]) -> None:
        """Write rows, and those refused earlier, then take out what is gone; what does not fit is remembered."""
        gone = gone - rows.keys()
        waiting = {key: row for key, row in self._refused.items() if key not in gone} | rows
        policy = self._datapath.policy
        try:
            policy.update(waiting.values(), gone)
            self._refused = {}
        except DatapathError as error:
            policy.update((), gone)
            self._refused = {key: row for key, row in waiting.items() if not self._fits(row)}
            if self._refused:
                logger.error(
                    "%d entries do not fit; their pods may send nothing outside: %s", len(self._refused), error
                )

    def _fits(self, row: PolicyEntry) -> bool:
        try:
            self._datapath.policy.update([row])
        except DatapathError:
            return False
        return True

    def _write(self, slot: Slot) -> None:
        number, content = self._number(slot.number), self._local(slot)
        # Another holder of a lease changes what a slot means and nothing in it.
        if slot.lease is None or self._datapath.slots.get(number) != content:
            self._datapath.slots.set(number, content)
        self._meaning[number] = slot

    def _free(self, number: int) -> None:
        self._datapath.slots.delete(number)
        self._taken.discard(number)
        self._meaning.pop(number, None)

    def _number(self, number: int) -> int:
        """The kernel's number for the engine's, the lowest free one if it has none yet."""
        if number not in self._numbers:
            free = next((candidate for candidate in range(1, SLOTS) if candidate not in self._taken), None)
            if free is None:
                raise DatapathError(
                    "no free gateway slot",
                    object="gateway_slots",
                    value=SLOTS,
                    fix="use fewer distinct combinations of gateway node, interface and egress IP",
                )
            self._taken.add(free)
            self._numbers[number] = free
        return self._numbers[number]

    def _local(self, slot: Slot) -> GatewaySlot:
        if slot.lease is not None:
            return self._leased(slot.lease, slot.fail_open)
        local = localise(slot, self._node)
        return GatewaySlot(
            endpoint=None if local.endpoint == NO_GATEWAY else local.endpoint,
            source_v4=None if local.source_v4 == NO_SOURCE_V4 else local.source_v4,
            source_v6=None if local.source_v6 == NO_SOURCE_V6 else local.source_v6,
            ifindex=self._index(local.interface),
            local=local.gateway,
            open=local.passes,
            spill_v4=local.spill_v4,
            spill_v6=local.spill_v6,
        )

    def _leased(self, key: GroupKey, fail_open: bool) -> GatewaySlot:
        """A slot that follows the holder of a lease: nothing in it says who that is, so nothing in it changes when
        another takes over."""
        own = own_source(self._engine, key, self._node) or Resolved()
        state = self._engine.registry.groups.get(key)
        group = state.group if state is not None else None
        return GatewaySlot(
            source_v4=own.source_v4,
            source_v6=own.source_v6,
            ifindex=self._index(own.interface),
            open=fail_open,
            lease=lease_number(key.dialect, key.name),
            # Another gateway means another source address: who was connected must hear of it.
            reset=group is not None and not group.virtual_addresses,
            spill_v4=own.spill_v4,
            spill_v6=own.spill_v6,
        )

    def _index(self, interface: str | None) -> int:
        return (self._interface_index(interface) or 0) if interface else 0

    def _row(self, entry: Entry) -> PolicyEntry:
        return PolicyEntry(entry.source, entry.destination, self._number(entry.slot), entry.excluded)
