"""Solutions of chapter 10. Each function is what a learner could have written into the exercise's cell."""

from egresslab.lab import Lab


def who_is_dropped(lab: Lab, *, pods: list[str], destinations: dict[str, str]) -> dict[str, str]:
    """Every pod asks everybody, and then the drops are asked for: the row has all three parts of the answer."""
    for pod in pods:
        for url in destinations.values():
            lab.reach(pod, url)
    dropped = lab.observe(verdict="DROPPED", since="30s").flows
    last = [flow for flow in dropped if flow.pod in pods][-1]
    return {"pod": last.pod, "destination": last.names[0], "reason": last.reason}
