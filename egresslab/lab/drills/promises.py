"""What a drill is held to: how long a gap may be, which connections must live, which addresses may be seen.

Each promise is judged by what was measured alone; the numbers stand here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator

from egresslab.lab.drills.breakages import Mode
from egresslab.lab.drills.records import Protocol
from egresslab.lab.drills.result import Claim, Measured
from egresslab.lab.drills.scene import Addressing, Scene

UNNOTICED_MS = 50.0
"""What nobody notices: planned moves, and the loss of what no packet passes."""
CRASH_MS = 1000.0
RESET_MS = 1000.0
UNNOTICED = (Mode.AGENT_KILL, Mode.API_CUT, Mode.BUSY)


def allowed_gap_ms(scene: Scene, mode: Mode | None) -> float | None:
    """The longest gap that is allowed; None where no move is promised. `mode` None is a planned move."""
    if mode is Mode.BUSY:
        return CRASH_MS
    if mode in UNNOTICED:
        return UNNOTICED_MS
    if mode is None:
        return UNNOTICED_MS if scene.addressing is Addressing.VIRTUAL_IP else CRASH_MS
    if len(scene.candidates) == 1 or scene.addressing is Addressing.CILIUM:
        return None
    return CRASH_MS


def judge(scene: Scene, mode: Mode | None, measured: Measured, patience: float = 1.0) -> tuple[Claim, ...]:
    """Every promise that applies; where nodes are slow, times are longer by their patience, and that is said."""
    return tuple(_claims(scene, mode, measured, patience))


def _claims(scene: Scene, mode: Mode | None, measured: Measured, patience: float) -> Iterator[Claim]:
    allowed = allowed_gap_ms(scene, mode)
    if allowed is not None:
        gap = measured.gap
        unnoticed = allowed == UNNOTICED_MS
        wanted = f"a gap of at most {_stretched(allowed, patience)}"
        observed = f"{measured.gap_ms:.0f} ms"
        allowed *= patience
        if unnoticed and measured.control.gap_ms >= 1:
            # A busy machine holds up all traffic alike; what is promised is that the gateway adds nothing to it.
            allowed += measured.control.gap_ms
            observed += f", {measured.control.gap_ms:.0f} ms without a gateway"
        if gap is not None and not gap.closed:
            observed = f"no answer for the last {measured.gap_ms:.0f} ms"
        held = measured.gap_ms <= allowed and (gap is None or gap.closed)
        yield Claim("traffic goes on", wanted, observed, held)
    if mode is Mode.BUSY and measured.owners is not None:
        moves = max(0, len(measured.owners.reigns) - 1)
        yield Claim("nothing fails over", "no move", f"{moves} moves", moves == 0)
    yield from _connections(scene, mode, measured, patience)
    seen = [str(source.address) for source in measured.sources]
    allowed_sources = {str(source) for source in scene.sources}
    wanted = " or ".join(sorted(allowed_sources))
    yield Claim(
        "no other source address answers",
        wanted,
        ", ".join(seen) or "none",
        set(seen) <= allowed_sources and bool(seen),
    )
    if measured.strangers is not None:
        count = sum(measured.strangers.values())
        observed = f"{count} packets from {', '.join(measured.strangers)}" if count else "no packet"
        yield Claim("no packet leaves with another", "no packet", observed, count == 0)
    if measured.owners is not None:
        once = measured.owners.at_once
        yield Claim("the address has one owner at a time", "at most 1", str(once), once <= 1)


def _connections(scene: Scene, mode: Mode | None, measured: Measured, patience: float) -> Iterator[Claim]:
    connections = measured.connections
    total = connections.kept + connections.lost
    if mode in UNNOTICED or (scene.addressing is Addressing.VIRTUAL_IP and len(scene.candidates) > 1):
        observed = f"{connections.kept} of {total}"
        yield Claim("connections live on", f"all {total}", observed, connections.kept == total)
    elif scene.addressing is Addressing.PRIMARY_IP and mode is not None and len(scene.candidates) > 1:
        slowest = connections.slowest_reset_ms
        observed = f"{connections.reset} of {total} reset" + (f" within {slowest:.0f} ms" if slowest else "")
        held = connections.reset + connections.kept == total and (slowest is None or slowest <= RESET_MS * patience)
        wanted = f"a reset within {_stretched(RESET_MS, patience)}"
        yield Claim("connections that cannot live on are told", wanted, observed, held)


def _stretched(allowed_ms: float, patience: float) -> str:
    return f"{allowed_ms:.0f} ms" + (f" × {patience:g}, for emulated processors" if patience > 1 else "")


def longest(measured: Measured, protocol: Protocol) -> str:
    """A gap as text."""
    loss = measured.losses[protocol]
    if loss.gap is None:
        return "none"
    return f"{loss.gap_ms:.0f} ms" if loss.gap.closed else f"{loss.gap_ms:.0f} ms, to the end"
