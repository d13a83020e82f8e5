/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Egress of the host side of a pod's link: what the node's own stack brings to a pod. Replies of translated flows do
 * not come this way, so what comes from outside the cluster and has no flow yet was opened from there; the pod's
 * answers must return the way they were asked. Never drops.
 */
#pragma once

#include "flowtable.h"
#include "policy.h"

static __always_inline int to_pod_family(struct __sk_buff *skb, int family)
{
	const struct config *config = config_get();
	struct subject *subject = subject_begin();
	struct packet *packet;
	struct flow *flow;

	if (!config || !subject || parse_network(skb, family, &subject->packet))
		return pass(skb, TO_POD, NOT_OURS);
	packet = &subject->packet;
	if (in_cluster(&packet->source) || never_leaves_link(family, &packet->source))
		return pass(skb, TO_POD, IN_CLUSTER);
	if (parse_transport(skb, family, packet) || packet->part == FRAGMENT_LATER)
		return pass(skb, TO_POD, NOT_OURS);
	if (packet->transport != TRANSPORT_PORTS && packet->transport != TRANSPORT_ECHO)
		return pass(skb, TO_POD, NOT_OURS);

	key_of_receiver(&subject->key, packet, OUTBOUND);
	flow = flow_find(family, &subject->key);
	if (flow && flow->kind == FLOW_INBOUND) {
		flow_touch(flow, 0);
		return pass(skb, TO_POD, INBOUND);
	}
	/* A flow that the pod opened stays the pod's while it lives; else the first packet decides whose it is. */
	if (flow && flow_silence(flow) < config->idle_pin * NANOSECONDS)
		return pass(skb, TO_POD, NOT_OURS);
	if (!opens_connection(packet))
		return pass(skb, TO_POD, NOT_OURS);
	flow_note(family, subject, FLOW_INBOUND);
	return pass(skb, TO_POD, INBOUND);
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return to_pod_family(skb, AF_INET);
	case bpf_htons(ETH_P_IPV6):
		return to_pod_family(skb, AF_INET6);
	default:
		return PASS;
	}
}
