/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Ingress of the host side of a pod's link: everything that a pod sends begins here. */
#pragma once

#include "gateway.h"

/*
 * Not selected. A datagram leaves a note, so that to_pod can tell its reply from what outside opened; a connection forgets
 * the pin that an earlier one on the same ports may have left.
 */
static __always_inline int leave_alone(struct __sk_buff *skb, int family, struct subject *subject,
				       struct flow *flow, bool broken, __u32 reason)
{
	if (broken || subject->packet.transport == TRANSPORT_ERROR ||
	    subject->packet.transport == TRANSPORT_ECHO_REPLY)
		return pass(skb, FROM_POD, reason);
	if (flow && flow->kind == FLOW_PASSED)
		flow_touch(flow, 0);
	else if (subject->packet.protocol != IPPROTO_TCP)
		flow_note(family, subject, FLOW_PASSED);
	else if (flow)
		flow_remove(family, &subject->key);
	return pass(skb, FROM_POD, reason);
}

/* Another node is the gateway: pin the flow to its slot, and into the tunnel. */
static __always_inline int steer(struct __sk_buff *skb, int family, const struct config *config,
				 struct subject *subject, struct flow *flow, __be32 endpoint)
{
	struct packet *packet = &subject->packet;

	if (config->overlay_mtu && (family == AF_INET6 || !packet->may_fragment) &&
	    largest_packet(skb, packet) > config->overlay_mtu)
		return answer_pod(skb, family, config, subject, FROM_POD, TOO_BIG, config->overlay_mtu);
	if (packet->transport != TRANSPORT_ERROR) {
		if (flow && flow->kind == FLOW_STEERED && !(packet->tcp_flags && opens_connection(packet))) {
			flow_touch(flow, packet->tcp_flags);
			flow->slot = subject->slot;
		} else {
			flow_note(family, subject, FLOW_STEERED);
		}
	}
	if (config->overlay_mtu && clamp_mss(skb, family, packet, config->overlay_mtu))
		return drop(skb, config, packet, FROM_POD, REWRITE_FAILED, subject->slot);
	count(skb, FROM_POD, STEERED);
	return send_to_node(skb, config, endpoint);
}

static __always_inline int from_pod_family(struct __sk_buff *skb, int family)
{
	const struct config *config = config_get();
	const struct gateway_slot *slot = NULL;
	const struct policy_value *policy;
	const struct endpoint *endpoint;
	struct subject *subject = subject_begin();
	struct gateway gateway;
	struct packet *packet;
	struct flow *flow = NULL;
	int broken;

	if (!config || !subject)
		return DROP;
	packet = &subject->packet;
	broken = parse_network(skb, family, packet);
	if (broken)
		return drop(skb, config, packet, FROM_POD, broken, 0);
	if (never_leaves_link(family, &packet->destination) || in_cluster(&packet->destination))
		return pass(skb, FROM_POD, IN_CLUSTER);

	/* It wants to leave the cluster. Not under somebody else's address, and not before its policies are known. */
	endpoint = endpoint_of(&packet->source);
	if (!endpoint || endpoint->ifindex != skb->ifindex)
		return drop(skb, config, packet, FROM_POD, INVALID_SOURCE, 0);
	if (!(endpoint->flags & ENDPOINT_READY))
		return drop(skb, config, packet, FROM_POD, NOT_READY, 0);

	/* What cannot be translated is nobody's business until a policy selects it. */
	broken = identify(skb, family, subject);
	if (!broken) {
		flow = flow_find(family, &subject->key);
		if (flow && flow_holds(config, flow, packet)) {
			if (flow->kind == FLOW_INBOUND) {
				flow_touch(flow, 0);
				return pass(skb, FROM_POD, INBOUND);
			}
			subject->slot = flow->slot;
			slot = slot_with_gateway(subject->slot, &gateway);
		}
	}
	if (!slot) {
		policy = policy_of(family, packet);
		if (!policy)
			return leave_alone(skb, family, subject, flow, broken, NO_ENTRY);
		if (policy->flags & POLICY_EXCLUDED)
			return leave_alone(skb, family, subject, flow, broken, EXCLUDED);
		slot = slot_with_gateway(policy->slot, &gateway);
		if (!slot && gateway.open)
			return leave_alone(skb, family, subject, flow, broken, FAIL_OPEN);

		/* A policy selects it: from here on it leaves through a gateway or not at all. */
		subject->slot = policy->slot;
		if (broken)
			return drop(skb, config, packet, FROM_POD, broken, subject->slot);
		if (packet->transport == TRANSPORT_ERROR && !flow)
			return drop(skb, config, packet, FROM_POD, NO_FLOW, subject->slot);
		if (packet->transport == TRANSPORT_ECHO_REPLY)
			return drop(skb, config, packet, FROM_POD, UNSUPPORTED_ICMP, subject->slot);
		if (!slot)
			return drop(skb, config, packet, FROM_POD, NO_GATEWAY, subject->slot);
	}
	if (packet->part == FRAGMENT_FIRST)
		fragment_remember(packet);
	if (gateway.local)
		return gateway_out(skb, family, config, subject, FROM_POD, flow, slot);
	if (!config->overlay_ifindex)
		return drop(skb, config, packet, FROM_POD, NO_OVERLAY, subject->slot);
	return steer(skb, family, config, subject, flow, gateway.endpoint);
}

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return from_pod_family(skb, AF_INET);
	case bpf_htons(ETH_P_IPV6):
		return from_pod_family(skb, AF_INET6);
	default:
		return PASS;
	}
}
