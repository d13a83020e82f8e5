"""Solutions of chapter 05. Each function is what a learner could have written into the exercise's cell."""

from egresslab.lab import Lab


def which_program(lab: Lab) -> tuple[str, str]:
    """The first program that sees a pod's packet asks whether the address belongs to this link."""
    return "from_pod", "INVALID_SOURCE"
