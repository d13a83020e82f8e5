"""The voter of one node: probes gateways, votes for holders of leases, and holds leases in its node's name.

It knows no Kubernetes. What to vote about it reads from a file that the agent writes; who forwards what is decided by
maps in the kernel, so a voter may be killed at any time. It must stay small and never wait: its lateness is an outage.
"""
