"""Asking the outside world, through a pod, which address it sees.

The server outside answers with one line: the source address of the request. An answer is therefore proof that packets
went out and came back, and with which address.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from egresslab.errors import LabError
from egresslab.lab.entries import IPAddress
from egresslab.lab.execs import ExecResult

OUTSIDE_URL = "http://192.168.60.13/"
SERVERS = (("external server", "192.168.60.13"), ("ifconfig.me", "203.0.113.10"))
"""Names and addresses of the servers outside that chapters talk to."""

CURL_REASONS = {
    6: "the name is not known",
    7: "connection refused",
    22: "refused by the server",
    28: "no answer in time",
    35: "TLS failed",
    52: "empty answer",
    56: "connection broken off",
    60: "certificate not trusted",
}
"""Exit codes of curl (curl(1), EXIT CODES) that a lab produces."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request: the address that the other side saw, or the reason why there is none."""

    url: str
    address: IPAddress | None
    reason: str = ""

    def __str__(self) -> str:
        return str(self.address) if self.address is not None else f"no address: {self.reason}"


def command(url: str, timeout_s: float, family: int | None = None) -> list[str]:
    """The curl command; `family` (4 or 6) is needed for names only."""
    flags = [f"-{family}"] if family else []
    return ["curl", "-sS", *flags, "--max-time", f"{timeout_s:g}", url]


def typed(pod: str, namespace: str, url: str) -> str:
    """The request as a person would type it; `pod` may be NAMESPACE/NAME."""
    place, slash, name = pod.rpartition("/")
    namespace, pod = (place, name) if slash else (namespace, pod)
    return f"kubectl -n {namespace} exec {pod} -- curl -s {url}"


def read(url: str, ended: ExecResult) -> Answer:
    """The answer from what curl printed; `LabError` if the command could not even run."""
    if ended.exit_code in (126, 127):
        raise LabError(f"the pod has no curl: {ended.stderr.strip()}", fix="use the image curlimages/curl")
    text = ended.stdout.strip()
    if ended.exit_code:
        reason = CURL_REASONS.get(ended.exit_code, ended.stderr.strip() or "failed")
        return Answer(url, None, f"{reason} (curl exit code {ended.exit_code})")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return Answer(url, None, f"answered with something else: {text[:80]!r}")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return Answer(url, mapped or address)
