"""Checks of chapter 03: a policy for production, and for nobody else."""

from __future__ import annotations

from egresslab.lab.checks.model import Check
from egresslab.lab.checks.selection import selected_and_no_others

CHECKS = (
    Check(
        "partners-list",
        "production leaves with the partner's address, and development does not",
        selected_and_no_others,
        (
            "Write down which pods are meant, and what they have in common that the others lack.",
            "A namespace is a label too: io.kubernetes.pod.namespace. Without it a selector reaches into all of them.",
            "One selector with nothing but that label; 203.0.113.20/32; the node that carries 172.18.18.14.",
        ),
        within_s=8.0,
    ),
)
