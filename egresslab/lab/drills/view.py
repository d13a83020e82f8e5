"""How a drill's result looks: a table of promises and one of protocols, and a line of time, as text, HTML and SVG.

The picture is drawn from values without any dependency, takes the page's own colours, and says in words what it shows.
"""

from __future__ import annotations

from typing import Any

from egresslab.lab.display import HTML, TEXT, Table, escape
from egresslab.lab.drills import promises, timeline
from egresslab.lab.drills.families import Family
from egresslab.lab.drills.records import Protocol
from egresslab.lab.drills.result import DrillResult

MOST_OWNERS = 6
MIME = "application/vnd.egresslab.drill+json"
NAMES = {
    Protocol.UDP: "UDP",
    Protocol.ICMP: "ping",
    Protocol.TCP: "TCP, open connections",
    Protocol.NEW: "TCP, new connections",
}


def promise_table(result: DrillResult) -> Table:
    """What was promised and what was seen."""
    rows = tuple(("✔" if c.held else "✘", c.title, c.wanted, c.observed) for c in result.claims)
    return Table("Promises", ("", "promise", "wanted", "observed"), rows)


def traffic_table(result: DrillResult) -> Table:
    """Each kind of traffic from the event on."""
    rows = tuple(
        (NAMES[protocol], str(loss.sent), str(loss.lost), promises.longest(result.measured, protocol))
        for protocol, loss in result.measured.losses.items()
    )
    return Table("Traffic from the event on", ("traffic", "sent", "lost", "longest gap"), rows)


def summary_table(result: DrillResult) -> Table:
    """Connections and addresses."""
    connections = result.measured.connections
    lost = [f"{getattr(connections, how)} {how}" for how in ("reset", "silent", "moved") if getattr(connections, how)]
    rows = [
        ("active gateway", f"{result.before or 'none'} → {result.after or 'none'}"),
        ("connections kept", f"{connections.kept} of {connections.kept + connections.lost}" + _in_brackets(lost)),
        *((f"source {seen.address}", f"{seen.answers} answers") for seen in result.measured.sources),
    ]
    if result.measured.owners is not None:
        rows.append(("owners of the address", _succession([r.hardware for r in result.measured.owners.reigns])))
    if result.measured.control.sent:
        rows.append(("gap without a gateway", f"{result.measured.control.gap_ms:.0f} ms, for comparison"))
    return Table("What was seen", ("", "observed"), tuple(rows))


def title(result: DrillResult) -> str:
    """One line."""
    verdict = "every promise held" if result.held else "a promise was broken"
    slow = f", stretched {result.patience:g} times for emulated processors" if result.patience > 1 else ""
    family = f", {result.family.label}" if result.family is not Family.IPV4 else ""
    kind = f"{result.mode}, {result.addressing}{family}{slow}"
    return f"drill {result.drill} ({kind}): gap {result.measured.gap_ms:.0f} ms, {verdict}"


def text(result: DrillResult) -> str:
    """Everything as text."""
    tables = (promise_table(result), traffic_table(result), summary_table(result))
    return "\n\n".join([title(result), timeline.text(result), *map(str, tables)])


def html(result: DrillResult) -> str:
    """Everything as HTML."""
    tables = (promise_table(result), traffic_table(result), summary_table(result))
    body = "".join(table.to_html() for table in tables)
    return f"<figure style='margin:0.5em 0'><b>{escape(title(result))}</b>{timeline.svg(result)}{body}</figure>"


def bundle(result: DrillResult) -> dict[str, Any]:
    """MIME bundle for a notebook."""
    return {MIME: result.to_json(), TEXT: text(result), HTML: html(result)}


def _succession(owners: list[str]) -> str:
    """One after the other; two that fight for an address would go on for pages."""
    more = len(owners) - MOST_OWNERS
    return " → ".join([*owners[:MOST_OWNERS], *([f"… {more} more"] if more > 0 else [])]) or "none"


def _in_brackets(parts: list[str]) -> str:
    return f" ({', '.join(parts)})" if parts else ""
