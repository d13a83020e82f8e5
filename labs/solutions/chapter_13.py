"""Solutions of chapter 13. Each function is what a learner could have typed into a terminal."""

from egresslab.lab import Lab


def near(lab: Lab) -> None:
    """An exclusion is a longer prefix than 0.0.0.0/0: packets to it are left alone."""
    patch = '{"spec": {"excludedCIDRs": ["192.168.60.0/24"]}}'
    lab.kubectl(f"patch ciliumegressgatewaypolicy egress-test --type=merge -p '{patch}'")
