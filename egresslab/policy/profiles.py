"""What a set of policies means for a pod that they all select: one table for each family, disputes settled.

Rules (docs/differences.md): higher priority first, also over longer prefixes of lower priority; among equals the
longest prefix decides in the kernel, and one and the same prefix goes to the policy lowest by name. Within a policy, an
exclusion beats the same destination. Pods with the same policies share the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from egresslab.api.selectors import LabelSelector
from egresslab.policy.groups import GroupState
from egresslab.policy.model import Cidr, EgressPolicy, Network, Selection

if TYPE_CHECKING:
    from egresslab.policy.pods import Identity


@dataclass(slots=True, eq=False)
class PolicyState:
    """One version of a policy inside the engine."""

    policy: EgressPolicy
    group: GroupState
    numbers: list[int]
    """Slot numbers by position, shared with the group."""
    destinations: tuple[Cidr, ...]
    """Those written and those that domains have at present."""
    pooled: tuple[LabelSelector, ...] = ()
    """Node selectors of all entries, where they count for all of them (Cilium)."""
    identities: dict[Identity, None] = field(default_factory=dict)
    """Those that it selects, node parts aside."""

    def applies(self, selections: Sequence[Selection], node_labels: Mapping[str, str]) -> bool:
        """Whether a pod on a node with these labels is selected; a node that is not known has none."""
        if self.pooled:
            return any(nodes.matches(node_labels) for nodes in self.pooled)
        return any(selection.nodes is None or selection.nodes.matches(node_labels) for selection in selections)

    def depends_on_node(self, selections: Sequence[Selection]) -> bool:
        """Whether the node decides for pods that these selections match."""
        return bool(self.pooled) or all(selection.nodes is not None for selection in selections)


class Row(NamedTuple):
    """One line of a profile."""

    network: Network
    written: str
    state: PolicyState
    excluded: bool


class Contest(NamedTuple):
    """One prefix that two policies of equal priority claim, or one policy in both of its lists."""

    winner: Row
    loser: Row


@dataclass(slots=True, eq=False)
class Profile:
    """The table for pods that exactly these policies select, in order of precedence."""

    states: tuple[PolicyState, ...]
    v4: tuple[Row, ...] = ()
    v6: tuple[Row, ...] = ()
    contests: tuple[Contest, ...] = ()
    pods: int = 0

    def rows(self, version: int) -> tuple[Row, ...]:
        """The lines of one family."""
        return self.v4 if version == 4 else self.v6


@dataclass(slots=True)
class _Table:
    rows: dict[Network, Row] = field(default_factory=dict)
    contests: list[Contest] = field(default_factory=list)


def build_profile(states: Sequence[PolicyState]) -> Profile:
    """The profile of policies given in order of precedence."""
    table = _Table()
    shadows: set[Network] = set()
    pending: list[Network] = []
    priority: int | None = None
    for state in states:
        if state.policy.priority != priority:
            shadows.update(pending)
            pending.clear()
            priority = state.policy.priority
        for excluded, cidrs in ((True, state.policy.exclusions), (False, state.destinations)):
            for cidr in cidrs:
                _claim(table, Row(cidr.network, cidr.written, state, excluded), shadows, pending)
    rows = table.rows.values()
    return Profile(
        tuple(states),
        tuple(row for row in rows if row.network.version == 4),
        tuple(row for row in rows if row.network.version == 6),
        tuple(table.contests),
    )


def _claim(table: _Table, row: Row, shadows: set[Network], pending: list[Network]) -> None:
    if shadows and _covered(row.network, shadows):
        return
    holder = table.rows.get(row.network)
    if holder is None:
        table.rows[row.network] = row
        pending.append(row.network)
    elif holder.state is not row.state or holder.excluded is not row.excluded:
        table.contests.append(Contest(holder, row))


def _covered(network: Network, shadows: set[Network]) -> bool:
    """Whether a network of higher priority contains this one."""
    return any(network.supernet(new_prefix=length) in shadows for length in range(network.prefixlen, -1, -1))


NOTHING = Profile(())
