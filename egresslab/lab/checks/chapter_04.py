"""Checks of chapter 04: a second address, assigned by the learner."""

from __future__ import annotations

from egresslab.lab.checks.addresses import source_is_address
from egresslab.lab.checks.model import Check

CHECKS = (
    Check(
        "second-address",
        "the bots leave with the second address",
        source_is_address,
        (
            "Two things are missing: the address on the node, and the policy that asks for it.",
            "The Deployment brings both addresses of EGRESS_IPS; the policy names the one that is used.",
            "lab.apply(assign) and lab.apply(policy(egressIP=second_ip)).",
        ),
        within_s=15.0,
    ),
)
