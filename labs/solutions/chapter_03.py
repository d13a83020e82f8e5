"""Solutions of chapter 03. Each function is what a learner could have written into the exercise's cell."""

from egresslab.lab import Lab


def partners_list(lab: Lab, *, namespace: str, node: str, address: str) -> None:
    """The namespace alone selects both teams, and /32 is longer than all others."""
    lab.apply(f"""
apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata:
  name: partner
spec:
  selectors:
  - podSelector:
      matchLabels: {{io.kubernetes.pod.namespace: {namespace}}}
  destinationCIDRs: ["203.0.113.20/32"]
  egressGateway:
    nodeSelector:
      matchLabels: {{kubernetes.io/hostname: {node}}}
    egressIP: {address}
""")
