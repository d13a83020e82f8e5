"""Solutions of chapter 02. Each function is what a learner could have written into the exercise's cell."""

from egresslab.lab import Lab


def second_policy(lab: Lab, *, namespace: str) -> None:
    """A node is selected by its own name, which it carries as a label, and the address is one that it has."""
    lab.apply(f"""
apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata:
  name: second-policy
spec:
  selectors:
  - podSelector:
      matchLabels: {{app: batch, io.kubernetes.pod.namespace: {namespace}}}
  destinationCIDRs: ["203.0.113.12/32"]
  egressGateway:
    nodeSelector:
      matchLabels: {{kubernetes.io/hostname: lab-worker3}}
    egressIP: 192.168.60.14
""")
