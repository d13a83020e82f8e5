"""Solutions of chapter 11. Each function is what a learner could have typed into a terminal."""

from egresslab.lab import Lab

PATCH = "patch ciliumegressgatewaypolicy {} --type=merge -p '{}'"


def first_patient(lab: Lab, *, namespace: str) -> None:
    """The selector had a letter too few: it selects by the pod's own label now."""
    labels = f'{{"app": "billing", "io.kubernetes.pod.namespace": "{namespace}"}}'
    lab.kubectl(
        PATCH.format("billing", f'{{"spec": {{"selectors": [{{"podSelector": {{"matchLabels": {labels}}}}}]}}}}')
    )


def second_patient(lab: Lab) -> None:
    """The node gets the label that the policy looks for."""
    lab.label_node("lab-worker2", "egress-gateway", "yes")


def third_patient(lab: Lab) -> None:
    """The policy asks for an address that its gateway carries."""
    lab.kubectl(PATCH.format("stock", '{"spec": {"egressGateway": {"egressIP": "172.18.18.14"}}}'))


def fourth_patient(lab: Lab) -> None:
    """The policy names an interface that its gateway has."""
    lab.kubectl(PATCH.format("reports", '{"spec": {"egressGateway": {"interface": "eth1"}}}'))


def fifth_patient(lab: Lab) -> None:
    """The NAT behind the gateway is taken away; the policy was right all along."""
    lab.kubectl("-n outside delete configmap firewall")
