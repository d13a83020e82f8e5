"""What each verdict of the programs means, in a sentence for people who ask why.

Kept beside the numbers so that a new reason without words is noticed (a test holds the two together).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from egresslab.datapath.values import Reason

MEANING: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.NONE: "nothing was decided",
        Reason.IN_CLUSTER: "the destination is inside the cluster, which egress policies do not concern",
        Reason.NO_ENTRY: "no policy selects this pod for this destination",
        Reason.EXCLUDED: "a policy excludes this destination",
        Reason.INBOUND: "it answers a connection that was opened from outside",
        Reason.NOT_OURS: "it has no translation here and is the node's own",
        Reason.STEERED: "a policy selects it, and its gateway is another node",
        Reason.TRANSLATED: "this node is its gateway and gives it the egress address",
        Reason.RETURNED: "a reply on its way to the node of its pod",
        Reason.DELIVERED: "a reply for a pod of this node",
        Reason.ALREADY_TRANSLATED: "it has its egress address already",
        Reason.RESERVED: "the node's own flow, noted so that no pod is given its ports",
        Reason.TOO_BIG: "it is too large for what comes next; its sender is told the size",
        Reason.TIME_EXCEEDED: "its hop limit ended here; its sender is told",
        Reason.FAIL_OPEN: "a policy selects it but has no gateway, and lets it pass (failMode: Open)",
        Reason.PROBED: "a voter's probe, answered",
        Reason.ANNOUNCED: "a question for an address that this node announces, answered",
        Reason.RESET: "its connection is not known to the gateway; its sender is reset",
        Reason.INVALID_SOURCE: "its source address does not belong to where it came from",
        Reason.INVALID_PACKET: "its headers are broken",
        Reason.UNKNOWN_PROTOCOL: "a policy selects it, but its protocol cannot be translated",
        Reason.EXTENSION_HEADER: "it carries an IPv6 extension header that cannot be followed",
        Reason.NO_FREE_PORT: "every source port of the egress addresses towards this destination is in use",
        Reason.UNSUPPORTED_ICMP: "a policy selects it, but ICMP of this kind cannot be translated",
        Reason.NO_ROUTE: "the gateway has no route from the egress address to the destination",
        Reason.FRAGMENT_WITHOUT_FIRST: "a fragment whose first part was never seen",
        Reason.NO_GATEWAY: "a policy selects it, but has no gateway at present",
        Reason.HOP_LIMIT: "its hop limit ended here",
        Reason.NO_EGRESS_IP: "the gateway has no egress address of its family",
        Reason.NOT_READY: "the pod's policies are not known yet, so nothing of it may leave",
        Reason.NOT_GATEWAY: "it came through the tunnel, but this node is not its gateway",
        Reason.UNTRANSLATED: "it was about to leave with a pod's address although a policy selects it",
        Reason.NO_FLOW: "it belongs to no flow that is known here",
        Reason.UNKNOWN_ENDPOINT: "a reply for a pod that is not here",
        Reason.NO_OVERLAY: "this node has no tunnel device",
        Reason.REWRITE_FAILED: "the kernel refused to change it",
        Reason.NOT_FOR_OVERLAY: "it came through the tunnel, but nothing like it belongs there",
        Reason.NOT_HOLDER: "this node's lease on the egress address has ended, so it may not use it",
    }
)
