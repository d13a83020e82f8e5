"""The final exam: a cluster in order, and faults put into it at random, the same ones for the same seed.

Faults are changes that people make: a letter, a label, an address of yesterday. What is right is told by packets alone.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from egresslab.api.resources import Object
from egresslab.errors import LabError

if TYPE_CHECKING:
    from egresslab.lab.session import Lab

GATEWAYS: Mapping[str, str] = MappingProxyType({"lab-worker2": "172.18.18.12", "lab-worker3": "172.18.18.14"})
GATEWAY_LABEL = "exam-gateway"
APPS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "orders": ("lab-worker2", "interface"),
        "payments": ("lab-worker2", "egressIP"),
        "reports": ("lab-worker3", "interface"),
        "search": ("lab-worker3", "egressIP"),
    }
)
"""Application: its gateway, and the field that its policy takes the address from."""


def policy(app: str, namespace: str) -> Object:
    """The policy of an application, in order."""
    gateway, field = APPS[app]
    source = {"interface": "eth1"} if field == "interface" else {"egressIP": GATEWAYS[gateway]}
    pods = {"matchLabels": {"app": app, "io.kubernetes.pod.namespace": namespace}}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": app},
        "spec": {
            "selectors": [{"podSelector": pods}],
            "destinationCIDRs": ["203.0.113.0/24"],
            "egressGateway": {"nodeSelector": {"matchLabels": {GATEWAY_LABEL: gateway}}, **source},
        },
    }


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong with an application; `fits` says with which, `change` spoils its policy."""

    name: str
    change: Callable[[Object], None]
    fits: str = ""
    """The field that the policy must use; empty for any."""


def _letter(spec: Object) -> None:
    labels = spec["selectors"][0]["podSelector"]["matchLabels"]
    labels["app"] = labels["app"][:-1]


def _namespace(spec: Object) -> None:
    spec["selectors"][0]["podSelector"]["matchLabels"]["io.kubernetes.pod.namespace"] = "production"


def _gateway(spec: Object) -> None:
    labels = spec["egressGateway"]["nodeSelector"]["matchLabels"]
    labels[GATEWAY_LABEL] = labels[GATEWAY_LABEL].replace("lab-", "lab_")


def _moved(spec: Object) -> None:
    own = spec["egressGateway"]["egressIP"]
    spec["egressGateway"]["egressIP"] = next(address for address in GATEWAYS.values() if address != own)


def _interface(spec: Object) -> None:
    spec["egressGateway"]["interface"] = "ens192"


def _exclusion(spec: Object) -> None:
    spec["excludedCIDRs"] = ["203.0.113.8/29"]


def _destination(spec: Object) -> None:
    spec["destinationCIDRs"] = ["203.0.113.0/29"]


FAULTS = (
    Fault("a letter is missing in the selector", _letter),
    Fault("the selector is for another namespace", _namespace),
    Fault("no node has the gateway's label", _gateway),
    Fault("the address is on the other gateway", _moved, "egressIP"),
    Fault("there is no such interface", _interface, "interface"),
    Fault("an exclusion covers the server", _exclusion),
    Fault("the destination ends too early", _destination),
)


def draw(seed: int, faults: int) -> dict[str, Fault]:
    """Which application gets which fault: the same for the same seed. `LabError` for more faults than applications."""
    if not 1 <= faults <= len(APPS):
        raise LabError(f"from 1 to {len(APPS)} faults", object="exam", field="faults", value=faults)
    chance = random.Random(seed)
    chosen: dict[str, Fault] = {}
    for app in chance.sample(sorted(APPS), faults):
        fitting = [
            fault
            for fault in FAULTS
            if fault.fits in ("", APPS[app][1]) and fault.name not in {f.name for f in chosen.values()}
        ]
        chosen[app] = chance.choice(fitting)
    return chosen


def begin(lab: Lab, seed: int, faults: int) -> dict[str, str]:
    """Set the exam: four applications with their policies, some of them spoilt. Returns the address that each should
    have."""
    spoilt = draw(seed, faults)
    for gateway in GATEWAYS:
        lab.label_node(gateway, GATEWAY_LABEL, gateway)
    lab.run_pods(dict.fromkeys(APPS, "lab-worker"))
    for app in APPS:
        body = copy.deepcopy(policy(app, lab.current_namespace))
        if app in spoilt:
            spoilt[app].change(body["spec"])
        lab.apply(body)
    return {app: GATEWAYS[gateway] for app, (gateway, _) in APPS.items()}
