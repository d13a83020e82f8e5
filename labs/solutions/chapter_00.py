"""Solutions of chapter 00. Each function is what a learner could have written into the exercise's cell."""

from egresslab.lab import Lab


def pod_of_your_own(lab: Lab) -> None:
    """192.168.60.14 is the address of lab-worker3, so that is where the pod has to run."""
    lab.run_pod("mine", node="lab-worker3")
