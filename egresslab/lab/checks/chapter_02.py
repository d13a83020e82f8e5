"""Checks of chapter 02: a policy of the learner's own."""

from __future__ import annotations

from egresslab.lab.checks import addresses
from egresslab.lab.checks.model import Check

CHECKS = (
    Check(
        "second-policy",
        "batch leaves with the address that was asked for",
        addresses.source_is_address,
        (
            "Start from the chapter's policy: other pods, another destination, another gateway.",
            "A node can be selected by its name: the label kubernetes.io/hostname carries it.",
            "In nodeSelector, matchLabels: kubernetes.io/hostname: lab-worker3; and egressIP: 192.168.60.14, which is "
            "an address of it. No interface beside it.",
        ),
    ),
)
