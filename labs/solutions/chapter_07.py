"""Solutions of chapter 07. Each function is what a learner could have written into the exercise's cell."""

from egresslab.lab import Lab


def own_gateway(lab: Lab, *, namespace: str) -> None:
    """The group chooses one active node by itself; the policy names the group and never a node."""
    lab.apply(f"""
apiVersion: egresslab.dev/v1alpha1
kind: EgressGateway
metadata:
  name: mine
spec:
  nodeSelector:
    matchLabels: {{dedicated/egress: ""}}
  source:
    virtualIPs: [172.18.18.243]
    announceInterfaces: [eth1]
---
apiVersion: egresslab.dev/v1alpha1
kind: EgressGatewayPolicy
metadata:
  name: mine
spec:
  egressGatewayName: mine
  destinationCIDRs: [203.0.113.0/24]
  selectors:
  - podSelector: {{matchLabels: {{app: mine, io.kubernetes.pod.namespace: {namespace}}}}}
""")
