"""Solutions of chapter 09. Each function is what a learner could have written into the exercise's cell."""

from egresslab.lab import Lab


def across(lab: Lab, *, namespace: str, gateway: str, address: str) -> None:
    """An ordinary policy: the datapath returns replies through the tunnel that the request came from."""
    lab.apply(f"""
apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata:
  name: across
spec:
  selectors:
  - podSelector:
      matchLabels: {{app: client, io.kubernetes.pod.namespace: {namespace}}}
  destinationCIDRs: [192.168.60.13/32]
  egressGateway:
    nodeSelector:
      matchLabels: {{kubernetes.io/hostname: {gateway}}}
    egressIP: {address}
""")
