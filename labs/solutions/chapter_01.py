"""Solutions of chapter 01. Each function is what a learner could have written into the exercise's cell."""

from egresslab.lab import Lab


def admit_everywhere(lab: Lab) -> None:
    """The pods leave with their nodes' addresses, so all of these have to be on the list."""
    lab.firewall.allow([node.address() for node in lab.workers])
