"""Entries, explanations and plans as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from egresslab.policy.entries import EXCLUDED, NO_GATEWAY
from egresslab.policy.explain import Explanation
from egresslab.policy.plan import Plan
from egresslab.policy.rows import ListedRow

HEADING = ("Source IP", "Destination CIDR", "Egress IP", "Gateway IP")
SPECIAL = {str(NO_GATEWAY): "Not Found", str(EXCLUDED): "Excluded CIDR"}
PADDING = 3
NARROWEST = 5


def entries_table(rows: Sequence[ListedRow]) -> str:
    """Cilium's four columns, laid out as `cilium-dbg bpf egress list` does: three blanks between, no ruler."""
    return columns(
        [HEADING, *((r.source, r.destination, r.egress_ip, SPECIAL.get(r.gateway_ip, r.gateway_ip)) for r in rows)]
    )


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Every column but the last as wide as its longest cell and the padding."""
    widths = [max(NARROWEST, max(map(len, column)) + PADDING) for column in zip(*lines, strict=True)]
    return "\n".join(
        "".join(cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)) + line[-1] for line in lines
    )


def explanation_text(answer: Explanation) -> str:
    """The decision, then every candidate policy, then every node considered."""
    lines = [f"{answer.pod} ({answer.source or 'no address'}) to {answer.destination}: {answer.verdict.value}"]
    if answer.policy is not None:
        lines.append(f"  decided by {answer.policy}, {answer.prefix}")
    if answer.gateway_node is not None:
        interface = f" on {answer.egress_interface}" if answer.egress_interface else ""
        lines.append(f"  gateway {answer.gateway_node} ({answer.gateway_ip})")
        lines.append(f"  egress IP {answer.egress_ip or 'none'}{interface}")
    if answer.candidates:
        lines += ["", "Policies:"]
        lines += [f"  {'won ' if c.won else 'lost'}  {c.policy}: {c.reason}" for c in answer.candidates]
    if answer.gateways:
        lines += ["", "Gateway nodes considered:"]
        lines += [f"  {'used' if g.chosen else '-   '}  {g.node}: {g.reason}" for g in answer.gateways]
    return "\n".join(lines)


def plan_text(plan: Plan) -> str:
    """What is added, moved and removed, one line each."""
    if not plan:
        return "No changes."
    lines = [f"Plan: {len(plan.added)} to add, {len(plan.moved)} to move, {len(plan.removed)} to remove."]
    lines += [f"  + {_row(row)}" for row in plan.added]
    lines += [f"  ~ {_row(moved.before)}  =>  {_gateway(moved.after)}" for moved in plan.moved]
    lines += [f"  - {_row(row)}" for row in plan.removed]
    if plan.pods:
        lines += ["", "Pods whose source address changes:"]
        lines += [
            f"  {pod.pod} ({pod.address}) to {pod.destination}: {pod.before or 'untranslated'} => "
            f"{pod.after or 'untranslated'}"
            for pod in plan.pods
        ]
    if plan.new_problems:
        lines += ["", "New problems:", *(f"  {p.subject}: {p.reason}: {p.message}" for p in plan.new_problems)]
    if plan.solved_problems:
        lines += ["", "Solved:", *(f"  {p.subject}: {p.reason}: {p.message}" for p in plan.solved_problems)]
    return "\n".join(lines)


def _row(row: ListedRow) -> str:
    return f"{row.source} -> {row.destination} {_gateway(row)}"


def _gateway(row: ListedRow) -> str:
    gateway = SPECIAL.get(row.gateway_ip, row.gateway_ip)
    if row.gateway_node is None:
        return f"{gateway} [{row.policy}]"
    return f"via {row.gateway_node} ({gateway}) as {row.egress_ip} [{row.policy}]"
