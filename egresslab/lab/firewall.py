"""The firewall outside: its list of who may come in, and its log of who came.

It is ruled by the ConfigMap `outside/firewall` and tells what it does in the log of the pod `outside/firewall`;
everything here could be typed with kubectl. A chapter's list goes away with the chapter.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from egresslab.api.resources import CONFIGMAPS, PODS, Object
from egresslab.errors import LabError
from egresslab.lab import waits
from egresslab.lab.client import Client
from egresslab.lab.display import Table
from egresslab.lab.entries import IPAddress, IPNetwork
from egresslab.lab.ownership import RUN_LABEL

NAMESPACE, NAME = "outside", "firewall"
LOG_COMMAND = f"kubectl -n {NAMESPACE} logs {NAME}"
IN_FORCE = ("firewall on", "firewall off", "rules unchanged")
"""How the log line begins that the firewall writes when it has taken up a change of its ConfigMap."""
APPLY_TIMEOUT_S = 10.0
PACKET = re.compile(
    r"(?P<time>\S+) (?P<verdict>accepted|refused) (?P<protocol>\S+) (?P<source>\S+) -> (?P<destination>\S+)"
)


@dataclass(frozen=True, slots=True)
class Contact:
    """One attempt to come in: when (UTC), from which address to what, and whether it was let in."""

    time: datetime
    admitted: bool
    protocol: str
    source: IPAddress
    destination: str

    @property
    def verdict(self) -> str:
        """The log's word for whether it was let in."""
        return "accepted" if self.admitted else "refused"


class Contacts(tuple[Contact, ...]):
    """Contacts, oldest first, that show as a table."""

    __slots__ = ()

    def table(self) -> Table:
        """The table."""
        rows = tuple((f"{c.time:%H:%M:%S}", c.verdict, c.protocol, str(c.source), c.destination) for c in self)
        return Table("The firewall's log", ("time (UTC)", "verdict", "protocol", "source", "destination"), rows)

    def __str__(self) -> str:
        return str(self.table())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """IPython writes tuples in its own way otherwise, whatever the bundle says."""
        printer.text(str(self))

    def _repr_mimebundle_(self, **options: object) -> dict[str, str]:
        return self.table()._repr_mimebundle_(**options)


class Firewall:
    """The firewall of one lab."""

    def __init__(self, client: Client, run: str) -> None:
        self._client = client
        self._run = run
        self._changed = False
        self._before: Object | None = None

    def allow(self, sources: Iterable[str | IPAddress | IPNetwork], servers: Iterable[str] = ()) -> None:
        """Let in these addresses and networks and nobody else; returns when the rules are in force.

        `servers` (names or addresses) limits the protection to some servers. Raises `LabError` when the firewall does
        not take the list up, with its own words for why.
        """
        listed = [str(source) for source in sources]
        data = {"allow": "\n".join(listed)}
        if protected := "\n".join(servers):
            data["servers"] = protected
        self._put(data)
        print(f"The firewall outside lets in: {', '.join(listed) or 'nobody'}")

    def allowed(self) -> tuple[IPNetwork, ...] | None:
        """Who may come in; None when everybody may."""
        configmap = self._client.find(CONFIGMAPS, NAME, NAMESPACE) or {}
        text = (configmap.get("data") or {}).get("allow")
        if text is None:
            return None
        words = (line.split("#", 1)[0].replace(",", " ") for line in text.splitlines())
        return tuple(ipaddress.ip_network(word) for line in words for word in line.split())

    def log(self, last: int | None = None) -> Contacts:
        """Who came, oldest first; the `last` contacts only, if given."""
        contacts = [contact for line in self._lines() if (contact := parse(line))]
        return Contacts(contacts[-last:] if last else contacts)

    def restore(self) -> bool:
        """Put things back to how they were before the first change; false when nothing was changed."""
        if not self._changed:
            return False
        self._changed = False
        if self._before is None:
            return self._client.delete(CONFIGMAPS, NAME, NAMESPACE)
        self._write(self._before.get("data") or {}, None)
        return True

    def _put(self, data: dict[str, str]) -> None:
        found = self._client.find(CONFIGMAPS, NAME, NAMESPACE)
        if not self._changed:
            self._before, self._changed = found, True
        if ((found or {}).get("data") or {}) == data:
            return
        lines_before = len(self._lines())
        self._write(data, self._run)

        def in_force() -> str | waits.Pending:
            fresh = [line.partition(" ")[2] for line in self._lines()[lines_before:]]
            said = [line for line in fresh if line.startswith(IN_FORCE)]
            return said[-1] if said else waits.Pending(f"{LOG_COMMAND} says nothing new")

        said = waits.wait_for("the firewall to take the list up", in_force, timeout_s=APPLY_TIMEOUT_S)
        if said.startswith("rules unchanged"):
            raise LabError(f"the firewall says: {said}", object=f"ConfigMap {NAMESPACE}/{NAME}")

    def _write(self, data: Mapping[str, str], run: str | None) -> None:
        """The ConfigMap with exactly these data and the run's label (None takes the label away)."""
        metadata = {"name": NAME, "namespace": NAMESPACE, "labels": {RUN_LABEL: run}}
        found = self._client.find(CONFIGMAPS, NAME, NAMESPACE)
        if found is None:
            self._client.apply(
                CONFIGMAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(data)}
            )
        else:
            gone = dict.fromkeys(found.get("data") or {})
            self._client.merge(CONFIGMAPS, NAME, {"metadata": metadata, "data": {**gone, **data}}, NAMESPACE)

    def _lines(self) -> list[str]:
        return self._client.text(f"{PODS.path(NAMESPACE, NAME)}/log").splitlines()


def parse(line: str) -> Contact | None:
    """A contact from a line of the log, or None for a line about something else."""
    found = PACKET.match(line)
    if found is None:
        return None
    address = found["source"]
    if address.startswith("["):
        address = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        address = address.partition(":")[0]
    return Contact(
        datetime.fromisoformat(found["time"]),
        found["verdict"] == "accepted",
        found["protocol"],
        ipaddress.ip_address(address),
        found["destination"],
    )
