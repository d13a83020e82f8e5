"""Solutions of chapter 08. Each function is what a learner could have typed into a terminal."""

from egresslab.lab import Lab


def failback(lab: Lab) -> None:
    """With Immediate, the first candidate by name is preferred to the holder as soon as it is fit."""
    patch = '{"spec": {"failback": {"policy": "Immediate"}}}'
    lab.kubectl(f"patch egressgateways.egresslab.dev my-egressgw --type=merge -p '{patch}'")
