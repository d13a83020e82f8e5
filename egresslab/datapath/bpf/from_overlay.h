/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Ingress of the tunnel device. It carries two things only: steered packets towards a gateway, and replies towards a
 * pod's node. Nothing else has any business here, and nothing that a policy selects may reach the stack.
 */
#pragma once

#include "gateway.h"

/*
 * Whether packets of a slot are this node's to translate. Somebody else may be the holder for a moment already, in a
 * planned move: what was steered here before its sender heard of it goes on, as long as the lease lasts.
 */
static __always_inline bool translates_here(const struct gateway_slot *slot, const struct gateway *gateway)
{
	return gateway->local || (slot->lease && lease_is_held(slot->lease));
}

static __always_inline int from_overlay_family(struct __sk_buff *skb, int family)
{
	const struct config *config = config_get();
	const struct gateway_slot *slot = NULL;
	const struct policy_value *policy;
	const struct endpoint *endpoint;
	struct bpf_tunnel_key tunnel = {};
	struct subject *subject = subject_begin();
	struct gateway gateway;
	struct packet *packet;
	struct flow *flow = NULL;
	int broken;

	if (!config || !subject)
		return DROP;
	packet = &subject->packet;
	if (!bpf_skb_get_tunnel_key(skb, &tunnel, TUNNEL_KEY_SIZE, 0)) {
		if (tunnel.tunnel_id != config->vni)
			return pass(skb, FROM_OVERLAY, NOT_OURS);
		subject->node = bpf_htonl(tunnel.remote_ipv4);
	}
	broken = parse_network(skb, family, packet);
	if (broken)
		return drop(skb, config, packet, FROM_OVERLAY, broken, 0);

	endpoint = endpoint_of(&packet->destination);
	if (endpoint && endpoint->ifindex) {
		/* The frame was addressed to a device on the gateway. */
		bpf_skb_change_type(skb, PACKET_HOST);
		count(skb, FROM_OVERLAY, DELIVERED);
		return send_to_pod(skb, endpoint);
	}
	broken = identify(skb, family, subject);
	if (!broken)
		flow = flow_find(family, &subject->key);
	if (flow && flow->kind == FLOW_TRANSLATED && packet->transport != TRANSPORT_ERROR && flow->node &&
	    (!subject->node || subject->node == flow->node)) {
		/* What the flow's first packet was asked still holds: outside, and from where the tunnel began. */
		subject->node = flow->node;
	} else {
		if (in_cluster(&packet->destination) || never_leaves_link(family, &packet->destination))
			return drop(skb, config, packet, FROM_OVERLAY, NOT_FOR_OVERLAY, 0);

		/* Steered to this node, which must be the gateway. The pod must live where the tunnel began. */
		endpoint = endpoint_of(&packet->source);
		if (endpoint) {
			if (endpoint->ifindex || (subject->node && endpoint->node && subject->node != endpoint->node))
				return drop(skb, config, packet, FROM_OVERLAY, INVALID_SOURCE, 0);
			if (!subject->node)
				subject->node = endpoint->node;
		}
		if (!subject->node)
			return drop(skb, config, packet, FROM_OVERLAY, INVALID_SOURCE, 0);
	}
	if (flow && flow->kind == FLOW_TRANSLATED && flow_holds(config, flow, packet)) {
		/* An established flow keeps its slot, as long as that still translates to the same address here. */
		subject->slot = flow->slot;
		slot = slot_with_gateway(subject->slot, &gateway);
		if (slot && (!translates_here(slot, &gateway) ||
			     !slot_source_of_flow(family, slot, &flow->address, &subject->to) ||
			     !address_equal(&subject->to, &flow->address)))
			slot = NULL;
	}
	if (!slot) {
		policy = policy_of(family, packet);
		if (!policy)
			return drop(skb, config, packet, FROM_OVERLAY, NOT_GATEWAY, 0);
		subject->slot = policy->slot;
		if (policy->flags & POLICY_EXCLUDED) {
			/* The other node has yet to learn it; meanwhile this one forwards as any other packet. */
			bpf_skb_change_type(skb, PACKET_HOST);
			return pass(skb, FROM_OVERLAY, EXCLUDED);
		}
		if (broken)
			return drop(skb, config, packet, FROM_OVERLAY, broken, subject->slot);
		slot = slot_with_gateway(subject->slot, &gateway);
		if (!slot)
			return drop(skb, config, packet, FROM_OVERLAY, NO_GATEWAY, subject->slot);
		if (!translates_here(slot, &gateway))
			return drop(skb, config, packet, FROM_OVERLAY, NOT_GATEWAY, subject->slot);
	}
	if (packet->part == FRAGMENT_FIRST)
		fragment_remember(packet);
	return gateway_out(skb, family, config, subject, FROM_OVERLAY, flow, slot);
}

SEC("tc")
int from_overlay(struct __sk_buff *skb)
{
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return from_overlay_family(skb, AF_INET);
	case bpf_htons(ETH_P_IPV6):
		return from_overlay_family(skb, AF_INET6);
	default:
		return DROP;
	}
}
